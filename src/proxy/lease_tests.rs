//! Who holds a lease here, and how much of them there may be.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;

use super::*;
use crate::kube::Request;

struct Place {
    _folder: tempfile::TempDir,
    cache: Cache,
    leases: Leases,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), folder.path()).unwrap().cache;
        Self { _folder: folder, cache, leases: Leases::default() }
    }

    async fn ask(&self, who: &Caller, method: &str, name: &str, body: Value) -> Result<Value, u16> {
        self.input(who, method, name, Input::Object(body)).await
    }

    async fn input(&self, who: &Caller, method: &str, name: &str, input: Input) -> Result<Value, u16> {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/ns/leases{name}");
        let request = Request::parse(method, &path, "");
        match self.leases.answer(&self.cache, who, request.resource().unwrap(), &input).await {
            Ok((_, lease)) => Ok(lease),
            Err(Refused::Status(failure)) => Err(failure.code),
            Err(Refused::Cache(error)) => unreachable!("{error}"),
        }
    }
}

/// A pod's token.
fn pod(account: &str, uid: &str) -> Caller {
    let claims = json!({"sub": format!("system:serviceaccount:ns:{account}"),
        "kubernetes.io": {"pod": {"uid": uid}}});
    let token = format!("Bearer e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut headers = HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, token.parse().unwrap());
    Caller::of(false, &headers).unwrap()
}

fn lease(name: &str, holder: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
        "spec": {"holderIdentity": holder}})
}

fn held_by(lease: &Value, holder: &str) -> Value {
    let mut lease = lease.clone();
    lease["spec"]["holderIdentity"] = json!(holder);
    lease
}

#[tokio::test]
async fn of_two_replicas_one_leads() {
    let place = Place::new();
    let (one, two, other) = (pod("operator", "u1"), pod("operator", "u2"), pod("other", "u3"));
    let first = place.ask(&one, "POST", "", lease("lead", "one")).await.unwrap();
    assert_eq!(place.ask(&two, "POST", "", lease("lead", "two")).await, Err(409));
    let seen = place.ask(&two, "GET", "/lead", Value::Null).await.unwrap();
    assert_eq!(seen, first);
    let renewed = place.ask(&one, "PUT", "/lead", held_by(&first, "one")).await.unwrap();
    assert_ne!(renewed["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(place.ask(&two, "PUT", "/lead", held_by(&seen, "two")).await, Err(409), "renewed meanwhile");
    let stale = json!({"metadata": {"resourceVersion": seen["metadata"]["resourceVersion"]},
        "spec": {"holderIdentity": "two"}});
    let stale = Input::Patch(PatchType::Merge, stale);
    assert_eq!(place.input(&two, "PATCH", "/lead", stale).await, Err(409));
    let taken = place.ask(&two, "PUT", "/lead", held_by(&renewed, "two")).await.unwrap();
    assert_eq!(taken["spec"]["holderIdentity"], "two", "after the first one is late");
    assert_eq!(place.ask(&one, "PUT", "/lead", held_by(&renewed, "one")).await, Err(409), "it leads no more");
    assert_eq!(
        place.ask(&other, "GET", "/lead", Value::Null).await,
        Err(404),
        "another account's is another's"
    );
    place.leases.clear();
    assert_eq!(place.ask(&one, "GET", "/lead", Value::Null).await, Err(404));
}

#[tokio::test]
async fn what_another_manager_applied_is_taken_by_force_alone() {
    let place = Place::new();
    let one = pod("operator", "u1");
    let apply = |manager: &str, force, holder: &str| {
        Input::Apply(FieldManager { name: manager.into(), force }, lease("lead", holder))
    };
    for (manager, force, expected) in [
        ("a", false, None),
        ("b", false, Some(409)),
        ("a", false, None),
        ("b", true, None),
        ("a", false, Some(409)),
    ] {
        let code = place.input(&one, "PATCH", "/lead", apply(manager, force, manager)).await.err();
        assert_eq!(code, expected, "{manager} {force}");
    }
}

#[tokio::test]
async fn no_client_fills_the_memory_or_stands_in_kubelets_way() {
    let place = Place::new();
    let big = |name: &str| {
        let mut lease = lease(name, "x");
        lease["metadata"]["annotations"] = json!({"a": "x".repeat(1 << 20)});
        lease
    };
    let mut codes = std::collections::BTreeMap::<Option<u16>, u32>::new();
    for n in 0..300 {
        let client = pod(&format!("client-{}", n % 30), "u");
        let name = format!("lease-{n}");
        assert_eq!(place.ask(&client, "POST", "", big(&name)).await, Err(413));
        let code = place.ask(&client, "POST", "", lease(&name, "x")).await.err();
        *codes.entry(code).or_default() += 1;
    }
    assert_eq!(codes, [(None, 256), (Some(503), 44)].into());
    let one = pod("one", "u");
    assert_eq!(place.ask(&one, "POST", "", lease("more", "x")).await, Err(503));
    let node = place.ask(&Caller::Kubelet, "POST", "", lease("node", "node")).await.unwrap();
    let beat = place.ask(&Caller::Kubelet, "PUT", "/node", held_by(&node, "node")).await.unwrap();
    assert_eq!(beat["metadata"], node["metadata"]);
    place.leases.clear();
    for n in 0..LIMIT_EACH {
        place.ask(&one, "POST", "", lease(&format!("l{n}"), "x")).await.unwrap();
    }
    assert_eq!(place.ask(&one, "POST", "", lease("more", "x")).await, Err(503));
    place.ask(&pod("two", "u"), "POST", "", lease("more", "x")).await.unwrap();
}
