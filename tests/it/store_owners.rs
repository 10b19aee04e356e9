//! Owners of what the store keeps: whose word counts where two want the same.

use edge::store::{Child, Error, Facts, Kind, Owner, StateOf, StateRef, TrustUpdate};
use edge::sys::digest::Digest;

use crate::store::open;

const REPO: &str = "docker.io/library/nginx";

#[test]
fn what_an_owner_who_goes_before_needs_is_not_removed_from_under_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (layer, child, index) =
        (Digest::sha256(b"layer"), Digest::sha256(b"child"), Digest::sha256(b"index"));
    let of = |digest: &Digest, kind| {
        let children = vec![Child { digest: digest.clone(), size: 5, kind }];
        Facts { media_type: "m".into(), children, ..Facts::default() }
    };
    store.add_blob(None, &layer, b"layer").unwrap();
    store.add_manifest(b"child", &child, of(&layer, Kind::Blob)).unwrap();
    store.add_manifest(b"index", &index, of(&child, Kind::Manifest)).unwrap();
    let owner = Owner::Bundle("main".into());
    let refs = vec![StateRef { repository: REPO.into(), name: "1".into(), digest: index.clone() }];
    store.flip(&owner, StateOf { refs, ..StateOf::default() }, TrustUpdate::default()).unwrap();
    let refused = || {
        let child = store.remove_manifest(REPO, &child, &Owner::Push).unwrap_err();
        let layer = store.unlink_blob(REPO, &layer, &Owner::Push).unwrap_err();
        [child, layer].map(|error| {
            assert!(matches!(error, Error::Needed { .. }));
            error.to_string()
        })
    };
    let told = format!("is part of `{REPO}:1`, which belongs to bundle stream `main` hint: change it there");
    assert!(refused().iter().all(|said| said.contains(&told)), "{:?}", refused());
    // An earlier generation may be put in force again.
    store.flip(&owner, StateOf::default(), TrustUpdate::default()).unwrap();
    refused();
    store.roll_back(&owner, 1).unwrap();
    assert!(store.manifest(REPO, child.as_str()).unwrap().is_some());
    assert!(store.blob(Some(REPO), &layer).unwrap().is_some());
    // The same in a repository where nobody has it but those who push.
    let other = "team/app";
    store.link_blob(other, &layer).unwrap();
    assert!(store.unlink_blob(other, &layer, &Owner::Push).unwrap());
    for _ in 2..=4 {
        store.flip(&owner, StateOf::default(), TrustUpdate::default()).unwrap();
    }
    assert!(store.unlink_blob(REPO, &layer, &Owner::Push).unwrap(), "the generation is forgotten");
}
