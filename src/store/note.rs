//! Short notes of long tasks, by key.

use rusqlite::OptionalExtension;

use super::error::During;
use super::{Error, Store};

impl Store {
    /// What was noted last under `key`.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub fn note(&self, key: &str) -> Result<Option<String>, Error> {
        self.inner.readers.read(|c| {
            c.query_row("SELECT value FROM note WHERE key = ?1", [key], |row| row.get(0))
                .optional()
                .during("read a note")
        })
    }

    /// Notes `value` under `key`, in place of what was noted before.
    ///
    /// # Errors
    /// Where the database cannot be written to.
    pub fn set_note(&self, key: &str, value: &str) -> Result<(), Error> {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.inner.writer.write(move |batch| {
            batch
                .tx
                .execute("INSERT OR REPLACE INTO note (key, value) VALUES (?1, ?2)", (&key, &value))
                .during("write a note")?;
            Ok(())
        })
    }
}
