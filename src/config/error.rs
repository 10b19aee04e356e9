//! What can be wrong with the configuration: always one line that names file, key, value and what was expected.

use std::path::PathBuf;

/// Why the configuration was not taken. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file named by flag or environment is not there.
    #[error("`{}` does not exist hint: leave out --config and EDGE_CONFIG to run with the defaults", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read or written; the text names it.
    #[error(transparent)]
    File(std::io::Error),
    /// The file is not TOML.
    #[error("`{}` line {line}: {why}", .file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What the parser says, on one line.
        why: String,
    },
    /// The file is TOML, and something in it is wrong.
    #[error("`{}`: {problem}", .file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong in it.
        problem: Problem,
    },
    /// The same, on the command line.
    #[error("{0}")]
    Given(Problem),
    /// `edge config set` with something that is not `KEY=VALUE`.
    #[error("`{0}` is not of the form KEY=VALUE")]
    NotAssignment(String),
}

/// What is wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// There is no such key.
    #[error("unknown key `{key}`{}", nearest_hint(*.nearest))]
    Unknown {
        /// As it was written, with its section.
        key: String,
        /// The name that was probably meant.
        nearest: Option<&'static str>,
    },
    /// The value is of the wrong type or out of bounds.
    #[error("key `{key}` is `{value}`, expected {expected}")]
    Value {
        /// With its section.
        key: String,
        /// As it was written, shortened.
        value: String,
        /// In words.
        expected: String,
    },
    /// Something within a list of tables.
    #[error("key `{key}`: {why}")]
    Row {
        /// Down to the place within, such as `mirror.images[0].tags`.
        key: String,
        /// What is wrong there, and what was expected.
        why: String,
    },
    /// Each value is good, but not together.
    #[error("key `{key}` is `{value}`, {why}")]
    Conflict {
        /// The key to change.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it does not agree with, and the remedy.
        why: String,
    },
}

/// What a slot says of a value that it does not take.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Where in a list of tables, such as `[0].tags`; `None` for the value as a whole.
    within: Option<String>,
    /// What was expected, or what is wrong within.
    why: String,
}

impl Wrong {
    /// The value is not what was `expected`.
    pub fn whole(expected: String) -> Self {
        Self { within: None, why: expected }
    }

    /// Something at `place` within the value is wrong.
    pub fn within(place: String, why: String) -> Self {
        Self { within: Some(place), why }
    }

    /// The same, said of the key with this value.
    pub fn of(self, key: &str, value: String) -> Problem {
        match self.within {
            None => Problem::Value { key: key.to_owned(), value, expected: self.why },
            Some(place) => Problem::Row { key: format!("{key}{place}"), why: self.why },
        }
    }
}

fn nearest_hint(nearest: Option<&'static str>) -> String {
    match nearest {
        Some(known) => format!(" hint: did you mean `{known}`?"),
        None => " hint: `edge config sample` lists all keys".into(),
    }
}
