//! The same with systemd-boot: what starts a slot is a file, which the firmware does not turn from.

use std::path::Path;

use super::*;
use crate::sys::digest::Digest;
use crate::system::entry::VerityId;
use crate::system::first::tests::table;
use crate::system::tryboot::tests::{NEW, OLD, put, root, tree};
use crate::system::{
    Again, Fallback, Image, Part, Stage, arm, judge_image, partition, roll_back, uki, unhealthy,
};

/// A machine whose slot a runs and is good.
struct Card {
    _folder: tempfile::TempDir,
    places: Places,
}

fn kernel(id: VerityId) -> Vec<u8> {
    let mut image = uki::sample(&format!("ro edge.verity={id} quiet"));
    image.resize(200_000, id.0[0]);
    image
}

impl Card {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let places = Places::below(folder.path());
        for (number, label) in (1..).zip(["root_a", "verity_a", "root_b", "verity_b"]) {
            let told = places.at(&format!("/sys/class/block/vda/vda{number}/uevent"));
            put(&told, format!("PARTNAME={label}\n").as_bytes());
            put(&places.at(&format!("/dev/vda{number}")), &[0; 48 << 10]);
        }
        put(&places.at("/dev/vda"), &table());
        put(&places.at("/run/edge-disk"), b"vda\n");
        let release =
            r#"{"version": "1.0", "arch": "amd64", "board": "generic-efi", "boot": "systemd-boot"}"#;
        put(&places.release(), release.as_bytes());
        for (name, text) in [("EFI/BOOT/BOOTX64.EFI", "program"), ("loader/loader.conf", "editor no\n")] {
            for below in ["/usr/share/edge/efi", "/efi"] {
                put(&places.at(below).join(name), text.as_bytes());
            }
        }
        std::fs::create_dir_all(places.identity()).unwrap();
        std::fs::create_dir_all(places.at("/var/lib/edge")).unwrap();
        put(&partition::verity(&places, Slot::A).unwrap(), &tree(OLD));
        put(&places.entries().join("edge-1+2-1.efi"), &kernel(OLD));
        let card = Self { _folder: folder, places };
        card.start(Slot::A);
        arm(&card.places).unwrap().unwrap();
        card
    }

    fn start(&self, slot: Slot) {
        put(&self.places.at("/run/edge-slot"), slot.to_string().as_bytes());
        let _ = std::fs::remove_file(self.places.judged());
        let _ = std::fs::remove_file(self.places.at(TOLD));
    }

    fn stage(&self, id: VerityId) -> Result<Slot, Error> {
        let parts = [(Part::Root, root(id)), (Part::Verity, tree(id)), (Part::Kernel, kernel(id))];
        let sum = |at: usize| (Digest::sha256(&parts[at].1), parts[at].1.len() as u64);
        let image = Image {
            version: format!("v{}", id.0[0]),
            arch: "amd64".into(),
            board: "generic-efi".into(),
            verity: id,
            root: sum(0),
            tree: sum(1),
            kernel: sum(2),
            stream: "main".into(),
            seq: id.0[0].into(),
            manifest: Digest::sha256(&id.0),
        };
        assert_eq!(judge_image(&self.places, &image, Again::UnlessGood, None)?, None);
        let mut stage = Stage::begin(&self.places, image)?;
        for (part, bytes) in &parts {
            stage.open(*part)?;
            stage.write(bytes)?;
            stage.close()?;
        }
        stage.commit()
    }

    /// Slot b runs and is good, and slot a is what can be gone back to.
    fn updated() -> Self {
        let card = Self::new();
        card.look();
        assert_eq!(card.stage(NEW).unwrap(), Slot::B);
        card.start(Slot::B);
        arm(&card.places).unwrap().unwrap();
        assert_eq!(
            (card.states().as_str(), card.entries()),
            ("good good b", vec!["edge-1+3.efi", "edge-2+3.efi"].into_iter().map(str::to_owned).collect())
        );
        card
    }

    fn look(&self) -> Looked {
        mend_boot(&self.places).unwrap().unwrap()
    }

    fn states(&self) -> String {
        let status = Status::read(&self.places).unwrap();
        let next = status.next.map_or("-".into(), |slot| slot.to_string());
        format!("{} {} {next}", status.slots[0].state.word(), status.slots[1].state.word())
    }

    fn entries(&self) -> Vec<String> {
        let listed = std::fs::read_dir(self.places.entries()).unwrap().flatten();
        let mut names: Vec<_> = listed.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn forget_copies(&self) {
        std::fs::remove_dir_all(copies::folder(&self.places)).unwrap();
    }

    /// Flips a byte of an entry.
    fn rot(&self, entry: &str, at: usize) {
        flip(&self.places.entries().join(entry), at);
    }

    fn read(&self, entry: &str) -> Vec<u8> {
        std::fs::read(self.places.entries().join(entry)).unwrap()
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] = !bytes[at];
    put(path, &bytes);
}

#[test]
fn a_boot_entry_that_rots_is_mended_from_its_copy() {
    let card = Card::updated();
    assert_eq!(card.look(), Looked::default());
    // Deep in the kernel, in the header, and in the name of its root, by which it is known otherwise.
    for at in [150_000, 1, 0x210] {
        for (entry, id) in [("edge-1+3.efi", OLD), ("edge-2+3.efi", NEW)] {
            card.rot(entry, at);
            assert_eq!(card.look().mended.len(), 1, "{entry} {at}");
            assert!(card.read(entry) == kernel(id) && card.states() == "good good b", "{entry} {at}");
        }
    }
    // What is cut off, and what is gone of the slot that runs.
    put(&card.places.entries().join("edge-1+3.efi"), &kernel(OLD)[..100]);
    std::fs::remove_file(card.places.entries().join("edge-2+3.efi")).unwrap();
    assert_eq!(card.look().mended.len(), 2);
    assert!(card.read("edge-1+3.efi") == kernel(OLD) && card.read("edge-2+3.efi") == kernel(NEW));
    assert_eq!((card.look(), card.entries().len()), (Looked::default(), 2));
}

#[test]
fn a_slot_that_is_being_written_gets_no_entry_again() {
    let card = Card::updated();
    card.look();
    esp::clear(&card.places, Slot::A).unwrap();
    assert_eq!((card.look(), card.entries()), (Looked::default(), vec!["edge-2+3.efi".to_owned()]));
    // One that is staged is known by its bundle.
    assert_eq!(card.stage(VerityId([3; 16])).unwrap(), Slot::A);
    card.look();
    card.rot("edge-3+3.efi", 150_000);
    assert_eq!((card.look().mended.len(), card.states().as_str()), (1, "staged good a"));
}

#[test]
fn another_entry_that_is_lost_is_started_by_nobody() {
    let card = Card::updated();
    card.look();
    card.forget_copies();
    card.rot("edge-1+3.efi", 150_000);
    let told = card.look().damaged;
    let line = "the boot entry of slot a reads otherwise than it was written, and is not mended: no copy of it is whole hint: nothing turns to it: `edge bundle import` of a system writes slot a";
    assert!(told.len() == 1 && told[0].what == line, "{told:?}");
    assert_eq!((card.states().as_str(), card.entries()), ("failed good b", vec!["edge-2+3.efi".to_owned()]));
    let status = Status::read(&card.places).unwrap();
    assert_eq!((&status.damage, status.of(Slot::A).reason.as_deref()), (&told, Some(line)));
    assert_eq!(card.stage(VerityId([3; 16])).unwrap(), Slot::A);
    assert_eq!((card.look().damaged, card.states().as_str()), (vec![], "staged good a"));
}

/// The firmware would stop there; the other one starts.
#[test]
fn what_runs_and_is_lost_is_not_started_again_while_the_other_one_starts() {
    let card = Card::updated();
    card.look();
    card.forget_copies();
    card.rot("edge-2+3.efi", 150_000);
    let told = card.look().damaged;
    assert!(told.len() == 1 && told[0].what.ends_with("hint: the next boot goes to slot a"), "{told:?}");
    assert_eq!(
        (card.states().as_str(), card.entries()),
        ("good trying a", vec!["edge-1+3.efi".to_owned(), "edge-2+0.efi".to_owned()])
    );
    assert_eq!(Status::read(&card.places).unwrap().damage, told);
    card.start(Slot::A);
    arm(&card.places).unwrap().unwrap();
    assert_eq!((card.states().as_str(), card.entries()), ("good failed a", vec!["edge-1+3.efi".to_owned()]));
    assert_eq!(card.stage(NEW).unwrap(), Slot::B);

    // Also where it is not known any more by what it boots.
    let card = Card::updated();
    card.look();
    card.forget_copies();
    card.rot("edge-2+3.efi", 0x210);
    let told = card.look().damaged;
    assert!(told.len() == 1 && told[0].what.ends_with("hint: the next boot goes to slot a"), "{told:?}");
    assert!(card.entries().contains(&"edge-2+0.efi".to_owned()), "{:?}", card.entries());

    // With nothing else that starts, it is told, and what is told to do works.
    let card = Card::new();
    card.look();
    card.forget_copies();
    card.rot("edge-1+3.efi", 0x210);
    let told = card.look().damaged;
    assert!(
        told.len() == 1 && told[0].what.ends_with("`edge bundle import` of another system writes slot b"),
        "{told:?}"
    );
    assert_eq!(card.stage(NEW).unwrap(), Slot::B);
    assert!(card.entries().contains(&"edge-1+3.efi".to_owned()), "{:?}", card.entries());
}

#[test]
fn who_turns_to_the_other_entry_or_writes_over_it_looks_first() {
    for by_hand in [false, true] {
        let card = Card::updated();
        card.look();
        card.forget_copies();
        std::fs::rename(
            card.places.entries().join("edge-2+3.efi"),
            card.places.entries().join("edge-2+0-3.efi"),
        )
        .unwrap();
        card.start(Slot::B);
        card.rot("edge-1+3.efi", 150_000);
        let why = match by_hand {
            false => match unhealthy(&card.places, "kubelet is not well").unwrap() {
                Fallback::Nowhere(why) => why,
                turned => panic!("{turned:?}"),
            },
            true => roll_back(&card.places).unwrap_err().to_string(),
        };
        assert!(why.contains("the boot entry of slot a reads otherwise"), "{why}");
        assert_eq!(card.entries(), ["edge-2+0-3.efi"]);
    }
    let card = Card::updated();
    card.look();
    card.forget_copies();
    card.rot("edge-2+3.efi", 150_000);
    let said = card.stage(VerityId([3; 16])).unwrap_err().to_string();
    assert!(said.starts_with("what starts slot b is damaged, and slot a still starts: nothing is"), "{said}");
    assert!(card.read("edge-1+3.efi") == kernel(OLD));
}

/// Also how a machine that is in the field gets the loader of the system that was found good.
#[test]
fn the_firmware_s_program_is_that_of_the_system_that_runs() {
    let card = Card::new();
    let efi = card.places.esp();
    flip(&efi.join("EFI/BOOT/BOOTX64.EFI"), 3);
    std::fs::remove_dir_all(efi.join("loader")).unwrap();
    put(&card.places.at("/usr/share/edge/efi/startup.nsh"), b"reset\r\n");
    let mended = card.look().mended;
    assert_eq!(mended.len(), 3, "{mended:?}");
    assert_eq!(
        mended[0],
        "`EFI/BOOT/BOOTX64.EFI` on the EFI system partition was otherwise than this system has it, and is mended"
    );
    for (name, text) in [
        ("EFI/BOOT/BOOTX64.EFI", "program"),
        ("loader/loader.conf", "editor no\n"),
        ("startup.nsh", "reset\r\n"),
    ] {
        assert_eq!(std::fs::read_to_string(efi.join(name)).unwrap(), text);
    }
    put(&efi.join("loader/loader.conf"), b"editor no\ntimeout 30\n");
    assert_eq!((card.look().mended.len(), card.look()), (1, Looked::default()));
    // Cannot be written: a folder lies there.
    std::fs::remove_file(efi.join("startup.nsh")).unwrap();
    std::fs::create_dir(efi.join("startup.nsh")).unwrap();
    let damaged = card.look().damaged;
    let what = &damaged[0].what;
    assert!(
        damaged.len() == 1 && what.contains("is not mended: cannot rename") && !what.contains(HINT),
        "{damaged:?}"
    );
}
