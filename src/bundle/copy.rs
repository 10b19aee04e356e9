//! From the stick into the store: each missing blob is read once, hashed while it is written, and never read again.
//!
//! What reads and hashes is the [`Pipeline`]; this thread writes, and one more syncs and renames the batch before.

use std::io::Read;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::Builder;

use super::facts::LARGEST_IMAGE_MANIFEST;
use super::gather::Key;
use super::list::{BlobLine, Content};
use super::manifest::List;
use super::open::{Opened, Spool};
use super::pipeline::{Pipeline, Step};
use super::siblings::Lying;
use super::{Error, Fault, name};
use crate::oci::{self, LARGEST, ManifestError};
use crate::store::{self, Facts, Intake, Landing, Store};
use crate::sys::digest::Digest;
use crate::sys::progress::{Item, Progress, Unit};

/// Bytes and blobs of a batch, if the one before has landed.
const BATCH_BYTES: u64 = 64 << 20;
const BATCH_BLOBS: usize = 512;
/// Links of manifests that weigh as much in a batch as a blob: what a manifest says stays in memory until it has landed.
const LINKS: usize = 8;
/// How many times as much a batch grows to while the one before is still landing: on a slow disk fewer syncs are better,
/// and what a power cut costs is bounded.
const PATIENCE: usize = 4;
/// Blobs that are forgotten in one transaction.
const AT_ONCE: usize = 256;
/// Bytes of a list read at once.
const PIECE: usize = 256 << 10;

/// Brings all blobs that the store lacks, `total` bytes of them; says how many came.
///
/// # Errors
/// [`Fault`] for the first one that is not what was signed; then none of them stays.
pub fn blobs(
    opened: &Opened,
    store: &Store,
    intake: &Intake,
    total: u64,
    progress: &Progress,
) -> Result<u64, Error> {
    let mut came = 0;
    let item = progress.item(format!("import {}", opened.manifest.stream), Some(total), Unit::Bytes);
    let done: Result<(), Error> = std::thread::scope(|scope| {
        // Without a place to wait in: a batch is taken when the one before has landed.
        let (send, batches) = sync_channel::<Vec<Landing>>(0);
        let landing = move || {
            for batch in batches {
                intake.land(batch)?;
            }
            Ok::<_, store::Error>(())
        };
        let lander =
            Builder::new().name("landing".into()).spawn_scoped(scope, landing).map_err(Error::Files)?;
        let wanted = |line: &BlobLine| {
            let wanted = line.kind != Content::System && !intake.has(&line.digest)?;
            Ok(wanted && opened.lying(line)?.is_some())
        };
        let pipeline = Pipeline::start(scope, opened, wanted)?;
        let (batch, manifests) = (Vec::new(), Vec::new());
        let mut writer = Writer { intake, send, pipeline, item, batch, bytes: 0, links: 0, manifests };
        let written = writer.all(&mut came);
        let Writer { send, pipeline, item, manifests, .. } = writer;
        drop((send, pipeline));
        let landed = lander.join().unwrap_or(Err(store::Error::Closed));
        // What was not what was signed is said before all else. Otherwise writing ended because landing failed.
        match written {
            Err(refused) if refused.is_refusal() => return Err(refused),
            written => landed.map_err(Error::from).and(written)?,
        }
        check_links(intake, &manifests)?;
        item.done();
        Ok(())
    });
    match done {
        Ok(()) => Ok(came),
        Err(error) => {
            if error.is_refusal() {
                forget(opened, store, intake)?;
            }
            Err(error)
        }
    }
}

/// Takes back what came, also with a try before this one that was cut off, but for what somebody else needs by now. Which
/// those are the list says, so that nobody has to remember 100,000 of them.
///
/// # Errors
/// Where the store cannot be changed.
pub fn forget(opened: &Opened, store: &Store, intake: &Intake) -> Result<(), Error> {
    // What manifests link to goes after them, wherever they stand in the list.
    let mut gone = 1;
    while gone > 0 {
        gone = 0;
        let mut lines = opened.blob_lines()?;
        loop {
            let mut some = Vec::new();
            while some.len() < AT_ONCE
                && let Some(line) = lines.next_blob(opened.manifest.part_size)?
            {
                if line.kind != Content::System && opened.lying(&line).is_ok_and(|lying| lying.is_some()) {
                    some.push(line.digest);
                }
            }
            if some.is_empty() {
                break;
            }
            gone += intake.forget(some)?;
        }
    }
    // What was written and never landed goes too.
    store.intake()?;
    Ok(())
}

/// Configurations and layers of the manifests that came must be here: else an image is named that cannot be pulled.
fn check_links(intake: &Intake, manifests: &[Key]) -> Result<(), Error> {
    for manifest in manifests.iter().filter_map(Key::digest) {
        if let Some(digest) = intake.absent(&manifest)? {
            return Err(Fault::Unlisted { name: "a layer of an image".into(), digest }.into());
        }
    }
    Ok(())
}

fn facts(digest: &Digest, bytes: &[u8]) -> Result<Facts, Error> {
    let refused = |e: ManifestError| Fault::Image { digest: digest.clone(), why: e.to_string() }.into();
    oci::facts_of(bytes, "").map_err(refused)
}

struct Writer<'a> {
    intake: &'a Intake,
    send: SyncSender<Vec<Landing>>,
    pipeline: Pipeline,
    item: Item,
    batch: Vec<Landing>,
    /// Links of the manifests in it.
    links: usize,
    bytes: u64,
    manifests: Vec<Key>,
}

impl Writer<'_> {
    fn all(&mut self, came: &mut u64) -> Result<(), Error> {
        loop {
            let (line, landing) = match self.one() {
                Ok(Some(done)) => done,
                Ok(None) => break,
                Err(error) => {
                    if !error.is_refusal() {
                        // The stick was pulled: what came whole is kept for the next try.
                        self.hand_over()?;
                    }
                    return Err(error);
                }
            };
            *came += 1;
            self.bytes += line.size;
            self.links += landing.links();
            self.batch.push(landing);
            let weight = self.batch.len() + self.links / LINKS;
            let times = (self.bytes / BATCH_BYTES).max((weight / BATCH_BLOBS) as u64);
            if times >= PATIENCE as u64 {
                self.hand_over()?;
            } else if times >= 1 {
                self.offer()?;
            }
        }
        self.hand_over()
    }

    /// Hands the batch over if the one before has landed; else it goes on growing.
    fn offer(&mut self) -> Result<(), Error> {
        match self.send.try_send(std::mem::take(&mut self.batch)) {
            Ok(()) => (self.bytes, self.links) = (0, 0),
            Err(TrySendError::Full(batch)) => self.batch = batch,
            Err(TrySendError::Disconnected(_)) => return Err(store::Error::Closed.into()),
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), Error> {
        (self.bytes, self.links) = (0, 0);
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.send.send(batch).map_err(|_| store::Error::Closed.into())
    }

    /// The next blob, written.
    fn one(&mut self) -> Result<Option<(BlobLine, Landing)>, Error> {
        let line = match self.pipeline.next()? {
            None => return Ok(None),
            Some(Step::Begin(line)) => line,
            Some(_) => return Err(store::Error::Closed.into()),
        };
        let mut incoming = self.intake.begin(&line.digest, line.size)?.hashed_by_caller();
        let mut kept = Vec::with_capacity(match line.kind {
            Content::Manifest => usize::try_from(line.size).unwrap_or_default().min(LARGEST),
            _ => 0,
        });
        loop {
            match self.pipeline.next()? {
                Some(Step::Piece(buffer)) => {
                    let piece = buffer.filled();
                    incoming.write(piece)?;
                    if line.kind == Content::Manifest {
                        kept.extend_from_slice(piece);
                    }
                    self.item.add(piece.len() as u64);
                    self.pipeline.give_back(buffer);
                }
                Some(Step::End(actual)) => {
                    // The digest is checked before anything is made of the bytes.
                    let right = actual == line.digest;
                    let facts = match line.kind == Content::Manifest && right {
                        true => Some(self.facts(&line, &kept)?),
                        false => None,
                    };
                    let landing = landed(incoming.finish_as(actual, facts), &line.digest)?;
                    return Ok(Some((line, landing)));
                }
                Some(Step::Begin(_)) | None => return Err(store::Error::Closed.into()),
            }
        }
    }

    fn facts(&mut self, line: &BlobLine, bytes: &[u8]) -> Result<Facts, Error> {
        self.manifests.push(Key::of(&line.digest));
        facts(&line.digest, bytes)
    }
}

/// A part of a blob, opened, with its steps.
pub fn part_of(
    lying: &Lying<'_>,
    part_size: u64,
    line: &BlobLine,
    index: u64,
) -> Result<(Vec<String>, std::fs::File), Error> {
    if line.kind == Content::Manifest && line.size > LARGEST_IMAGE_MANIFEST {
        let why = format!("it has {} bytes", line.size);
        return Err(Fault::Image { digest: line.digest.clone(), why }.into());
    }
    let steps = lying.steps(line, index);
    let file = lying.stick.sized(&steps, name::part_length(line.size, part_size, index))?;
    Ok((steps, file))
}

fn landed(finished: Result<Landing, store::Error>, digest: &Digest) -> Result<Landing, Error> {
    match finished {
        Ok(landing) => Ok(landing),
        Err(store::Error::DigestMismatch { .. }) => Err(Fault::Digest(digest.to_string()).into()),
        Err(error) => Err(error.into()),
    }
}

/// Keeps the manifest and the lists as blobs, to be pinned with the generation; says which they are.
///
/// # Errors
/// Where the store cannot take them.
pub fn lists(opened: &Opened, intake: &Intake) -> Result<Vec<Digest>, Error> {
    let manifest = &opened.manifest;
    let mut landings = Vec::new();
    for (spool, list) in [(&opened.blobs, &manifest.blobs), (&opened.refs, &manifest.refs)] {
        landings.extend(keep(spool, list, intake)?);
    }
    let envelope = manifest.digest();
    if !intake.has(envelope)? {
        let mut incoming = intake.begin(envelope, opened.envelope.len() as u64)?;
        incoming.write(&opened.envelope)?;
        landings.push(landed(incoming.finish(None), envelope)?);
    }
    intake.land(landings)?;
    Ok(vec![manifest.blobs.digest.clone(), manifest.refs.digest.clone(), envelope.clone()])
}

fn keep(spool: &Spool, list: &List, intake: &Intake) -> Result<Option<Landing>, Error> {
    if intake.has(&list.digest)? {
        return Ok(None);
    }
    let mut incoming = intake.begin(&list.digest, list.size)?;
    let mut reader = spool.reader()?;
    let mut buffer = vec![0; PIECE];
    loop {
        match reader.read(&mut buffer).map_err(Error::Files)? {
            0 => break,
            read => incoming.write(&buffer[..read])?,
        }
    }
    Ok(Some(landed(incoming.finish(None), &list.digest)?))
}
