//! Imports that are cut off: killed, without a stick, without power. Always the old state or the new one, and the next
//! import goes through.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use edge::bundle::system::Asked;
use edge::bundle::{self, Gateway, Identity, Plan, keys};
use edge::store::{VerifySettings, failpoint};
use edge::sys::progress::Progress;
use edge::trust::SecretKey;

use crate::bundle::{Scene, THEN, at, gateway, import, put_chart, put_image};
use crate::bundle_disk::{Disk, ONE, Step, ext4};

const PLACES: [&str; 10] = [
    "beside-written",
    "receipt",
    "intake-create",
    "intake-sync",
    "intake-synced",
    "blob-rename",
    "blob-renamed",
    "folder-sync",
    "commit",
    "committed",
];

/// A gateway with one bundle of each of two streams in force, and a stick with the next one of the first: under another root,
/// whose bundle key is so new that all numbers and the time begin anew.
fn scene() -> Scene {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"the first layer", "arm64");
    let other = scene.path("other");
    std::fs::create_dir(&other).unwrap();
    let plan = Plan { stream: "other".into(), to: other.clone(), ..scene.plan() };
    scene.create(&Plan { created: at(THEN + 500), ..plan }).unwrap();
    import(&scene.gateway, &other).unwrap();
    scene.make();
    scene.import().unwrap();
    rotate(&scene);
    for n in 0..6_u8 {
        put_image(&scene.depot, "q.io/app", Some(&n.to_string()), &vec![n; 100_000], "arm64");
    }
    put_chart(&scene.depot, "web", "2.0.0", b"the chart");
    scene.create(&Plan { created: at(THEN + 100), ..scene.plan() }).unwrap();
    scene
}

fn rotate(scene: &Scene) {
    let folder = scene.path("keys");
    std::fs::remove_file(folder.join("bundle.key")).unwrap();
    let new = SecretKey::generate().unwrap();
    new.write(&folder.join("bundle-2.key"), None).unwrap();
    let rotation = keys::Rotation { bundle: vec![new.public()], ..keys::Rotation::default() };
    let mut draft = keys::next_root(&keys::read_chain(&folder).unwrap(), &rotation, at(THEN)).unwrap();
    for name in ["root-1", "root-3"] {
        let key = SecretKey::read(&folder.join(format!("{name}.key")), None).unwrap();
        draft.envelope_mut().sign(&key).unwrap();
    }
    std::fs::write(folder.join("2.root.json"), draft.to_bytes()).unwrap();
}

/// What is in force, apart from blobs that nothing names and files on their way.
fn in_force(gateway: &Gateway) -> String {
    let refs: Vec<String> = gateway
        .store
        .refs(None)
        .unwrap()
        .iter()
        .map(|r| format!("{}:{} {} {}", r.repository, r.name, r.digest, r.owner))
        .collect();
    let charts = gateway.store.charts("", None).unwrap().len();
    let trust = ["root-version", "time-floor"].map(|key| gateway.store.trust_value(key).unwrap());
    let seqs = gateway.store.trust_seqs().unwrap();
    let generations = bundle::history(&gateway.store, None).unwrap().len();
    format!("{refs:?} {charts} {trust:?} {seqs:?} {generations}")
}

/// Whatever was cut off: nothing wrong is kept, the state is one of the two, and importing again makes the new one.
fn check(folder: &Path, stick: &Path, old: &str, new: &str, case: &str) -> bool {
    let gateway = gateway(folder, Identity::default());
    let found = in_force(&gateway);
    assert!(found == old || found == new, "{case}: {found}");
    let report = gateway.store.verify(&VerifySettings::default(), |_| true).unwrap();
    assert!(report.damaged.is_empty() && report.missing.is_empty(), "{case}: {report:?}");
    for found in gateway.store.refs(None).unwrap() {
        assert!(
            gateway.store.manifest(&found.repository, &found.name).unwrap().is_some(),
            "{case}: {}",
            found.name
        );
    }
    import(&gateway, stick).unwrap_or_else(|e| panic!("{case}: {e}"));
    assert_eq!(in_force(&gateway), new, "{case}");
    found == new
}

#[test]
fn killed_at_every_place_it_is_the_old_state_or_the_new_one() {
    let scene = scene();
    let (old, new) = both(&scene);
    let mut kills = 0;
    for place in PLACES {
        let mut finished = false;
        for nth in 1..100 {
            let folder = copied(&scene);
            let killed = child(folder.path(), &scene.stick(), &format!("{place} {nth}"), None);
            check(&folder.path().join("gateway"), &scene.stick(), &old, &new, &format!("{place} {nth}"));
            if !killed {
                assert!(nth > 1, "{place} is never passed");
                finished = true;
                break;
            }
            kills += 1;
        }
        assert!(finished, "{place} was passed more often than expected");
    }
    assert!(kills > 25, "only {kills} kills");
}

#[test]
fn killed_at_any_moment_it_is_the_old_state_or_the_new_one() {
    let scene = scene();
    let (old, new) = both(&scene);
    let mut seen = BTreeMap::new();
    for round in 0..24_u64 {
        let folder = copied(&scene);
        // From the start of the process to beyond the usual end of the import.
        let after = Duration::from_micros(2_000 + round * 5_300);
        let killed = child(folder.path(), &scene.stick(), "nowhere 1", Some(after));
        let flipped =
            check(&folder.path().join("gateway"), &scene.stick(), &old, &new, &format!("{after:?}"));
        *seen.entry((killed, flipped)).or_insert(0) += 1;
    }
    assert!(seen.contains_key(&(true, false)), "{seen:?}");
}

/// The states before and after; the gateway of the scene stays at the one before.
fn both(scene: &Scene) -> (String, String) {
    let old = in_force(&scene.gateway);
    let folder = copied(scene);
    let gateway = gateway(&folder.path().join("gateway"), Identity::default());
    import(&gateway, &scene.stick()).unwrap();
    let new = in_force(&gateway);
    let told = |root: u64, floor: i64, seqs: &str| format!("[Some({root}), Some({floor})] [{seqs}]");
    assert!(old.contains(&told(1, THEN + 500, "(\"main\", 1), (\"other\", 1)")), "{old}");
    assert!(new.contains(&told(2, THEN + 100, "(\"main\", 2)")), "{new}");
    (old, new)
}

/// A copy of the scene's gateway, whose database nobody writes to meanwhile.
fn copied(scene: &Scene) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let done = Command::new("cp").arg("-a").arg(scene.path("gateway")).arg(folder.path()).status().unwrap();
    assert!(done.success());
    folder
}

/// Imports in a process of its own; whether it was killed.
fn child(folder: &Path, stick: &Path, kill: &str, after: Option<Duration>) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bundle_faults::child_that_imports", "--ignored", "--nocapture"])
        .env("EDGE_TEST_FOLDER", folder.join("gateway"))
        .env("EDGE_TEST_STICK", stick)
        .env("EDGE_TEST_KILL", kill)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    if let Some(after) = after {
        std::thread::sleep(after);
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert!(status.success() || signal == Some(9), "{kill}: {status}");
    signal == Some(9)
}

#[test]
#[ignore = "run by the tests above, in a process of its own"]
fn child_that_imports() {
    let (Ok(folder), Ok(stick), Ok(kill)) = (
        std::env::var("EDGE_TEST_FOLDER"),
        std::env::var("EDGE_TEST_STICK"),
        std::env::var("EDGE_TEST_KILL"),
    ) else {
        return;
    };
    let (place, nth) = kill.split_once(' ').unwrap();
    let (place, nth): (String, u32) = (place.into(), nth.parse().unwrap());
    let passed = std::sync::atomic::AtomicU32::new(0);
    failpoint::arm(move |at| {
        if at == place && passed.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == nth {
            nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL).unwrap();
            loop {
                std::thread::park();
            }
        }
    });
    let gateway = gateway(Path::new(&folder), Identity::default());
    import(&gateway, Path::new(&stick)).unwrap();
}

#[test]
fn a_pulled_stick_leaves_the_old_state_and_the_next_try_goes_on() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let scene = Scene::new();
    for n in 0..40_u8 {
        put_image(&scene.depot, "q.io/app", Some(&n.to_string()), &vec![n; 300_000], "arm64");
    }
    scene.make();
    let image = std::fs::read(ext4(scene.folder.path(), 64, Some(&scene.stick()))).unwrap();
    let before = in_force(&scene.gateway);
    let mut came = Vec::new();
    for requests in [0, 8, 16, 24, 32] {
        let disk = Disk::new(&scene.path("pulled"), image.clone(), "ro,noload");
        disk.medium.pull_after(requests);
        let error = match bundle::find_one(&disk.path()) {
            Ok(found) => {
                scene.gateway.import(found.newest(), Asked::ByHand, &Progress::silent()).unwrap_err()
            }
            Err(error) => error,
        };
        assert!(
            !error.is_refusal() && error.to_string().contains("still plugged in?"),
            "{requests}: {error}"
        );
        assert_eq!(in_force(&scene.gateway), before, "{requests}");
        came.push(scene.gateway.store.blobs(None, 1000).unwrap().len());
    }
    assert!(came.is_sorted() && came.last() > came.first(), "nothing was kept of the tries: {came:?}");
    let imported = import(&scene.gateway, &scene.stick()).unwrap();
    assert!(imported.blobs < 81, "{imported:?} came again, though {came:?} were here");
}

#[test]
fn without_power_at_any_flush_the_disk_has_the_old_state_or_the_new_one() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let scene = scene();
    let (old, new) = both(&scene);
    let from = scene.path("disk-content");
    std::fs::create_dir(&from).unwrap();
    let copied = Command::new("cp").arg("-a").arg(scene.path("gateway")).arg(&from).status().unwrap();
    assert!(copied.success());
    let image = std::fs::read(ext4(scene.folder.path(), 32, Some(&from))).unwrap();
    let work = scene.path("work");
    let disk = Disk::new(&work, image.clone(), "rw");
    let opened = gateway(&disk.path().join("gateway"), Identity::default());
    import(&opened, &scene.stick()).unwrap();
    assert_eq!(in_force(&opened), new);
    drop(opened);
    let steps = disk.end();
    let flushes = steps.iter().filter(|step| matches!(step, Step::Flush)).count();
    assert!(flushes >= 6, "only {flushes} flushes");
    let mut seen = (0, 0);
    for (case, bytes) in cuts(&image, &steps) {
        let disk = Disk::new(&work, bytes, "rw");
        let new_there = check(&disk.path().join("gateway"), &scene.stick(), &old, &new, &case);
        if new_there {
            seen.1 += 1
        } else {
            seen.0 += 1
        }
        disk.end();
    }
    assert!(seen.0 > 0 && seen.1 > 0, "old and new: {seen:?}");
}

/// The disk at each flush, and with every second of the writes that followed it: a disk may keep what was not flushed
/// in any order.
fn cuts(image: &[u8], steps: &[Step]) -> Vec<(String, Vec<u8>)> {
    let (mut disk, mut cuts, mut flushes) = (image.to_vec(), Vec::new(), 0);
    let write = |disk: &mut Vec<u8>, offset: u64, data: &[u8]| {
        let from = usize::try_from(offset).unwrap();
        disk[from..from + data.len()].copy_from_slice(data);
    };
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Write(offset, data) => write(&mut disk, *offset, data),
            Step::Flush => {
                flushes += 1;
                let mut torn = disk.clone();
                let after = steps[at + 1..].iter().take_while(|step| !matches!(step, Step::Flush));
                for (n, step) in after.enumerate() {
                    if let (Step::Write(offset, data), 1) = (step, n % 2) {
                        write(&mut torn, *offset, data);
                    }
                }
                cuts.push((format!("at flush {flushes}"), disk.clone()));
                cuts.push((format!("torn after flush {flushes}"), torn));
            }
        }
    }
    cuts
}

#[test]
fn two_at_once_take_turns() {
    let scene = scene();
    let stick = scene.stick();
    let gateway: &Gateway = &scene.gateway;
    let generations = std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| import(gateway, &stick).unwrap().generation));
        both.map(|thread| thread.join().unwrap())
    });
    let mut sorted = generations.to_vec();
    sorted.sort();
    assert_eq!(sorted, [None, Some(2)], "one imports, the other finds it done");
}

/// What was verified is what is used: other lists on a stick that were shown once they had been hashed change nothing, and
/// another blob than the one whose length was looked at is refused.
#[test]
fn a_stick_that_answers_differently_the_second_time_is_not_believed() {
    for (what, said) in [("lists", "generation: Some(2)"), ("blobs", "is not what was signed")] {
        let scene = scene();
        let (old, new) = both(&scene);
        let folder = copied(&scene);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "bundle_faults::child_with_a_stick_that_changes", "--ignored", "--nocapture"])
            .env("EDGE_TEST_FOLDER", folder.path().join("gateway"))
            .env("EDGE_TEST_STICK", scene.stick())
            .env("EDGE_TEST_CHANGES", what)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let out = String::from_utf8(child.stdout).unwrap();
        assert!(
            child.status.success() && out.contains("changed once") && out.contains(said),
            "{what}: {out}"
        );
        let gateway = gateway(&folder.path().join("gateway"), Identity::default());
        assert_eq!(in_force(&gateway), if what == "lists" { new } else { old }, "{what}");
        let report = gateway.store.verify(&VerifySettings::default(), |_| true).unwrap();
        assert!(report.damaged.is_empty() && report.missing.is_empty(), "{what}: {report:?}");
    }
}

#[test]
#[ignore = "run by the test above, in a process of its own"]
fn child_with_a_stick_that_changes() {
    let (Ok(folder), Ok(stick), Ok(what)) = (
        std::env::var("EDGE_TEST_FOLDER"),
        std::env::var("EDGE_TEST_STICK"),
        std::env::var("EDGE_TEST_CHANGES"),
    ) else {
        return;
    };
    let stick = Path::new(&stick).to_owned();
    let bundle = stick.join("edge-bundle/main-2");
    let once = std::sync::Once::new();
    // All was judged by then, and the first blob is about to be written.
    failpoint::arm(move |at| {
        if at != "intake-create" {
            return;
        }
        once.call_once(|| {
            let files: Vec<_> = match what.as_str() {
                "lists" => {
                    ["refs.list", "blobs.list", "manifest.dsse"].map(|name| bundle.join(name)).to_vec()
                }
                _ => std::fs::read_dir(bundle.join("blobs/sha256"))
                    .unwrap()
                    .map(|e| e.unwrap().path())
                    .collect(),
            };
            files.iter().for_each(|path| crate::bundle_forge::flip(path));
            println!("changed once");
        });
    });
    let gateway = gateway(Path::new(&folder), Identity::default());
    match import(&gateway, &stick) {
        Ok(imported) => println!("{imported:?}"),
        Err(error) => println!("{error}"),
    }
}
