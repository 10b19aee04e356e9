//! What a pod needs of the API server before its containers can start, read off its spec and its volumes.
//!
//! Pure: names only. Whether they are there is the caller's to find out.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::meta;

/// What one pod needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Names of ConfigMaps in the pod's namespace.
    pub configmaps: BTreeSet<String>,
    /// Names of Secrets in the pod's namespace: those for pulling images, and those that mount its volumes, among them.
    pub secrets: BTreeSet<String>,
    /// Names of PersistentVolumeClaims in the pod's namespace.
    pub claims: BTreeSet<String>,
    /// Storage drivers of the volumes that it names itself.
    pub drivers: BTreeSet<String>,
    /// TokenRequests for the pod's service account, as a kubelet makes them.
    pub tokens: Vec<Value>,
}

impl Needs {
    /// What `pod` needs.
    pub fn of(pod: &Value) -> Self {
        let mut needs = Self::default();
        for container in ["containers", "initContainers", "ephemeralContainers"]
            .iter()
            .flat_map(|field| list(pod, &format!("/spec/{field}")))
        {
            needs.environment(container);
        }
        for volume in list(pod, "/spec/volumes") {
            needs.volume(pod, volume);
        }
        let pulls = list(pod, "/spec/imagePullSecrets").filter_map(|secret| text(secret, "/name"));
        needs.secrets.extend(pulls);
        needs
    }

    fn environment(&mut self, container: &Value) {
        for variable in list(container, "/env") {
            self.configmaps.extend(text(variable, "/valueFrom/configMapKeyRef/name"));
            self.secrets.extend(text(variable, "/valueFrom/secretKeyRef/name"));
        }
        for all in list(container, "/envFrom") {
            self.configmaps.extend(text(all, "/configMapRef/name"));
            self.secrets.extend(text(all, "/secretRef/name"));
        }
    }

    fn volume(&mut self, pod: &Value, volume: &Value) {
        self.configmaps.extend(text(volume, "/configMap/name"));
        // Whatever the kind of volume is, a Secret of it stands in one of these places.
        for source in volume.as_object().into_iter().flat_map(serde_json::Map::values) {
            for at in ["/secretName", "/secretRef/name", "/nodePublishSecretRef/name"] {
                self.secrets.extend(text(source, at));
            }
        }
        self.drivers.extend(text(volume, "/csi/driver"));
        self.claims.extend(text(volume, "/persistentVolumeClaim/claimName"));
        if volume.get("ephemeral").is_some() {
            // Kubernetes makes the claim under this name.
            let name = text(volume, "/name").unwrap_or_default();
            self.claims.insert(format!("{}-{name}", meta::name(pod).unwrap_or_default()));
        }
        for source in list(volume, "/projected/sources") {
            self.configmaps.extend(text(source, "/configMap/name"));
            self.secrets.extend(text(source, "/secret/name"));
            if let Some(token) = source.get("serviceAccountToken") {
                self.tokens.push(token_request(pod, token));
            }
        }
    }
}

/// The Secrets by which a node mounts, stages and expands a PersistentVolume: namespace and name. Those of the controller
/// are not a node's to read.
pub fn volume_secrets(volume: &Value) -> Vec<(String, String)> {
    let own = text(volume, "/spec/claimRef/namespace");
    let mut secrets = Vec::new();
    let spec = volume.get("spec").and_then(Value::as_object);
    for source in spec.into_iter().flat_map(serde_json::Map::values) {
        for field in ["secretRef", "nodeStageSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"] {
            let namespace = text(source, &format!("/{field}/namespace")).or_else(|| own.clone());
            secrets.extend(namespace.zip(text(source, &format!("/{field}/name"))));
        }
        let namespace = text(source, "/secretNamespace").or_else(|| own.clone());
        secrets.extend(namespace.zip(text(source, "/secretName")));
    }
    secrets
}

/// The VolumeAttachment by which a kubelet sees that a PersistentVolume is attached to `node`; none where its `driver`, a
/// CSIDriver, attaches nothing. Kubernetes names it so.
pub fn attachment(volume: &Value, driver: Option<&Value>, node: &str) -> Option<String> {
    let attaches = driver.and_then(|driver| driver.pointer("/spec/attachRequired")?.as_bool());
    if attaches == Some(false) {
        return None;
    }
    let (handle, driver) = (text(volume, "/spec/csi/volumeHandle")?, text(volume, "/spec/csi/driver")?);
    let digest = Sha256::digest(format!("{handle}{driver}{node}"));
    Some(format!("csi-{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}

/// The TokenRequests that a kubelet makes for `pod` when it mounts a volume of `driver`, a CSIDriver.
pub fn driver_tokens(pod: &Value, driver: &Value) -> Vec<Value> {
    list(driver, "/spec/tokenRequests").map(|token| token_request(pod, token)).collect()
}

/// The same request that a kubelet makes for this projection, so that its answer is found by it.
fn token_request(pod: &Value, token: &Value) -> Value {
    let audiences: Vec<String> = text(token, "/audience").into_iter().collect();
    let mut spec = json!({
        "audiences": audiences,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta::name(pod), "uid": meta::uid(pod)},
    });
    if let Some(seconds) = token.get("expirationSeconds") {
        spec["expirationSeconds"] = seconds.clone();
    }
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_a_pod_names_is_found() {
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}}]}],
            "containers": [{"envFrom": [{"configMapRef": {"name": "c1"}}, {"secretRef": {"name": "s2"}}],
                "env": [{"name": "B", "value": "plain"},
                    {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c2", "key": "k"}}}]}],
            "ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "s3"}}]}],
            "volumes": [
                {"name": "a", "configMap": {"name": "c3"}},
                {"name": "b", "secret": {"secretName": "s4"}},
                {"name": "d", "persistentVolumeClaim": {"claimName": "disk"}},
                {"name": "e", "ephemeral": {"volumeClaimTemplate": {}}},
                {"name": "f", "projected": {"sources": [
                    {"configMap": {"name": "c4"}}, {"secret": {"name": "s5"}},
                    {"serviceAccountToken": {"path": "t", "audience": "x", "expirationSeconds": 600}},
                    {"serviceAccountToken": {"path": "u", "expirationSeconds": 3607}}]}},
                {"name": "g", "emptyDir": {}},
                {"name": "h", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s6"}}},
                {"name": "i", "iscsi": {"secretRef": {"name": "s7"}}},
                {"name": "j", "azureFile": {"secretName": "s8"}}]}});
        let needs = Needs::of(&pod);
        let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&needs.configmaps), "c1 c2 c3 c4");
        assert_eq!(names(&needs.secrets), "pull s1 s2 s3 s4 s5 s6 s7 s8");
        assert_eq!(names(&needs.claims), "disk p-e");
        assert_eq!(names(&needs.drivers), "d");
        let asked: Vec<_> = needs.tokens.iter().map(|token| &token["spec"]).collect();
        assert_eq!((&asked[0]["audiences"], &asked[0]["expirationSeconds"]), (&json!(["x"]), &json!(600)));
        assert_eq!((&asked[1]["audiences"], &asked[1]["boundObjectRef"]["uid"]), (&json!([]), &json!("u")));
        assert_eq!(Needs::of(&json!({})), Needs::default());
    }

    #[test]
    fn each_secret_by_which_a_node_mounts_a_volume_is_found() {
        let secrets = |source: Value| {
            let mut spec =
                json!({"capacity": {"storage": "1Gi"}, "claimRef": {"namespace": "own", "name": "c"}});
            spec.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
            let found = volume_secrets(&json!({"metadata": {"name": "pv"}, "spec": spec}));
            found.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect::<Vec<_>>().join(" ")
        };
        let of = |name: &str| json!({"namespace": "ceph", "name": name});
        let csi = json!({"csi": {"driver": "d", "nodeStageSecretRef": of("stage"),
            "nodePublishSecretRef": of("publish"), "nodeExpandSecretRef": of("expand"),
            "controllerPublishSecretRef": of("x"), "controllerExpandSecretRef": of("y")}});
        assert_eq!(secrets(csi), "ceph/stage ceph/publish ceph/expand");
        assert_eq!(secrets(json!({"iscsi": {"secretRef": {"name": "chap"}}})), "own/chap");
        assert_eq!(secrets(json!({"rbd": {"secretRef": of("user")}})), "ceph/user");
        assert_eq!(secrets(json!({"azureFile": {"secretName": "a", "secretNamespace": "b"}})), "b/a");
        assert_eq!(secrets(json!({"azureFile": {"secretName": "a"}})), "own/a");
        assert_eq!(secrets(json!({"nfs": {"server": "s"}})), "");
    }

    #[test]
    fn an_attachment_has_the_name_that_kubernetes_gives_it() {
        let volume = json!({"spec": {"csi": {"driver": "rbd.csi", "volumeHandle": "h"}}});
        let name = "csi-4944676fb3b95cd8cb7834a407942e4e8f7f0c150fd8835b1c753d555ec011b0";
        assert_eq!(attachment(&volume, None, "n").as_deref(), Some(name));
        let driver = |attaches: bool| json!({"spec": {"attachRequired": attaches}});
        assert_eq!(attachment(&volume, Some(&driver(true)), "n").as_deref(), Some(name));
        assert_eq!(attachment(&volume, Some(&driver(false)), "n"), None);
        assert_eq!(attachment(&json!({"spec": {"nfs": {}}}), None, "n"), None);
    }

    #[test]
    fn a_driver_has_tokens_as_kubelet_asks_for_them() {
        let pod = json!({"metadata": {"name": "p", "uid": "u"}});
        let driver = json!({"spec": {"tokenRequests": [{"audience": ""}, {"audience": "vault", "expirationSeconds": 600}]}});
        let asked = driver_tokens(&pod, &driver);
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"});
        assert_eq!(asked[0]["spec"], json!({"audiences": [], "boundObjectRef": bound}));
        let second = json!({"audiences": ["vault"], "expirationSeconds": 600, "boundObjectRef": bound});
        assert_eq!(asked[1]["spec"], second);
        assert!(driver_tokens(&pod, &json!({"spec": {}})).is_empty());
    }
}
