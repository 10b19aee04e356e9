//! What is remembered of pods over a reboot: which orders of the cloud were carried out, and what self-heal has
//! counted. One small file, `pods.json` in the state folder; written when an order or a restart begins, and else
//! rarely, for the sake of the flash.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::orders::Orders;
use crate::pods::heal::{Memory, booted, resumed};
use crate::sys::durable;

/// Between two writings of what need not be on disk at once.
const RARELY: Duration = Duration::from_secs(60);

/// One pod, by the uid under which the kubelet runs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Page {
    /// What the cloud has ordered.
    pub orders: Orders,
    /// What self-heal knows.
    #[serde(skip_serializing_if = "is_default")]
    pub heal: Memory,
}

fn is_default(memory: &Memory) -> bool {
    *memory == Memory::default()
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Content {
    /// In which boot of the machine it was written.
    boot: String,
    pods: BTreeMap<String, Page>,
}

/// The file and what is in it.
#[derive(Debug)]
pub struct Notebook {
    path: PathBuf,
    content: Content,
    written: Vec<u8>,
    at: Option<Instant>,
}

impl Notebook {
    /// Reads the file in `folder`; `boot` tells one boot of the machine from another. One that cannot be read is as
    /// good as none, and the reason is given: every pod then counts as seen for the first time.
    pub fn open(folder: &Path, boot: &str, now: Timestamp) -> (Self, Option<String>) {
        let path = folder.join("pods.json");
        let read = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(|content| (content, bytes))
                .map_err(|e| format!("`{}` is damaged: {e}", path.display())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Default::default()),
            Err(e) => Err(durable::named(e, "read", &path).to_string()),
        };
        let (read, trouble) = match read {
            Ok(read) => (read, None),
            Err(why) => (Default::default(), Some(why)),
        };
        let (mut content, written): (Content, Vec<u8>) = read;
        content.pods.values_mut().for_each(|page| resumed(&mut page.heal, now));
        if content.boot != boot {
            content.pods.values_mut().for_each(|page| booted(&mut page.heal));
            boot.clone_into(&mut content.boot);
        }
        (Self { path, content, written, at: None }, trouble)
    }

    /// The page of a pod that was seen before.
    pub fn page(&mut self, uid: &str) -> Option<&mut Page> {
        self.content.pods.get_mut(uid)
    }

    /// Begins a page.
    pub fn begin(&mut self, uid: &str, orders: Orders) {
        self.content.pods.insert(uid.to_owned(), Page { orders, heal: Memory::default() });
    }

    /// All pages.
    pub fn pages(&mut self) -> impl Iterator<Item = (&str, &mut Page)> {
        self.content.pods.iter_mut().map(|(uid, page)| (uid.as_str(), page))
    }

    /// Forgets all pods but these.
    pub fn keep(&mut self, uids: &BTreeSet<String>) {
        self.content.pods.retain(|uid, _| uids.contains(uid));
    }

    /// Writes what changed, if anything did.
    ///
    /// # Errors
    /// The disk's.
    pub fn save(&mut self) -> io::Result<()> {
        let bytes = serde_json::to_vec(&self.content).map_err(io::Error::other)?;
        if bytes != self.written {
            durable::write(&self.path, &bytes, 0o600)?;
            self.written = bytes;
            self.at = Some(Instant::now());
        }
        Ok(())
    }

    /// The same, unless it was written a short while ago.
    ///
    /// # Errors
    /// The disk's.
    pub fn save_rarely(&mut self) -> io::Result<()> {
        match self.at {
            Some(at) if at.elapsed() < RARELY => Ok(()),
            _ => self.save(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_there_after_a_reboot_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (mut book, trouble) = Notebook::open(folder.path(), "boot-1", Timestamp::UNIX_EPOCH);
        assert_eq!(trouble, None);
        book.begin("a", Orders::first([Some("1"), None]));
        book.begin("b", Orders::default());
        book.page("b").unwrap().heal.restarts = 2;
        book.save().unwrap();
        let (mut again, _) = Notebook::open(folder.path(), "boot-2", Timestamp::UNIX_EPOCH);
        assert_eq!(again.page("b").unwrap().heal.restarts, 2);
        assert_eq!(again.page("a").unwrap().orders.take([Some("1"), None]), None);
        again.keep(&BTreeSet::from(["b".to_owned()]));
        assert!(again.page("a").is_none());
        durable::write(&folder.path().join("pods.json"), b"{", 0o600).unwrap();
        let (mut damaged, trouble) = Notebook::open(folder.path(), "boot-2", Timestamp::UNIX_EPOCH);
        assert!(trouble.unwrap().contains("is damaged") && damaged.page("b").is_none());
    }

    #[test]
    fn nothing_new_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let (mut book, _) = Notebook::open(folder.path(), "boot", Timestamp::UNIX_EPOCH);
        book.begin("a", Orders::default());
        book.save().unwrap();
        let path = folder.path().join("pods.json");
        std::fs::remove_file(&path).unwrap();
        book.save().unwrap();
        assert!(!path.exists());
        book.begin("b", Orders::default());
        book.save_rarely().unwrap();
        assert!(!path.exists(), "a moment ago is not rarely");
        book.save().unwrap();
        assert!(path.exists());
    }
}
