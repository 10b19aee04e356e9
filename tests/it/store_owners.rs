//! Owners of what the store keeps: whose word counts where two want the same.

use edge::store::{
    Absent, Child, Error, Facts, Kind, NewManifest, Owner, StateOf, StateRef, TrustUpdate, VerifySettings,
};
use edge::sys::digest::Digest;

use crate::store::{image, open};

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

#[test]
fn a_fetch_that_ends_after_a_push_does_not_hide_what_was_pushed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let fetched = |bytes: &[u8]| {
        store.put_manifest(NewManifest {
            repository: REPO,
            tag: Some("1"),
            bytes,
            digest: &Digest::sha256(bytes),
            facts: Facts { media_type: "m".into(), ..Facts::default() },
            owner: Owner::PullThrough,
            absent: Absent::Allowed,
        })
    };
    let served = || store.manifest(REPO, "1").unwrap().map(|manifest| manifest.owner);
    fetched(b"first").unwrap();
    assert_eq!(served(), Some(Some(Owner::PullThrough)));
    let (pushed, _) = image(&store, REPO, Some("1"), Owner::Push, b"pushed");
    let refused = fetched(b"second").unwrap_err();
    assert!(matches!(&refused, Error::Owned { owner, .. } if owner == "push"), "{refused}");
    assert_eq!(served(), Some(Some(Owner::Push)));
    assert_eq!(store.manifest(REPO, "1").unwrap().unwrap().blob.digest, pushed);
    // A pushed image that is lost hides nothing.
    let hex = pushed.hex();
    std::fs::remove_file(folder.path().join(format!("store/blobs/sha256/{}/{hex}", &hex[..2]))).unwrap();
    store.verify(&VerifySettings::default(), |_| true).unwrap();
    assert_eq!(served(), None);
    fetched(b"second").unwrap();
    assert_eq!(served(), Some(Some(Owner::PullThrough)));
}
