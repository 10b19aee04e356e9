//! Which pods know the API server otherwise than those that are started now: a container keeps the environment that it was
//! made with, so what runs since before `edge join` asks the cloud itself, and what runs since before a change of the
//! address for pods asks where nobody answers.

use std::collections::HashMap;
use std::net::IpAddr;

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use tokio::sync::Mutex;

use super::survival::{Risk, containers, name_of, text};
use super::view::{container_name, live, runtime_uid};
use crate::cri::{self, Runtime};

/// Where a container finds the API server.
const VARIABLE: &str = "KUBERNETES_SERVICE_HOST";
/// Where a container that asks it has its token.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Calls to the runtime under way at one time.
const AT_ONCE: usize = 8;

/// Where containers are led that are started now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Led {
    /// The address.
    pub to: IpAddr,
    /// Those of the Service `kubernetes` in the cloud, by which they would know the API server otherwise.
    pub service: Vec<IpAddr>,
}

/// What the runtime has told of containers, by id: it stays as it is for as long as they are there.
#[derive(Debug, Default)]
pub struct Unled {
    hosts: Mutex<HashMap<String, Option<String>>>,
}

impl Unled {
    /// Those among `pods`, each with what mends it.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn risks(&self, runtime: &Runtime, pods: &[Value], led: &Led) -> Result<Vec<Risk>, cri::Error> {
        let state = runtime.state().await?;
        let live = live(&state);
        let mut asking: Vec<(&Value, Vec<(&str, &str)>)> = Vec::new();
        for pod in pods {
            let Some(now) = runtime_uid(pod).and_then(|uid| live.get(uid)) else { continue };
            let users = users(pod);
            let running = now.running().map(|one| (container_name(one), one.id.as_str()));
            let running: Vec<_> = running.filter(|(name, _)| users.contains(name)).collect();
            if !running.is_empty() {
                asking.push((pod, running));
            }
        }
        let mut hosts = self.hosts.lock().await;
        hosts.retain(|id, _| state.containers.iter().any(|one| one.id == *id));
        let ids = asking.iter().flat_map(|(_, running)| running).map(|(_, id)| *id);
        let unknown: Vec<String> = ids.filter(|id| !hosts.contains_key(*id)).map(str::to_owned).collect();
        let mut told = stream::iter(unknown)
            .map(|id| async move {
                match runtime.variable(&id, VARIABLE).await {
                    Ok(host) => Some((id, host)),
                    // It ended since the list was made, or is one that the runtime cannot tell of.
                    Err(error) => {
                        tracing::debug!(id, %error, "what a container was made with is not known");
                        None
                    }
                }
            })
            .buffer_unordered(AT_ONCE);
        while let Some(one) = told.next().await {
            hosts.extend(one);
        }
        let host = |id: &str| hosts.get(id).and_then(Option::as_deref);
        let known = |running: Vec<(&str, &str)>| -> HashMap<String, IpAddr> {
            let all = running.into_iter().map(|(name, id)| Some((name.to_owned(), host(id)?.parse().ok()?)));
            all.flatten().collect()
        };
        Ok(asking.into_iter().filter_map(|(pod, running)| risk(pod, &known(running), led)).collect())
    }
}

/// The containers that have a token for the API server.
fn users(pod: &Value) -> Vec<&str> {
    let has_token = |container: &Value| {
        let mounts = container.get("volumeMounts").and_then(Value::as_array).into_iter().flatten();
        mounts.into_iter().any(|mount| text(mount, "mountPath").trim_end_matches('/') == TOKEN)
    };
    containers(pod).filter(|(_, c)| has_token(c)).map(|(_, container)| text(container, "name")).collect()
}

/// What is to be said of a pod whose containers have these addresses for the API server.
fn risk(pod: &Value, hosts: &HashMap<String, IpAddr>, led: &Led) -> Option<Risk> {
    let is_other = |container: &Value, host: IpAddr| {
        let own = container.get("env").and_then(Value::as_array).into_iter().flatten();
        let is_its_own = own.into_iter().any(|variable| text(variable, "name") == VARIABLE);
        let may_be_its_own = container.get("envFrom").is_some_and(|from| !from.is_null());
        host != led.to && !is_its_own && (led.service.contains(&host) || !may_be_its_own)
    };
    let found = containers(pod).filter_map(|(_, container)| {
        let (name, host) = hosts.get_key_value(text(container, "name"))?;
        is_other(container, *host).then_some((name.as_str(), *host))
    });
    let found: Vec<(&str, IpAddr)> = found.collect();
    let host = found.first()?.1;
    let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    let reason = format!(
        "{} may ask the API server at {host}, from before pods were led to {}",
        names.join(", "),
        led.to
    );
    let restart =
        ["pod", "restart", "-n", text(&pod["metadata"], "namespace"), text(&pod["metadata"], "name")];
    // What nobody would start again is made anew by whoever made it.
    let is_started_again = text(&pod["spec"], "restartPolicy") != "Never";
    let restart = if is_started_again { restart.map(str::to_owned).to_vec() } else { Vec::new() };
    Some(Risk { pod: name_of(pod), reason, mend: Vec::new(), restart })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(main: Value) -> Value {
        let mut main = main;
        main["name"] = json!("main");
        main["volumeMounts"] = json!([{"name": "kube-api-access-x", "mountPath": TOKEN}]);
        json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {"containers": [main, {"name": "plain"}]}})
    }

    fn said(pod: &Value, host: &str) -> Option<Risk> {
        let led = Led { to: "169.254.64.45".parse().unwrap(), service: vec!["10.96.0.1".parse().unwrap()] };
        let hosts = users(pod).into_iter().map(|name| (name.to_owned(), host.parse().unwrap())).collect();
        risk(pod, &hosts, &led)
    }

    #[test]
    fn who_was_started_before_is_named_with_what_mends_it() {
        let found = said(&pod(json!({})), "10.96.0.1").unwrap();
        assert_eq!(found.pod, "ns/web");
        let reason = "main may ask the API server at 10.96.0.1, from before pods were led to 169.254.64.45";
        assert_eq!(found.reason, reason);
        assert_eq!(found.restart, ["pod", "restart", "-n", "ns", "web"]);
        let former = said(&pod(json!({})), "169.254.64.44").unwrap();
        assert!(former.reason.contains("at 169.254.64.44, from before"), "{}", former.reason);
        assert_eq!(said(&pod(json!({})), "169.254.64.45"), None, "started since");
        let mut once = pod(json!({}));
        once["spec"]["restartPolicy"] = json!("Never");
        assert!(said(&once, "10.96.0.1").unwrap().restart.is_empty(), "it would not be started again");
    }

    #[test]
    fn who_goes_elsewhere_by_its_own_word_or_has_no_token_is_not_named() {
        let own = pod(json!({"env": [{"name": VARIABLE, "value": "10.96.0.1"}]}));
        assert_eq!(said(&own, "10.96.0.1"), None);
        let from = pod(json!({"envFrom": [{"configMapRef": {"name": "services-endpoint"}}]}));
        assert_eq!(said(&from, "192.0.2.7"), None);
        assert!(said(&from, "10.96.0.1").is_some(), "that is what kubelet says");
        let mut without = pod(json!({}));
        without["spec"]["containers"][0]["volumeMounts"] = json!([]);
        assert_eq!(said(&without, "10.96.0.1"), None);
    }
}
