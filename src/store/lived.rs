//! How old something is by the time that this gateway has run, and not by what its clock says.
//!
//! A clock that jumps ahead, or is wrong from the boot on, would make everything old at once: what was fetched half, and
//! what somebody is about to refer to. So it is noted now and then how far the clocks went ahead of the time that passed
//! since the note before, and an age is what the clock says without the jumps of that age. Time without power counts as
//! such a jump: nobody can tell it from one. Of a time with power only what follows its last note is lost: a gateway that
//! is off every night grows old too.

use serde::{Deserialize, Serialize};

use super::{Error, Store};
use crate::sys::clock;

/// The key of the note.
const NOTE: &str = "lived";
/// Seconds by which a clock may be ahead without having jumped: it is brought right bit by bit.
const SLACK: i64 = 60;
/// Jumps within so many lived seconds are taken for one, which was when the last of them was.
const SPAN: i64 = 3 * 3600;
/// The longest age that anybody asks about; jumps before it are forgotten. With [`SPAN`] it bounds the note.
const LONGEST: i64 = 7 * 24 * 3600;

/// A moment, as everything that counts time tells it, in seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// Which boot it is in.
    pub boot: String,
    /// Since the boot.
    pub up: i64,
    /// What edge goes by: never below the time floor.
    pub wall: i64,
    /// What the machine says: the times of files are of this clock.
    pub machine: i64,
}

impl Moment {
    pub(super) fn now() -> Self {
        // Where the boot has no name all of them are one, and a count that falls tells them apart.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            boot: boot.trim().to_owned(),
            up: clock::since_boot().as_secs().cast_signed(),
            wall: clock::now().as_second(),
            machine: clock::machine().as_second(),
        }
    }
}

/// One clock: what it said last, and by how much it jumped ahead when so much had been lived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Clock {
    last: i64,
    jumps: Vec<(i64, i64)>,
}

impl Clock {
    fn go_on(&mut self, time: i64, passed: i64, lived: i64) {
        let ahead = time.saturating_sub(self.last).saturating_sub(passed);
        self.last = time;
        self.jumps.retain(|(at, _)| lived.saturating_sub(*at) < LONGEST);
        if ahead <= SLACK {
            return;
        }
        match self.jumps.last_mut().filter(|(at, _)| at / SPAN == lived / SPAN) {
            Some(last) => *last = (lived, last.1.saturating_add(ahead)),
            None => self.jumps.push((lived, ahead)),
        }
    }

    /// What it said at the latest when all was `period` seconds younger, at most [`LONGEST`].
    fn ago(&self, period: i64, lived: i64) -> i64 {
        let recent = self.jumps.iter().filter(|(at, _)| lived - at < period);
        let jumped = recent.fold(0_i64, |sum, (_, ahead)| sum.saturating_add(*ahead));
        self.last.saturating_sub(jumped).saturating_sub(period)
    }
}

/// What was lived until a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lived {
    boot: String,
    up: i64,
    lived: i64,
    wall: Clock,
    machine: Clock,
}

impl Lived {
    /// From here on.
    fn since(moment: &Moment) -> Self {
        let clock = |last| Clock { last, jumps: Vec::new() };
        let (wall, machine) = (clock(moment.wall), clock(moment.machine));
        Self { boot: moment.boot.clone(), up: moment.up, lived: 0, wall, machine }
    }

    fn until(mut self, moment: &Moment) -> Self {
        // In another boot, what is sure is the time since that began.
        let same = self.boot == moment.boot && self.up <= moment.up;
        let passed = if same { moment.up - self.up } else { moment.up };
        self.lived = self.lived.saturating_add(passed);
        self.boot.clone_from(&moment.boot);
        self.up = moment.up;
        self.wall.go_on(moment.wall, passed, self.lived);
        self.machine.go_on(moment.machine, passed, self.lived);
        self
    }

    /// Until `moment`, of a process that began at `opened`: a clock may have gone back by then, and ahead again since.
    fn through(self, opened: &Moment, moment: &Moment) -> Self {
        let is_later = self.boot != opened.boot || self.up < opened.up;
        if is_later { self.until(opened).until(moment) } else { self.until(moment) }
    }

    /// What edge's clock said at the latest when all was `period` seconds younger.
    pub(super) fn wall_ago(&self, period: i64) -> i64 {
        self.wall.ago(period, self.lived)
    }

    /// The same of the machine's clock.
    pub(super) fn machine_ago(&self, period: i64) -> i64 {
        self.machine.ago(period, self.lived)
    }
}

impl Store {
    /// What was lived until now.
    pub(super) fn lived(&self) -> Result<Lived, Error> {
        // A note that cannot be read is one that was never made.
        let noted: Option<Lived> = self.note(NOTE)?.and_then(|text| serde_json::from_str(&text).ok());
        let opened = &self.inner.opened;
        Ok(noted.unwrap_or_else(|| Lived::since(opened)).through(opened, &Moment::now()))
    }

    /// Notes what was lived until now. What is not noted when the power goes did not make anything older.
    ///
    /// # Errors
    /// Where the database cannot be read or written.
    pub fn note_lived(&self) -> Result<(), Error> {
        self.live_on().map(drop)
    }

    /// What was lived until now, noted for the next time.
    pub(super) fn live_on(&self) -> Result<Lived, Error> {
        let lived = self.lived()?;
        let text = serde_json::to_string(&lived).map_err(std::io::Error::from)?;
        self.set_note(NOTE, &text)?;
        Ok(lived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    /// Moments one after the other: hours that pass, by how many hours more the clock goes ahead, and whether there is a boot
    /// between, which is an hour before.
    fn lived(steps: &[(i64, i64, bool)]) -> (Lived, i64) {
        let mut moment = Moment { boot: "0".into(), up: HOUR, wall: 1_800_000_000, machine: 1_800_000_000 };
        let mut lived = Lived::since(&moment);
        for (passed, ahead, boots) in steps {
            let clock = moment.wall + (passed + ahead) * HOUR;
            (moment.wall, moment.machine) = (clock, clock);
            moment.up += passed * HOUR;
            if *boots {
                (moment.boot, moment.up) = (format!("{}1", moment.boot), HOUR);
            }
            lived = lived.until(&moment);
        }
        (lived, moment.wall)
    }

    #[test]
    fn an_age_is_what_was_lived_and_not_what_a_clock_jumped() {
        for (steps, period, jumped) in [
            (&[][..], DAY, 0),
            (&[(6, 0, false), (6, 0, false)], DAY, 0),
            // Ahead by a month: for as long as the age, all that was there before is as young as it was.
            (&[(6, 720, false)], DAY, 720),
            (&[(6, 720, false), (23, 0, false)], DAY, 720),
            (&[(6, 720, false), (24, 0, false)], DAY, 0),
            (&[(6, 720, false), (24, 0, false)], 7 * DAY, 720),
            (&[(6, 720, false), (24 * 7, 0, false)], 7 * DAY, 0),
            (&[(6, 720, false), (6, 48, false)], DAY, 768),
            // And back again: nothing is younger than its time says.
            (&[(6, 720, false), (6, -720, false)], DAY, 720),
            (&[(6, -720, false)], DAY, 0),
            // Off for ten hours each night, or so it seems: an hour of the new boot is sure.
            (&[(14, 0, false), (10, 0, true)], DAY, 9),
            (&[(14, 0, false), (10, 0, true), (23, 0, false)], DAY, 9),
            (&[(14, 0, false), (10, 0, true), (24, 0, false)], DAY, 0),
        ] {
            let (lived, now) = lived(steps);
            assert_eq!(lived.wall_ago(period), now - period - jumped * HOUR, "{steps:?} {period}");
            assert_eq!(lived.machine_ago(period), lived.wall_ago(period));
            assert_eq!(lived.wall_ago(0), now, "no age, no jump");
            let text = serde_json::to_string(&lived).unwrap();
            assert_eq!(serde_json::from_str::<Lived>(&text).unwrap(), lived);
        }
    }

    #[test]
    fn of_ever_so_many_jumps_none_is_forgotten_too_early() {
        let (lived, now) = lived(&vec![(1, 5, false); 299]);
        assert_eq!(lived.wall_ago(7 * DAY), now - 7 * DAY - 168 * 5 * HOUR);
        assert!(lived.wall.jumps.len() <= 57, "{} jumps", lived.wall.jumps.len());
    }

    /// Ten minutes of power a day make a day in half a year, and however many times without power are between, none of
    /// them stays in the way.
    #[test]
    fn what_is_off_most_of_the_time_grows_old_too() {
        let mut moment = Moment { boot: "0".into(), up: 600, wall: 1_800_000_000, machine: 1_800_000_000 };
        let (first, mut lived) = (moment.wall, Lived::since(&moment));
        for boot in 1..300 {
            (moment.boot, moment.up) = (boot.to_string(), 600);
            (moment.wall, moment.machine) = (moment.wall + 20 * HOUR + 600, moment.machine + 20 * HOUR + 600);
            // As a daemon does that looks, and notes at the end.
            lived = lived.through(&Moment { up: 0, wall: moment.wall - 600, ..moment.clone() }, &moment);
            let lasted = boot * 600;
            assert!(lasted >= DAY || lived.wall_ago(DAY) < first, "{boot} boots make it old");
            assert!(lasted < DAY + SPAN || lived.wall_ago(DAY) > first, "{boot} boots, and it is no day old");
            assert!(lived.wall.jumps.len() <= 57, "{} jumps", lived.wall.jumps.len());
        }
    }

    /// The clock went back before the store was opened, and came right before it was asked.
    #[test]
    fn a_clock_that_went_back_between_two_notes_has_jumped() {
        let noted = Moment { boot: "0".into(), up: 10 * HOUR, wall: 1_800_000_000, machine: 1_800_000_000 };
        let lived = Lived::since(&noted);
        for (boot, up) in [("0", 11 * HOUR), ("1", 60)] {
            let dipped = noted.wall - 30 * DAY;
            let opened = Moment { boot: boot.into(), up, wall: dipped, machine: dipped };
            let right = noted.wall + 2 * HOUR;
            let now = Moment { boot: boot.into(), up: up + HOUR, wall: right, machine: right };
            // What came in the dip is as young as it is, whatever its time says.
            let lived = lived.clone().through(&opened, &now);
            assert!(lived.wall_ago(DAY) < dipped && lived.machine_ago(7 * DAY) < dipped, "{boot}");
            // A note of this process, after it was opened, has seen all that.
            assert_eq!(lived.clone().through(&opened, &now), lived);
        }
    }

    #[test]
    fn a_clock_that_goes_a_little_fast_does_not_jump() {
        let start = Moment { boot: "0".into(), up: 0, wall: 0, machine: 0 };
        let next = Moment { up: 6 * HOUR, wall: 6 * HOUR + 30, machine: 6 * HOUR, ..start.clone() };
        assert_eq!(Lived::since(&start).until(&next).wall_ago(DAY), 30 - 18 * HOUR);
    }
}
