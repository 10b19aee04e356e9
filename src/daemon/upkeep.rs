//! What the store needs now and then: what nobody needs is removed, and everything is read again, gently.
//!
//! A verification that the power cut short goes on where it was. Neither runs while nothing was ever stored.

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
use crate::store::VerifySettings;
use crate::sys::clock;
use crate::sys::digest::Digest;
use crate::sys::progress::Progress;

/// Nothing is done so soon after a start: the gateway has other things to do.
const AFTER_START: Duration = Duration::from_secs(600);
/// The key of the note about verification.
const NOTE: &str = "verify";
/// How often how far it is is noted.
const NOTED: Duration = Duration::from_secs(300);

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
    let mut collected = None;
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
                Instant::now() + settings.verify_interval
            }
        };
        let verify_at = verify_at.max(started + AFTER_START.min(settings.verify_interval));
        tokio::select! {
            () = tokio::time::sleep_until(collect_at.min(verify_at)) => {}
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
        if !place.door().is_used() {
            collected = Some(Instant::now());
            continue;
        }
        if collect_at <= verify_at {
            collected = Some(Instant::now());
            uncollected = collect(&place).await.err().map(|error| error.message);
        } else {
            damaged = verify(&place, &settings, &stop).await.unwrap_or_else(|error| Some(error.message));
        }
        tell(&part, damaged.as_ref().or(uncollected.as_ref()));
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
    let noted = noted(place).await?;
    if noted.after.is_some() {
        return Ok(Duration::ZERO);
    }
    let since = u64::try_from(clock::now().as_second() - noted.ended).unwrap_or(0);
    Ok(settings.verify_interval.saturating_sub(Duration::from_secs(since)))
}

async fn noted(place: &Place) -> Result<Progressed, TaskError> {
    let store = place.store().await?;
    let text = blocking(move || Ok(store.note(NOTE)?)).await?;
    // A note that cannot be read is one that was never made.
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

async fn note(place: &Place, progressed: Progressed) -> Result<(), TaskError> {
    let store = place.store().await?;
    let text = serde_json::to_string(&progressed).map_err(TaskError::failed)?;
    blocking(move || Ok(store.set_note(NOTE, &text)?)).await
}

/// Reads on for a while, or to the end. A line where something is lost that no upstream has.
async fn verify(
    place: &Place,
    settings: &Settings,
    stop: &Arc<AtomicBool>,
) -> Result<Option<String>, TaskError> {
    let before = noted(place).await?;
    let rate = Some(settings.verify_rate);
    let (stop, until) = (stop.clone(), std::time::Instant::now() + NOTED);
    let go_on = move || !stop.load(Ordering::Relaxed) && std::time::Instant::now() < until;
    let reading = VerifySettings { rate, after: before.after };
    let (told, after) = stores::verify(place, reading, &Progress::silent(), go_on).await?;
    let ended = if after.is_none() { clock::now().as_second() } else { before.ended };
    note(place, Progressed { ended, after }).await?;
    for digest in told["mended"].as_array().into_iter().flatten() {
        tracing::warn!(%digest, "was damaged, and is fetched again");
    }
    Ok(place.lost.borrow().clone())
}
