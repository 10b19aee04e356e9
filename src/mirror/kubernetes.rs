//! The images that Kubernetes itself consists of, by its version. Pure.
//!
//! What is not tagged with Kubernetes' own version stands in kubeadm's `constants.go` of each minor version.

use semver::Version;

/// The registry that they lie in.
const REGISTRY: &str = "registry.k8s.io";

/// Minor version of Kubernetes 1, tag of pause, tag of CoreDNS.
const MINORS: [(u64, &str, &str); 7] = [
    (30, "3.9", "v1.11.3"),
    (31, "3.10", "v1.11.3"),
    (32, "3.10", "v1.11.3"),
    (33, "3.10", "v1.12.0"),
    (34, "3.10.1", "v1.12.1"),
    (35, "3.10.1", "v1.13.1"),
    (36, "3.10.2", "v1.14.2"),
];

/// Those that carry Kubernetes' version as their tag.
const OWN: [&str; 4] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy"];

/// The images of `version` that `names` name, as repository and tag.
///
/// # Errors
/// The setting that makes no sense, below `mirror.kubernetes`, and why.
pub(super) fn images(version: &str, names: &[String]) -> Result<Vec<(String, String)>, (String, String)> {
    let parsed = super::filter::version(version).filter(|version| version.major == 1);
    let Some(parsed) = parsed else {
        return Err(("version".into(), format!("`{version}` is no version of Kubernetes such as `1.36.3`")));
    };
    let mut found = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let tag = tag(&parsed, name).map_err(|why| match why {
            Unknown::Name => {
                let known =
                    "pause, coredns, kube-proxy, kube-apiserver, kube-controller-manager, kube-scheduler";
                (format!("images[{at}]"), format!("`{name}` is none of {known}"))
            }
            Unknown::Minor => {
                let why =
                    format!("the `{name}` of `{version}` is not known hint: name it under `mirror.images`");
                ("version".into(), why)
            }
        })?;
        let path = if name == "coredns" { "coredns/coredns" } else { name };
        found.push((format!("{REGISTRY}/{path}"), tag));
    }
    Ok(found)
}

enum Unknown {
    Name,
    Minor,
}

fn tag(version: &Version, name: &str) -> Result<String, Unknown> {
    if OWN.contains(&name) {
        return Ok(format!("v{version}"));
    }
    if !["pause", "coredns"].contains(&name) {
        return Err(Unknown::Name);
    }
    let known = MINORS.iter().find(|(minor, ..)| *minor == version.minor).ok_or(Unknown::Minor)?;
    Ok(if name == "pause" { known.1 } else { known.2 }.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_its_images() {
        let names = ["pause", "kube-proxy", "coredns"].map(str::to_owned);
        let found = images("v1.36.3", &names).unwrap();
        let expected = [
            ("registry.k8s.io/pause", "3.10.2"),
            ("registry.k8s.io/kube-proxy", "v1.36.3"),
            ("registry.k8s.io/coredns/coredns", "v1.14.2"),
        ];
        assert_eq!(found, expected.map(|(repository, tag)| (repository.to_owned(), tag.to_owned())));
        for (version, name, key) in
            [("1", "pause", "version"), ("1.99.0", "pause", "version"), ("1.36.3", "x", "images[0]")]
        {
            assert_eq!(images(version, &[name.to_owned()]).unwrap_err().0, key);
        }
        assert_eq!(images("1.99.0", &["kube-proxy".to_owned()]).unwrap()[0].1, "v1.99.0");
    }
}
