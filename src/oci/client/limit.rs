//! What registries say of how much more they will answer: `RateLimit-Remaining` with `RateLimit-Reset`, or with
//! the window that Docker Hub writes behind the number (`98;w=21600`).

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

use super::Client;

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
    let seconds = reset.or(window).unwrap_or(3600).clamp(1, 24 * 3600);
    Some(RateLimit { remaining: number.trim().parse().ok()?, resets_in: Duration::from_secs(seconds) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_registries_say() {
        for (pairs, expected) in [
            (&[("ratelimit-remaining", "98;w=21600")][..], Some((98, 21600))),
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
    }
}
