//! What a depot goes by when it makes a bundle: its own roots and keys, its own memory, and what gateways say of themselves.

use std::path::Path;

use edge::bundle::{self, Identity};

use crate::bundle::{gateway, make_keys, pin};
use crate::bundle_auto::take;
use crate::bundle_commands::Two;

/// Two of three root keys signed it, which is enough, and it is out; then the third one signs too.
#[test]
fn one_more_signature_on_a_root_that_is_out_locks_nobody_out() {
    let two = Two::new();
    let sign = |key: &str, root: &str| two.depot.run(&["trust", "sign", root, "--key", key]).good();
    two.depot.run(&["trust", "rotate", "--keys", "KEYS", "--expires", "2999-12-31"]).good();
    sign("KEYS/root-1.key", "KEYS/2.root.json");
    sign("KEYS/root-3.key", "KEYS/2.root.json");
    let file = two.depot.write("x.txt", "x").display().to_string();
    two.create(&["--file", &file]);
    assert_eq!(two.import()["seq"], 1);
    let root = two.depot.path("KEYS/2.root.json");
    let fresh = gateway(&two.depot.path("fresh"), Identity::default());
    pin(&fresh, &root);

    // A key that has signed changes nothing, not even the order of signatures.
    let before = std::fs::read(&root).unwrap();
    let said = sign("KEYS/root-1.key", "KEYS/2.root.json");
    assert!(said.err.contains("`KEYS/2.root.json` has the signature of this key already"), "{said:?}");
    assert_eq!(std::fs::read(&root).unwrap(), before);
    let said = sign("KEYS/root-2.key", "KEYS/2.root.json").out;
    assert!(said.contains("by 3 of the 2 needed keys of version 2: enough"), "{said}");
    assert_ne!(std::fs::read(&root).unwrap(), before);

    two.depot.write("x.txt", "another x");
    two.create(&["--file", &file]);
    assert_eq!(two.import()["seq"], 2);
    two.gateway.run(&["trust", "pin", &root.display().to_string()]).good();
    let taken = take(&fresh, Path::new(&two.stick));
    assert!(matches!(&taken, bundle::auto::Outcome::Imported(line) if line.contains("main-2")), "{taken:?}");
    // Another root of the same version is another root, however many have signed it.
    make_keys(&two.depot.path("theirs"), 3, 2);
    let theirs = two.depot.path("theirs/1.root.json").display().to_string();
    two.gateway.run(&["trust", "pin", &theirs]).bad(3, "this is another one");
    let ours = two.depot.path("KEYS/1.root.json").display().to_string();
    two.gateway.run(&["trust", "pin", &ours]).good();
}
