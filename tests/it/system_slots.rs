//! What is found good and what is given up, where something is in the way.

use crate::system::{Machine, system};

/// A bad sector where nothing runs; a folder cannot be read as a file either.
#[test]
fn a_good_system_is_not_given_up_for_what_cannot_be_read_of_the_other_one() {
    let machine = Machine::new();
    machine.arm();
    let id = system(&machine.place.path("new"), 2, 1);
    std::fs::copy(machine.place.path("new/root.verity"), machine.partition("verity_b")).unwrap();
    machine.put_entry("edge-2+3.efi", &id);
    assert_eq!(machine.boot(), "b");
    let entry = machine.root("efi/EFI/Linux/edge-1+3.efi");
    std::fs::remove_file(&entry).unwrap();
    std::fs::create_dir(&entry).unwrap();
    machine.arm();
    assert_eq!(machine.states(), "empty good b");
    assert!(machine.entries().contains(&"edge-2+3.efi".to_owned()), "{:?}", machine.entries());
    let done = machine.run(&["system", "status"]).good();
    assert!(done.err.contains("a boot entry cannot be read, and counts as damaged"), "{done:?}");

    assert_eq!(machine.boot(), "b");
    let tree = machine.partition("verity_a");
    std::fs::remove_file(&tree).unwrap();
    std::fs::create_dir(&tree).unwrap();
    machine.arm();
    assert_eq!(machine.states(), "empty good b");
    let places = edge::system::Places::below(&machine.root(""));
    let turned = edge::system::unhealthy(&places, "kubelet is not well").unwrap();
    assert_eq!(turned, edge::system::Fallback::Nowhere("slot a is empty".into()));

    // Of the one that runs it must be known what it is.
    let tree = machine.partition("verity_b");
    std::fs::remove_file(&tree).unwrap();
    std::fs::create_dir(&tree).unwrap();
    let done = machine.run(&["system", "status"]);
    assert!(done.code == 1 && done.err.contains("edge: cannot read `"), "{done:?}");
}

/// edge-healthy.service waits for all parts for minutes, and may find them up after somebody has decided otherwise.
#[test]
fn what_was_rolled_back_in_this_boot_is_not_found_good_after_it() {
    let machine = Machine::new();
    let places = edge::system::Places::below(&machine.root(""));
    machine.arm();
    let id = system(&machine.place.path("new"), 2, 1);
    std::fs::copy(machine.place.path("new/root.verity"), machine.partition("verity_b")).unwrap();
    machine.put_entry("edge-2+3.efi", &id);
    assert_eq!(machine.boot(), "b");
    machine.run(&["system", "rollback"]).good();
    assert_eq!(edge::system::arm(&places).unwrap(), None);
    assert_eq!(machine.entries(), ["edge-1+3.efi", "edge-2+0-1.efi"]);
    assert_eq!(machine.status()["slots"][1]["reason"], "rolled back by hand");
    assert_eq!(machine.boot(), "a");
    machine.arm();
    assert_eq!(machine.states(), "good failed a");
    assert_eq!(machine.status()["slots"][1]["reason"], "rolled back by hand");
}

/// A machine whose slot b has another system, and both are as after booting it for the first time.
fn with_another() -> (Machine, edge::system::Places) {
    let machine = Machine::new();
    machine.arm();
    let id = system(&machine.place.path("new"), 2, 1);
    std::fs::copy(machine.place.path("new/root.verity"), machine.partition("verity_b")).unwrap();
    machine.put_entry("edge-2+3.efi", &id);
    assert_eq!(machine.boot(), "b");
    let places = edge::system::Places::below(&machine.root(""));
    (machine, places)
}

/// Of entries without tries left the loader starts the one with the highest number: the one that failed.
#[test]
fn power_cuts_do_not_bring_back_what_was_given_up() {
    let (machine, places) = with_another();
    // It hangs before anything can judge it.
    for _ in 0..2 {
        assert_eq!(machine.boot(), "b");
    }
    assert_eq!(machine.boot(), "a");
    machine.arm();
    assert_eq!(machine.entries(), ["edge-1+3.efi"]);
    assert_eq!(machine.states(), "good failed a");
    assert_eq!(machine.status()["slots"][1]["reason"], "it used up its tries");
    for _ in 0..5 {
        assert_eq!(machine.boot(), "a");
    }
    assert_eq!(machine.states(), "good failed a");
    let turned = edge::system::unhealthy(&places, "kubelet is not well").unwrap();
    assert_eq!(turned, edge::system::Fallback::Nowhere("slot b is failed".into()));
}

/// Three power cuts while it starts are no fault of a system that was good.
#[test]
fn a_good_system_that_power_cuts_gave_up_stays_the_way_back_of_the_other_one() {
    let (machine, _) = with_another();
    machine.arm();
    for _ in 0..3 {
        assert_eq!(machine.boot(), "b");
    }
    assert_eq!(machine.boot(), "a");
    machine.arm();
    assert_eq!(machine.entries(), ["edge-1+3.efi", "edge-2+3.efi"]);
    assert_eq!(machine.states(), "good good b");
}

/// Where nothing was found good between the fault of the one and the power cuts of the other.
#[test]
fn a_good_system_that_power_cuts_gave_up_is_gone_back_to_once() {
    let (machine, places) = with_another();
    for _ in 0..2 {
        assert_eq!(machine.boot(), "b");
    }
    for _ in 0..3 {
        assert_eq!(machine.boot(), "a");
    }
    assert_eq!(machine.entries(), ["edge-1+0-3.efi", "edge-2+0-3.efi"]);
    assert_eq!(machine.boot(), "b");
    let turned = edge::system::unhealthy(&places, "kubelet is not well").unwrap();
    assert_eq!(turned, edge::system::Fallback::Reboot { left: 0, other: edge::system::Slot::A });
    assert_eq!(machine.entries(), ["edge-1+3.efi", "edge-2+0-4.efi"]);
    // It is not found good this time: then nothing is better than what runs.
    for _ in 0..3 {
        assert_eq!(machine.boot(), "a");
    }
    assert_eq!(machine.boot(), "b");
    let turned = edge::system::unhealthy(&places, "kubelet is not well").unwrap();
    assert_eq!(turned, edge::system::Fallback::Nowhere("slot a is failed".into()));
}

/// Where the machine restarts at a rotten block only after each boot was found good, it would do so for ever.
#[test]
fn after_a_boot_that_was_cut_short_the_root_is_read_before_it_is_found_good() {
    let (machine, places) = with_another();
    std::fs::create_dir_all(machine.root("var/lib")).unwrap();
    let (note, root) = (machine.root("var/lib/edge-boot"), machine.root("dev/mapper/root"));
    // What cannot be read stands for what does not agree with its hash tree.
    std::fs::create_dir(&root).unwrap();
    assert_eq!(edge::system::check_root(&places).unwrap(), 0, "the last boot ended as it should");
    assert!(note.exists());
    let error = edge::system::check_root(&places).unwrap_err().to_string();
    assert!(error.starts_with("cannot read `"), "{error}");
    std::fs::remove_dir(&root).unwrap();
    std::fs::write(&root, vec![7; 3_000_000]).unwrap();
    assert_eq!(edge::system::check_root(&places).unwrap(), 3_000_000);
    let unit = include_str!("../../config/appliance/usr/lib/systemd/system/edge-healthy.service");
    assert!(unit.contains("\nExecStop=/usr/bin/rm -f /var/lib/edge-boot\n"), "{unit}");
    // With nothing to turn to, a rotten block that nobody needs must not end each boot.
    std::fs::remove_file(machine.root("efi/EFI/Linux/edge-1+3.efi")).unwrap();
    assert_eq!(edge::system::check_root(&places).unwrap(), 0);
}

/// The boots of the other slot end as they should, and would have it found good unread, at each clean restart anew.
#[test]
fn a_good_system_that_rots_gets_its_tries_back_once_and_is_read_before_it_is_found_good() {
    let (machine, places) = with_another();
    std::fs::create_dir_all(machine.root("var/lib")).unwrap();
    let (note, root) = (machine.root("var/lib/edge-boot"), machine.root("dev/mapper/root"));
    machine.arm();
    for slot in ["b", "b", "b", "a"] {
        assert_eq!(machine.boot(), slot);
    }
    machine.arm();
    assert_eq!(machine.states(), "good good b");
    assert!(machine.run(&["system", "status"]).good().out.contains("slot b: it was good and had no tries"));
    // The next restart is a clean one: edge-healthy.service has removed its note. It is read all the same, and what cannot be
    // read stands for what restarts the machine.
    std::fs::create_dir(&root).unwrap();
    for _ in 0..3 {
        assert_eq!(machine.boot(), "b");
        let _ = std::fs::remove_file(&note);
        let error = edge::system::check_root(&places).unwrap_err().to_string();
        assert!(error.starts_with("cannot read `"), "{error}");
    }
    assert_eq!(machine.boot(), "a");
    machine.arm();
    assert_eq!(machine.entries(), ["edge-1+3.efi"]);
    assert_eq!(machine.states(), "good failed a");
}

#[test]
fn a_good_system_that_got_its_tries_back_and_is_sound_is_read_once() {
    let (machine, places) = with_another();
    std::fs::create_dir_all(machine.root("var/lib")).unwrap();
    let (note, root) = (machine.root("var/lib/edge-boot"), machine.root("dev/mapper/root"));
    std::fs::write(&root, vec![7; 3_000_000]).unwrap();
    machine.arm();
    for slot in ["b", "b", "b", "a"] {
        assert_eq!(machine.boot(), slot);
    }
    machine.arm();
    for bytes in [3_000_000, 0] {
        assert_eq!(machine.boot(), "b");
        let _ = std::fs::remove_file(&note);
        assert_eq!(edge::system::check_root(&places).unwrap(), bytes);
        machine.arm();
    }
    assert_eq!(machine.states(), "good good b");
}
