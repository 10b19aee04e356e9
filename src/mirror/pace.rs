//! How fast: bytes a second over all transfers, and hosts that want to be left alone for a while.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::Failure;
use crate::sys::clock;

/// Bytes a second that all transfers share.
pub(super) struct Pace {
    rate: Option<u64>,
    /// When the next bytes may be taken.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self { rate: rate.filter(|rate| *rate > 0), next: Mutex::new(None) }
    }

    /// Waits until `bytes` more may have come.
    pub(super) async fn take(&self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        let until = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = next.map_or_else(Instant::now, |next| next.max(Instant::now()));
            #[allow(clippy::cast_precision_loss, reason = "bytes of one piece")]
            let span = Duration::from_secs_f64(bytes as f64 / rate as f64);
            let until = begin + span;
            *next = Some(until);
            until
        };
        tokio::time::sleep_until(until).await;
    }
}

/// Until when hosts are left alone.
#[derive(Default)]
pub(super) struct Gates(Mutex<HashMap<String, Instant>>);

/// The longest that is waited within a run for a host that limits its answers.
const PATIENCE: Duration = Duration::from_secs(60);

impl Gates {
    /// Leaves `host` alone for `wait`.
    pub(super) fn close(&self, host: &str, wait: Duration) {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + wait;
        let known = gates.entry(host.to_owned()).or_insert(until);
        *known = (*known).max(until);
    }

    /// Waits until `host` may be asked, unless that takes too long.
    pub(super) async fn pass(&self, host: &str) -> Result<(), Failure> {
        loop {
            let until = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied();
            let Some(wait) = until.and_then(|until| until.checked_duration_since(Instant::now())) else {
                return Ok(());
            };
            if wait.is_zero() {
                return Ok(());
            }
            if wait > PATIENCE {
                let again = clock::now().checked_add(wait).unwrap_or_else(|_| clock::now());
                let until = again.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                return Err(Failure::Limited { host: host.to_owned(), until });
            }
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_come_no_faster_than_allowed_however_many_ask() {
        let pace = Pace::new(Some(10_000));
        let begun = Instant::now();
        tokio::join!(pace.take(500), pace.take(500), pace.take(1000));
        let taken = begun.elapsed();
        assert!(taken >= Duration::from_millis(200), "{taken:?}");
        Pace::new(None).take(1 << 40).await;
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_short_limit_is_waited_for_and_a_long_one_told() {
        let gates = Gates::default();
        gates.close("q.io", Duration::from_millis(50));
        let begun = Instant::now();
        gates.pass("q.io").await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(50));
        gates.close("q.io", Duration::from_secs(3600));
        assert!(matches!(gates.pass("q.io").await, Err(Failure::Limited { .. })));
        gates.pass("other.io").await.unwrap();
    }
}
