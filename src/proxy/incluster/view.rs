//! The few objects that this node sees otherwise than the cloud has them, so that its pods find edge and trust it.
//!
//! Pure: which requests are about them, and what becomes of an object. What is kept, and the cloud, have the objects as
//! they are; only answers on their way to kubelet and to the node's service proxy are changed.

use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::kube::{ResourceRequest, Verb, meta};
use crate::proxy::caller::Caller;
use crate::sys::yaml;

/// The Service by which pods know the API server, its endpoints and their slice.
const SERVICE: &str = "kubernetes";
/// Where it is.
const NAMESPACE: &str = "default";
/// What every pod gets as the authority of the API server.
const ROOT_CA: &str = "kube-root-ca.crt";
/// Where kubeadm keeps the kubeconfig of kube-proxy.
const PROXY_CONFIG: &str = "kube-proxy";
/// In which namespace.
const PROXY_NAMESPACE: &str = "kube-system";
/// The type of Secrets with a token of a service account.
const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";
/// The authority that pods have from [`ROOT_CA`], or from such a Secret.
pub const POD_AUTHORITY: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// What the pods of this node are to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Where edge serves them.
    pub address: SocketAddr,
    /// edge's authority, PEM.
    pub authority: String,
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
    /// Secrets with a token of a service account and the authority beside it, to kubelet, which mounts them: of old each
    /// pod has its authority from there.
    Secret,
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
            ("", "v1", "secrets") if kubelet => Self::Secret,
            ("", "v1", "endpoints") if is_service_proxy(caller, agent) => Self::Endpoints,
            ("discovery.k8s.io", _, "endpointslices") if is_service_proxy(caller, agent) => Self::Slice,
            _ => return None,
        };
        target.may_be_in(request).then_some(target)
    }

    /// Whether what is asked for can hold such an object: a kubelet watches each ConfigMap by itself.
    fn may_be_in(self, request: &ResourceRequest) -> bool {
        let is_mounted = matches!(self, Self::ConfigMap | Self::Secret);
        if !is_mounted && !matches!(request.namespace.as_deref(), None | Some(NAMESPACE)) {
            return false;
        }
        let fields = request.query.field_selector.as_deref().unwrap_or_default();
        let selected = fields.split(',').find_map(|term| term.strip_prefix("metadata.name="));
        match request.name.as_deref().or(selected) {
            None => true,
            Some(name) => self.names().contains(&name) || matches!(self, Self::Slice | Self::Secret),
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Service | Self::Endpoints | Self::Slice => &[SERVICE],
            Self::ConfigMap => &[ROOT_CA, PROXY_CONFIG],
            // They have any name.
            Self::Secret => &[],
        }
    }

    /// Whether the bytes of an object can be such an object, without reading it.
    pub fn may_be(self, object: &[u8]) -> bool {
        let marks = if self == Self::Secret { &[TOKEN_TYPE] } else { self.names() };
        marks.iter().any(|mark| object.windows(mark.len()).any(|part| part == mark.as_bytes()))
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
            Self::ConfigMap if name == PROXY_CONFIG && meta::namespace(object) == Some(PROXY_NAMESPACE) => {
                return view.kubeconfigs(object);
            }
            Self::Secret if object.get("type").and_then(Value::as_str) == Some(TOKEN_TYPE) => {
                return view.packed_authority(object);
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

    /// The same where it is in base64, as all data of Secrets.
    fn packed_authority(&self, object: &mut Value) -> bool {
        let Some(Value::String(packed)) = object.pointer_mut("/data/ca.crt") else { return false };
        let Ok(mut text) = BASE64.decode(packed.as_bytes()) else { return false };
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
        text.extend_from_slice(self.authority.as_bytes());
        *packed = BASE64.encode(text);
        true
    }

    /// Kubeconfigs that trust what pods trust lead to edge, under whatever name they had the cloud: a cluster's API server
    /// has many, and nobody else has a certificate of that authority.
    fn kubeconfigs(&self, object: &mut Value) -> bool {
        let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) else { return false };
        let mut shown = false;
        for value in data.values_mut() {
            let Some(mut kubeconfig) = value.as_str().and_then(kubeconfig) else { continue };
            let all = kubeconfig.get_mut("clusters").and_then(Value::as_array_mut).into_iter().flatten();
            let own = all.filter_map(|one| one.get_mut("cluster")).filter(|cluster| trusts_as_pods(cluster));
            let mut led = false;
            for cluster in own.filter_map(Value::as_object_mut) {
                cluster.insert("server".into(), json!(format!("https://{}", self.address)));
                // How the cloud was reached and what it was called there.
                cluster.remove("tls-server-name");
                cluster.remove("proxy-url");
                led = true;
            }
            if led {
                // JSON is YAML too.
                *value = json!(format!("{kubeconfig:#}\n"));
                shown = true;
            }
        }
        shown
    }
}

/// Whether kube-proxy has a kubeconfig that does not trust what pods trust, and so is not led to edge. `None` of any other
/// object.
pub fn is_astray(object: &Value) -> Option<bool> {
    let own = meta::namespace(object) == Some(PROXY_NAMESPACE) && meta::name(object) == Some(PROXY_CONFIG);
    let data = object.get("data").and_then(Value::as_object).filter(|_| own)?;
    let all: Vec<Value> = data.values().filter_map(Value::as_str).filter_map(kubeconfig).collect();
    let clusters = all.iter().filter_map(|one| one["clusters"].as_array()).flatten();
    Some(clusters.filter_map(|one| one.get("cluster")).any(|cluster| !trusts_as_pods(cluster)))
}

/// A text that is a kubeconfig.
fn kubeconfig(text: &str) -> Option<Value> {
    if !text.contains("clusters") {
        return None;
    }
    yaml::read::<Value>(text).ok().filter(|read| read.get("clusters").is_some_and(Value::is_array))
}

fn trusts_as_pods(cluster: &Value) -> bool {
    cluster.get("certificate-authority").and_then(Value::as_str) == Some(POD_AUTHORITY)
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
#[path = "view_tests.rs"]
mod tests;
