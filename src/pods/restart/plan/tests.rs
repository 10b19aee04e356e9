use serde_json::json;

use super::*;
use crate::cri::State;
use crate::pods::view::live;

/// What the runtime has: a sandbox of pod `u`, from `source`, in which `containers` run, each with the id `NAME-1`.
fn runtime(source: &str, containers: &[&str]) -> State {
    let labels = |name: &str| {
        let own = [("io.kubernetes.pod.uid", "u"), ("io.kubernetes.container.name", name)];
        own.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    };
    let annotations = [("kubernetes.io/config.source".to_owned(), source.to_owned())].into();
    let sandbox = v1::PodSandbox {
        id: "sandbox-1".to_owned(),
        labels: labels(""),
        annotations,
        ..v1::PodSandbox::default()
    };
    let grace = [("io.kubernetes.pod.terminationGracePeriod".to_owned(), "7".to_owned())];
    let container = |name: &&str| v1::Container {
        id: format!("{name}-1"),
        pod_sandbox_id: "sandbox-1".to_owned(),
        labels: labels(name),
        annotations: grace.clone().into(),
        state: v1::ContainerState::ContainerRunning.into(),
        ..v1::Container::default()
    };
    State { sandboxes: vec![sandbox], containers: containers.iter().map(container).collect() }
}

/// A pod of init container `init`, sidecar `mesh`, and `containers` by their names and members of their specs.
fn pod(policy: &str, containers: &[(&str, Value)]) -> Value {
    let containers: Vec<Value> = containers
        .iter()
        .map(|(name, more)| {
            let mut spec = more.clone();
            spec["name"] = json!(name);
            spec
        })
        .collect();
    json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u"},
           "spec": {"restartPolicy": policy, "terminationGracePeriodSeconds": 20, "containers": containers,
                    "initContainers": [{"name": "init"}, {"name": "mesh", "restartPolicy": "Always"}]},
           "status": {"phase": "Running", "podIP": "10.88.1.5"}})
}

fn made(pod: &Value, state: &State, part: Part, known: Known) -> Result<Plan, Refusal> {
    plan(pod, live(state).get("u"), &Request { part, kubelet_up: true, known })
}

/// `NAME GRACE` of what is stopped, sidecars behind a bar; then what must run.
fn told(plan: &Plan) -> String {
    let list = |of: &[Target]| -> String {
        of.iter().map(|t| format!("{} {} ", t.name, t.grace.as_secs())).collect()
    };
    let (containers, sidecars) = (list(&plan.containers), list(&plan.sidecars));
    format!("{containers}| {sidecars}> {}", plan.expected.join(" "))
}

const CONTAINERS: Part = Part::Containers;
const WHOLE: Part = Part::Whole;

fn container(name: &str) -> Part {
    Part::Container(name.to_owned())
}

#[test]
fn what_is_stopped_and_with_what_grace() {
    let own = |policy: &str| json!({"restartPolicy": policy});
    let rule = json!({"restartPolicy": "Never", "restartPolicyRules":
        [{"action": "Restart", "exitCodes": {"operator": "In", "values": [137]}}]});
    let none = || json!({});
    let plain = [("a", none()), ("b", none())];
    let mixed = [("a", own("OnFailure")), ("b", own("Never")), ("c", rule), ("d", none())];
    let (two, all): (&[&str], &[&str]) = (&["mesh", "a", "b"], &["mesh", "a", "b", "c", "d"]);
    for (policy, containers, running, part, expected) in [
        ("Always", &plain[..], two, CONTAINERS, "a 20 b 20 | mesh 20 > mesh a b"),
        ("Always", &plain[..], two, WHOLE, "a 20 b 20 | mesh 20 > mesh a b"),
        ("Always", &plain[..], &["mesh", "b"], CONTAINERS, "b 20 | mesh 20 > mesh b"),
        ("Always", &plain[..], &["mesh", "b"], WHOLE, "b 20 | mesh 20 > mesh a b"),
        ("Always", &plain[..], two, container("b"), "b 20 | > b"),
        ("Always", &plain[..], two, container("mesh"), "mesh 20 | > mesh"),
        // Ended in order it would be done, and what it does would be missing.
        ("Always", &plain[..], &["init"], container("init"), "init 0 | > init"),
        ("OnFailure", &plain[..], &["init"], container("init"), "init 0 | > init"),
        ("Always", &plain[..], &["init"], WHOLE, "init 20 | > mesh a b"),
        ("OnFailure", &plain[..], two, CONTAINERS, "a 0 b 0 | mesh 20 > mesh a b"),
        // By the policies of the containers themselves.
        ("Always", &mixed[..], all, CONTAINERS, "a 0 c 0 d 20 | mesh 20 > mesh a c d"),
        ("Never", &mixed[..], all, CONTAINERS, "a 0 c 0 | mesh 20 > mesh a c"),
        ("Always", &mixed[..], all, WHOLE, "a 0 b 20 c 0 d 20 | mesh 20 > mesh a b c d"),
        ("Never", &mixed[..], all, container("a"), "a 0 | > a"),
    ] {
        let made = made(&pod(policy, containers), &runtime("api", running), part.clone(), Known::Cached);
        assert_eq!(made.as_ref().map(told), Ok(expected.to_owned()), "{policy} {running:?} {part:?}");
    }
}

#[test]
fn what_is_refused() {
    let own = |policy: &str| json!({"restartPolicy": policy});
    let mixed = [("a", json!({})), ("b", own("Never"))];
    let never = || container("b");
    for (policy, running, part, expected) in [
        ("Never", &["a"][..], CONTAINERS, Refusal::ContainerNeverRestarts { name: "a".to_owned() }),
        ("Never", &["a"], WHOLE, Refusal::NeverRestarts),
        ("Always", &["a", "b"], never(), Refusal::ContainerNeverRestarts { name: "b".to_owned() }),
        ("Always", &["b"], CONTAINERS, Refusal::ContainerNeverRestarts { name: "b".to_owned() }),
        ("Always", &["a"], never(), Refusal::ContainerDoesNotRun { name: "b".to_owned() }),
        ("Always", &[], CONTAINERS, Refusal::NothingRuns),
        ("Always", &["init"], CONTAINERS, Refusal::Initializing { running: "init".to_owned() }),
    ] {
        let pod = pod(policy, &mixed);
        let refused = made(&pod, &runtime("api", running), part.clone(), Known::Cached);
        assert_eq!(refused, Err(expected), "{policy} {running:?} {part:?}");
    }
    let mut bare = pod("Never", &mixed[1..]);
    bare["spec"]["initContainers"] = json!([]);
    let refused = made(&bare, &runtime("api", &["b"]), CONTAINERS, Known::Cached);
    assert_eq!(refused, Err(Refusal::NeverRestarts));
    let down = Request { part: CONTAINERS, kubelet_up: false, known: Known::Cached };
    assert_eq!(plan(&pod("Always", &mixed), None, &down), Err(Refusal::KubeletDown));
}

#[test]
fn what_only_the_runtime_knows_is_stopped_where_the_kubelet_has_it_from_here() {
    // As `view` makes it: no policy, and init containers that are done are containers like others.
    let pod = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u"},
                     "spec": {"containers": [{"name": "a"}, {"name": "done"}]}, "status": {"phase": "Running"}});
    let by = |known: Known, source: &str, part: Part| made(&pod, &runtime(source, &["a"]), part, known);
    let made = |source: &str, part: Part| by(Known::RuntimeOnly, source, part);
    for part in [CONTAINERS, WHOLE, container("a")] {
        assert_eq!(made("api", part.clone()), Err(Refusal::RuntimeOnly), "{part:?}");
        for source in ["file", "http"] {
            let plan = made(source, part.clone()).unwrap();
            assert_eq!(told(&plan), "a 7 | > a", "the kubelet's note has the grace period: {part:?}");
        }
        let plan = by(Known::Uncached, "api", part.clone()).unwrap();
        assert_eq!(told(&plan), "a 7 | > a", "the kubelet has it from the cloud: {part:?}");
        assert!(plan.notes.last().unwrap().contains("its restartPolicy is not known"), "{:?}", plan.notes);
    }
}

#[test]
fn what_changes_is_said_beforehand() {
    let on_failure = json!({"restartPolicy": "OnFailure"});
    let mut pod = pod("Always", &[("a", json!({})), ("b", on_failure.clone()), ("c", on_failure)]);
    let ended = |name: &str, code: i32| json!({"name": name, "state": {"terminated": {"exitCode": code}}});
    pod["status"]["containerStatuses"] = json!([ended("a", 0), ended("b", 0), ended("c", 1)]);
    let plan = made(&pod, &runtime("api", &["mesh", "c"]), WHOLE, Known::Cached).unwrap();
    assert_eq!(
        plan.notes,
        [
            "the sandbox is renewed: 10.88.1.5 will be another address; init containers run again: init; finished \
             containers run again: b; emptyDir volumes stay",
            "killed and not asked to stop: c, since what has ended in order would count as finished and not be \
             started again",
        ]
    );
    assert_eq!(plan.may_finish, ["b", "c"]);
    assert_eq!(plan.sandbox.as_deref(), Some("sandbox-1"));
    let never = json!({"restartPolicy": "Never"});
    let pod = self::pod("Always", &[("a", json!({})), ("b", never)]);
    let plan = made(&pod, &runtime("api", &["a", "b"]), CONTAINERS, Known::Cached).unwrap();
    assert_eq!(plan.notes, ["not stopped: b, which the kubelet would not start again by the restartPolicy"]);
}
