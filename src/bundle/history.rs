//! What was imported, and the way back to it.

use serde::Serialize;

use super::Error;
use super::import::{Gateway, Note};
use crate::store::{Generation, Owner, Store};

/// One generation of a stream.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The stream.
    pub stream: String,
    /// The generation, which `rollback --to` takes.
    pub generation: u64,
    /// Whether it is in force.
    pub current: bool,
    /// When it was imported, in seconds since 1970.
    pub imported: i64,
    /// What was imported; absent where it cannot be read.
    #[serde(flatten)]
    pub note: Option<Note>,
}

/// The generations of all streams that are kept, the newest of each first.
///
/// # Errors
/// Where the store cannot be read.
pub fn history(store: &Store, stream: Option<&str>) -> Result<Vec<Entry>, Error> {
    let streams = store.streams()?;
    let mut entries = Vec::new();
    for name in streams.into_iter().filter(|name| stream.is_none_or(|wanted| wanted == name)) {
        for generation in store.generations(&Owner::Bundle(name.clone()))? {
            entries.push(entry(&name, &generation));
        }
    }
    Ok(entries)
}

fn entry(stream: &str, generation: &Generation) -> Entry {
    Entry {
        stream: stream.into(),
        generation: generation.number,
        current: generation.current,
        imported: generation.made,
        note: Note::read(&generation.note),
    }
}

impl Gateway {
    /// Puts an earlier generation of a stream in force: `to`, or the one before the one in force. Only refs go back;
    /// the highest sequence number stays, so an old bundle is not accepted again.
    ///
    /// # Errors
    /// [`Error::NoStream`], [`Error::NoGeneration`], [`Error::NoEarlier`], [`Error::Usage`] where it is not clear which
    /// stream is meant.
    pub fn roll_back(&self, stream: Option<&str>, to: Option<u64>) -> Result<Entry, Error> {
        let stream = match stream {
            Some(stream) => stream.to_owned(),
            None => {
                let streams = self.store.streams()?;
                let [one] = &streams[..] else {
                    let why = match streams.len() {
                        0 => "no bundle was imported yet hint: `edge bundle import`".to_owned(),
                        count => format!("there are {count} streams hint: name one: {}", streams.join(", ")),
                    };
                    return Err(Error::Usage(why));
                };
                one.clone()
            }
        };
        let owner = Owner::Bundle(stream.clone());
        let generations = self.store.generations(&owner)?;
        if generations.is_empty() {
            return Err(Error::NoStream(stream));
        }
        let current = generations.iter().find(|g| g.current).map_or(0, |g| g.number);
        let wanted = match to {
            Some(number) => generations.iter().find(|g| g.number == number),
            None => generations.iter().find(|g| g.number < current),
        };
        let wanted = wanted.ok_or_else(|| match to {
            Some(number) => {
                let there: Vec<String> = generations.iter().map(|g| g.number.to_string()).collect();
                Error::NoGeneration { stream: stream.clone(), number, there: there.join(", ") }
            }
            None => Error::NoEarlier(stream.clone()),
        })?;
        self.store.roll_back(&owner, wanted.number)?;
        tracing::info!(stream, generation = wanted.number, "rolled a bundle back");
        Ok(Entry { current: true, ..entry(&stream, wanted) })
    }
}
