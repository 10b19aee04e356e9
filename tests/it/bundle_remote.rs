//! `edge bundle push` and `pull` by what is configured of registries, and over links that break.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use edge::bundle::PAYLOAD_TYPE;
use edge::trust::SecretKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::bundle::{Scene, THEN, at as at_second, import, make_keys, put_image};
use crate::bundle_disk::{Mounted, run};
use crate::bundle_forge::Attack;
use crate::command::{Done, Place};
use crate::mirror::noise;
use crate::registry_pull::DockerRegistry;
use crate::support::Authority;

/// Bytes of an answer after which the link breaks.
const CUT: u64 = 400 << 10;

fn shown(path: &Path) -> String {
    path.display().to_string()
}

async fn edge(place: &Arc<Place>, arguments: &[&str]) -> Done {
    let (place, arguments) = (place.clone(), arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
    let run = move || place.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// A way to a port that breaks each connection after [`CUT`] bytes have come back; counts connections and bytes.
async fn breaking(to: u16) -> (u16, Arc<[AtomicU64; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let counted = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let seen = counted.clone();
            seen[0].fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                let ((mut asks, mut gets), (mut answers, mut asked)) = (near.split(), far.split());
                let back = async {
                    let mut left = CUT;
                    let mut piece = vec![0; 16 << 10];
                    while left > 0 {
                        let most = piece.len().min(usize::try_from(left).unwrap());
                        let Ok(read @ 1..) = answers.read(&mut piece[..most]).await else { return };
                        seen[1].fetch_add(read as u64, Ordering::Relaxed);
                        left -= read as u64;
                        if gets.write_all(&piece[..read]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = back => {}
                    _ = tokio::io::copy(&mut asks, &mut asked) => {}
                }
            });
        }
    });
    (port, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_where_the_link_broke() {
    let scene = Scene::new();
    let layer = noise(7, 3 << 20);
    put_image(&scene.depot, "team/app", Some("1"), &layer, "amd64");
    scene.make();
    let folder = tempfile::tempdir().unwrap();
    let peer = DockerRegistry::start(folder.path()).await;
    let place = Arc::new(Place::new());
    let to = format!("oci://127.0.0.1:{}/bundles/main", peer.port);
    edge(&place, &["bundle", "push", &shown(&scene.stick()), &to]).await.good();

    let (port, seen) = breaking(peer.port).await;
    let from = format!("oci://127.0.0.1:{port}/bundles/main");
    let pulled = place.path("pulled");
    edge(&place, &["bundle", "pull", &from, "--to", &shown(&pulled)]).await.good();
    let [connections, bytes] = seen.each_ref().map(|count| count.load(Ordering::Relaxed));
    assert!(connections > 7, "the link broke {connections} times");
    assert!(bytes < (layer.len() + layer.len() / 2) as u64, "{bytes} bytes came for {}", layer.len());
    import(&scene.gateway, &pulled).unwrap();

    // What an earlier pull left of a file is gone on with, or, where it was spoiled, not.
    let blobs = pulled.join("edge-bundle/main-1/blobs/sha256");
    let blob = std::fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path());
    let blob = blob.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let part = shown(&blob) + ".part";
    for (left, most) in [(layer[..layer.len() - 1000].to_vec(), 300 << 10), (noise(8, 1 << 20), u64::MAX)] {
        std::fs::remove_file(&blob).unwrap();
        std::fs::write(&part, left).unwrap();
        seen[1].store(0, Ordering::Relaxed);
        edge(&place, &["bundle", "pull", &from, "--to", &shown(&pulled)]).await.good();
        let bytes = seen[1].load(Ordering::Relaxed);
        assert!(bytes < most, "{bytes} bytes came for 1000");
        assert_eq!(std::fs::read(&blob).unwrap(), layer);
        assert!(!Path::new(&part).exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_are_reached_as_they_are_configured() {
    let scene = Scene::new();
    put_image(&scene.depot, "team/app", Some("1"), b"layer", "amd64");
    scene.make();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("far").unwrap();
    std::fs::write(folder.path().join("htpasswd"), format!("ann:{}\n", bcrypt::hash("secret", 4).unwrap()))
        .unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: far, path: {}/htpasswd}}}}\n", folder.path().display());
    let peer = DockerRegistry::start_secure(folder.path(), &authority, &auth).await;
    let place = Arc::new(Place::new());
    let ca = place.write("ca.crt", authority.certificate());
    let docker = place.secret("docker.json", r#"{"auths":{"registry.far":{"auth":"YW5uOnNlY3JldA=="}}}"#);
    let (to, stick) = ("oci://registry.far/bundles/main", shown(&scene.stick()));
    let row = format!(
        "[[registry.upstreams]]\nhost = \"registry.far\"\nurl = \"https://127.0.0.1:{}\"\n",
        peer.port
    );
    let (known, trusted) = (
        format!("docker-config = \"{}\"\n", docker.display()),
        format!("authorities = [\"{}\"]\n", ca.display()),
    );
    for (keys, why) in [(&known, "certificate"), (&trusted, "is refused")] {
        place.write("etc/edge.toml", &format!("[registry]\n{keys}{row}"));
        let refused = edge(&place, &["bundle", "push", &stick, to]).await;
        assert!(refused.code == 1 && refused.err.contains(why), "{refused:?}");
    }
    // A file that is given goes before the one that is configured, and serves alone.
    let given = ["bundle", "push", &stick, to, "--docker-config", &shown(&docker)];
    edge(&place, &given).await.good();
    place.write("etc/edge.toml", &format!("[registry]\n{known}{trusted}{row}"));
    edge(&place, &["bundle", "push", &stick, to]).await.good();
    let pulled = shown(&place.path("pulled"));
    edge(&place, &["bundle", "pull", to, "--to", &pulled]).await.good();
    import(&scene.gateway, Path::new(&pulled)).unwrap();
    std::fs::set_permissions(&docker, PermissionsExt::from_mode(0o644)).unwrap();
    edge(&place, &["bundle", "pull", to, "--to", &pulled]).await.bad(2, "holds secrets");
}

/// Else whoever answers in the registry's place fills the disk of a machine that believes nobody like them.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_that_would_be_refused_or_has_no_room() {
    let scene = Scene::new();
    put_image(&scene.depot, "team/app", Some("1"), &noise(7, 3 << 20), "amd64");
    scene.make();
    let folder = tempfile::tempdir().unwrap();
    let peer = DockerRegistry::start(folder.path()).await;
    let (place, other) = (Arc::new(Place::new()), Arc::new(Place::new()));
    let at = format!("oci://127.0.0.1:{}/bundles/main", peer.port);
    edge(&place, &["bundle", "push", &shown(&scene.stick()), &at]).await.good();

    make_keys(&other.path("keys"), 3, 2);
    for (place, keys) in [(&place, scene.path("keys")), (&other, other.path("keys"))] {
        edge(place, &["trust", "pin", &shown(&keys.join("1.root.json"))]).await.good();
    }
    let to = other.path("pulled");
    edge(&other, &["bundle", "pull", &at, "--to", &shown(&to)]).await.bad(3, "`trust/1.root.json`");
    assert!(!to.exists());

    let small = place.path("small");
    std::fs::create_dir(&small).unwrap();
    let _mounted = Mounted(small.clone());
    run("mount", &["-t", "tmpfs", "-o", "size=1m", "none", &shown(&small)]);
    let pull = ["bundle", "pull", &at, "--to", &shown(&small)];
    edge(&place, &pull).await.bad(1, &format!("`{}` has ", shown(&small)));
    assert!(!small.join("edge-bundle/main-1/blobs").exists());
    // What is there already takes no room a second time.
    run("mount", &["-o", "remount,size=4m", &shown(&small)]);
    for _ in 0..2 {
        edge(&place, &pull).await.good();
    }
    import(&scene.gateway, &small).unwrap();
}

/// `store.db` breaks and is removed, is made anew by a command that asks nothing of bundles, or is put back from a backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_lost_or_put_back_fetches_nothing_that_was_superseded() {
    let attack = Attack::new();
    let scene = &attack.scene;
    let folder = tempfile::tempdir().unwrap();
    let peer = DockerRegistry::start(folder.path()).await;
    let at = |name: &str| format!("oci://127.0.0.1:{}/bundles/{name}", peer.port);
    let (place, stick) = (Arc::new(Place::new()), shown(&scene.stick()));
    edge(&place, &["trust", "pin", &shown(&scene.path("keys/1.root.json"))]).await.good();
    edge(&place, &["bundle", "import", &stick]).await.good();
    edge(&place, &["bundle", "push", &stick, &at("stolen")]).await.good();
    let (store, seen) = (place.path("state/store"), place.path("state/trust/seen.json"));
    let backup = place.path("backup.db");
    let database = rusqlite::Connection::open(store.join("store.db")).unwrap();
    database.execute_batch(&format!("VACUUM INTO '{}'", backup.display())).unwrap();
    drop(database);
    // The key is dropped, and the date of what comes after it is late for what ends before.
    let new = SecretKey::generate().unwrap();
    attack.root(2, &[new.public()], &["root-1", "root-2"]);
    for (name, seq, created, not_after) in
        [("late", 2, THEN, Some(at_second(THEN + 500))), ("good", 3, THEN + 1000, None)]
    {
        let mut manifest = attack.manifest();
        (manifest.seq, manifest.created, manifest.not_after) = (seq, at_second(created), not_after);
        attack.sign_with(&serde_json::to_vec(&manifest).unwrap(), PAYLOAD_TYPE, &[&new]);
        edge(&place, &["bundle", "push", &stick, &at(name)]).await.good();
    }
    edge(&place, &["bundle", "import", &stick]).await.good();

    for how in ["there", "lost", "made anew", "put back", "lost with what was noted beside it"] {
        if how != "there" {
            let _ = std::fs::remove_dir_all(&store);
        }
        match how {
            "made anew" => drop(crate::store::open(&place.path("state"))),
            "put back" => {
                std::fs::create_dir(&store).unwrap();
                std::fs::copy(&backup, store.join("store.db")).unwrap();
            }
            "lost with what was noted beside it" => std::fs::remove_file(&seen).unwrap(),
            _ => {}
        }
        let to = place.path(&format!("pulled, {how}"));
        let pull = async |name| edge(&place, &["bundle", "pull", &at(name), "--to", &shown(&to)]).await;
        for (name, why) in [("stolen", "signed by 0 of the 1"), ("late", "was to be used until")] {
            // Of time nothing else was noted.
            if name == "stolen" || seen.exists() {
                let done = pull(name).await;
                assert!(done.code == 3 && done.err.contains(why) && !to.exists(), "{how}: {name}: {done:?}");
            }
        }
        pull("good").await.good();
    }
    // Broken, it says nothing of what is believed: nothing is fetched.
    std::fs::create_dir(&store).unwrap();
    std::fs::write(store.join("store.db"), "no database, and long enough to be looked at as one").unwrap();
    let to = place.path("broken");
    edge(&place, &["bundle", "pull", &at("good"), "--to", &shown(&to)]).await.bad(1, "not a database");
    assert!(!to.exists());
}
