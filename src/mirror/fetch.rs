//! One thing at a time from an upstream into the store: asked again when that may help, blobs taken up where they
//! broke off, each blob once however many images want it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use reqwest::Url;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::Failure;
use super::pace::{Gates, Pace};
use crate::oci::{Client, Descriptor, Error as OciError, FetchedBlob, Upstream};
use crate::store::{Error as StoreError, Store, Upload};
use crate::sys::clock;
use crate::sys::digest::Digest;
use crate::sys::progress::{Item, Progress, Unit};

/// Tries of one request, or of one blob without a new byte.
const TRIES: u32 = 4;
/// The first wait between tries; doubled with each, and up to half as much more by chance.
const PAUSE: Duration = Duration::from_millis(500);
/// Bytes that are gathered before they are written.
const PIECE: usize = 256 << 10;

/// What all transfers of a run share.
pub(super) struct Wire {
    pub(super) client: Arc<Client>,
    pub(super) store: Store,
    pub(super) progress: Progress,
    pub(super) pace: Arc<Pace>,
    /// Of those who said that they answer nobody.
    gates: Gates,
    /// Of those who said how much they give, and that it is given: manifests are counted, blobs are not.
    counted: Gates,
    /// Places for blobs.
    slots: Semaphore,
    /// One at a time for each blob.
    flights: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Bytes of blobs and manifests that travelled.
    travelled: AtomicU64,
    /// Requests for manifests and lists.
    pub(super) asked: AtomicU64,
    /// When the run has to end.
    until: Option<Timestamp>,
    /// Why nothing else need be tried, once that is so.
    stopped: Mutex<Option<String>>,
}

/// A repository upstream.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) upstream: Upstream,
    pub(super) path: String,
}

impl Source {
    pub(super) fn of(repository: &str, insecure: bool) -> Self {
        let (host, path) = repository.split_once('/').unwrap_or((repository, ""));
        Self { upstream: Upstream::at(host, insecure), path: path.to_owned() }
    }
}

impl Wire {
    pub(super) fn new(
        client: Arc<Client>,
        store: Store,
        progress: Progress,
        (rate, parallel): (Option<u64>, u32),
        until: Option<Timestamp>,
    ) -> Self {
        Self {
            client,
            store,
            progress,
            pace: Arc::new(Pace::new(rate)),
            gates: Gates::default(),
            counted: Gates::default(),
            slots: Semaphore::new(parallel.max(1) as usize),
            flights: Mutex::default(),
            travelled: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            until,
            stopped: Mutex::new(None),
        }
    }

    /// Asks, and again where that may help: after a broken connection, an answer of 5xx, or a limit that passes.
    pub(super) async fn ask<T>(
        &self,
        host: &str,
        request: impl AsyncFn() -> Result<T, OciError>,
    ) -> Result<T, Failure> {
        self.ask_through(&[&self.gates, &self.counted], host, request).await
    }

    /// The same for a blob, which no registry counts.
    pub(super) async fn ask_blob<T>(
        &self,
        host: &str,
        request: impl AsyncFn() -> Result<T, OciError>,
    ) -> Result<T, Failure> {
        self.ask_through(&[&self.gates], host, request).await
    }

    async fn ask_through<T>(
        &self,
        gates: &[&Gates],
        host: &str,
        request: impl AsyncFn() -> Result<T, OciError>,
    ) -> Result<T, Failure> {
        let mut tries = 0;
        loop {
            self.go_on()?;
            for gates in gates {
                gates.pass(host).await?;
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            let error = match request().await {
                Ok(answer) => {
                    self.heed_limit(host);
                    return Ok(answer);
                }
                Err(error) => error,
            };
            tries += 1;
            match &error {
                OciError::RateLimited { wait, .. } if tries < 2 * TRIES => self.gates.close(host, *wait),
                error if error.is_unreachable() && tries < TRIES => tokio::time::sleep(pause(tries)).await,
                _ => return Err(error.into()),
            }
        }
    }

    /// Fetches a file of a web server. It comes in one piece, and then what follows waits as long as it should have taken.
    pub(super) async fn file(&self, url: &Url, insecure: bool, most: usize) -> Result<Bytes, Failure> {
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let ask = async || self.client.file(url, insecure, "", most).await;
        let file = self.ask(&host, ask).await?.ok_or(Failure::Ended)?;
        self.pace.take(file.bytes.len()).await;
        Ok(file.bytes)
    }

    /// Notes bytes that came, and waits until more may.
    pub(super) async fn came(&self, bytes: usize) {
        self.note(bytes);
        self.pace.take(bytes).await;
    }

    /// Notes bytes that came.
    pub(super) fn note(&self, bytes: usize) {
        self.travelled.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes that came in this run.
    pub(super) fn travelled(&self) -> u64 {
        self.travelled.load(Ordering::Relaxed)
    }

    /// Asks a registry that says that nothing is left for us for no more manifests. What an image that has come so
    /// far still wants are blobs, which it gives.
    fn heed_limit(&self, host: &str) {
        if let Some(limit) = self.client.rate_limit(host).filter(|limit| limit.remaining == 0) {
            self.counted.close(host, limit.resets_in);
        }
    }

    /// Ends what is under way when the time is over or nothing can be stored any more.
    pub(super) fn go_on(&self) -> Result<(), Failure> {
        if let Some(why) = &*self.stopped.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(Failure::Stopped(why.clone()));
        }
        match self.until {
            Some(until) if clock::now() >= until => {
                Err(Failure::Stopped("the window for transfers has closed".into()))
            }
            _ => Ok(()),
        }
    }

    fn heed(&self, failure: Failure) -> Failure {
        if let Failure::Store { why, full: true } = &failure {
            let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
            stopped.get_or_insert_with(|| why.clone());
        }
        failure
    }

    /// Runs what waits for the disk off the network's threads.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(|_| Failure::Ended)?.map_err(|e| self.heed(e.into()))
    }

    /// Whether a blob is here.
    pub(super) async fn has(&self, digest: &Digest) -> Result<bool, Failure> {
        let digest = digest.clone();
        self.blocking(move |store| Ok(store.blob(None, &digest)?.is_some())).await
    }

    /// A place among the blobs that travel at the same time, once one is free.
    pub(super) async fn place(&self) -> Result<SemaphorePermit<'_>, Failure> {
        let place = self.slots.acquire().await.map_err(|_| Failure::Ended)?;
        self.go_on()?;
        Ok(place)
    }

    /// Fetches a blob unless it is here.
    pub(super) async fn blob(&self, source: &Source, wanted: &Descriptor, of: &str) -> Result<(), Failure> {
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            flights.entry(wanted.digest.clone()).or_default().clone()
        };
        let _alone = flight.lock().await;
        if self.has(&wanted.digest).await? {
            return Ok(());
        }
        let _place = self.place().await?;
        let name = format!("{of} {}", &wanted.digest.hex()[..12]);
        let mut item = self.progress.item(name, Some(wanted.size), Unit::Bytes);
        match self.transfer(source, wanted, &mut item).await {
            Ok(()) => {
                item.done();
                Ok(())
            }
            Err(failure) => Err(self.heed(failure)),
        }
    }

    /// A blob of which an earlier process left half may have been damaged by a power cut, and not every upstream wants to
    /// go on from there: then once more from the start.
    async fn transfer(&self, source: &Source, wanted: &Descriptor, item: &mut Item) -> Result<(), Failure> {
        for again in [false, true] {
            let Some(upload) = self.upload(&wanted.digest, wanted.size).await? else { return Ok(()) };
            let resumed = upload.offset() > 0;
            item.anew();
            item.add(upload.offset());
            let upload = match self.fill(source, wanted, upload, item).await? {
                Ok(upload) => upload,
                Err(_) if !again => continue,
                Err(refusal) => return Err(refusal.into()),
            };
            let digest = wanted.digest.clone();
            let committed = tokio::task::spawn_blocking(move || upload.commit(&digest, None)).await;
            match committed.map_err(|_| Failure::Ended)? {
                Ok(_) => return Ok(()),
                Err(StoreError::DigestMismatch { .. }) if resumed && !again => {}
                Err(StoreError::DigestMismatch { actual, expected }) => {
                    let why = format!("`{}` sent `{actual}` as `{expected}`", source.upstream.host);
                    return Err(Failure::Upstream { why, unreachable: false, absent: false });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Failure::Ended)
    }

    /// The upload of a blob. Where a client of the registry is being sent the same one, it is waited for rather than
    /// fetched twice: `None` once it is here.
    async fn upload(&self, digest: &Digest, size: u64) -> Result<Option<Upload>, Failure> {
        loop {
            let wanted = digest.clone();
            let upload = self.blocking(move |store| match store.fetch_upload(&wanted, size) {
                Err(StoreError::UploadBusy(_)) => Ok(None),
                upload => upload.map(Some),
            });
            if let Some(upload) = upload.await? {
                return Ok(Some(upload));
            }
            tokio::time::sleep(PAUSE).await;
            self.go_on()?;
            if self.has(digest).await? {
                return Ok(None);
            }
        }
    }

    /// Fetches until all bytes are there; a connection that breaks is taken up where it broke. Where the upstream refuses
    /// that, what is here is given up, and its refusal told.
    async fn fill(
        &self,
        source: &Source,
        wanted: &Descriptor,
        mut upload: Upload,
        item: &mut Item,
    ) -> Result<Result<Upload, OciError>, Failure> {
        let Source { upstream, path } = source;
        let mut tries = 0;
        while upload.offset() < wanted.size {
            self.go_on()?;
            self.gates.pass(&upstream.host).await?;
            let before = upload.offset();
            let broken = match self.client.blob(upstream, path, &wanted.digest, before).await {
                Ok(coming) => {
                    let (back, broken) = self.take(coming, wanted, upload, item).await?;
                    upload = back;
                    broken
                }
                Err(error) => Some(error),
            };
            tries = if upload.offset() > before { 0 } else { tries + 1 };
            let why = format!("`{}` ended a blob early", upstream.host);
            match broken {
                Some(OciError::RateLimited { wait, .. }) if tries < 2 * TRIES => {
                    self.gates.close(&upstream.host, wait);
                }
                Some(error) if before > 0 && error.begins_anew() => {
                    let cancelled = tokio::task::spawn_blocking(move || upload.cancel()).await;
                    return cancelled.map(|()| Err(error)).map_err(|_| Failure::Ended);
                }
                Some(error) if !error.is_unreachable() || tries >= TRIES => return Err(error.into()),
                None if tries >= TRIES => {
                    return Err(Failure::Upstream { why, unreachable: true, absent: false });
                }
                // All came, or more can be had at once.
                None if upload.offset() == wanted.size => {}
                _ => tokio::time::sleep(pause(tries.max(1))).await,
            }
        }
        Ok(Ok(upload))
    }

    /// Writes what comes until it ends or breaks; never more than was announced.
    async fn take(
        &self,
        mut coming: FetchedBlob,
        wanted: &Descriptor,
        mut upload: Upload,
        item: &mut Item,
    ) -> Result<(Upload, Option<OciError>), Failure> {
        // An upstream that does not resume begins again: what is here already is passed over.
        let mut skip = upload.offset() - coming.offset;
        let mut left = wanted.size - upload.offset();
        // One piece of memory, used again and again: what is written is let go before more comes.
        let mut gathered = BytesMut::with_capacity(2 * PIECE);
        loop {
            let (piece, broken) = match coming.next().await {
                Ok(piece) => (piece, None),
                Err(error) => (None, Some(error)),
            };
            let over = piece.is_none();
            if let Some(piece) = piece {
                self.came(piece.len()).await;
                let passed = skip.min(piece.len() as u64);
                skip -= passed;
                let piece = piece.slice(usize::try_from(passed).unwrap_or(piece.len())..);
                if piece.len() as u64 > left {
                    tokio::task::spawn_blocking(move || upload.cancel());
                    let url = wanted.digest.to_string();
                    return Err(OciError::TooLarge { url, most: wanted.size }.into());
                }
                left -= piece.len() as u64;
                gathered.extend_from_slice(&piece);
            }
            if gathered.len() >= PIECE || over {
                let bytes: Bytes = gathered.split().freeze();
                item.add(bytes.len() as u64);
                let written =
                    tokio::task::spawn_blocking(move || upload.write(&bytes).map(|()| upload)).await;
                upload = written.map_err(|_| Failure::Ended)??;
                gathered.reserve(2 * PIECE);
            }
            if over {
                return Ok((upload, broken));
            }
            self.go_on()?;
        }
    }
}

/// The wait before the next try.
pub(super) fn pause(tries: u32) -> Duration {
    let whole = PAUSE * 2_u32.pow(tries.saturating_sub(1).min(6));
    whole + whole.mul_f64(super::chance() / 2.0)
}
