//! The commands from the depot to the gateway, as a person types them; registries, and sticks that are plugged in.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edge::bundle::{self, Identity, auto};
use edge::registry::Settings;
use serde_json::Value;

use crate::bundle::{Scene, gateway, import, pin, put_chart, put_image};
use crate::bundle_disk::{Loop, Mounted, ONE, ext4, fat32};
use crate::command::{Daemon, Place};
use crate::registry::serve;
use crate::registry_clients::{layout, run, tool};
use crate::registry_pull::DockerRegistry;

#[track_caller]
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

const CONFIG: &str = "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n";

#[test]
fn each_of_two_gateways_takes_its_own_bundle_of_one_stream_from_a_stick() {
    let two = Two::new();
    for (name, gateway) in [("seven", "ship-7"), ("eight", "ship-8")] {
        let file = two.depot.write(name, name).display().to_string();
        two.create(&["--file", &file, "--for", gateway]);
    }
    let other = "`main-2` is newer, and left: it is for gateway `ship-8`, and this is gateway `ship-7`\n";
    let shown = two.gateway.run(&["bundle", "inspect", &two.stick]).good();
    assert!(shown.out.contains("+       5 B  file seven") && shown.err.contains(other), "{shown:?}");
    let done = two.gateway.run(&["bundle", "import", &two.stick]).good();
    assert!(
        done.out.starts_with("main-1 is in force as generation 1") && done.err.contains(other),
        "{done:?}"
    );
    // A newer one of its own that is spoiled: the older one does not stand in for it.
    let file = two.depot.write("nine", "nine").display().to_string();
    let made = two.create(&["--file", &file, "--for", "ship-7"]);
    let folder = Path::new(made["folder"].as_str().unwrap());
    let manifest = std::fs::read(folder.join("manifest.dsse")).unwrap();
    std::fs::write(folder.join("manifest.dsse"), &manifest[..manifest.len() - 9]).unwrap();
    two.gateway.run(&["bundle", "import", &two.stick]).bad(3, "manifest.dsse");
    std::fs::remove_dir_all(folder).unwrap();
    // Nothing for it at all.
    std::fs::remove_dir_all(Path::new(&two.stick).join("edge-bundle/main-1")).unwrap();
    two.gateway.run(&["bundle", "import", &two.stick]).bad(3, "the bundle is for gateway `ship-8`");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Depot and gateway, each with a place of its own, and a stick between them.
pub struct Two {
    pub depot: Place,
    pub gateway: Place,
    pub stick: String,
}

impl Two {
    pub fn new() -> Self {
        let (depot, gateway) = (Place::new(), Place::new());
        gateway
            .write("etc/edge.toml", &format!("{CONFIG}[bundle]\ngateway = \"ship-7\"\nfleet = \"north\"\n"));
        depot.write("etc/edge.toml", CONFIG);
        let stick = depot.path("stick");
        std::fs::create_dir(&stick).unwrap();
        depot.run(&["bundle", "keygen", "--out", "KEYS"]).good();
        let root = depot.path("KEYS/1.root.json").display().to_string();
        gateway.run(&["trust", "pin", &root]).good();
        Self { depot, gateway, stick: stick.display().to_string() }
    }

    pub fn create(&self, more: &[&str]) -> Value {
        let arguments =
            ["bundle", "create", "--stream", "main", "--keys", "KEYS", "--to", &self.stick, "-o", "json"];
        json(&self.depot.run(&[&arguments, more].concat()).good().out)
    }

    pub fn import(&self) -> Value {
        json(&self.gateway.run(&["bundle", "import", &self.stick, "-o", "json"]).good().out)
    }
}

#[test]
fn what_names_nobody_or_is_not_there_makes_no_bundle() {
    let two = Two::new();
    let file = two.depot.write("file", "file").display().to_string();
    let create =
        ["bundle", "create", "--stream", "main", "--keys", "KEYS", "--to", &two.stick, "--file", &file];
    let refused = |more: &[&str], why: &str| {
        two.depot.run(&[&create, more].concat()).bad(2, why);
        assert_eq!(std::fs::read_dir(&two.stick).unwrap().count(), 0, "{more:?}");
    };
    refused(&["--for", "Ship 7"], "`--for Ship 7` names nobody");
    refused(&["--fleet", "No Such!"], "`--fleet No Such!` names nobody");
    let nowhere = two.depot.path("nowhere").display().to_string();
    refused(&["--receipts", &nowhere], "nowhere` is no folder, and the bundle would be full");
    let made = two.depot.run(&[&create[..], &["--receipts", &two.stick]].concat()).good();
    assert!(made.out.contains("/edge-bundle/main-1: full, 1 refs, 3 blobs of 3 carried, "), "{made:?}");
    assert!(made.out.ends_with("\nread back; safe to remove\n"), "{made:?}");
    let said: Vec<&str> =
        made.err.lines().filter_map(|line| line.split_once(": ")).map(|(what, _)| what).collect();
    assert_eq!(said, ["copy to the stick", "read back"], "{made:?}");
}

#[test]
fn a_depot_looks_at_what_it_made_by_its_own_root() {
    let two = Two::new();
    let file = |name: &str| two.depot.write(name, name).display().to_string();
    let (one, other) = (file("one"), file("other"));
    two.create(&["--file", &one, "--for", "ship-8"]);
    let inspect = |place: &Place, more: &[&str]| {
        place.run(&[&["bundle", "inspect", &two.stick], more].concat()).good().out
    };
    let shown = inspect(&two.depot, &["--root", "KEYS/1.root.json"]);
    assert!(shown.contains("Signatures  hold, by root version 1\n"), "{shown}");
    assert!(shown.contains("ship-8") && shown.ends_with("          3 B  file one\n"), "{shown}");
    assert!(!shown.contains("claimed") && !shown.contains("Import"), "{shown}");
    assert!(inspect(&two.depot, &[]).contains("NOT VERIFIED: no root is pinned"));
    // Another depot's root: nothing of it is believed.
    two.depot.run(&["bundle", "keygen", "--out", "THEIRS"]).good();
    let theirs = two.depot.run(&["bundle", "inspect", &two.stick, "--root", "THEIRS/1.root.json"]);
    assert!(theirs.code == 3 && theirs.out.contains("NOT VERIFIED"), "{theirs:?}");
    // A gateway that it is not for is told what it holds all the same.
    let shown = inspect(&two.gateway, &[]);
    assert!(shown.contains("refused: the bundle is for gateway `ship-8`"), "{shown}");
    assert!(shown.ends_with("          3 B  file one\n"), "{shown}");
    // And what stays is among what is listed.
    two.create(&["--file", &one]);
    two.import();
    two.create(&["--file", &one, "--file", &other]);
    let shown = inspect(&two.gateway, &[]);
    assert!(shown.ends_with("          3 B  file one\n  +       5 B  file other\n"), "{shown}");
}

#[test]
fn from_depot_to_gateway_with_the_daemon_and_without() {
    let two = Two::new();
    let snap = two.depot.write("edge_2.snap", "not really one");
    let notes = two.depot.write("notes.txt", &"for the crew ".repeat(100));
    let (snap, notes) = (snap.display().to_string(), notes.display().to_string());
    let made =
        two.create(&["--file", &snap, "--notes", "spring", "--for", "ship-7", "--not-after", "2999-12-31"]);
    assert_eq!((&made["seq"], &made["carried"]), (&1.into(), &3.into()));
    let shown = two.gateway.run(&["bundle", "inspect", &two.stick]).good().out;
    for word in [
        "Signatures  hold",
        "would bring 3 blobs",
        "+      14 B  file edge_2.snap",
        "spring",
        "For         ship-7",
    ] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    two.gateway.run(&["bundle", "verify", &two.stick]).good();
    assert_eq!(two.import()["generation"], 1);
    assert_eq!(two.import()["generation"], Value::Null);
    let again = two.gateway.run(&["bundle", "import", &two.stick]).good().out;
    assert_eq!(again.lines().next(), Some("main-1: it is in force already; nothing changed"));

    // The depot learns of the gateway; the next bundle carries only what is new. Now the daemon does it.
    let receipt = format!("{}/edge-receipts/ship-7.main.dsse", two.stick);
    let enrolled = two.depot.run(&["trust", "enrol", &receipt]).good().out;
    assert!(enrolled.contains("gateway `ship-7` is enrolled"), "{enrolled}");
    let _depot = Daemon::start(&two.depot);
    let _gateway = Daemon::start(&two.gateway);
    let made = two.create(&["--file", &snap, "--file", &notes, "--for", "ship-7"]);
    assert_eq!((&made["seq"], &made["carried"], &made["blobs"]), (&2.into(), &2.into(), &5.into()));
    assert_eq!(two.import()["generation"], 2);
    let history = json(&two.gateway.run(&["bundle", "history", "-o", "json"]).good().out);
    assert_eq!((&history[0]["seq"], &history[0]["current"]), (&2.into(), &true.into()));
    let rolled = two.gateway.run(&["bundle", "rollback"]).good().out;
    assert!(rolled.contains("generation 1 of stream `main` is in force again: main-1"), "{rolled}");
    two.gateway
        .run(&["bundle", "rollback", "--to", "9"])
        .bad(1, "stream `main` has no generation 9 hint: it has 2, 1;");
    two.gateway.run(&["bundle", "rollback", "spare"]).bad(1, "there is no stream `spare`");
    two.gateway.run(&["bundle", "rollback"]).bad(1, "has no earlier generation");
    // Refused through the daemon is 3 too.
    std::fs::write(Path::new(&two.stick).join("edge-bundle/main-2/manifest.dsse"), "{}").unwrap();
    two.gateway.run(&["bundle", "import", &two.stick]).bad(3, "`manifest.dsse` cannot be read");
    let full = two.create(&["--file", &snap, "--full"]);
    assert_eq!(full["carried"], 3);
}

#[test]
fn a_ceremony_on_several_machines() {
    let two = Two::new();
    two.depot.write("phrase", "a long passphrase\n");
    two.depot
        .run(&["bundle", "keygen", "--out", "KEYS", "--root-keys", "1", "--threshold", "1"])
        .bad(1, "is there already");
    two.depot.run(&["bundle", "keygen", "--out", "NEW", "--passphrase-file", "phrase"]).good();
    let rotate = ["trust", "rotate", "--keys", "KEYS", "--bundle-key", "NEW/bundle.pub"];
    let said = two.depot.run(&rotate).good().out;
    assert!(said.contains("by 0 of the 2 needed keys of version 1: NOT ENOUGH"), "{said}");
    two.depot.run(&rotate).bad(2, "is there already");
    two.depot
        .run(&["trust", "sign", "KEYS/2.root.json", "--key", "NEW/root-1.key"])
        .bad(1, "needs a passphrase");
    let foreign =
        ["trust", "sign", "KEYS/2.root.json", "--key", "NEW/root-1.key", "--passphrase-file", "phrase"];
    two.depot.run(&foreign).bad(2, "is no root key");
    two.depot.run(&["trust", "sign", "KEYS/2.root.json", "--key", "KEYS/root-1.key"]).good();
    let said = two.depot.run(&["trust", "sign", "KEYS/2.root.json", "--key", "KEYS/root-3.key"]).good().out;
    assert!(said.contains("by 2 of the 2 needed keys of version 1: enough"), "{said}");
    std::fs::remove_file(two.depot.path("KEYS/bundle.key")).unwrap();
    std::fs::copy(two.depot.path("NEW/bundle.key"), two.depot.path("KEYS/bundle.key")).unwrap();
    let file = two.depot.write("x.txt", "x").display().to_string();
    two.create(&["--file", &file, "--passphrase-file", "phrase"]);
    assert_eq!(two.import()["seq"], 1);
    let shown = two.gateway.run(&["trust", "show"]).good().out;
    assert!(shown.contains("Root        version 2"), "{shown}");
}

#[test]
fn a_wrong_command_is_2_and_says_what_would_be_right() {
    let two = Two::new();
    two.gateway.run(&["bundle", "import", "/nowhere"]).bad(1, "`/nowhere` holds no bundle");
    let stick = &two.stick;
    two.depot
        .run(&["bundle", "create", "--stream", "Main", "--keys", "KEYS", "--to", stick])
        .bad(2, "cannot name a stream");
    two.depot
        .run(&["bundle", "create", "--stream", "main", "--keys", "KEYS", "--to", stick])
        .bad(2, "nothing in the store");
    two.depot.run(&["bundle", "create", "--stream", "main", "--keys", "none", "--to", stick]).bad(1, "none");
    two.gateway.run(&["bundle", "rollback"]).bad(2, "no bundle was imported yet");
    let none = two.gateway.run(&["bundle", "history"]).good();
    assert_eq!((none.out.as_str(), none.err.trim()), ("", "no bundles"));
    two.gateway.write("etc/edge.toml", "[bundle]\ngateway = \"Ship 7\"\n");
    two.gateway.run(&["bundle", "history"]).bad(2, "key `bundle.gateway` is `Ship 7`");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_import_images_are_pulled_and_charts_too_and_others_read_the_stick() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("layout");
    layout(&source);
    let chart = folder.path().join("web");
    std::fs::create_dir(&chart).unwrap();
    std::fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: web\nversion: 1.2.3\n").unwrap();
    let helm = tool("helm");
    let shown = |path: &Path| path.display().to_string();
    run(&helm, &["package", &shown(&chart), "-d", &shown(folder.path())]).await;

    // At the depot, through its registry.
    let scene = Scene::new();
    let Scene { folder: kept, depot, gateway: receiver } = scene;
    drop(depot);
    let edge = serve(&kept.path().join("depot"), crate::registry::writable()).await;
    let pushed = format!("docker://127.0.0.1:{}/my/app:1", edge.port);
    run("skopeo", &["copy", "--dest-tls-verify=false", &format!("oci:{}", shown(&source)), &pushed]).await;
    let package = std::fs::read(folder.path().join("web-1.2.3.tgz")).unwrap();
    let posted = edge.send(reqwest::Method::POST, "/api/charts", &[], &package).await;
    assert_eq!(posted.status(), 201);
    edge.stop().await;
    let scene =
        Scene { depot: crate::store::open(&kept.path().join("depot")), folder: kept, gateway: receiver };
    let made = scene.make();

    // Another tool reads the same folder.
    let out = folder.path().join("copied");
    let from = format!("oci:{}:my/app:1", shown(&made.folder));
    run("skopeo", &["copy", &from, &format!("dir:{}", shown(&out))]).await;
    assert!(out.join("manifest.json").exists());

    // Through a registry that knows nothing of edge, and into the gateway.
    let peer = DockerRegistry::start(folder.path()).await;
    let reference = format!("oci://127.0.0.1:{}/bundles/main:latest", peer.port);
    let place = Place { folder: tempfile::tempdir().unwrap() };
    place.write("etc/edge.toml", "");
    let pulled = place.path("pulled");
    let stick = scene.stick();
    let (place, pulled) = tokio::task::spawn_blocking(move || {
        place.run(&["bundle", "push", &shown(&stick), &reference]).good();
        let done = place.run(&["bundle", "pull", &reference, "--to", &shown(&pulled)]).good();
        assert!(done.out.contains("edge-bundle/main-1"), "{done:?}");
        // What lies there with its length and another content comes again; what is right stays.
        let folder = pulled.join("edge-bundle/main-1");
        let blobs = std::fs::read_dir(folder.join("blobs/sha256")).unwrap().flatten();
        let mut blobs: Vec<PathBuf> = blobs.map(|entry| entry.path()).collect();
        blobs.sort();
        let node = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
        let (spoiled, kept) = ([blobs[0].clone(), folder.join("refs.list")], blobs[1].clone());
        let before = (spoiled.each_ref().map(|path| std::fs::read(path).unwrap()), node(&kept));
        spoiled.iter().for_each(|path| crate::bundle_forge::flip(path));
        place.run(&["bundle", "pull", &reference, "--to", &shown(&pulled)]).good();
        assert_eq!((spoiled.each_ref().map(|path| std::fs::read(path).unwrap()), node(&kept)), before);
        (place, pulled)
    })
    .await
    .unwrap();
    let Scene { folder: kept, depot: _depot, gateway: receiver } = scene;
    import(&receiver, &pulled).unwrap();
    drop((receiver, place));

    // What was imported is pulled as it is.
    let settings = Settings { pull_through: false, ..Settings::default() };
    let edge = serve(&kept.path().join("gateway"), settings).await;
    let at = format!("127.0.0.1:{}", edge.port);
    let to = format!("dir:{}", folder.path().join("arrived").display());
    run("skopeo", &["copy", "--src-tls-verify=false", &format!("docker://{at}/my/app:1"), &to]).await;
    let into = folder.path().join("charts");
    std::fs::create_dir(&into).unwrap();
    let into = into.display().to_string();
    run(&helm, &["pull", "web", "--repo", &format!("http://{at}"), "--version", "1.2.3", "-d", &into]).await;
    assert_eq!(std::fs::read(Path::new(&into).join("web-1.2.3.tgz")).unwrap(), package);
    edge.stop().await;
}

/// A stick with a bundle of the scene on it, as a real file system on a loop device: FAT32 where the kernel knows it.
fn stick(scene: &Scene, folder: &Path) -> Loop {
    match knows_fat() {
        true => Loop::over(&fat32(folder, 64, &scene.stick()), &[]),
        false => Loop::over(&ext4(folder, 32, Some(&scene.stick())), &[]),
    }
}

fn knows_fat() -> bool {
    std::fs::read_to_string("/proc/filesystems").unwrap().lines().any(|line| line.trim() == "vfat")
}

#[test]
fn what_is_on_a_stick_fits_fat32() {
    let scene = Scene::new();
    let layer: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    put_image(&scene.depot, "q.io/app", Some("1"), &layer, "arm64");
    let note = scene.path("Notes_for_the_crew.txt");
    std::fs::write(&note, "x").unwrap();
    let mut plan = scene.plan();
    (plan.part_size, plan.selection.files) = (1 << 16, vec![note.into()]);
    plan.selection.images = vec!["q.io/app:1".into()];
    scene.create(&plan).unwrap();
    let image = fat32(scene.folder.path(), 64, &scene.stick()).display().to_string();
    let back = scene.path("back");
    std::fs::create_dir(&back).unwrap();
    crate::bundle_disk::run("mcopy", &["-s", "-i", &image, "::/edge-bundle", &back.display().to_string()]);
    assert_eq!(import(&scene.gateway, &back).unwrap().blobs, 6);
}

fn receipts(device: &Path, at: &Path) -> Vec<PathBuf> {
    let mounted = Mounted::new(device, at, if knows_fat() { "ro" } else { "ro,noload" });
    let mut found: Vec<PathBuf> = std::fs::read_dir(mounted.0.join("edge-receipts"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

#[test]
fn a_stick_that_nobody_mounts_is_mounted_imported_and_let_go() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    scene.make();
    let device = stick(&scene, scene.folder.path());
    let place = auto::Place::Device(device.0.clone(), "1".into());
    let me = Identity { gateway: Some("ship-7".into()), fleet: None };
    // A gateway of another root leaves it alone: not a byte is written.
    let stranger = gateway(&scene.path("stranger"), me.clone());
    assert_eq!(auto::take(&stranger, &place).unwrap(), auto::Outcome::NotOurs);
    crate::bundle::make_keys(&scene.path("theirs"), 1, 1);
    pin(&stranger, &scene.path("theirs/1.root.json"));
    assert_eq!(auto::take(&stranger, &place).unwrap(), auto::Outcome::NotOurs);
    assert!(receipts(&device.0, &scene.path("look")).is_empty());
    let ours = gateway(&scene.path("ours"), me);
    pin(&ours, &scene.path("keys/1.root.json"));
    let outcome = auto::take(&ours, &place).unwrap();
    assert!(
        matches!(&outcome, auto::Outcome::Imported(line) if line.contains("main-1 is in force")),
        "{outcome:?}"
    );
    assert!(ours.store.manifest("q.io/app", "1").unwrap().is_some());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&device.0.display().to_string()), "it is still mounted");
    let written = receipts(&device.0, &scene.path("look"));
    let names: Vec<_> = written.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, ["ship-7.main.dsse", "ship-7.main.have", "ship-7.txt"]);
    assert_eq!(auto::take(&ours, &place).unwrap(), auto::Outcome::Known);
    // Plugged in once more, it brings what was damaged since.
    crate::bundle_repair::lose(&ours, &[&edge::sys::digest::Digest::sha256(b"a layer")]);
    let outcome = auto::take(&ours, &place).unwrap();
    assert_eq!(outcome, auto::Outcome::Imported("main-1 was in force; 1 damaged blobs were repaired".into()));
}

#[test]
fn a_stick_that_is_plugged_in_is_imported_by_the_daemon_and_shown() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    put_chart(&scene.depot, "web", "1.0.0", b"chart");
    let made = scene.make();
    let place = Place::new();
    let media = place.path("media");
    std::fs::create_dir(&media).unwrap();
    let config = format!(
        "{CONFIG}[bundle]\ngateway = \"ship-7\"\nauto-import = true\nmedia-dirs = [\"{}\"]\n",
        media.display()
    );
    place.write("etc/edge.toml", &config);
    let daemon = Daemon::start(&place);
    let health = || {
        let status = json(&place.run(&["status", "-o", "json"]).good().out);
        let parts = status["parts"].as_array().unwrap().clone();
        parts.into_iter().find(|part| part["part"] == "bundle").unwrap()
    };
    wait("a missing root is not told of", || {
        health()["message"].as_str().unwrap().contains("no root is pinned hint: `edge trust pin")
    });
    assert_eq!(health()["state"], "trouble");
    place.run(&["trust", "pin", &scene.path("keys/1.root.json").display().to_string()]).good();
    // Mounted read only by somebody; written to for the receipt alone, and read only again after it.
    let device = stick(&scene, scene.folder.path());
    // The snap is not refreshed while it is imported, which waits for the store.
    let store = rusqlite::Connection::open(place.path("state/store/store.db")).unwrap();
    store.execute_batch("BEGIN IMMEDIATE").unwrap();
    let plugged = Mounted::new(&device.0, &media.join("stick"), "ro,nodev,nosuid,noexec");
    wait("the import is not at work", || place.busy() == ["bundle.auto-import"]);
    store.execute_batch("ROLLBACK").unwrap();
    wait("the import is at work for ever", || place.busy().is_empty());
    wait("the stick is not imported", || {
        health()["message"].as_str().unwrap().contains("main-1 is in force, 2 refs")
    });
    assert_eq!(health()["state"], "good");
    let history = json(&place.run(&["bundle", "history", "-o", "json"]).good().out);
    assert_eq!(history[0]["seq"], 1);
    assert!(plugged.0.join("edge-receipts/ship-7.main.dsse").exists());
    let said = std::fs::read_to_string(plugged.0.join("edge-receipts/ship-7.txt")).unwrap();
    assert!(said.contains("main-1 is in force"), "{said}");
    assert!(std::fs::write(plugged.0.join("x"), "x").is_err(), "it stays writable");
    drop(plugged);

    // One that was tampered with.
    std::fs::write(made.folder.join("refs.list"), "x").unwrap();
    std::fs::rename(&made.folder, made.folder.with_file_name("main-9")).unwrap();
    let bad = stick(&scene, place.folder.path());
    let plugged = Mounted::new(&bad.0, &media.join("bad"), "ro");
    wait("the bad stick is not told of", || health()["state"] == "trouble");
    let told = health()["message"].as_str().unwrap().to_owned();
    assert!(told.contains("refs.list"), "{told}");
    let said = std::fs::read_to_string(plugged.0.join("edge-receipts/ship-7.txt")).unwrap();
    assert!(said.contains("refs.list"), "{said}");
    drop((plugged, daemon));
    assert!(bundle::find(&media.join("stick")).is_err());
}

/// On a terminal an import tells while it lasts how far it is and how long it will take.
#[test]
fn an_import_shows_on_a_terminal_how_far_it_is_and_the_time_left() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let scene = Scene::new();
    let layer: Vec<u8> = (0..6_u32 << 20).flat_map(u32::to_le_bytes).collect();
    put_image(&scene.depot, "q.io/app", Some("1"), &layer, "arm64");
    scene.make();
    let image = std::fs::read(ext4(scene.folder.path(), 64, Some(&scene.stick()))).unwrap();
    let disk = crate::bundle_disk::Disk::new(&scene.path("slow"), image, "ro");
    let place = Place::new();
    place.run(&["trust", "pin", &scene.path("keys/1.root.json").display().to_string()]).good();
    disk.medium.slow.store(25, std::sync::atomic::Ordering::SeqCst);
    let edge = place.edge(&[]);
    // As wide as a terminal usually is.
    let words = format!(
        "stty cols 80 rows 24 <&1; '{}' bundle import '{}'",
        edge.get_program().display(),
        disk.path().display()
    );
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &words, "/dev/null"]).stdin(std::process::Stdio::null());
    for (name, value) in edge.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let done = crate::command::Done::of(command.env("TERM", "xterm").output().unwrap()).good();
    // `12.00 MiB/24.00 MiB 6.0 MiB/s 2s`: what came, of how much, how fast, and how long yet.
    let shows = |line: &str| {
        let Some((_, amounts)) = line.split_once("MiB/24.00 MiB ") else { return false };
        let left = amounts.split_whitespace().nth(2).and_then(|left| left.strip_suffix('s'));
        line.contains("import main")
            && left.is_some_and(|left| left.parse::<u32>().is_ok_and(|left| left > 0))
    };
    let plain = done.out.replace('\u{1b}', "\n\u{1b}");
    assert!(plain.split(['\r', '\n']).any(shows), "{done:?}");
    assert!(done.out.contains("import main: 24 MiB") && done.out.contains("main-1 is in force"), "{done:?}");
}
