//! The registry when the ground gives way: a full disk, one that is read-only, one without inodes, and kill -9 in the middle
//! of a pull-through.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use edge::sys::digest::Digest;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use reqwest::{Method, StatusCode};

use crate::registry::{Running, image, serve, writable};
use crate::registry_daemon::Daemon;
use crate::registry_pull::DockerRegistry;

/// A file system of its own, in memory.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn new(options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        mount(Some("tmpfs"), folder.path(), Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Has the folders of blobs and uploads refuse every change. (Nobody can do that to the whole disk while the
    /// database is open in it, but a file system that found an error in itself.)
    fn freeze(&self) {
        for folder in self.frozen() {
            mount(Some(&folder), &folder, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(None::<&str>, &folder, None::<&str>, flags, None::<&str>).unwrap();
        }
    }

    fn thaw(&self) {
        for folder in self.frozen() {
            // Whoever reads there just now keeps no one from it.
            umount2(&folder, MntFlags::MNT_DETACH).unwrap();
        }
    }

    fn frozen(&self) -> [PathBuf; 2] {
        ["blobs", "uploads"].map(|name| self.path().join("store").join(name))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

async fn post(edge: &Running, bytes: &[u8]) -> (u16, String) {
    let path = format!("/v2/my/app/blobs/uploads/?digest={}", Digest::sha256(bytes));
    let answer = edge.send(Method::POST, &path, &[], bytes).await;
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// An image that is there before anything goes wrong.
async fn kept(edge: &Running) -> Digest {
    let config = edge.push_blob("my/app", b"{}").await;
    let pushed = edge.push_manifest("my/app", "1", &image(&config, &[])).await;
    assert_eq!(pushed.status(), StatusCode::CREATED);
    config
}

async fn still_reads(edge: &Running, config: &Digest) {
    assert_eq!(edge.get("/v2/my/app/manifests/1").await.status(), 200);
    assert_eq!(edge.get(&format!("/v2/my/app/blobs/{config}")).await.text().await.unwrap(), "{}");
    assert_eq!(edge.get("/v2/my/app/tags/list").await.status(), 200);
}

fn uploads(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("store/uploads")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_uploads_and_goes_on_reading() {
    let disk = Disk::new("size=16m");
    let edge = serve(disk.path(), writable()).await;
    let config = kept(&edge).await;
    let large = vec![7; 20 << 20];
    let (status, said) = post(&edge, &large).await;
    assert_eq!((status, said.contains("STORAGE_FULL")), (507, true), "{said}");
    // In chunks nobody knows how much will come: what fits is taken, then no more.
    let begun = edge.send(Method::POST, "/v2/my/app/blobs/uploads/", &[], b"").await;
    let location = begun.headers()["location"].to_str().unwrap().to_owned();
    let mut last = 202;
    for _ in 0..20 {
        last = edge.send(Method::PATCH, &location, &[], &large[..1 << 20]).await.status().as_u16();
        if last != 202 {
            break;
        }
    }
    assert_eq!(last, 507);
    still_reads(&edge, &config).await;
    // The reserve is for the database: names still change.
    assert_eq!(edge.send(Method::DELETE, "/v2/my/app/manifests/1", &[], b"").await.status(), 202);
    assert_eq!(edge.send(Method::DELETE, &location, &[], b"").await.status(), 204);
    assert_eq!(uploads(disk.path()), 0, "nothing is left of what was refused");
    assert_eq!(post(&edge, &large[..4 << 20]).await.0, 201);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_inodes_uploads_are_refused_and_reads_go_on() {
    let disk = Disk::new("size=64m,nr_inodes=400");
    let edge = serve(disk.path(), writable()).await;
    let config = kept(&edge).await;
    let fill: Vec<PathBuf> = (0..400).map(|n| disk.path().join(format!("x{n}"))).collect();
    let made = fill.iter().take_while(|path| std::fs::write(path, b"").is_ok()).count();
    assert!(made > 100);
    let (status, said) = post(&edge, b"one more").await;
    assert_eq!((status, said.contains("STORAGE_FULL")), (507, true), "{said}");
    still_reads(&edge, &config).await;
    for path in &fill[..made] {
        std::fs::remove_file(path).unwrap();
    }
    assert_eq!(post(&edge, b"one more").await.0, 201);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_turns_read_only_is_told_and_reads_go_on() {
    let disk = Disk::new("size=64m");
    let edge = serve(disk.path(), writable()).await;
    let config = kept(&edge).await;
    disk.freeze();
    let (status, said) = post(&edge, b"one more").await;
    assert_eq!((status, said.contains("STORAGE_READ_ONLY")), (503, true), "{said}");
    let pushed = edge.push_manifest("my/app", "2", &image(&config, &[])).await;
    assert_eq!(pushed.status(), StatusCode::SERVICE_UNAVAILABLE);
    still_reads(&edge, &config).await;
    disk.thaw();
    assert_eq!(post(&edge, b"one more").await.0, 201);
    edge.stop().await;
}

/// Passes bytes on to a port, slowly while it is told to.
struct Slow {
    port: u16,
    slow: Arc<AtomicBool>,
}

impl Slow {
    fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let slow = Arc::new(AtomicBool::new(true));
        let told = slow.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (server, told) = (TcpStream::connect(("127.0.0.1", target)).unwrap(), told.clone());
                let (mut up, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut up, &mut to));
                std::thread::spawn(move || pass(server, client, &told));
            }
        });
        Self { port, slow }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, slow: &AtomicBool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..read]).is_err() {
            return;
        }
        // The pace of a satellite link; nothing waits for this.
        if slow.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_a_pull_through_nothing_wrong_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(folder.path()).await;
    let layer: Vec<u8> = (0..12_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let (digest, manifest) = upstream.push("team/app", "1", &layer).await;
    let slow = Slow::before(upstream.port);
    let rows = format!(
        "[[registry.upstreams]]\nhost = \"registry.example\"\nurl = \"http://127.0.0.1:{}\"\n",
        slow.port
    );
    let mut daemon = tokio::task::spawn_blocking(move || Daemon::start(&rows)).await.unwrap();
    let client = crate::registry::client();
    let blob = |url: &str| format!("{url}/v2/team/app/blobs/{digest}?ns=registry.example");
    for round in 0..3 {
        let url = tokio::task::block_in_place(|| daemon.url());
        let named = format!("{url}/v2/team/app/manifests/1?ns=registry.example");
        let got = client.get(&named).send().await.unwrap().text().await.unwrap();
        assert_eq!(got, manifest, "round {round}");
        let mut coming = client.get(blob(&url)).send().await.unwrap();
        let mut came = Vec::new();
        while came.len() < 2_000_000 * (round + 1) {
            came.extend_from_slice(&coming.chunk().await.unwrap().expect("it is not over yet"));
        }
        daemon.kill();
        let mut ended = false;
        while let Ok(Some(piece)) = coming.chunk().await {
            came.extend_from_slice(&piece);
            ended = came.len() == layer.len();
        }
        assert!(!ended && came[..] == layer[..came.len()], "cut short, and right so far");
        daemon.run();
    }
    slow.slow.store(false, Ordering::Relaxed);
    let url = tokio::task::block_in_place(|| daemon.url());
    let whole = client.get(blob(&url)).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(Digest::sha256(&whole), digest);
    drop(upstream);
    let begun = Instant::now();
    let again = client.get(blob(&url)).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(again.len(), layer.len());
    assert!(begun.elapsed() < Duration::from_secs(5), "it is here");
    let verified =
        tokio::task::block_in_place(|| daemon.place.run(&["store", "verify", "-o", "json"]).good().out);
    assert!(verified.contains("\"damaged\": []"), "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_comes_whole_from_the_disk_from_memory_and_from_both() {
    let folder = tempfile::tempdir().unwrap();
    let edge = serve(folder.path(), writable()).await;
    let bytes: Vec<u8> = (0..9_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let digest = edge.push_blob("my/app", &bytes).await;
    let path = format!("/v2/my/app/blobs/{digest}");
    let file = folder.path().join(format!("store/blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex()));
    let file = std::fs::File::open(file).unwrap();
    // What is on disk leaves the kernel's memory: all of it, then a piece in the middle.
    for (offset, length) in [(0, 0), (3_000_000, 1_000_000)] {
        let forget = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        nix::fcntl::posix_fadvise(&file, offset, length, forget).unwrap();
        let many = futures_util::future::join_all(
            (0..6).map(|_| async { edge.get(&path).await.bytes().await.unwrap() }),
        );
        for got in many.await {
            assert_eq!((got.len(), Digest::sha256(&got)), (bytes.len(), digest.clone()));
        }
    }
    let range = edge.send(Method::GET, &path, &[("range", "bytes=4194300-4194400")], b"").await;
    assert_eq!(range.bytes().await.unwrap(), bytes[4_194_300..=4_194_400]);
    edge.stop().await;
}
