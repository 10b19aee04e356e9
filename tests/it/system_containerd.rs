//! What containerd unpacked survives a power cut, with the setting that the appliance gives it: the real containerd, on
//! a disk that writes down what was flushed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use edge::cri::{Runtime, Settings};
use edge::store::{Child, Kind, Store};
use edge::sys::digest::Digest;
use serde_json::json;

use crate::bundle::{IMAGE, put_manifest};
use crate::bundle_disk::{Disk, ONE, Step, ext4};
use crate::registry::{serve, writable};
use crate::support::parts;

/// Of the file in the layer.
const SIZE: usize = 3 << 20;

struct Containerd {
    child: std::process::Child,
    socket: PathBuf,
}

impl Containerd {
    /// With its content on `disk`, as the appliance has it; or, not `syncs`, without its setting.
    async fn start(folder: &Path, disk: &Path, syncs: bool) -> Self {
        let (state, socket) = (folder.join("state"), folder.join("containerd.sock"));
        let config = folder.join("config.toml");
        let mut own: toml::Table =
            include_str!("../../config/appliance/etc/containerd/config.toml").parse().unwrap();
        own.insert("root".into(), disk.join("containerd").display().to_string().into());
        own.insert("state".into(), state.display().to_string().into());
        own.insert("grpc".into(), toml::toml! { address = "" }.into());
        own["grpc"]["address"] = socket.display().to_string().into();
        let cri = own["plugins"]["io.containerd.grpc.v1.cri"].as_table_mut().unwrap();
        // As a container of its own lets it.
        cri.insert("restrict_oom_score_adj".into(), true.into());
        cri.insert("enable_cdi".into(), false.into());
        cri["cni"]["conf_dir"] = folder.join("net.d").display().to_string().into();
        if !syncs {
            cri.insert("image_pull_with_sync_fs".into(), false.into());
        }
        std::fs::write(&config, own.to_string()).unwrap();
        let program = parts::containerd("containerd").unwrap();
        let log = std::fs::File::create(folder.join("containerd.log")).unwrap();
        let child = Command::new(&program)
            .arg("--config")
            .arg(&config)
            .env("PATH", parts::path_beside(&program))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Self { child, socket };
        let begun = Instant::now();
        while containerd.runtime().version().await.is_err() {
            let log = || std::fs::read_to_string(folder.join("containerd.log")).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(30), "{}", log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        containerd
    }

    fn runtime(&self) -> Runtime {
        let endpoint = format!("unix://{}", self.socket.display());
        Runtime::new(&Settings { endpoint, ..Settings::default() }).unwrap()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A layer of one file.
fn layer() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(SIZE as u64);
    header.set_mode(0o755);
    header.set_cksum();
    archive.append_data(&mut header, "bin/program", &content()[..]).unwrap();
    archive.into_inner().unwrap()
}

/// An image of that layer.
fn put_image(store: &Store) {
    let layer = layer();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(&layer)]},
    });
    let blob = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        store.add_blob(Some("app"), &digest, bytes).unwrap();
        Child { digest, size: bytes.len() as u64, kind: Kind::Blob }
    };
    let (config, layer) = (blob(config.to_string().as_bytes()), blob(&layer));
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config.digest, "size": config.size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer.digest, "size": layer.size}],
    });
    put_manifest(store, "app", Some("1"), &manifest.to_string(), IMAGE, vec![config, layer]);
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// What the medium certainly has: everything before the last flush.
fn flushed(mut disk: Vec<u8>, steps: &[Step]) -> Vec<u8> {
    let last = steps.iter().rposition(|step| matches!(step, Step::Flush)).unwrap();
    for step in &steps[..last] {
        if let Step::Write(offset, data) = step {
            let from = usize::try_from(*offset).unwrap();
            disk[from..from + data.len()].copy_from_slice(data);
        }
    }
    disk
}

/// Pulls the image, cuts the power the moment that the pull is done, and boots again: whether containerd has the image,
/// and what it unpacked.
async fn pulled_and_cut(syncs: bool) -> (bool, Option<Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let store = crate::store::open(folder.path());
    put_image(&store);
    drop(store);
    let edge = serve(folder.path(), writable()).await;
    let name = format!("127.0.0.1:{}/app", edge.port);
    let image = std::fs::read(ext4(folder.path(), 64, None)).unwrap();
    let disk = Disk::new(&folder.path().join("work"), image.clone(), "rw,commit=30");
    let containerd = Containerd::start(folder.path(), &disk.path(), syncs).await;
    containerd.runtime().pull(&format!("{name}:1")).await.unwrap();
    let steps = std::mem::take(&mut *disk.medium.steps.lock().unwrap());
    drop(containerd);
    disk.end();
    let left = flushed(image, &steps);

    let disk = Disk::new(&folder.path().join("again"), left, "rw");
    let containerd = Containerd::start(folder.path(), &disk.path(), syncs).await;
    let known = containerd.runtime().image(&format!("{name}:1")).await.unwrap().is_some();
    drop(containerd);
    let snapshots = disk.path().join("containerd/io.containerd.snapshotter.v1.overlayfs/snapshots");
    let found = std::fs::read_dir(snapshots).into_iter().flatten().flatten();
    let program = found.map(|entry| entry.path().join("fs/bin/program")).find(|path| path.exists());
    let unpacked = program.map(|path| std::fs::read(path).unwrap());
    disk.end();
    edge.stop().await;
    (known, unpacked)
}

#[test]
fn what_was_unpacked_survives_a_power_cut_with_the_appliances_setting() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (known, unpacked) = runtime.block_on(pulled_and_cut(true));
    assert!(known, "the image was pulled");
    assert!(unpacked.is_some_and(|bytes| bytes == content()), "and is whole");
    // And this is what it is for: without it containerd knows an image whose files are empty.
    let (known, unpacked) = runtime.block_on(pulled_and_cut(false));
    let unpacked = unpacked.map(|bytes| bytes.len());
    let lost = unpacked.is_none_or(|length| length < SIZE);
    assert!(known && lost, "{known} {unpacked:?}: the setting is not needed any more");
}

/// As `edge system healthy` asks: a runtime whose pods would have no network runs none.
#[tokio::test]
async fn a_runtime_without_a_network_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let network = folder.path().join("net.d/99-edge.conflist");
    std::fs::create_dir(network.parent().unwrap()).unwrap();
    // What a power cut leaves of a copy that nobody synced.
    std::fs::write(&network, "").unwrap();
    let containerd = Containerd::start(folder.path(), folder.path(), true).await;
    let said = containerd.runtime().readiness().await.unwrap().network.unwrap_err();
    assert!(said.contains("NetworkPluginNotReady"), "{said}");
    let ours = "config/appliance/usr/share/edge/cni/99-edge.conflist";
    std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(ours), &network).unwrap();
    let begun = Instant::now();
    while let Err(said) = containerd.runtime().readiness().await.unwrap().network {
        assert!(begun.elapsed() < Duration::from_secs(20), "{said}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
