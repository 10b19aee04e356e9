//! kubelet in the snap: its configuration, and what it is told.

use serde_json::{Map, Value, json};

use super::{Error, Joined, Places, Program};

/// kubelet's way to the API server, which `edge join` writes beside edge.toml. Without it kubelet runs static pods alone.
const KUBECONFIG: &str = "kubelet.kubeconfig";
/// Its configuration, which edge writes at each of its starts.
const CONFIG: &str = "kubelet/config.yaml";
/// What of it the cloud said, for the boots at which nothing else can be read that says it.
const SAID: [&str; 2] = ["clusterDNS", "clusterDomain"];
/// The name that the node joined with, for the boots at which nothing else can be read that says it.
const NODE_NAME: &str = "kubelet/node-name";
/// The authority by which kubelet knows the API server when that asks it something, if the owner puts one there.
const CLIENT_CA: &str = "kubelet/client-ca.crt";

/// Whether kubelet has a way to an API server.
pub fn has_joined(places: &Places) -> bool {
    places.own(KUBECONFIG).exists()
}

/// Lays out the folders and the configuration. A node that has joined has the name that the cloud signed for, whatever the
/// machine calls itself, and its pods the cluster's DNS: as `told`, or where nobody can say it now, as it was said the last time.
pub fn prepare(places: &Places, told: Option<&Joined>) -> Result<Program, Error> {
    for folder in ["kubelet", "kubelet/pki", "kubelet/root"] {
        places.make(folder, 0o700)?;
    }
    for folder in ["kubelet/manifests", "kubelet/config.d", "kubelet/plugins", "log", "log/pods"] {
        places.make(folder, 0o755)?;
    }
    let joined = has_joined(places);
    let (node_name, settings) = match told {
        Some(told) => {
            places.write(NODE_NAME, &told.node_name)?;
            (Some(told.node_name.clone()), told.settings.clone())
        }
        None => (places.read(NODE_NAME), if joined { said_before(places) } else { Map::new() }),
    };
    let file = places.write(CONFIG, &config(places, joined, settings))?;
    let own = |path: &str| places.own(path).display().to_string();
    let mut arguments = vec![
        format!("--config={}", file.display()),
        format!("--config-dir={}", own("kubelet/config.d")),
        format!("--root-dir={}", own("kubelet/root")),
        format!("--cert-dir={}", own("kubelet/pki")),
    ];
    if joined {
        arguments.push(format!("--kubeconfig={}", own(KUBECONFIG)));
        arguments.extend(node_name.map(|name| format!("--hostname-override={name}")));
    }
    places.program("usr/bin/kubelet", arguments)
}

fn said_before(places: &Places) -> Map<String, Value> {
    let config = places.read(CONFIG).and_then(|text| serde_json::from_str(&text).ok());
    let config: Map<String, Value> = config.unwrap_or_default();
    config.into_iter().filter(|(key, _)| SAID.contains(&key.as_str())).collect()
}

/// It is written as JSON, which is YAML.
fn config(places: &Places, joined: bool, settings: Map<String, Value>) -> String {
    let own = |path: &str| places.own(path).display().to_string();
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": places.endpoint(),
        // The snap does not speak to the host's systemd.
        "cgroupDriver": "cgroupfs",
        "failSwapOn": false,
        "staticPodPath": own("kubelet/manifests"),
        "podLogsDir": own("log/pods"),
        "volumePluginDir": own("kubelet/plugins"),
        // Who may ask kubelet something, only the API server can say: without one, nobody may.
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": joined}},
        "authorization": {"mode": if joined { "Webhook" } else { "AlwaysAllow" }},
    });
    if places.own(CLIENT_CA).exists() {
        config["authentication"]["x509"] = json!({"clientCAFile": own(CLIENT_CA)});
    }
    if let Some(config) = config.as_object_mut() {
        config.extend(settings);
    }
    format!("{config:#}\n")
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
mod tests {
    use super::*;

    #[test]
    fn kubelet_goes_to_the_cloud_once_the_node_has_joined() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { snap: folder.path().join("snap"), common: folder.path().join("common") };
        assert!(prepare(&places, None).unwrap_err().to_string().contains("node flavour"));
        std::fs::create_dir_all(places.snap.join("usr/bin")).unwrap();
        std::fs::write(places.snap.join("usr/bin/kubelet"), "").unwrap();
        let read = || -> serde_json::Value {
            let text = std::fs::read_to_string(places.own("kubelet/config.yaml")).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        let alone = prepare(&places, None).unwrap();
        let tells =
            |program: &Program, flag: &str| program.arguments.iter().any(|word| word.starts_with(flag));
        assert!(!tells(&alone, "--kubeconfig") && !tells(&alone, "--hostname-override"), "{alone:?}");
        assert_eq!(read()["authentication"]["webhook"]["enabled"], false);
        std::fs::write(places.own(KUBECONFIG), "").unwrap();
        let dns = json!({"clusterDNS": ["10.96.0.10"], "clusterDomain": "cluster.local"});
        let cloud = Joined { node_name: "ship-7".into(), settings: dns.as_object().unwrap().clone() };
        let mut joined = prepare(&places, Some(&cloud)).unwrap();
        assert!(tells(&joined, "--kubeconfig"), "{joined:?}");
        assert_eq!(joined.arguments.pop().as_deref(), Some("--hostname-override=ship-7"));
        let last = prepare(&places, None).unwrap();
        assert!(tells(&last, "--hostname-override=ship-7"), "{last:?}");
        assert_eq!(read()["authorization"]["mode"], "Webhook");
        assert_eq!(
            (&read()["clusterDNS"], &read()["clusterDomain"]),
            (&dns["clusterDNS"], &dns["clusterDomain"])
        );
        prepare(&places, None).unwrap();
        assert_eq!(read()["clusterDNS"], dns["clusterDNS"], "nobody can say it now");
        prepare(&places, Some(&Joined { settings: Map::new(), ..cloud })).unwrap();
        assert_eq!(read()["clusterDNS"], Value::Null, "the cloud was left, and joined anew");
        assert!(joined.arguments.iter().all(|word| word.contains(folder.path().to_str().unwrap())));
    }
}
