//! Sends the images and charts that the mirror holds to another registry.

mod about;
mod charts;
mod sparse;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::Serialize;
use tokio::io::AsyncReadExt as _;

use super::Parts;
use super::error::{Error, Failure};
use super::fetch::Wire;
use super::image::{self, Closure, Known};
use super::pace::Pace;
use super::plan::{ImageName, Terms};
use crate::oci::{ParsedManifest, Upstream};
use crate::store::Owner;
use crate::sys::digest::Digest;
use crate::sys::progress::{Progress, Unit};
use sparse::Instead;

/// Images that are sent at the same time, and blobs of one.
const IMAGES: usize = 2;
const BLOBS: usize = 4;
/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// What was sent.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pushed {
    /// Where to.
    pub registry: String,
    /// Images, with what failed.
    pub images: Vec<Sent>,
    /// Charts of web servers, which become charts in a registry, with what failed.
    pub charts: Vec<Sent>,
    /// Bytes that travelled.
    pub bytes: u64,
    /// How many failed.
    pub failed: usize,
}

/// One image or chart.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sent {
    /// As it is called there.
    pub name: String,
    /// What else was sent in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Why it was not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Sends all to `registry`, `host[:port][/prefix]`: below the prefix an image has its whole name, host included.
///
/// # Errors
/// [`Error`]; what fails of single images is in the result.
pub async fn push(
    parts: &Parts,
    registry: &str,
    insecure: bool,
    progress: &Progress,
) -> Result<Pushed, Error> {
    let (host, prefix) = place(registry).map_err(Error::Name)?;
    let _seat = parts.desk.take()?;
    let _hold = parts.store.hold();
    let limits = (parts.settings.bandwidth_limit, parts.settings.parallel);
    let wire =
        Wire::new(Arc::new(parts.client().await?), parts.store.clone(), progress.clone(), limits, None);
    let store = parts.store.clone();
    let read = move || store.state_of(&Owner::Mirror);
    let state = tokio::task::spawn_blocking(read).await.map_err(|_| Error::Ended)??;
    let mut refs = state.refs;
    // What hangs on images goes after them.
    refs.sort_by_key(|entry| (super::filter::is_attachment(&entry.name), entry.name.contains(':')));
    let to = Target {
        upstream: Upstream::at(host, insecure),
        prefix: prefix.to_owned(),
        sent: AtomicU64::new(0),
        lists: tokio::sync::Mutex::default(),
    };
    let mut results = Vec::new();
    let (first, last): (Vec<_>, Vec<_>) = refs
        .into_iter()
        .partition(|entry| !super::filter::is_attachment(&entry.name) && !entry.name.contains(':'));
    for group in [first, last] {
        let sends = group.into_iter().map(|entry| {
            let image = ImageName { repository: entry.repository, name: entry.name };
            let (to, wire) = (&to, &wire);
            async move {
                let name = format!("{host}/{}:{}", to.path(&image), image.name);
                sent(name, send(wire, to, &image, &entry.digest).await)
            }
        });
        results.extend(stream::iter(sends).buffered(IMAGES).collect::<Vec<_>>().await);
    }
    let mut charts = Vec::with_capacity(state.charts.len());
    for chart in &state.charts {
        let (path, tag) = charts::place(&to, chart);
        let done = charts::send(&wire, &to, chart).await;
        charts.push(sent(format!("{host}/{path}:{tag}"), done.map(|()| None)));
    }
    let failed = results.iter().chain(&charts).filter(|sent| sent.error.is_some()).count();
    Ok(Pushed {
        registry: registry.to_owned(),
        images: results,
        charts,
        bytes: to.sent.load(Ordering::Relaxed),
        failed,
    })
}

fn sent(name: String, done: Result<Option<String>, Failure>) -> Sent {
    match done {
        Ok(note) => Sent { name, note, error: None },
        Err(failure) => Sent { name, note: None, error: Some(failure.to_string()) },
    }
}

/// Host and prefix of `host[:port][/prefix]`, or why it is none.
fn place(registry: &str) -> Result<(&str, &str), String> {
    let rest = registry.trim_end_matches('/');
    let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    // An IPv6 address has colons of its own, in brackets.
    let port = host.rsplit_once(':').filter(|_| !host.ends_with(']'));
    let (name, port) = port.map_or((host, None), |(name, port)| (name, Some(port)));
    let is_host = !name.is_empty() && (name.contains(['.', ':']) || port.is_some() || name == "localhost");
    if registry.contains("://") || !is_host || port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(format!(
            "`{registry}` names no registry hint: write a host such as `harbor.example.com/edge`; `--insecure` speaks plain HTTP"
        ));
    }
    Ok((host, prefix))
}

struct Target {
    upstream: Upstream,
    prefix: String,
    sent: AtomicU64,
    /// Who has it may change lists of what is about something.
    lists: tokio::sync::Mutex<()>,
}

impl Target {
    /// A port's colon cannot stand in a path.
    fn path(&self, image: &ImageName) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("{}{slash}{}", self.prefix, image.repository.replace(':', "-"))
    }
}

/// Sends an image, unless it is there; says what went in its place, if that is not the whole of it.
async fn send(
    wire: &Wire,
    to: &Target,
    image: &ImageName,
    digest: &Digest,
) -> Result<Option<String>, Failure> {
    let path = to.path(image);
    let there = is_there(wire, to, &path, &image.name, digest).await?;
    let closure = local(wire, digest).await?;
    let Some((last, children)) = closure.manifests.split_last() else {
        return if there { Ok(None) } else { Err(Failure::Ended) };
    };
    let mut coming = Vec::new();
    for child in children {
        // When the index was sent, less of it may have been here.
        if !there || !is_there(wire, to, &path, child.digest.as_str(), &child.digest).await? {
            coming.push(child);
        }
    }
    let own = (!there).then_some(last);
    send_blobs(wire, to, &path, coming.iter().copied().chain(own), &image.to_string()).await?;
    let is_list = about::is_list(&image.name, last);
    for child in coming {
        put(wire, to, &path, child.digest.as_str(), &child.parsed.media_type, &child.bytes).await?;
    }
    // Also of what was there already: the last time it may have come to the one and not to the other.
    let mut unlisted = None;
    for child in children.iter().filter(|_| !is_list) {
        unlisted = unlisted.or(listed(about::list(wire, to, &path, child).await)?);
    }
    let done = match there {
        true => Ok(()),
        false if is_list => about::put_list(wire, to, &path, &image.name, last).await,
        false => put(wire, to, &path, &image.name, &last.parsed.media_type, &last.bytes).await,
    };
    let refusal = match done {
        Ok(()) => return Ok(unlisted.or(listed(about::list(wire, to, &path, last).await)?)),
        Err(failure) if failure.may_pass() => return Err(failure),
        Err(refusal) => refusal,
    };
    let here: BTreeSet<&Digest> = children.iter().map(|known| &known.digest).collect();
    if !sparse::is_sparse(last, &here) {
        return Err(refusal);
    }
    let Instead { media_type, bytes, note } = sparse::instead(last, children, &image.name, &refusal)?;
    put(wire, to, &path, &image.name, &media_type, &bytes).await.map(|()| Some(note))
}

/// What is said of a manifest that is there, and that clients do not find by what it is about. What may pass is a failure:
/// the next run tries again.
fn listed(done: Result<(), Failure>) -> Result<Option<String>, Failure> {
    match done {
        Ok(()) => Ok(None),
        Err(failure) if failure.may_pass() => Err(failure),
        Err(failure) => Ok(Some(format!("nobody finds it there by what it is about: {failure}"))),
    }
}

/// Whether the registry has this manifest under a name.
async fn is_there(
    wire: &Wire,
    to: &Target,
    path: &str,
    name: &str,
    digest: &Digest,
) -> Result<bool, Failure> {
    let head = async || wire.client.head_manifest(&to.upstream, path, name).await;
    match wire.ask(&to.upstream.host, head).await {
        Ok(head) => Ok(head.digest.as_ref() == Some(digest)),
        Err(failure) if failure.is_absent() => Ok(false),
        Err(failure) => Err(failure),
    }
}

async fn put(
    wire: &Wire,
    to: &Target,
    path: &str,
    name: &str,
    media_type: &str,
    bytes: &Bytes,
) -> Result<(), Failure> {
    let put = async || wire.client.push_manifest(&to.upstream, path, name, media_type, bytes.clone()).await;
    wire.ask(&to.upstream.host, put).await
}

async fn send_blobs(
    wire: &Wire,
    to: &Target,
    path: &str,
    manifests: impl Iterator<Item = &Known>,
    of: &str,
) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    let blobs = manifests.flat_map(|known| known.parsed.blobs());
    let blobs: Vec<_> = blobs.filter(|blob| seen.insert(blob.digest.clone())).collect();
    stream::iter(blobs.into_iter().map(|blob| send_blob(wire, to, path, &blob.digest, of)))
        .buffer_unordered(BLOBS)
        .try_for_each(|()| async { Ok(()) })
        .await
}

/// What is here of an image: a sparse index has only some of its images.
async fn local(wire: &Wire, digest: &Digest) -> Result<Closure, Failure> {
    let mut closure = Closure { manifests: Vec::new(), missing: Vec::new() };
    let mut stack = vec![digest.clone()];
    while let Some(digest) = stack.pop() {
        match image::closure(wire, None, &digest, &Terms::default()).await {
            Ok(one) => closure.manifests.extend(one.manifests),
            Err(failure) if failure.is_absent() => {
                // An index of which something is not here: its images one by one, itself last.
                let Some(known) = image::here(wire, &digest).await? else { return Err(failure) };
                let mut inner = Vec::new();
                for child in children(&known.parsed) {
                    match image::closure(wire, None, &child, &Terms::default()).await {
                        Ok(one) => inner.extend(one.manifests),
                        Err(failure) if failure.is_absent() => {}
                        Err(failure) => return Err(failure),
                    }
                }
                closure.manifests.extend(inner);
                closure.manifests.push(known);
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(closure)
}

fn children(parsed: &ParsedManifest) -> Vec<Digest> {
    parsed.manifests.iter().map(|child| child.digest.clone()).collect()
}

async fn send_blob(wire: &Wire, to: &Target, path: &str, digest: &Digest, of: &str) -> Result<(), Failure> {
    let host = &to.upstream.host;
    if wire.ask(host, async || wire.client.has_blob(&to.upstream, path, digest).await).await? {
        return Ok(());
    }
    let wanted = digest.clone();
    let blob = wire.blocking(move |store| store.blob(None, &wanted)).await?;
    let Some(blob) = blob else {
        let why = format!("`{digest}` is not here");
        return Err(Failure::Upstream { why, unreachable: false, absent: true });
    };
    let _place = wire.place().await?;
    let item = wire.progress.item(format!("{of} {}", &digest.hex()[..12]), Some(blob.size), Unit::Bytes);
    let item = Arc::new(Mutex::new(item));
    let put = async || {
        let file = blob.open().map_err(|e| crate::oci::Error::Setup(e.to_string()))?;
        let told = item.clone();
        item.lock().unwrap_or_else(PoisonError::into_inner).anew();
        let bytes = pieces(tokio::fs::File::from_std(file), wire.pace.clone()).inspect_ok(move |piece| {
            told.lock().unwrap_or_else(PoisonError::into_inner).add(piece.len() as u64);
        });
        wire.client.push_blob(&to.upstream, path, digest, blob.size, bytes).await
    };
    wire.ask(host, put).await?;
    to.sent.fetch_add(blob.size, Ordering::Relaxed);
    item.lock().unwrap_or_else(PoisonError::into_inner).finish();
    Ok(())
}

/// A file's bytes, no faster than they may go.
fn pieces(
    file: tokio::fs::File,
    pace: Arc<Pace>,
) -> impl stream::Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::unfold((file, pace), |(mut file, pace)| async move {
        let mut buffer = vec![0; PIECE];
        match file.read(&mut buffer).await {
            Ok(0) => None,
            Ok(n) => {
                buffer.truncate(n);
                pace.take(n).await;
                Some((Ok(buffer.into()), (file, pace)))
            }
            Err(e) => Some((Err(e), (file, pace))),
        }
    })
}

#[cfg(test)]
mod tests;
