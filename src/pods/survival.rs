//! Which pods would not survive an outage, why, and the patch that mends it.
//!
//! Said while the cloud is there, because afterwards it is too late: an image that is always pulled cannot be
//! pulled, unless edge has it and the runtime asks edge, and a pod that does not tolerate an unreachable node
//! is evicted by the cloud as soon as it hears of the node again.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::kube::meta;
use crate::oci::Reference;

/// Taints that the cloud puts on a node it does not hear from.
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// Why a pod would not survive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risk {
    /// `namespace/name` of the pod.
    pub pod: String,
    /// What would happen, and through what.
    pub reason: String,
    /// What mends it: `kubectl` arguments; empty where no patch can.
    pub mend: Vec<String>,
    /// What mends it on this node alone: arguments of `edge`; empty where nothing does.
    pub restart: Vec<String>,
}

/// The images that a node has without its registries.
#[derive(Clone, Debug, Default)]
pub struct Images {
    /// The runtime's, by every name they have. `None` where it could not be asked.
    names: Option<Vec<Reference>>,
    /// Those that the runtime is given here when it pulls them, as pods name them.
    served: BTreeSet<String>,
}

impl Images {
    /// From the tags and digests that the runtime lists.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let names = names.into_iter().filter_map(|name| name.parse().ok()).collect();
        Self { names: Some(names), served: BTreeSet::new() }
    }

    /// With those that the runtime is given here when it pulls them, as [`named`] has them.
    pub fn with_served(self, served: BTreeSet<String>) -> Self {
        Self { served, ..self }
    }

    /// Whether the image that a pod names is here; also if that cannot be known.
    fn has(&self, image: &str) -> bool {
        if self.served.contains(image) {
            return true;
        }
        let (Some(names), Ok(wanted)) = (&self.names, image.parse::<Reference>()) else { return true };
        names.iter().any(|name| {
            name.repository() == wanted.repository()
                && match &wanted.digest {
                    Some(digest) => name.digest.as_ref() == Some(digest),
                    None => name.digest.is_none() && name.name() == wanted.name(),
                }
        })
    }
}

/// The images that a pod names, of its containers and its volumes.
pub fn named(pod: &Value) -> impl Iterator<Item = &str> {
    let images = containers(pod).map(|(_, container)| text(container, "image"));
    images.chain(image_volumes(pod).map(|(_, image)| text(image, "reference")))
}

/// Everything that would keep `pod` from surviving.
pub fn risks(pod: &Value, images: &Images) -> Vec<Risk> {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") || meta::deletion_timestamp(pod).is_some() {
        return Vec::new();
    }
    let name = name_of(pod);
    let found = [always_pulled(pod, images), absent(pod, images), untolerated(pod)];
    found
        .into_iter()
        .flatten()
        .map(|(reason, patch)| Risk {
            pod: name.clone(),
            reason,
            mend: mend(pod, patch),
            restart: Vec::new(),
        })
        .collect()
}

/// `namespace/name`.
pub(super) fn name_of(pod: &Value) -> String {
    format!("{}/{}", meta::namespace(pod).unwrap_or_default(), meta::name(pod).unwrap_or_default())
}

pub(super) fn containers(pod: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    ["initContainers", "containers"].into_iter().flat_map(move |list| {
        let all = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        all.into_iter().flatten().map(move |container| (list, container))
    })
}

/// Volumes that are images, each with its image.
fn image_volumes(pod: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let all = pod.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten();
    all.filter_map(|volume| Some((text(volume, "name"), volume.get("image")?)))
}

pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn always_pulled(pod: &Value, images: &Images) -> Option<(String, Option<Value>)> {
    let is_far = |image: &str| !images.served.contains(image);
    let always: Vec<(&str, &str)> = containers(pod)
        .filter(|(_, container)| text(container, "imagePullPolicy") == "Always")
        .filter(|(_, container)| is_far(text(container, "image")))
        .map(|(list, container)| (list, text(container, "name")))
        .collect();
    let volumes: Vec<&str> = image_volumes(pod)
        .filter(|(_, image)| text(image, "pullPolicy") == "Always" && is_far(text(image, "reference")))
        .map(|(name, _)| name)
        .collect();
    if always.is_empty() && volumes.is_empty() {
        return None;
    }
    let mut patch = json!({});
    if !volumes.is_empty() {
        let entry = |name: &&str| json!({"name": name, "image": {"pullPolicy": "IfNotPresent"}});
        patch["volumes"] = volumes.iter().map(entry).collect();
    }
    for (list, name) in &always {
        let entry = json!({"name": name, "imagePullPolicy": "IfNotPresent"});
        match patch.get_mut(*list).and_then(Value::as_array_mut) {
            Some(entries) => entries.push(entry),
            None => patch[*list] = json!([entry]),
        }
    }
    let names: Vec<&str> = always.iter().map(|(_, name)| *name).chain(volumes).collect();
    let reason = format!("imagePullPolicy Always of {}: cannot start without the registry", names.join(", "));
    Some((reason, Some(patch)))
}

fn absent(pod: &Value, images: &Images) -> Option<(String, Option<Value>)> {
    let mut absent: Vec<&str> = named(pod).filter(|image| !images.has(image)).collect();
    absent.dedup();
    (!absent.is_empty()).then(|| (format!("image {} is not on this node", absent.join(", ")), None))
}

fn untolerated(pod: &Value) -> Option<(String, Option<Value>)> {
    let tolerations = pod.pointer("/spec/tolerations").and_then(Value::as_array);
    let tolerations = tolerations.map(Vec::as_slice).unwrap_or_default();
    let missing: Vec<&str> =
        TAINTS.into_iter().filter(|taint| !tolerates_for_ever(tolerations, taint)).collect();
    if missing.is_empty() {
        return None;
    }
    // The list is replaced as a whole, so what it had stays in it; behind, since the first one counts.
    let forever = missing.iter().map(|key| json!({"key": key, "operator": "Exists", "effect": "NoExecute"}));
    // A pod's own may only be added to, and given other seconds: what a new one is but for those goes.
    let endless = |toleration: &Value| {
        let mut toleration = toleration.clone();
        if let Some(fields) = toleration.as_object_mut() {
            fields.remove("tolerationSeconds");
        }
        toleration
    };
    let mut all: Vec<Value> = forever.collect();
    let kept: Vec<Value> = tolerations.iter().filter(|t| !all.contains(&endless(t))).cloned().collect();
    all.extend(kept);
    let short: Vec<&str> = missing.iter().map(|key| key.rsplit('/').next().unwrap_or(key)).collect();
    let reason =
        format!("does not tolerate {} for ever: evicted when the cloud is back", short.join(" and "));
    Some((reason, Some(json!({"tolerations": all}))))
}

/// Of several tolerations of a taint the cloud takes the first, and its seconds.
fn tolerates_for_ever(tolerations: &[Value], taint: &str) -> bool {
    let first = tolerations.iter().find(|toleration| tolerates(toleration, taint));
    first.is_some_and(|toleration| toleration.get("tolerationSeconds").is_none_or(Value::is_null))
}

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let key = text(toleration, "key");
    let operator = text(toleration, "operator");
    let matches_key = key == taint || (key.is_empty() && operator == "Exists");
    // The taints carry no value.
    let matches_value = operator == "Exists" || text(toleration, "value").is_empty();
    matches_key && matches_value && matches!(text(toleration, "effect"), "" | "NoExecute")
}

/// The command that applies `patch` of a pod's spec where the pod comes from, or to the pod itself where that has no other
/// and can be changed: its tolerations can.
fn mend(pod: &Value, patch: Option<Value>) -> Vec<String> {
    let Some(patch) = patch else { return Vec::new() };
    let own = || {
        let can_be_changed = patch.as_object()?.keys().all(|field| field == "tolerations");
        can_be_changed.then(|| Some(("pod", meta::name(pod)?.to_owned())))?
    };
    let Some((kind, name)) = origin(pod).or_else(own) else { return Vec::new() };
    let patch = match kind {
        "pod" => json!({"spec": patch}),
        _ => json!({"spec": {"template": {"spec": patch}}}),
    };
    let words = ["-n", meta::namespace(pod).unwrap_or_default(), "patch", &format!("{kind}/{name}"), "-p"];
    words.into_iter().map(str::to_owned).chain([patch.to_string()]).collect()
}

/// What makes this pod and can be patched: its Deployment, StatefulSet or DaemonSet. A Job's template cannot be changed, and
/// what a bare ReplicaSet's would be changed to has no pod that is there.
fn origin(pod: &Value) -> Option<(&'static str, String)> {
    let owner = meta::controller(pod)?;
    let name = text(owner, "name");
    match text(owner, "kind") {
        "ReplicaSet" => {
            let hash = meta::label(pod, "pod-template-hash")?;
            Some(("deployment", name.strip_suffix(&format!("-{hash}"))?.to_owned()))
        }
        "StatefulSet" => Some(("statefulset", name.to_owned())),
        "DaemonSet" => Some(("daemonset", name.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: Value) -> Value {
        json!({"metadata": {"name": "web-1-a", "namespace": "ns", "labels": {"pod-template-hash": "1"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-1", "controller": true}]},
            "spec": spec, "status": {"phase": "Running"}})
    }

    fn forever() -> Value {
        json!([{"operator": "Exists", "effect": "NoExecute"}])
    }

    fn reasons(spec: Value, images: &Images) -> Vec<String> {
        risks(&pod(spec), images).into_iter().map(|risk| risk.reason).collect()
    }

    #[test]
    fn a_pod_that_needs_nothing_is_not_named() {
        let spec = json!({"tolerations": forever(),
            "containers": [{"name": "c", "image": "nginx", "imagePullPolicy": "IfNotPresent"}]});
        let images = Images::new(["docker.io/library/nginx:latest"]);
        assert_eq!(reasons(spec.clone(), &images), Vec::<String>::new());
        assert_eq!(reasons(spec, &Images::default()), Vec::<String>::new(), "not known is not absent");
    }

    #[test]
    fn each_risk_is_named_with_its_patch() {
        let seconds = json!([{"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "own", "operator": "Exists"}]);
        let spec = json!({"tolerations": seconds, "initContainers": [{"name": "i", "image": "a:1"}],
            "containers": [{"name": "c", "image": "b:1", "imagePullPolicy": "Always"}]});
        let found = risks(&pod(spec), &Images::new(["docker.io/library/a:1"]));
        let [always, absent, evicted] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(always.mend[..4], ["-n", "ns", "patch", "deployment/web"]);
        let patch: Value = serde_json::from_str(&always.mend[5]).unwrap();
        let containers = patch.pointer("/spec/template/spec/containers").unwrap();
        assert_eq!(*containers, json!([{"name": "c", "imagePullPolicy": "IfNotPresent"}]));
        assert_eq!(absent.reason, "image b:1 is not on this node");
        assert!(evicted.reason.contains("not-ready and unreachable"), "{}", evicted.reason);
        let patch: Value = serde_json::from_str(&evicted.mend[5]).unwrap();
        let all = patch.pointer("/spec/template/spec/tolerations").and_then(Value::as_array).unwrap();
        assert_eq!(all.len(), 3, "its own toleration stays");
    }

    #[test]
    fn a_volume_may_be_an_image() {
        let spec = json!({"tolerations": forever(), "containers": [{"name": "c", "image": "a:1"}], "volumes": [
            {"name": "data", "image": {"reference": "v:1", "pullPolicy": "Always"}}, {"name": "tmp", "emptyDir": {}}]});
        let found = risks(&pod(spec), &Images::new(["docker.io/library/a:1"]));
        let [always, absent] = found.as_slice() else { panic!("{found:?}") };
        let patch: Value = serde_json::from_str(&always.mend[5]).unwrap();
        let volumes = json!([{"name": "data", "image": {"pullPolicy": "IfNotPresent"}}]);
        assert_eq!(patch["spec"]["template"]["spec"], json!({"volumes": volumes}));
        assert_eq!(absent.reason, "image v:1 is not on this node");
    }

    #[test]
    fn what_the_runtime_is_given_here_may_be_pulled_and_absent() {
        let spec = json!({"tolerations": forever(),
            "containers": [{"name": "near", "image": "far.io/a:1", "imagePullPolicy": "Always"},
                           {"name": "far", "image": "far.io/b:1", "imagePullPolicy": "Always"}],
            "volumes": [{"name": "data", "image": {"reference": "far.io/v:1", "pullPolicy": "Always"}}]});
        let all = pod(spec.clone());
        assert_eq!(named(&all).collect::<Vec<_>>(), ["far.io/a:1", "far.io/b:1", "far.io/v:1"]);
        let served = |names: &[&str]| {
            Images::new([]).with_served(names.iter().map(|name| (*name).to_owned()).collect())
        };
        let some = reasons(spec.clone(), &served(&["far.io/a:1", "far.io/v:1"]));
        let expected = [
            "imagePullPolicy Always of far: cannot start without the registry",
            "image far.io/b:1 is not on this node",
        ];
        assert_eq!(some, expected);
        assert_eq!(reasons(spec, &served(&["far.io/a:1", "far.io/b:1", "far.io/v:1"])), Vec::<String>::new());
    }

    #[test]
    fn the_first_toleration_counts() {
        let short = json!({"operator": "Exists", "tolerationSeconds": 300});
        let long = json!({"operator": "Exists", "effect": "NoExecute"});
        let spec = |tolerations: [&Value; 2]| json!({"tolerations": tolerations});
        assert_eq!(reasons(spec([&long, &short]), &Images::default()), Vec::<String>::new());
        let found = risks(&pod(spec([&short, &long])), &Images::default());
        let patch: Value = serde_json::from_str(&found[0].mend[5]).unwrap();
        let mended = patch.pointer("/spec/template/spec").unwrap();
        assert_eq!(reasons(mended.clone(), &Images::default()), Vec::<String>::new(), "{mended}");
    }

    #[test]
    fn a_pod_that_nothing_makes_is_given_its_tolerations_itself() {
        let own = json!([{"key": TAINTS[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": TAINTS[1], "operator": "Equal", "effect": "NoExecute", "tolerationSeconds": 20}]);
        let mut bare = pod(json!({"tolerations": own,
            "containers": [{"name": "c", "image": "b:1", "imagePullPolicy": "Always"}]}));
        bare["metadata"].as_object_mut().unwrap().remove("ownerReferences");
        let found = risks(&bare, &Images::default());
        let [always, evicted] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(always.mend, Vec::<String>::new(), "the pull policy of a pod cannot be changed");
        assert_eq!(evicted.mend[..5], ["-n", "ns", "patch", "pod/web-1-a", "-p"]);
        let patch: Value = serde_json::from_str(&evicted.mend[5]).unwrap();
        let all = patch.pointer("/spec/tolerations").and_then(Value::as_array).unwrap();
        let forever = |taint| json!({"key": taint, "operator": "Exists", "effect": "NoExecute"});
        // The API server refuses a list that lacks one of its own.
        assert_eq!(all, &[forever(TAINTS[0]), forever(TAINTS[1]), own[1].clone()]);
    }

    #[test]
    fn finished_pods_are_at_no_risk() {
        let mut done = pod(json!({"containers": [{"name": "c", "imagePullPolicy": "Always"}]}));
        done["status"]["phase"] = json!("Succeeded");
        assert_eq!(risks(&done, &Images::default()), vec![]);
    }
}
