//! When the mirror runs by itself. Pure; all times are UTC.

use std::str::FromStr;
use std::time::Duration;

use croner::Cron;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A line of cron.
#[derive(Clone, Debug)]
pub struct Timetable(Cron);

impl Timetable {
    /// # Errors
    /// Why it is none.
    pub fn parse(line: &str) -> Result<Self, String> {
        let cron = Cron::from_str(line)
            .map_err(|e| format!("`{line}` is no line of cron such as `0 2 * * *`: {e}"))?;
        let table = Self(cron);
        // What can never come, such as the 30th of February.
        match table.next_after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(table),
            None => Err(format!("`{line}` is no time that ever comes")),
        }
    }

    /// The first time after `at`.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let civil = at.to_zoned(TimeZone::UTC).datetime();
        let next = self.0.find_next_occurrence(&civil, false).ok()?;
        next.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    }
}

/// Hours of the day; one that ends before it begins goes over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Minutes after midnight.
    begin: u32,
    end: u32,
}

impl Window {
    /// # Errors
    /// Why it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let minutes = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
            (hour * 60 + minute <= 24 * 60 && minute < 60).then_some(hour * 60 + minute)
        };
        let parsed = text.split_once('-').and_then(|(a, b)| Some((minutes(a)?, minutes(b)?)));
        match parsed {
            Some((begin, end)) if begin != end => Ok(Self { begin, end }),
            _ => Err(format!("`{text}` is no window such as `22:00-06:00`")),
        }
    }

    /// How long it is still open; `None` while it is closed.
    fn open_for(&self, at: Timestamp) -> Option<Duration> {
        let second = u32::try_from(at.as_second().rem_euclid(24 * 3600)).unwrap_or(0);
        let (begin, end) = (self.begin * 60, self.end * 60);
        let left = match (begin < end, second) {
            (true, s) if s >= begin && s < end => end - s,
            (false, s) if s >= begin => 24 * 3600 - s + end,
            (false, s) if s < end => end - s,
            _ => return None,
        };
        Some(Duration::from_secs(u64::from(left)))
    }
}

/// How long some window is still open: `None` while all are closed. Without any, it is always open.
pub fn open_for(windows: &[Window], at: Timestamp) -> Option<Duration> {
    if windows.is_empty() {
        return Some(Duration::MAX);
    }
    windows.iter().filter_map(|window| window.open_for(at)).max()
}

/// What decides when the next run is due.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// When the last run began.
    pub last: Option<Timestamp>,
    /// How many runs in a row could not reach what they wanted.
    pub cut_short: u32,
    /// When the last run ended.
    pub ended: Option<Timestamp>,
}

/// The shortest and the longest time after which a run that was cut short is tried again.
const AGAIN: (u64, u64) = (5 * 60, 3600);

/// When the next run is due. One that never ran is due at once; one that was missed or cut short catches up.
/// `share`, from 0 to 1, is where within the jitter this gateway lies.
pub fn due(
    table: &Timetable,
    past: &Past,
    jitter: Duration,
    share: f64,
    now: Timestamp,
) -> Option<Timestamp> {
    let Some(last) = past.last else { return Some(now) };
    // A clock that was set back must not put the run off for years.
    let planned = table.next_after(last.min(now))?;
    let planned = planned.checked_add(jitter.mul_f64(share.clamp(0.0, 1.0))).unwrap_or(planned);
    if past.cut_short == 0 {
        return Some(planned);
    }
    let wait = AGAIN.0.saturating_mul(1 << (past.cut_short - 1).min(8)).min(AGAIN.1);
    let again = past.ended.unwrap_or(last).min(now).checked_add(Duration::from_secs(wait)).unwrap_or(planned);
    Some(planned.min(again))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn runs_are_due_by_the_table_and_what_was_missed_is_due_now() {
        let table = Timetable::parse("0 2 * * *").unwrap();
        let past = |last: &str, cut_short| Past { last: Some(at(last)), cut_short, ended: Some(at(last)) };
        let now = at("2026-03-01T12:00:00Z");
        let due = |past: &Past, jitter| super::due(&table, past, Duration::from_secs(jitter), 0.5, now);
        assert_eq!(due(&Past::default(), 600), Some(now));
        assert_eq!(due(&past("2026-03-01T02:00:05Z", 0), 0), Some(at("2026-03-02T02:00:00Z")));
        assert_eq!(due(&past("2026-03-01T02:00:05Z", 0), 600), Some(at("2026-03-02T02:05:00Z")));
        assert!(due(&past("2026-02-20T02:00:05Z", 0), 600).unwrap() < now, "it catches up");
        assert_eq!(due(&past("2026-03-01T11:59:00Z", 1), 0), Some(at("2026-03-01T12:04:00Z")));
        assert_eq!(due(&past("2026-03-01T11:59:00Z", 9), 0), Some(at("2026-03-01T12:59:00Z")));
        assert_eq!(
            due(&past("2036-03-01T02:00:00Z", 0), 0),
            Some(at("2026-03-02T02:00:00Z")),
            "the clock was wrong"
        );
    }

    #[test]
    fn windows_go_over_midnight() {
        let windows = [Window::parse("22:00-06:00").unwrap(), Window::parse("12:00-12:30").unwrap()];
        for (time, left) in
            [("23:00:00", Some(7 * 60)), ("05:59:00", Some(1)), ("12:29:00", Some(1)), ("06:00:00", None)]
        {
            let found = open_for(&windows, at(&format!("2026-03-01T{time}Z")));
            assert_eq!(found.map(|left| left.as_secs() / 60), left, "{time}");
        }
        assert_eq!(open_for(&[], Timestamp::UNIX_EPOCH), Some(Duration::MAX));
        for bad in ["", "22:00", "22-23", "24:01-1:00", "1:00-1:00", "a:b-c:d"] {
            assert!(Window::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_never_comes_is_refused() {
        for bad in ["", "x", "0 2 * *", "61 * * * *", "0 0 30 2 *"] {
            assert!(Timetable::parse(bad).is_err(), "{bad}");
        }
    }
}
