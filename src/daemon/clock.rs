//! The clock of an appliance at a boot. A machine without a battery boots long ago: certificates would not be good yet. A
//! clock that is behind what has certainly passed is set, and none is ever set back.
//!
//! What has certainly passed: what the cloud's clock and this one both said, as the cache keeps it, and identity a copy of
//! it; when the image was signed for; since when a certificate is good that the owner gave. A bundle's date alone is none
//! of it: a depot's clock may be wrong, and this one right.

use std::path::Path;

use jiff::Timestamp;

use crate::bundle::Gateway;
use crate::cache::{self, Reader};
use crate::proxy;
use crate::sys::clock;
use crate::system::{self, Places};

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

/// Sets the clock to the latest time that anything says, where it is behind what has certainly passed.
pub(super) fn set(gateway: &Gateway) -> Option<String> {
    let kept = match gateway.store.trust_value("time-floor") {
        Ok(kept) => kept.unwrap_or(0),
        Err(error) => return Some(format!("the clock is not looked at: {error}")),
    };
    let pinned = gateway.chain().map_or(Timestamp::UNIX_EPOCH, |chain| chain.current().created);
    let passed = clock::floor().max(pinned);
    set_to(passed, passed.max(Timestamp::from_second(kept).ok()?), "which has certainly passed")
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
