//! The proxy between clients and a cloud, over real connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::answer::Body;
use super::guests::Limits;
use super::stand_in::{Cloud, Door, empty, json};

/// Longer than any of this takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub async fn in_time<T>(what: &str, doing: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, doing).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

/// A body that brings what is sent, and says when nobody wants it any more.
pub fn channel() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|bytes| (Ok(Frame::data(bytes)), receiver))
    });
    (sender, StreamBody::new(pieces).boxed_unsync())
}

pub const CONFIGMAPS: &str = "/api/v1/namespaces/a/configmaps";

/// A cloud whose Secrets never end, and whose only ConfigMap is what the test says.
struct Busy {
    cloud: Cloud,
    says: watch::Receiver<Option<mpsc::Sender<Bytes>>>,
    endless: Arc<AtomicUsize>,
}

/// Counts down when it goes.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn busy() -> Busy {
    let (tell, says) = watch::channel(None);
    let endless = Arc::<AtomicUsize>::default();
    let count = endless.clone();
    let answers = move |head: http::request::Parts| {
        let body = match head.uri.path() {
            CONFIGMAPS => {
                let (sender, body) = channel();
                tell.send_replace(Some(sender));
                body
            }
            path if path.contains("/secrets/") => {
                count.fetch_add(1, Ordering::Relaxed);
                let counted = Counted(count.clone());
                let piece = Bytes::from(vec![b' '; 64 << 10]);
                let pieces = futures_util::stream::repeat_with(move || {
                    let _ = &counted;
                    Ok(Frame::data(piece.clone()))
                });
                StreamBody::new(pieces).boxed_unsync()
            }
            _ => json(200, &json!({})).into_body(),
        };
        let mut answered = Response::new(body);
        let kind = http::HeaderValue::from_static("application/json");
        answered.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        Box::pin(std::future::ready(answered)) as _
    };
    Busy { cloud: Cloud::new(Arc::new(answers)).await, says, endless }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_keeps_nobody_else_waiting_and_of_many_some_are_let_go() {
    let mut busy = busy().await;
    let door = Door::new(&busy.cloud, Limits::PODS, true).await;
    let (mut clients, mut unread) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let mut idle = door.two().await;
        let path = format!("/api/v1/namespaces/a/secrets/s{n}");
        let asked = idle.send_request(door.request("GET", &path, "one").body(empty()).unwrap());
        unread.push(in_time("an answer that is not read", asked).await.unwrap());
        clients.push(idle);
    }
    // Until nothing more of them fits anywhere.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut reader = door.two().await;
    let path = format!("{CONFIGMAPS}?watch=true&resourceVersion=1");
    let asked = reader.send_request(door.request("GET", &path, "two").body(empty()).unwrap());
    let mut watch = in_time("a watch", asked).await.unwrap().into_body();
    let says = busy.says.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    let mut hears = async |word: &'static str| {
        says.send(Bytes::from(word)).await.unwrap();
        let frame = in_time("an event", watch.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    };
    hears("{\"type\":\"BOOKMARK\",\"object\":{}}\n").await;

    assert_eq!(busy.endless.load(Ordering::Relaxed), 20);
    for most in [5, 0] {
        let takers = door.proxy.shared.takers.clone();
        let looking = tokio::spawn(async move { takers.look(most).await });
        in_time("their end", async {
            while busy.endless.load(Ordering::Relaxed) > most {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        looking.abort();
        assert_eq!(busy.endless.load(Ordering::Relaxed), most);
        // None of them reads, and what is kept for them here goes with their connections.
        in_time("the end of their connections", async {
            while clients.iter().filter(|client| !client.is_closed()).count() > most {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert_eq!(clients.iter().filter(|client| !client.is_closed()).count(), most);
    }
    hears("{\"type\":\"BOOKMARK\",\"object\":{}} \n").await;
    // The others hold what its client takes at once.
    let mut rest = unread.pop().unwrap().into_body().into_data_stream();
    drop(unread);
    let last = in_time("the word that it broke off", async {
        loop {
            match rest.next().await {
                Some(Ok(_)) => {}
                last => return last,
            }
        }
    });
    assert!(matches!(last.await, Some(Err(_))), "it is not taken for whole");
}

/// As fabric8's client watches, unless it is told otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_over_websocket_is_refused_before_it_is_sent_where_it_would_not_be_kept() {
    let asked = Arc::<AtomicUsize>::default();
    let count = asked.clone();
    let cloud = Cloud::new(Arc::new(move |head: http::request::Parts| {
        count.fetch_add(usize::from(head.headers.contains_key(http::header::UPGRADE)), Ordering::Relaxed);
        Box::pin(std::future::ready(json(200, &json!({})))) as _
    }))
    .await;
    let exec = "/api/v1/namespaces/a/pods/p/exec?command=sh";
    let watch = format!("{CONFIGMAPS}?watch=true");
    let events = "/api/v1/namespaces/a/events?watch=true";
    for (offline_mode, path, whose, expected) in [
        (true, &*watch, None, (503, 0)),
        (true, exec, None, (200, 1)),
        (false, &*watch, None, (200, 2)),
        // Neither is kept over plain HTTP.
        (true, &*watch, Some("other"), (200, 3)),
        (true, events, None, (200, 4)),
    ] {
        let door = Door::new(&cloud, Limits::PODS, offline_mode).await;
        let mut wanted = door.request("GET", path, "one").header("upgrade", "websocket");
        if let Some(other) = whose {
            wanted = wanted.header("impersonate-user", other);
        }
        let wanted = wanted.header("connection", "Upgrade").body(empty()).unwrap();
        let asking = async { door.one().await.unwrap().send_request(wanted).await.unwrap() };
        let code = in_time("an answer", asking).await.status().as_u16();
        assert_eq!((code, asked.load(Ordering::Relaxed)), expected, "{offline_mode} {path} {whose:?}");
    }
}

/// As an API server does now and then, so that clients come to another of its replicas.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_the_cloud_ends_costs_no_write() {
    let (tell, mut says) = watch::channel(None);
    let made = Arc::<AtomicUsize>::default();
    let count = made.clone();
    let cloud = Cloud::new(Arc::new(move |head: http::request::Parts| {
        let answered = match (head.method.as_str(), head.uri.query()) {
            ("GET", Some(_)) => {
                let (sender, body) = channel();
                tell.send_replace(Some(sender));
                Response::new(body)
            }
            ("GET", None) => json(200, &json!({})),
            _ => {
                count.fetch_add(1, Ordering::Relaxed);
                json(201, &json!({}))
            }
        };
        Box::pin(std::future::ready(answered)) as _
    }))
    .await;
    for offline_mode in [true, false] {
        let door = Door::new(&cloud, Limits::PODS, offline_mode).await;
        let mut client = door.two().await;
        let path = format!("{CONFIGMAPS}?watch=true&resourceVersion=1");
        let asked = client.send_request(door.request("GET", &path, "one").body(empty()).unwrap());
        let mut watch = in_time("a watch", asked).await.unwrap().into_body();
        cloud.parting.send_modify(|n| *n += 1);
        // Its word comes before the event, by the same connection.
        let event = Bytes::from_static(b"{\"type\":\"BOOKMARK\",\"object\":{}}\n");
        let sender = says.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        sender.send(event.clone()).await.unwrap();
        assert_eq!(in_time("an event", watch.frame()).await.unwrap().unwrap().into_data().unwrap(), event);
        let asked = client.send_request(door.request("POST", CONFIGMAPS, "one").body(empty()).unwrap());
        assert_eq!(in_time("an answer to a write", asked).await.unwrap().status(), 201, "{offline_mode}");
    }
    assert_eq!(made.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_counts_among_those_of_its_address() {
    let cloud = Cloud::new(Arc::new(|mut head: http::request::Parts| {
        let mut answered = json(200, &json!({}));
        if let Some(upgrade) = head.extensions.remove::<hyper::upgrade::OnUpgrade>()
            && head.headers.contains_key(http::header::UPGRADE)
        {
            tokio::spawn(async move {
                let open = upgrade.await.unwrap();
                let mut open = hyper_util::rt::TokioIo::new(open);
                tokio::io::copy(&mut open, &mut tokio::io::sink()).await
            });
            *answered.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            answered.headers_mut().insert("connection", "Upgrade".parse().unwrap());
            answered.headers_mut().insert("upgrade", "SPDY/3.1".parse().unwrap());
        }
        Box::pin(std::future::ready(answered)) as _
    }))
    .await;
    let door = Door::new(&cloud, Limits { of_one: 3, ..Limits::PODS }, true).await;
    let exec = "/api/v1/namespaces/a/pods/p/exec?command=sh";
    let upgraded = async || {
        let wanted = door.request("POST", exec, "one").header("upgrade", "SPDY/3.1");
        let wanted = wanted.header("connection", "Upgrade").body(empty()).unwrap();
        let mut answered = door.one().await?.send_request(wanted).await?;
        assert_eq!(answered.status(), 101);
        Ok::<_, Box<dyn std::error::Error>>(hyper::upgrade::on(&mut answered).await?)
    };
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(in_time("an upgrade", upgraded()).await.unwrap());
    }
    // One that is gone would never be noticed, for nothing is sent over it.
    let port = cloud.credentials.credentials.borrow().good().unwrap().server.port_u16().unwrap();
    let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let is_asked = |row: &&str| {
        let fields: Vec<&str> = row.split_whitespace().collect();
        fields.len() > 5 && fields[2].ends_with(&format!(":{port:04X}")) && fields[5].starts_with("02:")
    };
    assert_eq!(sockets.lines().filter(is_asked).count(), 3, "{sockets}");
    assert!(in_time("a refusal", upgraded()).await.is_err(), "one more than there may be");
    open.pop();
    in_time("a place", async {
        while upgraded().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_is_down_costs_no_connections() {
    let pods = "/api/v1/namespaces/a/pods";
    let cloud = Cloud::new(Arc::new(move |head: http::request::Parts| {
        let path = head.uri.path();
        let is_down =
            ["metrics.k8s.io", "/proxy", "/things"].iter().any(|part| path.contains(part)) || path == pods;
        Box::pin(std::future::ready(json(if is_down { 503 } else { 200 }, &json!({})))) as _
    }))
    .await;
    let door = Door::new(&cloud, Limits::PODS, true).await;
    let mut client = door.two().await;
    let mut dials = async |path: &str, expected| {
        let wanted = door.request("GET", path, "one").body(empty()).unwrap();
        let code = in_time("an answer", client.send_request(wanted)).await.unwrap().status();
        assert_eq!(code.as_u16(), expected, "{path}");
        cloud.dials.load(Ordering::Relaxed)
    };
    let before = dials(CONFIGMAPS, 200).await;
    for _ in 0..3 {
        assert_eq!(dials("/apis/metrics.k8s.io/v1beta1/nodes", 503).await, before);
        assert_eq!(dials("/api/v1/namespaces/a/services/s/proxy/x", 503).await, before);
    }
    assert!(dials(pods, 503).await > before, "of the API server's own it is looked into");
    // A custom resource may be the API server's own.
    let before = dials(CONFIGMAPS, 200).await;
    let things = "/apis/example.org/v1/namespaces/a/things";
    dials(things, 503).await;
    in_time("a look at the cloud", async {
        while cloud.dials.load(Ordering::Relaxed) == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    for _ in 0..3 {
        assert_eq!(dials(things, 503).await, before + 1, "once is enough");
    }
}
