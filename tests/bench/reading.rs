//! What the kernel says of a process.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Kernel ticks in a second, as Linux has it on every platform edge runs on.
const TICKS: f64 = 100.0;

fn field(pid: i32, file: &str, name: &str) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Resident memory in MB.
pub fn resident(pid: i32) -> Result<f64> {
    Ok(field(pid, "status", "VmRSS:")? as f64 / 1024.0)
}

/// The most that was ever resident, in MB.
pub fn peak(pid: i32) -> Result<f64> {
    Ok(field(pid, "status", "VmHWM:")? as f64 / 1024.0)
}

/// Bytes that the process has caused to be written to a disk.
pub fn written(pid: i32) -> Result<u64> {
    field(pid, "io", "write_bytes:")
}

/// Seconds of a core used so far, in user and system.
pub fn cpu(pid: i32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = text.rsplit_once(')').context("no name in stat")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).context("a short stat");
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// Waits until the process has used no time for half a second; at most a minute.
pub fn settle(pid: i32) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut before = cpu(pid)?;
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(600));
        let now = cpu(pid)?;
        if now - before < 0.011 {
            return Ok(());
        }
        before = now;
    }
    Ok(())
}
