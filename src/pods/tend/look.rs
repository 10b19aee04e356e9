//! What self-heal sees of the pods: asks the runtime about the network of each, and reads the kubelet's events about
//! those that have no sandbox.

use std::path::Path;

use serde_json::Value;

use super::address::Addresses;
use crate::cri::{Error, Runtime};
use crate::kube::meta;
use crate::pods::heal::{Broken, Symptoms, symptoms};
use crate::pods::view::{Live, runtime_uid};

/// The symptoms of a merged `pod`. `events` are all that are known.
///
/// # Errors
/// The runtime's.
pub async fn examine(
    runtime: &Runtime,
    addresses: &mut Addresses,
    pod: &Value,
    live: Option<&Live<'_>>,
    events: &[Value],
) -> Result<Symptoms, Error> {
    let broken = match live.and_then(|live| live.sandbox.filter(|_| live.is_ready())) {
        Some(sandbox) if pod["spec"]["hostNetwork"] != true => {
            lost_network(runtime, addresses, &sandbox.id).await?
        }
        Some(_) => None,
        None => not_made(pod, live, events),
    };
    Ok(symptoms(pod, broken, live.is_some_and(|live| live.sandbox.is_some())))
}

/// What became of the network of a sandbox that runs. One that was removed since the list was made is seen at the next
/// look.
async fn lost_network(
    runtime: &Runtime,
    addresses: &mut Addresses,
    sandbox: &str,
) -> Result<Option<Broken>, Error> {
    match network(runtime, addresses, sandbox).await {
        Err(error) if error.is_not_found() => Ok(None),
        broken => broken,
    }
}

/// The runtime's word counts, since edge may see another `/run`; a look at the namespace's file only tells more exactly
/// what it means. Of an address that the runtime tells, the kernel knows whether it is still there.
async fn network(
    runtime: &Runtime,
    addresses: &mut Addresses,
    sandbox: &str,
) -> Result<Option<Broken>, Error> {
    let address = runtime.sandbox(sandbox).await?.network.map(|network| network.ip).unwrap_or_default();
    if !address.is_empty() {
        let is_lost = addresses.is_lost(runtime, sandbox, &address).await?;
        return Ok(is_lost.then_some(Broken::NoAddress));
    }
    let info = runtime.sandbox_info(sandbox).await?;
    let gone = namespace(&info).is_some_and(|path| !Path::new(&path).exists());
    Ok(Some(if gone { Broken::NetworkNamespace } else { Broken::NoAddress }))
}

/// The file of the network namespace, as containerd tells it.
fn namespace(info: &std::collections::HashMap<String, String>) -> Option<String> {
    let info: Value = serde_json::from_str(info.get("info")?).ok()?;
    let mut all = info["runtimeSpec"]["linux"]["namespaces"].as_array()?.iter();
    all.find(|n| n["type"] == "network")?["path"].as_str().map(str::to_owned)
}

/// Why the kubelet has made no sandbox: its newest complaint since the last one there was. Without any, one that there
/// was and that runs no more is reason enough.
fn not_made(pod: &Value, live: Option<&Live<'_>>, events: &[Value]) -> Option<Broken> {
    let since = live.and_then(|live| live.sandbox).map_or(0, |sandbox| sandbox.created_at / 1_000_000_000);
    // The kubelet tells of a static pod by the uid of its file, others by that of its mirror.
    let is_own = |uid: Option<&str>| uid.is_some() && (uid == runtime_uid(pod) || uid == meta::uid(pod));
    let about = events.iter().filter(|event| is_own(event["involvedObject"]["uid"].as_str()));
    let told = about.filter_map(|event| {
        let at: jiff::Timestamp = event["lastTimestamp"].as_str()?.parse().ok()?;
        Some((at.as_second(), Broken::of_event(event["reason"].as_str()?)?))
    });
    let newest = told.filter(|(at, _)| *at >= since).max_by_key(|(at, _)| *at).map(|(_, broken)| broken);
    newest.or_else(|| live.and_then(|live| live.sandbox).map(|_| Broken::Sandbox))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cri::{State, v1};
    use crate::pods::view::live;

    fn event(uid: &str, reason: &str, at: &str) -> Value {
        json!({"involvedObject": {"uid": uid}, "reason": reason, "lastTimestamp": at})
    }

    #[test]
    fn the_newest_complaint_since_the_last_sandbox_counts() {
        let pod = json!({"metadata": {"uid": "a"}});
        let events = [
            event("a", "FailedMount", "2026-01-01T00:00:10Z"),
            event("a", "FailedCreatePodSandBox", "2026-01-01T00:00:20Z"),
            event("a", "BackOff", "2026-01-01T00:00:30Z"),
            event("b", "FailedMount", "2026-01-01T00:00:40Z"),
        ];
        assert_eq!(not_made(&pod, None, &events), Some(Broken::Sandbox));
        assert_eq!(not_made(&pod, None, &events[..1]), Some(Broken::Mount));
        assert_eq!(not_made(&pod, None, &events[2..]), None);
        let hash = json!({"kubernetes.io/config.mirror": "a", "kubernetes.io/config.hash": "a"});
        let mirror = json!({"metadata": {"uid": "of-the-mirror", "annotations": hash}});
        assert_eq!(not_made(&mirror, None, &events), Some(Broken::Sandbox), "told of the file");
        let made: jiff::Timestamp = "2026-01-01T00:00:25Z".parse().unwrap();
        let labels = [("io.kubernetes.pod.uid".to_owned(), "a".to_owned())].into();
        let created_at = made.as_second() * 1_000_000_000;
        let sandboxes = vec![v1::PodSandbox { labels, created_at, ..v1::PodSandbox::default() }];
        let state = State { sandboxes, ..State::default() };
        let stopped = not_made(&pod, live(&state).get("a"), &events[..1]);
        assert_eq!(stopped, Some(Broken::Sandbox), "the mount that failed is of before");
    }

    #[test]
    fn the_namespace_is_in_containerds_info() {
        let info = json!({"runtimeSpec": {"linux": {"namespaces": [{"type": "pid"},
            {"type": "network", "path": "/var/run/netns/cni-1"}]}}});
        let info = [("info".to_owned(), info.to_string())].into();
        assert_eq!(namespace(&info).as_deref(), Some("/var/run/netns/cni-1"));
        assert_eq!(namespace(&[].into()), None);
    }
}
