//! What of a request reaches the cloud, how often, and what its client is told where nobody knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use http_body_util::BodyExt as _;
use serde_json::json;

use crate::proxy::guests::Limits;
use crate::proxy::serve_tests::{CONFIGMAPS, channel, in_time};
use crate::proxy::stand_in::{Break, Cloud, Door, empty, json};

#[tokio::test(flavor = "multi_thread")]
async fn only_reads_are_sent_twice() {
    let seen = Arc::<AtomicUsize>::default();
    let count = seen.clone();
    let cloud = Cloud::new(Arc::new(move |head: http::request::Parts| {
        let mut answered = json(200, &json!({}));
        if head.uri.path().starts_with(CONFIGMAPS) {
            count.fetch_add(1, Ordering::Relaxed);
            answered.extensions_mut().insert(Break);
        }
        Box::pin(std::future::ready(answered)) as _
    }))
    .await;
    let door = Door::new(&cloud, Limits::PODS, true).await;
    let mut client = door.two().await;
    for (method, expected) in [("DELETE", 1), ("PUT", 1), ("POST", 1), ("PATCH", 1), ("GET", 2)] {
        seen.store(0, Ordering::Relaxed);
        let wanted = door.request(method, &format!("{CONFIGMAPS}/c"), "one").body(empty()).unwrap();
        let answered = in_time("an answer", client.send_request(wanted)).await.unwrap();
        let code = if method == "GET" { 503 } else { 504 };
        assert_eq!((answered.status().as_u16(), seen.load(Ordering::Relaxed)), (code, expected), "{method}");
        // With one, client-go would send whatever it is again.
        assert!(!answered.headers().contains_key(http::header::RETRY_AFTER), "{method}");
    }
}

/// The link goes down while a write waits for its answer, and nobody knows any more whether it was done.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_perhaps_done_is_no_503_and_what_is_refused_names_no_time() {
    let (seen, down) = (Arc::<AtomicUsize>::default(), Arc::new(AtomicBool::new(false)));
    let (count, is_down) = (seen.clone(), down.clone());
    let cloud = Cloud::new(Arc::new(move |head: http::request::Parts| {
        let is_write = head.uri.path() == CONFIGMAPS && head.method == http::Method::POST;
        count.fetch_add(usize::from(is_write), Ordering::Relaxed);
        is_down.fetch_or(is_write, Ordering::Relaxed);
        let goes = is_down.load(Ordering::Relaxed);
        Box::pin(async move {
            if is_write {
                std::future::pending::<()>().await;
            }
            let mut answered = json(200, &json!({}));
            if goes {
                answered.extensions_mut().insert(Break);
            }
            answered
        }) as _
    }))
    .await;
    let door = Door::new(&cloud, Limits::PODS, true).await;
    let mut client = door.two().await;
    let mut ask = async |method: &str, path: &str| {
        let wanted = door.request(method, path, "one").body(empty()).unwrap();
        let answered = in_time("an answer", client.send_request(wanted)).await.unwrap();
        assert!(!answered.headers().contains_key(http::header::RETRY_AFTER), "{method} {path}");
        answered.status().as_u16()
    };
    // So that its token is known.
    assert_eq!(ask("GET", CONFIGMAPS).await, 200);
    assert_eq!(ask("POST", CONFIGMAPS).await, 504);
    assert!(door.proxy.shared.link.state().phase.is_outage(), "that it is away was found meanwhile");
    assert_eq!(seen.load(Ordering::Relaxed), 1, "it was sent once");
    assert_eq!(ask("POST", CONFIGMAPS).await, 503, "nothing was sent");
    assert_eq!(ask("DELETE", CONFIGMAPS).await, 503, "nor is a whole collection removed here");
    assert_eq!(ask("GET", "/api/v1/namespaces/a/events").await, 503, "which are kept for nobody");
}

/// The cloud would wait for it to come, or say that it is too large.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_from_a_version_of_an_outage_reads_anew() {
    let seen = Arc::<AtomicUsize>::default();
    let count = seen.clone();
    let cloud = Cloud::new(Arc::new(move |head: http::request::Parts| {
        count.fetch_add(usize::from(head.uri.path() == CONFIGMAPS), Ordering::Relaxed);
        Box::pin(std::future::ready(json(200, &json!({})))) as _
    }))
    .await;
    for offline_mode in [true, false] {
        seen.store(0, Ordering::Relaxed);
        let door = Door::new(&cloud, Limits::PODS, offline_mode).await;
        let mut client = door.two().await;
        let mut ask = async |query: &str| {
            let path = format!("{CONFIGMAPS}?{query}");
            let wanted = door.request("GET", &path, "one").body(empty()).unwrap();
            let answered = in_time("an answer", client.send_request(wanted)).await.unwrap();
            let code = answered.status().as_u16();
            let body = in_time("its end", answered.into_body().collect()).await.unwrap().to_bytes();
            (code, serde_json::from_slice::<serde_json::Value>(&body).unwrap())
        };
        let version = "resourceVersion=9000001790000000000";
        let (code, status) = ask(version).await;
        assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
        let (code, event) = ask(&format!("watch=true&{version}")).await;
        assert_eq!((code, &event["type"], &event["object"]["code"]), (200, &json!("ERROR"), &json!(410)));
        assert_eq!(seen.load(Ordering::Relaxed), 0, "nothing was sent");
        assert_eq!(ask("resourceVersion=1790000000000").await.0, 200);
        assert_eq!(seen.load(Ordering::Relaxed), 1);
    }
}

/// What has waited for a client that does not read may have come long ago, and what a load balancer says is not the cloud's.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_come_are_noted_as_they_come() {
    let (tell, mut says) = tokio::sync::watch::channel(None);
    let cloud = Cloud::new(Arc::new(move |head: http::request::Parts| {
        let mut answered = json(200, &json!({}));
        if head.uri.path().ends_with("/away") {
            answered = json(503, &json!({}));
        } else if head.uri.path().starts_with(CONFIGMAPS) {
            let (sender, body) = channel();
            tell.send_replace(Some(sender));
            *answered.body_mut() = body;
        }
        Box::pin(std::future::ready(answered)) as _
    }))
    .await;
    let door = Door::new(&cloud, Limits::PODS, true).await;
    let mut client = door.two().await;
    let heard = door.proxy.shared.link.heard().clone();
    let wanted = door.request("GET", CONFIGMAPS, "one").body(empty()).unwrap();
    let answered = in_time("an answer", client.send_request(wanted)).await.unwrap();
    let mut before = heard.count();
    assert!(before > 0, "its head is noted");
    let pieces = in_time("the cloud", says.wait_for(Option::is_some)).await.unwrap().clone().unwrap();
    let mut body = answered.into_body();
    for _ in 0..3 {
        // Asked for before it comes.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        pieces.send("[1, ".into()).await.unwrap();
        in_time("a piece", body.frame()).await.unwrap().unwrap();
        assert!(heard.count() > before, "a piece of it is");
        before = heard.count();
    }
    let wanted = door.request("GET", &format!("{CONFIGMAPS}/away"), "one").body(empty()).unwrap();
    let answered = in_time("an answer", client.send_request(wanted)).await.unwrap();
    assert_eq!(answered.status(), 503);
    assert_eq!(heard.count(), before);
}

/// More than the cache takes of one client while its disk is slow: to read it anew each time would be for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_never_fits_is_read_anew_once_and_then_left_alone() {
    let (tell, says) = tokio::sync::watch::channel(None);
    let cloud = Cloud::new(Arc::new(move |head: http::request::Parts| {
        let mut answered = json(200, &json!({}));
        if head.uri.path() == CONFIGMAPS {
            let (sender, body) = channel();
            tell.send_replace(Some(sender));
            *answered.body_mut() = body;
        }
        Box::pin(std::future::ready(answered)) as _
    }))
    .await;
    let door = Door::new(&cloud, Limits::PODS, true).await;
    let mut client = door.two().await;
    let cache = door.proxy.shared.cache.clone();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let slow = cache.clone();
    let holding = tokio::spawn(async move {
        let wait = slow.commit(move |_| {
            let _ = held.recv();
            Ok(())
        });
        wait.await
    });
    let mut watch = async |begins: &str| {
        let path = format!("{CONFIGMAPS}?watch=true&{begins}");
        let wanted = door.request("GET", &path, "one").body(empty()).unwrap();
        let answered = in_time("an answer", client.send_request(wanted)).await.unwrap();
        (says.borrow().clone().unwrap(), answered.into_body())
    };
    let large = "x".repeat(1 << 20);
    let event = |n: usize| {
        let meta =
            json!({"name": format!("c{n}"), "namespace": "a", "uid": n.to_string(), "resourceVersion": "7"});
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"x": large}});
        bytes::Bytes::from(json!({"type": "ADDED", "object": object}).to_string() + "\n")
    };
    let all: Vec<_> = (0..12).map(event).collect();
    let size: usize = all.iter().map(bytes::Bytes::len).sum();
    // What comes of it last, up to so many bytes, and whether it is ended before.
    let flood = async |(pieces, mut body): (tokio::sync::mpsc::Sender<_>, hyper::body::Incoming),
                       most: usize| {
        let (all, kept_open) = (all.clone(), pieces.clone());
        tokio::spawn(async move {
            for piece in all {
                if pieces.send(piece).await.is_err() {
                    return;
                }
            }
        });
        let (mut last, mut came) = (bytes::Bytes::new(), 0);
        while came < most {
            match in_time("a piece", body.frame()).await {
                Some(frame) => last = frame.unwrap().into_data().unwrap(),
                None => return (last, true, None),
            }
            came += last.len();
        }
        (last, false, Some((kept_open, body)))
    };
    let initial = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let (last, is_over, _) = flood(watch(initial).await, usize::MAX).await;
    assert!(is_over && last.windows(10).any(|part| part == b"\"code\":410"), "{last:?}");
    assert!(door.proxy.left_alone().is_empty());
    let (_, is_over, open) = flood(watch(initial).await, size).await;
    assert!(!is_over);
    let (pieces, mut body) = open.unwrap();
    pieces.send("{}\n".into()).await.unwrap();
    let frame = in_time("another event", body.frame()).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "{}\n", "its watch goes on");
    let alone = door.proxy.left_alone();
    assert!(alone.len() == 1 && alone[0].list.resource == "v1/configmaps", "{alone:?}");
    // The next one costs the cache nothing.
    let (pieces, mut body) = watch("resourceVersion=7").await;
    pieces.send("{}\n".into()).await.unwrap();
    in_time("an event", body.frame()).await.unwrap().unwrap();
    release.send(()).unwrap();
    holding.await.unwrap().unwrap();
    cache.flush().await.unwrap();
    let kept = cache.read(move |reader| reader.scopes(&alone[0].list.identity, "v1/configmaps", "a"));
    assert!(kept.await.unwrap().is_empty(), "half a list");
}

/// A load balancer that has lost its servers may answer with a page of its own, and so may one program behind a cloud that is
/// there.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_looked_into_and_an_outage_only_where_nobody_else_is_there() {
    let down = Arc::new(AtomicBool::new(false));
    let is_down = down.clone();
    let cloud = Cloud::new(Arc::new(move |head: http::request::Parts| {
        let path = head.uri.path();
        let mut answered = json(200, &json!({}));
        if is_down.load(Ordering::Relaxed) || path.starts_with(&format!("{CONFIGMAPS}/")) {
            answered = json(404, &json!("nobody is here"));
            let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
            answered.headers_mut().insert(http::header::CONTENT_TYPE, kind);
            if path.ends_with("/own") {
                answered.headers_mut().insert("audit-id", http::HeaderValue::from_static("x"));
            }
        }
        Box::pin(std::future::ready(answered)) as _
    }))
    .await;
    let door = Door::new(&cloud, Limits::PODS, true).await;
    let mut client = door.two().await;
    let mut ask = async |path: &str| {
        let wanted = door.request("GET", path, "one").body(empty()).unwrap();
        in_time("an answer", client.send_request(wanted)).await.unwrap().status().as_u16()
    };
    assert_eq!(ask(CONFIGMAPS).await, 200);
    let dials = || cloud.dials.load(Ordering::Relaxed);
    let before = dials();
    assert_eq!((ask(&format!("{CONFIGMAPS}/own")).await, dials()), (404, before), "it is the API server's");
    assert_eq!((ask(&format!("{CONFIGMAPS}/page")).await, dials()), (404, before + 1), "it is looked into");
    assert!(door.proxy.shared.link.state().is_online(), "for one answer");
    down.store(true, Ordering::Relaxed);
    assert_eq!(ask(&format!("{CONFIGMAPS}/page")).await, 503, "it was never read");
    let why = format!("{:?}", door.proxy.shared.link.state().phase);
    assert!(why.contains("before the cloud answers 404"), "{why}");
}
