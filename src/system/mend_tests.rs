use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;

use super::*;
use crate::system::entry::VerityId;
use crate::system::tryboot::tests::{Card, NEW, OLD, boot, put};
use crate::system::{Fallback, arm, partition, roll_back, unhealthy};

impl Card {
    /// Flips a byte of a boot partition.
    fn rot(&self, slot: Slot, at: u64) {
        let file = OpenOptions::new().read(true).write(true).open(self.boot_of(slot)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[!byte[0]], at).unwrap();
    }

    fn boot_of(&self, slot: Slot) -> PathBuf {
        tryboot::device(&self.places, slot).unwrap()
    }

    fn look(&self) -> Looked {
        mend_boot(&self.places).unwrap().unwrap()
    }

    fn kept(&self) -> PathBuf {
        copies::folder(&self.places)
    }

    fn copies(&self) -> Vec<String> {
        let listed = std::fs::read_dir(self.kept()).into_iter().flatten().flatten();
        let mut names: Vec<_> = listed.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Slot b runs and is good, and slot a is what can be gone back to.
    fn updated() -> Self {
        let card = Self::new();
        std::fs::create_dir_all(card.kept().parent().unwrap()).unwrap();
        card.look();
        assert_eq!(card.stage(NEW).unwrap(), Slot::B);
        card.start(Slot::B);
        arm(&card.places).unwrap().unwrap();
        card
    }
}

#[test]
fn what_rots_on_a_boot_partition_is_told_and_mended() {
    let card = Card::new();
    std::fs::create_dir_all(card.kept().parent().unwrap()).unwrap();
    assert_eq!((card.look(), card.copies()), (Looked::default(), vec![format!("{OLD}.img")]));
    let before = std::fs::read(card.boot_of(Slot::A)).unwrap();
    // Its first sector, the command line, the end of what is kept, and more than one place.
    for places in [&[3][..], &[4 * 512 + 5], &[(48 << 10) - 1], &[0, 5000, 40_000]] {
        places.iter().for_each(|at| card.rot(Slot::A, *at));
        let looked = card.look();
        assert_eq!(looked.mended, ["partition `boot_a` read otherwise than it was written, and is mended"]);
        assert_eq!((looked.damaged, std::fs::read(card.boot_of(Slot::A)).unwrap()), (vec![], before.clone()));
    }
    assert_eq!(card.look(), Looked::default());
    // A copy that rots is made anew, as long as there is what it is one of.
    let copy = card.kept().join(card.copies().remove(0));
    put(&copy, b"rotten");
    assert_eq!((card.look(), std::fs::read(&copy).unwrap()), (Looked::default(), before));
}

#[test]
fn the_slot_that_can_be_turned_to_is_mended_too_and_never_while_it_is_written() {
    let card = Card::updated();
    assert_eq!((card.look(), card.copies().len()), (Looked::default(), 2));
    // Within the name of its root.
    card.rot(Slot::A, 4 * 512 + 30);
    assert_eq!(card.states(), "empty good b", "nothing can be gone back to");
    assert_eq!(card.look().mended.len(), 1);
    assert_eq!(card.states(), "good good b");
    // What was brought is known by what its bundle said of it, from the first look on.
    card.rot(Slot::B, 600);
    assert_eq!(card.look().mended.len(), 1);
    assert!(std::fs::read(card.boot_of(Slot::B)).unwrap().starts_with(&boot(NEW)));
    // An import begins: what it has taken away stays away.
    tryboot::clear(&card.places, Slot::A).unwrap();
    assert_eq!((card.look(), card.states().as_str()), (Looked::default(), "empty good b"));
    assert_eq!(std::fs::read(card.boot_of(Slot::A)).unwrap()[..512], [0; 512]);
    assert_eq!(card.copies(), [format!("{NEW}.img")]);
}

#[test]
fn what_no_copy_is_of_is_told_and_no_way_back() {
    let card = Card::updated();
    card.look();
    std::fs::remove_dir_all(card.kept()).unwrap();
    // Where its root is not read: only the digest tells.
    card.rot(Slot::A, 40_000);
    let told = card.look().damaged;
    assert_eq!(told.len(), 1);
    assert_eq!(
        told[0].what,
        "partition `boot_a` reads otherwise than it was written, and is not mended: no copy of it is whole hint: nothing turns to it: `edge bundle import` of a system writes slot a"
    );
    let status = Status::read(&card.places).unwrap();
    assert_eq!((&status.damage, status.fallback(), card.states().as_str()), (&told, None, "failed good b"));
    assert_eq!(status.of(Slot::A).reason.as_ref(), Some(&told[0].what));
    // Nor is it after the next boot, for edge and for the initrd; and that is told there too.
    std::fs::remove_file(card.places.at(TOLD)).unwrap();
    card.start(Slot::B);
    assert!(!card.places.identity().join(tryboot::SPARE).exists());
    assert!(matches!(unhealthy(&card.places, "kubelet is not well").unwrap(), Fallback::Nowhere(_)));
    arm(&card.places).unwrap().unwrap();
    assert!(!card.places.identity().join(tryboot::SPARE).exists());
    let mut late = card.look();
    assert_eq!(late.damaged, told);
    assert_eq!(card.stage(OLD).unwrap(), Slot::A);
    // A look that ends only now.
    tell_all(&card.places, Slot::B, &mut late).unwrap();
    assert_eq!((late.damaged, card.states().as_str()), (vec![], "staged good a"));
    card.rot(Slot::B, 40);
    card.rot(Slot::A, 40_000);
    std::fs::remove_dir_all(card.kept()).unwrap();
    let told = card.look().damaged;
    assert!(told.len() == 1 && told[0].slot == Some(Slot::B), "{told:?}");
    assert!(
        told[0].what.ends_with(
            "the machine may not start again: `edge bundle import` of another system writes slot a"
        )
    );
}

#[test]
fn what_rots_while_the_machine_is_off_is_mended_too() {
    let card = Card::updated();
    card.look();
    for at in [3, 4 * 512 + 30] {
        card.rot(Slot::A, at);
        card.start(Slot::B);
        arm(&card.places).unwrap().unwrap();
        assert_eq!((card.look().mended.len(), card.copies().len()), (1, 2), "{at}");
        assert_eq!(card.states(), "good good b");
    }
    // What an import has begun to write is no spare again for having been one.
    tryboot::clear(&card.places, Slot::A).unwrap();
    card.start(Slot::B);
    arm(&card.places).unwrap().unwrap();
    assert!(!card.places.identity().join(tryboot::SPARE).exists());
}

#[test]
fn the_slot_that_still_starts_is_not_written_while_the_other_one_is_damaged() {
    let card = Card::updated();
    card.look();
    std::fs::remove_dir_all(card.kept()).unwrap();
    card.rot(Slot::B, 40);
    let told = card.look().damaged;
    let hint = "the machine may not start again: `edge system rollback`, then `systemctl reboot`";
    assert!(told.len() == 1 && told[0].what.ends_with(hint), "{told:?}");
    let before = std::fs::read(card.boot_of(Slot::A)).unwrap();
    assert_eq!(
        card.stage(VerityId([3; 16])).unwrap_err().to_string(),
        "what starts slot b is damaged, and slot a still starts: nothing is written hint: `edge system rollback`, then `systemctl reboot`"
    );
    assert!(std::fs::read(card.boot_of(Slot::A)).unwrap() == before);
    assert_eq!(roll_back(&card.places).unwrap(), Slot::A);
    card.start(Slot::A);
    std::fs::remove_file(card.places.at(TOLD)).unwrap();
    arm(&card.places).unwrap().unwrap();
    assert_eq!(card.stage(NEW).unwrap(), Slot::B);
}

#[test]
fn what_one_slot_lacks_keeps_nobody_from_looking_at_the_other_one() {
    let card = Card::updated();
    card.look();
    // Its hash tree cannot be read: what is kept of it stays.
    let tree = partition::verity(&card.places, Slot::A).unwrap();
    let aside = tree.with_extension("aside");
    std::fs::rename(&tree, &aside).unwrap();
    card.rot(Slot::B, 600);
    assert_eq!((card.look().mended.len(), card.copies().len()), (1, 2));
    std::fs::rename(&aside, &tree).unwrap();
    // Data that takes no copies.
    std::fs::remove_dir_all(card.kept()).unwrap();
    put(&card.kept(), b"");
    card.rot(Slot::B, 600);
    let damaged = card.look().damaged;
    assert!(damaged.len() == 1 && damaged[0].slot == Some(Slot::B), "{damaged:?}");
    assert_eq!(told(&card.places), damaged);
}

#[test]
fn an_autoboot_that_rots_starts_what_runs_and_a_person_s_word_stands() {
    let card = Card::updated();
    let path = card.places.esp().join("autoboot.txt");
    let read = || std::fs::read_to_string(&path).unwrap();
    let (good, other) = (read(), tryboot::autoboot(&card.places, Slot::A).unwrap().text());
    for rotten in
        [good.replace("boot_partition=3", "boot_partition=\0"), String::new(), good.replace("all", "alm")]
    {
        put(&path, rotten.as_bytes());
        let looked = card.look();
        assert_eq!(
            looked.mended,
            ["`autoboot.txt` read otherwise than it was written, and is mended: it starts slot b"]
        );
        assert_eq!((looked.damaged, read()), (vec![], good.clone()));
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!((card.look().mended.len(), read()), (1, good.clone()));
    put(&path, other.as_bytes());
    assert_eq!((card.look(), read()), (Looked::default(), other.clone()));
    // Cannot be written: a folder lies there.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let told = card.look().damaged;
    assert!(
        told.len() == 1
            && told[0].what.contains("`autoboot.txt` read otherwise than it was written, and is not"),
        "{told:?}"
    );
    std::fs::remove_dir(&path).unwrap();
    put(&path, good.as_bytes());
    // Given up: nothing is looked at any more.
    assert_eq!(roll_back(&card.places).unwrap(), Slot::A);
    assert_eq!((mend_boot(&card.places).unwrap(), read()), (None, other));
}

#[test]
fn a_boot_that_is_not_judged_yet_is_not_looked_at() {
    let card = Card::new();
    card.start(Slot::A);
    // It is asked each minute: not even the card is.
    std::fs::remove_file(partition::verity(&card.places, Slot::A).unwrap()).unwrap();
    assert_eq!(mend_boot(&card.places).unwrap(), None);
}

/// What rotted since it was looked at: nobody who turns there comes back.
#[test]
fn who_turns_to_the_other_slot_looks_where_it_turns() {
    let card = Card::updated();
    card.look();
    card.start(Slot::B);
    card.rot(Slot::A, 40_000);
    put(&card.places.at("/run/edge-boots"), b"3\n");
    let turned = unhealthy(&card.places, "kubelet is not well").unwrap();
    assert_eq!(turned, Fallback::Reboot { left: 0, other: Slot::A });
    assert!(std::fs::read(card.boot_of(Slot::A)).unwrap().starts_with(&boot(OLD)));
    let before = std::fs::read(card.places.esp().join("autoboot.txt")).unwrap();
    assert_eq!(before, tryboot::autoboot(&card.places, Slot::A).unwrap().text().as_bytes());

    for by_hand in [false, true] {
        let card = Card::updated();
        card.look();
        std::fs::remove_dir_all(card.kept()).unwrap();
        let autoboot = card.places.esp().join("autoboot.txt");
        let before = std::fs::read(&autoboot).unwrap();
        card.start(Slot::B);
        put(&card.places.at("/run/edge-boots"), b"3\n");
        card.rot(Slot::A, 40_000);
        let why = match by_hand {
            false => match unhealthy(&card.places, "kubelet is not well").unwrap() {
                Fallback::Nowhere(why) => why,
                turned => panic!("{turned:?}"),
            },
            true => roll_back(&card.places).unwrap_err().to_string(),
        };
        assert!(why.contains("partition `boot_a` reads otherwise than it was written"), "{why}");
        assert_eq!((card.states().as_str(), std::fs::read(&autoboot).unwrap()), ("failed good b", before));
        assert!(!card.places.identity().join(tryboot::SPARE).exists());
    }
}

/// What was told is of the boot alone, and an import may come before the first look of the next one.
#[test]
fn what_is_damaged_is_found_again_before_the_last_whole_slot_is_written_over() {
    let card = Card::updated();
    card.look();
    std::fs::remove_dir_all(card.kept()).unwrap();
    card.rot(Slot::B, 600);
    card.look();
    std::fs::remove_file(card.places.at(TOLD)).unwrap();
    let before = std::fs::read(card.boot_of(Slot::A)).unwrap();
    let said = card.stage(VerityId([3; 16])).unwrap_err().to_string();
    assert!(said.starts_with("what starts slot b is damaged, and slot a still starts: nothing is"), "{said}");
    assert!(std::fs::read(card.boot_of(Slot::A)).unwrap() == before);
}

#[test]
fn what_is_told_to_do_about_damage_works() {
    let card = Card::updated();
    card.look();
    // The way back is lost first, then what runs, in what edge itself reads of it.
    for (slot, at) in [(Slot::A, 40_000), (Slot::B, 4 * 512 + 30)] {
        std::fs::remove_dir_all(card.kept()).unwrap();
        card.rot(slot, at);
        card.look();
    }
    let told = told(&card.places);
    let hint = "hint: the machine may not start again: `edge bundle import` of another system writes slot a";
    assert!(
        told.iter().any(|damage| damage.slot == Some(Slot::B) && damage.what.ends_with(hint)),
        "{told:?}"
    );
    assert_eq!(card.stage(VerityId([3; 16])).unwrap(), Slot::A);

    // Where no other system is taken, another card is what helps.
    let release = r#"{"version": "1.0", "arch": "arm64", "board": "raspberry-pi", "boot": "raspberry-pi"}"#;
    let card = Card::new();
    card.look();
    put(&card.places.release(), release.as_bytes());
    std::fs::remove_dir_all(card.kept()).unwrap();
    card.rot(Slot::A, 600);
    let told = card.look().damaged;
    assert!(told.len() == 1 && told[0].what.ends_with(HINT), "{told:?}");
}

#[test]
fn what_cannot_be_read_for_a_moment_is_not_lost() {
    let card = Card::updated();
    card.look();
    std::fs::remove_dir_all(card.kept()).unwrap();
    let device = card.boot_of(Slot::A);
    let aside = device.with_extension("aside");
    std::fs::rename(&device, &aside).unwrap();
    std::fs::create_dir(&device).unwrap();
    let looked = card.look();
    assert_eq!((looked.damaged, looked.unread.len()), (vec![], 1));
    assert!(looked.unread[0].starts_with("slot a, which does not run: cannot read `"), "{:?}", looked.unread);
    assert!(matches!(roll_back(&card.places), Err(Error::NoOther(_))));
    std::fs::remove_dir(&device).unwrap();
    std::fs::rename(&aside, &device).unwrap();
    assert_eq!(
        (card.look(), card.states().as_str(), card.copies().len()),
        (Looked::default(), "good good b", 2)
    );
}

/// A card that is worn out takes no writes at all: what the look needs of the first partition is that nobody else writes.
#[test]
fn what_is_damaged_is_told_where_the_first_partition_cannot_be_written() {
    let card = Card::updated();
    card.look();
    std::fs::remove_dir_all(card.kept()).unwrap();
    card.rot(Slot::B, 600);
    let aside = card.places.at("/efi-aside");
    std::fs::rename(card.places.esp(), &aside).unwrap();
    let damaged = card.look().damaged;
    let slots: Vec<_> = damaged.iter().map(|damage| damage.slot).collect();
    assert_eq!(slots, [None, Some(Slot::B)], "{damaged:?}");
    assert_eq!(told(&card.places), damaged);
}

/// While it is mounted its folder is in memory, and a file is found there that the boot loader does not find.
#[test]
fn what_the_boot_loader_reads_before_autoboot_is_read_too() {
    let card = Card::new();
    std::fs::create_dir_all(card.kept().parent().unwrap()).unwrap();
    assert_eq!(card.look(), Looked::default());
    for (device, at, what) in [
        ("/dev/mmcblk0p1", 3 * 512 + 70, "partition `ESP` reads otherwise than it was written: the boot"),
        ("/dev/mmcblk0p1", 11, "partition `ESP` reads otherwise than it was written: the boot loader"),
        ("/dev/mmcblk0", 1024, "the partition table of `"),
    ] {
        let path = card.places.at(device);
        let before = std::fs::read(&path).unwrap();
        let mut bad = before.clone();
        bad[at] ^= 0x11;
        put(&path, &bad);
        let damaged = card.look().damaged;
        assert!(damaged.len() == 1 && damaged[0].what.starts_with(what), "{damaged:?}");
        put(&path, &before);
        assert_eq!(card.look(), Looked::default());
    }
}
