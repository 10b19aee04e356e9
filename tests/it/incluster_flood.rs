//! Who floods a door keeps nobody else out: pods have shares of theirs, and kubelet's own is never full for kubelet.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::incluster_flannel as flannel;
use crate::support::{Edge, NodeOptions, Scene, seconds, workload};

/// Opens connections and keeps them; prints how many are still open a moment later, and stays for a while.
const CONNECT: &str = r"
import socket, sys, time
host, port, count, stay = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
made = []
for _ in range(count):
    s = socket.create_connection((host, port), timeout=5)
    made.append(s)
time.sleep(2)
alive = 0
for s in made:
    s.setblocking(False)
    try:
        alive += 1 if s.recv(1) else 0
    except BlockingIOError:
        alive += 1
    except ConnectionError:
        pass
print(alive, flush=True)
time.sleep(stay)
";
const ADDRESS: &str = "169.254.64.45";
const LIST: &str = "/api/v1/namespaces/default/configmaps";

/// A request of the pod that floods nobody, and of kubelet; both within a moment.
fn served(scene: &Scene) -> Result<()> {
    let clock = Instant::now();
    let list =
        scene.edge.run(&scene.node, &["pod", "exec", "client", "--", "kubectl", "get", "--raw", LIST])?;
    ensure!(list.contains("kube-root-ca.crt"), "{list}");
    scene.kubectl(&["get", "--raw", "/api/v1/nodes/node-1"]).context("kubelet is not served")?;
    ensure!(clock.elapsed() < seconds(15), "served after {:?}", clock.elapsed());
    Ok(())
}

/// Resident memory of a process, in bytes.
fn resident(pid: i32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

#[test]
fn neither_door_is_filled_by_those_who_flood_it() -> Result<()> {
    neither_door_is_filled(Scene::ready(&NodeOptions::default())?)
}

#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn in_flannels_network_neither_door_is_filled_by_those_who_flood_it() -> Result<()> {
    neither_door_is_filled(flannel::scene()?)
}

#[allow(clippy::print_stdout, reason = "a test says what it measured")]
fn neither_door_is_filled(mut scene: Scene) -> Result<()> {
    workload::prepare_clients(&scene.node)?;
    let rights = workload::rights("client", "", &["configmaps"], &["client"]);
    scene.cluster.apply(&(workload::client("client") + &workload::client("stranger") + &rights))?;
    workload::wait_clients(&scene.node, 2);
    served(&scene)?;

    let argv = ["python3", "-c", CONNECT, ADDRESS, "6445", "600", "6"];
    let mut connections = scene.node.spawn_in("stranger", "connections", &argv, &[])?;
    let alive: usize = scene.cluster.wait_for("600 connections of a pod", seconds(30), || {
        connections.log().trim().parse().context("no count yet")
    });
    ensure!((1..=128).contains(&alive), "{alive} of one pod's connections are open");
    served(&scene)?;

    scene.cluster.wait_for("the end of these connections", seconds(30), || {
        ensure!(!connections.alive(), "still there");
        Ok(())
    });

    // A hundred bodies, slowly, without a good token: what is held of them has a bound.
    let script = format!(
        "head -c 3000000 /dev/zero >/run/body; for i in $(seq 100); do \
         curl -sk -m 20 --limit-rate 400k -o /dev/null -w '%{{http_code}} %{{errormsg}}\\n' -H 'Authorization: Bearer x' \
         --data-binary @/run/body https://{ADDRESS}:6445{LIST} & done; wait; echo end"
    );
    let bodies = scene.node.spawn_in("stranger", "bodies", &["bash", "-c", &script], &[])?;
    let (daemon, mut most) = (scene.edge.daemon()?.pid(), 0);
    scene.cluster.wait_for("the end of the bodies", seconds(60), || {
        served(&scene)?;
        most = most.max(resident(daemon)?);
        ensure!(bodies.log().contains("end"), "still sending");
        Ok(())
    });
    let log = bodies.log();
    let count = |code: &str| log.lines().filter(|line| line.starts_with(code)).count();
    let mebibytes = most as f64 / f64::from(1 << 20);
    // Five bodies fit into the share of one address. The others are told 429, which a client that goes on sending may miss.
    let judged = count("401");
    println!(
        "{alive} of 600 connections; of 100 bodies the cloud judged {judged}; {} were answered 429",
        count("429")
    );
    println!("{mebibytes:.1} MiB resident at the most");
    ensure!(count("201") == 0 && judged < 50, "{log}");
    // A build for debugging, and no figure of what ships; all bodies are 286 MiB.
    ensure!(mebibytes < 160.0, "{mebibytes} MiB");

    // Anybody on the gateway reaches kubelet's door, from kubelet's own address.
    let (host, port) = Edge::PROXY.split_once(':').context("no port")?;
    let argv = ["python3", "-c", CONNECT, host, port, "900", "6"];
    let strangers = scene.node.spawn("strangers", &argv, &[])?;
    let alive: usize = scene.cluster.wait_for("900 connections at kubelet's door", seconds(30), || {
        strangers.log().trim().parse().context("no count yet")
    });
    ensure!(alive <= 512, "{alive} strangers");
    scene.node.stop_kubelet();
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    served(&scene)?;
    println!("{alive} of 900 connections at kubelet's door");
    scene.node.wait_ready();
    Ok(())
}
