//! The clock of an appliance, at a boot and from one to the next. A machine without a battery boots long ago: certificates
//! would not be good yet. A clock that is behind what has certainly passed is set, and none is ever set back.
//!
//! What has certainly passed: what the cloud's clock and this one both said, as the cache keeps it, and identity a copy of
//! it; when the image was signed for; since when a certificate is good that the owner gave. A bundle's date alone is none
//! of it: a depot's clock may be wrong, and this one right.
//!
//! In an outage nothing of that moves. So what the clock says is noted each hour and at the end, and a machine without a
//! battery goes on from there: else each of its days would be the same one. It may have been set wrong, so the note is no
//! floor under anything.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::task::{Place, TaskError, blocking};
use crate::bundle::Gateway;
use crate::cache::{self, Reader};
use crate::proxy;
use crate::sys::{clock, durable, mounts};
use crate::system::{self, Places};

/// The file of the state folder that has what the clock said last, in seconds since 1970.
const NOTE: &str = "clock";
/// How often it is written: flash wears.
const PACE: Duration = Duration::from_secs(3600);
/// Seconds by which a clock may go otherwise than the time since the boot without having been set.
const SLACK: i64 = 60;

/// Raises the floor of this process to what earlier runs knew, and copies that to identity. Says lines for the console; a
/// cache that cannot be read is the daemon's to tell.
pub(super) fn remember(state_dir: &Path, places: &Places) -> Vec<String> {
    let path = cache::readable(state_dir, state_dir);
    if path.exists() {
        match Reader::open(&path).and_then(|reader| proxy::time_passed(&reader)) {
            Ok(passed) => passed.into_iter().for_each(clock::raise_floor),
            Err(error) => tracing::warn!(%error, "the time that has passed is not known of the cache"),
        }
    }
    let mut lines = Vec::new();
    match system::kept_time(places) {
        Ok(kept) => kept.into_iter().for_each(clock::raise_floor),
        Err(error) => lines.push(error.to_string()),
    }
    lines.extend(system::keep_time(places, clock::floor()).err().map(|error| error.to_string()));
    lines
}

/// Sets the clock to the latest time that anything says, where it is behind what has certainly passed; and one that was
/// read from no battery's, where it is behind what it said last.
pub(super) fn set(gateway: &Gateway, places: &Places) -> Option<String> {
    let kept = match gateway.store.trust_value("time-floor") {
        Ok(kept) => kept.unwrap_or(0),
        Err(error) => return Some(format!("the clock is not looked at: {error}")),
    };
    let pinned = gateway.chain().map_or(Timestamp::UNIX_EPOCH, |chain| chain.current().created);
    let passed = clock::floor().max(pinned);
    // A clock that is behind that was kept by no battery, whatever it was read from.
    let noted = noted(&gateway.state_dir).filter(|_| clock::machine() < passed || !is_read(places));
    let to = passed.max(Timestamp::from_second(kept).ok()?).max(noted.unwrap_or(passed));
    let line = set_to(passed, to, "which has certainly passed");
    let alone = noted.filter(|_| line.is_none());
    line.or_else(|| alone.and_then(|noted| set_to(noted, noted, "which it said last")))
}

/// Notes what the clock says, each hour and at the end; on other machines than appliances it ends at once.
pub(super) async fn keep(place: Arc<Place>, mut stopped: watch::Receiver<bool>) {
    let config = place.config();
    let places = Places::below(&config.system.root);
    if places.booted().is_err() {
        return;
    }
    // One that has a battery is right about the time that it was off, whatever it said before.
    let is_kept = clock::machine() >= clock::floor() && is_read(&places);
    let kept = noted(&config.state_dir).filter(|_| !is_kept).map(Timestamp::as_second);
    let began = Look::now();
    loop {
        let ends = tokio::select! {
            () = tokio::time::sleep(PACE) => false,
            _ = stopped.changed() => true,
        };
        let (path, text) = (config.state_dir.join(NOTE), format!("{}\n", note(kept, began)));
        let written = move || durable::write(&path, text.as_bytes(), 0o600).map_err(TaskError::failed);
        if let Err(error) = blocking(written).await {
            tracing::warn!(why = error.message, "it is not noted what the clock says");
        }
        if ends {
            return;
        }
    }
}

/// What the clocks say at one moment, in seconds: the one that people set, and the one that counts since the boot.
#[derive(Clone, Copy, Debug)]
struct Look {
    wall: i64,
    up: i64,
}

impl Look {
    fn now() -> Self {
        // Not what this process goes by, which stands still at the floor while the machine's is behind it.
        Self { wall: clock::machine().as_second(), up: clock::since_boot().as_secs().cast_signed() }
    }
}

fn note(kept: Option<i64>, began: Look) -> i64 {
    to_note(kept, began, Look::now()).max(clock::floor().as_second())
}

/// What is noted by a daemon that began at `began`, with `kept` noted before: the clock, or where that could not be set at
/// the boot, `kept` and what passed since. A clock that is set meanwhile is believed, also where it goes back.
fn to_note(kept: Option<i64>, began: Look, now: Look) -> i64 {
    let passed = now.up.saturating_sub(began.up);
    let was_set = (now.wall - began.wall - passed).abs() > SLACK + passed / 1000;
    kept.filter(|_| !was_set).map_or(now.wall, |kept| now.wall.max(kept.saturating_add(passed)))
}

/// What it said last; `None` where it is not noted, or no time.
fn noted(state_dir: &Path) -> Option<Timestamp> {
    let text = std::fs::read_to_string(state_dir.join(NOTE)).ok()?;
    Timestamp::from_second(text.trim().parse().ok()?).ok()
}

/// Whether the kernel has read the clock from one that goes on without power.
fn is_read(places: &Places) -> bool {
    let mut clocks = std::fs::read_dir(places.at("/sys/class/rtc")).into_iter().flatten().flatten();
    clocks.any(|one| mounts::read(&one.path().join("hctosys")) == "1")
}

/// Sets the clock to `since`, from when on a certificate is good that the owner gave, where it is behind that: it was
/// signed by a machine that knew the time.
pub(super) fn reach(since: Timestamp) -> Option<String> {
    // Where it cannot be set, this process goes by it all the same.
    clock::raise_floor(since);
    set_to(since, since, "since when the cloud's certificate is good")
}

fn set_to(passed: Timestamp, to: Timestamp, why: &str) -> Option<String> {
    if clock::machine() >= passed {
        return None;
    }
    let time = rustix::time::Timespec { tv_sec: to.as_second(), tv_nsec: 0 };
    let set = rustix::time::clock_settime(rustix::time::ClockId::Realtime, time);
    Some(match set {
        Ok(()) => format!("the clock was behind {passed}, {why}, and is set to {to}"),
        Err(e) => format!("the clock is behind {passed}, {why}, and cannot be set: {e}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_goes_on_from_the_last_one_until_somebody_sets_the_clock() {
        const DAY: i64 = 86_400;
        let look = |wall, up| Look { wall, up };
        for (kept, began, now, noted) in [
            // As it was set at the boot.
            (Some(40 * DAY), look(40 * DAY, 60), look(41 * DAY, 60 + DAY), 41 * DAY),
            (None, look(40 * DAY, 60), look(41 * DAY, 60 + DAY), 41 * DAY),
            // It could not be.
            (Some(40 * DAY), look(DAY, 60), look(2 * DAY, 60 + DAY), 41 * DAY),
            // A little fast, for long.
            (Some(90 * DAY), look(DAY, 60), look(41 * DAY + 600, 60 + 40 * DAY), 130 * DAY),
            // A time server, or a person: ahead, and back from what was wrong.
            (Some(40 * DAY), look(DAY, 60), look(90 * DAY, 3600), 90 * DAY),
            (Some(900 * DAY), look(900 * DAY, 60), look(90 * DAY, 3600), 90 * DAY),
            (Some(i64::MAX), look(DAY, 60), look(2 * DAY, 60 + DAY), i64::MAX),
        ] {
            assert_eq!(to_note(kept, began, now), noted, "{kept:?} {began:?} {now:?}");
        }
    }
}
