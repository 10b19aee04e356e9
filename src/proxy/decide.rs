//! What to do with a request: a function of the request, of who calls and of the link.

use crate::kube::{Request, ResourceRequest, Verb};

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send it to the cloud, and keep what the answer tells.
    Forward,
    /// Answer it from the cache.
    Replay,
    /// Say that what answers is alive.
    Live,
    /// Take it here, keep it, and tell the cloud later.
    Local(Local),
    /// Sign the kubelet's own certificate here if it asks for that, whatever the link is.
    Sign,
    /// Answer with a failure.
    Refuse(Refusal),
}

/// What is taken here while the cloud is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// A heartbeat: kept in memory, because the cloud needs none that is old.
    Lease,
    /// A patch or new status of an object that is known here.
    Edit,
    /// The status of an object, told by another client than kubelet: an operator.
    Status,
    /// The deletion of a pod whose containers are gone.
    DeletePod,
    /// The mirror of a static pod.
    MirrorPod,
    /// What the node says of its storage drivers.
    CsiNode,
    /// An event, kept up to a bound.
    Event,
    /// A service account's token: the last real one.
    Token,
    /// Whether somebody may use the kubelet's own port: nobody whom the cloud has not cleared.
    Review,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Needs the cloud: 503, try again.
    Offline,
    /// The node is registered: 409, so that the kubelet goes on with what is there.
    NodeExists,
    /// Acting as somebody else needs the cloud's judgement: 403.
    Impersonation,
}

/// Who asks, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The kubelet of this node.
    Kubelet,
    /// A client with a token of its own.
    Other,
}

/// Decides. `outage` is whether the cloud is away; with offline mode off it is never called.
pub fn decide(request: &Request, who: Who, outage: bool, impersonates: bool) -> Action {
    if let Some(resource) = request.resource()
        && who == Who::Kubelet
        && is_signing(resource)
    {
        return Action::Sign;
    }
    if !outage {
        return Action::Forward;
    }
    if impersonates {
        return Action::Refuse(Refusal::Impersonation);
    }
    match request {
        Request::NonResource { path, .. } if is_liveness(path) => Action::Live,
        Request::NonResource { .. } => Action::Replay,
        Request::Resource(resource) => decide_offline(resource, who),
    }
}

/// Whether somebody asks if what he speaks to is alive, which it is: it answers. Clients that hear anything else begin all
/// their connections anew (Cilium), or have themselves restarted (Calico), for as long as the outage lasts. Whether the
/// API server is ready (`/readyz`) is another question.
fn is_liveness(path: &str) -> bool {
    matches!(path, "/livez" | "/healthz")
}

/// Certificates of the kubelet's client are made here, and read back here.
fn is_signing(request: &ResourceRequest) -> bool {
    let gvr = &request.gvr;
    gvr.group == "certificates.k8s.io"
        && gvr.resource == "certificatesigningrequests"
        && request.subresource.is_none()
        && matches!(request.verb, Verb::Create | Verb::Get | Verb::List | Verb::Watch)
}

fn decide_offline(request: &ResourceRequest, who: Who) -> Action {
    let gvr = &request.gvr;
    let subresource = request.subresource.as_deref().unwrap_or_default();
    match (gvr.group.as_str(), gvr.resource.as_str(), subresource, request.verb) {
        ("coordination.k8s.io", "leases", "", Verb::Get | Verb::Create | Verb::Update | Verb::Patch) => {
            Action::Local(Local::Lease)
        }
        ("" | "events.k8s.io", "events", "", Verb::Create | Verb::Patch | Verb::Update) => {
            Action::Local(Local::Event)
        }
        ("certificates.k8s.io", "certificatesigningrequests", _, _) => Action::Refuse(Refusal::Offline),
        (_, _, "", Verb::Get | Verb::List | Verb::Watch) => Action::Replay,
        // What is read there is the whole object.
        (_, _, "status", Verb::Get) => Action::Replay,
        (_, _, _, _) if who == Who::Kubelet => decide_kubelet_write(request, subresource),
        (_, _, "status", Verb::Patch | Verb::Update) => Action::Local(Local::Status),
        _ => Action::Refuse(Refusal::Offline),
    }
}

fn decide_kubelet_write(request: &ResourceRequest, subresource: &str) -> Action {
    let gvr = &request.gvr;
    match (gvr.group.as_str(), gvr.resource.as_str(), subresource, request.verb) {
        ("", "nodes", "", Verb::Create) => Action::Refuse(Refusal::NodeExists),
        // Of a claim: a volume that is to grow is grown when it is mounted, and this is part of mounting it.
        ("", "nodes", "" | "status", Verb::Patch | Verb::Update)
        | ("", "pods" | "persistentvolumeclaims", "status", Verb::Patch | Verb::Update) => {
            Action::Local(Local::Edit)
        }
        ("", "pods", "", Verb::Delete) => Action::Local(Local::DeletePod),
        ("", "pods", "", Verb::Create) => Action::Local(Local::MirrorPod),
        ("", "serviceaccounts", "token", Verb::Create) => Action::Local(Local::Token),
        ("storage.k8s.io", "csinodes", "", Verb::Create | Verb::Update | Verb::Patch) => {
            Action::Local(Local::CsiNode)
        }
        ("authentication.k8s.io", "tokenreviews", "", Verb::Create)
        | ("authorization.k8s.io", "subjectaccessreviews", "", Verb::Create) => Action::Local(Local::Review),
        _ => Action::Refuse(Refusal::Offline),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFLINE: Action = Action::Refuse(Refusal::Offline);

    /// Method, path and query, and what the kubelet gets for it offline: the table of what kubelets
    /// ask for, row by row.
    const KUBELET: &[(&str, &str, &str, Action)] = &[
        ("GET", "/api/v1/nodes", "watch=true&fieldSelector=metadata.name%3Dn", Action::Replay),
        ("GET", "/api/v1/pods", "fieldSelector=spec.nodeName%3Dn", Action::Replay),
        ("GET", "/api/v1/services", "", Action::Replay),
        ("GET", "/apis/node.k8s.io/v1/runtimeclasses", "", Action::Replay),
        ("GET", "/api/v1/namespaces/a/secrets/s", "", Action::Replay),
        ("GET", "/api/v1/persistentvolumes/p", "", Action::Replay),
        ("GET", "/apis/storage.k8s.io/v1/csinodes/n", "", Action::Replay),
        ("POST", "/apis/storage.k8s.io/v1/csinodes", "", Action::Local(Local::CsiNode)),
        ("PUT", "/apis/storage.k8s.io/v1/csinodes/n", "", Action::Local(Local::CsiNode)),
        ("POST", "/api/v1/nodes", "", Action::Refuse(Refusal::NodeExists)),
        ("PATCH", "/api/v1/nodes/n/status", "", Action::Local(Local::Edit)),
        ("PATCH", "/api/v1/nodes/n", "", Action::Local(Local::Edit)),
        (
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n",
            "",
            Action::Local(Local::Lease),
        ),
        (
            "POST",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
            "",
            Action::Local(Local::Lease),
        ),
        (
            "GET",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n",
            "",
            Action::Local(Local::Lease),
        ),
        ("GET", "/api/v1/namespaces/a/pods/p", "", Action::Replay),
        ("PATCH", "/api/v1/namespaces/a/pods/p/status", "", Action::Local(Local::Edit)),
        ("PATCH", "/api/v1/namespaces/a/persistentvolumeclaims/c/status", "", Action::Local(Local::Edit)),
        ("PATCH", "/api/v1/namespaces/a/persistentvolumeclaims/c", "", OFFLINE),
        ("DELETE", "/api/v1/namespaces/a/pods/p", "", Action::Local(Local::DeletePod)),
        ("POST", "/api/v1/namespaces/a/pods", "", Action::Local(Local::MirrorPod)),
        ("POST", "/api/v1/namespaces/a/serviceaccounts/s/token", "", Action::Local(Local::Token)),
        ("GET", "/api/v1/namespaces/a/serviceaccounts/s", "", Action::Replay),
        ("POST", "/api/v1/namespaces/a/events", "", Action::Local(Local::Event)),
        ("PATCH", "/api/v1/namespaces/a/events/e", "", Action::Local(Local::Event)),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", "", Action::Local(Local::Review)),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", "", Action::Local(Local::Review)),
        ("POST", "/apis/certificates.k8s.io/v1/certificatesigningrequests", "", Action::Sign),
        ("DELETE", "/apis/certificates.k8s.io/v1/certificatesigningrequests/c", "", OFFLINE),
        ("GET", "/apis", "", Action::Replay),
        ("GET", "/version", "", Action::Replay),
        ("GET", "/livez", "", Action::Live),
        ("GET", "/healthz", "timeout=5s", Action::Live),
        ("GET", "/readyz", "", Action::Replay),
        ("GET", "/livez/etcd", "", Action::Replay),
        ("GET", "/apis/resource.k8s.io/v1/namespaces/a/resourceclaims/c", "", Action::Replay),
        ("POST", "/apis/certificates.k8s.io/v1beta1/namespaces/a/podcertificaterequests", "", OFFLINE),
        ("GET", "/apis/certificates.k8s.io/v1beta1/clustertrustbundles", "watch=true", Action::Replay),
        ("POST", "/apis/resource.k8s.io/v1/resourceslices", "", OFFLINE),
        ("GET", "/api/v1/namespaces/a/pods/p/status", "", Action::Replay),
        ("GET", "/api/v1/namespaces/a/pods/p/log", "", OFFLINE),
        ("POST", "/api/v1/namespaces/a/pods/p/exec", "command=sh", OFFLINE),
        ("DELETE", "/api/v1/namespaces/a/configmaps/c", "", OFFLINE),
        // Whole collections: which objects that would be, only the cloud knows.
        ("DELETE", "/api/v1/namespaces/a/pods", "", OFFLINE),
        ("DELETE", "/api/v1/namespaces/a/events", "labelSelector=a%3Db", OFFLINE),
        ("DELETE", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", "", OFFLINE),
        ("DELETE", "/apis/storage.k8s.io/v1/csinodes", "", OFFLINE),
        ("PATCH", "/apis/apps/v1/namespaces/a/deployments/d", "", OFFLINE),
    ];

    #[test]
    fn the_kubelet_offline() {
        for (method, path, query, expected) in KUBELET {
            let request = Request::parse(method, path, query);
            assert_eq!(decide(&request, Who::Kubelet, true, false), *expected, "{method} {path}?{query}");
        }
    }

    #[test]
    fn online_all_goes_up_but_the_kubelets_own_certificate() {
        for (method, path, query, offline) in KUBELET {
            let request = Request::parse(method, path, query);
            let expected = if *offline == Action::Sign { Action::Sign } else { Action::Forward };
            assert_eq!(decide(&request, Who::Kubelet, false, false), expected, "{method} {path}");
            assert_eq!(decide(&request, Who::Other, false, false), Action::Forward, "{method} {path}");
        }
    }

    #[test]
    fn others_offline_read_beat_tell_and_say_how_things_are_and_nothing_else() {
        for (method, path, query, kubelet) in KUBELET {
            let expected = match kubelet {
                Action::Replay | Action::Live => *kubelet,
                Action::Local(Local::Lease | Local::Event) => *kubelet,
                Action::Local(Local::Edit) if path.ends_with("/status") => Action::Local(Local::Status),
                _ => OFFLINE,
            };
            let request = Request::parse(method, path, query);
            assert_eq!(decide(&request, Who::Other, true, false), expected, "{method} {path}");
            let refused = decide(&request, Who::Other, true, true);
            assert_eq!(refused, Action::Refuse(Refusal::Impersonation), "{method} {path}");
        }
    }
}
