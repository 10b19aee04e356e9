//! What snapd shows of the snap's health. It asks at install, refresh and revert alone, while a setting that waits for a start
//! is changed in between, and is in force after a restart that snapd does not look at either: so the daemon tells it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::control::Doors;
use super::judged::{Judged, judge, problem};
use crate::sys::snapctl::Snapctl;

/// From a start or a change on: parts that begin may be in trouble for a moment, and what they wait for may come later. The
/// last one again and again.
const LOOKS: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(60), Duration::from_secs(600)];

/// A report may take this long, as for the hook.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells snapd some times after the start, and after each change of the settings, how the snap is, and later whenever that is
/// another, for as long as the daemon lives.
pub async fn keep(mut changes: watch::Receiver<Vec<&'static str>>, doors: Arc<Doors>, snapctl: Snapctl) {
    let mut told = Told::default();
    loop {
        match tokio::time::timeout(told.pause(), changes.changed()).await {
            Ok(Err(_)) => return,
            Ok(Ok(())) => {
                told.looks = 0;
                tokio::time::sleep(LOOKS[0]).await;
            }
            Err(_) => {}
        }
        let now = match tokio::time::timeout(PATIENCE, doors.facts.report()).await {
            Ok(report) => judge(&report),
            Err(_) => problem("error", "no-report", "`edge status` takes too long: see `snap logs edge`"),
        };
        if !told.is_due(&now) {
            continue;
        }
        match snapctl.set_health(now.state, now.said()).await {
            Ok(()) => told.last = Some(now),
            Err(error) => tracing::warn!(%error, "snapd was not told how the snap is"),
        }
    }
}

/// What snapd was told last, and how many looks there were since the start or a change.
#[derive(Default)]
struct Told {
    looks: usize,
    last: Option<Judged>,
}

impl Told {
    /// Until the next look.
    fn pause(&self) -> Duration {
        LOOKS[self.looks.min(LOOKS.len() - 1)]
    }

    /// Whether snapd is to be told what this look found. The first ones always: its own hook may tell it something else
    /// meanwhile. Then only what is new, since it writes all that it knows each time.
    fn is_due(&mut self, now: &Judged) -> bool {
        let is_first = self.looks < LOOKS.len();
        self.looks = self.looks.saturating_add(1);
        is_first || self.last.as_ref() != Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_long_after_the_start_is_told_once_each() {
        let mut told = Told::default();
        let mut seconds = 0;
        let mut look = |now: Judged| {
            seconds += told.pause().as_secs();
            let is_due = told.is_due(&now);
            if is_due {
                told.last = Some(now);
            }
            (seconds, is_due)
        };
        let trouble = || problem("error", "part-in-trouble", "registry: port 5000 is taken");
        let at_risk = || problem("blocked", "pods-at-risk", "1 pods would not survive an outage");
        assert_eq!(look(trouble()), (5, true));
        assert_eq!(look(trouble()), (65, true));
        assert_eq!(look(at_risk()), (665, true));
        assert_eq!(look(at_risk()), (1265, false));
        assert_eq!(look(trouble()), (1865, true), "found later than the first looks");
        assert_eq!(look(trouble()), (2465, false));
        assert_eq!(look(at_risk()), (3065, true));
    }
}
