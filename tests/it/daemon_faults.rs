//! The daemon on bad ground: each fault gives one clear line, or edge serves on and says in what way it is degraded.

use std::net::TcpListener;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command::{Daemon, Done, Place};
use crate::join_scene::Gateway;
use crate::support::{
    Authority, Cut, Edge, KUBE_ADDRESS, Kubelet, NodeOptions, Pod, Scene, kubeconfig, seconds, workload,
};

/// A gateway that has joined a cloud which is not there, with its proxy on `port`.
fn joined(port: u16) -> Result<Place> {
    let place = Place::new();
    let authority = Authority::new("cloud")?;
    let client = authority.client("system:node:node-1", "system:nodes")?;
    let file = kubeconfig("https://127.0.0.1:9", authority.certificate(), &client);
    let path = place.write("etc/cloud.kubeconfig", &file);
    let listen = format!("[proxy]\nlisten = \"127.0.0.1:{port}\"\n");
    place.write("etc/edge.toml", &format!("[cloud]\nkubeconfig = \"{}\"\n{listen}", path.display()));
    Ok(place)
}

#[test]
fn what_stops_the_daemon_is_one_line() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let place = joined(taken.local_addr()?.port())?;
    let line = |place: &Place| Done::of(place.edge(&["daemon"]).env("EDGE_LOG", "off").output().unwrap());
    let done = line(&place);
    let last = done.err.lines().last().unwrap_or_default();
    assert_eq!(done.code, 1, "{done:?}");
    assert!(last.contains("cannot listen on `127.0.0.1:") && last.contains("another program"), "{done:?}");

    std::fs::remove_file(place.path("etc/cloud.kubeconfig"))?;
    let done = line(&place);
    let last = done.err.lines().last().unwrap_or_default();
    assert_eq!(done.code, 2, "{done:?}");
    assert!(last.contains("cloud.kubeconfig"), "{done:?}");

    place.write("etc/cloud.kubeconfig", "clusters: nothing of use\n");
    let done = line(&place);
    let last = done.err.lines().last().unwrap_or_default();
    assert_eq!(done.code, 2, "{done:?}");
    assert!(last.contains("cloud.kubeconfig"), "{done:?}");
    Ok(())
}

#[test]
fn a_damaged_cache_is_set_aside_and_named() -> Result<()> {
    let place = joined(0)?;
    place.write("state/cache.db", &"not a database ".repeat(500));
    let mut daemon =
        place.edge(&["daemon"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("no daemon")?;
    let start = Instant::now();
    let status = loop {
        let done = place.run(&["status", "-o", "json"]);
        if done.code == 0 {
            break serde_json::from_str::<Value>(&done.out)?;
        }
        ensure!(start.elapsed() < seconds(15), "{done:?}");
        thread::sleep(Duration::from_millis(100));
    };
    daemon.kill()?;
    daemon.wait()?;
    let errors = status["errors"].to_string();
    ensure!(errors.contains("damaged") && errors.contains("cache.db.damaged-0"), "{errors}");
    ensure!(place.read("state/cache.db.damaged-0").starts_with("not a database"), "it was not kept");
    Ok(())
}

/// Secrets are in a cache that was set aside, too.
#[test]
fn what_was_set_aside_goes_with_offline_mode_and_with_a_leave() -> Result<()> {
    const SECRET: &str = "czNjcmV0";
    let gateway = Gateway::new();
    let place = &gateway.place;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let listen = format!("[proxy]\nlisten = \"127.0.0.1:{port}\"\n[registry]\nlisten = \"127.0.0.1:0\"\n");
    place.write("etc/edge.toml", &listen);
    let from = gateway.conf_inline(&gateway.cloud.node(2090));
    let spoil = || place.write("state/cache.db", &format!("{}{SECRET}", "not a database ".repeat(500)));
    let holding = || -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(place.path("state"))? {
            let path = entry?.path();
            if path.is_file() && String::from_utf8_lossy(&std::fs::read(&path)?).contains(SECRET) {
                names.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    };

    gateway.join(&from, &[]).good();
    for older in ["state/cache.db.damaged-0", "state/cache.db.damaged-7"] {
        place.write(older, SECRET);
    }
    spoil();
    let daemon = Daemon::start(place);
    ensure!(holding()? == ["cache.db.damaged-8"], "the last one is kept: {:?}", holding()?);
    let errors = || place.run(&["status", "-o", "json"]).good().out;
    ensure!(errors().contains("cache.db.damaged-8"), "it is not named");
    place.run(&["config", "set", "offline-mode=false"]).good();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(daemon.0.id().cast_signed()),
        nix::sys::signal::Signal::SIGHUP,
    )?;
    let start = Instant::now();
    while !holding()?.is_empty() || errors().contains("damaged") {
        ensure!(start.elapsed() < seconds(15), "offline mode is off: {:?} {}", holding()?, errors());
        thread::sleep(Duration::from_millis(50));
    }
    drop(daemon);

    // A leave without the daemon, and one with it.
    place.run(&["config", "set", "offline-mode=true"]).good();
    place.write("state/cache.db.damaged-1", SECRET);
    gateway.leave().good();
    ensure!(holding()?.is_empty(), "left: {:?}", holding()?);
    gateway.join(&from, &[]).good();
    spoil();
    let _daemon = Daemon::start(place);
    ensure!(!holding()?.is_empty(), "nothing to remove");
    gateway.leave().good();
    ensure!(holding()?.is_empty(), "left with the daemon: {:?}", holding()?);
    Ok(())
}

/// Patches the node without end, and writes down each patch that was answered 200.
pub const PATCHES: &str = r#"
cd /run
get() { sed -n "s/.*$1: *//p" /etc/kubernetes/kubelet.kubeconfig | tr -d '"' | base64 -d; }
get client-certificate-data > me.crt; get client-key-data > me.key
i=0
while true; do
    i=$((i+1))
    case $((i % 2)) in
    0) path=; body="{\"metadata\":{\"annotations\":{\"round-$i\":\"x\"}}}" ;;
    1) path=/status; body="{\"status\":{\"conditions\":[{\"type\":\"Round-$i\",\"status\":\"True\"}]}}" ;;
    esac
    code=$(curl -sk --max-time 3 --cert me.crt --key me.key -X PATCH -o /dev/null -w '%{http_code}' \
        -H 'content-type: application/strategic-merge-patch+json' -d "$body" \
        https://127.0.0.1:6445/api/v1/nodes/node-1$path) || true
    echo "$code $i"
done"#;

#[test]
fn nothing_acknowledged_is_lost_and_1970_and_damage_are_survived() -> Result<()> {
    let mut scene = Scene::ready(&NodeOptions { version: Kubelet::Current, ..NodeOptions::default() })?;
    let cluster = scene.cluster.clone();
    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.node.stop_kubelet();

    let mut client = scene.node.spawn("patches", &["bash", "-c", PATCHES], &[])?;
    for round in 0..20u64 {
        thread::sleep(Duration::from_millis(60 + round * 7919 % 400));
        scene.edge.kill();
        scene.edge.start(&scene.node)?;
    }
    thread::sleep(seconds(1));
    client.kill();
    scene.edge.kill();
    scene.edge.start(&scene.node)?;
    all_there(&scene, &client.log())?;

    // A boot with the clock at 1970: the cache is served, over a TLS that the kubelet takes.
    scene.reboot()?;
    scene.edge.kill();
    let fake = [
        ("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
        ("FAKETIME", "@1970-01-01 00:01:00"),
    ];
    let env = fake.map(|(key, value)| format!("{key}={value}"));
    let argv = [&["env", &env[0], &env[1]], &[env!("CARGO_BIN_EXE_edge"), "daemon"][..]].concat();
    let mut young = scene.node.spawn("young", &argv, &[])?;
    cluster.wait_for("an edge of 1970", seconds(20), || scene.node.listens(Edge::PROXY));
    ensure!(young.alive(), "{}", young.log());
    ensure!(young.log().contains("1970-01-01"), "its clock was not set back: {}", young.log());
    all_there(&scene, &client.log())?;
    // As a kubelet sees it whose clock is there too.
    scene.node.machine()?.shell(
        "openssl s_client -connect 127.0.0.1:6445 -CAfile /var/lib/edge/pki/ca.crt -attime 60 \
         -verify_ip 127.0.0.1 -verify_return_error </dev/null",
    )?;
    young.kill();

    // A cache that is damaged is built anew from the cloud.
    cluster.heal()?;
    scene
        .node
        .machine()?
        .shell("cd /var/lib/edge; rm -f cache.db-*; head -c 9000 /dev/urandom > cache.db")?;
    scene.edge.start(&scene.node)?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    cluster.wait_for("the cache, built anew", seconds(60), || {
        let status = scene.edge.status(&scene.node)?;
        let kept = status["cache"]["resources"].to_string();
        ensure!(kept.contains("v1/nodes") && kept.contains("v1/services"), "{kept}");
        ensure!(status["errors"].to_string().contains("damaged"), "{}", status["errors"]);
        Ok(())
    });
    Ok(())
}

/// The cache is lost with the cloud away: kubelet knows its static pods from files, and makes their mirrors anew.
#[test]
fn a_cache_lost_in_an_outage_doubles_no_static_pod() -> Result<()> {
    let mut scene = Scene::ready(&NodeOptions::default())?;
    let cluster = scene.cluster.clone();
    scene.node.static_pod("fixed", workload::STATIC)?;
    let mirrors = || -> Result<Vec<Pod>> {
        let pods = cluster.pods("default")?;
        Ok(pods.into_iter().filter(|pod| pod.name.starts_with("fixed")).collect())
    };
    let running = |pods: Vec<Pod>| -> Result<Pod> {
        ensure!(pods.len() == 1 && pods[0].running(), "{pods:?}");
        pods.into_iter().next().context("none")
    };
    let before = cluster.wait_for("the mirror", seconds(90), || running(mirrors()?));
    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.edge.kill();
    scene
        .node
        .machine()?
        .shell("cd /var/lib/edge; rm -f cache.db-*; head -c 9000 /dev/urandom > cache.db")?;
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    cluster.wait_for("the static pod, without a cloud or a cache", seconds(90), || {
        let running = scene.node.running_containers()?;
        ensure!(running.values().any(|name| name.contains("fixed")), "{running:?}");
        Ok(())
    });
    // kubelet tells of it again and again until somebody hears.
    cluster.heal()?;
    scene.wait_link("online");
    let after = cluster.wait_for("one mirror, as the node has it", seconds(120), || {
        let there = running(mirrors()?)?;
        let here = scene.node.pods()?.into_iter().find(|pod| pod.name == there.name).context("not here")?;
        ensure!(here.containers == there.containers, "here {here:?}, there {there:?}");
        ensure!(there.containers != before.containers, "as it was before the reboot: {there:?}");
        Ok(there)
    });
    assert_eq!(after.uid, before.uid, "the cloud's own mirror");
    let status = scene.edge.status(&scene.node)?;
    ensure!(status["changes"].as_array().is_some_and(Vec::is_empty), "{}", status["changes"]);
    let kept = &status["cache"]["resources"];
    let pods = kept.as_array().context("none")?.iter().find(|kept| kept["resource"] == "v1/pods");
    ensure!(pods.context("no pods")?["objects"] == 1, "{kept}");
    Ok(())
}

/// The node's certificate for the cloud is lost with the cloud away: all that its pods need is in the cache.
#[test]
fn credentials_lost_in_an_outage_cost_no_pod() -> Result<()> {
    let mut scene = Scene::ready(&NodeOptions::default())?;
    let cluster = scene.cluster.clone();
    workload::apply(&cluster, &scene.node)?;
    workload::wait_running(&cluster);
    cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    scene.node.machine()?.shell("rm /var/lib/edge/cloud/client-current.pem; sync")?;
    scene.reboot()?;
    scene.node.start_kubelet(Edge::KUBECONFIG)?;
    workload::wait_running_on(&scene.node);
    let (status, link) = (scene.edge.status(&scene.node)?, scene.wait_link("offline"));
    let is_named = |text: &Value| text.to_string().contains("client-current.pem");
    ensure!(is_named(&link["reason"]) && status["cloud"]["node"] == "node-1", "{link} {}", status["cloud"]);
    let errors = status["errors"].to_string();
    ensure!(is_named(&status["errors"]) && errors.contains("hint: `edge join --from`"), "{errors}");

    cluster.heal()?;
    scene.edge.join(&scene.node, &cluster.node_kubeconfig(KUBE_ADDRESS, "node-1")?)?;
    scene.wait_link("online");
    scene.node.wait_ready();
    workload::wait_told(&scene.node);
    let errors = &scene.edge.status(&scene.node)?["errors"];
    ensure!(!is_named(errors), "{errors}");
    Ok(())
}

/// Each patch that was answered 200 is in the node that edge serves.
fn all_there(scene: &Scene, log: &str) -> Result<()> {
    let node = scene.kubectl(&["get", "--raw", "/api/v1/nodes/node-1"])?;
    let mut count = 0;
    for number in log.lines().filter_map(|line| line.strip_prefix("200 ")) {
        let name = if number.parse::<u64>()? % 2 == 0 { "round" } else { "Round" };
        ensure!(
            node.contains(&format!("\"{name}-{number}\"")),
            "patch {number} was answered 200 and is gone"
        );
        count += 1;
    }
    ensure!(count > 40, "only {count} patches were taken: {log}");
    Ok(())
}
