//! What `edge status` knows, as snapd shows it in `snap list` and `snap info`.

use std::time::Duration;

use anyhow::Result;

use super::Scene;
use crate::daemon::judged::{judge, problem};
use crate::daemon::{ClientError, ask_status};

/// A daemon that has just been started may take this long to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// All of it may take this long: snapd ends the hook after 30 s, and takes that for a refresh that failed.
const MOST_TIME: Duration = Duration::from_secs(20);

/// Asks the daemon, and tells snapd.
pub async fn check(scene: &Scene) -> Result<()> {
    // Which the file does not name: one that is spoiled is the daemon's to put right, and fails no refresh.
    let socket = scene.overrides.control_socket();
    let began = tokio::time::Instant::now();
    let asked = async {
        loop {
            match ask_status(&socket).await {
                Err(ClientError::Connect { .. }) if began.elapsed() < PATIENCE => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                answer => break answer,
            }
        }
    };
    let judged = match tokio::time::timeout(MOST_TIME, asked).await {
        Ok(Ok(report)) => judge(&report),
        // The kernel takes the connection for a daemon that hangs, too.
        Ok(Err(_)) | Err(_) => {
            problem("error", "no-daemon", "the edge daemon does not answer: see `snap logs edge`")
        }
    };
    Ok(scene.snapctl.set_health(judged.state, judged.said()).await?)
}
