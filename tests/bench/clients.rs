//! Memory with in-cluster clients: five reflectors of kube-rs, each with a service account of its own, that hold 2,000
//! objects by streamed lists, at the door for pods; with the cloud there, and read anew without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::reading;
use crate::rig::{Rig, config_map, namespace};
use crate::support::{Cut, Edge};
use crate::table::Table;

const CLIENTS: usize = 5;
const OBJECTS: usize = 2_000;
const PATH: &str = "/api/v1/namespaces/many/configmaps";
/// Where pods find edge.
const DOOR: &str = "https://169.254.64.45:6445";
/// The lists of all clients must be there within this.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn measure(table: &mut Table) -> Result<()> {
    let mut rig = Rig::new()?;
    rig.create("/api/v1/namespaces", vec![namespace("many")])?;
    rig.create(PATH, (0..OBJECTS).map(|n| config_map(format!("map-{n}"))).collect())?;
    let configs = (0..CLIENTS).map(|n| kubeconfig(&rig, n)).collect::<Result<Vec<_>>>()?;
    rig.settle()?;
    let pid = rig.pid()?;
    let before = reading::resident(pid)?;
    let what = format!("{CLIENTS} clients and {OBJECTS} objects");
    let online = held(&rig, &configs, pid)?;
    let row = |online: f64| format!("{online:.1} MB");
    table.add(&format!("memory, {what}"), &row(before), &row(online), &row(online), "<= 40 MB");
    // What was read is on disk before the link goes.
    rig.settle()?;
    rig.cluster.cut(Cut::Refuse)?;
    let _ =
        rig.on_node(|ways| async move { crate::client::Client::connect(&ways.edge).await?.get(PATH).await });
    rig.wait_link("offline")?;
    let offline = held(&rig, &configs, pid)?;
    table.add(&format!("memory, {what}, offline"), &row(before), &row(offline), &row(offline), "<= 40 MB");
    let peak = reading::peak(pid)?;
    table.add(&format!("peak memory, {what}"), &row(before), &row(peak), &row(peak), "-");
    rig.cluster.heal()
}

/// The kubeconfig of a service account that may read everything, at the door for pods.
fn kubeconfig(rig: &Rig, number: usize) -> Result<String> {
    let name = format!("reader-{number}");
    rig.cluster.kubectl(&["create", "serviceaccount", &name])?;
    let account = format!("--serviceaccount=default:{name}");
    rig.cluster.kubectl(&["create", "clusterrolebinding", &name, "--clusterrole=cluster-admin", &account])?;
    let token = rig.cluster.kubectl(&["create", "token", &name])?;
    // As JSON, which is YAML too.
    let own: Value = yaml(&rig.node.machine()?.read(Edge::KUBECONFIG)?)?;
    let authority = &own["clusters"][0]["cluster"]["certificate-authority-data"];
    ensure!(authority.is_string(), "no authority in the kubeconfig that edge wrote");
    Ok(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "edge",
        "clusters": [{"name": "edge", "cluster": {"server": DOOR, "certificate-authority-data": authority}}],
        "users": [{"name": name, "user": {"token": token.trim()}}],
        "contexts": [{"name": "edge", "context": {"cluster": "edge", "user": name}}],
    })
    .to_string())
}

fn yaml(text: &str) -> Result<Value> {
    Ok(serde_json::to_value(Kubeconfig::from_yaml(text)?)?)
}

/// Has all clients hold all objects; the daemon's memory then, in MB.
fn held(rig: &Rig, configs: &[String], pid: i32) -> Result<f64> {
    let configs = configs.to_vec();
    rig.on_node(move |_| async move {
        let done = Arc::new(AtomicUsize::new(0));
        let mut running = Vec::new();
        for text in configs {
            let config = Kubeconfig::from_yaml(&text)?;
            let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
            let maps: Api<ConfigMap> = Api::namespaced(Client::try_from(config)?, "many");
            let (store, writer) = reflector::store();
            let settings = watcher::Config::default().streaming_lists();
            let watch = reflector::reflector(writer, watcher(maps, settings)).default_backoff();
            let counted = done.clone();
            running.push(tokio::spawn(async move {
                let mut watch = std::pin::pin!(watch);
                let mut whole = false;
                while let Some(seen) = watch.next().await {
                    if let Err(error) = seen {
                        eprintln!("a client asks again: {error}");
                    }
                    // One more is of the cloud's own.
                    if !whole && store.state().len() >= OBJECTS {
                        whole = true;
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
        }
        let all = async {
            while done.load(Ordering::Relaxed) < CLIENTS {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.context("not every client has every object")?;
        reading::settle(pid)?;
        let resident = reading::resident(pid);
        running.iter().for_each(tokio::task::JoinHandle::abort);
        resident
    })
}
