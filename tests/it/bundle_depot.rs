//! What a depot goes by when it makes a bundle: its own roots and keys, its own memory, and what gateways say of themselves.

use std::path::Path;

use edge::bundle::{self, Identity, Plan, Selection, keys};
use edge::oci::Platform;
use edge::registry::{Settings, UpstreamRow};
use edge::sys::digest::Digest;
use edge::sys::progress::{Event, Progress};
use edge::trust::gateway::own_key;
use reqwest::Method;
use serde_json::{Value, json};

use crate::bundle::{
    IMAGE, INDEX, Scene, THEN, at, gateway, import, make_keys, pin, put_image, put_manifest,
};
use crate::bundle_auto::take;
use crate::bundle_commands::Two;
use crate::registry::serve;
use crate::registry_pull::DockerRegistry;

/// What making a bundle came to, and what was said besides.
fn create(scene: &Scene, plan: &Plan) -> (Result<bundle::Made, bundle::Error>, Vec<String>) {
    let chain = keys::read_chain(&scene.path("keys")).unwrap();
    let signers = keys::bundle_keys(&scene.path("keys"), &chain, None).unwrap();
    let (progress, mut heard) = Progress::channel();
    let made = bundle::create(&scene.depot, &chain, &signers, plan, &progress);
    let mut notes = Vec::new();
    while let Ok(event) = heard.try_recv() {
        if let Event::Note { line } = event {
            notes.push(line);
        }
    }
    (made, notes)
}

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

/// A receipt of `gateway` that says that it has imported `seq`.
fn claim(scene: &Scene, seq: u64) {
    let mut receipt = scene.receipts()[0].receipt.clone();
    receipt.seq = seq;
    let key = own_key(&scene.gateway.state_dir).unwrap();
    let bytes = edge::trust::gateway::seal(&receipt, bundle::RECEIPT_TYPE, &key).unwrap();
    let path = scene.path(&format!("stick/edge-receipts/{}.main.dsse", scene.gateway.name()));
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_receipt_that_claims_a_number_does_not_move_the_stream() {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    scene.make();
    scene.import().unwrap();
    for number in [2, 1 << 62, u64::MAX] {
        claim(&scene, number);
        let (made, notes) = create(&scene, &Plan { receipts: scene.receipts(), ..scene.plan() });
        let last = made.unwrap().seq - 1;
        let told = format!(
            "receipt is ignored: it says main-{number}, and the last that was made here is main-{last}"
        );
        assert!(
            last < 4 && notes.iter().any(|line| line.contains(&told)) == (number > last),
            "{last}: {notes:?}"
        );
    }
    assert_eq!(scene.import().unwrap().seq, 4);
    // A depot that remembers nothing goes on after what gateways say, and not beyond what a new gateway follows.
    let records = scene.path("depot/new-records");
    let plan = || Plan { receipts: scene.receipts(), records: records.clone(), ..scene.plan() };
    claim(&scene, u64::MAX);
    std::fs::remove_dir_all(scene.stick().join("edge-bundle")).unwrap();
    let (made, notes) = create(&scene, &plan());
    assert_eq!(made.unwrap().seq, 1);
    assert!(
        notes[0].contains("no stream begins beyond 9999, and it says main-18446744073709551615"),
        "{notes:?}"
    );
    std::fs::remove_dir_all(&records).unwrap();
    claim(&scene, 9_999);
    assert_eq!(create(&scene, &plan()).0.unwrap().seq, 10_000);
    let fresh = gateway(&scene.path("fresh"), Identity::default());
    pin(&fresh, &scene.path("keys/1.root.json"));
    let error = import(&fresh, &scene.stick()).unwrap_err().to_string();
    assert!(error.contains("blobs are missing"), "its number is followed: {error}");
}

#[test]
fn what_found_no_room_hides_no_bundle_beside_it() {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    let small = scene.path("small");
    std::fs::create_dir(&small).unwrap();
    let mount = |options: &[&str]| {
        crate::bundle_disk::run("mount", &[options, &["none", &small.display().to_string()]].concat())
    };
    mount(&["-t", "tmpfs", "-o", "size=16k"]);
    let _mounted = crate::bundle_disk::Mounted(small.clone());
    let error = scene.create(&Plan { to: small.clone(), ..scene.plan() }).unwrap_err();
    assert!(matches!(error, bundle::Error::NoRoom { .. }), "{error}");
    assert_eq!(std::fs::read_dir(&small).unwrap().count(), 0);
    mount(&["-o", "remount,size=1m"]);
    scene.create(&Plan { to: small.clone(), ..scene.plan() }).unwrap();
    put_image(&scene.depot, "q.io/large", Some("1"), &vec![7; 2 << 20], "arm64");
    let error = scene.create(&Plan { to: small.clone(), ..scene.plan() }).unwrap_err();
    assert!(matches!(error, bundle::Error::NoRoom { .. }), "{error}");
    let hint = "hint: remove what no gateway needs any more of `main-1` (";
    assert!(error.to_string().contains(hint), "{error}");
    let there = || -> Vec<String> {
        let entries = std::fs::read_dir(small.join("edge-bundle")).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    assert_eq!(there(), ["main-1"]);
    // Nor what ends half way: here a blob that is damaged at the depot.
    let layer = edge::sys::digest::Digest::sha256(&vec![7; 2 << 20]);
    crate::store_damage::rot(&scene.path("depot"), &layer);
    scene.create(&scene.plan()).unwrap_err();
    assert_eq!(std::fs::read_dir(scene.stick().join("edge-bundle")).unwrap().count(), 0);
    // What a stick that was pulled has of one.
    std::fs::create_dir(small.join("edge-bundle/main-7")).unwrap();
    let chosen = scene.gateway.choose(&bundle::find_one(&small).unwrap());
    assert_eq!(
        (chosen.folder, &chosen.left[..]),
        (
            small.join("edge-bundle/main-1"),
            &["`main-7` is newer, and left: it was never finished".to_owned()][..]
        )
    );
    assert_eq!(import(&scene.gateway, &small).unwrap().seq, 1);
    let fresh = gateway(&scene.path("fresh"), Identity::default());
    pin(&fresh, &scene.path("keys/1.root.json"));
    let taken = take(&fresh, &small);
    assert!(
        matches!(&taken, bundle::auto::Outcome::Imported(line) if line.contains("`main-7` is newer, and left")),
        "{taken:?}"
    );
    // One that had a manifest is spoiled, and says so: an older one does not stand in for it.
    std::fs::write(small.join("edge-bundle/main-7/COMPLETE"), "").unwrap();
    import(&scene.gateway, &small).unwrap_err();
}

#[test]
fn an_image_without_the_platform_that_was_asked_for_is_told() {
    let scene = Scene::new();
    let store = &scene.depot;
    let amd = put_image(store, "q.io/app", None, b"for amd", "amd64");
    let arm = edge::sys::digest::Digest::sha256(b"left out by a mirror");
    let entry = |digest: &edge::sys::digest::Digest, architecture: &str| json!({"mediaType": IMAGE, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": architecture}});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(&arm, "arm64"), entry(&amd, "amd64")]});
    put_manifest(store, "q.io/app", Some("1"), &index.to_string(), INDEX, Vec::new());
    let plan = |platform: &str, images: &[&str]| Plan {
        selection: Selection {
            images: images.iter().map(|&image| image.into()).collect(),
            platforms: vec![platform.parse::<Platform>().unwrap()],
            ..Selection::default()
        },
        ..scene.plan()
    };
    let (made, _) = create(&scene, &plan("linux/arm64", &["q.io/app:1"]));
    let error = made.unwrap_err().to_string();
    assert!(error.starts_with("`q.io/app:1 for linux/arm64` is not in the store"), "{error}");
    let (made, notes) = create(&scene, &plan("linux/arm64", &[]));
    made.unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("`q.io/app:1 for linux/arm64` is not in the store"), "{notes:?}");
    let (made, notes) = create(&scene, &plan("linux/amd64", &["q.io/app:1"]));
    assert!(made.is_ok() && notes.is_empty(), "{notes:?}");
}

/// What a client only looked at, through a depot that pulls through, has its manifest here and no layers.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_is_left_out_of_everything_and_named() {
    let scene = Scene::new();
    let far = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(far.path()).await;
    upstream.push("team/app", "1", b"a layer that nobody pulled").await;
    let row = UpstreamRow::new("registry.far", &format!("http://127.0.0.1:{}", upstream.port));
    let settings = Settings { upstreams: vec![row], ..Settings::default() };
    let edge = serve(&scene.path("depot"), settings).await;
    let looked =
        edge.send(Method::HEAD, "/v2/team/app/manifests/1?ns=registry.far", &[("accept", IMAGE)], b"").await;
    assert_eq!(looked.status(), 200);
    edge.stop().await;

    let store = &scene.depot;
    put_image(store, "q.io/app", Some("1"), b"a layer", "amd64");
    let amd = put_image(store, "q.io/both", None, b"for amd", "amd64");
    let half = json!({"schemaVersion": 2, "mediaType": IMAGE, "layers": [],
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": Digest::sha256(b"no"), "size": 2}});
    let arm = put_manifest(store, "q.io/both", None, &half.to_string(), IMAGE, Vec::new());
    let entry = |digest: &Digest, architecture: &str| json!({"mediaType": IMAGE, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": architecture}});
    let index =
        |entries: &[Value]| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    let both = index(&[entry(&amd, "amd64"), entry(&arm, "arm64")]);
    put_manifest(store, "q.io/both", Some("1"), &both, INDEX, Vec::new());
    let none = index(&[entry(&Digest::sha256(b"gone"), "amd64")]);
    put_manifest(store, "q.io/none", Some("1"), &none, INDEX, Vec::new());
    let (made, notes) = create(&scene, &scene.plan());
    let made = made.unwrap();
    let about = |name: &str| notes.iter().filter(|line| line.contains(name)).collect::<Vec<_>>();
    assert_eq!(about("registry.far/team/app:1` is left out").len(), 1, "{notes:?}");
    assert_eq!(about("q.io/none:1` is left out").len(), 1, "{notes:?}");
    assert_eq!(about(&format!("q.io/both:1 ({arm})` is left out")).len(), 1, "{notes:?}");
    assert!(about("q.io/app").is_empty() && made.carried > 0, "{notes:?}");
    assert_eq!(scene.import().unwrap().seq, 1);
    assert!(scene.gateway.store.manifest("q.io/both", "1").unwrap().is_some());
    assert!(scene.gateway.store.manifest("q.io/none", "1").unwrap().is_none());
    assert!(scene.gateway.store.manifest("registry.far/team/app", "1").unwrap().is_none());

    // Somebody waits for what is named.
    for (image, told) in [
        ("registry.far/team/app:1", "`registry.far/team/app:1` is not whole: `sha256:"),
        ("q.io/none:1", "`q.io/none:1` is not whole: `sha256:"),
        ("q.io/both:1", "`q.io/both:1 (sha256:"),
    ] {
        let selection = Selection { images: vec![image.into()], ..Selection::default() };
        let error = create(&scene, &Plan { selection, ..scene.plan() }).0.unwrap_err().to_string();
        assert!(error.starts_with(told), "{error}");
    }
    let selection = Selection {
        images: vec!["q.io/both:1".into()],
        platforms: vec!["linux/amd64".parse::<Platform>().unwrap()],
        ..Selection::default()
    };
    create(&scene, &Plan { selection, ..scene.plan() }).0.unwrap();
}

#[test]
fn one_image_in_two_repositories_takes_the_signatures_of_both() {
    let scene = Scene::new();
    let mut images = Vec::new();
    for repository in ["q.io/one", "q.io/two"] {
        let image = put_image(&scene.depot, repository, Some("1"), b"a layer", "amd64");
        let tag = format!("sha256-{}.sig", image.hex());
        put_image(&scene.depot, repository, Some(&tag), repository.as_bytes(), "amd64");
        images.push(format!("{repository}:1"));
    }
    let selection = Selection { images, ..Selection::default() };
    let made = create(&scene, &Plan { selection, ..scene.plan() }).0.unwrap();
    assert_eq!(made.refs, 4, "two names, and what signs each");
}

/// A gateway that is enrolled and brought no receipt would be refused a delta on those of others.
#[test]
fn a_bundle_for_everybody_builds_on_receipts_of_all_who_are_enrolled() {
    let two = Two::new();
    let file = |name: &str| two.depot.write(name, name).display().to_string();
    let (one, other) = (file("one"), file("other"));
    two.create(&["--file", &one]);
    two.import();
    two.depot.run(&["trust", "enrol", &format!("{}/edge-receipts/ship-7.main.dsse", two.stick)]).good();
    let both = ["--file", &one, "--file", &other];
    let carried = |more: &[&str]| -> (u64, u64) {
        let made = two.create(&[&both, more].concat());
        (made["carried"].as_u64().unwrap(), made["blobs"].as_u64().unwrap())
    };
    assert_eq!(carried(&[]), (2, 5), "all who are enrolled gave one");
    let key = edge::trust::SecretKey::generate().unwrap().public();
    edge::trust::Enrolled::below(&two.depot.path("state")).enrol("ship-8", &key).unwrap();
    assert_eq!(carried(&[]), (5, 5));
    assert_eq!(carried(&["--fleet", "north"]), (5, 5), "no receipt says of which fleet its gateway is");
    assert_eq!(carried(&["--for", "ship-7"]), (2, 5));
    assert_eq!(carried(&["--receipts", &format!("{}/edge-receipts", two.stick)]), (2, 5), "asked for");
    let words = ["bundle", "create", "--stream", "main", "--keys", "KEYS", "--to", &two.stick];
    let said = two.depot.run(&[&words[..], &both].concat()).good();
    assert!(
        said.err.contains("no receipt of gateway `ship-8`: the bundle is full hint: `--for`"),
        "{said:?}"
    );
}

#[test]
fn a_root_whose_end_has_come_makes_no_bundle_and_no_next_root_of_the_same_end() {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    let end = THEN + 1_000_000_000;
    let (made, _) = create(&scene, &Plan { created: at(end), ..scene.plan() });
    let error = made.unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("root version 1 has expired at"), "{error}");
    assert!(!scene.stick().join("edge-bundle").exists());
    let (made, notes) = create(&scene, &Plan { created: at(end - 59 * 86_400), ..scene.plan() });
    assert!(made.is_ok() && notes[0].starts_with("root version 1 expires in 59 days"), "{notes:?}");
    let (made, notes) = create(&scene, &Plan { created: at(end - 61 * 86_400), ..scene.plan() });
    assert!(made.is_ok() && notes.is_empty(), "{notes:?}");

    let chain = keys::read_chain(&scene.path("keys")).unwrap();
    let next = |expires, now| {
        let rotation = keys::Rotation { expires, ..keys::Rotation::default() };
        keys::next_root(&chain, &rotation, at(now))
    };
    let error = next(None, end).unwrap_err();
    assert!(error.is_usage() && error.to_string().ends_with("hint: `--expires DATE`"), "{error}");
    assert_eq!(next(None, end - 1).unwrap().root.expires, Some(at(end)));
    assert_eq!(next(Some(at(end + 9)), end).unwrap().root.expires, Some(at(end + 9)));
}

#[test]
fn a_key_that_was_dropped_and_cannot_be_opened_is_in_nobody_s_way() {
    let scene = Scene::new();
    let folder = scene.path("keys");
    let old = edge::trust::SecretKey::generate().unwrap();
    old.write(&folder.join("bundle-0.key"), Some(b"forgotten")).unwrap();
    let chain = keys::read_chain(&folder).unwrap();
    for passphrase in [None, Some(&b"another"[..])] {
        assert_eq!(keys::bundle_keys(&folder, &chain, passphrase).unwrap().len(), 1);
    }
    // Where the one that is wanted cannot be opened, that is told and not that there are too few.
    std::fs::remove_file(folder.join("bundle.key")).unwrap();
    let error = keys::bundle_keys(&folder, &chain, None).unwrap_err().to_string();
    assert!(error.contains("bundle-0.key") && error.contains("needs a passphrase"), "{error}");
}

#[test]
fn two_files_of_one_name_cannot_ride_along() {
    let two = Two::new();
    let (one, other) = (two.depot.write("a/x.conf", "one"), two.depot.write("b/x.conf", "other"));
    let (one, other) = (one.display().to_string(), other.display().to_string());
    let words = ["bundle", "create", "--stream", "main", "--keys", "KEYS", "--to", &two.stick];
    let done = two.depot.run(&[&words[..], &["--file", &one, "--file", &other]].concat());
    done.bad(2, "b/x.conf` cannot ride along: another file has the same name hint: ");
    assert_eq!(two.create(&["--file", &one, "--file", &one])["refs"], 1);
}

/// Makes bundles at once while somebody else has the turn that `lock` is: each waits, and says `told`. What they came to after
/// `meanwhile`, when the turn was given on.
fn wait_and_create<const N: usize>(
    scene: &Scene,
    plans: [Plan; N],
    lock: &Path,
    told: &str,
    meanwhile: impl FnOnce(),
) -> [Result<bundle::Made, bundle::Error>; N] {
    let held = std::fs::File::open(lock).unwrap();
    held.lock().unwrap();
    std::thread::scope(|scope| {
        let makers = plans.map(|plan| {
            let (progress, heard) = Progress::channel();
            let make = move || {
                let chain = keys::read_chain(&scene.path("keys")).unwrap();
                let signers = keys::bundle_keys(&scene.path("keys"), &chain, None).unwrap();
                bundle::create(&scene.depot, &chain, &signers, &plan, &progress)
            };
            (scope.spawn(make), heard)
        });
        let waiting = makers.map(|(maker, mut heard)| {
            loop {
                match heard.blocking_recv() {
                    Some(Event::Note { line }) if line == told => break (maker, heard),
                    Some(_) => {}
                    None => unreachable!("it did not wait: {:?}", maker.join()),
                }
            }
        });
        meanwhile();
        drop(held);
        waiting.map(|(maker, _heard)| maker.join().unwrap())
    })
}

#[test]
fn bundles_of_one_stream_that_are_made_at_once_have_numbers_of_their_own() {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    std::fs::create_dir(scene.path("other")).unwrap();
    std::fs::create_dir(scene.path("depot/records")).unwrap();
    let lock = scene.path("depot/records/main.lock");
    std::fs::write(&lock, "").unwrap();
    let plans = ["stick", "other", "stick", "other"].map(|to| Plan { to: scene.path(to), ..scene.plan() });
    let waits = "another bundle of stream `main` is being made; waiting until that has ended";
    let mut made = wait_and_create(&scene, plans, &lock, waits, || {}).map(Result::unwrap);
    made.sort_by_key(|made| made.seq);
    assert_eq!(made.each_ref().map(|made| made.seq), [1, 2, 3, 4]);
    for made in &made {
        scene.gateway.verify(&made.folder, None, &Progress::silent()).unwrap();
    }
}

/// Of two depots, each of which knows nothing of the other's numbers.
#[test]
fn a_bundle_that_is_being_written_is_not_taken_for_a_half_made_one() {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    let bundles = scene.stick().join("edge-bundle");
    let theirs = bundles.join("main-1");
    std::fs::create_dir_all(theirs.join("blobs")).unwrap();
    let waits = format!(
        "another bundle is being written to `{}`; waiting until that has ended",
        scene.stick().display()
    );
    let finish = || std::fs::write(theirs.join("COMPLETE"), "").unwrap();
    let [second] = wait_and_create(&scene, [scene.plan()], &bundles, &waits, finish);
    let refused = second.unwrap_err().to_string();
    assert!(refused.contains("main-1` is there already, and this depot"), "{refused}");
    assert!(theirs.join("blobs").exists());
}

/// The depot's state is lost, and its keys were kept: it meets the stick that is in use.
#[test]
fn a_depot_set_up_anew_goes_on_after_what_lies_on_the_stick() {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    scene.make();
    scene.make();
    scene.import().unwrap();
    // What was never finished counts for nothing, and no more does what a gateway without any would not follow.
    for name in ["main-7", "main-20000", "other-9"] {
        std::fs::create_dir(scene.stick().join("edge-bundle").join(name)).unwrap();
    }
    std::fs::write(scene.stick().join("edge-bundle/main-20000/COMPLETE"), "").unwrap();
    std::fs::write(scene.stick().join("edge-bundle/other-9/COMPLETE"), "").unwrap();
    let anew = || Plan { records: scene.path("depot/anew"), ..scene.plan() };
    let (made, notes) = create(&scene, &anew());
    assert_eq!(made.unwrap().seq, 3, "{notes:?}");
    let told =
        "this depot remembers nothing of stream `main`, and goes on after main-2, which lies on the stick";
    assert_eq!(notes, [told]);
    let (made, notes) = create(&scene, &anew());
    assert_eq!((made.unwrap().seq, &notes[..]), (4, &[][..]), "now it remembers");
    // One that remembers less than lies there does not write over it, and says what to do.
    let error = create(&scene, &scene.plan()).0.unwrap_err().to_string();
    assert!(error.contains("main-3` is there already") && error.contains("records/main.json` if"), "{error}");
}

#[test]
fn a_folder_that_is_there_stays_as_open_as_it_is() {
    use std::os::unix::fs::PermissionsExt as _;
    let two = Two::new();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let shared = two.depot.path("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let done = two.depot.run(&["bundle", "keygen", "--out", "shared"]).good();
    assert_eq!(mode(&shared), 0o1777);
    assert_eq!(mode(&shared.join("bundle.key")), 0o600);
    assert!(done.err.contains("others may write to `shared`"), "{done:?}");
    two.depot.run(&["bundle", "keygen", "--out", "shared"]).bad(1, "is there already");
    assert_eq!(mode(&shared), 0o1777);
    let done = two.depot.run(&["bundle", "keygen", "--out", "above/own"]).good();
    assert_eq!((mode(&two.depot.path("above/own")), &done.err[..]), (0o700, ""));
}

/// What is in memory is what was written: only the medium itself can tell.
#[test]
fn a_stick_that_keeps_something_else_is_found_out_and_nothing_of_it_stays() {
    let _one = crate::bundle_disk::ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let scene = Scene::new();
    let layer: Vec<u8> = (0..64_u32 << 10).flat_map(u32::to_le_bytes).collect();
    put_image(&scene.depot, "q.io/app", Some("1"), &layer, "arm64");
    let image = std::fs::read(crate::bundle_disk::ext4(scene.folder.path(), 32, None)).unwrap();
    let disk = crate::bundle_disk::Disk::new(&scene.path("worn"), image, "rw");
    let to = || Plan { to: disk.path(), ..scene.plan() };
    let lists = scene.make().folder;
    let padded = |file: &str| {
        let mut sector = std::fs::read(lists.join(file)).unwrap();
        sector.resize(512, 0);
        sector
    };
    let digest = Digest::sha256(&layer);
    for (shown, sector) in [
        (digest.as_str(), layer[160 * 512..161 * 512].to_vec()),
        ("blobs.list", padded("blobs.list")),
        ("refs.list", padded("refs.list")),
    ] {
        *disk.medium.forged.lock().unwrap() = Some(sector);
        let error = create(&scene, &to()).0.unwrap_err().to_string();
        assert!(error.contains(shown) && error.contains("reads back differently"), "{shown}: {error}");
        assert_eq!(std::fs::read_dir(disk.path().join("edge-bundle")).unwrap().count(), 0, "{shown}");
    }
    *disk.medium.forged.lock().unwrap() = None;
    create(&scene, &to()).0.unwrap();
}
