//! Which images pods need, and what must be pinned and unpinned for that. Pure.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cri::Named;

/// The label by which edge knows its own pins again.
pub const OWN: (&str, &str) = ("io.edge.pinned", "edge");

/// The images that some pods need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// Names as containerd writes them: `docker.io/library/nginx:latest`.
    pub names: BTreeSet<String>,
    /// Digests of manifests, `sha256:…`, from pods that name one and from what the kubelet resolved.
    pub digests: BTreeSet<String>,
}

/// What is to be changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// To be pinned.
    pub pin: Vec<Named>,
    /// To be given free.
    pub unpin: Vec<Named>,
}

/// The images of `pods`: of containers of every kind and of image volumes, by name, and by the digest that a running
/// container resolved to.
pub fn needed(pods: &[Value]) -> Needed {
    let mut needed = Needed::default();
    for pod in pods {
        let list = |path: &str| pod.pointer(path).and_then(Value::as_array).into_iter().flatten();
        for containers in ["/spec/containers", "/spec/initContainers", "/spec/ephemeralContainers"] {
            list(containers).filter_map(|c| c["image"].as_str()).for_each(|image| needed.add(image));
        }
        let volumes = list("/spec/volumes").filter_map(|v| v["image"]["reference"].as_str());
        volumes.for_each(|image| needed.add(image));
        let statuses = [
            "/status/containerStatuses",
            "/status/initContainerStatuses",
            "/status/ephemeralContainerStatuses",
        ];
        for status in statuses.iter().flat_map(|path| list(path)) {
            if let Some(id) = status["imageID"].as_str() {
                needed.add_resolved(id);
            }
        }
    }
    needed
}

impl Needed {
    fn add(&mut self, image: &str) {
        if let Some((_, digest)) = image.split_once('@') {
            self.digests.insert(digest.to_owned());
        }
        self.names.insert(normalised(image));
    }

    /// `name@digest`, or the bare digest of a configuration, which containerd has as a name.
    fn add_resolved(&mut self, id: &str) {
        let id = id.split_once("://").map_or(id, |(_, id)| id);
        match id.split_once('@') {
            Some((_, digest)) => self.digests.insert(digest.to_owned()),
            None if id.starts_with("sha256:") => self.names.insert(id.to_owned()),
            None => false,
        };
    }

    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.digests.is_empty()
    }

    /// Whether a name in the store is one of them.
    pub fn has(&self, named: &Named) -> bool {
        self.names.contains(&named.name) || self.digests.contains(&named.digest)
    }
}

/// What must change in the store so that exactly the needed images carry edge's pin.
pub fn plan(needed: &Needed, store: &[Named]) -> Changes {
    let mut changes = Changes::default();
    for named in store {
        match (needed.has(named), named.is_pinned(), is_own(named)) {
            // Somebody else's pin serves as well, and goes on being theirs.
            (true, false, _) => changes.pin.push(named.clone()),
            (false, _, true) => changes.unpin.push(named.clone()),
            _ => {}
        }
    }
    changes
}

/// Whether edge has pinned it, or was about to.
pub fn is_own(named: &Named) -> bool {
    named.labels.get(OWN.0).is_some_and(|value| value == OWN.1)
}

/// An image's name in full, as containerd and the kubelet read it: `nginx` is `docker.io/library/nginx:latest`.
pub fn normalised(image: &str) -> String {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, digest)| (name, Some(digest)));
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (first, path.to_owned()),
        Some(_) => ("docker.io", name.to_owned()),
        None => ("docker.io", format!("library/{name}")),
    };
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    let path = if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
    let last = path.rsplit('/').next().unwrap_or(&path);
    match (digest, last.contains(':')) {
        // With a digest the tag says nothing: containerd keeps the name without it.
        (Some(digest), _) => {
            let untagged = last.split(':').next().map_or(0, str::len);
            let cut = path.len() - last.len() + untagged;
            format!("{registry}/{}@{digest}", &path[..cut])
        }
        (None, true) => format!("{registry}/{path}"),
        (None, false) => format!("{registry}/{path}:latest"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;
    use crate::cri::PINNED;

    #[test]
    fn names_are_read_as_the_runtime_reads_them() {
        for (given, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("bitnami/redis", "docker.io/bitnami/redis:latest"),
            ("localhost/pause:1", "localhost/pause:1"),
            ("localhost:5000/a", "localhost:5000/a:latest"),
            ("registry.test/edge/app:1", "registry.test/edge/app:1"),
            ("nginx@sha256:aa", "docker.io/library/nginx@sha256:aa"),
            ("registry.test:5000/a/b:1@sha256:aa", "registry.test:5000/a/b@sha256:aa"),
        ] {
            assert_eq!(normalised(given), full, "{given}");
        }
    }

    fn named(name: &str, digest: &str, labels: &[(&str, &str)]) -> Named {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Named {
            name: name.to_owned(),
            digest: digest.to_owned(),
            labels: HashMap::from_iter(labels),
            ..Named::default()
        }
    }

    #[test]
    fn every_kind_of_image_counts() {
        let pod = json!({
            "spec": {
                "containers": [{"image": "nginx"}], "initContainers": [{"image": "init:1"}],
                "ephemeralContainers": [{"image": "debug:1"}],
                "volumes": [{"image": {"reference": "registry.test/data:1"}}, {"emptyDir": {}}],
            },
            "status": {"containerStatuses": [{"imageID": "docker.io/library/nginx@sha256:aa"}],
                       "initContainerStatuses": [{"imageID": "sha256:bb"}]},
        });
        let needed = needed(&[pod]);
        let names: Vec<&str> = needed.names.iter().map(String::as_str).collect();
        let wanted = [
            "docker.io/library/debug:1",
            "docker.io/library/init:1",
            "docker.io/library/nginx:latest",
            "registry.test/data:1",
            "sha256:bb",
        ];
        assert_eq!(names, wanted);
        assert!(needed.has(&named("whatever", "sha256:aa", &[])), "by what it resolved to");
    }

    #[test]
    fn only_edges_own_pins_are_given_free() {
        let needed =
            needed(&[json!({"spec": {"containers": [{"image": "a"}, {"image": "b"}, {"image": "c"}]}})]);
        let store = [
            named("docker.io/library/a:latest", "1", &[]),
            named("docker.io/library/b:latest", "2", &[PINNED, OWN]),
            named("docker.io/library/c:latest", "3", &[PINNED]),
            named("docker.io/library/old:1", "4", &[PINNED, OWN]),
            named("docker.io/library/pause:1", "5", &[PINNED]),
            named("docker.io/library/other:1", "6", &[]),
            named("docker.io/library/half:1", "7", &[OWN]),
        ];
        let changes = plan(&needed, &store);
        let names = |changed: &[Named]| changed.iter().map(|n| n.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&changes.pin), ["docker.io/library/a:latest"]);
        assert_eq!(names(&changes.unpin), ["docker.io/library/old:1", "docker.io/library/half:1"]);
    }
}
