//! A clock that is wrong by a month, of a sudden or from the boot on: nobody is refused and every pod starts. (A kubelet
//! is a static program, whose clock cannot be set apart from the machine's: it is edge's that jumps.)

use anyhow::{Result, ensure};

use crate::support::{Cut, Edge, NodeOptions, Process, Scene, seconds, workload};

const OFFSET: &str = "/etc/offset";

/// The daemon under a clock that is off by what `OFFSET` says, read anew at each look.
fn jumping(scene: &Scene) -> Result<Process> {
    let argv = [
        "env",
        "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
        "FAKETIME_TIMESTAMP_FILE=/etc/offset",
        "FAKETIME_NO_CACHE=1",
        // A wall clock that is set leaves the clock alone by which waiting is done.
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        env!("CARGO_BIN_EXE_edge"),
        "daemon",
    ];
    let daemon = scene.node.spawn("jumping", &argv, &[])?;
    scene
        .cluster
        .wait_for("an edge with a clock of its own", seconds(20), || scene.node.listens(Edge::PROXY));
    Ok(daemon)
}

/// Days from now until the beginning of the link's state, as edge tells it.
fn days_ahead(scene: &Scene) -> Result<i64> {
    let since: jiff::Timestamp =
        scene.edge.status(&scene.node)?["link"]["since"].as_str().unwrap_or_default().parse()?;
    Ok(since.duration_since(jiff::Timestamp::now()).as_hours() / 24)
}

#[test]
fn a_clock_that_jumps_a_month_starts_every_pod() -> Result<()> {
    let mut scene = Scene::ready(&NodeOptions::default())?;
    let cluster = scene.cluster.clone();
    workload::apply(&cluster, &scene.node)?;
    workload::wait_running(&cluster);
    ensure!(scene.edge.stop(), "the daemon did not stop");
    scene.node.machine()?.write(OFFSET, "+0")?;
    let mut daemon = jumping(&scene)?;
    scene.wait_link("online");

    // Online and running: still online, and still believed by the kubelet and the cloud.
    scene.node.machine()?.write(OFFSET, "+30d")?;
    scene.kubectl(&["get", "--raw", "/api/v1/namespaces/default/secrets/credentials"])?;
    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    ensure!((29..=30).contains(&days_ahead(&scene)?), "its clock did not jump: {} days", days_ahead(&scene)?);
    scene.kubectl(&["get", "--raw", "/api/v1/namespaces/default/secrets/credentials"])?;
    ensure!(daemon.alive(), "{}", daemon.log());

    // From the boot on, ahead and then back: the pods of either boot run.
    for offset in ["+30d", "-30d"] {
        scene.node.machine()?.write(OFFSET, offset)?;
        scene.node.reboot()?;
        daemon = jumping(&scene)?;
        scene.node.start_kubelet(Edge::KUBECONFIG)?;
        workload::wait_running_on(&scene.node);
    }
    cluster.heal()?;
    scene.wait_link("online");
    workload::wait_told(&scene.node);
    ensure!(daemon.alive(), "{}", daemon.log());
    ensure!(workload::job_runs(&scene.node)? == 1, "a finished Job stays finished");
    Ok(())
}
