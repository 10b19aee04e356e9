//! The trust state outlives a reset of the data: what was superseded stays refused.

use crate::command::{Done, Place};
use crate::system::Machine;

const CONFIG: &str = "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n";

struct Two {
    depot: Place,
    machine: Machine,
}

impl Two {
    fn new() -> Self {
        let (depot, machine) = (Place::new(), Machine::new());
        depot.write("etc/edge.toml", CONFIG);
        std::fs::create_dir(depot.path("stick")).unwrap();
        depot.run(&["bundle", "keygen", "--out", "KEYS"]).good();
        Self { depot, machine }
    }

    fn pin(&self) {
        let root = self.depot.path("KEYS/1.root.json").display().to_string();
        self.machine.run(&["trust", "pin", &root]).good();
    }

    fn make(&self, text: &str) {
        let file = self.depot.write("notes.txt", text).display().to_string();
        let stick = self.depot.path("stick").display().to_string();
        let words =
            ["bundle", "create", "--stream", "main", "--keys", "KEYS", "--to", &stick, "--file", &file];
        self.depot.run(&words).good();
    }

    fn import(&self, number: u32) -> crate::command::Done {
        let folder = self.depot.path(&format!("stick/edge-bundle/main-{number}")).display().to_string();
        self.machine.run(&["bundle", "import", &folder])
    }

    fn provision(&self) -> String {
        self.machine.run(&["system", "provision"]).good().out
    }

    fn kept(&self) -> std::path::PathBuf {
        self.machine.root("identity/trust.json")
    }

    /// The data is gone, as after a reset.
    fn reset(&self) {
        std::fs::remove_dir_all(self.machine.place.path("state")).unwrap();
    }

    /// The time floor and the highest number, as the store has them.
    fn known(&self) -> (i64, i64) {
        let store = crate::store::open(&self.machine.place.path("state"));
        let value = |key: &str| store.trust_value(key).unwrap().unwrap_or(0);
        (value("time-floor"), value("seq:main"))
    }
}

#[test]
fn a_reset_opens_no_replay() {
    let two = Two::new();
    two.pin();
    assert!(two.kept().exists(), "pinning is kept too");
    for text in ["one", "two"] {
        two.make(text);
    }
    two.import(1).good();
    two.import(2).good();
    let before = two.known();
    assert_eq!(before.1, 2);
    let own_key = || std::fs::read(two.machine.place.path("state/trust/gateway.key")).unwrap();
    let key = own_key();
    two.reset();
    let said = two.provision();
    assert!(said.contains("the trust state is as identity kept it"), "{said}");
    assert_eq!(two.known(), before);
    assert_eq!(own_key(), key, "depots know this gateway by it");
    // Believed without being pinned again, and the old one is refused; the newest comes once more, and no other.
    two.import(1).bad(3, "sequence 1 of stream `main` is not above 2");
    assert!(two.import(2).good().out.contains("main-2"));
    assert!(two.import(2).good().out.contains("in force already"));
    two.make("three");
    two.import(3).good();
    assert_eq!(two.known().1, 3);
    assert_eq!(two.provision(), "", "nothing to raise");
}

/// They would be a step back, and pods whose images nobody brings must not go without a word.
#[test]
fn what_came_with_the_image_and_is_superseded_is_told_after_a_reset() {
    let two = Two::new();
    two.pin();
    two.make("one");
    let bundles = two.machine.root("run/edge/preload/edge-bundle");
    std::fs::create_dir_all(bundles.parent().unwrap()).unwrap();
    std::fs::rename(two.depot.path("stick/edge-bundle"), &bundles).unwrap();
    // As long as it is imported, the boot is not taken for one that hangs.
    let (mark, mut was_there) = (two.machine.root("run/edge-importing"), false);
    let mut command = two.machine.edge(&["system", "provision"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        was_there |= mark.exists();
    }
    let said = Done::of(child.wait_with_output().unwrap()).good().out;
    assert!(said.contains("edge: main-1 is imported: "), "{said}");
    assert!(was_there && !mark.exists());
    two.make("two");
    two.import(2).good();
    assert_eq!(two.provision(), "", "it is superseded, and what superseded it is here");
    two.reset();
    let line = "edge: main-1 came with the image and is older than main-2, which this gateway had before its data was reset: it is not imported hint: bring main-2 or a newer one\n";
    // At each boot, until that was brought.
    for _ in 0..2 {
        let said = two.provision();
        assert!(said.contains(line), "{said}");
    }
    two.import(2).good();
    assert_eq!(two.provision(), "");
}

#[test]
fn another_root_is_refused_and_a_reset_forgets_none() {
    let two = Two::new();
    two.pin();
    two.depot.run(&["bundle", "keygen", "--out", "OTHER"]).good();
    let other = two.depot.path("OTHER/1.root.json").display().to_string();
    let refused = || {
        two.machine
            .run(&["trust", "pin", &other])
            .bad(3, "root version 1 is pinned already, and this is another");
        let said = two.machine.run(&["trust", "pin", &other]).err;
        assert!(
            said.contains("an appliance: write its card anew; `edge system reset` keeps the root"),
            "{said}"
        );
    };
    refused();
    two.reset();
    two.provision();
    refused();
}

#[test]
fn a_rotated_root_is_kept_with_its_chain() {
    let two = Two::new();
    two.pin();
    two.make("one");
    two.import(1).good();
    two.depot.run(&["trust", "rotate", "--keys", "KEYS"]).good();
    for key in ["KEYS/root-1.key", "KEYS/root-2.key"] {
        two.depot.run(&["trust", "sign", "KEYS/2.root.json", "--key", key]).good();
    }
    two.make("two");
    two.import(2).good();
    two.reset();
    two.provision();
    let shown = two.machine.run(&["trust", "show"]).good().out;
    assert!(shown.contains("version 2"), "{shown}");
    // Somebody pins the first root of the same line again, as the image's configuration does at each boot.
    two.pin();
    two.import(1).bad(3, "is not above 2");
}

#[test]
fn a_damaged_or_hostile_copy_lowers_nothing() {
    let two = Two::new();
    two.pin();
    two.make("one");
    two.make("two");
    two.import(1).good();
    let old = std::fs::read_to_string(two.kept()).unwrap();
    two.import(2).good();
    let (known, good) = (two.known(), std::fs::read_to_string(two.kept()).unwrap());
    let other = {
        let place = Place::new();
        place.run(&["bundle", "keygen", "--out", "KEYS"]).good();
        let root = serde_json::to_string(&place.read("KEYS/1.root.json")).unwrap();
        format!(r#"{{"format": 1, "roots": [{root}], "root-version": 1, "seqs": {{}}, "time-floor": 0}}"#)
    };
    for (what, text, told) in [
        ("cut off", good[..good.len() / 2].to_owned(), "trust.json` is damaged"),
        ("empty", String::new(), "trust.json` is damaged"),
        (
            "another format",
            good.replace("\"format\": 1", "\"format\": 2"),
            "it is of format 2, and this edge reads 1",
        ),
        (
            "a version that its roots do not lead to",
            good.replace("\"root-version\": 1", "\"root-version\": 9"),
            "damaged",
        ),
        ("a forged root", good.replacen("eyJmb3JtYXQ", "eyJmb3JtYXU", 1), "damaged"),
        ("an older copy", old, ""),
        ("numbers below zero", good.replace("\"main\": 2", "\"main\": -5"), ""),
        ("another line's root", other, ""),
    ] {
        std::fs::write(two.kept(), text).unwrap();
        let said = two.provision();
        assert!(said.contains(told) && (told.is_empty() == said.is_empty()), "{what}: {said}");
        assert_eq!(two.known(), known, "{what}");
        let now = std::fs::read_to_string(two.kept()).unwrap();
        assert_eq!(now, good, "{what}: written anew from what the store knows");
    }
    two.import(1).bad(3, "is not above 2");
}

#[test]
fn a_copy_that_cannot_be_read_after_a_reset_stays_and_nothing_is_imported() {
    let two = Two::new();
    two.pin();
    two.make("one");
    two.import(1).good();
    // As a newer system may write it, which the older one meets after a fallback.
    let newer = std::fs::read_to_string(two.kept()).unwrap().replace("\"format\": 1", "\"format\": 2");
    std::fs::write(two.kept(), &newer).unwrap();
    two.reset();
    let said = two.provision();
    assert!(said.contains("it is of format 2, and this edge reads 1"), "{said}");
    assert_eq!(std::fs::read_to_string(two.kept()).unwrap(), newer, "it is not replaced by nothing");
    assert_eq!(two.known(), (0, 0));
    // What only the newer one knows goes on being read by the older.
    let more = newer.replace("\"format\": 2", "\"format\": 1, \"later\": true");
    std::fs::write(two.kept(), more).unwrap();
    two.provision();
    assert_eq!(two.known().1, 1);
}
