//! Which of several streams may bring an appliance its systems.

use crate::system::system;
use crate::system_import::Two;

/// Of two streams neither has the newer system: the first one that brought one goes on, until the owner says otherwise.
#[test]
fn systems_come_from_one_stream() {
    let two = Two::new();
    two.make(2, 1);
    two.import().good();
    for _ in 0..2 {
        assert_eq!(two.machine.boot(), "b");
        two.machine.arm();
    }
    let folder = two.depot.path("system-3");
    system(&folder, 3, 1);
    let shown = folder.display().to_string();
    two.create_of("fleet", &["--system", &shown]).good();
    let fleet = format!("{}/edge-bundle/fleet-1", two.stick());
    let done = two.machine.run(&["bundle", "import", &fleet]);
    done.bad(
        3,
        "the bundle holds a system of stream `fleet`, and this appliance takes its systems from `main` hint: `edge config set system.stream=fleet`",
    );
    assert_eq!(two.machine.states(), "good good b");
    // A bundle of that stream without a system is as good as any.
    let file = two.depot.write("notes.txt", "of the fleet");
    two.create_of("fleet", &["--file", &file.display().to_string()]).good();
    two.machine.run(&["bundle", "import", &format!("{}/edge-bundle/fleet-2", two.stick())]).good();
    two.create_of("fleet", &["--system", &shown]).good();
    two.machine.run(&["config", "set", "system.stream=fleet"]).good();
    let told = two.machine.run(&["bundle", "import", &format!("{}/edge-bundle/fleet-3", two.stick())]).good();
    assert!(told.out.contains("system 2.3 is staged in slot a"), "{told:?}");
    two.make(4, 1);
    let done = two.machine.run(&["bundle", "import", &format!("{}/edge-bundle/main-2", two.stick())]);
    done.bad(3, "a system of stream `main`, and this appliance takes its systems from `fleet`");
}
