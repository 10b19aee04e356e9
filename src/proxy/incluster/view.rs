//! The few objects that this node sees otherwise than the cloud has them, so that its pods find edge and trust it.
//!
//! Pure: which requests are about them, and what becomes of an object. What is kept, and the cloud, have the objects as
//! they are; only answers on their way to kubelet and to the node's service proxy are changed.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::kube::{ResourceRequest, Verb, meta};
use crate::proxy::caller::Caller;

/// The Service by which pods know the API server, its endpoints and their slice.
const SERVICE: &str = "kubernetes";
/// Where it is.
const NAMESPACE: &str = "default";
/// What every pod gets as the authority of the API server.
const ROOT_CA: &str = "kube-root-ca.crt";
/// Where kubeadm keeps the kubeconfig of kube-proxy.
const PROXY_CONFIG: &str = "kube-proxy";
/// The authority that pods have from [`ROOT_CA`].
const POD_AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// What the pods of this node are to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Where edge serves them.
    pub address: SocketAddr,
    /// edge's authority, PEM.
    pub authority: String,
    /// The cloud's address, as kubeconfigs have it; without a slash at its end.
    pub cloud: String,
}

/// One of the objects that are shown otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The Service, to kubelet: it becomes `KUBERNETES_SERVICE_HOST` and `_PORT` of containers.
    Service,
    /// The Endpoints of that Service, to the service proxy.
    Endpoints,
    /// Their EndpointSlice, to the service proxy.
    Slice,
    /// ConfigMaps with the authority of the API server or a kubeconfig, to kubelet, which mounts them.
    ConfigMap,
}

impl Target {
    /// What a request is about that is shown otherwise to this caller; `agent` is its User-Agent.
    pub fn of(caller: &Caller, agent: &str, request: &ResourceRequest) -> Option<Self> {
        if request.subresource.is_some() {
            return None;
        }
        let gvr = &request.gvr;
        let kubelet = *caller == Caller::Kubelet;
        let target = match (gvr.group.as_str(), gvr.version.as_str(), gvr.resource.as_str()) {
            ("", "v1", "services") if kubelet => Self::Service,
            ("", "v1", "configmaps") if kubelet => Self::ConfigMap,
            ("", "v1", "endpoints") if is_service_proxy(caller, agent) => Self::Endpoints,
            ("discovery.k8s.io", _, "endpointslices") if is_service_proxy(caller, agent) => Self::Slice,
            _ => return None,
        };
        target.may_be_in(request).then_some(target)
    }

    /// Whether what is asked for can hold such an object: a kubelet watches each ConfigMap by itself.
    fn may_be_in(self, request: &ResourceRequest) -> bool {
        if self != Self::ConfigMap && !matches!(request.namespace.as_deref(), None | Some(NAMESPACE)) {
            return false;
        }
        let fields = request.query.field_selector.as_deref().unwrap_or_default();
        let selected = fields.split(',').find_map(|term| term.strip_prefix("metadata.name="));
        match request.name.as_deref().or(selected) {
            None => true,
            Some(name) => self.names().contains(&name) || self == Self::Slice,
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Service | Self::Endpoints | Self::Slice => &[SERVICE],
            Self::ConfigMap => &[ROOT_CA, PROXY_CONFIG],
        }
    }

    /// Whether the bytes of an object can be such an object, without reading it.
    pub fn may_be(self, object: &[u8]) -> bool {
        self.names().iter().any(|name| object.windows(name.len()).any(|part| part == name.as_bytes()))
    }

    /// Shows `object` as `view` has it; false if it is none of those.
    pub fn show(self, view: &View, object: &mut Value) -> bool {
        let name = meta::name(object).unwrap_or_default();
        let own = meta::namespace(object) == Some(NAMESPACE);
        match self {
            Self::Service if own && name == SERVICE => return view.service(object),
            Self::Endpoints if own && name == SERVICE => return view.endpoints(object),
            Self::Slice if own && meta::label(object, "kubernetes.io/service-name") == Some(SERVICE) => {
                return view.slice(object);
            }
            Self::ConfigMap if name == ROOT_CA => view.authority(object),
            Self::ConfigMap if name == PROXY_CONFIG && meta::namespace(object) == Some("kube-system") => {
                return view.kubeconfigs(object);
            }
            _ => return false,
        }
        true
    }

    /// The addresses that the Service has in the cloud; none of any other object.
    pub fn addresses(self, object: &Value) -> Vec<String> {
        if self != Self::Service {
            return Vec::new();
        }
        let all = object.pointer("/spec/clusterIPs").and_then(Value::as_array);
        let all = all.into_iter().flatten().chain(object.pointer("/spec/clusterIP"));
        all.filter_map(Value::as_str).filter(|ip| ip.parse::<IpAddr>().is_ok()).map(str::to_owned).collect()
    }

    /// Whether a request would write one of those objects as it was shown: it must not reach the cloud.
    pub fn is_written_by(self, request: &ResourceRequest) -> bool {
        let by_name =
            request.name.as_deref().is_some_and(|name| self.names().contains(&name) || self == Self::Slice);
        by_name && matches!(request.verb, Verb::Update | Verb::Patch)
    }
}

/// Whether this is the program that makes Services work on this node: by its account, and by what it calls itself,
/// since accounts may have any name.
fn is_service_proxy(caller: &Caller, agent: &str) -> bool {
    let Caller::Bearer(bearer) = caller else { return false };
    let identity = bearer.identity();
    let account = identity.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split('/').next());
    account == Some("kube-system:kube-proxy") || agent.split('/').next() == Some("kube-proxy")
}

impl View {
    /// Whether the Service is of another family than the address: its pods may have none of that family. `None` of any
    /// other object.
    pub fn is_foreign(&self, object: &Value) -> Option<bool> {
        let own = meta::namespace(object) == Some(NAMESPACE) && meta::name(object) == Some(SERVICE);
        own.then(|| self.is_other(object.pointer("/spec/clusterIP")))
    }

    fn is_other(&self, ip: Option<&Value>) -> bool {
        let ip = ip.and_then(Value::as_str).and_then(|ip| ip.parse::<IpAddr>().ok());
        ip.is_some_and(|ip| ip.is_ipv4() != self.address.is_ipv4())
    }

    fn family(&self) -> &'static str {
        if self.address.is_ipv4() { "IPv4" } else { "IPv6" }
    }

    fn service(&self, object: &mut Value) -> bool {
        if self.is_other(object.pointer("/spec/clusterIP")) {
            return false;
        }
        let (ip, port) = (self.address.ip().to_string(), self.address.port());
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return false };
        spec.insert("clusterIP".into(), json!(ip));
        spec.insert("clusterIPs".into(), json!([ip]));
        spec.insert("ipFamilies".into(), json!([self.family()]));
        set_ports(spec.get_mut("ports"), port);
        true
    }

    fn endpoints(&self, object: &mut Value) -> bool {
        let ip = self.address.ip().to_string();
        let Some(subset) = object.pointer_mut("/subsets/0") else { return false };
        if self.is_other(subset.pointer("/addresses/0/ip")) {
            return false;
        }
        subset["addresses"] = json!([{"ip": ip}]);
        if let Some(subset) = subset.as_object_mut() {
            subset.remove("notReadyAddresses");
            set_ports(subset.get_mut("ports"), self.address.port());
        }
        if let Some(subsets) = object.get_mut("subsets").and_then(Value::as_array_mut) {
            subsets.truncate(1);
        }
        true
    }

    /// A slice of another family stays: no address of it leads here.
    fn slice(&self, object: &mut Value) -> bool {
        if object.get("addressType").and_then(Value::as_str) != Some(self.family()) {
            return false;
        }
        let ip = self.address.ip().to_string();
        object["endpoints"] = json!([{"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false}}]);
        set_ports(object.get_mut("ports"), self.address.port());
        true
    }

    fn authority(&self, object: &mut Value) {
        let Some(Value::String(text)) = object.pointer_mut("/data/ca.crt") else { return };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&self.authority);
    }

    /// Kubeconfigs that lead to the cloud and trust what pods trust lead to edge.
    fn kubeconfigs(&self, object: &mut Value) -> bool {
        let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) else { return false };
        let mut shown = false;
        for value in data.values_mut() {
            let Value::String(text) = value else { continue };
            if !text.contains(POD_AUTHORITY) {
                continue;
            }
            let lines = text.lines().map(|line| match line.trim_start().strip_prefix("server:") {
                Some(server) if same_server(server, &self.cloud) => {
                    shown = true;
                    let indent = line.len() - line.trim_start().len();
                    format!("{}server: https://{}\n", &line[..indent], self.address)
                }
                _ => format!("{line}\n"),
            });
            *text = lines.collect();
        }
        shown
    }
}

fn same_server(written: &str, cloud: &str) -> bool {
    written.trim().trim_matches(['"', '\'']).trim_end_matches('/') == cloud
}

/// The port called `https`, or the only one.
fn set_ports(ports: Option<&mut Value>, port: u16) {
    let Some(ports) = ports.and_then(Value::as_array_mut) else { return };
    if ports.iter().any(|p| p.get("name") == Some(&json!("https"))) {
        ports.retain(|p| p.get("name") == Some(&json!("https")));
    }
    ports.truncate(1);
    for one in ports {
        one["port"] = json!(port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::Request;

    fn view() -> View {
        View {
            address: "169.254.64.45:6445".parse().unwrap(),
            authority: "EDGE\n".into(),
            cloud: "https://cloud:6443".into(),
        }
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
        assert_eq!(
            (four["endpoints"].as_array().unwrap().len(), &four["ports"][0]["port"]),
            (1, &json!(6445))
        );
        assert!(!Target::Slice.show(&view(), &mut six));
    }

    #[test]
    fn pods_trust_both_and_kubeadms_kube_proxy_comes_here() {
        let mut root = json!({"metadata": {"name": ROOT_CA, "namespace": "a"}, "data": {"ca.crt": "CLOUD"}});
        assert!(Target::ConfigMap.show(&view(), &mut root));
        assert_eq!(root["data"]["ca.crt"], "CLOUD\nEDGE\n");
        let text = format!(
            "clusters:\n- cluster:\n    certificate-authority: {POD_AUTHORITY}\n    server: https://cloud:6443\n"
        );
        let mut map = json!({"metadata": {"name": "kube-proxy", "namespace": "kube-system"},
            "data": {"kubeconfig.conf": text, "config.conf": "mode: iptables\n"}});
        assert!(Target::ConfigMap.show(&view(), &mut map));
        assert!(
            map["data"]["kubeconfig.conf"]
                .as_str()
                .unwrap()
                .contains("    server: https://169.254.64.45:6445\n")
        );
        assert_eq!(map["data"]["config.conf"], "mode: iptables\n");
        map["data"]["kubeconfig.conf"] = json!(text.replace("cloud:6443", "other:6443"));
        assert!(!Target::ConfigMap.show(&view(), &mut map), "another API server is none of edge's");
    }
}
