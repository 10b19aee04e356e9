//! What registries say of how much more they will answer: `RateLimit-Remaining` with `RateLimit-Reset`, or with
//! the window that Docker Hub writes behind the number (`98;w=21600`). The reset is in seconds from now; GitLab says at
//! which time, in seconds since 1970.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, header};

use super::Client;
use crate::sys::clock;

/// A reset in more seconds than this, ten years, is a time.
const TIME: u64 = 10 * 365 * 24 * 3600;

/// How much more a registry will answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Manifests that may still be fetched.
    pub remaining: u64,
    /// After which time there are more again, at the latest.
    pub resets_in: Duration,
}

/// By host, with when it was said.
#[derive(Default)]
pub(super) struct Limits(Mutex<HashMap<String, (RateLimit, Instant)>>);

impl Limits {
    pub(super) fn note(&self, host: &str, headers: &HeaderMap) {
        if let Some(limit) = read(headers) {
            let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            limits.insert(host.to_owned(), (limit, Instant::now()));
        }
    }
}

impl Client {
    /// What a registry said last of its limit, if it has one that still holds.
    pub fn rate_limit(&self, host: &str) -> Option<RateLimit> {
        let limits = self.limits.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (limit, said) = limits.get(host)?;
        let resets_in = limit.resets_in.checked_sub(said.elapsed())?;
        Some(RateLimit { resets_in, ..*limit })
    }
}

fn read(headers: &HeaderMap) -> Option<RateLimit> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let remaining = text("ratelimit-remaining").or_else(|| text("x-ratelimit-remaining"))?;
    let (number, rest) = remaining.split_once(';').unwrap_or((remaining, ""));
    let window = rest.split(';').find_map(|part| part.trim().strip_prefix("w=")?.parse::<u64>().ok());
    let reset = text("ratelimit-reset").and_then(|value| value.trim().parse::<u64>().ok());
    let reset = reset.map(|reset| if reset > TIME { reset.saturating_sub(said_at(headers)) } else { reset });
    let seconds = reset.or(window).unwrap_or(3600).clamp(1, 24 * 3600);
    Some(RateLimit { remaining: number.trim().parse().ok()?, resets_in: Duration::from_secs(seconds) })
}

/// When an answer was made, in seconds since 1970: by the clock of who made it, and else by this one.
fn said_at(headers: &HeaderMap) -> u64 {
    let date = headers.get(header::DATE).and_then(|value| value.to_str().ok());
    let date = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()).map(|date| date.timestamp());
    u64::try_from(date.unwrap_or_else(clock::now).as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_registries_say() {
        let date = ("date", "Sat, 01 Feb 2025 00:00:00 GMT");
        for (pairs, expected) in [
            (&[("ratelimit-remaining", "98;w=21600")][..], Some((98, 21600))),
            // As GitLab has it; one that has passed, and one that nobody waits for.
            (&[("ratelimit-remaining", "0"), ("ratelimit-reset", "1738368040"), date], Some((0, 40))),
            (&[("ratelimit-remaining", "0"), ("ratelimit-reset", "1738367990"), date], Some((0, 1))),
            (&[("ratelimit-remaining", "0"), ("ratelimit-reset", "99999999999"), date], Some((0, 24 * 3600))),
            (&[("ratelimit-remaining", "0"), ("ratelimit-reset", "30")], Some((0, 30))),
            (&[("ratelimit-remaining", "x")], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            let found = read(&headers).map(|limit| (limit.remaining, limit.resets_in.as_secs()));
            assert_eq!(found, expected, "{pairs:?}");
        }
        // Without a date by this machine's own clock.
        let mut headers = HeaderMap::new();
        headers.insert("ratelimit-remaining", "0".parse().unwrap());
        headers.insert("ratelimit-reset", (clock::now().as_second() + 50).to_string().parse().unwrap());
        let found = read(&headers).unwrap().resets_in.as_secs();
        assert!((40..=50).contains(&found), "{found}");
    }
}
