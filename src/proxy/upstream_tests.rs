//! Connections over links that are slow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::proxy::cloud::kubeconfig::{Material, Written};
use crate::proxy::rotate::Rotator;
use crate::proxy::stand_in::{Cloud, json};
use crate::sys::durable;

#[test]
fn a_date_header_is_read_as_servers_write_it() {
    let mut headers = http::HeaderMap::new();
    assert_eq!(date(&headers), None);
    headers.insert(http::header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
    assert_eq!(date(&headers), Some(784_111_777));
    headers.insert(http::header::DATE, "yesterday".parse().unwrap());
    assert_eq!(date(&headers), None);
}

/// Carries bytes on, each so much later than it came.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration) {
    let (taken, mut waiting) = mpsc::unbounded_channel();
    let take = async move {
        loop {
            let mut bytes = vec![0; 1 << 16];
            match from.read(&mut bytes).await {
                Ok(read) if read > 0 => drop(taken.send((Instant::now() + delay, bytes[..read].to_vec()))),
                _ => return,
            }
        }
    };
    let give = async move {
        while let Some((at, bytes)) = waiting.recv().await {
            tokio::time::sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(take, give);
}

/// A link on which a byte takes `delay` in each direction.
async fn satellite(to: SocketAddr, delay: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (near_reads, near_writes) = near.into_split();
            let (far_reads, far_writes) = TcpStream::connect(to).await.unwrap().into_split();
            tokio::spawn(carry(near_reads, far_writes, delay));
            tokio::spawn(carry(far_reads, near_writes, delay));
        }
    });
    address
}

/// Its connections take longer than a request waits for one, and are made all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_behind_a_satellite_is_found_by_a_probe_that_nobody_waits_for() {
    let answers = Arc::new(|_| Box::pin(std::future::ready(json(200, &json!({})))) as _);
    let cloud = Cloud::new(answers).await;
    let near = cloud.credentials.credentials.borrow().good().unwrap().address().1;
    let far = satellite(SocketAddr::from(([127, 0, 0, 1], near)), Duration::from_millis(2_100)).await;
    let node = cloud.ca.issue_client("system:node:a", "system:nodes").unwrap();
    let text = Written {
        cluster: "cloud",
        user: "a",
        server: &format!("https://{far}"),
        tls_server_name: None,
        authority: Material::Inline(cloud.ca.ca_pem().into()),
        certificate: Material::Inline(node.chain.into()),
        key: Material::Inline(node.key.into()),
    }
    .text();
    let path = cloud.folder.path().join("satellite.kubeconfig");
    durable::write(&path, text.as_bytes(), 0o600).unwrap();
    let (_, slow) = Rotator::new(&path, cloud.folder.path()).unwrap();
    let slow = slow.credentials.borrow().clone();
    let upstream = Upstream::new(slow, Resolver).unwrap();
    let late = upstream.probe(As::Node, Patience::Short).await.unwrap_err();
    assert!(matches!(&late, Silence::Late(why) if why.contains("within 4 s")), "{late}");
    upstream.probe(As::Node, Patience::Long).await.unwrap();
    // From then on whoever waits waits long enough.
    assert!(upstream.slow(CONNECT) > Duration::from_secs(16));
    assert_eq!(upstream.slow(SLOW_PROBE), SLOW_PROBE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_is_answered_by_an_api_server_and_not_by_what_stands_before_it() {
    let status = json!({"kind": "Status", "apiVersion": "v1", "code": 403, "reason": "Forbidden"});
    for (code, header, body, expected) in [
        (200, "", json!("ok"), None),
        (403, "", status.clone(), None),
        (404, "audit-id", json!("404 page not found"), None),
        (429, "", json!("Too many requests"), None),
        (404, "", json!("<h1>404</h1>"), Some("what stands before the cloud answers 404 Not Found")),
        (403, "", json!({"message": "denied"}), Some("answers 403")),
        (302, "location", json!(""), Some("answers 302")),
        (503, "", status.clone(), Some("the cloud answers 503")),
        (401, "", status, Some(REFUSED)),
    ] {
        let said = body.clone();
        let answers = Arc::new(move |_| {
            let mut answered = json(code, &said);
            if !header.is_empty() {
                answered.headers_mut().insert(header, http::HeaderValue::from_static("x"));
            }
            Box::pin(std::future::ready(answered)) as _
        });
        let cloud = Cloud::new(answers).await;
        let upstream = Upstream::new(cloud.credentials.credentials.borrow().clone(), Resolver).unwrap();
        let probed = upstream.probe(As::Node, Patience::Short).await.err().map(|silence| silence.to_string());
        let is_so = match (&probed, expected) {
            (None, None) => true,
            (Some(why), Some(expected)) => why.contains(expected),
            _ => false,
        };
        assert!(is_so, "{code} {body}: {probed:?}");
    }
}
