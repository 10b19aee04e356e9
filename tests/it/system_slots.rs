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
}
