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
    /// When that began, as far as was known when edge first saw it. Times in here are counted from then, and by a clock
    /// that nobody sets.
    began: Option<Timestamp>,
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
    /// Reads the file in `folder`; `boot` tells one boot of the machine from another, which lasts `since_boot` at the
    /// time that the clock calls `wall`. A file that cannot be read is as good as none, and the reason is given: every
    /// pod then counts as seen for the first time.
    pub fn open(folder: &Path, boot: &str, wall: Timestamp, since_boot: Duration) -> (Self, Option<String>) {
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
        let same_boot = content.boot == boot && !boot.is_empty();
        let known = content.began.filter(|_| same_boot);
        let began = known.unwrap_or_else(|| wall.checked_sub(since_boot).unwrap_or(Timestamp::MIN));
        content.began = Some(began);
        if !same_boot {
            content.pods.values_mut().for_each(|page| booted(&mut page.heal));
            boot.clone_into(&mut content.boot);
        }
        let mut book = Self { path, content, written, at: None };
        let now = book.time(since_boot);
        book.pages().for_each(|(_, page)| resumed(&mut page.heal, now));
        (book, trouble)
    }

    /// The time by which what is in here is counted, so long after the boot. A clock that is set while edge runs, as by
    /// NTP after a boot without one, makes no span longer or shorter.
    pub fn time(&self, since_boot: Duration) -> Timestamp {
        let began = self.content.began.unwrap_or(Timestamp::UNIX_EPOCH);
        began.checked_add(since_boot).unwrap_or(Timestamp::MAX)
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
    use crate::pods::heal::{Broken, Decision, Settings, Symptoms, decide};

    /// At so many seconds by the clock, and so many after the boot.
    fn open(folder: &Path, boot: &str, wall: i64, since_boot: u64) -> (Notebook, Option<String>) {
        let wall = Timestamp::from_second(wall).unwrap();
        Notebook::open(folder, boot, wall, Duration::from_secs(since_boot))
    }

    #[test]
    fn a_clock_that_is_set_makes_nothing_broken_for_longer() {
        const YEARS: i64 = 50 * 365 * 24 * 3600;
        let settings = Settings { enabled: true, ..Settings::default() };
        let broken =
            Symptoms { broken: Some(Broken::NoAddress), runs: true, is_there: true, ..Symptoms::default() };
        let look = |book: &mut Notebook, since_boot: u64| {
            let now = book.time(Duration::from_secs(since_boot));
            decide(&mut book.page("a").unwrap().heal, &broken, &settings, now) != Decision::Leave
        };
        // Which boot it is and what the clock says when edge starts anew, 100 seconds after the pod was seen broken;
        // and how long it has been so by then.
        for (boot, wall, since_boot, counted) in [
            ("boot-1", 130, 130, 100),
            ("boot-1", YEARS, 130, 100),
            ("boot-1", -YEARS, 130, 100),
            ("boot-2", 500, 20, 0),
            ("boot-2", YEARS, 20, 0),
            ("boot-2", -YEARS, 20, 0),
            ("", YEARS, 130, 0),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let (mut book, _) = open(folder.path(), "boot-1", 10, 10);
            book.begin("a", Orders::default());
            assert!(!look(&mut book, 30));
            book.save().unwrap();
            let (mut book, _) = open(folder.path(), boot, wall, since_boot);
            let mended_by = since_boot + 300 - counted;
            assert!(!look(&mut book, since_boot), "{boot} {wall}");
            assert!(!look(&mut book, mended_by - 1), "{boot} {wall}");
            assert!(look(&mut book, mended_by), "{boot} {wall}");
        }
    }

    #[test]
    fn what_was_saved_is_there_after_a_reboot_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (mut book, trouble) = open(folder.path(), "boot-1", 0, 0);
        assert_eq!(trouble, None);
        book.begin("a", Orders::first([Some("1"), None]));
        book.begin("b", Orders::default());
        book.page("b").unwrap().heal.restarts = 2;
        book.save().unwrap();
        let (mut again, _) = open(folder.path(), "boot-2", 0, 0);
        assert_eq!(again.page("b").unwrap().heal.restarts, 2);
        assert_eq!(again.page("a").unwrap().orders.take([Some("1"), None]), None);
        again.keep(&BTreeSet::from(["b".to_owned()]));
        assert!(again.page("a").is_none());
        durable::write(&folder.path().join("pods.json"), b"{", 0o600).unwrap();
        let (mut damaged, trouble) = open(folder.path(), "boot-2", 0, 0);
        assert!(trouble.unwrap().contains("is damaged") && damaged.page("b").is_none());
    }

    #[test]
    fn nothing_new_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let (mut book, _) = open(folder.path(), "boot", 0, 0);
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
