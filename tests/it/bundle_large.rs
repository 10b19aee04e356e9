//! A bundle of 100,000 blobs: neither making it nor importing it takes more than 30 MB of memory.

use std::process::{Command, Stdio};

use edge::bundle::{self, Identity, create, keys};
use edge::store::{Child, Facts, Kind, NewManifest, Owner, Store};
use edge::sys::digest::Digest;
use edge::sys::progress::Progress;
use serde_json::json;

use crate::bundle::{IMAGE, Scene, gateway, import};

const IMAGES: u32 = 10;
const LAYERS: u32 = 10_000;
/// Resident, in KiB. The bytes of the test binary itself are among them.
const MOST: u64 = 30 * 1024;

#[test]
#[ignore = "takes some minutes: 100,000 blobs are made, carried and imported"]
fn a_hundred_thousand_blobs_need_no_more_memory_than_a_few() {
    let scene = Scene::new();
    fill(&scene.depot);
    let Scene { folder, depot, gateway } = scene;
    drop((depot, gateway));
    let mut used = Vec::new();
    for side in ["create", "import"] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "bundle_large::one_side", "--ignored", "--nocapture"])
            .env("EDGE_TEST_FOLDER", folder.path())
            .env("EDGE_TEST_SIDE", side)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        assert!(child.status.success(), "{side}: {said}{}", String::from_utf8_lossy(&child.stderr));
        let peak = said.lines().find_map(|line| line.strip_prefix("peak ")).unwrap();
        used.push((side, peak.parse::<u64>().unwrap()));
    }
    assert!(used.iter().all(|(_, peak)| *peak <= MOST), "KiB at the most: {used:?}");
    let store = crate::store::open(&folder.path().join("gateway"));
    assert_eq!(store.refs(None).unwrap().len(), IMAGES as usize);
    assert!(
        folder.path().join("stick/edge-bundle/main-1/blobs/sha256/00").is_dir(),
        "too many for one folder"
    );
}

/// Blobs by way of an intake: one by one they would wait for the disk 100,000 times.
fn fill(store: &Store) {
    let config = b"{}".to_vec();
    store.add_blob(None, &Digest::sha256(&config), &config).unwrap();
    for image in 0..IMAGES {
        let intake = store.intake().unwrap();
        let (mut layers, mut batch) = (Vec::new(), Vec::new());
        for layer in 0..LAYERS {
            let bytes = format!("layer {layer} of image {image}").into_bytes();
            let digest = Digest::sha256(&bytes);
            let mut incoming = intake.begin(&digest, bytes.len() as u64).unwrap();
            incoming.write(&bytes).unwrap();
            batch.push(incoming.finish(None).unwrap());
            layers.push((digest, bytes.len() as u64));
        }
        intake.land(batch).unwrap();
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
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn one_side() {
    let (Ok(folder), Ok(side)) = (std::env::var("EDGE_TEST_FOLDER"), std::env::var("EDGE_TEST_SIDE")) else {
        return;
    };
    let folder = std::path::PathBuf::from(folder);
    if side == "create" {
        let chain = keys::read_chain(&folder.join("keys")).unwrap();
        let signers = keys::bundle_keys(&folder.join("keys"), &chain, None).unwrap();
        let plan = bundle::Plan {
            stream: "main".into(),
            to: folder.join("stick"),
            selection: bundle::Selection::default(),
            audience: bundle::Audience::default(),
            not_after: None,
            notes: String::new(),
            receipts: Vec::new(),
            part_size: bundle::PART_SIZE,
            records: folder.join("records"),
            created: crate::bundle::at(crate::bundle::THEN),
        };
        let store = crate::store::open(&folder.join("depot"));
        let made = create(&store, &chain, &signers, &plan, &Progress::silent()).unwrap();
        assert_eq!(made.carried, u64::from(IMAGES * LAYERS + IMAGES + 1));
    } else {
        let gateway = gateway(&folder.join("gateway"), Identity::default());
        import(&gateway, &folder.join("stick")).unwrap();
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
