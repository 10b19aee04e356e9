//! The store among damage, refusals and clocks: what is sound goes on, and what somebody relies on stays.

use edge::store::{Error, Facts, NewChart, Owner, StateOf, StateRef, TrustUpdate, VerifySettings};
use edge::sys::digest::Digest;

use crate::store::open;

const REPO: &str = "docker.io/library/nginx";

/// Flips a bit of what lies there.
pub fn rot(folder: &std::path::Path, digest: &Digest) {
    let hex = digest.hex();
    let path = folder.join(format!("store/blobs/sha256/{}/{hex}", &hex[..2]));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_in_force_goes_on_however_damaged_and_only_what_is_new_must_be_here() {
    let folder = tempfile::tempdir().unwrap();
    let (store, owner) = (open(folder.path()), Owner::Mirror);
    let manifest = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        store.add_manifest(bytes, &digest, Facts { media_type: "m".into(), ..Facts::default() }).unwrap();
        digest
    };
    let blob = |bytes: &[u8]| store.add_blob(None, &Digest::sha256(bytes), bytes).unwrap().digest;
    let (one, two) = (manifest(b"one"), manifest(b"two"));
    let (package, provenance, pinned) = (blob(b"package"), blob(b"provenance"), blob(b"pinned"));
    let chart = |version: &str| NewChart {
        repository: String::new(),
        name: "app".into(),
        version: version.into(),
        digest: package.clone(),
        provenance: Some(provenance.clone()),
        created: 0,
        entry: "{}".into(),
    };
    let flip = |names: &[(&str, &Digest)], versions: &[&str], pins: &[&Digest]| {
        let named = |(name, digest): &(&str, &Digest)| StateRef {
            repository: REPO.into(),
            name: (*name).into(),
            digest: (*digest).clone(),
        };
        let state = StateOf {
            refs: names.iter().map(named).collect(),
            charts: versions.iter().map(|version| chart(version)).collect(),
            pins: pins.iter().copied().cloned().collect(),
            ..StateOf::default()
        };
        store.flip(&owner, state, TrustUpdate::default())
    };
    assert_eq!(flip(&[("1", &one)], &["1"], &[&pinned]).unwrap(), 1);
    for digest in [&one, &package, &provenance, &pinned] {
        rot(folder.path(), digest);
    }
    assert_eq!(store.verify(&VerifySettings::default(), |_| true).unwrap().damaged.len(), 4);
    assert_eq!(flip(&[("1", &one), ("2", &two)], &["1"], &[&pinned]).unwrap(), 2);
    assert_eq!(store.manifest(REPO, "2").unwrap().unwrap().blob.digest, two);
    assert!(store.manifest(REPO, "1").unwrap().is_none(), "it is not served");
    let state = store.state_of(&owner).unwrap();
    assert_eq!((state.refs.len(), state.pins), (2, vec![pinned.clone()]));
    assert_eq!(state.charts[0].provenance, Some(provenance.clone()));
    // Under another name, another version, or of another owner it is new.
    for refused in [
        flip(&[("3", &one)], &["1"], &[&pinned]),
        flip(&[("1", &one)], &["2"], &[&pinned]),
        flip(&[("1", &one)], &["1"], &[&package]),
    ] {
        assert!(matches!(refused, Err(Error::BlobUnknown(_))), "{refused:?}");
    }
    // What comes again is served at once.
    manifest(b"one");
    assert_eq!(store.manifest(REPO, "1").unwrap().unwrap().blob.digest, one);
}
