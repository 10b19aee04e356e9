//! What goes on beside the requests: following the link and the credentials, reading ahead, and tidying up.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use super::outbox::{Outbox, Round};
use super::settled::{self, Settled};
use super::upstream::{As, Upstream};
use super::{LINK_META, SINCE_META, Shared, TIME_META, ahead, discovery};
use crate::cache::{CacheError, Reader, Writer, today};
use crate::link::{LinkState, Patience, Phase};

/// Time without a round before what waits is told again.
const SWEEP: Duration = Duration::from_secs(30);
/// Days without being asked for, after which a list is forgotten.
const UNUSED: i64 = 14;

/// How long after a loss what is missing is looked for: clients read anew themselves first.
const LOOK: Duration = Duration::from_secs(2);
/// The same after the cloud came, when a kubelet may be on its way up.
const FIRST_LOOK: Duration = Duration::from_secs(15);
/// The longest time between looks that fail.
const LONGEST_LOOK: Duration = Duration::from_secs(60);

/// The time between two attempts to remove what was kept.
const FORGET: Duration = Duration::from_secs(10);

/// The time between two databases that are built anew: one that is damaged again and again is on a disk that dies.
const RENEWAL: Duration = Duration::from_secs(3600);

/// When to look for what the kubelet will not ask for by itself.
struct Look {
    pause: Duration,
    at: Option<Instant>,
}

impl Look {
    fn after(pause: Duration) -> Self {
        Self { pause, at: Some(Instant::now() + pause) }
    }

    /// Looked: what was missing is there, or another time is set.
    fn done(&mut self, read: Result<usize, String>) {
        self.at = match read {
            Ok(0) => None,
            Ok(count) => {
                tracing::info!(count, "read ahead what was missing");
                None
            }
            Err(error) => {
                tracing::debug!(error, "not all was read ahead");
                Some(Instant::now() + self.pause)
            }
        };
        self.pause = (self.pause * 2).min(LONGEST_LOOK);
    }
}

/// Runs for ever.
pub async fn keep(shared: &Shared) {
    let mut link = shared.link.follow();
    let mut lost = shared.cache.lost();
    let mut look = Look::after(FIRST_LOOK);
    let mut credentials = shared.rotated.credentials.clone();
    let mut settled = restored(shared).await;
    let mut entered = None;
    let (mut spoilt, mut renews) = (shared.cache.follow_spoilt(), Instant::now());
    // Beside all else: where some changes get no answer a round takes minutes.
    let mut sweeping: Option<BoxFuture<'_, ()>> = None;
    loop {
        let LinkState { phase, since } = link.borrow_and_update().clone();
        if entered.as_ref() != Some(&phase) {
            settled.count(phase == Phase::Online, Instant::now(), cloud_time(shared));
            enter(shared, &phase, since, settled.text()).await;
            if phase == Phase::Online {
                look = Look::after(FIRST_LOOK);
                // Who is chosen by what it calls itself can only now read anew. Nobody is answered from the rest meanwhile.
                if let Err(error) = shared.client_settings.leave_behind(&shared.cache, &shared.torn).await {
                    tracing::error!(%error, "what `proxy.clients` leaves out is still on the disk");
                }
            }
            entered = Some(phase.clone());
        }
        let online = phase == Phase::Online;
        tokio::select! {
            changed = link.changed() => if changed.is_err() { return },
            changed = credentials.changed() => {
                if changed.is_err() { return }
                let new = credentials.borrow_and_update().clone();
                match shared.upstream.replace_credentials(new) {
                    Ok(()) => shared.link.suspect("the credentials were renewed".to_owned()),
                    Err(error) => tracing::error!(%error, "the renewed credentials are of no use"),
                }
            }
            changed = lost.changed() => {
                if changed.is_err() { return }
                look = Look::after(LOOK);
            }
            () = until(look.at), if online && shared.is_offline_mode() => look.done(ahead::read(shared).await),
            () = ended(&mut sweeping) => sweeping = None,
            _ = tokio::time::timeout(SWEEP, shared.waiting.notified()), if online && sweeping.is_none() => {
                sweeping = Some(Box::pin(sweep(shared)));
            }
            () = spoilt_at(&mut spoilt, renews), if online && sweeping.is_none() => {
                renews = Instant::now() + RENEWAL;
                if renew(shared).await {
                    // What the link is must be written down once more.
                    entered = None;
                }
            }
            () = until(settled.next()), if online => {
                settled.count(online, Instant::now(), cloud_time(shared));
                if settled.is_due() {
                    keep_time(shared).await;
                    forget_unused(shared).await;
                    refresh_discovery(shared).await;
                }
                note(shared, &settled).await;
            }
        }
    }
}

impl Shared {
    /// Removes what was kept, and what was set aside.
    ///
    /// # Errors
    /// When it cannot be removed; it is noted then, and tried again.
    pub async fn forget(&self) -> Result<(), CacheError> {
        let done = self.forget_once().await;
        self.unforgotten.send_replace(done.as_ref().err().map(ToString::to_string));
        done
    }

    async fn forget_once(&self) -> Result<(), CacheError> {
        if let Ok(mut accepted) = self.accepted.lock() {
            accepted.clear();
        }
        if let Ok(mut asked) = self.asked_keys.lock() {
            asked.clear();
        }
        let empty = || async {
            self.cache
                .commit(|writer| {
                    writer.clear()?;
                    writer.set_meta(discovery::META, "")
                })
                .await?;
            self.cache.compact().await
        };
        let emptied = self.also_if_damaged(empty).await;
        self.cache.forget_damaged().await?;
        emptied
    }

    /// Changes the cache. One that is damaged cannot be changed, but it can be set aside: then a new one is.
    pub(super) async fn also_if_damaged<F: Future<Output = Result<(), CacheError>> + Send>(
        &self,
        change: impl Fn() -> F + Send,
    ) -> Result<(), CacheError> {
        let done = change().await;
        if done.is_err() && self.cache.follow_spoilt().borrow().is_some() {
            self.cache.renew().await?;
            return change().await;
        }
        done
    }
}

/// Removes what was kept where that has failed, until it is done or offline mode is on again. Runs for ever.
pub async fn forget_again(shared: &Shared) {
    let mut left = shared.unforgotten.subscribe();
    while left.wait_for(Option::is_some).await.is_ok() {
        tokio::time::sleep(FORGET).await;
        if shared.is_offline_mode() || shared.unforgotten.borrow().is_none() {
            continue;
        }
        if shared.forget().await.is_ok() {
            tracing::info!("what was kept is removed from the disk");
        }
        if shared.is_offline_mode() {
            // Turned on meanwhile: what came since is gone with the rest.
            shared.unforgotten.send_replace(None);
            shared.cache.resync();
        }
    }
}

/// Waits for the end of a round, if there is one.
async fn ended(sweeping: &mut Option<BoxFuture<'_, ()>>) {
    match sweeping {
        Some(sweep) => sweep.await,
        None => std::future::pending().await,
    }
}

/// Waits until the cache is damaged, and at least until then.
async fn spoilt_at(spoilt: &mut watch::Receiver<Option<String>>, then: Instant) {
    if spoilt.wait_for(Option::is_some).await.is_err() {
        return std::future::pending().await;
    }
    tokio::time::sleep_until(then).await;
}

/// Replaces a cache that was found to be damaged while the cloud is there to fill the new one: in an outage it is served as
/// far as it can be read, but the next start would find nothing. Says whether there is a new one.
async fn renew(shared: &Shared) -> bool {
    // What waits is best told before, as far as the cloud answers.
    let _ = tokio::time::timeout(SWEEP, sweep(shared)).await;
    match shared.cache.renew().await {
        Ok(Some((aside, why))) => {
            let aside = aside.display();
            tracing::error!(%aside, why, "the cache was damaged: set aside, and built anew from the cloud");
            if let Ok(mut asked) = shared.asked_keys.lock() {
                asked.clear();
            }
            if !shared.is_offline_mode()
                && let Err(error) = shared.forget().await
            {
                tracing::error!(%error, "offline mode is off, and what was kept is still on the disk");
            }
            true
        }
        Ok(None) => false,
        Err(error) => {
            tracing::error!(%error, "the damaged cache was not replaced");
            false
        }
    }
}

/// Writes down what the link is, for the next start, and until when what is kept is as the cloud has it; lets go of dead
/// connections.
async fn enter(shared: &Shared, phase: &Phase, since: jiff::Timestamp, settled: Option<String>) {
    let fresh = shared.fresh_until(phase);
    let why = match phase {
        Phase::Offline(why) => {
            shared.upstream.reset();
            why.clone()
        }
        Phase::Online => {
            shared.writes.forget_leases();
            String::new()
        }
        Phase::Starting | Phase::Replaying => return,
    };
    let (passed, node, online) = (passed(shared), ahead::node_name(shared), *phase == Phase::Online);
    let kept = shared
        .cache
        .commit(move |writer| {
            if !node.is_empty() {
                // A cache that was built anew has forgotten it.
                writer.set_node_name(&node)?;
            }
            match online {
                true => writer.outdate_versions()?,
                false => writer.keep_fresh(&fresh)?,
            }
            writer.set_meta(LINK_META, &why)?;
            writer.set_meta(SINCE_META, &since.as_second().to_string())?;
            if let Some(settled) = settled {
                writer.set_meta(settled::META, &settled)?;
            }
            passed.map_or(Ok(()), |seconds| writer.set_meta(TIME_META, &seconds.to_string()))
        })
        .await;
    if let Err(error) = kept {
        tracing::debug!(%error, "the state of the link was not kept");
    }
    if *phase != Phase::Online {
        return;
    }
    if !shared.is_offline_mode() {
        forget_told(shared).await;
    }
    refresh_discovery(shared).await;
}

/// Where the link is up for weeks, which APIs there are is a day old at the most when it goes.
async fn refresh_discovery(shared: &Shared) {
    if shared.is_offline_mode()
        && let Err(error) = discovery::refresh(shared).await
    {
        tracing::debug!(error, "discovery was not read");
    }
}

/// The count of an earlier run.
async fn restored(shared: &Shared) -> Settled {
    let kept = shared.cache.read(|reader| reader.meta(settled::META)).await;
    // Counted from the start where it cannot be read: what is unused stays a day longer.
    Settled::restored(kept.ok().flatten().as_deref())
}

async fn note(shared: &Shared, settled: &Settled) {
    let (text, fresh) = (settled.text(), shared.freshness());
    let keep = move |writer: &mut Writer| {
        writer.keep_fresh(&fresh)?;
        text.map_or(Ok(()), |text| writer.set_meta(settled::META, &text))
    };
    if let Err(error) = shared.cache.commit(keep).await {
        tracing::debug!(%error, "how long the cloud has been there was not kept");
    }
}

/// The cloud's own clock, in seconds since 1970, if it has told.
fn cloud_time(shared: &Shared) -> Option<i64> {
    shared.upstream.cloud_time().map(jiff::Timestamp::as_second)
}

/// Asks the cloud for the time and keeps it: a link that never goes down tells it to nobody otherwise.
async fn keep_time(shared: &Shared) {
    if let Err(silence) = shared.upstream.probe(As::Node, Patience::Short).await {
        return shared.link.suspect(silence.to_string());
    }
    let Some(seconds) = passed(shared) else { return };
    let kept = shared.cache.commit(move |writer| writer.set_meta(TIME_META, &seconds.to_string())).await;
    if let Err(error) = kept {
        tracing::warn!(%error, "the time that has passed was not kept");
    }
}

/// The time that has certainly passed, as an earlier run kept it: the cloud's clock and this machine's both said it.
///
/// # Errors
/// Where the cache cannot be read.
pub fn time_passed(reader: &Reader) -> Result<Option<jiff::Timestamp>, CacheError> {
    Ok(time(reader.meta(TIME_META)?))
}

/// A time that the cache keeps: seconds since 1970.
pub fn time(kept: Option<String>) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_second(kept?.parse().ok()?).ok()
}

/// Of the cloud's clock and this one's the earlier: a clock that ran ahead must raise no floor.
fn passed(shared: &Shared) -> Option<i64> {
    shared.upstream.cloud_time().map(|time| time.min(crate::sys::clock::now()).as_second())
}

/// Waits until then; for ever if there is no such time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn forget_told(shared: &Shared) {
    if let Err(error) = shared.forget_told().await {
        tracing::warn!(%error, "what the cloud was told is still on the disk");
    }
}

/// Tells the cloud what waits, online.
async fn sweep(shared: &Shared) {
    if let Err(why) = shared.outbox.replay(Round::All).await {
        shared.link.suspect(why);
    }
    if !shared.is_offline_mode() {
        forget_told(shared).await;
    }
}

async fn forget_unused(shared: &Shared) {
    let node = ahead::node_name(shared);
    let needed = match shared.cache.read(move |reader| ahead::needed(reader, &node)).await {
        Ok(needed) => needed,
        Err(error) => return tracing::warn!(%error, "nothing was forgotten"),
    };
    // An immutable ConfigMap is read once and needed as long as its pod is there, and so is what a pod reads itself.
    let forget = move |writer: &mut Writer| {
        needed.objects.iter().try_for_each(|key| writer.keep_used(key))?;
        needed.pods.iter().try_for_each(|uid| writer.keep_used_by(uid))?;
        writer.forget_rights()?;
        writer.forget_unused(today() - UNUSED)
    };
    let done = shared.cache.commit(forget).await;
    // Whose right is forgotten has it noted again when it is used.
    shared.clients.forget_statuses();
    match done {
        Ok(0) => {}
        Ok(lists) => tracing::info!(lists, "forgot what nobody has asked for in {UNUSED} days"),
        Err(error) => tracing::warn!(%error, "nothing was forgotten"),
    }
}

/// A sign of life: an answer to `/readyz` on a connection made for it, which is then used by all.
pub fn probe(upstream: &Arc<Upstream>) -> crate::link::Probe {
    let upstream = upstream.clone();
    Arc::new(move |patience| {
        let upstream = upstream.clone();
        Box::pin(async move { upstream.probe(As::Node, patience).await })
    })
}

/// What is told before the cloud is used again.
pub fn first_round(outbox: &Outbox) -> crate::link::Replay {
    let outbox = outbox.clone();
    Arc::new(move || {
        let outbox = outbox.clone();
        Box::pin(async move { outbox.replay(Round::First).await })
    })
}
