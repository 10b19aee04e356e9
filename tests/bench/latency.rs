//! What edge adds to the GET of a small object and to one watch event. Each pair of requests goes both ways in turn.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;

use crate::client::{Client, drain};
use crate::rig::{Rig, Ways, config_map};
use crate::table::{Table, median};

const RUNS: usize = 5;
const PAIRS: usize = 300;
const EVENTS: usize = 60;
const MAP: &str = "/api/v1/namespaces/default/configmaps/small";
const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=true&fieldSelector=metadata.name%3Dsmall\
    &allowWatchBookmarks=true&timeoutSeconds=600&resourceVersion=";

/// Milliseconds: straight, through edge.
type Pair = (f64, f64);

pub fn measure(table: &mut Table) -> Result<()> {
    let rig = Rig::new()?;
    rig.create("/api/v1/namespaces/default/configmaps", vec![config_map("small".into())])?;
    show(table, "GET of a small object", rig.on_node(gets)?);
    show(
        table,
        "one watch event",
        rig.on_node({
            let version = rig.version("/api/v1/namespaces/default/configmaps")?;
            move |ways| events(ways, version)
        })?,
    );
    Ok(())
}

fn show(table: &mut Table, what: &str, runs: Vec<Pair>) {
    let direct = median(runs.iter().map(|run| run.0).collect());
    let edge = median(runs.iter().map(|run| run.1).collect());
    let ratio = median(runs.iter().map(|run| run.1 / run.0).collect());
    let measured = format!("{ratio:.2}x, {:+.2} ms", edge - direct);
    table.add(what, &format!("{direct:.2} ms"), &format!("{edge:.2} ms"), &measured, "<= 1.3x and <= +1 ms");
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

fn middle(pairs: &[Pair]) -> Pair {
    (median(pairs.iter().map(|p| p.0).collect()), median(pairs.iter().map(|p| p.1).collect()))
}

async fn gets(ways: Ways) -> Result<Vec<Pair>> {
    let (direct, edge) = (Client::connect(&ways.direct).await?, Client::connect(&ways.edge).await?);
    let mut runs = Vec::new();
    for run in 0..=RUNS {
        let mut pairs = Vec::new();
        for _ in 0..PAIRS {
            let begun = Instant::now();
            direct.get(MAP).await?;
            let straight = milliseconds(begun);
            let begun = Instant::now();
            edge.get(MAP).await?;
            pairs.push((straight, milliseconds(begun)));
        }
        // The first run warms both ways up.
        if run > 0 {
            runs.push(middle(&pairs));
        }
    }
    Ok(runs)
}

/// From sending a change to hearing of it on a watch, one change for each way in turn.
async fn events(ways: Ways, version: String) -> Result<Vec<Pair>> {
    let admin = Client::connect(&ways.admin).await?;
    let (direct, edge) = (Client::connect(&ways.direct).await?, Client::connect(&ways.edge).await?);
    let mut runs = Vec::new();
    let mut count = 0;
    for run in 0..RUNS {
        let mut times = [Vec::new(), Vec::new()];
        for (way, (client, times)) in [&direct, &edge].into_iter().zip(&mut times).enumerate() {
            let mut watch = client.watch(&format!("{WATCH}{version}")).await?;
            let drained = drain(&mut watch, Duration::from_millis(300)).await;
            drained.with_context(|| format!("run {run}, {}", ["straight", "through edge"][way]))?;
            for _ in 0..EVENTS {
                count += 1;
                times.push(one_event(&admin, &mut watch, count).await?);
            }
        }
        let [straight, through] = times;
        runs.push((median(straight), median(through)));
    }
    Ok(runs)
}

async fn one_event(admin: &Client, watch: &mut Incoming, count: usize) -> Result<f64> {
    let begun = Instant::now();
    let change = json!({"data": {"count": count.to_string()}});
    let (patched, heard) = tokio::join!(admin.patch(MAP, &change), async {
        let frame = watch.frame().await.with_context(|| format!("the watch ended at change {count}"))?;
        frame?;
        Ok::<_, anyhow::Error>(milliseconds(begun))
    });
    patched?;
    heard
}
