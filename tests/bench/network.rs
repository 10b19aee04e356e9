//! How long a gateway's network takes to be back after a reboot without the cloud, where flannel, kube-proxy and CoreDNS are
//! pods: kube-proxy's rules from its own start, CoreDNS and a request by Service name from kubelet's.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::network_scene::{has_rules, requests, resolves, scene};
use crate::support::{Cut, Edge, Scene};
use crate::table::{Table, median};

const RUNS: usize = 3;
/// Within this all must be back, however slow.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn measure(table: &mut Table) -> Result<()> {
    let mut scene = scene()?;
    until(&scene, "a request by name", requests)?;
    let (mut rules, mut names, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        scene.cluster.cut(Cut::Drop)?;
        scene.wait_link("offline");
        scene.reboot()?;
        let begun = Instant::now();
        scene.node.start_kubelet(Edge::KUBECONFIG)?;
        until(&scene, "kube-proxy's rules", has_rules)?;
        rules.push(age_of_kube_proxy(&scene)?);
        until(&scene, "an answer of CoreDNS", resolves)?;
        names.push(begun.elapsed().as_secs_f64());
        until(&scene, "a request by name", requests)?;
        answers.push(begun.elapsed().as_secs_f64());
        scene.cluster.heal()?;
        scene.wait_link("online");
        scene.node.wait_ready();
    }
    for (what, runs, target) in [
        ("rules after a reboot offline, since kube-proxy's start", rules, "<= 10 s"),
        ("CoreDNS after a reboot offline, since kubelet's start", names, "<= 20 s"),
        ("request by name after a reboot offline, since kubelet's start", answers, "<= 30 s"),
    ] {
        let figure = format!("{:.1} s", median(runs));
        table.add(what, "-", &figure, &figure, target);
    }
    Ok(())
}

/// Asks more often than the tests do: what is measured is a few seconds.
fn until(scene: &Scene, what: &str, test: fn(&Scene) -> Result<()>) -> Result<()> {
    let begun = Instant::now();
    while let Err(error) = test(scene) {
        if begun.elapsed() > PATIENCE {
            bail!("{what} is not there after {} s: {error:#}", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Seconds since kube-proxy was started, by the kernel's clock.
fn age_of_kube_proxy(scene: &Scene) -> Result<f64> {
    let machine = scene.node.machine()?;
    // Since boot: in seconds, and in hundredths as the 22nd field behind a name without spaces.
    let read = machine.shell("cat /proc/uptime /proc/$(pidof -s kube-proxy)/stat")?;
    let (uptime, stat) = read.split_once('\n').context("no two lines")?;
    let now: f64 = uptime.split(' ').next().context("no uptime")?.parse()?;
    let start: f64 = stat.split(' ').nth(21).context("no start time")?.parse()?;
    Ok(now - start / 100.0)
}
