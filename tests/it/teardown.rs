//! A test run leaves nothing on the machine, however it ends: no process, control group or folder.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::support::{Cluster, ClusterOptions, NodeOptions, seconds};

/// Set in the process that is to be ended; says how.
const END: &str = "EDGE_TEST_END";

#[test]
fn a_run_leaves_nothing_when_it_is_killed_or_panics() -> Result<()> {
    match std::env::var(END).as_deref() {
        Err(_) => {
            for end in ["kill", "panic"] {
                leaves_nothing(end).with_context(|| format!("after a {end}"))?;
            }
            Ok(())
        }
        Ok(end) => run_until_the_end(end),
    }
}

/// The process that is to be ended: a cloud, a node, a static pod.
#[allow(clippy::print_stdout, reason = "it tells the one who ends it where it stands")]
fn run_until_the_end(end: &str) -> Result<()> {
    let cluster = Cluster::start(&ClusterOptions::default())?;
    let mut node = cluster.node("node-1", &NodeOptions::default())?;
    node.start_direct()?;
    node.static_pod("fixed", crate::support::workload::STATIC)?;
    cluster.wait_for("a container", seconds(90), || {
        ensure!(!node.running_containers()?.is_empty(), "none runs");
        Ok(())
    });
    println!("\nground {} {} {}", cluster.dir().display(), cluster.machine().init(), node.machine()?.init());
    if end == "panic" {
        panic!("as asked");
    }
    // Until it is killed, or the one that should do so is gone.
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

fn leaves_nothing(end: &str) -> Result<()> {
    let name = "teardown::a_run_leaves_nothing_when_it_is_killed_or_panics";
    let mut run = Command::new(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture"])
        .env(END, end)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (dir, machines) = ground(&mut run)?;
    if end == "kill" {
        run.kill()?;
    }
    run.wait()?;
    let group = Path::new(&dir).file_name().context("no folder")?.to_owned();
    let start = Instant::now();
    while let Err(error) = gone(&dir, &group.to_string_lossy(), &machines) {
        ensure!(start.elapsed() < seconds(30), error);
        thread::sleep(std::time::Duration::from_millis(100));
    }
    Ok(())
}

/// What the run said that it stands on: its folder, and the first processes of its machines.
fn ground(run: &mut Child) -> Result<(String, Vec<String>)> {
    let lines = BufReader::new(run.stdout.take().context("no output")?).lines();
    let line = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("ground ").map(str::to_owned));
    let mut words = line.context("the run ended early")?.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let dir = words.remove(0);
    Ok((dir, words))
}

fn gone(dir: &str, group: &str, machines: &[String]) -> Result<()> {
    ensure!(!Path::new(dir).exists(), "the folder `{dir}` is there");
    for pid in machines {
        ensure!(!Path::new("/proc").join(pid).exists(), "process {pid} runs");
    }
    for entry in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let left = entry.path().join(group);
        ensure!(!left.exists(), "control group `{}` is there", left.display());
    }
    ensure!(!Path::new("/sys/fs/cgroup").join(group).exists(), "control group `{group}` is there");
    Ok(())
}
