//! The registry among clients that mean it harm, or hang up, and behind an upstream that is slow.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use edge::registry::{Limits, Registry, Settings, UpstreamRow};
use edge::store::Store;
use edge::sys::digest::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::registry::client;
use crate::registry_pull::DockerRegistry;
use crate::store;

const PATIENCE: Duration = Duration::from_secs(40);

fn through(port: u16) -> Settings {
    let row = UpstreamRow::new("registry.example", &format!("http://127.0.0.1:{port}"));
    Settings { upstreams: vec![row], ..Settings::default() }
}

fn noise(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

/// The files of uploads below a folder of [`store::open`].
fn uploads(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("store/uploads")).unwrap().count()
}

fn is_here(store: &Store, digest: &Digest) -> bool {
    store.blob(None, digest).unwrap().is_some()
}

/// Asks for a path on a connection whose window is small.
async fn ask(port: u16, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    stream
}

/// Passes connections on to a port, what comes back a megabyte a second.
struct Link {
    port: u16,
    /// Bytes that came back.
    bytes: Arc<AtomicU64>,
}

impl Link {
    async fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, bytes) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
        let counted = bytes.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, counted) =
                    (TcpStream::connect(("127.0.0.1", target)).await.unwrap(), counted.clone());
                let ((mut asks, mut answers), (mut back, mut on)) =
                    (client.into_split(), server.into_split());
                tokio::spawn(async move { tokio::io::copy(&mut asks, &mut on).await });
                tokio::spawn(async move {
                    let mut buffer = vec![0; 50 << 10];
                    while let Ok(read @ 1..) = back.read(&mut buffer).await {
                        counted.fetch_add(read as u64, Ordering::Relaxed);
                        if answers.write_all(&buffer[..read]).await.is_err() {
                            return;
                        }
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                });
            }
        });
        Self { port, bytes }
    }
}

/// Serves until nothing was going on for a moment, as the daemon does.
async fn serve_until_idle(store: &Store, settings: Settings) -> (String, tokio::task::JoinHandle<()>) {
    let registry = Registry::new(store.clone(), settings, None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        // The first one comes before it is idle.
        let (first, _) = listener.accept().await.unwrap();
        let idle = registry.clone();
        let end = async move { idle.idle(Duration::from_millis(300)).await };
        registry.serve(listener, Some(first), end).await.unwrap();
    });
    (url, served)
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_do_not_read_are_ended_and_make_room_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = store::open(folder.path());
    let blob = noise(16 << 20);
    let digest = Digest::sha256(&blob);
    store.add_blob(Some("team/app"), &digest, &blob).unwrap();
    let path = format!("/v2/team/app/blobs/{digest}");

    // Pushed out: the deadline is far.
    let hour = Duration::from_secs(3600);
    for limits in [
        Limits { connections: 48, stalled: hour, silent: Duration::from_millis(500) },
        // Ended: nobody else comes.
        Limits { connections: 48, stalled: Duration::from_secs(1), silent: hour },
    ] {
        let registry = Registry::new(store.clone(), Settings::default(), None).unwrap().with_limits(limits);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let serving = registry.clone();
        let served = tokio::spawn(async move {
            serving.serve(listener, None, async { drop(ended.await) }).await.unwrap();
        });
        let mut stuck = Vec::new();
        for _ in 0..limits.connections {
            let mut stream = ask(port, &path).await;
            assert_eq!(stream.read_u8().await.unwrap(), b'H', "it is being answered");
            stuck.push(stream);
        }
        if limits.stalled == hour {
            let begun = Instant::now();
            let base = client().get(format!("http://127.0.0.1:{port}/v2/")).timeout(PATIENCE).send().await;
            assert_eq!(base.unwrap().status(), 200);
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
            let whole = client().get(format!("http://127.0.0.1:{port}{path}")).timeout(PATIENCE).send().await;
            assert_eq!(Digest::sha256(&whole.unwrap().bytes().await.unwrap()), digest);
        } else {
            let idle = tokio::time::timeout(PATIENCE, registry.idle(Duration::from_millis(50)));
            assert!(idle.await.is_ok(), "they are all ended");
        }
        drop(stuck);
        end.send(()).unwrap();
        served.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_that_reads_is_not_ended() {
    let folder = tempfile::tempdir().unwrap();
    let store = store::open(folder.path());
    let blob = noise(6 << 20);
    let digest = Digest::sha256(&blob);
    store.add_blob(Some("team/app"), &digest, &blob).unwrap();
    let limits = Limits { stalled: Duration::from_millis(400), ..Limits::default() };
    let registry = Registry::new(store, Settings::default(), None).unwrap().with_limits(limits);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(registry.serve(listener, None, std::future::pending()));
    let mut stream = ask(port, &format!("/v2/team/app/blobs/{digest}")).await;
    let (mut came, begun) = (Vec::new(), Instant::now());
    let mut buffer = vec![0; 128 << 10];
    while came.len() < blob.len() {
        // Many times as long as a reader may be stuck, all in all.
        tokio::time::sleep(Duration::from_millis(if begun.elapsed() < 8 * limits.stalled { 100 } else { 0 }))
            .await;
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "ended after {} bytes", came.len());
        came.extend_from_slice(&buffer[..read]);
    }
    assert!(begun.elapsed() > 3 * limits.stalled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_keeps_the_registry_awake_when_its_client_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(folder.path()).await;
    let layer = noise(3_000_000);
    let (digest, _) = upstream.push("team/app", "1", &layer).await;
    let link = Link::before(upstream.port).await;
    let place = folder.path().join("edge");
    let store = store::open(&place);
    let (url, served) = serve_until_idle(&store, through(link.port)).await;
    let blob = format!("{url}/v2/team/app/blobs/{digest}?ns=registry.example");
    let mut coming = client().get(blob).send().await.unwrap();
    assert!(coming.chunk().await.unwrap().is_some());
    drop(coming);
    assert!(!is_here(&store, &digest), "it takes longer than that");
    tokio::time::timeout(PATIENCE, served).await.unwrap().unwrap();
    assert!(is_here(&store, &digest), "it went to sleep only when the fetch was done");
    assert_eq!(uploads(&place), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_is_cut_off_goes_on_in_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(folder.path()).await;
    let layer = noise(4_000_000);
    let (digest, _) = upstream.push("team/app", "1", &layer).await;
    let link = Link::before(upstream.port).await;
    let place = folder.path().join("edge");
    let path = format!("/v2/team/app/blobs/{digest}?ns=registry.example");
    // Takes `most` bytes through a registry with a runtime of its own, which ends then in the midst of it.
    let take = async |most: usize| {
        let (place, path, settings) = (place.clone(), path.clone(), through(link.port));
        let taken = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.unwrap();
            let taken = runtime.block_on(async {
                let store = store::open(&place);
                let (url, _) = serve_until_idle(&store, settings).await;
                let mut coming = client().get(format!("{url}{path}")).send().await.unwrap();
                let mut came = Vec::new();
                while came.len() < most {
                    match coming.chunk().await {
                        Ok(Some(piece)) => came.extend_from_slice(&piece),
                        _ => break,
                    }
                }
                came
            });
            runtime.shutdown_timeout(Duration::from_secs(5));
            taken
        });
        tokio::task::spawn_blocking(move || taken.join().unwrap()).await.unwrap()
    };
    for most in [1_000_000, 2_500_000] {
        let came = take(most).await;
        assert!(came.len() >= most && came[..] == layer[..came.len()]);
        assert_eq!(uploads(&place), 1, "what came stays, once");
    }
    // A power cut leaves other bytes than were written: nothing wrong is taken for whole, and then it comes anew.
    let left = std::fs::read_dir(place.join("store/uploads")).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&left).unwrap();
    assert_eq!(whole[..], layer[..whole.len()]);
    let passed = link.bytes.load(Ordering::Relaxed);
    assert!(passed < layer.len() as u64, "{passed} bytes came for {}", whole.len());
    assert_eq!(take(layer.len()).await, layer);
    let passed = link.bytes.load(Ordering::Relaxed);
    assert!(passed < layer.len() as u64 * 3 / 2, "{passed} bytes came for {}", layer.len());
    assert_eq!(uploads(&place), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_power_cut_damaged_of_a_fetch_is_fetched_anew() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = DockerRegistry::start(folder.path()).await;
    let layer = noise(900_000);
    let (digest, _) = upstream.push("team/app", "1", &layer).await;
    let place = folder.path().join("edge");
    let mut left = store::open(&place).fetch_upload(&digest, layer.len() as u64).unwrap();
    left.write(&[7; 400_000]).unwrap();
    drop(left);
    let store = store::open(&place);
    let (url, served) = serve_until_idle(&store, through(upstream.port)).await;
    let blob = format!("{url}/v2/team/app/blobs/{digest}?ns=registry.example");
    let wrong = client().get(&blob).send().await.unwrap().bytes().await;
    assert!(wrong.is_err(), "nobody takes it for whole");
    tokio::time::timeout(PATIENCE, served).await.unwrap().unwrap();
    assert!(is_here(&store, &digest), "it was fetched once more behind the answer");
    assert_eq!(uploads(&place), 0);
}

/// Accepts and never answers, or says that nothing is there; counts.
struct Upstream {
    port: u16,
    most: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
}

impl Upstream {
    async fn start(answers: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let [most, requests] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let (peak, asked) = (most.clone(), requests.clone());
        tokio::spawn(async move {
            let open = Arc::new(AtomicUsize::new(0));
            while let Ok((mut stream, _)) = listener.accept().await {
                let (open, asked) = (open.clone(), asked.clone());
                peak.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 16 << 10];
                    while let Ok(1..) = stream.read(&mut buffer).await {
                        asked.fetch_add(1, Ordering::SeqCst);
                        if answers {
                            let said = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
                            stream.write_all(said.as_bytes()).await.unwrap();
                        }
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { port, most, requests }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_ask_for_anything_and_hang_up_do_not_flood_the_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::start(false).await;
    let edge = crate::registry::serve(folder.path(), through(upstream.port)).await;
    let mut strangers = std::collections::VecDeque::new();
    for n in 0..1000_u32 {
        let digest = Digest::sha256(&n.to_le_bytes());
        let path = format!("/v2/team/app/blobs/{digest}?ns=registry.example");
        strangers.push_back(ask(edge.port, &path).await);
        // Long enough for the registry to hear what they want.
        if strangers.len() > 100 {
            strangers.pop_front();
        }
    }
    drop(strangers);
    let begun = Instant::now();
    let more = Digest::sha256(b"one more");
    let answer = edge.get(&format!("/v2/team/app/blobs/{more}?ns=registry.example")).await;
    assert_eq!(answer.status(), 404);
    assert!(begun.elapsed() < Duration::from_secs(5), "too many wait: not here, at once");
    assert_eq!(upstream.most.load(Ordering::SeqCst), 8, "connections to the upstream");
    assert_eq!(upstream.requests.load(Ordering::SeqCst), 8);
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_upstream_has_not_got_is_asked_for_once_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = Upstream::start(true).await;
    let edge = crate::registry::serve(folder.path(), through(upstream.port)).await;
    let digest = Digest::sha256(b"nowhere");
    for (kind, asked) in [("blobs", 1), ("manifests", 2)] {
        for _ in 0..5 {
            let path = format!("/v2/team/app/{kind}/{digest}?ns=registry.example");
            assert_eq!(edge.get(&path).await.status(), 404);
        }
        assert_eq!(upstream.requests.load(Ordering::SeqCst), asked, "{kind}");
    }
    edge.stop().await;
}
