use super::*;
use crate::pods::heal::Broken;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn on() -> Settings {
    Settings { enabled: true, ..Settings::default() }
}

fn crashed(restarts: u32) -> Symptoms {
    Symptoms {
        restarts: BTreeMap::from([("main".to_owned(), restarts)]),
        failing: vec!["main".to_owned()],
        runs: true,
        is_there: true,
        ..Symptoms::default()
    }
}

/// It has failed after it `ran` so many seconds, and waits for its next start.
fn waits(restarts: u32, ran: u64) -> Symptoms {
    let held_back = BTreeMap::from([("main".to_owned(), Some(Duration::from_secs(ran)))]);
    Symptoms { held_back, runs: false, ..crashed(restarts) }
}

fn no_network() -> Symptoms {
    let broken = Some(Broken::NetworkNamespace);
    Symptoms { broken, runs: true, is_there: true, ..Symptoms::default() }
}

#[test]
fn failures_within_the_window_restart_containers_then_the_whole_then_nothing() {
    let (mut memory, settings) = (Memory::default(), on());
    let mut done = Vec::new();
    for minute in 0..240 {
        let now = at(minute * 60);
        // Another container runs all the time.
        let symptoms = Symptoms { runs: true, ..waits(u32::try_from(minute).unwrap() + 40, 50) };
        match decide(&mut memory, &symptoms, &settings, now) {
            Decision::Leave => {}
            Decision::Restart(part, _) => {
                acted(&mut memory, part, &symptoms, now);
                done.push((minute, Some(part)));
            }
            Decision::GiveUp(why) => {
                assert!(why.ends_with("3 restarts did not help"), "{why}");
                done.push((minute, None));
            }
        }
    }
    // 5 failures at 1 a minute; then each time the one start that was its own doing, 5 failures more, and the
    // doubled back-off of 5, 10 and 20 minutes.
    let expected =
        [(5, Some(Part::Containers)), (11, Some(Part::Whole)), (21, Some(Part::Whole)), (41, None)];
    assert_eq!(done, expected);
}

/// A pod whose container fails as soon as it is started, tended by the kubelet, looked at every 10 s, for `hours`.
/// What was done, and when. `back_off` is the kubelet's at the start: 10 s, doubled each time up to 5 minutes; a new
/// sandbox starts at once, and does not begin it anew.
fn tended_by_kubelet(restarts: u32, mut back_off: i64, hours: i64) -> Vec<(i64, Option<Part>)> {
    let (mut memory, mut done) = (Memory::default(), Vec::new());
    let (mut restarts, mut next) = (restarts, back_off);
    for second in (0..hours * 3600).step_by(10) {
        while second >= next {
            restarts += 1;
            back_off = (back_off * 2).min(300);
            next += back_off;
        }
        let symptoms = waits(restarts, 0);
        match decide(&mut memory, &symptoms, &on(), at(second)) {
            Decision::Leave => {}
            Decision::Restart(part, _) => {
                acted(&mut memory, part, &symptoms, at(second));
                done.push((second, Some(part)));
                next = second;
            }
            Decision::GiveUp(why) => {
                assert!(why.ends_with("3 restarts did not help"), "{why}");
                done.push((second, None));
            }
        }
    }
    done
}

#[test]
fn a_loop_that_kubelet_slows_down_comes_to_its_end() {
    let whole = Some(Part::Whole);
    // Failures at 10, 30, 70, 150 and 310 s, and one for the time in which the kubelet held it back; then 5, 10 and
    // 20 minutes. Just then the kubelet starts it once more, which is seen to fail, too.
    let expected = [(270, whole), (590, whole), (1190, whole), (2390, None)];
    assert_eq!(tended_by_kubelet(1, 10, 6), expected);
    // It is at five minutes already: the time in which it does not run counts.
    let done = tended_by_kubelet(40, 300, 6);
    let parts: Vec<_> = done.iter().map(|(_, part)| *part).collect();
    assert_eq!(parts, [whole, whole, whole, None], "{done:?}");
    assert!(done[0].0 <= 600, "within the window: {done:?}");
}

#[test]
fn the_wait_that_a_restart_itself_brings_is_no_failure() {
    let mut memory = Memory::default();
    decide(&mut memory, &crashed(40), &on(), at(0));
    acted(&mut memory, Part::Containers, &crashed(40), at(0));
    // The kubelet makes it wait for what edge stopped; after 300 s it runs.
    for second in (0..300).step_by(10) {
        assert_eq!(decide(&mut memory, &waits(40, 9), &on(), at(second)), Decision::Leave);
    }
    assert_eq!(decide(&mut memory, &crashed(41), &on(), at(310)), Decision::Leave);
    assert!(memory.failures.is_empty());
    assert_eq!(decide(&mut memory, &waits(41, 9), &on(), at(320)), Decision::Leave);
    let decision = decide(&mut memory, &waits(41, 9), &on(), at(340));
    assert!(matches!(decision, Decision::Restart(Part::Whole, _)), "{decision:?}");
}

#[test]
fn one_failure_long_after_a_restart_is_left_to_the_kubelet() {
    // How long it ran, how long the kubelet then holds it back, and whether that is what the restart was to mend.
    for (ran, held, renewed) in
        [(400, 0, false), (400, 300, false), (120, 300, false), (2, 0, false), (2, 10, false), (2, 20, true)]
    {
        let mut memory = Memory::default();
        decide(&mut memory, &crashed(6), &on(), at(-10));
        acted(&mut memory, Part::Containers, &crashed(6), at(0));
        for second in (10..400).step_by(10) {
            assert_eq!(decide(&mut memory, &crashed(7), &on(), at(second)), Decision::Leave);
        }
        let mut decided = Decision::Leave;
        for second in (400..=400 + held).step_by(10) {
            decided = decide(&mut memory, &waits(7, ran), &on(), at(second));
        }
        assert_eq!(decided != Decision::Leave, renewed, "ran {ran} s, held back {held} s: {decided:?}");
        if !renewed {
            assert_eq!(decide(&mut memory, &crashed(8), &on(), at(410 + held)), Decision::Leave);
        }
    }
}

#[test]
fn what_is_remembered_of_a_pod_that_never_stops_failing_has_a_bound() {
    let most = Settings { failures: u32::MAX, window: Duration::from_secs(24 * 3600), ..on() };
    let mut memory = Memory::default();
    for look in 0..2000 {
        decide(&mut memory, &waits(u32::try_from(look).unwrap() * 50, 0), &most, at(look));
    }
    assert_eq!(memory.failures.len(), MOST_FAILURES as usize);
    assert_eq!(memory.failures.last(), Some(&at(1999)), "the newest stay");
}

#[test]
fn restarts_of_before_the_first_look_and_restarts_in_order_do_not_count() {
    let mut memory = Memory::default();
    assert_eq!(decide(&mut memory, &crashed(900), &on(), at(0)), Decision::Leave);
    let in_order = Symptoms { failing: Vec::new(), ..crashed(950) };
    assert_eq!(decide(&mut memory, &in_order, &on(), at(60)), Decision::Leave);
}

#[test]
fn failures_that_are_rare_do_not_count() {
    let mut memory = Memory::default();
    for hour in 0..100 {
        let symptoms = crashed(u32::try_from(hour).unwrap());
        assert_eq!(decide(&mut memory, &symptoms, &on(), at(hour * 3600)), Decision::Leave);
    }
}

#[test]
fn a_broken_context_is_given_time_to_mend() {
    let mut memory = Memory::default();
    assert_eq!(decide(&mut memory, &no_network(), &on(), at(0)), Decision::Leave);
    assert_eq!(decide(&mut memory, &no_network(), &on(), at(299)), Decision::Leave);
    assert_eq!(decide(&mut memory, &Symptoms::default(), &on(), at(299)), Decision::Leave);
    assert_eq!(decide(&mut memory, &no_network(), &on(), at(300)), Decision::Leave, "counted anew");
    let decision = decide(&mut memory, &no_network(), &on(), at(600));
    assert!(matches!(decision, Decision::Restart(Part::Containers, _)), "{decision:?}");
}

#[test]
fn where_nothing_runs_only_the_whole_helps() {
    let mut memory = Memory::default();
    let symptoms = Symptoms { runs: false, ..no_network() };
    decide(&mut memory, &symptoms, &on(), at(0));
    let decision = decide(&mut memory, &symptoms, &on(), at(300));
    assert!(matches!(decision, Decision::Restart(Part::Whole, _)), "{decision:?}");
}

#[test]
fn off_deleted_and_static_pods_are_left_alone() {
    let ending = Symptoms { ending: true, ..no_network() };
    let from_file = Symptoms { is_static: true, ..no_network() };
    for (settings, symptoms, touched) in [
        (Settings::default(), no_network(), false),
        (on(), ending, false),
        (on(), from_file.clone(), false),
        (Settings { static_pods: true, ..on() }, from_file, true),
    ] {
        let mut memory = Memory::default();
        decide(&mut memory, &symptoms, &settings, at(0));
        let decision = decide(&mut memory, &symptoms, &settings, at(1000));
        assert_eq!(decision != Decision::Leave, touched, "{symptoms:?}");
    }
}

#[test]
fn memory_survives_a_reboot_and_a_quiet_window_heals_it() {
    let mut memory = Memory::default();
    decide(&mut memory, &no_network(), &on(), at(0));
    decide(&mut memory, &no_network(), &on(), at(300));
    acted(&mut memory, Part::Containers, &no_network(), at(300));
    let text = serde_json::to_string(&memory).unwrap();
    let mut memory: Memory = serde_json::from_str(&text).unwrap();
    assert_eq!(memory.restarts, 1);
    decide(&mut memory, &Symptoms::default(), &on(), at(600));
    assert_eq!(memory.restarts, 1, "not a whole window yet");
    decide(&mut memory, &Symptoms::default(), &on(), at(901));
    assert_eq!(memory.restarts, 0);
}

#[test]
fn a_boot_in_the_past_forgets_nothing_and_its_starts_are_no_failures() {
    let mut memory = Memory::default();
    decide(&mut memory, &no_network(), &on(), at(0));
    acted(&mut memory, Part::Whole, &no_network(), at(300));
    decide(&mut memory, &crashed(7), &on(), at(300));
    booted(&mut memory);
    for second in 0..100 {
        assert_eq!(decide(&mut memory, &crashed(8), &on(), at(second - 900_000)), Decision::Leave);
    }
    assert_eq!((memory.restarts, memory.failures.len()), (1, 0));
}

#[test]
fn time_in_which_nobody_looked_makes_no_pod_well() {
    let mut memory = Memory::default();
    acted(&mut memory, Part::Whole, &no_network(), at(0));
    let mut looked = memory.clone();
    decide(&mut looked, &Symptoms::default(), &on(), at(5000));
    assert_eq!(looked.restarts, 0);
    resumed(&mut memory, at(5000));
    decide(&mut memory, &Symptoms::default(), &on(), at(5001));
    assert_eq!(memory.restarts, 1);
    decide(&mut memory, &Symptoms::default(), &on(), at(5601));
    assert_eq!(memory.restarts, 0);
}

#[test]
fn of_what_was_never_there_nothing_is_restarted_and_that_is_said_once() {
    let mut memory = Memory::default();
    let symptoms = Symptoms { broken: Some(Broken::Mount), ..Symptoms::default() };
    decide(&mut memory, &symptoms, &on(), at(0));
    let Decision::GiveUp(why) = decide(&mut memory, &symptoms, &on(), at(300)) else { panic!() };
    assert!(why.starts_with("a volume cannot be mounted for 300 s, and there is nothing"), "{why}");
    assert_eq!(decide(&mut memory, &symptoms, &on(), at(600)), Decision::Leave);
    decide(&mut memory, &Symptoms::default(), &on(), at(601));
    assert_eq!(memory.gave_up, None, "it is well again");
}
