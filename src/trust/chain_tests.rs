//! Roots: pinning, rotation by both thresholds, gaps, what a rotation drops.

use super::*;
use crate::trust::key::{PublicKey, SecretKey};
use crate::trust::root::Draft;

struct Keys {
    root: Vec<SecretKey>,
    bundle: SecretKey,
}

fn keys(count: usize) -> Keys {
    let root = (0..count).map(|_| SecretKey::generate().unwrap()).collect();
    Keys { root, bundle: SecretKey::generate().unwrap() }
}

fn root(version: u64, keys: &Keys, threshold: u32, signers: &[&SecretKey]) -> Vec<u8> {
    let public: Vec<PublicKey> = keys.root.iter().map(SecretKey::public).collect();
    let time = jiff::Timestamp::from_second(1_700_000_000).unwrap();
    let expires = time + jiff::SignedDuration::from_hours(24);
    let made =
        Root::new(version, time, Some(expires), (&public, threshold), (&[keys.bundle.public()], 1)).unwrap();
    let mut draft = Draft::new(made);
    for key in signers {
        draft.envelope_mut().sign(key).unwrap();
    }
    draft.to_bytes()
}

fn threshold(result: Result<(), Refusal>) -> (usize, u32) {
    match result {
        Err(Refusal::Threshold { found, needed, .. }) => (found, needed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_root_follows_only_by_both_thresholds_and_in_order() {
    let (old, new) = (keys(3), keys(3));
    let [a, b, _] = &old.root[..] else { panic!() };
    let [x, y, _] = &new.root[..] else { panic!() };
    assert_eq!(threshold(Chain::begin(root(1, &old, 2, &[a]), "1").map(|_| ())), (1, 2));
    let mut chain = Chain::begin(root(1, &old, 2, &[a, b]), "1").unwrap();
    assert_eq!(threshold(chain.push(root(2, &new, 2, &[a, b]), "2")), (0, 2));
    assert_eq!(threshold(chain.push(root(2, &new, 2, &[x, y]), "2")), (0, 2));
    assert_eq!(threshold(chain.push(root(2, &new, 2, &[a, x, y]), "2")), (1, 2));
    let skipped = chain.push(root(3, &new, 2, &[a, b, x, y]), "3");
    assert!(matches!(skipped, Err(Refusal::RootOrder { pinned: 1, found: 3 })), "{skipped:?}");
    chain.push(root(2, &new, 2, &[a, b, x, y]), "2").unwrap();
    assert_eq!(chain.current().version, 2);
    assert!(chain.keys_are_new_since(1) && !chain.keys_are_new_since(2));
    // A key that was trusted once is never new again.
    let back = Keys { root: new.root, bundle: old.bundle };
    let signers: Vec<&SecretKey> = back.root.iter().collect();
    chain.push(root(3, &back, 2, &signers), "3").unwrap();
    assert!(!chain.keys_are_new_since(2));
}

#[test]
fn a_gap_is_refused_whole() {
    let old = keys(1);
    let signer = [&old.root[0]];
    let mut chain = Chain::begin(root(1, &old, 1, &signer), "1").unwrap();
    let gap =
        chain.follow::<Refusal>(3, |version| Ok((version != 2).then(|| root(version, &old, 1, &signer))));
    assert!(matches!(gap, Err(Refusal::RootOrder { pinned: 1, found: 3 })), "{gap:?}");
    chain.follow::<Refusal>(3, |version| Ok(Some(root(version, &old, 1, &signer)))).unwrap();
    assert_eq!(chain.current().version, 3);
    assert!(chain.follow::<Refusal>(u64::MAX, |_| panic!("nothing is read")).is_err());
}

#[test]
fn pinning_is_once_and_the_version_in_force_is_what_the_store_says() {
    let folder = tempfile::tempdir().unwrap();
    let anchor = Anchor::below(folder.path());
    let (ours, theirs) = (keys(1), keys(1));
    let first = root(1, &ours, 1, &[&ours.root[0]]);
    assert!(matches!(anchor.load(None), Err(AnchorError::NotPinned)));
    assert_eq!(anchor.pin(&first, "a", None).unwrap(), 1);
    assert_eq!(anchor.pin(&first, "a", Some(1)).unwrap(), 1);
    let other = anchor.pin(&root(1, &theirs, 1, &[&theirs.root[0]]), "a", Some(1));
    assert!(matches!(other, Err(AnchorError::Refused(Refusal::RootOther { .. }))), "{other:?}");
    let mut chain = anchor.load(Some(1)).unwrap();
    chain.push(root(2, &ours, 1, &[&ours.root[0]]), "2").unwrap();
    anchor.keep(&chain, 1).unwrap();
    assert_eq!(anchor.load(Some(1)).unwrap().current().version, 1);
    assert_eq!(anchor.load(Some(2)).unwrap().current().version, 2);
}

#[test]
fn a_root_expires_by_time_that_has_passed_only() {
    let ours = keys(1);
    let chain = Chain::begin(root(1, &ours, 1, &[&ours.root[0]]), "1").unwrap();
    let at = |second| jiff::Timestamp::from_second(second).unwrap();
    assert!(chain.current().check_time(at(0)).is_ok());
    let late = chain.current().check_time(at(1_700_000_000 + 86_401));
    assert!(matches!(late, Err(Refusal::RootExpired { .. })));
}
