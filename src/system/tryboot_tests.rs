use std::cell::RefCell;
use std::fs::OpenOptions;
use std::path::Path;

use super::*;
use crate::sys::digest::Digest;
use crate::system::first::tests::table;
use crate::system::{Again, Image, Part, Stage, judge_image};

pub const OLD: VerityId = VerityId([1; 16]);
pub const NEW: VerityId = VerityId([2; 16]);
const NEWER: VerityId = VerityId([3; 16]);
const LABELS: [&str; 6] = ["boot_a", "boot_b", "root_a", "verity_a", "root_b", "verity_b"];

/// A card whose slot a runs and is good.
pub struct Card {
    _folder: tempfile::TempDir,
    pub places: Places,
}

pub fn put(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    durable::write(path, bytes, 0o600).unwrap();
}

pub fn root(id: VerityId) -> Vec<u8> {
    (0..40_000_u32).map(|at| id.0[0] ^ u8::try_from(at % 251).unwrap()).collect()
}

pub fn tree(id: VerityId) -> Vec<u8> {
    [&b"verity\0\0\x01\0\0\0\0\0\0\0"[..], &id.0, &[id.0[0]; 2000]].concat()
}

pub fn boot(id: VerityId) -> Vec<u8> {
    fat::sample(&format!("console=tty0 ro edge.verity={id} roothash=00\n"))
}

impl Card {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::below(folder.path());
        for (number, label) in (2..).zip(LABELS) {
            let told = places.at(&format!("/sys/class/block/mmcblk0/mmcblk0p{number}"));
            put(&told.join("uevent"), format!("PARTNAME={label}\n").as_bytes());
            put(&told.join("partition"), format!("{number}\n").as_bytes());
            put(&places.at(&format!("/dev/mmcblk0p{number}")), &[0xee; 48 << 10]);
        }
        put(&places.at("/sys/class/block/mmcblk0/mmcblk0p1/uevent"), b"PARTNAME=ESP\n");
        let first = fat::sample_of(b"AUTOBOOTTXT", include_str!("../../config/autoboot.txt"));
        put(&places.at("/dev/mmcblk0p1"), &first);
        put(&places.at("/dev/mmcblk0"), &table());
        put(&places.at("/run/edge-disk"), b"mmcblk0\n");
        put(&places.at("/efi/autoboot.txt"), include_bytes!("../../config/autoboot.txt"));
        let release = r#"{"version": "1.0", "arch": "arm64", "board": "raspberry-pi", "boot": "raspberry-pi", "tryboot": true}"#;
        put(&places.at("/usr/share/edge/system.json"), release.as_bytes());
        std::fs::create_dir_all(places.identity()).unwrap();
        let card = Self { _folder: folder, places };
        for (label, bytes) in [("boot_a", boot(OLD)), ("root_a", root(OLD)), ("verity_a", tree(OLD))] {
            card.fill(label, &bytes);
        }
        card.start(Slot::A);
        arm(&card.places).unwrap().unwrap();
        card
    }

    fn fill(&self, label: &str, bytes: &[u8]) {
        use std::os::unix::fs::FileExt as _;
        let device = partition::device(&self.places, label).unwrap();
        OpenOptions::new().write(true).open(device).unwrap().write_all_at(bytes, 0).unwrap();
    }

    /// As the boot loader and the initrd leave it.
    pub fn start(&self, slot: Slot) {
        let number = partition::number(&self.places, &label(slot)).unwrap();
        put(&self.places.at("/proc/device-tree/chosen/bootloader/partition"), &number.to_be_bytes());
        put(&self.places.at("/run/edge-slot"), slot.to_string().as_bytes());
        for name in ["edge-judged", "edge-boots", "systemd/reboot-param"] {
            let _ = std::fs::remove_file(self.places.at("/run").join(name));
        }
    }

    /// As the initrd counts.
    fn counted(&self, boots: u32) {
        put(&self.places.at("/run/edge-boots"), format!("{boots}\n").as_bytes());
    }

    pub fn stage(&self, id: VerityId) -> Result<Slot, Error> {
        let image = image(id);
        assert_eq!(judge_image(&self.places, &image, Again::UnlessGood, None)?, None);
        let mut stage = Stage::begin(&self.places, image)?;
        for (part, bytes) in [(Part::Root, root(id)), (Part::Verity, tree(id)), (Part::Kernel, boot(id))] {
            stage.open(part)?;
            for piece in bytes.chunks(700) {
                stage.write(piece)?;
            }
            cut("part");
            stage.close()?;
        }
        stage.commit()
    }

    pub fn states(&self) -> String {
        let status = Status::read(&self.places).unwrap();
        let next = status.next.map_or("-".into(), |slot| slot.to_string());
        format!("{} {} {next}", status.slots[0].state.word(), status.slots[1].state.word())
    }

    fn spare(&self) -> Option<String> {
        std::fs::read_to_string(self.places.identity().join(SPARE)).ok()
    }
}

fn image(id: VerityId) -> Image {
    let sum = |bytes: &[u8]| (Digest::sha256(bytes), bytes.len() as u64);
    Image {
        version: format!("v{}", id.0[0]),
        arch: "arm64".into(),
        board: "raspberry-pi".into(),
        verity: id,
        root: sum(&root(id)),
        tree: sum(&tree(id)),
        kernel: sum(&boot(id)),
        stream: "main".into(),
        seq: id.0[0].into(),
        manifest: Digest::sha256(&id.0),
    }
}

/// What starts where the power comes back: as the boot loader and the initrd find it, whole.
fn starts(places: &Places, tried: bool) -> Option<Slot> {
    let autoboot = Autoboot::read(places).unwrap().unwrap();
    let number = if tried { autoboot.tried } else { autoboot.by_itself };
    let of = |slot: &Slot| partition::number(places, &label(*slot)).unwrap() == number;
    let id = boots(places, Slot::BOTH.into_iter().find(of).unwrap())?;
    let slot =
        Slot::BOTH.into_iter().find(|slot| partition::verity_id(places, *slot).unwrap() == Some(id))?;
    let holds = |label: &str, bytes: Vec<u8>| {
        let device = partition::device(places, &format!("{label}_{slot}")).unwrap();
        assert!(std::fs::read(device).unwrap().starts_with(&bytes), "{label}_{slot} is half of {id}");
    };
    holds("root", root(id));
    holds("verity", tree(id));
    holds("boot", boot(id));
    Some(slot)
}

type Cuts = Vec<(String, tempfile::TempDir)>;

thread_local! {
    static CUTS: RefCell<Option<(std::path::PathBuf, Cuts)>> = const { RefCell::new(None) };
}

/// Keeps all as it is here: the power may go now. What edge syncs is whole then; see `durable` for what it does not.
fn cut(place: &str) {
    CUTS.with_borrow_mut(|cuts| {
        let Some((from, cuts)) = cuts else { return };
        let to = tempfile::tempdir().unwrap();
        let copied = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status();
        assert!(copied.unwrap().success());
        cuts.push((place.to_owned(), to));
    });
}

/// All moments of `work` at which the power may go.
fn cuts_of(card: &Card, work: impl FnOnce()) -> Cuts {
    crate::sys::failpoint::arm(cut);
    CUTS.set(Some((card.places.at("/"), Cuts::new())));
    cut("before");
    work();
    cut("after");
    CUTS.take().unwrap().1
}

/// At any moment of an update the old or the new system starts, whole; and what the initrd may turn to is whole too.
#[test]
fn a_power_cut_at_any_step_starts_the_old_or_the_new_system() {
    let card = Card::new();
    let places = &card.places;
    let check = |cuts: &Cuts, itself: &dyn Fn(Option<Slot>, &str, bool) -> bool| {
        let mut turned = false;
        for (place, folder) in cuts {
            let after = Places::below(folder.path());
            let started = starts(&after, false);
            turned |= place == "autoboot-written";
            assert!(started.is_some() && itself(started, place, turned), "{place}: {started:?}");
            // A trial that finds no boot partition is no trial; one that finds one finds a whole system.
            starts(&after, true);
            if let Ok(spare) = std::fs::read_to_string(after.identity().join(SPARE)) {
                let spare: Slot = spare.trim().parse().unwrap();
                assert_ne!(Some(spare), started, "{place}");
                let id = partition::verity_id(&after, spare).unwrap();
                assert!(id.is_some() && boots(&after, spare) == id, "{place}: {spare} is no spare");
            }
        }
        cuts.iter().map(|(place, _)| place.clone()).collect::<Vec<_>>()
    };
    let staged = cuts_of(&card, || assert_eq!(card.stage(NEW).unwrap(), Slot::B));
    let places_of = check(&staged, &|started, _, _| started == Some(Slot::A));
    for place in ["spare-gone", "head", "head-written", "part", "beside-written"] {
        assert!(places_of.iter().any(|one| one == place), "{place}: {places_of:?}");
    }
    assert_eq!((card.states().as_str(), starts(places, true)), ("good staged b", Some(Slot::B)));
    let asked = cuts_of(&card, || ask(places, Slot::B).unwrap());
    check(&asked, &|started, _, _| started == Some(Slot::A));
    assert_eq!(std::fs::read_to_string(places.at(PARAMETER)).unwrap(), ASKED);

    card.start(Slot::B);
    assert_eq!(card.states(), "good trying a");
    let armed = cuts_of(&card, || drop(arm(places).unwrap().unwrap()));
    let places_of =
        check(&armed, &|started, _, turned| started == Some(if turned { Slot::B } else { Slot::A }));
    assert!(places_of.iter().any(|one| one == "autoboot-written"), "{places_of:?}");
    assert_eq!((card.states().as_str(), card.spare().as_deref()), ("good good b", Some("a\n")));

    // The next one goes to a, which is a spare no longer then.
    let staged = cuts_of(&card, || assert_eq!(card.stage(NEWER).unwrap(), Slot::A));
    check(&staged, &|started, _, _| started == Some(Slot::B));
    assert_eq!((card.states().as_str(), card.spare()), ("staged good a", None));
}

#[test]
fn what_does_not_come_up_is_tried_once() {
    let card = Card::new();
    card.stage(NEW).unwrap();
    ask(&card.places, Slot::B).unwrap();
    // It said nothing: the old one is here again.
    card.start(Slot::A);
    assert_eq!(card.states(), "good failed a");
    let status = Status::read(&card.places).unwrap();
    assert_eq!(status.of(Slot::B).reason.as_deref(), Some(NOT_UP));
    arm(&card.places).unwrap();
    assert_eq!((card.states().as_str(), card.spare()), ("good failed a", None));
    // A stick does not bring it again, a person does.
    let again = |again| judge_image(&card.places, &image(NEW), again, None).unwrap();
    assert!(again(Again::Never).unwrap().contains("is failed hint: `edge bundle import` stages it again"));
    assert_eq!(again(Again::UnlessGood), None);
    card.stage(NEW).unwrap();

    // It says that it is not well: any start leads back.
    ask(&card.places, Slot::B).unwrap();
    card.start(Slot::B);
    let turned = unhealthy(&card.places, "kubelet is not well").unwrap();
    assert_eq!(turned, Fallback::Reboot { left: 0, other: Slot::A });
    assert_eq!(starts(&card.places, false), Some(Slot::A));
    card.start(Slot::A);
    let status = Status::read(&card.places).unwrap();
    assert_eq!(status.of(Slot::B).reason.as_deref(), Some("kubelet is not well"));
    assert_eq!(card.states(), "good failed a");
}

fn updated() -> Card {
    let card = Card::new();
    card.stage(NEW).unwrap();
    ask(&card.places, Slot::B).unwrap();
    card.start(Slot::B);
    arm(&card.places).unwrap().unwrap();
    card
}

#[test]
fn a_good_one_that_is_well_no_longer_is_given_up_after_three_boots() {
    let card = updated();
    for (boots, left) in [(1, 2), (2, 1), (3, 0)] {
        card.start(Slot::B);
        card.counted(boots);
        assert_eq!(Status::read(&card.places).unwrap().of(Slot::B).tries_left, Some(left));
        let turned = unhealthy(&card.places, "kubelet is not well").unwrap();
        assert_eq!(turned, Fallback::Reboot { left, other: Slot::A });
        assert_eq!(starts(&card.places, false), Some(if left == 0 { Slot::A } else { Slot::B }));
    }
    card.start(Slot::A);
    arm(&card.places).unwrap().unwrap();
    assert_eq!((card.states().as_str(), card.spare()), ("good failed a", None));
    let nowhere = unhealthy(&card.places, "kubelet is not well").unwrap();
    assert_eq!(nowhere, Fallback::Nowhere("slot b is failed".into()));
    assert_eq!(starts(&card.places, false), Some(Slot::A));
}

/// The initrd turned away from b before edge could run. Power cuts may have done that: it stays what can be turned to.
#[test]
fn what_the_initrd_gave_up_is_failed_and_a_spare() {
    let card = updated();
    put(&card.places.identity().join(GIVEN_UP), NEW.to_string().replace('-', "").as_bytes());
    autoboot(&card.places, Slot::A).unwrap().write(&card.places).unwrap();
    card.start(Slot::A);
    card.counted(1);
    arm(&card.places).unwrap().unwrap();
    assert_eq!((card.states().as_str(), card.spare().as_deref()), ("good failed a", Some("b\n")));
    let status = Status::read(&card.places).unwrap();
    assert_eq!(status.of(Slot::B).reason.as_deref(), Some(USED_UP));
    // Brought again by hand it is tried again.
    let again = updated();
    put(&again.places.identity().join(GIVEN_UP), NEW.to_string().replace('-', "").as_bytes());
    autoboot(&again.places, Slot::A).unwrap().write(&again.places).unwrap();
    again.start(Slot::A);
    arm(&again.places).unwrap().unwrap();
    again.stage(NEW).unwrap();
    assert_eq!(again.states(), "good staged b");
    // And is good again where it comes up.
    assert_eq!(roll_back(&card.places).unwrap(), Slot::B);
    card.start(Slot::B);
    assert_eq!(card.states(), "failed trying b");
    arm(&card.places).unwrap().unwrap();
    assert_eq!(card.states(), "failed good b");
    assert!(!card.places.identity().join(GIVEN_UP).exists());
}

#[test]
fn rolled_back_by_hand_it_starts_the_other_one() {
    let card = Card::new();
    assert!(matches!(roll_back(&card.places), Err(Error::NoOther(_))));
    let card = updated();
    assert_eq!(roll_back(&card.places).unwrap(), Slot::A);
    // edge-healthy.service was still waiting.
    assert_eq!(arm(&card.places).unwrap(), None);
    assert_eq!(starts(&card.places, false), Some(Slot::A));
    card.start(Slot::A);
    arm(&card.places).unwrap().unwrap();
    assert_eq!((card.states().as_str(), card.spare()), ("good failed a", None));

    // While it is tried, too.
    card.stage(NEWER).unwrap();
    ask(&card.places, Slot::B).unwrap();
    card.start(Slot::B);
    assert_eq!(roll_back(&card.places).unwrap(), Slot::A);
    assert_eq!(starts(&card.places, false), Some(Slot::A));
}

#[test]
fn nothing_is_written_where_the_boot_loader_would_not_lead_back() {
    let refused = |card: &Card, words: &str| {
        let slot = Status::read(&card.places).unwrap().booted.other();
        let before = std::fs::read(device(&card.places, slot).unwrap()).unwrap();
        let said = card.stage(NEWER).unwrap_err().to_string();
        assert!(said.contains(words), "{words}: {said}");
        assert!(std::fs::read(device(&card.places, slot).unwrap()).unwrap() == before, "{words}");
    };
    let card = updated();
    Autoboot { by_itself: 2, tried: 3 }.write(&card.places).unwrap();
    refused(
        &card,
        "`autoboot.txt` or partition `boot_b` is not what starts slot b, which runs: nothing is written",
    );
    let card = updated();
    card.fill("boot_b", &[0; 512]);
    refused(&card, "what starts slot b is damaged, and slot a still starts: nothing is written hint: ");
    // Where the other one does not start either, nothing is lost, and its trial is of what is not started by itself.
    let card = Card::new();
    Autoboot { by_itself: 3, tried: 2 }.write(&card.places).unwrap();
    card.fill("boot_a", &[0; 512]);
    assert_eq!(card.stage(NEW).unwrap(), Slot::B);
    assert_eq!(starts(&card.places, true), Some(Slot::B));
    // Upstream's kernel would start the old one again, and nobody would know why.
    let card = Card::new();
    let release = r#"{"version": "1.0", "arch": "arm64", "board": "raspberry-pi", "boot": "raspberry-pi"}"#;
    put(&card.places.release(), release.as_bytes());
    refused(&card, "cannot ask the boot loader for a trial (`tryboot`) hint: ");
    let card = Card::new();
    std::fs::File::options()
        .write(true)
        .open(device(&card.places, Slot::B).unwrap())
        .and_then(|file| file.set_len(600))
        .unwrap();
    refused(&card, "partition `boot_b` has 600 bytes, and the system needs 4096");
}

/// What runs is not what was asked for: whoever started it by other means has not tried it.
#[test]
fn only_what_the_boot_loader_started_is_started_by_itself() {
    let card = Card::new();
    card.stage(NEW).unwrap();
    ask(&card.places, Slot::B).unwrap();
    card.start(Slot::B);
    put(&card.places.at("/proc/device-tree/chosen/bootloader/partition"), &[0, 0, 0, 2]);
    let said = arm(&card.places).unwrap_err().to_string();
    assert!(
        said.contains("slot b runs, and the boot loader says that it started partition 2, not 3"),
        "{said}"
    );
    assert_eq!(starts(&card.places, false), Some(Slot::A));
}

/// Each row: what is booted, what is started by itself, what the boot partitions boot, what is noted of a and b, what the
/// initrd gave up; then the states of both, where the next boot goes, and where to fall back.
#[test]
fn states_follow_from_what_is_there() {
    use Slot::{A, B};
    use State::{Empty, Failed, Good, Staged, Trying};
    type Row = (
        &'static str,
        Slot,
        Option<Slot>,
        [bool; 2],
        [Option<State>; 2],
        Option<VerityId>,
        [State; 2],
        Option<Slot>,
        Option<Slot>,
    );
    let (a, b) = (Some(A), Some(B));
    let rows: &[Row] = &[
        ("a card's first boot", A, a, [true, false], [None, None], None, [Trying, Empty], a, None),
        ("b is half written", A, a, [true, false], [Some(Good), Some(Good)], None, [Good, Empty], a, None),
        ("b is staged", A, a, [true, true], [Some(Good), Some(Staged)], None, [Good, Staged], b, None),
        ("b is tried", B, a, [true, true], [Some(Good), Some(Trying)], None, [Good, Trying], a, a),
        (
            "a is started by itself, never noted",
            B,
            a,
            [true, true],
            [None, Some(Trying)],
            None,
            [Good, Trying],
            a,
            a,
        ),
        (
            "cut after autoboot.txt, before the note",
            B,
            b,
            [true, true],
            [Some(Good), Some(Trying)],
            None,
            [Good, Trying],
            b,
            a,
        ),
        ("b is good", B, b, [true, true], [Some(Good), Some(Good)], None, [Good, Good], b, a),
        ("b did not come up", A, a, [true, true], [Some(Good), Some(Trying)], None, [Good, Failed], a, None),
        (
            "b was given up by the initrd",
            A,
            a,
            [true, true],
            [Some(Good), Some(Good)],
            Some(NEW),
            [Good, Failed],
            a,
            b,
        ),
        (
            "and is started again",
            B,
            b,
            [true, true],
            [Some(Good), Some(Good)],
            Some(NEW),
            [Good, Trying],
            b,
            a,
        ),
        ("rolled back by hand", B, a, [true, true], [Some(Good), Some(Failed)], None, [Good, Trying], a, a),
        ("nothing is known of b", A, a, [true, true], [Some(Good), None], None, [Good, Failed], a, None),
        (
            "autoboot.txt is damaged",
            A,
            None,
            [true, true],
            [Some(Good), Some(Good)],
            None,
            [Good, Good],
            None,
            b,
        ),
        ("boot_a is damaged", B, a, [false, true], [Some(Good), Some(Good)], None, [Empty, Good], None, None),
    ];
    for (what, booted, by_itself, whole, notes, given_up, states, next, fallback) in rows {
        let ids = [OLD, NEW];
        let mut record = Record::default();
        for (at, slot) in Slot::BOTH.into_iter().enumerate() {
            if let Some(state) = notes[at] {
                let one = Recorded { state, ..Recorded::unknown(1, ids[at].to_string()) };
                record.slots.insert(slot, one);
            }
        }
        let status = judge(Seen {
            booted: *booted,
            by_itself: *by_itself,
            boots: [whole[0].then_some(OLD), whole[1].then_some(NEW)],
            on_disk: [Some(OLD), Some(NEW)],
            given_up: *given_up,
            counted: None,
            record: &record,
        });
        assert_eq!([status.of(A).state, status.of(B).state], *states, "{what}");
        assert_eq!((status.next, status.fallback()), (*next, *fallback), "{what}");
    }
}
