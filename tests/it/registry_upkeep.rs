//! What the daemon does by itself with what it stores: collects, verifies, and fetches again what was damaged. And archives
//! that come through a pipe.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use edge::sys::digest::Digest;
use serde_json::Value;

use crate::command::{Done, Place};
use crate::registry_clients::layout;
use crate::registry_daemon::{Daemon, OPEN};
use crate::registry_pull::DockerRegistry;

fn upstream(docker: &DockerRegistry) -> String {
    format!("[[registry.upstreams]]\nhost = \"registry.far\"\nurl = \"http://127.0.0.1:{}\"\n", docker.port)
}

fn blob_file(place: &Place, digest: &Digest) -> PathBuf {
    place.path(&format!("state/store/blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_on_loopback_is_pulled_from_in_the_clear() {
    let folder = tempfile::tempdir().unwrap();
    let docker = DockerRegistry::start(folder.path()).await;
    docker.push("team/app", "1", b"a layer").await;
    let name = format!("127.0.0.1:{}/team/app:1", docker.port);
    let work = tokio::task::spawn_blocking(move || {
        let place = Place::new();
        let pulled = place.run(&["image", "pull", &name]).good().out;
        assert!(pulled.starts_with(&format!("pulled {name} sha256:")), "{pulled}");
    });
    work.await.unwrap();
}

/// Damages what lies there, without a change of its length.
fn rot(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[0] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

fn is(file: &Path, digest: &Digest) -> bool {
    std::fs::read(file).is_ok_and(|bytes| Digest::sha256(&bytes) == *digest)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_comes_again_from_its_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let mut docker = DockerRegistry::start(folder.path()).await;
    let (layer, manifest) = docker.push("team/app", "1", b"a layer").await;
    let manifest = Digest::sha256(manifest.as_bytes());
    let place = Place::new();
    place.write("etc/edge.toml", &upstream(&docker));
    let work = tokio::task::spawn_blocking(move || {
        place.run(&["image", "pull", "registry.far/team/app:1"]).good();
        for damaged in [&layer, &manifest] {
            rot(&blob_file(&place, damaged));
        }
        let verified = place.run(&["store", "verify", "-o", "json"]).good();
        let verified: Value = serde_json::from_str(&verified.out).unwrap();
        let mended: Vec<&str> =
            verified["mended"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        assert!(mended.contains(&layer.as_str()) && mended.contains(&manifest.as_str()), "{verified}");
        for mended in [&layer, &manifest] {
            assert!(is(&blob_file(&place, mended), mended));
        }
        // Without the upstream it is said what is missing, and why; with it, the next run brings what this one could not.
        docker.stop();
        rot(&blob_file(&place, &layer));
        let verified = place.run(&["store", "verify", "-o", "json"]);
        assert_eq!(verified.code, 1, "{verified:?}");
        let verified: Value = serde_json::from_str(&verified.out).unwrap();
        assert_eq!(verified["left"][0]["digest"], layer.as_str(), "{verified}");
        (place, layer)
    });
    let (place, layer) = work.await.unwrap();
    let docker = DockerRegistry::start(folder.path()).await;
    place.write("etc/edge.toml", &upstream(&docker));
    tokio::task::spawn_blocking(move || {
        place.run(&["store", "verify"]).good();
        assert!(is(&blob_file(&place, &layer), &layer));
    })
    .await
    .unwrap();
}

/// Names and nicenesses of a process's threads.
fn threads(pid: u32) -> Vec<(String, i32)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
            Some((name.to_owned(), rest.split_whitespace().nth(16)?.parse().ok()?))
        })
        .collect()
}

#[test]
fn verification_by_hand_gives_way_to_everybody() {
    let place = Place::new();
    let layer = Digest::sha256(b"a layer");
    let file = blob_file(&place, &layer);
    let store = edge::store::Store::open(edge::store::Settings::below(&place.path("state"))).unwrap();
    store.add_blob(None, &layer, b"a layer").unwrap();
    drop(store);
    // What is read does not come until somebody writes, which nobody does.
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let child = place.edge(&["store", "verify"]).stderr(Stdio::null()).spawn().unwrap();
    // Killed at the end, also where the test fails.
    let mut verifying = crate::command::Daemon(child);
    let child = &mut verifying.0;
    let until = Instant::now() + Duration::from_secs(20);
    while !threads(child.id()).contains(&("task".to_owned(), 19)) {
        assert!(Instant::now() < until && child.try_wait().unwrap().is_none(), "{:?}", threads(child.id()));
        std::thread::sleep(Duration::from_millis(20));
    }
    let others = threads(child.id()).into_iter().filter(|(name, _)| name != "task");
    assert!(
        others.clone().count() > 1 && others.clone().all(|(_, nice)| nice < 19),
        "{:?}",
        others.collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes four minutes: the shortest interval is one"]
async fn the_daemon_collects_and_verifies_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let docker = DockerRegistry::start(folder.path()).await;
    let (layer, _) = docker.push("team/app", "1", b"a layer").await;
    let rows = upstream(&docker);
    let work = move || {
        let intervals = "collect-interval = \"1m\"\nverify-interval = \"1m\"\nverify-rate = \"1MiB/s\"\n";
        let daemon = Daemon::start(&format!("{intervals}{rows}"));
        let place = &daemon.place;
        place.run(&["image", "pull", "registry.far/team/app:1"]).good();
        // An upload that was given up a month ago, and one of today.
        let uploads = ["8d7f3a52-0c11-4b5e-9a30-0d6f6d1c2b01", "8d7f3a52-0c11-4b5e-9a30-0d6f6d1c2b02"];
        let [old, new] = uploads.map(|name| place.write(&format!("state/store/uploads/{name}"), "half"));
        let month = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
        std::fs::File::options().write(true).open(&old).unwrap().set_modified(month).unwrap();
        rot(&blob_file(place, &layer));
        let until = Instant::now() + Duration::from_secs(150);
        let told = || daemon.log().contains("was damaged, and is fetched again");
        while old.exists() || !told() {
            assert!(Instant::now() < until, "{} {}", old.exists(), daemon.log());
            std::thread::sleep(Duration::from_millis(200));
        }
        assert!(is(&blob_file(place, &layer), &layer));
        assert!(new.exists());
        assert_eq!(daemon.wait_part("store", "good"), "");
        // What no upstream has any more is told where an operator looks.
        drop(docker);
        rot(&blob_file(place, &layer));
        let until = Instant::now() + Duration::from_secs(150);
        loop {
            let status = daemon.status().unwrap_or_default();
            let parts = status["parts"].as_array().cloned().unwrap_or_default();
            let store = parts.iter().find(|part| part["part"] == "store").cloned().unwrap_or_default();
            if store["state"] == "trouble" {
                assert!(store["message"].as_str().unwrap().contains("1 blobs are damaged"), "{store}");
                break;
            }
            assert!(Instant::now() < until, "{status} {}", daemon.log());
            std::thread::sleep(Duration::from_millis(500));
        }
        // A collection that goes well does not say that all is well: one is due by then.
        let until = Instant::now() + Duration::from_secs(65);
        while Instant::now() < until {
            let status = daemon.status().unwrap();
            let parts = status["parts"].as_array().unwrap();
            assert!(
                parts.iter().any(|part| part["part"] == "store" && part["state"] == "trouble"),
                "{status}"
            );
            std::thread::sleep(Duration::from_secs(1));
        }
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}

/// Runs edge with a file as its standard input.
fn piped(place: &Place, arguments: &[&str], input: &Path) -> Done {
    let input = std::fs::File::open(input).unwrap();
    Done::of(place.edge(arguments).stdin(Stdio::from(input)).output().unwrap())
}

#[test]
fn an_archive_comes_through_a_pipe_with_and_without_a_daemon() {
    let mut daemon = Daemon::start(OPEN);
    let source = daemon.place.path("layout");
    layout(&source);
    let tar = daemon.place.path("image.tar");
    let packed =
        std::process::Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&source).arg(".").status();
    assert!(packed.unwrap().success());
    std::process::Command::new("gzip").arg("-k").arg(&tar).status().unwrap();
    for (name, archive) in [("q.io/a:1", "image.tar"), ("q.io/b:1", "image.tar.gz")] {
        let archive = daemon.place.path(archive);
        piped(&daemon.place, &["image", "import", "-", "--name", name], &archive).good();
    }
    daemon.kill();
    let place = &daemon.place;
    piped(place, &["image", "import", "-", "--name", "q.io/c:1"], &tar).good();
    let listed = place.run(&["image", "list"]).good().out;
    for name in ["q.io/a", "q.io/b", "q.io/c"] {
        assert!(listed.contains(name), "{listed}");
    }
    let empty = place.write("empty", "");
    piped(place, &["image", "import", "-"], &empty).bad(2, "standard input is empty");
    let nonsense = place.write("nonsense", &"no archive ".repeat(100));
    piped(place, &["image", "import", "-"], &nonsense).bad(1, "cannot use `standard input`: ");
    let left: Vec<_> = std::fs::read_dir(place.path("state/store/uploads")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_a_verification_by_hand_lost_is_on_the_board() {
    let daemon = Daemon::start(OPEN);
    let place = &daemon.place;
    let source = place.path("layout");
    layout(&source);
    let imported =
        place.run(&["image", "import", &source.display().to_string(), "--name", "registry.nowhere/app:1"]);
    let digest: Digest = imported.good().out.split_whitespace().last().unwrap().parse().unwrap();
    assert_eq!(daemon.wait_part("store", "good"), "");
    rot(&blob_file(place, &digest));
    let verified = place.run(&["store", "verify"]);
    assert_eq!(verified.code, 1, "{verified:?}");
    assert!(verified.out.trim_end().ends_with("; 1 damaged, 1 lost"), "{verified:?}");
    assert!(daemon.wait_part("store", "trouble").contains("1 blobs are damaged"));
    // Brought again, it is whole, and a verification says so.
    place.run(&["image", "import", &source.display().to_string(), "--name", "registry.nowhere/app:1"]).good();
    place.run(&["store", "verify"]).good();
    assert_eq!(daemon.wait_part("store", "good"), "");
}
