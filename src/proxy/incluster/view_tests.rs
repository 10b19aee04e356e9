use super::*;
use crate::kube::Request;

fn view() -> View {
    View { address: "169.254.64.45:6445".parse().unwrap(), authority: "EDGE\n".into() }
}

fn target(caller: &Caller, agent: &str, path: &str, query: &str) -> Option<Target> {
    Target::of(caller, agent, Request::parse("GET", path, query).resource().unwrap())
}

fn bearer() -> Caller {
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, "Bearer x".parse().unwrap());
    Caller::of(false, &headers).unwrap()
}

#[test]
fn each_is_shown_only_what_it_needs() {
    let (kubelet, other) = (Caller::Kubelet, bearer());
    let slices = "/apis/discovery.k8s.io/v1/endpointslices";
    assert_eq!(target(&kubelet, "kubelet/v1", "/api/v1/services", ""), Some(Target::Service));
    assert_eq!(target(&kubelet, "kubelet/v1", "/api/v1/namespaces/a/services", ""), None);
    assert_eq!(target(&other, "kube-proxy/v1", "/api/v1/services", ""), None);
    assert_eq!(target(&other, "kube-proxy/v1", slices, ""), Some(Target::Slice));
    assert_eq!(target(&other, "operator/v1", slices, ""), None, "an operator sees the cloud's truth");
    let maps = "/api/v1/namespaces/a/configmaps";
    let named = |name: &str| target(&kubelet, "", maps, &format!("fieldSelector=metadata.name%3D{name}"));
    assert_eq!(named(ROOT_CA), Some(Target::ConfigMap));
    assert_eq!(named("settings"), None);
}

#[test]
fn the_service_leads_to_edge_and_keeps_its_version() {
    let mut service = json!({"metadata": {"name": "kubernetes", "namespace": "default", "resourceVersion": "7"},
        "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ports": [{"name": "https", "port": 443, "targetPort": 6443}]}});
    assert!(Target::Service.show(&view(), &mut service));
    assert_eq!(service["spec"]["clusterIP"], "169.254.64.45");
    assert_eq!(service["spec"]["ports"][0]["port"], 6445);
    assert_eq!(service["metadata"]["resourceVersion"], "7");
    service["metadata"]["namespace"] = json!("other");
    assert!(!Target::Service.show(&view(), &mut service));
}

#[test]
fn a_service_of_another_family_stays_and_is_known_as_such() {
    let service = |ip: &str| {
        json!({"metadata": {"name": SERVICE, "namespace": NAMESPACE}, "spec": {"clusterIP": ip,
            "clusterIPs": [ip], "ipFamilies": ["x"], "ports": [{"name": "https", "port": 443}]}})
    };
    let endpoints = |ip: &str| json!({"metadata": {"name": SERVICE, "namespace": NAMESPACE}, "subsets": [{"addresses": [{"ip": ip}]}]});
    let six = View { address: "[fd69::45]:6445".parse().unwrap(), ..view() };
    for (view, own, other) in [(view(), "10.96.0.1", "fd00::1"), (six, "fd00::1", "10.96.0.1")] {
        let mut foreign = service(other);
        assert_eq!(view.is_foreign(&foreign), Some(true));
        assert!(!Target::Service.show(&view, &mut foreign) && foreign == service(other));
        assert!(!Target::Endpoints.show(&view, &mut endpoints(other)));
        let mut shown = service(own);
        assert_eq!(view.is_foreign(&shown), Some(false));
        assert!(Target::Service.show(&view, &mut shown));
        assert_eq!(shown["spec"]["clusterIP"], view.address.ip().to_string());
        assert_eq!(shown["spec"]["ipFamilies"], json!([view.family()]));
        assert!(Target::Endpoints.show(&view, &mut endpoints(own)));
    }
    assert_eq!(view().is_foreign(&json!({"metadata": {"name": "web", "namespace": NAMESPACE}})), None);
}

#[test]
fn endpoints_of_another_family_stay() {
    let slice = |kind: &str| {
        json!({"metadata": {"name": "kubernetes-x", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"}}, "addressType": kind,
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
            "ports": [{"name": "https", "port": 6443}]})
    };
    let (mut four, mut six) = (slice("IPv4"), slice("IPv6"));
    assert!(Target::Slice.show(&view(), &mut four));
    assert_eq!(four["endpoints"][0]["addresses"], json!(["169.254.64.45"]));
    assert_eq!((four["endpoints"].as_array().unwrap().len(), &four["ports"][0]["port"]), (1, &json!(6445)));
    assert!(!Target::Slice.show(&view(), &mut six));
}

#[test]
fn pods_trust_both_and_kubeadms_kube_proxy_comes_here() {
    let mut root = json!({"metadata": {"name": ROOT_CA, "namespace": "a"}, "data": {"ca.crt": "CLOUD"}});
    assert!(Target::ConfigMap.show(&view(), &mut root));
    assert_eq!(root["data"]["ca.crt"], "CLOUD\nEDGE\n");
    let text = |trusts: &str, server: &str| {
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster:\n    {trusts}\n    server: {server}\n    \
             tls-server-name: cloud\nusers:\n- name: default\n  user: {{tokenFile: /token}}\n"
        )
    };
    let map = |text: &str| {
        json!({"metadata": {"name": "kube-proxy", "namespace": "kube-system"},
            "data": {"kubeconfig.conf": text, "config.conf": "mode: iptables\n"}})
    };
    let trusts = format!("certificate-authority: {POD_AUTHORITY}");
    for server in
        ["https://cloud:6443", "https://CLOUD", "https://api.of.the.cluster:443/", "\"https://10.0.0.1\""]
    {
        let mut shown = map(&text(&trusts, server));
        assert_eq!(is_astray(&shown), Some(false));
        assert!(Target::ConfigMap.show(&view(), &mut shown), "{server}");
        let read: Value = yaml::read(shown["data"]["kubeconfig.conf"].as_str().unwrap()).unwrap();
        let cluster = json!({"certificate-authority": POD_AUTHORITY, "server": "https://169.254.64.45:6445"});
        assert_eq!(read["clusters"][0], json!({"name": "default", "cluster": cluster}));
        assert_eq!(read["users"][0]["user"]["tokenFile"], "/token");
        assert_eq!(shown["data"]["config.conf"], "mode: iptables\n");
    }
    let mut other = map(&text("certificate-authority-data: eA==", "https://cloud:6443"));
    assert_eq!(is_astray(&other), Some(true), "which is told of");
    let as_it_is = other.clone();
    assert!(!Target::ConfigMap.show(&view(), &mut other), "it would not trust edge");
    assert_eq!(other, as_it_is);
    assert_eq!(
        is_astray(&json!({"metadata": {"name": ROOT_CA, "namespace": "kube-system"}, "data": {}})),
        None
    );
}

#[test]
fn the_token_secrets_of_old_hold_both_authorities_too() {
    let secrets = "/api/v1/namespaces/a/secrets";
    let named = |caller: &Caller| target(caller, "", secrets, "fieldSelector=metadata.name%3Dweb-token-x7");
    assert_eq!(named(&Caller::Kubelet), Some(Target::Secret), "of any name");
    assert_eq!(named(&bearer()), None, "a program that reads Secrets sees the cloud's truth");
    let secret = |kind: &str| {
        json!({"metadata": {"name": "web-token-x7", "namespace": "a", "resourceVersion": "7"}, "type": kind,
            "data": {"ca.crt": BASE64.encode("CLOUD"), "token": BASE64.encode("t")}})
    };
    let mut shown = secret(TOKEN_TYPE);
    assert!(Target::Secret.may_be(shown.to_string().as_bytes()) && Target::Secret.show(&view(), &mut shown));
    assert_eq!(shown["data"]["ca.crt"], BASE64.encode("CLOUD\nEDGE\n"));
    assert_eq!(shown["data"]["token"], BASE64.encode("t"));
    let mut other = secret("kubernetes.io/tls");
    assert!(!Target::Secret.show(&view(), &mut other) && other == secret("kubernetes.io/tls"));
    let update = Request::parse("PUT", "/api/v1/namespaces/a/secrets/web-token-x7", "");
    assert!(!Target::Secret.is_written_by(update.resource().unwrap()), "kubelet writes none");
}
