//! What snapd shows of the snap's health. It asks at install, refresh and revert alone, while a setting that waits for a start
//! is changed in between, and is in force after a restart that snapd does not look at either: so the daemon has it told.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::watch;

/// From a start or a change on: parts that begin may be in trouble for a moment, and what they wait for may come later.
const LOOKS: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(60), Duration::from_secs(600)];

/// Runs the check-health hook some times after the start, and after each change of the settings, for as long as the daemon
/// lives.
pub async fn keep(mut changes: watch::Receiver<Vec<&'static str>>) {
    loop {
        for pause in LOOKS {
            let changed = tokio::time::timeout(pause, changes.changed()).await;
            match changed {
                Ok(Err(_)) => return,
                Ok(Ok(())) => tokio::time::sleep(LOOKS[0]).await,
                Err(_) => {}
            }
            if let Err(why) = tell().await {
                tracing::warn!(why, "snapd was not told how the snap is");
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// As snapd runs it, but for the transaction: what it sets is set at once.
async fn tell() -> Result<(), String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut hook = Command::new(program);
    hook.args(["hook", "check-health"]).stdin(Stdio::null()).kill_on_drop(true);
    let done = hook.output().await.map_err(|e| e.to_string())?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()) }
}
