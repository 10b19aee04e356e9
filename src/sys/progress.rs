//! How far long work has come: rooms say it, the command line shows it, whatever lies between them.
//!
//! Saying costs little and never waits; nobody need listen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// What an item is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Things: blobs, tags, pods.
    Count,
}

/// How an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Under way.
    Running,
    /// Over, and good.
    Done,
    /// Over without success.
    Failed,
}

/// One thing that was said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "said")]
pub enum Event {
    /// An item came further.
    Item {
        /// Tells items of the same name apart.
        id: u64,
        /// What it is, for people.
        name: String,
        /// So much of it.
        done: u64,
        /// Of so much, if that is known.
        total: Option<u64>,
        /// Of what.
        unit: Unit,
        /// How it is.
        stage: Stage,
    },
    /// A line for people that belongs to no item.
    Note {
        /// Without line end.
        line: String,
    },
}

/// Where things are said. Clones say it to the same listener.
#[derive(Clone, Debug)]
pub struct Progress {
    sender: Option<mpsc::UnboundedSender<Event>>,
    next: Arc<AtomicU64>,
}

/// The least time between two reports of an item, in milliseconds: keeps the listener's queue short.
const PACE: u128 = 100;

impl Progress {
    /// Said to nobody.
    pub fn silent() -> Self {
        Self { sender: None, next: Arc::default() }
    }

    /// Said to the receiver.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender: Some(sender), next: Arc::default() }, receiver)
    }

    /// Whether anybody still waits for the work. What is said to nobody was never meant to be heard, and is wanted.
    pub fn is_heard(&self) -> bool {
        self.sender.as_ref().is_none_or(|sender| !sender.is_closed())
    }

    /// A line for people.
    pub fn note(&self, line: impl Into<String>) {
        self.say(Event::Note { line: line.into() });
    }

    /// Begins an item of `total` units, if that is known.
    pub fn item(&self, name: impl Into<String>, total: Option<u64>, unit: Unit) -> Item {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let item = Item {
            progress: self.clone(),
            id,
            name: name.into(),
            total,
            unit,
            done: 0,
            said: Instant::now(),
            over: false,
        };
        item.say(Stage::Running);
        item
    }

    fn say(&self, event: Event) {
        if let Some(sender) = &self.sender {
            // Nobody listens any more: the work goes on.
            let _ = sender.send(event);
        }
    }
}

/// One item of the work. Dropped before [`Item::done`], it failed.
#[derive(Debug)]
pub struct Item {
    progress: Progress,
    id: u64,
    name: String,
    total: Option<u64>,
    unit: Unit,
    done: u64,
    said: Instant,
    over: bool,
}

impl Item {
    /// So much more is done.
    pub fn add(&mut self, more: u64) {
        self.done += more;
        if self.said.elapsed().as_millis() >= PACE {
            self.said = Instant::now();
            self.say(Stage::Running);
        }
    }

    /// The total became known.
    pub fn of(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// It begins again: what was done is not.
    pub fn anew(&mut self) {
        self.done = 0;
    }

    /// All is done.
    pub fn done(mut self) {
        self.finish();
    }

    /// All is done, of an item that something else still holds.
    pub fn finish(&mut self) {
        self.over = true;
        self.say(Stage::Done);
    }

    fn say(&self, stage: Stage) {
        self.progress.say(Event::Item {
            id: self.id,
            name: self.name.clone(),
            done: self.done,
            total: self.total,
            unit: self.unit,
            stage,
        });
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        if !self.over {
            self.say(Stage::Failed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_says_its_beginning_and_its_end_however_it_ends() {
        let (progress, mut heard) = Progress::channel();
        let mut good = progress.item("a", Some(2), Unit::Bytes);
        good.add(1);
        good.add(1);
        good.done();
        drop(progress.item("b", None, Unit::Count));
        let mut stages = Vec::new();
        while let Ok(Event::Item { id, done, stage, .. }) = heard.try_recv() {
            stages.push((id, done, stage));
        }
        assert_eq!(
            stages,
            [(0, 0, Stage::Running), (0, 2, Stage::Done), (1, 0, Stage::Running), (1, 0, Stage::Failed)]
        );
    }
}
