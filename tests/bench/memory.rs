//! Memory and processor time of the daemon: with nothing to do, and with what a busy node asks of it.

use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::client::{Client, drain};
use crate::reading;
use crate::rig::{Rig, Ways, config_map, namespace, node_object, pod, secret};
use crate::table::Table;

const QUIET: Duration = Duration::from_secs(30);
const WATCH: &str = "watch=true&allowWatchBookmarks=true&timeoutSeconds=600&resourceVersion=";

pub fn measure(table: &mut Table) -> Result<()> {
    let mut rig = Rig::new()?;
    rig.create("/api/v1/nodes", vec![node_object()])?;
    rig.create("/api/v1/namespaces", vec![namespace("busy")])?;
    let account = "/api/v1/namespaces/busy/serviceaccounts/default";
    rig.cluster.wait_for("a service account", crate::support::seconds(60), || rig.cluster.raw(account));
    rig.settle()?;
    let pid = rig.pid()?;
    let before = reading::cpu(pid)?;
    thread::sleep(QUIET);
    let used = 100.0 * (reading::cpu(pid)? - before) / QUIET.as_secs_f64();
    table.add("CPU, idle", "-", &format!("{used:.2} %"), &format!("{used:.2} %"), "<= 0.5 % of a core");
    let idle = format!("{:.1} MB", reading::resident(pid)?);
    table.add("memory, idle", "-", &idle, &idle, "<= 15 MB");

    rig.create("/api/v1/namespaces/busy/pods", (0..100).map(|n| pod("busy", n)).collect())?;
    rig.create(
        "/api/v1/namespaces/busy/configmaps",
        (0..100).map(|n| config_map(format!("map-{n}"))).collect(),
    )?;
    rig.create("/api/v1/namespaces/busy/secrets", (0..100).map(|n| secret(format!("secret-{n}"))).collect())?;
    let version = rig.version("/api/v1/namespaces/busy/secrets")?;
    let busy = rig.on_node(move |ways| as_kubelet(ways, pid, version))?;
    let busy = format!("{busy:.1} MB");
    table.add("memory, 100 pods, 200 ConfigMaps and Secrets", "-", &busy, &busy, "<= 25 MB");
    Ok(())
}

/// Lists and watches as a kubelet of 100 such pods does, each ConfigMap and Secret by itself; memory then, in MB.
async fn as_kubelet(ways: Ways, pid: i32, version: String) -> Result<f64> {
    let client = Client::connect(&ways.edge).await?;
    let mut paths = vec![format!("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1")];
    paths.push("/api/v1/nodes?fieldSelector=metadata.name%3Dnode-1".to_owned());
    paths.push("/api/v1/services?labelSelector=".into());
    for number in 0..100 {
        for (kind, prefix) in [("configmaps", "map"), ("secrets", "secret")] {
            let name = format!("fieldSelector=metadata.name%3D{prefix}-{number}");
            paths.push(format!("/api/v1/namespaces/busy/{kind}?{name}"));
        }
    }
    let mut watches = Vec::new();
    for path in &paths {
        client.get(path).await?;
        watches.push(client.watch(&format!("{path}&{WATCH}{version}")).await?);
    }
    for watch in &mut watches {
        drain(watch, Duration::from_millis(50)).await?;
    }
    reading::settle(pid)?;
    reading::resident(pid)
}
