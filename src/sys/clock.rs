//! The one clock of edge: wall time that never reads below the time floor.
//!
//! A gateway without a battery boots in 1970. The floor is the latest time known to have passed: what the cloud's
//! clock and this one both said. It only ever rises, so a bundle's date, which one key can say, is none of it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Seconds since 1970 below which no part of edge trusts the clock.
static FLOOR: AtomicI64 = AtomicI64::new(0);

/// The time now, or the floor if the machine's clock lies below it.
pub fn now() -> jiff::Timestamp {
    let machine = machine();
    let floor = floor();
    if machine < floor { floor } else { machine }
}

/// What the machine's clock says, believed or not.
#[allow(clippy::disallowed_methods, reason = "this is the one place that reads the clock")]
pub fn machine() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// How long ago the machine booted, sleep included: it goes on evenly whoever sets the clock.
pub fn since_boot() -> Duration {
    // Every Linux since 2.6.39 has it.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

/// The floor in force.
pub fn floor() -> jiff::Timestamp {
    jiff::Timestamp::from_second(FLOOR.load(Ordering::Relaxed)).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

/// Raises the floor to `to`; a lower value changes nothing.
pub fn raise_floor(to: jiff::Timestamp) {
    FLOOR.fetch_max(to.as_second(), Ordering::Relaxed);
}
