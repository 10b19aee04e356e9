//! What each part of the daemon reports about itself, in one form: `edge status`, the snap's health and
//! the checks are views of the same board.
//!
//! A part has one line of trouble at a time; it belongs to whoever holds its [`Part`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::sys::clock;

/// How a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not configured, or turned off.
    Off,
    /// On its way up.
    Starting,
    /// Does what it is for.
    Good,
    /// Does not, or not all of it; the message says what.
    Trouble,
}

/// A part, as it reported last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Its name, such as `registry`.
    pub part: String,
    /// How it is.
    pub state: State,
    /// In trouble what is wrong, with the remedy; else what there is to say, which may be nothing.
    pub message: String,
    /// Since when it is in this state; RFC 3339, UTC.
    pub since: Timestamp,
}

/// All parts. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    parts: Arc<Mutex<BTreeMap<&'static str, Health>>>,
}

impl Board {
    /// A part that starts, by its name.
    pub fn part(&self, name: &'static str) -> Part {
        let part = Part { name, board: self.clone() };
        part.set(State::Starting, String::new());
        part
    }

    /// What all parts say, by name.
    pub fn all(&self) -> Vec<Health> {
        self.locked().values().cloned().collect()
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<&'static str, Health>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One part's place on the board.
#[derive(Clone, Debug)]
pub struct Part {
    name: &'static str,
    board: Board,
}

impl Part {
    /// It does what it is for.
    pub fn good(&self) {
        self.set(State::Good, String::new());
    }

    /// It does what it is for, and there is something to say of it.
    pub fn good_with(&self, message: impl Into<String>) {
        self.set(State::Good, message.into());
    }

    /// It is turned off.
    pub fn off(&self) {
        self.set(State::Off, String::new());
    }

    /// It does not do what it is for. The line is logged when it is new.
    pub fn trouble(&self, message: impl Into<String>) {
        self.set(State::Trouble, message.into());
    }

    fn set(&self, state: State, message: String) {
        let mut parts = self.board.locked();
        let before = parts.get(self.name);
        if before.is_some_and(|known| known.state == state && known.message == message) {
            return;
        }
        let since = before.filter(|known| known.state == state).map_or_else(clock::now, |known| known.since);
        match state {
            State::Trouble => tracing::warn!(part = self.name, %message, "in trouble"),
            State::Good if before.is_some_and(|known| known.state == State::Trouble) => {
                tracing::info!(part = self.name, "well again");
            }
            _ => {}
        }
        parts.insert(self.name, Health { part: self.name.into(), state, message, since });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_keeps_its_beginning_while_its_message_changes() {
        let board = Board::default();
        let part = board.part("registry");
        assert_eq!(board.all()[0].state, State::Starting);
        part.trouble("port 5000 is taken");
        let first = board.all();
        part.trouble("port 5000 is still taken");
        let second = board.all();
        assert_eq!((&second[0].state, second[0].since), (&State::Trouble, first[0].since));
        assert_eq!(second[0].message, "port 5000 is still taken");
        part.good();
        assert_eq!((board.all()[0].state, board.all()[0].message.as_str()), (State::Good, ""));
        assert_eq!(board.all().len(), 1);
    }
}
