//! What the store needs now and then: what nobody needs is removed, and everything is read again, gently.
//!
//! A verification that the power cut short goes on where it was; one that failed comes again after a while. Neither runs
//! while nothing was ever stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::stores;
use super::task::{Place, TaskError, blocking};
use crate::health::{Board, Part};
use crate::registry::Settings;
use crate::store::{VerifyReport, VerifySettings};
use crate::sys::clock;
use crate::sys::digest::Digest;
use crate::sys::progress::Progress;

/// Nothing is done so soon after a start: the gateway has other things to do.
const AFTER_START: Duration = Duration::from_secs(600);
/// The key of the note about verification.
const NOTE: &str = "verify";
/// How often how far it is is noted.
const NOTED: Duration = Duration::from_secs(300);

/// How long after a verification that failed the next one comes; each time twice as long, up to the usual interval.
const AGAIN: Duration = Duration::from_secs(900);

/// How often it is noted that time has passed: what follows the last note before the power goes makes nothing older. Rarely
/// enough to spare flash.
const LIVED: Duration = Duration::from_secs(3600);

/// The running task.
pub struct Upkeep {
    task: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    changed: watch::Sender<Settings>,
}

/// How far verification is; times are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progressed {
    /// When the last one that was whole ended.
    ended: i64,
    /// The last blob of the one under way.
    after: Option<Digest>,
}

/// Verifications that failed, one after the other.
#[derive(Debug, Default)]
struct Failures {
    times: u32,
    last: Option<Instant>,
}

impl Failures {
    fn note<T, E>(&mut self, done: &Result<T, E>, now: Instant) {
        *self = match done {
            Ok(_) => Self::default(),
            Err(_) => Self { times: self.times.saturating_add(1), last: Some(now) },
        };
    }

    /// When the next verification begins, where one was due at `due`: what failed is tried again, but not at once.
    fn next(&self, due: Instant, interval: Duration) -> Instant {
        let pause = AGAIN.saturating_mul(2_u32.saturating_pow(self.times.saturating_sub(1))).min(interval);
        self.last.map_or(due, |last| last + pause)
    }
}

impl Upkeep {
    /// Starts it; what goes wrong is on the board.
    pub fn start(place: &Arc<Place>, board: &Board) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (changed, settings) = watch::channel(place.config().registry.clone());
        let task = tokio::spawn(keep(place.clone(), settings, board.part("store"), stop.clone()));
        Self { task, stop, changed }
    }

    /// Takes a changed configuration.
    pub fn set(&self, settings: &Settings) {
        self.changed.send_if_modified(|known| {
            let differs = known != settings;
            known.clone_from(settings);
            differs
        });
    }

    /// Ends it. What it reads is given up at once.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.abort();
    }
}

async fn keep(place: Arc<Place>, mut changed: watch::Receiver<Settings>, part: Part, stop: Arc<AtomicBool>) {
    let started = Instant::now();
    let (mut collected, mut failures) = (None, Failures::default());
    let mut lived = started;
    // What is wrong after the last collection and after the last verification: neither clears the other's.
    let (mut uncollected, mut damaged): (Option<String>, Option<String>) = (None, None);
    let mut lost = place.lost.subscribe();
    part.good();
    loop {
        let settings = changed.borrow_and_update().clone();
        let first = started + AFTER_START.min(settings.collect_interval);
        let collect_at = collected.map_or(first, |at: Instant| at + settings.collect_interval);
        let verify_at = match verify_due(&place, &settings).await {
            Ok(wait) => Instant::now() + wait,
            Err(error) => {
                part.trouble(error.message);
                Instant::now()
            }
        };
        let verify_at = failures.next(verify_at, settings.verify_interval);
        let verify_at = verify_at.max(started + AFTER_START.min(settings.verify_interval));
        tokio::select! {
            () = tokio::time::sleep_until(collect_at.min(verify_at).min(lived + LIVED)) => {}
            gone = changed.changed() => match gone {
                Ok(()) => continue,
                Err(_) => return,
            },
            // Somebody had it verified by hand.
            Ok(()) = lost.changed() => {
                damaged = lost.borrow_and_update().clone();
                tell(&part, damaged.as_ref().or(uncollected.as_ref()));
                continue;
            }
        }
        if lived.elapsed() >= LIVED {
            lived = Instant::now();
            note_lived(&place).await;
            continue;
        }
        if !place.door().is_used() {
            collected = Some(Instant::now());
            continue;
        }
        if collect_at <= verify_at {
            collected = Some(Instant::now());
            uncollected = collect(&place).await.err().map(|error| error.message);
        } else {
            let done = verify(&place, &settings, &stop).await;
            failures.note(&done, Instant::now());
            damaged = done.unwrap_or_else(|error| Some(error.message));
        }
        tell(&part, damaged.as_ref().or(uncollected.as_ref()));
    }
}

/// Notes that time has passed, where anything was ever stored.
pub(super) async fn note_lived(place: &Place) {
    if !place.door().is_used() {
        return;
    }
    let noted = async {
        let store = place.store().await?;
        blocking(move || Ok(store.note_lived()?)).await
    };
    if let Err(error) = noted.await {
        tracing::warn!(why = error.message, "it is not noted how long the gateway has run");
    }
}

fn tell(part: &Part, trouble: Option<&String>) {
    match trouble {
        None => part.good(),
        Some(why) => part.trouble(why.clone()),
    }
}

async fn collect(place: &Place) -> Result<(), TaskError> {
    let done = stores::collect(place, false).await?;
    let (blobs, bytes) = (done["remove"].as_array().map_or(0, Vec::len), done["bytes"].as_u64());
    if blobs > 0 {
        tracing::info!(blobs, bytes, evicted = %done["evict"], "removed what nobody needs");
    }
    Ok(())
}

/// How long until verification is due. Where nothing was ever stored, as long as it takes.
async fn verify_due(place: &Place, settings: &Settings) -> Result<Duration, TaskError> {
    if !place.door().is_used() {
        return Ok(settings.verify_interval);
    }
    Ok(noted(place).await?.due(settings.verify_interval, clock::now().as_second()))
}

impl Progressed {
    /// How long from `now` until the next piece is due.
    fn due(&self, interval: Duration, now: i64) -> Duration {
        if self.after.is_some() {
            return Duration::ZERO;
        }
        let since = u64::try_from(now.saturating_sub(self.ended)).unwrap_or(0);
        interval.saturating_sub(Duration::from_secs(since))
    }

    /// What a clock that ran ahead has noted, in a time that has come: else nothing would be due until then. `None` where
    /// it is as it should be.
    fn brought_back(&self, now: i64) -> Option<Self> {
        (self.ended > now).then(|| Self { ended: now, after: self.after.clone() })
    }
}

async fn noted(place: &Place) -> Result<Progressed, TaskError> {
    let store = place.store().await?;
    let text = blocking(move || Ok(store.note(NOTE)?)).await?;
    // A note that cannot be read is one that was never made.
    let noted: Progressed = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    match noted.brought_back(clock::now().as_second()) {
        None => Ok(noted),
        Some(back) => note(place, back.clone()).await.map(|()| back),
    }
}

async fn note(place: &Place, progressed: Progressed) -> Result<(), TaskError> {
    let store = place.store().await?;
    let text = serde_json::to_string(&progressed).map_err(TaskError::failed)?;
    blocking(move || Ok(store.set_note(NOTE, &text)?)).await
}

/// Reads on for a while, or to the end, and fetches what is damaged; where only that failed the last time, it is all that
/// is done. A line where something is lost that no upstream has.
async fn verify(
    place: &Place,
    settings: &Settings,
    stop: &Arc<AtomicBool>,
) -> Result<Option<String>, TaskError> {
    let before = noted(place).await?;
    let mut report = VerifyReport::default();
    if before.due(settings.verify_interval, clock::now().as_second()).is_zero() {
        let rate = Some(settings.verify_rate);
        let (stop, until) = (stop.clone(), std::time::Instant::now() + NOTED);
        let go_on = move || !stop.load(Ordering::Relaxed) && std::time::Instant::now() < until;
        let reading = VerifySettings { rate, after: before.after };
        report = stores::read_again(place, reading, &Progress::silent(), go_on).await?;
        let after = report.last.clone().filter(|_| report.stopped);
        let ended = if after.is_none() { clock::now().as_second() } else { before.ended };
        // Before anything is fetched: what was read need not be read again for an upstream's sake.
        note(place, Progressed { ended, after }).await?;
    }
    let told = stores::mend(place, &report).await?;
    for digest in told["mended"].as_array().into_iter().flatten() {
        tracing::warn!(%digest, "was damaged, and is fetched again");
    }
    Ok(place.lost.borrow().clone())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_failed_is_tried_again_after_a_while_and_ever_later() {
        let (now, day) = (Instant::now(), Duration::from_secs(24 * 3600));
        let mut failures = Failures::default();
        assert_eq!(failures.next(now, day), now);
        for minutes in [15, 30, 60, 120, 240, 480, 960, 1440, 1440] {
            failures.note(&Err::<(), ()>(()), now);
            // Also where a piece is left, which is due at once, or nothing is for a day.
            for due in [now, now + day] {
                assert_eq!(failures.next(due, day), now + Duration::from_secs(60 * minutes));
            }
        }
        (0..100).for_each(|_| failures.note(&Err::<(), ()>(()), now));
        assert_eq!(failures.next(now, day), now + day);
        failures.note(&Ok::<(), ()>(()), now);
        assert_eq!(failures.next(now, day), now);
    }

    #[test]
    fn what_is_due_is_due_whatever_the_clock_said_when_the_last_one_ended() {
        let (day, now) = (86_400_i64, 1_800_000_000_i64);
        let last: Digest = Digest::sha256(b"last");
        for (ended, after, due) in [
            (now, None, day),
            (now - day / 4, None, day * 3 / 4),
            (now - day, None, 0),
            (now - 9 * day, None, 0),
            (0, None, 0),
            (i64::MIN, None, 0),
            (now, Some(&last), 0),
            // The clock ran ten years ahead: not before all that has passed, but as if it had ended now.
            (now + 3650 * day, None, day),
            (i64::MAX, None, day),
            (now + 3650 * day, Some(&last), 0),
        ] {
            let noted = Progressed { ended, after: after.cloned() };
            let interval = Duration::from_secs(day.unsigned_abs());
            assert_eq!(noted.due(interval, now), Duration::from_secs(due.unsigned_abs()), "{noted:?}");
            let later = noted.brought_back(now).unwrap_or(noted.clone());
            assert!(later.due(interval, now + day).is_zero(), "{noted:?} is never read again");
            assert_eq!(later.after, noted.after);
        }
    }

    #[tokio::test]
    async fn a_note_of_a_clock_that_ran_ahead_is_brought_back() {
        let state = tempfile::tempdir().unwrap();
        let place = Place::new(Config { state_dir: state.path().to_owned(), ..Config::default() });
        let ahead = clock::now().as_second() + 315_360_000;
        note(&place, Progressed { ended: ahead, after: None }).await.unwrap();
        assert!(noted(&place).await.unwrap().ended <= clock::now().as_second());
        let text = place.store().await.unwrap().note(NOTE).unwrap().unwrap();
        let kept: Progressed = serde_json::from_str(&text).unwrap();
        assert!(kept.ended <= clock::now().as_second(), "or every look would begin the interval anew");
    }

    #[tokio::test]
    async fn what_was_read_is_noted_though_what_is_damaged_cannot_be_fetched() {
        let state = tempfile::tempdir().unwrap();
        let mut config = Config { state_dir: state.path().to_owned(), ..Config::default() };
        config.registry.authorities = vec![state.path().join("none.pem")];
        let settings = config.registry.clone();
        let place = Place::new(config);
        let store = place.store().await.unwrap();
        let file = |bytes: &[u8]| {
            let digest = Digest::sha256(bytes);
            store.add_blob(None, &digest, bytes).unwrap();
            place.door().folder().join("blobs/sha256").join(&digest.hex()[..2]).join(digest.hex())
        };
        std::fs::write(file(b"a layer"), b"a later").unwrap();
        std::fs::remove_file(file(b"another")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        // What it found is told for as long as nothing has brought it back.
        for settings in
            [&settings, &settings, &Settings { verify_interval: Duration::ZERO, ..settings.clone() }]
        {
            let told = verify(&place, settings, &stop).await.unwrap();
            assert!(told.as_ref().is_some_and(|told| told.contains("2 blobs are damaged")), "{told:?}");
        }
        let noted = noted(&place).await.unwrap();
        assert!(noted.ended > 0 && noted.after.is_none(), "{noted:?}");
    }
}
