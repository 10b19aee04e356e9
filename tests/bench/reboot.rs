//! How long ten pods take to run again after a reboot: without the cloud and with edge, against with the cloud and
//! without edge. In turn, on two nodes of one cloud.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::idle::{Gateways, running};
use crate::support::{Cut, Edge, Node, seconds};
use crate::table::{Table, median};

const PODS: usize = 10;
const RUNS: usize = 3;

pub fn measure(table: &mut Table) -> Result<()> {
    let mut pair = Gateways::new(PODS)?;
    let (mut direct, mut edge) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        pair.direct.reboot()?;
        direct.push(until_running(&mut pair.direct, "/etc/kubernetes/direct.kubeconfig")?);

        pair.cluster.cut_node(Cut::Drop, &pair.edged)?;
        pair.edged.reboot()?;
        pair.edge.start(&pair.edged)?;
        edge.push(until_running(&mut pair.edged, Edge::KUBECONFIG)?);
        pair.cluster.heal()?;
        pair.wait_online();
    }
    let (direct, edge) = (median(direct), median(edge));
    let cells = [format!("{direct:.1} s"), format!("{edge:.1} s"), format!("{:.2}x", edge / direct)];
    table.add("reboot offline, 10 pods", &cells[0], &cells[1], &cells[2], "<= 1.0x");
    Ok(())
}

/// Seconds from the kubelet's start until each pod runs.
fn until_running(node: &mut Node, kubeconfig: &str) -> Result<f64> {
    let begun = Instant::now();
    node.start_kubelet(kubeconfig)?;
    node.cluster().wait_for("all pods after a reboot", seconds(180), || {
        let pods = node.pods()?;
        ensure!(running(&pods) == PODS, "{} of {PODS} run", running(&pods));
        Ok(())
    });
    Ok(begun.elapsed().as_secs_f64())
}
