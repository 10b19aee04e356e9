//! The body of a forwarded answer on its way to the client, and when it is ended before the cloud ends it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;

use super::last_word::{LastWord, Said};
use super::record::{Recording, Wait};
use super::takers::{Cargo, Parts, Takers};
use super::upstream::BodyError;
use crate::kube::stream::Encoding;
use crate::link::{Heard, LinkState, outage};

/// The body of a forwarded answer: the cloud's bytes, a recording beside them, and an end when the
/// link goes away or what is recorded was lost.
pub struct Forwarded {
    cargo: Arc<Cargo>,
    /// Ends when the link does; for a watch this is a clean end, after which clients come again.
    link: Option<Until>,
    /// Where it is to be noted that the client has not taken all of it, until it is.
    takers: Option<Arc<Takers>>,
    /// Where it is to be noted that the cloud speaks.
    heard: Option<Heard>,
    /// Of a watch, where its own last word may stand.
    last_word: Option<LastWord>,
    /// Until there is room in the recording nothing is asked for.
    room: Option<Wait>,
    /// There may never be any: nobody waits for it until there is.
    hurried: bool,
    /// There was nothing when it was last asked for: what comes next has come just now.
    waited: bool,
    ended: bool,
}

/// Says when and how a body is to be ended early.
pub type Until = Pin<Box<dyn Future<Output = End> + Send>>;

/// How long a watch that is to end with a word of its own may be without a byte of the event that is under way.
const EVENT: Duration = Duration::from_secs(10);

/// Why a body is ended before the cloud ends it.
pub enum End {
    /// With these last bytes, cleanly.
    Clean(Bytes),
    /// Broken off, so that nobody takes it for whole.
    Broken,
}

impl Forwarded {
    /// Streams a body; `until` says when and how to end it early.
    pub fn new(parts: Parts, until: Option<Until>, takers: Arc<Takers>) -> Self {
        let cargo = Cargo::new(parts);
        let takers = Some(takers);
        Self {
            cargo,
            link: until,
            takers,
            heard: None,
            last_word: None,
            room: None,
            hurried: false,
            waited: false,
            ended: false,
        }
    }

    /// The answer is a watch in that encoding: what `until` ends it with comes behind a whole event.
    #[must_use]
    pub fn watching(mut self, encoding: Option<Encoding>) -> Self {
        self.last_word = encoding.map(LastWord::new);
        self
    }

    /// Notes there what comes.
    #[must_use]
    pub fn noting(mut self, heard: Option<Heard>) -> Self {
        self.heard = heard;
        self
    }

    /// What comes though there is no room is torn when it does, and nothing where nothing comes.
    fn wait_for_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.room.is_none() {
            let room = |parts: &mut Parts| parts.recording.as_ref().and_then(Recording::room);
            self.room = self.cargo.with(room, |_| false).flatten();
            if self.hurried {
                self.hurried = self.room.take().is_some();
            }
        }
        let Some(room) = &mut self.room else { return Poll::Ready(()) };
        self.hurried = !std::task::ready!(room.as_mut().poll(cx));
        self.room = None;
        Poll::Ready(())
    }

    /// Nothing has come, or may: whether it is to be ended.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(link) = &mut self.link else { return Poll::Pending };
            let end = std::task::ready!(link.as_mut().poll(cx));
            let said = match (end, &mut self.last_word) {
                (End::Clean(last), Some(last_word)) => last_word.say(last),
                (End::Clean(last), None) => Said::Now(last),
                (End::Broken, _) => {
                    self.finish(false);
                    return Poll::Ready(Some(Err("the cloud went away".into())));
                }
            };
            match said {
                Said::Now(last) => {
                    self.finish(false);
                    return Poll::Ready((!last.is_empty()).then(|| Ok(Frame::data(last))));
                }
                Said::Later => self.link = Some(patience()),
            }
        }
    }

    fn is_unsaid(&self) -> bool {
        self.last_word.as_ref().is_some_and(LastWord::is_unsaid)
    }

    fn finish(&mut self, whole: bool) {
        self.ended = true;
        self.room = None;
        self.link = None;
        let is_unsaid = self.is_unsaid();
        if let Some(parts) = self.cargo.take() {
            if is_unsaid {
                parts.recording.iter().for_each(Recording::is_unsaid);
            }
            parts.end(whole);
        }
    }
}

/// Until the event that is under way should have ended, from the last that came of it.
fn patience() -> Until {
    Box::pin(async {
        tokio::time::sleep(EVENT).await;
        End::Broken
    })
}

/// Asks for more of a body, which is recorded beside.
fn ask(parts: &mut Parts, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
    let polled = Pin::new(&mut parts.body).poll_frame(cx);
    if let Poll::Ready(Some(Ok(frame))) = &polled
        && let (Some(bytes), Some(recording)) = (frame.data_ref(), &mut parts.recording)
    {
        recording.feed(bytes.clone());
    }
    polled
}

impl Drop for Forwarded {
    /// A client that hangs up leaves the recording unfinished, never half taken for whole.
    fn drop(&mut self) {
        let whole = !self.ended && self.cargo.look(|parts| parts.body.is_end_stream()) == Some(true);
        self.finish(whole);
    }
}

impl Body for Forwarded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.wait_for_room(cx).is_pending() {
            return self.poll_end(cx);
        }
        let is_frame = |polled: &Poll<_>| matches!(polled, Poll::Ready(Some(Ok(_))));
        let Some(polled) = self.cargo.with(|parts| ask(parts, cx), is_frame) else {
            self.finish(false);
            return Poll::Ready(Some(Err("the client took nothing of this for too long".into())));
        };
        // What a client has left unread may have come long ago.
        let waited = std::mem::replace(&mut self.waited, polled.is_pending());
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if waited {
                    self.heard.iter().for_each(Heard::note);
                }
                if !self.is_end_stream()
                    && let Some(takers) = self.takers.take()
                {
                    takers.note(&self.cargo);
                }
                let watch = self.last_word.as_mut().zip(frame.data_ref());
                if let Some(last) = watch.and_then(|(last_word, bytes)| last_word.pass(bytes)) {
                    self.finish(false);
                    return Poll::Ready(Some(Ok(Frame::data(last))));
                }
                if self.is_unsaid() {
                    self.link = Some(patience());
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            Poll::Ready(Some(Err(e))) => {
                self.finish(false);
                return Poll::Ready(Some(Err(e.into())));
            }
            Poll::Ready(None) => {
                self.finish(true);
                return Poll::Ready(None);
            }
            Poll::Pending => {}
        }
        self.poll_end(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.cargo.look(|parts| parts.body.is_end_stream()) == Some(true)
    }

    fn size_hint(&self) -> SizeHint {
        self.cargo.look(|parts| parts.body.size_hint()).unwrap_or_default()
    }
}

/// Ends a watch cleanly when the link is in an outage, or with `expired` (a watch's ERROR event of
/// code 410) when records were lost, or when `tears` of its own ends, so that its client reads everything anew.
pub async fn until_watch_ends(
    mut link: watch::Receiver<LinkState>,
    mut lost: watch::Receiver<u64>,
    tears: impl Future<Output = ()> + Send,
    expired: Bytes,
) -> End {
    lost.mark_unchanged();
    tokio::select! {
        gone = outage(&mut link) => match gone {
            true => End::Clean(Bytes::new()),
            false => std::future::pending().await,
        },
        changed = lost.changed() => match changed {
            Ok(()) => End::Clean(expired),
            Err(_) => std::future::pending().await,
        },
        () = tears => End::Clean(expired),
    }
}

/// Ends a watch that is not recorded when offline mode is turned on, so that its client reads anew
/// what is to be kept.
pub async fn until_recorded(mut offline_mode: watch::Receiver<bool>, expired: Bytes) -> End {
    let on = offline_mode.wait_for(|on| *on).await.is_ok();
    match on {
        true => End::Clean(expired),
        false => std::future::pending().await,
    }
}

/// As `until`, and ends a watch cleanly after so long: the cloud should have ended it before, so nobody is there any more.
pub async fn until_late(until: Until, patience: Duration) -> End {
    tokio::select! {
        end = until => end,
        () = tokio::time::sleep(patience) => End::Clean(Bytes::new()),
    }
}

/// Breaks any other answer off when the link is in an outage.
pub async fn until_outage(mut link: watch::Receiver<LinkState>) -> End {
    match outage(&mut link).await {
        true => End::Broken,
        false => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_watch_that_outlives_its_time_is_ended_and_no_other() {
        let end = until_late(Box::pin(std::future::pending()), Duration::from_millis(20)).await;
        assert!(matches!(end, End::Clean(last) if last.is_empty()));
        let first = Box::pin(std::future::ready(End::Broken));
        assert!(matches!(until_late(first, Duration::from_secs(300)).await, End::Broken));
    }
}
