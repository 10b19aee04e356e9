//! What a pod needs of the API server before its containers can start, read off its spec.
//!
//! Pure: names only. Whether they are there is the caller's to find out.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::meta;

/// What one pod needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Names of ConfigMaps in the pod's namespace.
    pub configmaps: BTreeSet<String>,
    /// Names of Secrets in the pod's namespace, those for pulling images among them.
    pub secrets: BTreeSet<String>,
    /// Names of PersistentVolumeClaims in the pod's namespace.
    pub claims: BTreeSet<String>,
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
        self.secrets.extend(text(volume, "/secret/secretName"));
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
                {"name": "g", "emptyDir": {}}]}});
        let needs = Needs::of(&pod);
        let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&needs.configmaps), "c1 c2 c3 c4");
        assert_eq!(names(&needs.secrets), "pull s1 s2 s3 s4 s5");
        assert_eq!(names(&needs.claims), "disk p-e");
        let asked: Vec<_> = needs.tokens.iter().map(|token| &token["spec"]).collect();
        assert_eq!((&asked[0]["audiences"], &asked[0]["expirationSeconds"]), (&json!(["x"]), &json!(600)));
        assert_eq!((&asked[1]["audiences"], &asked[1]["boundObjectRef"]["uid"]), (&json!([]), &json!("u")));
        assert_eq!(Needs::of(&json!({})), Needs::default());
    }
}
