//! Owners of what the store keeps: whose word counts where two want the same.

use std::time::Duration;

use edge::store::{
    Absent, Child, Error, Facts, GcSettings, Kind, NewManifest, Owner, StateOf, StateRef, Store, TrustUpdate,
    VerifySettings,
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
            asked: false,
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

/// A manifest of an image or an index, by digest or tag, as `owner` stores it.
fn put(store: &Store, by: (Owner, bool), tag: Option<&str>, bytes: &[u8], children: &[&Digest]) -> Digest {
    let digest = Digest::sha256(bytes);
    let child = |child: &&Digest| Child { digest: (*child).clone(), size: 5, kind: Kind::Manifest };
    let new = NewManifest {
        repository: REPO,
        tag,
        bytes,
        digest: &digest,
        facts: Facts {
            media_type: "m".into(),
            children: children.iter().map(child).collect(),
            ..Facts::default()
        },
        owner: by.0,
        absent: Absent::Allowed,
        asked: by.1,
    };
    store.put_manifest(new).unwrap();
    digest
}

#[test]
fn an_index_takes_the_place_of_a_digest_only_where_it_is_kept_as_long() {
    let (push, asked, pulled) = ((Owner::Push, false), (Owner::Push, true), (Owner::PullThrough, false));
    let none = None::<&(Owner, bool)>;
    // Who stored the image by its digest, whose index came before, whose came after, and whether the image has a name of
    // its own then.
    for (image, before, after, named) in [
        (&push, none, none, true),
        (&push, none, Some(&push), false),
        (&push, Some(&push), none, false),
        (&push, none, Some(&pulled), true),
        (&push, Some(&pulled), none, true),
        (&asked, none, Some(&push), true),
        (&asked, Some(&push), none, true),
        (&asked, Some(&push), Some(&push), true),
        (&asked, none, Some(&pulled), true),
        (&pulled, none, none, true),
        (&pulled, none, Some(&pulled), false),
        (&pulled, Some(&pulled), none, false),
        (&pulled, none, Some(&push), false),
        (&pulled, Some(&push), none, false),
    ] {
        let case = format!("{image:?} {before:?} {after:?}");
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path());
        let child = Digest::sha256(b"image");
        let index = |by: Option<&(Owner, bool)>, tag: &str| {
            by.map(|by| put(&store, by.clone(), Some(tag), format!("index {tag}").as_bytes(), &[&child]))
        };
        let names =
            || -> Vec<String> { store.refs(None).unwrap().into_iter().map(|found| found.name).collect() };
        let first = index(before, "1");
        put(&store, image.clone(), None, b"image", &[]);
        let second = index(after, "2");
        assert_eq!(names().contains(&child.to_string()), named, "{case}: {:?}", names());
        // What is kept by an index goes with it, and what is not stays.
        for digest in first.iter().chain(&second) {
            assert!(store.remove_manifest(REPO, digest, &Owner::Push).unwrap(), "{case}");
        }
        let strict = GcSettings { grace: Duration::ZERO, ..GcSettings::default() };
        drop(store);
        let store = open(folder.path());
        store.collect(&strict).unwrap();
        assert_eq!(store.manifest(REPO, child.as_str()).unwrap().is_some(), named, "{case}");
    }
}

#[test]
fn an_index_that_nobody_names_any_more_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let child = Digest::sha256(b"image");
    let push = (Owner::Push, false);
    put(&store, push.clone(), Some("1"), b"index", &[&child]);
    put(&store, push.clone(), Some("1"), b"the next", &[]);
    // It can still be had by its digest, until it is collected.
    assert!(store.manifest(REPO, Digest::sha256(b"index").as_str()).unwrap().is_some());
    put(&store, push, None, b"image", &[]);
    assert!(store.refs(None).unwrap().iter().any(|found| found.name == child.as_str()));
}

#[test]
fn a_generation_does_not_take_the_place_of_what_was_pushed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (pushed, pulled) = (Digest::sha256(b"pushed"), Digest::sha256(b"pulled"));
    put(&store, (Owner::Push, false), None, b"pushed", &[]);
    put(&store, (Owner::PullThrough, false), None, b"pulled", &[]);
    let index = Digest::sha256(b"index");
    let child = |digest: &Digest| Child { digest: digest.clone(), size: 6, kind: Kind::Manifest };
    let children = vec![child(&pushed), child(&pulled)];
    let facts = Facts { media_type: "m".into(), children, ..Facts::default() };
    store.add_manifest(b"index", &index, facts).unwrap();
    let refs = vec![StateRef { repository: REPO.into(), name: "1".into(), digest: index }];
    store.flip(&Owner::Mirror, StateOf { refs, ..StateOf::default() }, TrustUpdate::default()).unwrap();
    let names: Vec<String> = store.refs(None).unwrap().into_iter().map(|found| found.name).collect();
    assert_eq!(names, ["1".to_owned(), pushed.to_string()]);
}
