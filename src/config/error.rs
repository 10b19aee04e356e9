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

fn nearest_hint(nearest: Option<&'static str>) -> String {
    match nearest {
        Some(known) => format!(" hint: did you mean `{known}`?"),
        None => " hint: `edge config get` lists all keys".into(),
    }
}
