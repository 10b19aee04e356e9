//! Keeps what passes: the answer's bytes go to the client untouched, and beside it to the cache.
//!
//! Bytes are only cloned and queued on the client's path. Unpacking, cutting into objects, decoding
//! and writing happen on the cache's own thread, so kubelet never waits for any of it, and another client only while
//! so much that it read is not written yet that no more of it could be kept.

use std::io::Write as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flate2::write::GzDecoder;
use tokio::time::Instant;

use super::torn::Torn;
use crate::cache::{Cache, CacheError, ScopeKey, Watching, Writer, seconds};

/// Takes apart what one answer carries. Runs on the cache's thread.
pub trait Intake: Send {
    /// More bytes, in order, no longer compressed.
    ///
    /// # Errors
    /// When they cannot be kept; nothing more is fed then.
    fn feed(&mut self, writer: &mut Writer, bytes: &[u8]) -> Result<(), CacheError>;

    /// The answer ended. `whole` is false if it broke off.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn end(&mut self, writer: &mut Writer, whole: bool) -> Result<(), CacheError>;

    /// Whether anything of it is kept: no bytes are queued for it otherwise.
    fn keeps(&self) -> bool {
        true
    }

    /// The watch that it is, to be told when a part of it is not kept.
    fn watching(&self) -> Option<Arc<Watching>> {
        None
    }
}

/// Something to wait for; false if it will not come.
pub type Wait = Pin<Box<dyn Future<Output = bool> + Send>>;

/// A client other than the node, whose answers are recorded.
#[derive(Clone)]
pub struct Client {
    /// Its identity.
    pub identity: Arc<str>,
    /// The list that it reads or watches.
    pub list: Option<ScopeKey>,
    /// Where it is noted if a part of that cannot be kept.
    pub torn: Torn,
}

/// One answer on its way into the cache.
pub struct Recording {
    cache: Cache,
    /// Whose it is; `None` for the node's.
    client: Option<Client>,
    session: Arc<Mutex<Session>>,
    watching: Option<Arc<Watching>>,
    /// Something was not queued: what arrived is not whole.
    torn: bool,
    begun: Instant,
    /// When it was asked for, in seconds since 1970.
    asked: i64,
}

struct Session {
    intake: Box<dyn Intake>,
    unpack: Option<GzDecoder<Vec<u8>>>,
    failed: bool,
    /// Of the cache when this began: what was begun before everything was removed is not kept.
    epoch: u64,
    /// Of the cache when this began: what was begun before records were lost may have lost some of its own.
    rollbacks: u64,
}

impl Recording {
    /// Records into `cache` through `intake`, of the node unless of a `client`; `gzip` if the answer's bytes are
    /// compressed so.
    pub fn new(cache: Cache, intake: Box<dyn Intake>, client: Option<Client>, gzip: bool) -> Self {
        let unpack = gzip.then(|| GzDecoder::new(Vec::new()));
        let (epoch, rollbacks) = (cache.epoch(), cache.rollbacks());
        let (watching, torn) = (intake.watching(), !intake.keeps());
        let session = Session { intake, unpack, failed: false, epoch, rollbacks };
        let (session, begun, asked) = (Arc::new(Mutex::new(session)), Instant::now(), seconds());
        Self { cache, client, session, watching, torn, begun, asked }
    }

    /// It answers what was `asked` then, in seconds since 1970.
    #[must_use]
    pub fn asked_at(self, asked: i64) -> Self {
        Self { asked, ..self }
    }

    /// More bytes of the answer as they came.
    pub fn feed(&mut self, bytes: Bytes) {
        if self.torn {
            return;
        }
        let session = self.session.clone();
        let size = bytes.len();
        let is_queued = self.record(size, move |writer| match session.lock() {
            Ok(mut session) => session.feed(writer, &bytes),
            Err(_) => Err(CacheError::Closed),
        });
        if !is_queued {
            self.tear();
        }
    }

    /// A part of it is not kept, and so none of what comes: it is not whole.
    fn tear(&mut self) {
        self.torn = true;
        self.watching.iter().for_each(|watching| watching.is_torn());
        if let Some(Client { list: Some(list), torn, .. }) = &self.client {
            torn.note(list, self.begun);
            torn.write_down(&self.cache);
        }
    }

    /// Its client was to be told to read anew, and went on without that: whoever comes next for it is.
    pub fn is_unsaid(&self) {
        match &self.client {
            Some(Client { list: Some(list), torn, .. }) => torn.is_unsaid(list),
            Some(_) => {}
            None => self.cache.resync(),
        }
    }

    /// The answer has ended; `whole` unless it broke off.
    pub fn end(self, whole: bool) {
        let whole = whole && !self.torn;
        let session = self.session.clone();
        self.record(0, move |writer| match session.lock() {
            Ok(mut session) => session.end(writer, whole),
            Err(_) => Err(CacheError::Closed),
        });
    }

    fn record(
        &self,
        size: usize,
        job: impl FnOnce(&mut Writer) -> Result<(), CacheError> + Send + 'static,
    ) -> bool {
        let asked = self.asked;
        let job = move |writer: &mut Writer| writer.of_answer(asked, job);
        match &self.client {
            Some(client) => self.cache.record_of(&client.identity, size, job),
            None => self.cache.record(size, job),
        }
    }

    /// Waits until there is room for more of it, where there is none; see [`Cache::room_of`].
    pub fn room(&self) -> Option<Wait> {
        let client = self.client.as_ref().filter(|_| !self.torn)?;
        Some(Box::pin(self.cache.room_of(&client.identity)?))
    }

    /// Waits until its list is one of which a part could not be kept; for ever for the node's, which is told otherwise.
    pub fn tears(&self) -> impl Future<Output = ()> + Send + use<> {
        let list = self.client.clone().and_then(|client| Some((client.list?, client.torn)));
        async move {
            match list {
                Some((list, torn)) => torn.tell(&list).await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Session {
    fn feed(&mut self, writer: &mut Writer, bytes: &[u8]) -> Result<(), CacheError> {
        if self.failed || self.epoch != writer.epoch() || self.rollbacks != writer.rollbacks() {
            return Ok(());
        }
        let done = match &mut self.unpack {
            None => self.intake.feed(writer, bytes),
            Some(unpack) => match unpack.write_all(bytes) {
                Ok(()) => {
                    let plain = std::mem::take(unpack.get_mut());
                    self.intake.feed(writer, &plain)
                }
                Err(e) => Err(CacheError::Refused(format!("an answer cannot be unpacked: {e}"))),
            },
        };
        self.failed = done.is_err();
        if self.failed {
            self.intake.watching().iter().for_each(|watching| watching.is_torn());
        }
        done
    }

    fn end(&mut self, writer: &mut Writer, whole: bool) -> Result<(), CacheError> {
        if self.epoch != writer.epoch() {
            return Ok(());
        }
        if whole && self.rollbacks != writer.rollbacks() {
            // Clients were told to read anew when that was over, perhaps before this one watches.
            writer.note_loss();
            return self.intake.end(writer, false);
        }
        let mut whole = whole && !self.failed;
        if let Some(mut unpack) = self.unpack.take() {
            whole &= unpack.try_finish().is_ok();
            let rest = std::mem::take(unpack.get_mut());
            if whole {
                self.intake.feed(writer, &rest)?;
            }
        }
        self.intake.end(writer, whole)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::watch;

    use super::*;
    use crate::cache::Document;
    use crate::link::{LinkState, Phase};
    use crate::proxy::forwarded::{End, until_watch_ends};
    use crate::proxy::intake::{DocumentIntake, Gathered};

    fn document() -> Box<dyn Intake> {
        let document = Document { kind: "application/json".into(), etag: String::new(), body: Vec::new() };
        let (identity, path) = ("one".to_owned(), "/apis".to_owned());
        Box::new(Gathered::new(DocumentIntake { identity, path, document }))
    }

    #[tokio::test]
    async fn what_comes_of_a_client_too_fast_is_read_anew_by_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let list = ScopeKey {
            identity: "one".into(),
            resource: "v1/configmaps".into(),
            namespace: String::new(),
            labels: String::new(),
            fields: String::new(),
        };
        let client = Client { identity: "one".into(), list: Some(list), torn: Torn::default() };
        let record = || Recording::new(cache.clone(), document(), Some(client.clone()), false);
        let (mut recording, lost) = (record(), *cache.lost().borrow());
        recording.feed(Bytes::from_static(b"[1]"));
        assert!(recording.tears().now_or_never().is_none());
        recording.feed(Bytes::from(vec![b' '; 17 << 20]));
        recording.end(true);
        cache.flush().await.unwrap();
        let (_link, state) =
            watch::channel(LinkState { phase: Phase::Online, since: crate::sys::clock::now() });
        let ends = until_watch_ends(state, cache.lost(), record().tears(), Bytes::from_static(b"410"));
        assert!(matches!(ends.await, End::Clean(last) if last == "410"), "its next watch");
        assert!(record().tears().now_or_never().is_none(), "and no other after it");
        assert_eq!(*cache.lost().borrow(), lost, "nobody else reads anew");
        let kept = cache.read(|reader| reader.document("one", "/apis", "json")).await.unwrap();
        assert!(kept.is_none(), "half an answer");
    }

    /// API servers compress what is large, and it comes in pieces.
    #[tokio::test]
    async fn what_comes_compressed_is_kept_unpacked_and_only_if_all_of_it_came() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        let text = format!("[{}]", vec!["1234"; 1000].join(", "));
        let mut pack = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        pack.write_all(text.as_bytes()).unwrap();
        let packed = pack.finish().unwrap();
        let document = || Document { kind: "application/json".into(), etag: String::new(), body: Vec::new() };
        for (path, len) in
            [("/apis", packed.len()), ("/api", packed.len() - 4), ("/version", packed.len() / 2)]
        {
            let (identity, document) = ("one".to_owned(), document());
            let intake = Gathered::new(DocumentIntake { identity, path: path.to_owned(), document });
            let mut session = Session {
                intake: Box::new(intake),
                unpack: Some(GzDecoder::new(Vec::new())),
                failed: false,
                epoch: cache.epoch(),
                rollbacks: cache.rollbacks(),
            };
            let (first, second) = packed[..len].split_at(len / 3);
            let (first, second) = (first.to_vec(), second.to_vec());
            let job = move |writer: &mut Writer| {
                session.feed(writer, &first)?;
                session.feed(writer, &second)?;
                session.end(writer, true)
            };
            cache.commit(job).await.unwrap();
            let kept = cache.read(move |reader| reader.document("one", path, "json")).await.unwrap();
            let expected = (len == packed.len()).then(|| text.clone().into_bytes());
            assert_eq!(kept.map(|document| document.body), expected, "{len} bytes");
        }
    }

    #[tokio::test]
    async fn an_answer_of_which_a_part_was_lost_is_not_taken_for_whole() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        for is_lost in [true, false] {
            let mut recording = Recording::new(cache.clone(), document(), None, false);
            cache.flush().await.unwrap();
            let mut trouble = cache.follow_trouble();
            if is_lost {
                let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
                let full = rusqlite::Error::SqliteFailure(full, None);
                cache.record(0, move |_| Err(CacheError::Statement(full)));
            }
            recording.feed(Bytes::from_static(b"[1, "));
            trouble.wait_for(|why| why.is_some() == is_lost).await.unwrap();
            while cache.flush().await.is_err() {}
            recording.feed(Bytes::from_static(b"2]"));
            recording.end(true);
            cache.flush().await.unwrap();
            let kept = cache.read(|reader| reader.document("one", "/apis", "json")).await.unwrap();
            let expected = (!is_lost).then(|| b"[1, 2]".to_vec());
            assert_eq!(kept.map(|document| document.body), expected);
        }
    }
}
