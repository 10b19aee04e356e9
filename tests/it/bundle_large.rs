//! Bundles of 100,000 blobs: neither making, looking at, verifying nor importing one takes much more memory than of a few,
//! whether they are the layers of ten images, or the images and charts of 40,000 names. What it is in all, `scripts/bench
//! bundle` shows of a build as gateways get it.

use std::process::{Command, Stdio};

use edge::bundle::{self, Identity, create, keys};
use edge::store::{Child, Facts, Kind, NewChart, NewManifest, Owner, Replace, Store};
use edge::sys::digest::Digest;
use edge::sys::progress::Progress;
use serde_json::json;

use crate::bundle::{IMAGE, Scene, gateway, import};

/// What a large bundle may take beyond a small one, in KiB.
const MORE: u64 = 16 * 1024;
/// Writers at once: their changes share a transaction.
const WRITERS: u32 = 64;

/// What a depot holds.
#[derive(Clone, Copy)]
struct Shape {
    images: u32,
    layers: u32,
    charts: u32,
}

const SMALL: Shape = Shape { images: 2, layers: 2, charts: 2 };
const FEW_NAMES: Shape = Shape { images: 10, layers: 10_000, charts: 0 };
const MANY_NAMES: Shape = Shape { images: 30_000, layers: 2, charts: 10_000 };

impl Shape {
    /// Configurations and manifests among them.
    fn blobs(self) -> u32 {
        self.images * (self.layers + 1) + self.charts + 1
    }

    fn of(name: &str) -> Self {
        match name {
            "small" => SMALL,
            "few" => FEW_NAMES,
            _ => MANY_NAMES,
        }
    }
}

#[test]
#[ignore = "takes some minutes: 100,000 blobs are made, carried and imported"]
fn a_hundred_thousand_blobs_need_no_more_memory_than_a_few() {
    measure("few");
}

#[test]
#[ignore = "takes some minutes: 100,000 blobs are made, carried and imported"]
fn forty_thousand_names_need_no_more_memory_than_a_few() {
    measure("many");
}

fn measure(name: &str) {
    let (small, large) = (peaks("small"), peaks(name));
    for ((side, few), (_, many)) in small.iter().zip(&large) {
        assert!(*many <= few + MORE, "{side}: {many} KiB, and {few} of a small one: {large:?}");
    }
}

/// What each step takes at the most, in KiB.
fn peaks(name: &str) -> Vec<(&'static str, u64)> {
    let shape = Shape::of(name);
    let scene = Scene::new();
    fill(&scene.depot, shape);
    let Scene { folder, depot, gateway } = scene;
    drop((depot, gateway));
    let mut used = Vec::new();
    // The second bundle of the stream builds on the first, and is imported over it.
    for side in ["create", "inspect", "verify", "import", "delta", "inspect", "import"] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "bundle_large::one_side", "--ignored", "--nocapture"])
            .env("EDGE_TEST_FOLDER", folder.path())
            .env("EDGE_TEST_SIDE", side)
            .env("EDGE_TEST_SHAPE", name)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(child.status.success(), "{side}: {said}{}", String::from_utf8_lossy(&child.stderr));
        let peak = said.lines().find_map(|line| line.strip_prefix("peak ")).unwrap();
        used.push((side, peak.parse::<u64>().unwrap()));
    }
    let store = crate::store::open(&folder.path().join("gateway"));
    assert_eq!(store.refs(None).unwrap().len(), shape.images as usize);
    assert_eq!(store.charts("", None).unwrap().len(), shape.charts as usize);
    let sharded = folder.path().join("stick/edge-bundle/main-1/blobs/sha256/00");
    assert_eq!(sharded.is_dir(), name != "small", "too many for one folder");
    used
}

/// Blobs that land together: one by one they would wait for the disk 100,000 times.
const BATCH: usize = 5_000;

fn fill(store: &Store, shape: Shape) {
    let intake = store.intake().unwrap();
    let layers = (0..shape.images).flat_map(|image| (0..shape.layers).map(move |at| layer(image, at)));
    let charts = (0..shape.charts).map(chart);
    let mut batch = Vec::new();
    for bytes in std::iter::once(b"{}".to_vec()).chain(layers).chain(charts) {
        let mut incoming = intake.begin(&Digest::sha256(&bytes), bytes.len() as u64).unwrap();
        incoming.write(&bytes).unwrap();
        batch.push(incoming.finish(None).unwrap());
        if batch.len() == BATCH {
            intake.land(std::mem::take(&mut batch)).unwrap();
        }
    }
    intake.land(batch).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let mine = |number: &u32| number % WRITERS == writer;
                (0..shape.images).filter(mine).for_each(|image| add_image(store, image, shape.layers));
                (0..shape.charts).filter(mine).for_each(|number| add_chart(store, number));
            });
        }
    });
}

fn layer(image: u32, at: u32) -> Vec<u8> {
    format!("layer {at} of image {image}").into_bytes()
}

fn chart(number: u32) -> Vec<u8> {
    format!("chart {number}").into_bytes()
}

fn add_image(store: &Store, image: u32, layers: u32) {
    let layers: Vec<_> = (0..layers).map(|at| layer(image, at)).collect();
    let layers: Vec<_> = layers.iter().map(|bytes| (Digest::sha256(bytes), bytes.len() as u64)).collect();
    let described: Vec<_> = layers
        .iter()
        .map(|(digest, size)| json!({"mediaType": "application/x", "digest": digest, "size": size}))
        .collect();
    let config = json!({"mediaType": "application/x", "digest": Digest::sha256(b"{}"), "size": 2});
    let manifest = json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": described});
    let bytes = manifest.to_string().into_bytes();
    let children =
        layers.into_iter().map(|(digest, size)| Child { digest, size, kind: Kind::Blob }).collect();
    store
        .put_manifest(NewManifest {
            repository: &format!("q.io/image-{image}"),
            tag: Some("1"),
            bytes: &bytes,
            digest: &Digest::sha256(&bytes),
            facts: Facts { media_type: IMAGE.into(), children, ..Facts::default() },
            owner: Owner::Push,
            absent: edge::store::Absent::Refused,
            asked: false,
        })
        .unwrap();
}

/// A chart with an entry as long as those of large projects.
fn add_chart(store: &Store, number: u32) {
    let digest = Digest::sha256(&chart(number));
    let (name, version) = (format!("chart-{number}"), "1.0.0".to_owned());
    let entry =
        json!({"name": name, "version": version, "digest": digest.hex(), "description": "x".repeat(2_000)});
    let chart = NewChart {
        repository: String::new(),
        name,
        version,
        digest,
        provenance: None,
        created: 0,
        entry: entry.to_string(),
    };
    store.put_chart(chart, &Owner::Push, Replace::Never).unwrap();
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn one_side() {
    let (Ok(folder), Ok(side)) = (std::env::var("EDGE_TEST_FOLDER"), std::env::var("EDGE_TEST_SIDE")) else {
        return;
    };
    let folder = std::path::PathBuf::from(folder);
    let shape = Shape::of(&std::env::var("EDGE_TEST_SHAPE").unwrap());
    if side == "create" || side == "delta" {
        let chain = keys::read_chain(&folder.join("keys")).unwrap();
        let signers = keys::bundle_keys(&folder.join("keys"), &chain, None).unwrap();
        let plan = bundle::Plan {
            stream: "main".into(),
            to: folder.join("stick"),
            selection: bundle::Selection::default(),
            audience: bundle::Audience::default(),
            not_after: None,
            notes: String::new(),
            receipts: if side == "delta" { crate::bundle::receipts(&folder) } else { Vec::new() },
            part_size: bundle::PART_SIZE,
            records: folder.join("records"),
            created: crate::bundle::at(crate::bundle::THEN),
        };
        let store = crate::store::open(&folder.join("depot"));
        let made = create(&store, &chain, &signers, &plan, &Progress::silent()).unwrap();
        assert_eq!(made.carried, if side == "delta" { 0 } else { u64::from(shape.blobs()) });
        assert_eq!(made.refs, u64::from(shape.images + shape.charts));
    } else {
        let gateway = gateway(&folder.join("gateway"), Identity::default());
        if side == "inspect" {
            let found = bundle::find_one(&folder.join("stick")).unwrap();
            // As a daemon hands it on.
            let said = serde_json::to_value(gateway.inspect(found.newest(), None).unwrap()).unwrap();
            let sizes = said["sizes"].as_array().unwrap();
            assert_eq!(sizes.len(), (shape.images + shape.charts) as usize);
            assert!(sizes.iter().all(serde_json::Value::is_u64));
        } else if side == "verify" {
            let bundle = folder.join("stick/edge-bundle/main-1");
            gateway.verify(&bundle, None, &Progress::silent()).unwrap();
        } else {
            let imported = import(&gateway, &folder.join("stick")).unwrap();
            assert_eq!(imported.refs, u64::from(shape.images + shape.charts));
        }
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    // A line of its own: the harness has begun one.
    std::io::Write::write_all(
        &mut std::io::stdout(),
        format!("\npeak {}\n", peak.trim().trim_end_matches(" kB")).as_bytes(),
    )
    .unwrap();
}
