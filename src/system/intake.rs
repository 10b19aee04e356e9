//! `given.json` on identity: how far the taking of a first boot's configuration has come.
//!
//! `{"format": 1, "open": false, "taken": ["edge.toml"], "refused": ["authorized_keys"]}`
//!
//! A configuration may come in rounds: what is good is taken, what is wrong is put right by its owner and taken at a
//! later boot. So a file that the last round did not bring is not one that was withdrawn, and what was refused is still
//! asked for once all else is in place.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::given::{FIRST, names, small};
use super::identity::Identity;
use super::{Error, Places};

const FILE: &str = "given.json";
/// The folder on identity in which what was taken is kept.
pub const KEPT: &str = "config";

/// What came of all rounds since the first boot, or since the last reset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Intake {
    format: u32,
    /// `edge.toml` is not in place yet, and the next round goes on with this one. A machine without `edge.toml` and
    /// with this false was reset.
    pub open: bool,
    /// Names of files, such as `static-pods/web.yaml`.
    pub taken: BTreeSet<String>,
    /// Names of files that were given and are wrong.
    pub refused: BTreeSet<String>,
}

impl Intake {
    /// Reads it. Where there is none, or one that is damaged, what identity has was taken: nothing goes for want of a
    /// note.
    pub fn read(places: &Places) -> Self {
        let path = places.identity().join(FILE);
        let read = small(&path).and_then(|bytes| {
            bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(|e| e.to_string())).transpose()
        });
        match read {
            Ok(Some(intake)) => return intake,
            Ok(None) => {}
            Err(why) => {
                tracing::warn!(path = %path.display(), why, "what is kept of the configuration counts as taken: the note about it cannot be read");
            }
        }
        let taken = present(&places.identity().join(KEPT));
        Self { format: 1, open: !taken.contains(FIRST.name), taken, refused: BTreeSet::new() }
    }

    /// A round that goes on with the last one, or the first after a reset. `anew` says that the source is one where
    /// files are given, and not what was kept: then it says what is given, and what it no longer has nobody waits
    /// for.
    #[must_use]
    pub fn next_round(&self, anew: bool) -> Self {
        let mut next = self.clone();
        if !self.open {
            next.taken.clear();
        }
        if anew || !self.open {
            next.refused.clear();
        }
        next.open = true;
        next
    }

    /// Notes what became of a file.
    pub fn note(&mut self, name: &str, good: bool) {
        let (to, from) = match good {
            true => (&mut self.taken, &mut self.refused),
            false => (&mut self.refused, &mut self.taken),
        };
        from.remove(name);
        to.insert(name.to_owned());
    }

    /// What identity keeps and nobody gave in this configuration: a key that was withdrawn, a pod. It must not come
    /// back with the next reset. While anything of it is refused nothing is: what is wrong may be what takes its
    /// place.
    pub fn withdrawn(&self, places: &Places) -> Vec<String> {
        if self.open || !self.refused.is_empty() {
            return Vec::new();
        }
        present(&places.identity().join(KEPT)).difference(&self.taken).cloned().collect()
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// Where identity cannot be written.
    pub fn write(&self, identity: &Identity<'_>) -> Result<(), Error> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        identity.write(FILE, &bytes, 0o600)
    }
}

/// The files of a source that are there.
pub fn present(folder: &Path) -> BTreeSet<String> {
    let is_there = |name: &String| folder.join(name).symlink_metadata().is_ok();
    names(folder).into_iter().filter(is_there).collect()
}
