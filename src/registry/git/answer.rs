//! What git clients are answered: refs, and packs that are made while they are sent.

use std::collections::HashSet;
use std::io;
use std::time::Instant;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::ask::{Band, Command, Fetch};
use super::turn::{GLANCE, Patience, Waiting};
use crate::git::cut::{self, Cut};
use crate::git::walk::{self, Ask};
use crate::git::{Error, Kind, Oid, Reader, Repository, TAGS, pack, pkt};

const AGENT: &str = concat!("agent=edge/", env!("CARGO_PKG_VERSION"));
/// What version 0 is offered.
const OFFERED: &str = "multi_ack_detailed side-band side-band-64k thin-pack ofs-delta shallow deepen-since deepen-relative no-progress include-tag allow-tip-sha1-in-want allow-reachable-sha1-in-want filter object-format=sha1";
/// Bytes that are gathered before they are sent.
const PIECE: usize = 64 << 10;

/// The answer to `info/refs` in version 2: what can be asked for.
pub(super) fn capabilities() -> Vec<u8> {
    let mut out = Vec::new();
    let lines =
        ["version 2\n", AGENT, "ls-refs\n", "fetch=shallow wait-for-done filter\n", "object-format=sha1\n"];
    for line in lines {
        pkt::put(&mut out, line.as_bytes());
    }
    out.extend_from_slice(pkt::FLUSH);
    out
}

/// The answer to `info/refs` in version 0: all refs, the first with what can be asked for.
pub(super) fn refs_zero(repository: &Repository) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    pkt::put(&mut out, b"# service=git-upload-pack\n");
    out.extend_from_slice(pkt::FLUSH);
    let mut reader = repository.objects.reader();
    let mut offers = format!("\0{OFFERED} {AGENT}");
    let mut lines = Vec::new();
    if let Some(head) = repository.refs.get(&repository.head) {
        offers.push_str(&format!(" symref=HEAD:{}", repository.head));
        lines.push(format!("{head} HEAD"));
    }
    for (name, id) in &repository.refs {
        lines.push(format!("{id} {name}"));
        if let Some(target) = peeled(&mut reader, name, id)? {
            lines.push(format!("{target} {name}^{{}}"));
        }
    }
    if lines.is_empty() {
        lines.push(format!("{} capabilities^{{}}", "0".repeat(40)));
    }
    for line in lines {
        pkt::put(&mut out, format!("{line}{}\n", std::mem::take(&mut offers)).as_bytes());
    }
    out.extend_from_slice(pkt::FLUSH);
    Ok(out)
}

/// What a tag stands for, if it is an object of its own.
fn peeled(reader: &mut Reader, name: &str, id: &Oid) -> Result<Option<Oid>, Error> {
    if !name.starts_with(TAGS) {
        return Ok(None);
    }
    let (tags, target, _) = walk::peel(reader, id)?;
    Ok((!tags.is_empty()).then_some(target))
}

/// Where an answer goes.
pub(super) struct Out {
    hand: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
    gathered: Vec<u8>,
    band: Band,
    /// Whether what comes now is a pack.
    packing: bool,
    patience: Patience,
    others: Waiting,
}

impl Out {
    pub(super) fn new(hand: mpsc::Sender<io::Result<Bytes>>, others: Waiting) -> Self {
        Self {
            hand,
            runtime: Handle::current(),
            gathered: Vec::new(),
            band: Band::None,
            packing: false,
            patience: Patience::default(),
            others,
        }
    }

    fn line(&mut self, text: impl AsRef<[u8]>) {
        pkt::put(&mut self.gathered, text.as_ref());
    }

    fn mark(&mut self, mark: &[u8]) {
        self.gathered.extend_from_slice(mark);
    }

    fn send(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.gathered);
        if bytes.is_empty() {
            return Ok(());
        }
        self.patience.sent(bytes.len());
        let hand = self.hand.clone();
        let mut sent = std::pin::pin!(hand.send(Ok(bytes.into())));
        loop {
            let left = self.patience.left(self.others.is_anybody());
            let since = Instant::now();
            // Others may come to wait while this one is waited for.
            let sent = async { tokio::time::timeout(left.min(GLANCE), &mut sent).await };
            let sent = self.runtime.block_on(sent);
            self.patience.waited(since.elapsed());
            match sent {
                Ok(Ok(())) => return Ok(()),
                Err(_) if !left.is_zero() => {}
                // Gone, or as good as: it holds the place of another.
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// Reads for a client, as long as it is there.
    fn reader(&self, repository: &Repository) -> Reader {
        let hand = self.hand.clone();
        repository.objects.reader().unless(move || hand.is_closed())
    }

    /// Says why there is no more.
    fn fail(&mut self, error: &Error) {
        match (self.packing, self.band) {
            (true, Band::Of(_)) => self.line([b"\x03", error.to_string().as_bytes()].concat()),
            (true, Band::None) => {}
            (false, _) => self.line(format!("ERR {error}")),
        }
        // A client that is gone need not know.
        let _ = self.send();
        // No line can be told from a pack that comes bare.
        if self.packing && self.band == Band::None {
            let _ = self.hand.try_send(Err(io::Error::other("the pack cannot be made")));
        }
    }
}

/// A pack's bytes.
impl io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.band {
            Band::None => self.gathered.extend_from_slice(bytes),
            Band::Of(most) => {
                for piece in bytes.chunks(most) {
                    pkt::put(&mut self.gathered, &[b"\x01", piece].concat());
                }
            }
        }
        if self.gathered.len() >= PIECE {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// Answers a request of version 2.
pub(super) fn two(repository: &Repository, command: &Command, out: &mut Out) {
    let answered = match command {
        Command::Refs { prefixes, symrefs, peel } => list(repository, prefixes, (*symrefs, *peel), out),
        Command::Fetch(fetch) => fetch_two(repository, fetch, out),
    };
    end(answered, out);
}

/// Answers a request of version 0.
pub(super) fn zero(repository: &Repository, fetch: &Fetch, out: &mut Out) {
    end(fetch_zero(repository, fetch, out), out);
}

fn end(answered: Result<(), Error>, out: &mut Out) {
    match answered {
        Ok(()) => drop(out.send()),
        Err(error) => {
            tracing::warn!(%error, "a git client did not get what it asked for");
            out.fail(&error);
        }
    }
}

fn list(
    repository: &Repository,
    prefixes: &[String],
    (symrefs, peel): (bool, bool),
    out: &mut Out,
) -> Result<(), Error> {
    let wanted =
        |name: &str| prefixes.is_empty() || prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()));
    if let Some(head) = repository.refs.get(&repository.head)
        && wanted("HEAD")
    {
        let target = if symrefs { format!(" symref-target:{}", repository.head) } else { String::new() };
        out.line(format!("{head} HEAD{target}\n"));
    }
    let mut reader = out.reader(repository);
    for (name, id) in repository.refs.iter().filter(|(name, _)| wanted(name)) {
        let target = if peel { peeled(&mut reader, name, id)? } else { None };
        let target = target.map(|target| format!(" peeled:{target}")).unwrap_or_default();
        out.line(format!("{id} {name}{target}\n"));
    }
    out.mark(pkt::FLUSH);
    Ok(())
}

/// What of a client's haves is here.
fn common(repository: &Repository, fetch: &Fetch) -> Vec<Oid> {
    fetch.haves.iter().filter(|id| repository.objects.has(id)).copied().collect()
}

/// Whether what is common is enough for a good pack: all that is wanted has some of it behind.
fn is_ready(reader: &mut Reader, fetch: &Fetch, common: &[Oid]) -> Result<bool, Error> {
    let goals: HashSet<Oid> = common.iter().copied().collect();
    if goals.is_empty() {
        return Ok(fetch.wants.is_empty());
    }
    walk::all_reach(reader, &fetch.wants, &goals)
}

fn fetch_two(repository: &Repository, fetch: &Fetch, out: &mut Out) -> Result<(), Error> {
    known(repository, fetch)?;
    let mut reader = out.reader(repository);
    let common = common(repository, fetch);
    if !fetch.done && !fetch.haves.is_empty() {
        out.line("acknowledgments\n");
        for id in &common {
            out.line(format!("ACK {id}\n"));
        }
        if common.is_empty() {
            out.line("NAK\n");
        }
        if fetch.wait_for_done || !is_ready(&mut reader, fetch, &common)? {
            out.mark(pkt::FLUSH);
            return Ok(());
        }
        out.line("ready\n");
        out.mark(pkt::DELIMITER);
    }
    let cut = cut(&mut reader, fetch)?;
    if let Some(cut) = &cut {
        out.line("shallow-info\n");
        tell_cut(cut, out);
        out.mark(pkt::DELIMITER);
    }
    out.line("packfile\n");
    send_pack(repository, (&mut reader, fetch, common, cut), out)
}

fn fetch_zero(repository: &Repository, fetch: &Fetch, out: &mut Out) -> Result<(), Error> {
    if fetch.wants.is_empty() {
        return Ok(());
    }
    known(repository, fetch)?;
    let mut reader = out.reader(repository);
    let cut = cut(&mut reader, fetch)?;
    if let Some(cut) = &cut {
        tell_cut(cut, out);
        out.mark(pkt::FLUSH);
    }
    if fetch.only_wants {
        return Ok(());
    }
    let common = common(repository, fetch);
    if fetch.detailed {
        for id in &common {
            out.line(format!("ACK {id} common\n"));
        }
    }
    let last = common.last();
    match (fetch.done, fetch.detailed, last) {
        (false, true, Some(last)) => {
            if is_ready(&mut reader, fetch, &common)? {
                out.line(format!("ACK {last} ready\n"));
            }
            out.line("NAK\n");
        }
        (true, true, Some(last)) => out.line(format!("ACK {last}\n")),
        (_, false, Some(_)) => out.line(format!("ACK {}\n", common[0])),
        (_, _, None) => out.line("NAK\n"),
    }
    if !fetch.done {
        return Ok(());
    }
    send_pack(repository, (&mut reader, fetch, common, cut), out)
}

/// All that is wanted must be here.
fn known(repository: &Repository, fetch: &Fetch) -> Result<(), Error> {
    match fetch.wants.iter().find(|id| !repository.objects.has(id)) {
        Some(absent) => Err(Error::Missing(*absent)),
        None => Ok(()),
    }
}

fn cut(reader: &mut Reader, fetch: &Fetch) -> Result<Option<Cut>, Error> {
    let Some(depth) = fetch.depth else { return Ok(None) };
    cut::cut(reader, &fetch.wants, &fetch.shallow, depth).map(Some)
}

fn tell_cut(cut: &Cut, out: &mut Out) {
    for id in &cut.shallow {
        out.line(format!("shallow {id}"));
    }
    for id in &cut.unshallow {
        out.line(format!("unshallow {id}"));
    }
}

fn send_pack(
    repository: &Repository,
    (reader, fetch, common, cut): (&mut Reader, &Fetch, Vec<Oid>, Option<Cut>),
    out: &mut Out,
) -> Result<(), Error> {
    let mut ask = Ask {
        wants: fetch.wants.clone(),
        haves: common,
        client_shallow: fetch.shallow.iter().filter(|id| repository.objects.has(id)).copied().collect(),
        without_blobs: fetch.without_blobs,
        ..Ask::default()
    };
    ask.shallow.clone_from(&ask.client_shallow);
    if let Some(cut) = cut {
        for id in &cut.unshallow {
            ask.wants.extend(walk::commit(reader, id)?.parents);
        }
        ask.shallow = cut.shallow.into_iter().collect();
    }
    let mut ids = walk::objects(reader, &ask)?;
    if fetch.include_tag {
        tags(reader, repository, &mut ids)?;
    }
    (out.band, out.packing) = (fetch.band, true);
    pack::write(&repository.objects, &ids, &mut *out)?;
    if out.band != Band::None {
        out.mark(pkt::FLUSH);
    }
    Ok(())
}

/// Adds the tags of what is sent.
fn tags(reader: &mut Reader, repository: &Repository, ids: &mut Vec<Oid>) -> Result<(), Error> {
    let sent: HashSet<Oid> = ids.iter().copied().collect();
    for (_, id) in repository.refs.iter().filter(|(name, _)| name.starts_with(TAGS)) {
        let (tags, target, kind) = walk::peel(reader, id)?;
        if kind == Kind::Commit && sent.contains(&target) {
            ids.extend(tags.into_iter().filter(|tag| !sent.contains(tag)));
        }
    }
    let mut once = HashSet::new();
    ids.retain(|id| once.insert(*id));
    Ok(())
}
