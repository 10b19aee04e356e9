use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::oci::{Client, ClientSettings};
use crate::store::{Settings, Store};

#[test]
fn a_registry_is_a_host_and_a_prefix_and_nothing_else() {
    assert_eq!(place("harbor.example.com/edge/"), Ok(("harbor.example.com", "edge")));
    assert_eq!(place("localhost"), Ok(("localhost", "")));
    assert_eq!(place("depot:5000/a/b"), Ok(("depot:5000", "a/b")));
    assert_eq!(place("[::1]/a"), Ok(("[::1]", "a")));
    assert_eq!(place("[::1]:5000"), Ok(("[::1]:5000", "")));
    for wrong in
        ["http://127.0.0.1:5000", "oci://a.b/c", "/var/lib/x", "depot", "depot:/x", ":5000", "", "a.b:x"]
    {
        assert!(place(wrong).unwrap_err().contains("names no registry hint: write a host"), "{wrong}");
    }
}

/// Blobs that come at the same time, and the most of them so far.
#[derive(Default)]
struct Coming([AtomicUsize; 2]);

/// Answers one connection of a registry that has nothing and takes all.
async fn serve(mut stream: TcpStream, coming: Arc<Coming>) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    loop {
        let (mut asked, mut line, mut length) = (String::new(), String::new(), 0);
        if read.read_line(&mut asked).await? == 0 {
            return Ok(());
        }
        while read.read_line(&mut line).await? > 2 {
            let lower = line.to_lowercase();
            length = lower.strip_prefix("content-length:").map_or(length, |n| n.trim().parse().unwrap());
            line.clear();
        }
        let status = match asked.split(' ').next() {
            Some("PUT") => {
                let now = coming.0[0].fetch_add(1, Ordering::SeqCst) + 1;
                coming.0[1].fetch_max(now, Ordering::SeqCst);
                read.read_exact(&mut vec![0; length]).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
                coming.0[0].fetch_sub(1, Ordering::SeqCst);
                "201 Created"
            }
            Some("POST") => "202 Accepted\r\nlocation: /up",
            _ => "404 Not Found",
        };
        write.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes()).await?;
    }
}

/// Sends four blobs of 100 kB at once with these limits: how long it takes, and how many come at the same time.
async fn sent(limits: (Option<u64>, u32)) -> (Duration, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::of_host(&listener.local_addr().unwrap().to_string());
    let coming = Arc::new(Coming::default());
    let counted = coming.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, counted.clone()));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(Settings::below(folder.path())).unwrap();
    let digests = [1, 2, 3, 4].map(|seed| {
        let bytes = vec![seed; 100_000];
        let digest = Digest::sha256(&bytes);
        let mut upload = store.begin_upload(digest.algorithm(), 0).unwrap();
        upload.write(&bytes).unwrap();
        upload.commit(&digest, None).unwrap();
        digest
    });
    let client = Client::new(ClientSettings::default()).unwrap();
    let wire = Wire::new(Arc::new(client), store, Progress::silent(), limits, None);
    let to = Target { upstream, prefix: String::new(), sent: AtomicU64::new(0), lists: Default::default() };
    let begun = Instant::now();
    let sends = digests.iter().map(|digest| send_blob(&wire, &to, "a", digest, "a:1"));
    futures_util::future::try_join_all(sends).await.unwrap();
    (begun.elapsed(), coming.0[1].load(Ordering::SeqCst))
}

#[tokio::test]
async fn no_more_is_sent_at_once_than_the_settings_allow() {
    let (_, at_once) = sent((None, 1)).await;
    assert_eq!(at_once, 1);
    let (taken, at_once) = sent((Some(400_000), 4)).await;
    assert!(taken >= Duration::from_millis(950), "{taken:?}");
    assert!(at_once > 1);
}
