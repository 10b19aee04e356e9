//! What was set aside: looked at again before it is fetched, and removed once nobody waits for it.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rusqlite::{Connection, OptionalExtension};

use super::blob::DAMAGED;
use super::error::During;
use super::upload::{Ready, matches};
use super::{Error, Store, failpoint};
use crate::sys::digest::Digest;
use crate::sys::durable;

/// Files in the quarantine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aside {
    /// Those that go: what they should be is here again, or nobody needs it any more.
    pub freed: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Those that stay until what they should be is here again, however much is right of them.
    pub kept: u64,
    /// Their bytes.
    pub kept_bytes: u64,
}

impl Aside {
    pub(super) fn count(&mut self, file: &InQuarantine, wanted: bool) {
        let (files, bytes) = match wanted {
            true => (&mut self.kept, &mut self.kept_bytes),
            false => (&mut self.freed, &mut self.freed_bytes),
        };
        *files += 1;
        *bytes += file.size;
    }
}

/// One file there.
pub(super) struct InQuarantine {
    path: PathBuf,
    /// `None` where its name is no digest's.
    digest: Option<Digest>,
    size: u64,
}

impl InQuarantine {
    /// Whether somebody waits for what it should be; `marked`, only those count that a collection would keep.
    pub(super) fn is_wanted(&self, tx: &Connection, marked: bool) -> Result<bool, Error> {
        let Some(digest) = &self.digest else { return Ok(false) };
        let kept = if marked { " AND id IN (SELECT id FROM temp.keep)" } else { "" };
        tx.prepare_cached(&format!(
            "SELECT EXISTS (SELECT 1 FROM blob WHERE digest = ?1 AND state = ?2{kept})"
        ))
        .and_then(|mut q| q.query_row((digest.as_str(), DAMAGED), |row| row.get(0)))
        .during("find a blob")
    }
}

impl Store {
    pub(super) fn quarantine_path(&self, digest: &Digest) -> PathBuf {
        let name = format!("{}-{}", digest.algorithm().name(), digest.hex());
        self.inner.settings.folder.join("quarantine").join(name)
    }

    /// Takes a blob back that was set aside, if its bytes are right after all: they may have been read while the disk
    /// gave errors. False where they are not, or not there.
    ///
    /// # Errors
    /// Where it cannot be read for other reasons than its disk's, moved or noted.
    pub fn take_back(&self, digest: &Digest) -> Result<bool, Error> {
        let path = self.quarantine_path(digest);
        let size = match std::fs::metadata(&path).and_then(|meta| Ok((meta.len(), matches(&path, digest)?))) {
            Ok((size, true)) => size,
            Ok((_, false)) => return Ok(false),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound || durable::is_unreadable(&e) => {
                return Ok(false);
            }
            Err(e) => return Err(durable::named(e, "read", &path).into()),
        };
        let store = self.clone();
        // Where it is here again meanwhile, or nobody needs it any more, a collection removes what lies here.
        let ready = Ready { path, digest: digest.clone(), size, stays: true, claim: None };
        let placed = self.settle(ready, move |batch, ready| {
            let waits = batch
                .tx
                .prepare_cached("SELECT 1 FROM blob WHERE digest = ?1 AND state = ?2")
                .and_then(|mut q| q.query_row((ready.digest.as_str(), DAMAGED), |_| Ok(())).optional())
                .during("find a blob")?;
            if waits.is_some() {
                store.place(batch, ready)?;
                batch.sync_folder_of(&ready.path);
            }
            Ok(waits.is_some())
        })?;
        self.changed();
        self.charts_changed();
        Ok(placed)
    }

    pub(super) fn in_quarantine(&self) -> Result<Vec<InQuarantine>, Error> {
        let folder = self.inner.settings.folder.join("quarantine");
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(|e| durable::named(e, "list", &folder))?.flatten() {
            // One that goes meanwhile is none.
            let Ok(meta) = entry.metadata() else { continue };
            let digest = entry.file_name().to_str().and_then(|name| {
                let (algorithm, hex) = name.split_once('-')?;
                format!("{algorithm}:{hex}").parse().ok()
            });
            files.push(InQuarantine { path: entry.path(), digest, size: meta.size() });
        }
        Ok(files)
    }

    /// Removes what nobody waits for, on the writer's thread, so that nothing is set aside or taken back in between.
    pub(super) fn clear_quarantine(&self) -> Result<Aside, Error> {
        let files = self.in_quarantine()?;
        if files.is_empty() {
            return Ok(Aside::default());
        }
        self.inner.writer.write(move |batch| {
            let mut aside = Aside::default();
            for file in files {
                let wanted = file.is_wanted(batch.tx, false)?;
                if !wanted {
                    failpoint::pass("quarantine-unlink");
                    match std::fs::remove_file(&file.path) {
                        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                            return Err(durable::named(e, "remove", &file.path).into());
                        }
                        _ => {}
                    }
                }
                aside.count(&file, wanted);
            }
            Ok(aside)
        })
    }
}
