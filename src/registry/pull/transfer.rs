//! One blob on its way from an upstream into the store, and those who follow it while it grows.
//!
//! Followers read the upload's file. The last byte is held back until the digest was checked and the blob is on disk, so
//! that nobody takes a wrong one for whole.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::oci::{Client, Error as OciError, FetchedBlob, Upstream};
use crate::registry::reply::{Body, read_at};
use crate::registry::spool::{Spool, SpoolError};
use crate::store::{Error as StoreError, Store, Upload};
use crate::sys::digest::Digest;

/// Times that a broken connection is taken up again.
const TRIES: u32 = 4;
/// Bytes that a follower reads at once.
const PIECE: u64 = 256 << 10;
/// Pieces that wait for a follower's connection.
const WAITING: usize = 4;

/// How far a transfer is.
#[derive(Clone, Debug)]
enum State {
    /// The upstream has not answered yet.
    Asking,
    /// Bytes come.
    Running { file: Arc<File>, size: Option<u64>, written: u64 },
    /// On disk, and as its digest says.
    Done { file: Arc<File>, size: u64 },
    /// It will not come.
    Failed,
}

pub(in crate::registry) struct Transfer(watch::Receiver<State>);

/// The end of a transfer that fetches.
pub(in crate::registry) struct Progress(watch::Sender<State>);

/// Why a blob did not come.
#[derive(Debug, thiserror::Error)]
pub(in crate::registry) enum Failure {
    #[error(transparent)]
    Upstream(OciError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a task ended unexpectedly")]
    Ended,
}

impl From<SpoolError> for Failure {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::Store(error) => Self::Store(error),
            SpoolError::Ended => Self::Ended,
        }
    }
}

impl Progress {
    /// Tells all followers how it ended.
    pub(super) fn end(&self, good: bool) {
        self.0.send_modify(|state| {
            *state = match std::mem::replace(state, State::Failed) {
                State::Running { file, written, .. } if good => State::Done { file, size: written },
                _ => State::Failed,
            };
        });
    }

    fn running(&self, reader: &Arc<File>, total: Option<u64>, at: u64) {
        self.0.send_replace(State::Running { file: reader.clone(), size: total, written: at });
    }
}

impl Transfer {
    pub(in crate::registry) fn new() -> (Arc<Self>, Progress) {
        let (tell, state) = watch::channel(State::Asking);
        (Arc::new(Self(state)), Progress(tell))
    }

    /// Calls `tell` with the bytes that are here and the size if it is known, each time they change, until it is over.
    pub(in crate::registry) async fn watch(&self, mut tell: impl FnMut(u64, Option<u64>)) {
        let mut state = self.0.clone();
        loop {
            if let State::Running { written, size, .. } = &*state.borrow_and_update() {
                tell(*written, *size);
            }
            if state.changed().await.is_err() {
                return;
            }
        }
    }

    /// Waits until it is over, however it went.
    pub(in crate::registry) async fn ended(&self) {
        self.watch(|_, _| ()).await;
    }

    /// Waits until the upstream answers; then the size, if known, and the bytes as they come. `None` where
    /// it has no such blob, or is out of reach.
    pub(super) async fn follow(&self) -> Option<(Option<u64>, Body)> {
        let mut state = self.0.clone();
        let begun = state.wait_for(|state| !matches!(state, State::Asking)).await.ok()?.clone();
        let size = match begun {
            State::Running { size, .. } => size,
            State::Done { size, .. } => Some(size),
            State::Asking | State::Failed => return None,
        };
        let (pieces, body) = mpsc::channel(WAITING);
        tokio::spawn(feed(state, pieces));
        Some((size, Body::Stream(body, size)))
    }
}

/// Reads after the writer and hands on what is there.
async fn feed(mut state: watch::Receiver<State>, pieces: mpsc::Sender<io::Result<Bytes>>) {
    let mut at = 0;
    loop {
        let now = state.borrow_and_update().clone();
        let (file, ready, last) = match now {
            State::Running { file, written, .. } => (file, written.saturating_sub(1), false),
            State::Done { file, size } => (file, size, true),
            State::Asking | State::Failed => {
                let broken = io::Error::new(io::ErrorKind::ConnectionAborted, "the upstream broke off");
                // A client that is gone needs not be told.
                let _ = pieces.send(Err(broken)).await;
                return;
            }
        };
        while at < ready {
            let (file, length) = (file.clone(), (ready - at).min(PIECE));
            let read = tokio::task::spawn_blocking(move || read_at(&file, at, length)).await;
            let read = read.unwrap_or_else(|_| Err(io::Error::other("the reader ended unexpectedly")));
            let failed = read.is_err();
            if pieces.send(read).await.is_err() || failed {
                return;
            }
            at += length;
        }
        if last || state.changed().await.is_err() {
            return;
        }
    }
}

/// Fetches a blob and stores it, with a name in `repository` if one is given. False where what an earlier try left was
/// damaged, as a power cut may do: it is gone, and the next try begins anew.
pub(in crate::registry) async fn fetch(
    client: &Client,
    upstream: &Upstream,
    path: &str,
    digest: &Digest,
    (store, repository): (&Store, Option<&str>),
    progress: &Progress,
) -> Result<bool, Failure> {
    let (upload, resumed) = fetch_bytes(client, upstream, path, digest, store, progress).await?;
    let (wanted, repository) = (digest.clone(), repository.map(str::to_owned));
    let committed = tokio::task::spawn_blocking(move || upload.commit(&wanted, repository.as_deref()));
    match committed.await.map_err(|_| Failure::Ended)? {
        Ok(_) => Ok(true),
        Err(StoreError::DigestMismatch { .. }) if resumed => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Fetches all bytes of a blob into an upload; a connection that breaks is taken up where it broke. What came stays for
/// the next try, in a later process too. Also says whether an earlier one had left some.
async fn fetch_bytes(
    client: &Client,
    upstream: &Upstream,
    path: &str,
    digest: &Digest,
    store: &Store,
    progress: &Progress,
) -> Result<(Upload, bool), Failure> {
    let mut begun = left(store, digest).await?;
    let resumed = begun.is_some();
    let mut tries = 0;
    loop {
        let had = begun.as_ref().map_or(0, |taking| taking.upload.offset());
        // The last byte is asked for again: of a blob that is whole nothing would be left to ask for.
        let broken = match client.blob(upstream, path, digest, had.saturating_sub(1)).await {
            Ok(coming) => {
                let taking = match begun.take() {
                    Some(taking) if coming.size.is_none_or(|size| had <= size) => taking,
                    longer => begin(store, digest, coming.size, longer).await?,
                };
                let (taking, broken) = take(coming, taking, progress).await?;
                let Some(broken) = broken else { return Ok((taking.upload, resumed)) };
                if taking.upload.offset() > had {
                    tries = 0;
                }
                begun = Some(taking);
                broken
            }
            Err(error) => error,
        };
        tries += 1;
        let resumable = matches!(broken, OciError::Unreachable { .. }) && begun.is_some();
        if !resumable || tries >= TRIES {
            // An upstream that does not want to go on from there may want to from the start.
            if let Some(taking) = begun.filter(|taking| broken.begins_anew() || !taking.stays) {
                taking.upload.cancel();
            }
            return Err(Failure::Upstream(broken));
        }
        tokio::time::sleep(Duration::from_millis(200) * 2_u32.pow(tries)).await;
    }
}

/// An upload under way, and its file for those who follow.
struct Taking {
    upload: Upload,
    reader: Arc<File>,
    /// Whether the next try finds it.
    stays: bool,
}

impl Taking {
    fn new(upload: Upload, stays: bool) -> Result<Self, StoreError> {
        let reader = Arc::new(upload.reader()?);
        Ok(Self { upload, reader, stays })
    }
}

/// What an earlier try left, if it is any of the blob and nobody has it.
async fn left(store: &Store, digest: &Digest) -> Result<Option<Taking>, Failure> {
    let (store, digest) = (store.clone(), digest.clone());
    let left = tokio::task::spawn_blocking(move || match store.left_upload(&digest) {
        Ok(Some(upload)) if upload.offset() > 0 => Taking::new(upload, true).map(Some),
        Ok(_) | Err(StoreError::UploadBusy(_)) => Ok(None),
        Err(error) => Err(error),
    });
    Ok(left.await.map_err(|_| Failure::Ended)??)
}

/// A new upload, in place of one that cannot be of this blob. Where the mirror fetches the same blob, it has the one that
/// can be taken up again, and those who wait here get one of their own.
async fn begin(
    store: &Store,
    digest: &Digest,
    size: Option<u64>,
    longer: Option<Taking>,
) -> Result<Taking, Failure> {
    let (store, digest, size) = (store.clone(), digest.clone(), size.unwrap_or(0));
    let begun = tokio::task::spawn_blocking(move || {
        if let Some(longer) = longer {
            longer.upload.cancel();
        }
        match store.fetch_upload(&digest, size) {
            Err(StoreError::UploadBusy(_)) => {
                Taking::new(store.begin_upload(digest.algorithm(), size)?, false)
            }
            upload => Taking::new(upload?, true),
        }
    });
    Ok(begun.await.map_err(|_| Failure::Ended)??)
}

/// Takes what comes until the end, or until the connection breaks.
async fn take(
    mut coming: FetchedBlob,
    Taking { upload, reader, stays }: Taking,
    progress: &Progress,
) -> Result<(Taking, Option<OciError>), Failure> {
    let size = coming.size;
    progress.running(&reader, size, upload.offset());
    // An upstream that does not resume begins again: what is here already is passed over.
    let mut skip = upload.offset() - coming.offset;
    let mut spool = Spool::new(upload);
    let broken = loop {
        let coming = tokio::select! {
            coming = coming.next() => coming,
            wrote = spool.wrote() => match wrote {
                Ok(()) => {
                    progress.running(&reader, size, spool.written());
                    spool.nudge();
                    continue;
                }
                Err(error) => return Err(give_up(spool, error).await),
            },
        };
        let piece = match coming {
            Ok(Some(piece)) => piece,
            Ok(None) => break None,
            Err(error) => break Some(error),
        };
        let passed = skip.min(piece.len() as u64);
        skip -= passed;
        let piece = piece.slice(usize::try_from(passed).unwrap_or(piece.len())..);
        if piece.is_empty() {
            continue;
        }
        if let Err(error) = spool.push(piece).await {
            return Err(give_up(spool, error).await);
        }
        // Those who follow are waiting: what came is written as soon as the disk is free.
        spool.nudge();
    };
    if let Err(error) = spool.drain().await {
        return Err(give_up(spool, error).await);
    }
    let upload = spool.settle().await?;
    progress.running(&reader, size, upload.offset());
    Ok((Taking { upload, reader, stays }, broken))
}

async fn give_up(spool: Spool, error: SpoolError) -> Failure {
    spool.cancel().await;
    error.into()
}
