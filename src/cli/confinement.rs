//! What the strict snap was denied, and the line that allows it. AppArmor tells a program no more than "permission
//! denied", to root too; who reads that would look at the file's mode.

use std::path::Path;

/// Where each interface of the snap leads, and the plug to connect (snap/snapcraft.yaml).
const PLUGS: [(&str, &str); 8] = [
    ("/etc/kubernetes", "kubelet"),
    ("/var/lib/snapd/hostfs/var/lib/kubelet", "kubelet"),
    ("/etc/containerd", "containerd-config"),
    ("/run/containerd", "containerd"),
    ("/var/log", "log-observe"),
    ("/media", "removable-media"),
    ("/run/media", "removable-media"),
    ("/mnt", "removable-media"),
];

/// The snap that this process runs in, if that is edge's own, strict, and the caller root: anybody else may lack the
/// right itself.
pub fn of_this_process() -> Option<Denied> {
    let snap = super::own_snap().filter(|_| nix::unistd::geteuid().is_root())?;
    let strict = of_snap(Path::new(&std::env::var_os("SNAP")?)).is_some_and(|it| it == "strict");
    strict.then(|| Denied { common: snap.common.display().to_string() })
}

/// What the snap that is mounted at `snap` says of its confinement. Its description is YAML, which is JSON where edge-pack
/// has made it.
pub fn of_snap(snap: &Path) -> Option<String> {
    let text = std::fs::read_to_string(snap.join("meta/snap.yaml")).ok()?;
    let description: serde_json::Value = serde_saphyr::from_str(&text).ok()?;
    description["confinement"].as_str().map(str::to_owned)
}

/// Tells what to do about what a strict snap was denied.
pub struct Denied {
    /// Where the snap keeps what it has.
    common: String,
}

impl Denied {
    /// What allows what `message` says was denied; `None` if it says nothing of the kind.
    pub fn hint(&self, message: &str) -> Option<String> {
        if !["Permission denied", "Operation not permitted", "no permission"]
            .iter()
            .any(|no| message.contains(no))
        {
            return None;
        }
        let named = message.split('`').skip(1).step_by(2);
        let named = named.map(|named| (named, named.trim_start_matches("unix://")));
        let (named, path) = named
            .filter(|(_, path)| path.starts_with('/') && !Path::new(path).starts_with(&self.common))
            .last()?;
        let plug = PLUGS.iter().find(|(place, _)| Path::new(path).starts_with(place)).map(|(_, plug)| plug);
        Some(match plug {
            Some(plug) => format!("the snap is strict: `snap connect edge:{plug}`"),
            // Nobody can copy a socket.
            None if named.starts_with("unix://")
                || Path::new(path).extension().is_some_and(|it| it == "sock") =>
            {
                "the snap is strict and does not reach it: take the classic snap".to_owned()
            }
            None => format!("the snap is strict and does not reach it: put a copy below `{}`", self.common),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_says_it_in_yaml_or_in_json() {
        let snap = tempfile::tempdir().unwrap();
        assert_eq!(of_snap(snap.path()), None);
        let file = snap.path().join("meta/snap.yaml");
        std::fs::create_dir(snap.path().join("meta")).unwrap();
        let json =
            |of: &str| serde_json::to_string_pretty(&serde_json::json!({"confinement": of, "name": "edge"}));
        for (text, said) in [
            ("name: edge\nconfinement: classic\n", Some("classic")),
            ("name: edge\nconfinement: 'strict' # so\n", Some("strict")),
            (&json("classic").unwrap(), Some("classic")),
            (&json("strict").unwrap(), Some("strict")),
            ("name: edge\n", None),
        ] {
            crate::sys::durable::write(&file, text.as_bytes(), 0o600).unwrap();
            assert_eq!(of_snap(snap.path()).as_deref(), said, "{text}");
        }
    }

    #[test]
    fn what_was_denied_names_its_plug() {
        let denied = Denied { common: "/var/snap/edge/common".into() };
        for (message, hint) in [
            ("cannot read `/etc/kubernetes/kubelet.conf`: Permission denied (os error 13)", "edge:kubelet`"),
            ("cannot make folder `/etc/containerd/certs.d`: Permission denied", "edge:containerd-config`"),
            ("cannot read log `/var/log/pods/a_b_c/d`: Permission denied", "edge:log-observe`"),
            (
                "no permission to use the container runtime at `unix:///run/containerd/containerd.sock`",
                "edge:containerd`",
            ),
            (
                "no permission to use the container runtime at `unix:///run/crio/crio.sock`",
                "take the classic snap",
            ),
            ("cannot open `/media/stick/x`: Permission denied", "edge:removable-media`"),
            ("cannot read `/root/root.json`: Permission denied", "put a copy below `/var/snap/edge/common`"),
        ] {
            assert!(
                denied.hint(message).is_some_and(|told| told.ends_with(hint)),
                "{message}: {:?}",
                denied.hint(message)
            );
        }
        for message in [
            "cannot read `/etc/kubernetes/kubelet.conf`: No such file or directory",
            "cannot write `/var/snap/edge/common/edge.toml`: Permission denied",
            "Permission denied",
        ] {
            assert_eq!(denied.hint(message), None, "{message}");
        }
    }
}
