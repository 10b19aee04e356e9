//! What an object costs, in time, memory and disk, when there are 100, 1,000 and 10,000 of them: listed through edge,
//! and replayed from its cache while the cloud is away.

use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::client::Client;
use crate::reading;
use crate::rig::{Rig, Ways, config_map, namespace};
use crate::support::Cut;
use crate::table::Table;

struct Cost {
    count: usize,
    /// Milliseconds: straight, through edge until the cache has it, replayed.
    direct: f64,
    edge: f64,
    replayed: f64,
    /// MB: before, and the most.
    before: f64,
    peak: f64,
    /// Bytes on disk.
    disk: u64,
}

pub fn measure(table: &mut Table) -> Result<()> {
    let mut rig = Rig::new()?;
    let stages = [
        (100, "n100", "/api/v1/namespaces/n100/configmaps"),
        (1_000, "n1000", "/api/v1/namespaces/n1000/configmaps"),
        (10_000, "n10000", "/api/v1/namespaces/n10000/configmaps"),
    ];
    for (count, name, path) in stages {
        rig.create("/api/v1/namespaces", vec![namespace(name)])?;
        rig.create(path, (0..count).map(|n| config_map(format!("map-{n}"))).collect())?;
        let cost = cost(&mut rig, count, path)?;
        show(table, &cost);
    }
    Ok(())
}

fn show(table: &mut Table, cost: &Cost) {
    let each = |milliseconds: f64| format!("{:.0} us", 1e3 * milliseconds / cost.count as f64);
    let what = |what: &str| format!("{what} per object, of {}", cost.count);
    let ratio = format!("{:.2}x", cost.edge / cost.direct);
    table.add(&what("time of a list"), &each(cost.direct), &each(cost.edge), &ratio, "flat");
    let ratio = format!("{:.2}x", cost.replayed / cost.direct);
    table.add(&what("time of a replay"), &each(cost.direct), &each(cost.replayed), &ratio, "flat");
    let disk = format!("{:.2} kB", cost.disk as f64 / cost.count as f64 / 1e3);
    table.add(&what("disk"), "-", &disk, &disk, "flat");
    let memory = format!("{:.1} MB", cost.peak);
    let grown = format!("{:.1} kB", 1024.0 * (cost.peak - cost.before) / cost.count as f64);
    table.add(&what("peak memory"), &format!("{:.1} MB", cost.before), &memory, &grown, "flat");
}

fn cost(rig: &mut Rig, count: usize, path: &'static str) -> Result<Cost> {
    rig.restart_empty()?;
    let pid = rig.pid()?;
    let before = reading::resident(pid)?;
    let (direct, edge) = rig.on_node(move |ways| online(ways, path))?;
    rig.settle()?;
    let size = rig
        .node
        .machine()?
        .shell("stat -c %s /var/lib/edge/cache.db* | awk '{ n += $1 } END { print n }'")?;
    rig.cluster.cut(Cut::Refuse)?;
    // An idle link is not probed: somebody must ask before edge notices.
    let _ = rig.on_node(move |ways| async move {
        let one = format!("{path}/map-0");
        Client::connect(&ways.edge).await?.get(&one).await
    });
    rig.wait_link("offline")?;
    let replayed = rig.on_node(move |ways| async move {
        let edge = Client::connect(&ways.edge).await?;
        timed(&edge, path).await.context("replayed")
    })?;
    let peak = reading::peak(pid)?;
    rig.cluster.heal()?;
    Ok(Cost { count, direct, edge, replayed, before, peak, disk: size.trim().parse()? })
}

async fn online(ways: Ways, path: &str) -> Result<(f64, f64)> {
    let (direct, edge) = (Client::connect(&ways.direct).await?, Client::connect(&ways.edge).await?);
    timed(&direct, path).await.context("straight")?;
    let straight = timed(&direct, path).await.context("straight, again")?;
    Ok((straight, timed(&edge, path).await.context("through edge")?))
}

async fn timed(client: &Client, path: &str) -> Result<f64> {
    let begun = Instant::now();
    client.get(path).await?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
