//! How long the cloud has been there, counted over outages and starts: only then what nobody asked for counts as unused,
//! since every client has come by. In one piece that time would never come where the link goes away once a day.

use std::time::Duration;

use tokio::time::Instant;

/// The name of the small fact in the cache.
pub const META: &str = "settled";
/// The time with the cloud after which every client has come.
const SETTLED: Duration = Duration::from_secs(24 * 3600);
/// How often the count is noted: as much of it is lost with the power.
const NOTED: Duration = Duration::from_secs(3600);
/// After an outage of so many seconds it is counted anew: what is needed was last asked for long ago then, too. Half of the
/// days that make a list unused.
const LONG: i64 = 7 * 24 * 3600;

/// The count.
#[derive(Debug, Default)]
pub struct Settled {
    had: Duration,
    /// While the cloud is there, since when it is not in `had`.
    since: Option<Instant>,
    /// The cloud's time when it was there last, in seconds since 1970.
    seen: Option<i64>,
}

impl Settled {
    /// As [`Settled::text`] has it.
    pub fn restored(kept: Option<&str>) -> Self {
        let numbers = kept.and_then(|text| text.split_once(' '));
        let Some((Ok(had), Ok(seen))) = numbers.map(|(had, seen)| (had.parse(), seen.parse())) else {
            return Self::default();
        };
        Self { had: Duration::from_secs(had), since: None, seen: Some(seen) }
    }

    /// What is to be noted.
    pub fn text(&self) -> Option<String> {
        Some(format!("{} {}", self.had.as_secs(), self.seen?))
    }

    /// Counts up to now. `cloud` is the cloud's own time, as far as it said: this machine's may jump.
    pub fn count(&mut self, is_online: bool, now: Instant, cloud: Option<i64>) {
        if let Some(since) = self.since {
            self.had += now.duration_since(since);
        }
        let was_long_ago = self.seen.zip(cloud).is_some_and(|(seen, cloud)| cloud - seen > LONG);
        if is_online && self.since.is_none() && was_long_ago {
            self.had = Duration::ZERO;
        }
        self.since = is_online.then_some(now);
        self.seen = cloud.or(self.seen);
    }

    /// When to count next, while the cloud is there.
    pub fn next(&self) -> Option<Instant> {
        Some(self.since? + NOTED.min(SETTLED.saturating_sub(self.had)))
    }

    /// Whether it is long enough; then the count begins anew.
    pub fn is_due(&mut self) -> bool {
        let is_due = self.had >= SETTLED;
        if is_due {
            self.had = Duration::ZERO;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Lets time pass as the house does; says how often it was due.
    fn pass(settled: &mut Settled, hours: u32, is_online: bool, clock: &mut (Instant, i64)) -> usize {
        let cloud = |time: i64| is_online.then_some(time);
        settled.count(is_online, clock.0, cloud(clock.1));
        let mut due = 0;
        for _ in 0..hours {
            *clock = (clock.0 + HOUR, clock.1 + 3600);
            settled.count(is_online, clock.0, cloud(clock.1));
            due += usize::from(settled.is_due());
        }
        due
    }

    #[test]
    fn a_link_that_goes_away_every_day_is_there_long_enough_one_day() {
        let mut clock = (Instant::now(), 1_790_000_000);
        let mut settled = Settled::default();
        let mut due = 0;
        for day in 0..30 {
            due += pass(&mut settled, 20, true, &mut clock);
            due += pass(&mut settled, 4, false, &mut clock);
            if day % 2 == 0 {
                // A start: all it has is what was noted.
                settled = Settled::restored(settled.text().as_deref());
            }
        }
        assert_eq!(due, 30 * 20 / 24);
    }

    #[test]
    fn after_a_long_outage_it_is_counted_anew() {
        let mut clock = (Instant::now(), 1_790_000_000);
        let mut settled = Settled::default();
        assert_eq!(pass(&mut settled, 23, true, &mut clock), 0);
        pass(&mut settled, 8 * 24, false, &mut clock);
        assert_eq!(pass(&mut settled, 23, true, &mut clock), 0);
        assert_eq!(pass(&mut settled, 1, true, &mut clock), 1);
    }

    #[test]
    fn it_is_counted_when_it_is_due_and_noted_before() {
        let mut settled = Settled::restored(Some("84600 1790000000"));
        let now = Instant::now();
        assert_eq!(settled.next(), None);
        settled.count(true, now, Some(1_790_003_600));
        assert_eq!(settled.next(), Some(now + HOUR / 2));
        settled.count(true, now + HOUR / 2, Some(1_790_005_400));
        assert!(settled.is_due());
        assert_eq!(settled.next(), Some(now + HOUR / 2 + HOUR));
        assert!(Settled::restored(Some("nonsense")).text().is_none());
    }
}
