//! Another system, written to the slot that is not booted.
//!
//! What boots the slot goes first, so that nothing boots what is half written; then root file system and hash tree are
//! written and read back; then the kernel, in a way that no loader takes yet (see `loader`). That it is staged is noted, and
//! the last step is one change of one sector. A power cut before that leaves the slot empty, and one after it leaves it whole.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};

use super::entry::VerityId;
use super::esp::unfinished;
use super::identity::Identity;
use super::loader::{Kernel, Loader};
use super::record::{Record, Recorded, Sum};
use super::slot::{Slot, State, Status};
use super::{Error, Places, Release, partition};
use crate::sys::digest::{Algorithm, Digest, Hasher};
use crate::sys::durable;

/// Bytes after which what was written is brought to the medium: a gateway has little memory, and progress should be
/// true.
const SYNC_EVERY: u64 = 16 << 20;
/// Bytes read at once.
const PIECE: usize = 1 << 20;
/// How what runs is left for the slot that still starts.
pub(super) const TURN_BACK: &str = "`edge system rollback`, then `systemctl reboot`";

/// A system that is to be staged. Digests are SHA-256, sizes bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// For people.
    pub version: String,
    /// The architecture in Go's words.
    pub arch: String,
    /// The board.
    pub board: String,
    /// The id of its hash tree.
    pub verity: VerityId,
    /// The root file system.
    pub root: (Digest, u64),
    /// Its hash tree.
    pub tree: (Digest, u64),
    /// The kernel with its command line.
    pub kernel: (Digest, u64),
    /// The bundle's stream.
    pub stream: String,
    /// The bundle's number.
    pub seq: u64,
    /// The bundle's manifest.
    pub manifest: Digest,
}

/// A part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The root file system.
    Root,
    /// Its hash tree.
    Verity,
    /// The kernel.
    Kernel,
}

/// Whether a system that is in a slot already is staged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Unless it is good: a person asks.
    UnlessGood,
    /// Not: a stick that stays plugged in would have a failed system tried for ever.
    Never,
}

/// Judges whether `image` can be staged; `Some` says why it need not be. `stream` is the one stream that may bring systems,
/// where the owner named one.
///
/// # Errors
/// [`Error::OtherMachine`] for another architecture, board or stream, [`Error::Unfit`] where there is no room,
/// [`Error::OnlyGood`] where the only good slot would be written over.
pub fn judge_image(
    places: &Places,
    image: &Image,
    again: Again,
    stream: Option<&str>,
) -> Result<Option<String>, Error> {
    let status = Status::read(places)?;
    let here = Release::read(places)?;
    for (what, theirs, ours) in
        [("architecture", &image.arch, &here.arch), ("board", &image.board, &here.board)]
    {
        if theirs != ours {
            let why = format!("a system for {what} `{theirs}`, and this appliance is of `{ours}`");
            return Err(Error::OtherMachine(why));
        }
    }
    check_stream(&Record::read(places)?, image, stream)?;
    let (booted, other) = (status.of(status.booted), status.of(status.booted.other()));
    let id = Some(image.verity.to_string());
    if booted.verity == id {
        return Ok(Some(format!("system {} runs already, in slot {}", image.version, booted.slot)));
    }
    let there = other.verity == id && other.state != State::Empty;
    if there && (other.state == State::Good || again == Again::Never) {
        let word = other.state.word();
        let hint =
            if other.state == State::Failed { " hint: `edge bundle import` stages it again" } else { "" };
        return Ok(Some(format!("system {} is in slot {}, and is {word}{hint}", image.version, other.slot)));
    }
    check_spare(&status)?;
    check_room(places, image, other.slot)?;
    here.loader.check_kernel(places, &here, image.kernel.1, other.slot)?;
    Ok(None)
}

/// Numbers tell older from newer within one stream alone: of two streams neither system is the newer one, and whichever
/// stick came last would win. So one stream brings systems, the first that did unless the owner names another.
fn check_stream(record: &Record, image: &Image, named: Option<&str>) -> Result<(), Error> {
    let brought = record.slots.values().filter(|slot| slot.stream.is_some()).max_by_key(|slot| slot.number);
    let Some(ours) = named.or(brought.and_then(|slot| slot.stream.as_deref())) else { return Ok(()) };
    if ours == image.stream {
        return Ok(());
    }
    let why =
        format!("a system of stream `{}`, and this appliance takes its systems from `{ours}`", image.stream);
    Err(Error::OtherMachine(format!("{why} hint: `edge config set system.stream={}`", image.stream)))
}

/// The slot that is written over must be neither the only good one nor the only one that still starts.
fn check_spare(status: &Status) -> Result<(), Error> {
    let (booted, other) = (status.of(status.booted), status.of(status.booted.other()));
    if other.is_spare() && status.damage.iter().any(|damage| damage.slot == Some(booted.slot)) {
        return Err(still_starts(other.slot));
    }
    if booted.state != State::Good && other.is_spare() {
        return Err(Error::OnlyGood { other: other.slot, booted: booted.slot });
    }
    Ok(())
}

/// Why nothing is written over a slot while what starts the other one, which runs, is damaged.
pub(super) fn still_starts(slot: Slot) -> Error {
    let why = format!("what starts slot {} is damaged, and slot {slot} still starts", slot.other());
    Error::Unfit(format!("{why}: nothing is written hint: {TURN_BACK}"))
}

fn check_room(places: &Places, image: &Image, slot: Slot) -> Result<(), Error> {
    let devices = [
        (partition::root(places, slot)?, image.root.1, "root"),
        (partition::verity(places, slot)?, image.tree.1, "verity"),
    ];
    for (device, needed, name) in devices {
        let size = partition::size(&device)?;
        if size < needed {
            let why = format!("partition `{name}_{slot}` has {size} bytes, and the system needs {needed}");
            return Err(Error::Unfit(format!("{why} hint: write the card anew with this system's image")));
        }
    }
    Ok(())
}

/// A slot that is being written.
#[derive(Debug)]
pub struct Stage<'a> {
    places: &'a Places,
    image: Image,
    loader: Loader,
    slot: Slot,
    number: u64,
    /// From the kernel on: whoever finds the running system good must not wait for the minutes that a root takes.
    kernel: Option<Kernel>,
    /// The kernel's first bytes, as far as they come last.
    head: Vec<u8>,
    writing: Option<Writing>,
    done: Vec<Part>,
}

#[derive(Debug)]
struct Writing {
    part: Part,
    path: PathBuf,
    file: File,
    /// Its first bytes, which are kept back.
    head: Vec<u8>,
    /// How many of those there are.
    kept_back: usize,
    written: u64,
    synced: u64,
}

impl<'a> Stage<'a> {
    /// Makes the other slot one that is not booted, whatever it was.
    ///
    /// # Errors
    /// Where that does not come to the medium; [`Error::OnlyGood`] and [`Error::Unfit`] before anything is changed.
    pub fn begin(places: &'a Places, image: Image) -> Result<Self, Error> {
        let status = Status::read(places)?;
        let slot = status.booted.other();
        // What counts is which tree is booted; a machine that boots both slots by one id could not be told apart.
        if status.of(status.booted).verity == Some(image.verity.to_string()) {
            return Err(Error::Unfit(format!("system {} runs already", image.version)));
        }
        // Minutes may have passed since it was judged, and the running system may have been given up meanwhile.
        check_spare(&status)?;
        let loader = Loader::of(places)?;
        let number = loader.clear(places, slot)?;
        Ok(Self {
            places,
            image,
            loader,
            slot,
            number,
            kernel: None,
            head: Vec::new(),
            writing: None,
            done: Vec::new(),
        })
    }

    /// What is staged.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// When it is tried once it is staged, for people.
    pub fn when(&self) -> &'static str {
        self.loader.when()
    }

    /// Begins a part.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open(&mut self, part: Part) -> Result<(), Error> {
        let open = |path: PathBuf| {
            let opened = OpenOptions::new().write(true).open(&path);
            opened.map(|file| (path.clone(), file)).map_err(|e| durable::named(e, "open", &path))
        };
        let mut kept_back = 0;
        let (path, mut file) = match part {
            Part::Root => open(partition::root(self.places, self.slot)?)?,
            Part::Verity => open(partition::verity(self.places, self.slot)?)?,
            Part::Kernel => {
                let kernel = self.loader.kernel(self.places, self.slot, self.number)?;
                kept_back = kernel.kept_back();
                let file = kernel.create()?;
                let path = self.kernel.insert(kernel).path();
                (path, file)
            }
        };
        file.seek(SeekFrom::Start(kept_back as u64)).map_err(|e| durable::named(e, "write", &path))?;
        self.writing = Some(Writing { part, path, file, head: Vec::new(), kept_back, written: 0, synced: 0 });
        Ok(())
    }

    /// The next bytes of the part that was begun.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let writing = self.writing.as_mut().ok_or_else(unbegun)?;
        let (first, rest) = bytes.split_at(bytes.len().min(writing.kept_back - writing.head.len()));
        writing.head.extend_from_slice(first);
        let failed = |e| durable::named(e, "write", &writing.path);
        writing.file.write_all(rest).map_err(failed)?;
        writing.written += bytes.len() as u64;
        if writing.written - writing.synced >= SYNC_EVERY {
            writing.file.sync_data().map_err(failed)?;
            writing.synced = writing.written;
        }
        Ok(())
    }

    /// Brings the part to its medium, and reads it back from there; the last one is compared with the others.
    ///
    /// # Errors
    /// [`Error::ReadBack`], [`Error::OtherMachine`].
    pub fn close(&mut self) -> Result<(), Error> {
        let Writing { part, path, file, head, .. } = self.writing.take().ok_or_else(unbegun)?;
        let (digest, size) = match part {
            Part::Root => &self.image.root,
            Part::Verity => &self.image.tree,
            Part::Kernel => &self.image.kernel,
        };
        file.sync_all().map_err(|e| durable::named(e, "sync", &path))?;
        if let (Part::Kernel, Some(kernel)) = (part, &self.kernel) {
            kernel.sync()?;
        }
        drop(file);
        if read_back(&path, &head, *size)? != *digest {
            return Err(Error::ReadBack(path.display().to_string()));
        }
        if part == Part::Kernel {
            self.head = head;
        }
        self.done.push(part);
        if self.is_whole() { self.check() } else { Ok(()) }
    }

    fn is_whole(&self) -> bool {
        [Part::Root, Part::Verity, Part::Kernel].iter().all(|part| self.done.contains(part))
    }

    /// Whether kernel and hash tree are of one system.
    fn check(&self) -> Result<(), Error> {
        let kernel = self.kernel.as_ref().ok_or_else(unbegun)?;
        let booted_by = kernel.verity(&self.head).map_err(|e| durable::named(e, "read", &kernel.path()))?;
        let wanted = Some(self.image.verity);
        if partition::verity_id(self.places, self.slot)? == wanted && booted_by == wanted {
            return Ok(());
        }
        let why = "a system whose kernel, hash tree and root file system do not belong together";
        Err(Error::OtherMachine(why.into()))
    }

    /// Makes the slot bootable.
    ///
    /// # Errors
    /// Where parts are missing, or the last step does not come to the medium.
    pub fn commit(mut self) -> Result<Slot, Error> {
        if !self.is_whole() {
            return Err(unbegun());
        }
        let noted = Recorded {
            number: self.number,
            version: self.image.version.clone(),
            stream: Some(self.image.stream.clone()),
            seq: Some(self.image.seq),
            manifest_digest: Some(self.image.manifest.clone()),
            state: State::Staged,
            verity_uuid: self.image.verity.to_string(),
            reason: None,
            boot: Some(Sum { digest: self.image.kernel.0.clone(), size: self.image.kernel.1 }),
        };
        let kernel = self.kernel.as_ref().ok_or_else(unbegun)?;
        // The note first: without an entry it says nothing, and with the entry it must be there.
        let identity = Identity::open(self.places)?;
        let mut record = Record::read(self.places)?;
        record.slots.insert(self.slot, noted);
        record.write(&identity)?;
        drop(identity);
        let entry = kernel.finish(&self.head)?;
        self.done.clear();
        tracing::info!(slot = %self.slot, version = self.image.version, entry, "another system is staged");
        Ok(self.slot)
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // Before the partition is read only again, which it cannot be while one of its files is open to be written.
        self.writing = None;
        // What was never committed takes room; the next import would remove it too.
        let path = self.places.entries().join(unfinished(self.number));
        if path.exists() {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn unbegun() -> Error {
    Error::Unfit("no part of the system was begun".into())
}

/// Hashes the first `size` bytes at `path` as its medium has them, but for `head`, which it does not have yet.
///
/// # Errors
/// Those of reading.
pub(super) fn read_back(path: &Path, head: &[u8], size: u64) -> Result<Digest, Error> {
    let failed = |e| durable::named(e, "read", path);
    let file = File::open(path).map_err(failed)?;
    // Everything was synced: the page cache lets go of it all, and the medium must answer.
    let let_go = || fadvise(&file, 0, None, Advice::DontNeed);
    let_go().map_err(|e| failed(e.into()))?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(head);
    (&file).seek(SeekFrom::Start(head.len() as u64)).map_err(failed)?;
    let mut buffer = vec![0; PIECE];
    let mut from = (&file).take(size.saturating_sub(head.len() as u64));
    loop {
        match from.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => hasher.update(&buffer[..read]),
        }
    }
    // And nobody needs it in memory.
    let _ = let_go();
    Ok(hasher.finish())
}
