use http::HeaderMap;
use http_body_util::BodyExt as _;
use serde_json::json;

use super::*;
use crate::kube::Request;
use crate::proxy::stand_in::{Cloud, Door, empty, json as answer_json};

fn call(caller: &Caller, path: &str, query: &str) -> Call {
    let mut head = http::Request::new(()).into_parts().0;
    head.headers.insert(header::USER_AGENT, "kube-proxy/v1".parse().unwrap());
    let accept = answer::Accept::parse("application/json");
    Call { head, caller: caller.clone(), request: Request::parse("GET", path, query), accept }
}

fn bearer(token: &str) -> Caller {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
    Caller::of(false, &headers).unwrap()
}

fn remembered(door: &InCluster) -> usize {
    door.known().anew.as_ref().unwrap().len()
}

const ENDPOINTS: &str = "/api/v1/endpoints";
const GOES_ON: &str = "watch=1&resourceVersion=7";

#[test]
fn only_who_was_answered_is_remembered_and_once() {
    let (door, proxy) = (InCluster::new("169.254.64.44:6445".into(), None), bearer("good"));
    let watch = call(&proxy, ENDPOINTS, GOES_ON);
    assert!(door.is_stale(&watch));
    for n in 0..20 {
        let list = call(&proxy, ENDPOINTS, &format!("fieldSelector=metadata.namespace%3Da{n}"));
        assert!(!door.is_stale(&list));
        door.note(&list, StatusCode::UNAUTHORIZED, None);
    }
    assert_eq!(remembered(&door), 0, "nobody knows who that was");
    for n in 0..20 {
        door.note(
            &call(&proxy, ENDPOINTS, &format!("fieldSelector=metadata.namespace%3Da{n}")),
            StatusCode::OK,
            None,
        );
    }
    assert_eq!(remembered(&door), 1);
    assert!(!door.is_stale(&watch));
    assert!(door.is_stale(&call(&bearer("other"), ENDPOINTS, GOES_ON)), "another has read nothing yet");
}

#[test]
fn kubelet_reads_each_config_map_anew_and_the_set_is_bounded() {
    let door = InCluster::new("169.254.64.44:6445".into(), None);
    let path = |n: usize| format!("/api/v1/namespaces/n{n}/configmaps");
    door.note(&call(&Caller::Kubelet, &path(0), ""), StatusCode::OK, None);
    assert!(!door.is_stale(&call(&Caller::Kubelet, &path(0), GOES_ON)));
    assert!(door.is_stale(&call(&Caller::Kubelet, &path(1), GOES_ON)));
    for n in 0..LISTS + 3 {
        door.note(&call(&Caller::Kubelet, &path(n), ""), StatusCode::OK, None);
    }
    assert!(remembered(&door) <= LISTS);
}

/// What a service proxy reads of `path`, as far as its answer begins: its code, and its address of an endpoint.
async fn reads(door: &Door, path: &str) -> (u16, String) {
    let request = door.request("GET", path, "proxy").header(header::USER_AGENT, "kube-proxy/v1");
    let asked = door.two().await.send_request(request.body(empty()).unwrap()).await.unwrap();
    let code = asked.status().as_u16();
    if path.contains("watch") {
        return (code, String::new());
    }
    let bytes = asked.into_body().collect().await.unwrap().to_bytes();
    let list: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let address = list["items"][0]["subsets"][0]["addresses"][0]["ip"].as_str().unwrap_or_default();
    (code, address.to_owned())
}

/// As where the address cannot be had for a while after a start.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_the_address_was_there_is_read_anew() {
    let answers = |head: http::request::Parts| {
        let watch = head.uri.query().unwrap_or_default().contains("watch");
        let endpoints = json!({"metadata": {"name": "kubernetes", "namespace": "default", "resourceVersion": "7"},
            "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "https", "port": 6443}]}]});
        let list = json!({"apiVersion": "v1", "kind": "EndpointsList", "metadata": {"resourceVersion": "7"},
            "items": [endpoints]});
        let event = json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"resourceVersion": "7"}}});
        let answered = answer_json(200, if watch { &event } else { &list });
        Box::pin(std::future::ready(answered)) as _
    };
    let cloud = Cloud::new(Arc::new(answers)).await;
    let door = Door::new(&cloud, Limits::PODS, true).await;
    let goes_on = format!("{ENDPOINTS}?{GOES_ON}");
    assert_eq!(reads(&door, ENDPOINTS).await, (200, "10.0.0.1".into()));
    assert_eq!(reads(&door, &goes_on).await.0, 200);
    let shared = &door.proxy.shared;
    let mut ends = shared.mode_changes.subscribe();
    assert!(shared.in_cluster.begin(shared, "169.254.64.45:6445".parse().unwrap()));
    assert!(ends.has_changed().unwrap(), "watches that are answered here end");
    // And so do those that the cloud answers, once the cache has come to it.
    shared.cache.flush().await.unwrap();
    ends.mark_unchanged();
    assert_eq!(reads(&door, &goes_on).await.0, 410, "it must not go on with the cloud's address");
    assert_eq!(reads(&door, ENDPOINTS).await, (200, "169.254.64.45".into()));
    assert_eq!(reads(&door, &goes_on).await.0, 200);
    shared.cache.flush().await.unwrap();
    let shown = shared.cache.read(|reader| reader.meta(SHOWN_META));
    assert_eq!(shown.await.unwrap().as_deref(), Some("169.254.64.45:6445"), "for the daemon after this one");
}

#[test]
fn what_the_daemon_before_showed_stays_unless_this_one_is_to_show_something_else() {
    let address = "169.254.64.45:6445";
    let stale = |showed: &str, address: Option<&str>| {
        let door = InCluster::new(showed.into(), address.map(|a| a.parse().unwrap()));
        door.is_stale(&call(&bearer("proxy"), ENDPOINTS, GOES_ON))
    };
    assert!(!stale(address, Some(address)) && !stale("", None));
    assert!(!stale("", Some(address)), "not before it is there");
    assert!(stale(address, None) && stale(address, Some("169.254.64.46:6445")));
}
