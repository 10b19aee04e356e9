//! Bundles from a depot to a gateway, through the library's public doors.

use std::path::{Path, PathBuf};

use edge::bundle::system::Asked;
use edge::bundle::{
    self, Audience, Gateway, Identity, Imported, Made, PART_SIZE, Plan, Selection, create, keys,
    read_receipts,
};
use edge::oci::Platform;
use edge::store::{Absent, Child, Facts, Kind, NewChart, NewManifest, Owner, Replace, Store};
use edge::sys::digest::Digest;
use edge::sys::progress::Progress;
use edge::trust::{Anchor, Enrolled, SecretKey};
use jiff::Timestamp;
use serde_json::json;

use crate::store::open;

pub const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A depot and a gateway, each with a folder of its own, and a stick.
pub struct Scene {
    pub folder: tempfile::TempDir,
    pub depot: Store,
    pub gateway: Gateway,
}

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// When things are made in these tests.
pub const THEN: i64 = 1_780_000_000;

impl Scene {
    /// With keys made and the root pinned.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for sub in ["depot", "gateway", "stick"] {
            std::fs::create_dir(path.join(sub)).unwrap();
        }
        make_keys(&path.join("keys"), 3, 2);
        let depot = open(&path.join("depot"));
        let gateway = gateway(&path.join("gateway"), Identity::default());
        let scene = Self { folder, depot, gateway };
        pin(&scene.gateway, &scene.path("keys/1.root.json"));
        scene
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub fn stick(&self) -> PathBuf {
        self.path("stick")
    }

    pub fn plan(&self) -> Plan {
        Plan {
            stream: "main".into(),
            to: self.stick(),
            selection: Selection::default(),
            audience: Audience::default(),
            not_after: None,
            notes: String::new(),
            receipts: Vec::new(),
            part_size: PART_SIZE,
            records: self.path("depot/records"),
            created: at(THEN),
        }
    }

    pub fn create(&self, plan: &Plan) -> Result<Made, bundle::Error> {
        let chain = keys::read_chain(&self.path("keys"))?;
        let signers = keys::bundle_keys(&self.path("keys"), &chain, None)?;
        create(&self.depot, &chain, &signers, plan, &Progress::silent())
    }

    /// Makes a bundle of everything.
    pub fn make(&self) -> Made {
        self.create(&self.plan()).unwrap()
    }

    pub fn import(&self) -> Result<Imported, bundle::Error> {
        import(&self.gateway, &self.stick())
    }

    /// The receipts on the stick, of the gateway that is enrolled by them.
    pub fn receipts(&self) -> Vec<bundle::Believed> {
        receipts(&self.path(""))
    }
}

/// The receipts on the stick below `folder`, of the gateway that is enrolled by them.
pub fn receipts(folder: &Path) -> Vec<bundle::Believed> {
    let enrolled = Enrolled::below(&folder.join("depot"));
    let folder = folder.join("stick/edge-receipts");
    let receipt = std::fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.path());
    for path in receipt.filter(|path| path.extension().unwrap() == "dsse") {
        bundle::enrol(&path, &enrolled).unwrap();
    }
    let (believed, ignored) = read_receipts(&folder, "main", &enrolled).unwrap();
    assert_eq!(ignored, [""; 0]);
    believed
}

pub fn import(gateway: &Gateway, stick: &Path) -> Result<Imported, bundle::Error> {
    let chosen = gateway.choose(&bundle::find_one(stick)?);
    gateway.import(&chosen.folder, Asked::ByHand, &Progress::silent())
}

pub fn make_keys(folder: &Path, root_keys: u32, threshold: u32) {
    let plan = keys::Plan {
        root_keys,
        threshold,
        expires: Some(at(THEN + 1_000_000_000)),
        created: at(THEN - 1000),
    };
    keys::generate(folder, &plan, None).unwrap();
}

pub fn gateway(folder: &Path, me: Identity) -> Gateway {
    Gateway { state_dir: folder.to_owned(), me, store: open(folder), appliance: None }
}

pub fn pin(gateway: &Gateway, root: &Path) {
    let bytes = std::fs::read(root).unwrap();
    let pinned = gateway.store.trust_value("root-version").unwrap().map(|v| u64::try_from(v).unwrap());
    let version = Anchor::below(&gateway.state_dir).pin(&bytes, "the root", pinned).unwrap();
    let update = edge::store::TrustUpdate { root_version: Some(version), ..Default::default() };
    gateway.store.update_trust(update).unwrap();
}

/// Stores an image with one layer, for a platform.
pub fn put_image(
    store: &Store,
    repository: &str,
    tag: Option<&str>,
    content: &[u8],
    architecture: &str,
) -> Digest {
    let config = format!(r#"{{"architecture":"{architecture}","os":"linux"}}"#).into_bytes();
    let blob = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        store.add_blob(Some(repository), &digest, bytes).unwrap();
        Child { digest, size: bytes.len() as u64, kind: Kind::Blob }
    };
    let (config, layer) = (blob(&config), blob(content));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.digest, "size": config.size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size}],
    });
    put_manifest(store, repository, tag, &manifest.to_string(), IMAGE, vec![config, layer])
}

pub fn put_manifest(
    store: &Store,
    repository: &str,
    tag: Option<&str>,
    text: &str,
    media_type: &str,
    children: Vec<Child>,
) -> Digest {
    let digest = Digest::sha256(text.as_bytes());
    let facts = Facts { media_type: media_type.into(), children, ..Facts::default() };
    let new = NewManifest {
        repository,
        tag,
        bytes: text.as_bytes(),
        digest: &digest,
        facts,
        owner: Owner::Push,
        absent: Absent::Allowed,
        asked: false,
    };
    store.put_manifest(new).unwrap();
    digest
}

pub fn put_chart(store: &Store, name: &str, version: &str, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256(bytes);
    store.add_blob(None, &digest, bytes).unwrap();
    let chart = NewChart {
        repository: String::new(),
        name: name.into(),
        version: version.into(),
        digest: digest.clone(),
        provenance: None,
        created: THEN,
        entry: json!({"name": name, "version": version}).to_string(),
    };
    store.put_chart(chart, &Owner::Push, Replace::Always).unwrap();
    digest
}

/// Everything that the store would say or serve, and every file of a blob: to compare before and after.
pub fn everything(gateway: &Gateway) -> String {
    let store = &gateway.store;
    let refs: Vec<String> = store
        .refs(None)
        .unwrap()
        .iter()
        .map(|r| format!("{}:{} {} {}", r.repository, r.name, r.digest, r.owner))
        .collect();
    let charts: Vec<String> = store
        .chart_repositories()
        .unwrap()
        .iter()
        .flat_map(|repository| store.charts(repository, None).unwrap())
        .map(|c| format!("{} {} {}", c.name, c.version, c.digest))
        .collect();
    let blobs: Vec<String> =
        store.blobs(None, 10_000).unwrap().iter().map(|b| format!("{} {}", b.digest, b.size)).collect();
    let generations: Vec<String> = store
        .streams()
        .unwrap()
        .into_iter()
        .flat_map(|stream| store.generations(&Owner::Bundle(stream)).unwrap())
        .map(|g| format!("{} {} {}", g.number, g.note, g.current))
        .collect();
    let trust: Vec<String> = ["root-version", "time-floor", "seq:main", "seq:other"]
        .iter()
        .map(|key| format!("{key} {:?}", store.trust_value(key).unwrap()))
        .collect();
    let mut files = Vec::new();
    list(&gateway.state_dir.join("store/blobs"), &mut files);
    list(&gateway.state_dir.join("store/uploads"), &mut files);
    list(&gateway.state_dir.join("trust/roots"), &mut files);
    files.sort();
    format!("{refs:#?}{charts:#?}{blobs:#?}{generations:#?}{trust:#?}{files:#?}")
}

fn list(folder: &Path, into: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            list(&entry.path(), into);
        } else {
            into.push(entry.path().display().to_string());
        }
    }
}

#[test]
fn everything_goes_from_the_depot_to_the_gateway_and_is_owned_by_its_stream() {
    let scene = Scene::new();
    let one = put_image(&scene.depot, "docker.io/library/app", Some("1"), b"layer one", "arm64");
    let chart = put_chart(&scene.depot, "web", "1.0.0", b"a chart");
    put_image(&scene.gateway.store, "docker.io/library/mine", Some("1"), b"pushed here", "amd64");
    let note = scene.path("note.txt");
    std::fs::write(&note, "for the crew").unwrap();
    let made = scene.make();
    assert_eq!((made.seq, made.refs, made.carried), (1, 2, 4));
    let imported = scene.import().unwrap();
    assert_eq!((imported.generation, imported.blobs, imported.refs), (Some(1), 4, 2));
    let store = &scene.gateway.store;
    let found = store.manifest("docker.io/library/app", "1").unwrap().unwrap();
    assert_eq!((found.blob.digest, found.owner), (one, Some(Owner::Bundle("main".into()))));
    assert_eq!(store.chart("", "web", "1.0.0").unwrap().unwrap().digest, chart);
    let layer = Digest::sha256(b"layer one");
    assert!(store.blob(Some("docker.io/library/app"), &layer).unwrap().is_some());

    // A second bundle drops the chart and brings a file; what was pushed here stays.
    let mut plan = scene.plan();
    plan.selection.images = vec!["app:1".into()];
    plan.selection.files = vec![note.into()];
    assert_eq!(scene.create(&plan).unwrap().seq, 2);
    let imported = scene.import().unwrap();
    assert_eq!((imported.seq, imported.generation, imported.blobs), (2, Some(2), 3));
    assert!(store.chart("", "web", "1.0.0").unwrap().is_none());
    let file = store.manifest("edge.local/files/main", "note.txt").unwrap().unwrap();
    let artifact: serde_json::Value = serde_json::from_slice(&file.blob.read().unwrap()).unwrap();
    let content: Digest = artifact["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
    assert_eq!(store.blob(None, &content).unwrap().unwrap().read().unwrap(), b"for the crew");
    assert!(store.manifest("docker.io/library/mine", "1").unwrap().is_some());

    // The same again changes nothing; a rollback brings the chart back, and never the number.
    let before = everything(&scene.gateway);
    assert_eq!(scene.import().unwrap().generation, None);
    assert_eq!(everything(&scene.gateway), before);
    let back = scene.gateway.roll_back(None, None).unwrap();
    assert_eq!((back.generation, back.note.unwrap().seq), (1, 1));
    assert!(store.chart("", "web", "1.0.0").unwrap().is_some());
    assert!(store.manifest("edge.local/files/main", "note.txt").unwrap().is_none());
    assert!(store.manifest("docker.io/library/mine", "1").unwrap().is_some());
    assert_eq!(store.trust_value("seq:main").unwrap(), Some(2));
    assert_eq!(scene.import().unwrap().generation, None, "what was rolled back stays rolled back");
    assert!(matches!(scene.gateway.roll_back(None, None), Err(bundle::Error::NoEarlier(_))));
    assert_eq!(scene.gateway.roll_back(None, Some(2)).unwrap().generation, 2);
}

#[test]
fn a_delta_carries_what_no_receipt_has_and_needs_its_base() {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"base layer", "arm64");
    scene.make();
    scene.import().unwrap();
    let receipts = scene.receipts();
    assert_eq!(receipts[0].receipt.seq, 1);
    // The tag is pushed again with other content: compared is what it stands for.
    let new = put_image(&scene.depot, "q.io/app", Some("1"), b"changed layer", "arm64");
    let made = scene.create(&Plan { receipts, ..scene.plan() }).unwrap();
    assert_eq!((made.seq, made.carried, made.blobs), (2, 2, 3));
    assert_eq!(made.bases.len(), 1);
    // A gateway without the base is told what is missing, and is left as it is.
    let (full, away) = (scene.path("stick/edge-bundle/main-1"), scene.path("away"));
    std::fs::rename(&full, &away).unwrap();
    let fresh = gateway(&scene.path("fresh"), Identity::default());
    pin(&fresh, &scene.path("keys/1.root.json"));
    let before = everything(&fresh);
    let refused = import(&fresh, &scene.stick()).unwrap_err();
    assert!(refused.is_refusal() && refused.to_string().contains("1 blobs are missing"), "{refused}");
    assert_eq!(everything(&fresh), before);
    assert_eq!(scene.import().unwrap().blobs, 2);
    let found = scene.gateway.store.manifest("q.io/app", "1").unwrap().unwrap();
    assert_eq!(found.blob.digest, new);
    // Where the base lies beside it, both together are as good as a full one.
    std::fs::rename(&away, &full).unwrap();
    let shown = fresh.inspect(&made.folder, None).unwrap();
    assert_eq!((shown.missing, shown.refused), (3, None));
    assert_eq!(import(&fresh, &scene.stick()).unwrap().blobs, 3);
    assert_eq!(fresh.store.manifest("q.io/app", "1").unwrap().unwrap().blob.digest, new);
}

#[test]
fn what_lies_in_an_older_bundle_beside_it_is_what_was_signed_or_none() {
    let scene = Scene::new();
    let base: Vec<u8> = (0..3000_u32).flat_map(u32::to_le_bytes).collect();
    put_image(&scene.depot, "q.io/app", Some("1"), &base, "arm64");
    // In parts, for whose hashes the newer one has no line.
    let first = scene.create(&Plan { part_size: 4096, ..scene.plan() }).unwrap().folder;
    scene.import().unwrap();
    put_image(&scene.depot, "q.io/app", Some("2"), b"another layer", "arm64");
    scene.create(&Plan { part_size: 4096, receipts: scene.receipts(), ..scene.plan() }).unwrap();
    let fresh = gateway(&scene.path("fresh"), Identity::default());
    pin(&fresh, &scene.path("keys/1.root.json"));
    let before = everything(&fresh);
    let part = first.join(format!("blobs/sha256/{}.p0001", Digest::sha256(&base).hex()));
    let good = std::fs::read(&part).unwrap();
    // Of another length, not there, a link: it is not there. Of another content: all of it is refused, and nothing stays.
    let refused = |said: &str| {
        let error = import(&fresh, &scene.stick()).unwrap_err();
        assert!(error.is_refusal() && error.to_string().contains(said), "{error}");
        assert_eq!(everything(&fresh), before);
    };
    std::fs::write(&part, &good[1..]).unwrap();
    refused("1 blobs are missing");
    std::fs::remove_file(&part).unwrap();
    refused("1 blobs are missing");
    std::fs::write(scene.path("elsewhere"), &good).unwrap();
    std::os::unix::fs::symlink(scene.path("elsewhere"), &part).unwrap();
    refused("1 blobs are missing");
    std::fs::remove_file(&part).unwrap();
    std::fs::write(&part, [&good[1..], b"x"].concat()).unwrap();
    refused("is not what was signed");
    std::fs::write(&part, &good).unwrap();
    import(&fresh, &scene.stick()).unwrap();
    assert_eq!(fresh.store.blob(None, &Digest::sha256(&base)).unwrap().unwrap().read().unwrap(), base);
}

#[test]
fn receipts_of_unknown_or_changed_keys_are_ignored_and_a_full_bundle_is_possible() {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"layer", "arm64");
    scene.make();
    scene.import().unwrap();
    let folder = scene.path("stick/edge-receipts");
    let enrolled = Enrolled::below(&scene.path("depot"));
    let (believed, ignored) = read_receipts(&folder, "main", &enrolled).unwrap();
    assert!(believed.is_empty() && ignored[0].contains("unknown key"), "{ignored:?}");
    let name = scene.gateway.name();
    enrolled.enrol(&name, &SecretKey::generate().unwrap().public()).unwrap();
    let path = folder.join(format!("{name}.main.dsse"));
    let refused = bundle::enrol(&path, &enrolled).unwrap_err();
    assert!(refused.is_refusal(), "{refused}");
    // A list that is not the signed one.
    std::fs::remove_file(scene.path(&format!("depot/trust/gateways/{name}.pub"))).unwrap();
    bundle::enrol(&path, &enrolled).unwrap();
    let list = folder.join(format!("{name}.main.have"));
    let signed = std::fs::read_to_string(&list).unwrap();
    let other = signed.replacen("sha256:", "sha257:", 1);
    for (text, why) in [(other.as_str(), "is not what was signed"), ("sha256:x\n", "has 9 bytes")] {
        std::fs::write(&list, text).unwrap();
        let (believed, ignored) = read_receipts(&folder, "main", &enrolled).unwrap();
        assert!(believed.is_empty() && ignored[0].contains(why), "{ignored:?}");
    }
}

#[test]
fn large_blobs_lie_in_parts_and_many_blobs_in_many_folders() {
    let scene = Scene::new();
    let layer: Vec<u8> = (0..10_000_u32).flat_map(u32::to_le_bytes).collect();
    put_image(&scene.depot, "q.io/app", Some("1"), &layer, "arm64");
    let made = scene.create(&Plan { part_size: 4096, ..scene.plan() }).unwrap();
    let hex = Digest::sha256(&layer).hex().to_owned();
    let blobs = made.folder.join("blobs/sha256");
    assert_eq!(std::fs::metadata(blobs.join(format!("{hex}.p0009"))).unwrap().len(), 40_000 - 9 * 4096);
    assert!(!blobs.join(&hex).exists());
    scene.import().unwrap();
    let blob = scene.gateway.store.blob(None, &Digest::sha256(&layer)).unwrap().unwrap();
    assert_eq!(blob.read().unwrap(), layer);
}

#[test]
fn indexes_are_cut_to_platforms_and_keep_their_bytes_and_what_attests_to_them() {
    let scene = Scene::new();
    let store = &scene.depot;
    let arm = put_image(store, "q.io/app", None, b"for arm", "arm64");
    let amd = put_image(store, "q.io/app", None, b"for amd", "amd64");
    let attested = put_image(store, "q.io/app", None, b"attests to arm", "unknown");
    let entry = |digest: &Digest, architecture: &str| json!({"mediaType": IMAGE, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": architecture}});
    let mut attests = entry(&attested, "unknown");
    attests["platform"]["os"] = "unknown".into();
    attests["annotations"] = json!({"vnd.docker.reference.digest": arm});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(&arm, "arm64"), entry(&amd, "amd64"), attests]});
    let children =
        [&arm, &amd, &attested].map(|digest| Child { digest: digest.clone(), size: 1, kind: Kind::Manifest });
    let top = put_manifest(store, "q.io/app", Some("1"), &index.to_string(), INDEX, children.to_vec());
    let mut plan = scene.plan();
    plan.selection.images = vec!["q.io/app:1".into()];
    plan.selection.platforms = vec!["linux/arm64".parse::<Platform>().unwrap()];
    scene.create(&plan).unwrap();
    scene.import().unwrap();
    let here = &scene.gateway.store;
    assert_eq!(here.manifest("q.io/app", "1").unwrap().unwrap().blob.digest, top);
    assert!(here.manifest("q.io/app", arm.as_str()).unwrap().is_some());
    assert!(here.manifest("q.io/app", attested.as_str()).unwrap().is_some());
    assert!(here.manifest("q.io/app", amd.as_str()).unwrap().is_none());
    assert!(here.blob(None, &Digest::sha256(b"for amd")).unwrap().is_none());
}

#[test]
fn what_was_asked_for_and_is_not_there_is_named() {
    let scene = Scene::new();
    let mut plan = scene.plan();
    assert!(matches!(scene.create(&plan), Err(bundle::Error::Usage(_))));
    plan.selection.images = vec!["q.io/none:1".into()];
    let error = scene.create(&plan).unwrap_err().to_string();
    assert!(error.contains("`q.io/none:1` is not in the store"), "{error}");
    plan.selection = Selection { charts: vec!["none:1".into()], ..Selection::default() };
    assert!(matches!(scene.create(&plan), Err(bundle::Error::Absent(_))));
    assert!(!scene.stick().join("edge-bundle").exists());
    assert!(matches!(scene.import(), Err(bundle::Error::NotThere(_))));
}
