//! The main job, shown to a person: a real cluster, a gateway that joins it through edge, an outage, a reboot in it,
//! and the cloud's return. Run by `scripts/demo`; does nothing without `EDGE_DEMO`, so that `cargo test` passes it by.
//!
//! It claims nothing that the tests do not: `tests/it` holds the assertions, here each step is seen.
#![allow(clippy::disallowed_methods, reason = "the files and times of a demonstration need not be durable")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be read")]

mod screen;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use screen::{Detail, Screen};
use support::{Cluster, ClusterOptions, Cut, Edge, KUBE_ADDRESS, Node, NodeOptions, Pod, seconds, workload};

const STEPS: usize = 10;

fn main() -> ExitCode {
    if std::env::var_os("EDGE_DEMO").is_none() {
        return ExitCode::SUCCESS;
    }
    let keep = std::env::args().skip(1).any(|flag| flag == "--keep");
    let mut screen = Screen::new(STEPS);
    match show(&mut screen, keep) {
        Ok(()) => {
            screen.end("Everything is cleaned up");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The story, from an empty machine to the cloud's return.
fn show(screen: &mut Screen, keep: bool) -> Result<()> {
    let (cluster, mut node) = screen.step("A cloud and a gateway start", |_| start())?;
    let mut edge = Edge::new();
    let kubeconfig = cluster.node_kubeconfig(KUBE_ADDRESS, "node-1")?;
    let said = screen.step("edge join", |_| edge.join(&node, &kubeconfig))?;
    let join = "$ edge join --from /etc/kubernetes/cloud.kubeconfig --node-name node-1 --kubelet-kubeconfig";
    screen.quote(&format!("{join} {}", Edge::KUBECONFIG), &said);
    screen.step("edge and kubelet start; the node is Ready in the cloud", |_| {
        start_edge(&mut edge, &mut node)?;
        node.wait_ready();
        Ok(())
    })?;
    let before = screen.step("Pods start, through edge", |detail| {
        workload::apply(&cluster, &node)?;
        running(detail, || cluster.pods("default"))
    })?;
    screen.quote("the pods, as the cloud sees them", &table(&before));

    screen.step("The cloud is cut off: every packet is dropped", |_| {
        cluster.cut(Cut::Drop)?;
        link_is(&edge, &node, "offline").map(drop)
    })?;
    screen.quote("$ edge status", &edge.run(&node, &["status"])?);
    screen.step("The gateway loses its power, and boots without the cloud", |_| {
        node.reboot()?;
        start_edge(&mut edge, &mut node)
    })?;
    let offline = screen.step("The pods run again, offline", |detail| running(detail, || node.pods()))?;
    screen.quote("$ edge pod get", &edge.run(&node, &["pod", "get"])?);
    ensure!(uids(&before) == uids(&offline), "other pods than before run");
    ensure!(workload::job_runs(&node)? == 1, "the finished Job ran again");
    let waiting = screen.step("edge keeps what the cloud must be told", |_| waiting(&edge, &node))?;
    screen.quote("what waits to be told, of `edge status`", &waiting);

    let after = screen.step("The cloud is back, and is told first", |_| {
        cluster.heal()?;
        link_is(&edge, &node, "online")?;
        let after = workload::wait_told(&node);
        node.wait_ready();
        Ok(after)
    })?;
    screen.quote("the pods, as the cloud sees them", &table(&after));
    ensure!(uids(&before) == uids(&after), "the cloud holds other pods than before");
    screen.step("The same pods, not one replaced; nothing waits any more", |_| told(&edge, &node))?;
    if keep {
        wait_for_person(screen, &cluster, &node)?;
    }
    Ok(())
}

fn start() -> Result<(Cluster, Node)> {
    let cluster = Cluster::start(&ClusterOptions::default())?;
    let node = cluster.node("node-1", &NodeOptions::default())?;
    cluster.ready()?;
    Ok((cluster, node))
}

fn start_edge(edge: &mut Edge, node: &mut Node) -> Result<()> {
    edge.start(node)?;
    node.start_kubelet(Edge::KUBECONFIG)
}

/// Waits until the whole workload runs, and says on the way how much of it does.
fn running(detail: &Detail, pods: impl Fn() -> Result<Vec<Pod>>) -> Result<Vec<Pod>> {
    until("the workload", seconds(180), || {
        let pods = pods()?;
        let good = pods.iter().filter(|pod| pod.running() || pod.succeeded()).count();
        detail.say(&format!("{good} of 6 pods"));
        workload::check(&pods)?;
        Ok(pods)
    })
}

/// Waits until `edge status` gives the link in this state; the whole status then.
fn link_is(edge: &Edge, node: &Node, state: &str) -> Result<Value> {
    until(&format!("link that is {state}"), seconds(60), || {
        let status = edge.status(node)?;
        ensure!(status["link"]["state"] == state, "{}", status["link"]);
        Ok(status)
    })
}

/// The changes that wait for the cloud, once there are those of the reboot.
fn waiting(edge: &Edge, node: &Node) -> Result<String> {
    until("changes to tell the cloud", seconds(30), || {
        let status = edge.status(node)?;
        let changes = status["changes"].as_array().context("no changes in the status")?;
        ensure!(!changes.is_empty(), "nothing waits");
        let mut count = BTreeMap::<String, usize>::new();
        for change in changes {
            let object = change["object"].as_str().unwrap_or_default();
            // Events are many and each has a name of its own.
            let what = object.split_once("/events").map_or(object, |_| "events");
            *count.entry(format!("{} {what}", change["change"].as_str().unwrap_or_default())).or_default() +=
                1;
        }
        let line = |(what, count): (&String, &usize)| match count {
            1 => what.clone(),
            _ => format!("{what} ({count})"),
        };
        Ok(count.iter().map(line).collect::<Vec<_>>().join("\n"))
    })
}

/// Waits until nothing waits for the cloud; fails if it refused something.
fn told(edge: &Edge, node: &Node) -> Result<()> {
    until("end of the replay", seconds(60), || {
        let status = edge.status(node)?;
        ensure!(
            status["changes"].as_array().is_some_and(Vec::is_empty),
            "still waiting: {}",
            status["changes"]
        );
        ensure!(status["refused"].as_array().is_some_and(Vec::is_empty), "refused: {}", status["refused"]);
        Ok(())
    })
}

/// Polls until it succeeds; past the deadline, the last reason.
fn until<T>(what: &str, deadline: Duration, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > deadline => {
                bail!("no {what} within {} s: {error:#}", deadline.as_secs());
            }
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Pods as kubectl shows them, in the columns that matter here.
fn table(pods: &[Pod]) -> String {
    let mut pods: Vec<_> = pods.iter().collect();
    pods.sort_by(|a, b| a.name.cmp(&b.name));
    let rows = pods.iter().map(|pod| {
        let state = if pod.succeeded() { "Completed" } else { &pod.phase };
        format!("{:<22} {:<10} {}", pod.name, state, pod.restarts())
    });
    std::iter::once(format!("{:<22} {:<10} RESTARTS", "NAME", "STATUS"))
        .chain(rows)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Who the pods are. A static pod's uid is another in the cloud, where only its mirror is.
fn uids(pods: &[Pod]) -> BTreeMap<&str, &str> {
    let own = pods.iter().filter(|pod| !pod.name.starts_with("fixed-"));
    own.map(|pod| (pod.name.as_str(), pod.uid.as_str())).collect()
}

/// Leaves everything running until Enter, and says how to look around.
fn wait_for_person(screen: &Screen, cluster: &Cluster, node: &Node) -> Result<()> {
    let enter = |init: i32| format!("nsenter -t {init} -m -n -p -u -i -- bash");
    screen.quote(
        "kept until Enter is pressed",
        &format!(
            "a shell on the gateway: {}\na shell in the cloud:   {}\n  there: {} --kubeconfig /etc/kubernetes/admin.kubeconfig get pods\nlogs: {}",
            enter(node.machine()?.init()),
            enter(cluster.machine().init()),
            support::kubectl_path()?,
            cluster.logs().display()
        ),
    );
    std::io::stdin().read_line(&mut String::new()).context("cannot read standard input")?;
    Ok(())
}
