use serde_json::json;

use super::*;
use crate::cri::v1::PodSandbox;

const NOW: i64 = 1_000;

fn pod(uid: &str, policy: &str) -> Value {
    json!({"metadata": {"uid": uid, "name": uid, "namespace": "ns"}, "spec": {"restartPolicy": policy,
        "initContainers": [{"name": "prepare"}, {"name": "beside", "restartPolicy": "Always"}],
        "containers": [{"name": "main"}], "ephemeralContainers": [{"name": "debug"}]}})
}

fn labels(uid: &str, name: &str) -> HashMap<String, String> {
    let own = [("io.kubernetes.pod.uid", uid), ("io.kubernetes.container.name", name)];
    own.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

fn sandbox(uid: &str, id: &str, state: PodSandboxState, created_at: i64) -> PodSandbox {
    PodSandbox {
        id: id.into(),
        state: state.into(),
        created_at,
        labels: labels(uid, ""),
        ..PodSandbox::default()
    }
}

fn container(uid: &str, sandbox: &str, name: &str, state: ContainerState, created_at: i64) -> Container {
    Container {
        id: format!("{sandbox}-{name}"),
        pod_sandbox_id: sandbox.into(),
        state: state.into(),
        created_at,
        labels: labels(uid, name),
        ..Container::default()
    }
}

/// The ids of what goes: sandboxes, containers.
fn goes(state: &State, pods: &[Value], codes: &[(&str, i32)]) -> (Vec<String>, Vec<String>) {
    let ahead = Ahead::of(state, NOW);
    let pods = pods.iter().map(|pod| (runtime_uid(pod).unwrap(), pod)).collect();
    let codes = codes.iter().copied().collect();
    let own = |ids: Vec<&str>| ids.into_iter().map(str::to_owned).collect();
    (own(ahead.sandboxes_to_go(&pods, &codes)), own(ahead.containers_to_go(&pods, &codes)))
}

#[test]
fn a_sandbox_that_ended_in_a_time_to_come_goes_if_its_pod_runs_again() {
    use ContainerState::ContainerExited as Exited;
    use PodSandboxState::{SandboxNotready as Ended, SandboxReady as Ready};
    let state = State {
        sandboxes: vec![
            sandbox("always", "a1", Ended, NOW + 1),
            sandbox("always", "a0", Ended, NOW - 1),
            sandbox("runs", "r1", Ready, NOW + 1),
            sandbox("never", "n1", Ended, NOW + 1),
            sandbox("done", "d1", Ended, NOW + 1),
            sandbox("failed", "f1", Ended, NOW + 1),
            sandbox("stranger", "s1", Ended, NOW + 1),
            // The clock was behind when it was made, and right when its container was started again.
            sandbox("late", "l1", Ended, NOW - 1),
            // The power went after its first container was done, and before the next.
            sandbox("begun", "b1", Ended, NOW + 1),
            sandbox("fresh", "v1", Ended, NOW + 1),
            sandbox("deleted", "x1", Ended, NOW + 1),
        ],
        containers: vec![
            container("done", "d1", "main", Exited, NOW + 2),
            container("failed", "f1", "main", Exited, NOW + 2),
            // One that ran beside it was killed in the end.
            container("done", "d1", "beside", Exited, NOW + 2),
            container("never", "n1", "prepare", Exited, NOW + 2),
            container("late", "l1", "main", Exited, NOW + 2),
            container("begun", "b1", "prepare", Exited, NOW + 2),
        ],
    };
    let mut deleted = pod("deleted", "Always");
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    let pods = [
        pod("always", "Always"),
        pod("runs", "Always"),
        pod("never", "Never"),
        pod("done", "OnFailure"),
        pod("failed", "OnFailure"),
        pod("late", "Always"),
        pod("begun", "OnFailure"),
        pod("fresh", "Never"),
        deleted,
    ];
    let codes = [
        ("d1-main", 0),
        ("d1-beside", 137),
        ("f1-main", 1),
        ("n1-prepare", 0),
        ("l1-main", 255),
        ("b1-prepare", 0),
    ];
    let (sandboxes, containers) = goes(&state, &pods, &codes);
    assert_eq!(sandboxes, ["a1", "f1", "l1", "b1", "v1"]);
    assert_eq!(containers, Vec::<String>::new());
}

#[test]
fn a_container_that_exited_in_a_time_to_come_goes_if_it_is_started_again() {
    use ContainerState::{ContainerExited as Exited, ContainerRunning as Running};
    let sandboxes = ["always", "failing", "never"].map(|uid| {
        // The sandbox's own time does not matter as long as it runs.
        sandbox(uid, uid, PodSandboxState::SandboxReady, NOW - 1)
    });
    let mut containers = vec![container("always", "always", "other", Running, NOW + 9)];
    for uid in ["always", "failing", "never"] {
        for name in ["main", "prepare", "beside", "debug"] {
            containers.push(container(uid, uid, name, Exited, NOW + 1));
        }
    }
    containers.push(container("always", "always", "old", Exited, NOW - 1));
    let state = State { sandboxes: sandboxes.into(), containers };
    let pods = [pod("always", "Always"), pod("failing", "OnFailure"), pod("never", "Never")];
    let codes = |code: i32| {
        let ids = state.containers.iter().map(move |container| (container.id.as_str(), code));
        ids.collect::<Vec<_>>()
    };
    let done = goes(&state, &pods, &codes(0)).1;
    assert_eq!(done, ["always-main", "always-beside", "failing-beside", "never-beside"]);
    let failed = goes(&state, &pods, &codes(1)).1;
    let expected = ["always-main", "always-prepare", "always-beside"];
    assert_eq!(failed[..3], expected);
    assert_eq!(failed[3..], ["failing-main", "failing-prepare", "failing-beside", "never-beside"]);
    assert_eq!(goes(&state, &pods, &[]).1, Vec::<String>::new(), "what nobody knows the end of stays");
    let mut once = pods;
    once[0]["spec"]["containers"][0]["restartPolicy"] = "Never".into();
    assert_eq!(
        goes(&state, &once, &codes(0)).1[..1],
        ["always-beside"],
        "a container's own policy goes before"
    );
    assert_eq!(Ahead::of(&state, NOW).count(), 13, "what runs is looked at again, too");
}
