//! Whether the kubelet starts a container again after it has ended: the pod's rule, and the one that a container has of
//! its own (`restartPolicy` and `restartPolicyRules`, Kubernetes 1.34 on). Pure.

use serde_json::Value;

/// The exit code of a container that was killed.
pub const KILLED: i64 = 137;

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// One of `containers`.
    Main,
    /// One of `initContainers`, which has done its work when it has ended in order.
    Init,
    /// One of `initContainers` that goes on.
    Sidecar,
    /// One of `ephemeralContainers`, which runs once.
    Ephemeral,
}

/// When a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Whenever it has ended.
    Always,
    /// When it has failed.
    OnFailure,
    /// Not by a policy.
    Never,
}

/// A container of a pod's spec.
#[derive(Debug, Clone, Copy)]
pub struct Container<'p> {
    /// Its name.
    pub name: &'p str,
    /// What it is.
    pub role: Role,
    /// Its own policy, else the pod's.
    pub policy: Policy,
    spec: &'p Value,
}

/// The containers of `pod`: init containers and sidecars, main ones, ephemeral ones.
pub fn containers(pod: &Value) -> impl Iterator<Item = Container<'_>> {
    let of_pod = policy(&pod["spec"]["restartPolicy"]).unwrap_or(Policy::Always);
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    lists.into_iter().flat_map(move |list| {
        let specs = pod["spec"][list].as_array().into_iter().flatten();
        specs.filter_map(move |spec| {
            let own = policy(&spec["restartPolicy"]);
            let role = match list {
                "containers" => Role::Main,
                "ephemeralContainers" => Role::Ephemeral,
                _ if own == Some(Policy::Always) => Role::Sidecar,
                _ => Role::Init,
            };
            Some(Container { name: spec["name"].as_str()?, role, policy: own.unwrap_or(of_pod), spec })
        })
    })
}

impl Container<'_> {
    /// Whether the kubelet starts it again in the same sandbox after it has ended with `exit_code`.
    pub fn comes_back(&self, exit_code: i64) -> bool {
        match self.role {
            Role::Ephemeral => false,
            Role::Init if exit_code == 0 => false,
            _ if self.restarted_by_rule(exit_code) => true,
            _ => match self.policy {
                Policy::Always => true,
                Policy::OnFailure => exit_code != 0,
                Policy::Never => false,
            },
        }
    }

    /// Whether it must be killed to come back, since ended in order it would count as done.
    pub fn must_fail(&self) -> bool {
        !self.comes_back(0) && self.comes_back(KILLED)
    }

    /// The first rule that matches decides. One that restarts all containers of the pod is left to the kubelets that know
    /// it: others go by the policy.
    fn restarted_by_rule(&self, exit_code: i64) -> bool {
        // As the kubelet does: rules count only beside a policy of the container's own.
        let rules =
            self.spec["restartPolicyRules"].as_array().filter(|_| self.spec["restartPolicy"].is_string());
        let matches = |rule: &&Value| {
            let codes = &rule["exitCodes"];
            let listed =
                codes["values"].as_array().is_some_and(|all| all.iter().any(|code| *code == exit_code));
            match codes["operator"].as_str() {
                Some("In") => listed,
                Some("NotIn") => !listed,
                _ => false,
            }
        };
        rules.into_iter().flatten().find(matches).is_some_and(|rule| rule["action"] == "Restart")
    }
}

fn policy(text: &Value) -> Option<Policy> {
    match text.as_str()? {
        "Always" => Some(Policy::Always),
        "OnFailure" => Some(Policy::OnFailure),
        "Never" => Some(Policy::Never),
        _ => None,
    }
}

/// Whether a container of a merged `pod` has ended and will not be started again. One that has not been started yet has
/// not ended, unless the pod has.
pub fn is_over(pod: &Value, name: &str) -> bool {
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let mut statuses = lists.iter().flat_map(|list| pod["status"][*list].as_array().into_iter().flatten());
    let ended = statuses.find(|status| status["name"] == name).map(|status| &status["state"]["terminated"]);
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return true;
    }
    let code = ended.and_then(|ended| ended["exitCode"].as_i64());
    let container = containers(pod).find(|container| container.name == name);
    container.zip(code).is_some_and(|(container, code)| !container.comes_back(code))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_comes_back_after_what() {
        let rules = |operator: &str, codes: &[i64], action: &str| json!([{"action": action, "exitCodes": {"operator": operator, "values": codes}}]);
        let pod = |policy: &str| {
            json!({"spec": {"restartPolicy": policy,
                "initContainers": [{"name": "init"}, {"name": "sidecar", "restartPolicy": "Always"},
                                   {"name": "once", "restartPolicy": "Never"}],
                "containers": [
                    {"name": "plain"},
                    {"name": "always", "restartPolicy": "Always"},
                    {"name": "on-failure", "restartPolicy": "OnFailure"},
                    {"name": "never", "restartPolicy": "Never"},
                    {"name": "in", "restartPolicy": "Never", "restartPolicyRules": rules("In", &[42, 137], "Restart")},
                    {"name": "not-in", "restartPolicy": "Never", "restartPolicyRules": rules("NotIn", &[137], "Restart")},
                    {"name": "all", "restartPolicy": "Never",
                     "restartPolicyRules": rules("In", &[137], "RestartAllContainers")},
                    {"name": "no-policy", "restartPolicyRules": rules("In", &[0], "Restart")},
                ],
                "ephemeralContainers": [{"name": "debug"}]}})
        };
        // Pod's policy, container, whether it comes back after exit codes 0, 1 and 137.
        for (policy, name, expected) in [
            ("Always", "plain", [true, true, true]),
            ("OnFailure", "plain", [false, true, true]),
            ("Never", "plain", [false, false, false]),
            ("Always", "init", [false, true, true]),
            ("Never", "init", [false, false, false]),
            ("Never", "sidecar", [true, true, true]),
            ("Always", "once", [false, false, false]),
            ("Never", "always", [true, true, true]),
            ("Always", "on-failure", [false, true, true]),
            ("Always", "never", [false, false, false]),
            ("Always", "in", [false, false, true]),
            ("Always", "not-in", [true, true, false]),
            ("Always", "all", [false, false, false]),
            ("OnFailure", "no-policy", [false, true, true]),
            ("Always", "debug", [false, false, false]),
        ] {
            let pod = pod(policy);
            let container = containers(&pod).find(|container| container.name == name).unwrap();
            assert_eq!([0, 1, KILLED].map(|code| container.comes_back(code)), expected, "{policy} {name}");
        }
    }

    #[test]
    fn what_is_over_and_what_is_not() {
        let ended =
            |name: &str, code: i64| json!({"name": name, "state": {"terminated": {"exitCode": code}}});
        let pod = |phase: &str, policy: &str| {
            json!({"spec": {"restartPolicy": policy, "initContainers": [{"name": "init"}],
                            "containers": [{"name": "main"}, {"name": "other"}]},
                   "status": {"phase": phase, "initContainerStatuses": [ended("init", 0)],
                              "containerStatuses": [ended("main", 3), {"name": "other", "state": {"waiting": {}}}]}})
        };
        for (phase, policy, over) in [
            ("Running", "Always", [true, false, false]),
            ("Running", "OnFailure", [true, false, false]),
            ("Running", "Never", [true, true, false]),
            ("Failed", "Never", [true, true, true]),
        ] {
            let pod = pod(phase, policy);
            assert_eq!(["init", "main", "other"].map(|name| is_over(&pod, name)), over, "{phase} {policy}");
        }
    }
}
