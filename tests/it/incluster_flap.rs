//! The link comes and goes, with clients that watch everything of the cluster beside kubelet, in a pod's network.

use anyhow::{Context, Result, ensure};

use crate::incluster::{ADDRESS, PORT, reads, scene, with_clients};
use crate::incluster_flannel as flannel;
use crate::support::{Cut, Scene, seconds};

#[test]
fn clients_that_watch_everything_over_a_link_that_flaps() -> Result<()> {
    watched_while_the_link_flaps(scene()?)
}

#[test]
#[ignore = "takes two minutes; `scripts/test --long` runs it"]
fn in_flannels_network_clients_that_watch_everything_over_a_link_that_flaps() -> Result<()> {
    watched_while_the_link_flaps(with_clients(flannel::scene()?)?)
}

#[allow(clippy::print_stdout, reason = "a test says what it measured")]
fn watched_while_the_link_flaps(mut scene: Scene) -> Result<()> {
    scene.cluster.kubectl(&["create", "serviceaccount", "greedy"])?;
    let admin = [
        "create",
        "clusterrolebinding",
        "greedy",
        "--clusterrole=cluster-admin",
        "--serviceaccount=default:greedy",
    ];
    scene.cluster.kubectl(&admin)?;
    let objects = (0..2000).map(|n| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: many-{n}, namespace: default}}\ndata: {{a: '{n}'}}\n---\n")
    });
    scene.cluster.apply(&objects.collect::<String>())?;
    let tokens =
        (0..5).map(|_| scene.cluster.kubectl(&["create", "token", "greedy"])).collect::<Result<Vec<_>>>()?;
    let everything = "configmaps secrets pods services endpoints nodes serviceaccounts events";
    let script = format!(
        "while true; do for r in {everything}; do curl -sk --max-time 60 -H \"Authorization: Bearer $T\" \
         \"https://{ADDRESS}:{PORT}/api/v1/$r?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true\" \
         | wc -c & done; wait; sleep 1; done"
    );
    let watchers = tokens.iter().enumerate().map(|(n, token)| {
        let name = format!("greedy-{n}");
        scene.node.spawn_in("stranger", &name, &["bash", "-c", &script], &[("T", token.trim())])
    });
    let _watchers = watchers.collect::<Result<Vec<_>>>()?;
    scene.cluster.wait_for("all that is watched in the cache", seconds(60), || {
        let status = scene.edge.status(&scene.node)?;
        let all = status["clients"].as_array().context("no clients")?;
        let kept =
            all.iter().filter(|c| c["client"] == "default/greedy").flat_map(|c| c["resources"].as_array());
        let maps: i64 = kept
            .flatten()
            .filter(|r| r["resource"] == "v1/configmaps")
            .filter_map(|r| r["objects"].as_i64())
            .sum();
        ensure!(maps >= 2000, "{maps}");
        Ok(())
    });
    ensure!(reads(&scene)?.len() >= 2000, "before the link flaps");
    scene.cluster.flap(Cut::Refuse, 4, seconds(3), seconds(3))?;
    scene.cluster.cut(Cut::Drop)?;
    scene.wait_link("offline");
    ensure!(reads(&scene)?.len() >= 2000, "the client has read all");
    let mebibytes = scene.edge.resident_bytes()? as f64 / f64::from(1 << 20);
    println!("{mebibytes:.1} MiB resident with five clients and 2,000 objects");
    scene.kubectl(&["get", "--raw", "/api/v1/nodes/node-1"]).context("kubelet is served beside them")?;
    scene.cluster.heal()?;
    scene.wait_link("online");
    scene.cluster.wait_for("the client with the cloud back", seconds(30), || reads(&scene));
    // A build for debugging, after five answers of 2,000 objects at once: bounded, and no figure of what ships.
    ensure!(mebibytes <= 96.0, "{mebibytes} MiB");
    Ok(())
}
