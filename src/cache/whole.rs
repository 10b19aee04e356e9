//! Whether all that has passed is kept, when the daemon ends and when the next one begins.
//!
//! A client that is told something just before an end without notice goes on from there, and is not told it again: what was
//! not on disk yet would be missing here for good. So it is where a disk that takes nothing has others wait until the end.

use rusqlite::Connection;

use super::{Cache, CacheError, Writer};

/// Under which name it is kept that the daemon before has kept all.
const META: &str = "whole";

impl Cache {
    /// Nobody is answered any more, and all that has passed is on disk. Not noted where a part was lost and nobody was told.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn note_end(&self) -> Result<(), CacheError> {
        self.commit(|writer| writer.note_end()).await
    }

    /// Whether that was noted, and nobody was answered since.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn ended_whole(&self) -> Result<bool, CacheError> {
        Ok(self.read(|reader| reader.meta(META)).await?.is_some_and(|noted| noted == "1"))
    }

    /// From now on somebody is answered, and an end must be noted anew. Where the disk takes nothing this is done as soon as
    /// it does again, see [`unnote`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn note_begin(&self) -> Result<(), CacheError> {
        self.commit(|writer| Ok(unnote(&writer.connection)?)).await
    }
}

/// Takes the note of an end away.
pub(super) fn unnote(db: &Connection) -> Result<(), rusqlite::Error> {
    db.execute("DELETE FROM meta WHERE key = ?", [META]).map(drop)
}

impl Writer {
    fn note_end(&self) -> Result<(), CacheError> {
        if self.is_torn() { Ok(()) } else { self.set_meta(META, "1") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_noted_once_and_only_where_nothing_was_lost() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Cache::open(folder.path(), folder.path()).unwrap().cache;
        let cache = open();
        assert!(!cache.ended_whole().await.unwrap(), "a new one says nothing");
        cache.note_end().await.unwrap();
        drop(cache);
        let cache = open();
        assert!(cache.ended_whole().await.unwrap());
        cache.note_begin().await.unwrap();
        assert!(!cache.ended_whole().await.unwrap(), "this one has not ended");
        let lose = |writer: &mut Writer| {
            writer.note_loss();
            writer.note_end()
        };
        cache.commit(lose).await.unwrap();
        assert!(!cache.ended_whole().await.unwrap(), "a part was lost");
        cache.note_end().await.unwrap();
        drop(cache);
        // A life in which the disk took nothing at all.
        std::fs::create_dir(folder.path().join("frozen")).unwrap();
        assert!(!open().ended_whole().await.unwrap(), "what passed was kept nowhere");
    }
}
