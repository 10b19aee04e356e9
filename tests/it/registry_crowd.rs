//! The registry among clients that mean it harm.

use std::time::{Duration, Instant};

use edge::registry::{Limits, Registry, Settings};
use edge::sys::digest::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::registry::client;
use crate::store;

const PATIENCE: Duration = Duration::from_secs(40);

fn noise(length: u32) -> Vec<u8> {
    (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

/// Asks for a path on a connection whose window is small.
async fn ask(port: u16, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    stream
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
