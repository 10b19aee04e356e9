//! What was imported, how old it is, and the way back to it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Error;
use super::import::{Gateway, Note};
use crate::store::{Generation, Owner, Store};

/// Days after which a stream's newest bundle is old: somebody may have forgotten this gateway.
const OLD: i64 = 90;

/// The newest bundle of a stream that was imported, rolled back or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Newest {
    /// The stream.
    pub stream: String,
    /// Its number.
    pub seq: u64,
    /// When the depot made it.
    pub created: Timestamp,
    /// Days since then, by this machine's clock; 0 where that is behind.
    pub days: i64,
    /// Whether that is 90 days or more.
    pub old: bool,
}

impl Newest {
    /// Of a bundle.
    pub fn new(stream: &str, seq: u64, created: Timestamp, now: Timestamp) -> Self {
        let days = ((now.as_second() - created.as_second()) / 86_400).max(0);
        Self { stream: stream.into(), seq, created, days, old: days >= OLD }
    }

    /// What a person is told of it, where it is old.
    pub fn warning(&self) -> Option<String> {
        let hint = "hint: ask whoever makes them for a newer one, and look at the clocks of both";
        self.old.then(|| format!("the bundle was made {} days ago {hint}", self.days))
    }
}

/// The newest bundle of each stream.
///
/// # Errors
/// Where the store cannot be read.
pub fn newest(store: &Store, now: Timestamp) -> Result<Vec<Newest>, Error> {
    let mut found = Vec::new();
    for stream in store.streams()? {
        let generations = store.generations(&Owner::Bundle(stream.clone()))?;
        let notes = generations.iter().filter_map(|generation| Note::read(&generation.note));
        let newest = notes.max_by_key(|note| note.seq);
        found.extend(newest.map(|note| Newest::new(&stream, note.seq, note.created, now)));
    }
    Ok(found)
}

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
    /// Puts an earlier generation of a stream in force: `to`, or the one that was in force before the one that is now.
    /// Only refs go back; the highest sequence number stays, so an old bundle is not accepted again.
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
        let current = generations.iter().find(|g| g.current);
        let replaced = current.and_then(|g| g.replaced);
        let wanted = match to.or(replaced) {
            // Not the one below it by number: whoever went back before has refused that one.
            Some(number) => generations.iter().find(|g| g.number == number),
            None => generations.iter().find(|g| current.is_some_and(|current| g.number < current.number)),
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
