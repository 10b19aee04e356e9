//! How fast a list of 1,000 pods comes through edge.

use std::time::Instant;

use anyhow::Result;

use crate::client::Client;
use crate::rig::{Rig, Ways, node_object, pod};
use crate::table::{Table, median};

const PODS: usize = 1000;
const RUNS: usize = 9;
const LIST: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1";

pub fn measure(table: &mut Table) -> Result<()> {
    let mut rig = Rig::new()?;
    rig.create("/api/v1/nodes", vec![node_object()])?;
    rig.create("/api/v1/namespaces/default/pods", (0..PODS).map(|n| pod("default", n)).collect())?;
    let pid = rig.pid()?;
    let (direct, edge) = rig.on_node(move |ways| lists(ways, pid))?;
    let cells = [format!("{direct:.1} MB/s"), format!("{edge:.1} MB/s"), format!("{:.2}x", edge / direct)];
    table.add("list of 1,000 pods", &cells[0], &cells[1], &cells[2], ">= 0.8x");
    Ok(())
}

/// Throughput in MB/s: straight, through edge.
async fn lists(ways: Ways, pid: i32) -> Result<(f64, f64)> {
    let clients = [Client::connect(&ways.direct).await?, Client::connect(&ways.edge).await?];
    let mut rates = [Vec::new(), Vec::new()];
    for run in 0..=RUNS {
        for (client, rates) in clients.iter().zip(&mut rates) {
            let begun = Instant::now();
            let bytes = client.get(LIST).await?;
            let rate = bytes as f64 / begun.elapsed().as_secs_f64() / 1e6;
            // What edge still has to write must not slow the next straight one down.
            crate::reading::settle(pid)?;
            if run > 0 {
                rates.push(rate);
            }
        }
    }
    let [direct, edge] = rates;
    Ok((median(direct), median(edge)))
}
