//! Makes a bundle on a stick: blobs first, then the lists, then what is signed; read back before it is called good.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::gather::{Gathered, Key, Selection, gather};
use super::list::Content;
use super::manifest::{self, Audience, Layout, Manifest, Totals};
use super::put::Folder;
use super::receipt::{self, Believed, Receipt};
use super::stick::{Stick, is_finished};
use super::write::Writer;
use super::{Error, name, readback, turn};
use crate::store::Store;
use crate::sys::digest::Digest;
use crate::sys::durable;
use crate::sys::progress::Progress;
use crate::trust::{Chain, Envelope, SecretKey, gateway, is_name, root_file_name, sequence};

/// Files in one folder beyond which blobs are spread over many. FAT32 takes about 10,900 names of this length.
const MOST_FLAT: u64 = 8_192;
/// What a file or folder takes beside its bytes, at the most.
const OVERHEAD: u64 = 64 << 10;

/// Bytes of a line in a receipt's list of blobs.
const HAVE_LINE: u64 = 72;

/// Days before its end from which a root is told to be renewed: a stick may be under way for weeks.
const NEAR_END: i64 = 60;

/// What is to be made.
#[derive(Debug)]
pub struct Plan {
    /// Whose refs these are.
    pub stream: String,
    /// The top of the stick.
    pub to: PathBuf,
    /// What goes in.
    pub selection: Selection,
    /// Whom it is for.
    pub audience: Audience,
    /// Until when it may be used.
    pub not_after: Option<Timestamp>,
    /// For people.
    pub notes: String,
    /// Receipts of the gateways that it is for; with none it is full.
    pub receipts: Vec<Believed>,
    /// Bytes of a part; [`PART_SIZE`] but for tests.
    pub part_size: u64,
    /// Where the depot remembers what it made.
    pub records: PathBuf,
    /// Now.
    pub created: Timestamp,
}

/// Bytes of a part: FAT32 takes files of 4 GiB less one byte, and some cameras' sticks only of 2 GiB.
pub const PART_SIZE: u64 = 2 << 30;

/// What was made.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Made {
    /// Where.
    pub folder: PathBuf,
    /// Its stream.
    pub stream: String,
    /// Its number.
    pub seq: u64,
    /// The envelope's digest.
    pub manifest: Digest,
    /// Snapshots that it builds on.
    pub bases: Vec<Digest>,
    /// Refs of the state.
    pub refs: u64,
    /// Blobs of the state, and their bytes.
    pub blobs: u64,
    /// Bytes of the state.
    pub bytes: u64,
    /// Blobs that lie in the bundle.
    pub carried: u64,
    /// Their bytes.
    pub carried_bytes: u64,
}

/// What a depot remembers of a stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    seq: u64,
    manifest: Option<Digest>,
}

/// Makes the bundle. When this returns, the stick may be pulled.
///
/// # Errors
/// [`Error`]; what was half made is removed, at once or, from a stick that was pulled, when the next one is made.
pub fn create(
    store: &Store,
    chain: &Chain,
    keys: &[SecretKey],
    plan: &Plan,
    progress: &Progress,
) -> Result<Made, Error> {
    if !is_name(&plan.stream) {
        let why = format!("`{}` cannot name a stream: small letters, digits, `-` and `.`", plan.stream);
        return Err(Error::Usage(why));
    }
    check_root(chain, plan.created, progress)?;
    // From here on, so that of two bundles the one with the higher number holds what is newer.
    let _number = turn::make(&plan.records, &plan.stream, progress)?;
    let _hold = store.hold();
    let mut gathered = gather(store, &plan.selection, &plan.records)?;
    gathered.lacking.drain(..).for_each(|line| progress.note(line));
    if gathered.names.is_empty()? && gathered.system.is_none() {
        return Err(Error::Usage("there is nothing in the store to put into a bundle".into()));
    }
    // A system is always carried: no gateway keeps the one that it runs.
    let keepable = gathered.blobs.iter().filter(|(_, fact)| fact.kind != Content::System);
    let there = receipt::common(&plan.receipts, keepable.map(|(key, _)| key))?;
    let totals = totals_of(&gathered, &there);
    let record = read_record(plan)?;
    let seq = next_seq(plan, record.as_ref(), progress)?;
    let bundles = plan.to.join(name::BUNDLES);
    // The lists of what each gateway has come back on the same stick.
    let receipts = plan.audience.gateways.len().max(1) as u64;
    let lines = receipts.saturating_mul(HAVE_LINE).saturating_add(256);
    let bytes = totals.carried_bytes.saturating_add(totals.blobs.saturating_mul(lines));
    let room = || check_room(&plan.to, &plan.stream, bytes, totals.carried);
    std::fs::read_dir(&plan.to).map_err(|e| Error::Stick(durable::named(e, "open", &plan.to)))?;
    // On a new stick there is nothing to clear, and where it is too small not even a folder is left behind.
    if !bundles.exists() {
        room()?;
    }
    let _stick = turn::write(Folder::make(&bundles)?, &plan.to, progress)?;
    clear(&bundles, &plan.stream)?;
    room()?;
    let folder = bundles.join(name::folder(&plan.stream, seq));
    std::fs::create_dir(&folder).map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Error::NumberTaken { folder: folder.clone(), record: record_path(plan) }
        }
        _ => Error::Stick(durable::named(e, "make", &folder)),
    })?;
    let files = totals.carried + totals.carried_bytes / plan.part_size.max(1);
    let layout = if files > MOST_FLAT { Layout::Sharded } else { Layout::Flat };
    let writer = Writer { store, gathered: &gathered, there: &there, folder: &folder, layout, plan };
    let previous = record.and_then(|record| record.manifest);
    let (manifest, digest) = match fill(&writer, chain, keys, totals, (seq, previous), progress) {
        Ok(done) => done,
        Err(error) => {
            // Nobody shall take it for the newest bundle. Where the stick is gone, whoever reads it passes it over.
            if let Err(left) = std::fs::remove_dir_all(&folder) {
                tracing::debug!(folder = %folder.display(), %left, "what was half made stays");
            }
            return Err(error);
        }
    };
    Ok(Made {
        folder,
        stream: plan.stream.clone(),
        seq,
        manifest: digest,
        bases: manifest.bases,
        refs: manifest.refs.lines,
        blobs: totals.blobs,
        bytes: totals.bytes,
        carried: totals.carried,
        carried_bytes: totals.carried_bytes,
    })
}

/// Writes all of a bundle into its folder, syncs it and reads it back; gives what was signed, and its envelope's digest.
fn fill(
    writer: &Writer<'_>,
    chain: &Chain,
    keys: &[SecretKey],
    totals: Totals,
    (seq, previous): (u64, Option<Digest>),
    progress: &Progress,
) -> Result<(Manifest, Digest), Error> {
    let Writer { gathered, folder, layout, plan, .. } = *writer;
    let format = format!("{}\n", manifest::FORMAT);
    let mut small = vec![(vec![name::FORMAT.to_owned()], format.as_bytes())];
    let by_steps = |(version, root)| (vec![name::TRUST.to_owned(), root_file_name(version)], root);
    small.extend(chain.files().map(by_steps));
    writer.small(&small)?;
    let blobs = writer.blobs(&totals, progress)?;
    let refs = writer.refs()?;
    if layout == Layout::Flat {
        writer.for_others()?;
    }
    let manifest = Manifest {
        format: manifest::FORMAT.into(),
        importer: if gathered.system.is_some() { manifest::IMPORTER } else { manifest::FIRST_IMPORTER },
        stream: plan.stream.clone(),
        seq,
        previous,
        bases: bases_of(&plan.receipts),
        snapshot: refs.digest.clone(),
        audience: plan.audience.clone(),
        created: plan.created,
        not_after: plan.not_after,
        root: chain.current().version,
        notes: plan.notes.clone(),
        layout,
        part_size: plan.part_size,
        totals,
        blobs,
        refs,
        system: gathered.system.clone(),
    };
    manifest.check()?;
    let envelope = seal(&manifest, keys)?;
    let digest = Digest::sha256(&envelope);
    // From here on the number is used, whether or not the stick survives.
    write_record(plan, &Record { seq, manifest: Some(digest.clone()) })?;
    writer.put(name::MANIFEST, &envelope)?;
    small.push((vec![name::MANIFEST.to_owned()], &envelope));
    readback::sync(folder)?;
    readback::check(folder, &manifest, &small, progress)?;
    writer.put(name::COMPLETE, b"made, synced and read back\n")?;
    readback::sync(folder)?;
    Ok((manifest, digest))
}

/// Refuses a root under which no gateway would take what is made now, and says when its end comes near: a next root reaches
/// gateways by bundles alone, and those must still be believed.
fn check_root(chain: &Chain, created: Timestamp, progress: &Progress) -> Result<(), Error> {
    let root = chain.current();
    let Some(expires) = root.expires else { return Ok(()) };
    let hint = "hint: `edge trust rotate --keys KEYS --expires DATE`, then `edge trust sign`";
    if expires <= created {
        return Err(Error::Usage(format!("root version {} has expired at {expires} {hint}", root.version)));
    }
    let days = (expires.as_second() - created.as_second()) / 86_400;
    if days < NEAR_END {
        progress.note(format!("root version {} expires in {days} days, at {expires} {hint}", root.version));
    }
    Ok(())
}

/// The number after the last that this depot made. Where it does not remember any, receipts tell, and the bundles that lie on
/// the stick: a new depot goes on with an old stream. A receipt is one gateway's word for all others, and nobody's word is what
/// a stick holds, so they move the number no further than a gateway that has nothing yet follows, and not at all where the
/// depot itself knows.
fn next_seq(plan: &Plan, record: Option<&Record>, progress: &Progress) -> Result<u64, Error> {
    let most = record.map_or(sequence::MOST_AHEAD - 1, |record| record.seq);
    let mut last = record.map_or(0, |record| record.seq);
    for Receipt { gateway, seq, .. } in plan.receipts.iter().map(|believed| &believed.receipt) {
        if *seq <= most {
            last = last.max(*seq);
            continue;
        }
        let stream = &plan.stream;
        progress.note(match record {
            Some(record) => format!(
                "the number of gateway `{gateway}`'s receipt is ignored: it says {stream}-{seq}, and the last that was made \
                 here is {stream}-{} hint: if this depot was put back to an older state, remove `{}`",
                record.seq,
                record_path(plan).display()
            ),
            None => format!(
                "the number of gateway `{gateway}`'s receipt is ignored: no stream begins beyond {most}, and it says \
                 {stream}-{seq} hint: look at what that gateway has imported"
            ),
        });
    }
    if record.is_none() {
        let there = finished(&plan.to.join(name::BUNDLES), &plan.stream);
        if let Some((seq, _)) = there.into_iter().filter(|(seq, _)| *seq <= most && *seq > last).max() {
            last = seq;
            progress.note(format!(
                "this depot remembers nothing of stream `{0}`, and goes on after {0}-{seq}, which lies on the stick",
                plan.stream
            ));
        }
    }
    let used_up =
        || Error::Usage(format!("stream `{}` has no numbers left hint: begin another", plan.stream));
    last.checked_add(1).ok_or_else(used_up)
}

fn seal(manifest: &Manifest, keys: &[SecretKey]) -> Result<Vec<u8>, Error> {
    let payload = serde_json::to_vec(manifest).map_err(|e| Error::Usage(e.to_string()))?;
    let mut envelope = Envelope::unsigned(manifest::PAYLOAD_TYPE, &payload);
    for key in keys {
        envelope.sign(key)?;
    }
    let bytes = envelope.to_bytes();
    if bytes.len() as u64 > manifest::LARGEST {
        return Err(Error::Usage("the notes or the audience are too long for one manifest".into()));
    }
    Ok(bytes)
}

fn totals_of(gathered: &Gathered, there: &BTreeSet<&Key>) -> Totals {
    let mut totals = Totals::default();
    for (key, fact) in &gathered.blobs {
        totals.blobs += 1;
        totals.bytes += fact.size;
        if !there.contains(key) {
            totals.carried += 1;
            totals.carried_bytes += fact.size;
        }
    }
    totals
}

fn bases_of(receipts: &[Believed]) -> Vec<Digest> {
    let bases: BTreeSet<&Digest> = receipts.iter().map(|believed| &believed.receipt.snapshot).collect();
    bases.into_iter().cloned().collect()
}

/// Removes bundles of this stream that were never completed.
fn clear(bundles: &Path, stream: &str) -> Result<(), Error> {
    let Ok(entries) = std::fs::read_dir(bundles) else { return Ok(()) };
    for entry in entries.flatten() {
        let ours = entry.file_name().to_str().and_then(name::parse_folder).is_some_and(|(s, _)| s == stream);
        let path = entry.path();
        if ours && path.is_dir() && !path.join(name::COMPLETE).exists() {
            std::fs::remove_dir_all(&path).map_err(|e| Error::Stick(durable::named(e, "remove", &path)))?;
        }
    }
    Ok(())
}

/// The finished bundles of a stream in `bundles`, by number, in no order. Where it cannot be seen there are none.
fn finished(bundles: &Path, stream: &str) -> Vec<(u64, PathBuf)> {
    let entries = std::fs::read_dir(bundles).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let text = entry.file_name();
        let (_, seq) = text.to_str().and_then(name::parse_folder).filter(|(theirs, _)| *theirs == stream)?;
        Some((seq, entry.path()))
    });
    found.filter(|(_, folder)| is_finished(folder)).collect()
}

/// Refuses where `files` of so many bytes together do not fit, and names what lies there of `stream`.
///
/// # Errors
/// [`Error::NoRoom`].
pub(super) fn check_room(to: &Path, stream: &str, bytes: u64, files: u64) -> Result<(), Error> {
    let stat = rustix::fs::statvfs(to)
        .map_err(|e| Error::Stick(durable::named(e.into(), "read the free space of", to)))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let block = stat.f_frsize.min(OVERHEAD);
    let needed = bytes.saturating_add(files.saturating_mul(block)).saturating_add(OVERHEAD);
    if free < needed {
        let mut older = finished(&to.join(name::BUNDLES), stream);
        older.sort_unstable();
        let older = older.iter().map(|(seq, folder)| (name::folder(stream, *seq), claimed_bytes(folder)));
        return Err(Error::NoRoom { folder: to.to_owned(), free, needed, older: older.collect() });
    }
    Ok(())
}

/// The bytes that the bundle in `folder` says it carries, for people; nothing is believed of it.
fn claimed_bytes(folder: &Path) -> u64 {
    let read = Stick::open(folder).and_then(|stick| stick.small(&[name::MANIFEST], manifest::LARGEST));
    let claimed = read
        .ok()
        .flatten()
        .and_then(|bytes| gateway::peek::<Manifest>(&bytes, name::MANIFEST, manifest::LARGEST).ok());
    claimed.map_or(0, |manifest| manifest.totals.carried_bytes)
}

fn record_path(plan: &Plan) -> PathBuf {
    plan.records.join(format!("{}.json", plan.stream))
}

fn read_record(plan: &Plan) -> Result<Option<Record>, Error> {
    let path = record_path(plan);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::Usage(format!("`{}` is damaged: {e}", path.display()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::Files(durable::named(e, "read", &path))),
    }
}

fn write_record(plan: &Plan, record: &Record) -> Result<(), Error> {
    durable::folder(&plan.records, 0o700).map_err(Error::Files)?;
    let bytes = serde_json::to_vec(record).map_err(|e| Error::Files(e.into()))?;
    durable::write(&record_path(plan), &bytes, 0o600).map_err(Error::Files)
}
