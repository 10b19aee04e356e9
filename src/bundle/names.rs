//! The names that go into a bundle, in a file of the depot's and not in its memory: there may be 100,000 of them, and a
//! chart's holds the whole of its `Chart.yaml`.

use std::io;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::Error;
use crate::sys::digest::Digest;
use crate::sys::durable;

/// Nothing of it outlives the program, so nothing is synced. A text's order is that of its bytes.
const TABLES: &str = "
    PRAGMA page_size = 4096; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA cache_size = -2000;
    CREATE TABLE line (text TEXT PRIMARY KEY, shown TEXT, manifest TEXT, media_type TEXT) WITHOUT ROWID;
    CREATE TABLE found (id INTEGER PRIMARY KEY, repository TEXT, name TEXT, digest TEXT NOT NULL);
    CREATE TABLE looked (repository TEXT, manifest TEXT, PRIMARY KEY (repository, manifest)) WITHOUT ROWID;
    BEGIN;";

/// Names, each once, in order.
pub struct Names(Connection);

/// Something of the store that waits for its turn.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A name of a repository.
    Image {
        /// `<host>/<path>`.
        repository: String,
        /// A tag or a digest.
        name: String,
        /// The manifest.
        digest: Digest,
    },
    /// A blob of a chart.
    Blob(Digest),
}

impl Names {
    /// None yet, in a file of `folder` that has no name.
    ///
    /// # Errors
    /// [`Error::Files`], here and below: those of the disk.
    pub fn new(folder: &Path) -> Result<Self, Error> {
        durable::folder(folder, 0o700).map_err(Error::Files)?;
        let path = folder.join(format!("names-{}", uuid::Uuid::new_v4()));
        let connection = Connection::open(&path).map_err(failed)?;
        let made = connection.execute_batch(TABLES).map_err(failed);
        // Without a journal it is the one file, and open.
        std::fs::remove_file(&path).map_err(|e| Error::Files(durable::named(e, "remove", &path)))?;
        made.map(|()| Self(connection))
    }

    /// Adds a line of `refs.list`, and for `index.json`, where it has a manifest, what it is called, which, and its media type.
    ///
    /// # Errors
    /// See [`Names::new`].
    pub fn insert(&self, text: &str, named: Option<(&str, &Digest, &str)>) -> Result<(), Error> {
        let (shown, digest, media_type) = match named {
            Some((shown, digest, media_type)) => (Some(shown), Some(digest.as_str()), Some(media_type)),
            None => (None, None, None),
        };
        self.0
            .prepare_cached("INSERT OR IGNORE INTO line VALUES (?1, ?2, ?3, ?4)")
            .and_then(|mut q| q.execute((text, shown, digest, media_type)))
            .map(drop)
            .map_err(failed)
    }

    /// Whether the line is there.
    ///
    /// # Errors
    /// See [`Names::new`].
    pub fn contains(&self, text: &str) -> Result<bool, Error> {
        self.0
            .prepare_cached("SELECT 1 FROM line WHERE text = ?1")
            .and_then(|mut q| q.exists([text]))
            .map_err(failed)
    }

    /// Whether there is none.
    ///
    /// # Errors
    /// See [`Names::new`].
    pub fn is_empty(&self) -> Result<bool, Error> {
        self.0.prepare("SELECT 1 FROM line").and_then(|mut q| q.exists([])).map(|any| !any).map_err(failed)
    }

    /// Hands `each` the lines in order.
    ///
    /// # Errors
    /// See [`Names::new`], and what `each` says.
    pub fn each_line(&self, mut each: impl FnMut(&str) -> Result<(), Error>) -> Result<(), Error> {
        let mut query = self.0.prepare("SELECT text FROM line ORDER BY text").map_err(failed)?;
        let mut rows = query.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            each(row.get_ref(0).and_then(|text| Ok(text.as_str()?)).map_err(failed)?)?;
        }
        Ok(())
    }

    /// Hands `each` what has a manifest: what it is called, which, and its media type.
    ///
    /// # Errors
    /// See [`Names::new`], and what `each` says.
    pub fn each_manifest(
        &self,
        mut each: impl FnMut(&str, &Digest, &str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let sql = "SELECT shown, manifest, media_type FROM line WHERE shown NOT NULL ORDER BY text";
        let mut query = self.0.prepare(sql).map_err(failed)?;
        let mut rows = query.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let text = |at: usize| row.get::<_, String>(at).map_err(failed);
            each(&text(0)?, &digest(&text(1)?)?, &text(2)?)?;
        }
        Ok(())
    }

    /// Has something wait for its turn.
    ///
    /// # Errors
    /// See [`Names::new`].
    pub fn push(&self, found: &Found) -> Result<(), Error> {
        let row = match found {
            Found::Image { repository, name, digest } => {
                (Some(repository.as_str()), Some(name.as_str()), digest.as_str())
            }
            Found::Blob(digest) => (None, None, digest.as_str()),
        };
        self.0
            .prepare_cached("INSERT INTO found (repository, name, digest) VALUES (?1, ?2, ?3)")
            .and_then(|mut q| q.execute(row))
            .map(drop)
            .map_err(failed)
    }

    /// What waits after number `after`, with its own number; the first is 1.
    ///
    /// # Errors
    /// See [`Names::new`].
    pub fn next(&self, after: i64) -> Result<Option<(i64, Found)>, Error> {
        let next = self
            .0
            .prepare_cached(
                "SELECT id, repository, name, digest FROM found WHERE id > ?1 ORDER BY id LIMIT 1",
            )
            .and_then(|mut q| {
                q.query_row([after], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, String>(3)?))
                })
                .optional()
            })
            .map_err(failed)?;
        let Some((id, repository, name, digest)) = next else { return Ok(None) };
        let digest = self::digest(&digest)?;
        Ok(Some(match (repository, name) {
            (Some(repository), Some(name)) => (id, Found::Image { repository, name, digest }),
            _ => (id, Found::Blob(digest)),
        }))
    }

    /// Notes that it is looked for what is about a manifest in a repository; false where that was noted before.
    ///
    /// # Errors
    /// See [`Names::new`].
    pub fn look(&self, repository: &str, manifest: &Digest) -> Result<bool, Error> {
        self.0
            .prepare_cached("INSERT OR IGNORE INTO looked VALUES (?1, ?2)")
            .and_then(|mut q| q.execute((repository, manifest.as_str())))
            .map(|new| new > 0)
            .map_err(failed)
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Names")
    }
}

/// As it was put in.
fn digest(text: &str) -> Result<Digest, Error> {
    text.parse().map_err(|_| Error::Files(io::ErrorKind::InvalidData.into()))
}

fn failed(error: rusqlite::Error) -> Error {
    let kind = match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => io::ErrorKind::StorageFull,
        _ => io::ErrorKind::Other,
    };
    Error::Files(io::Error::new(kind, format!("cannot keep the names that are gathered: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_once_and_in_the_order_of_their_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::new(folder.path()).unwrap();
        assert!(names.is_empty().unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays behind");
        let digest = Digest::sha256(b"a");
        let mut lines = vec!["b", "a", "ä", "B", "a b", "a\u{0}"];
        for line in lines.iter().chain(&["a"]) {
            names.insert(line, (*line == "b").then_some(("q.io/b:1", &digest, "application/x"))).unwrap();
        }
        lines.sort_unstable();
        let mut told = Vec::new();
        let tell = |line: &str| {
            told.push(line.to_owned());
            Ok(())
        };
        names.each_line(tell).unwrap();
        assert_eq!(told, lines);
        assert!(names.contains("B").unwrap() && !names.contains("c").unwrap() && !names.is_empty().unwrap());
        let mut named = Vec::new();
        let tell = |shown: &str, of: &Digest, _: &str| {
            named.push((shown.to_owned(), of.clone()));
            Ok(())
        };
        names.each_manifest(tell).unwrap();
        assert_eq!(named, [("q.io/b:1".to_owned(), digest)]);
    }

    #[test]
    fn what_waits_comes_in_its_turn_while_more_is_added() {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::new(folder.path()).unwrap();
        let digest = Digest::sha256(b"a");
        let image = Found::Image { repository: "q.io/a".into(), name: "1".into(), digest: digest.clone() };
        names.push(&image).unwrap();
        names.push(&Found::Blob(digest.clone())).unwrap();
        assert_eq!(names.next(0).unwrap(), Some((1, image)));
        names.insert("line", None).unwrap();
        assert_eq!(names.next(1).unwrap(), Some((2, Found::Blob(digest.clone()))));
        assert_eq!(names.next(2).unwrap(), None);
        assert!(names.look("q.io/a", &digest).unwrap());
        assert!(!names.look("q.io/a", &digest).unwrap());
        assert!(names.look("q.io/b", &digest).unwrap(), "another repository has others");
    }
}
