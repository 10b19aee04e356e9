//! `edge pod` as it is called: what it takes for a selector and for a name, what it does when nobody listens, and what
//! it tells when the runtime is away. The runtime is a stand-in; edge runs as in the snap's node flavour.

use std::process::{Command, Stdio};
use std::time::Duration;

use edge::cri::v1;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::command::{Done, Place};
use crate::cri_stub::{Fake, RUNS, Stub, container, sandbox};

struct Gateway {
    place: Place,
    stub: Stub,
}

/// A pod of one container, that only the runtime knows.
fn pod(name: &str) -> (v1::PodSandbox, v1::Container) {
    let made = sandbox(name, &format!("sandbox-{name}"));
    let metadata = v1::PodSandboxMetadata {
        name: name.to_owned(),
        namespace: "default".to_owned(),
        uid: name.to_owned(),
        ..Default::default()
    };
    let mut labels = made.labels.clone();
    labels.insert("app".to_owned(), "web".to_owned());
    let made = v1::PodSandbox { metadata: Some(metadata), labels, ..made };
    let runs = container(name, &made.id, "main", &format!("{name}-1"), RUNS);
    (made, runs)
}

impl Gateway {
    /// With a kubelet that says that it is well.
    async fn new(pods: &[&str]) -> Self {
        let (sandboxes, containers) = pods.iter().map(|name| pod(name)).unzip();
        let stub = Stub::new(Fake::of(sandboxes, containers));
        let kubelet = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = kubelet.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = kubelet.accept().await.unwrap();
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 1024]).await;
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                });
            }
        });
        let place = Place::new();
        place.write("snap/current/usr/bin/kubelet", "");
        let text = format!(
            "[runtime]\nendpoint = \"{}\"\n[pods]\nkubelet-healthz = \"{address}\"\n",
            stub.endpoint()
        );
        place.write("etc/edge.toml", &text);
        Self { place, stub }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.place.edge(&[&["pod"], arguments].concat());
        command.env("SNAP_NAME", "edge").env("SNAP", self.place.path("snap/x1"));
        command.env("SNAP_COMMON", self.place.path("common"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output().unwrap())
    }

    /// The containers that were stopped, in the order of their names.
    fn stopped(&self) -> Vec<String> {
        let mut stopped: Vec<String> =
            self.stub.done().iter().filter_map(|call| call.split(' ').nth(1)).map(str::to_owned).collect();
        stopped.sort();
        stopped
    }

    fn log(&self, path: &str, text: &str) {
        let line = format!("2026-01-01T00:00:00Z stdout F {text}\n");
        self.place.write(&format!("common/log/pods/{path}/0.log"), &line);
    }

    /// Waits until the runtime was called so.
    async fn heard(&self, call: &str) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !self.stub.has_heard(call) {
            assert!(std::time::Instant::now() < deadline, "nobody asks for {call}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The runtime goes away.
    fn without_runtime(&self) {
        let text = self.place.read("etc/edge.toml");
        let endpoint = format!("endpoint = \"{}\"\n", self.stub.endpoint());
        assert!(text.contains(&endpoint));
        self.place.write("etc/edge.toml", &text.replace(&endpoint, ""));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_selector_never_means_all_pods_and_a_pod_named_twice_is_restarted_once() {
    let gateway = Gateway::new(&["a", "b", "c"]).await;
    for selector in ["", "  "] {
        gateway.run(&["restart", "-l", selector]).bad(2, "the selector is empty, and no pod is named");
    }
    gateway.run(&["restart"]).bad(2, "were not provided");
    gateway.run(&["restart", "a", "-l", "app=web"]).bad(2, "give names or `-l`, not both");
    gateway.run(&["restart", "deployment/web"]).bad(2, "it is no pod's name, such as `web` or `pod/web`");
    let gone = gateway.run(&["restart", "gone"]);
    let told = gone.err.find("the edge daemon does not run").zip(gone.err.find("pods \"gone\" not found"));
    assert!(gone.code == 1 && told.is_some_and(|(gap, missing)| gap < missing), "{gone:?}");
    assert_eq!(gateway.stopped(), [""; 0]);
    let named = gateway.run(&["get", "a", "-l", "", "--field-selector", " ", "-o", "name"]).good();
    assert_eq!(named.out, "pod/a\n");
    gateway.run(&["restart", "pod/a", "a", "-l", "", "--no-wait"]).good();
    assert_eq!(gateway.stopped(), ["a-1"]);
    gateway.run(&["restart", "po/b", "pods/c", "--no-wait"]).good();
    assert_eq!(gateway.stopped(), ["a-1", "b-1", "c-1"]);
}

/// As with `| head -1`.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_when_nobody_listens() {
    let gateway = Gateway::new(&["a", "b", "c"]).await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = gateway.command(&["restart", "-l", "app=web", "--no-wait"]);
    let ended = command.stdout(writer).spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert_eq!(gateway.stopped(), ["a-1", "b-1", "c-1"]);
}

/// As when the link of an SSH session drops; with `nohup` that is no reason to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_session_does_not_leave_a_pod_half_stopped() {
    for (ignored, code, stopped) in [(false, 1, &["slow-1"][..]), (true, 0, &["other-1", "slow-1"])] {
        let gateway = Gateway::new(&["slow", "other"]).await;
        let program = gateway.command(&["restart", "slow", "other", "--no-wait"]);
        let mut command = Command::new("env");
        command.arg(if ignored { "--ignore-signal=HUP" } else { "--default-signal=HUP" });
        command.arg(program.get_program()).args(program.get_args()).current_dir(gateway.place.folder.path());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        gateway.heard("StopContainer").await;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGHUP).unwrap();
        let done = Done::of(child.wait_with_output().unwrap());
        assert_eq!(done.code, code, "{done:?}");
        assert_eq!(gateway.stopped(), stopped, "{done:?}");
        assert!(done.out.contains("default/slow: stopped main slow-1"), "{done:?}");
        if !ignored {
            assert!(
                done.err.contains("which takes up to ") && done.err.contains("not restarted: default/other")
            );
        }
    }
}

/// What is stopped fails after the interrupt: that is said, and nothing else is begun.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_is_not_forgotten_where_the_stop_fails() {
    let gateway = Gateway::new(&["slow-stuck", "zz"]).await;
    let mut command = gateway.command(&["restart", "slow-stuck", "zz", "--no-wait"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    gateway.heard("StopContainer").await;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let done = Done::of(child.wait_with_output().unwrap());
    assert_eq!(done.code, 1, "{done:?}");
    assert!(gateway.stopped().iter().all(|id| id == "slow-stuck-1"), "{done:?}");
    assert!(
        done.err.contains("cannot be killed") && done.err.contains("not restarted: default/zz"),
        "{done:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_interrupts_before_anything_is_known_has_nothing_stopped() {
    let gateway = Gateway::new(&["a"]).await;
    gateway.stub.falls_silent();
    let mut command = gateway.command(&["restart", "a", "--no-wait"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    gateway.heard("ListPodSandbox").await;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    let began = std::time::Instant::now();
    Done::of(child.wait_with_output().unwrap()).bad(1, "interrupted before anything was stopped");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(gateway.stopped(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_container_has_a_log_that_is_a_failure() {
    let gateway = Gateway::new(&["a"]).await;
    for arguments in [&["logs", "a", "--all-containers"][..], &["logs", "a", "--all-containers", "-p"]] {
        let none = gateway.run(arguments);
        assert!(none.code == 1 && none.err.contains("no log of container `main`"), "{none:?}");
    }
    gateway.log("default_a_a/main", "said");
    for arguments in [
        &["--all-containers"][..],
        &["--tail", "-1"],
        &["--tail=-1"],
        &["--tail", "1"],
        &["--since", "0"],
        &["--since", "100000.5h"],
    ] {
        assert_eq!(
            gateway.run(&[&["logs", "pod/a"], arguments].concat()).good().out,
            "said\n",
            "{arguments:?}"
        );
    }
    gateway.run(&["logs", "a", "--tail=-7"]).bad(2, "invalid value '-7' for '--tail <LINES>'");
    gateway.run(&["logs", "a", "--since", "soon"]).bad(2, "it is no duration, such as 5s, 2m or 1.5h");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_runtime_it_is_said_and_logs_are_found_all_the_same() {
    let gateway = Gateway::new(&["a"]).await;
    gateway.log("default_a_a/main", "said");
    gateway.log("default_two_u/main", "main said");
    gateway.log("default_two_u/side", "side said");
    // The runtime and the kubelet are there: what they do not tell of is not there.
    let unknown = gateway.run(&["logs", "gone"]);
    assert!(unknown.code == 1 && unknown.err.contains("pods \"gone\" not found"), "{unknown:?}");
    gateway.without_runtime();
    let said = gateway.run(&["logs", "a"]).good();
    assert_eq!(said.out, "said\n");
    for part in [
        "edge: pods are shown as they were last heard of: no container runtime at `unix://",
        "/common/run/containerd/containerd.sock` hint: start it (`snap start edge.containerd`) or set",
        "the edge daemon does not run: what the cloud and the kubelet have said since is not known hint: \
         `snap start edge.daemon`",
        "nobody tells of pod `a` at this moment: its logs are those of `",
        "/common/log/pods/default_a_a`",
    ] {
        assert!(said.err.contains(part), "{part}: {said:?}");
    }
    let which = gateway.run(&["logs", "two"]);
    let choose = "error: a container name must be specified for pod two, choose one of: [main side]";
    assert!(
        which.code == 1 && which.out.is_empty() && which.err.ends_with(&format!("{choose}\n")),
        "{which:?}"
    );
    assert_eq!(gateway.run(&["logs", "two", "-c", "side"]).good().out, "side said\n");
    assert_eq!(gateway.run(&["logs", "two", "--all-containers"]).good().out, "main said\nside said\n");
    let none = gateway.run(&["logs", "none"]);
    assert!(none.code == 1 && none.err.contains("no container runtime"), "{none:?}");
    assert!(none.err.ends_with("Error from server (NotFound): pods \"none\" not found\n"), "{none:?}");
    let refused = gateway.run(&["restart", "a"]);
    assert!(refused.code == 1 && refused.err.contains("`snap start edge.containerd`"), "{refused:?}");
    let mut status = gateway.place.edge(&["status"]);
    status.env("SNAP_NAME", "edge").env("SNAP_COMMON", gateway.place.path("common"));
    Done::of(status.output().unwrap()).bad(1, "hint: is it running? try `snap logs edge.daemon`");
}
