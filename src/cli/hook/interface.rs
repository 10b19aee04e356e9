//! The interfaces of the snap: what follows when one is connected, and what must be undone before one goes.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::Scene;
use crate::cli::leave::{containerd_settings, stays};
use crate::cli::{held, output};
use crate::config::Config;
use crate::daemon::{ClientError, ask_look};
use crate::pods::pins::Mark;
use crate::proxy::incluster;
use crate::proxy::join::Record;
use crate::registry::containerd;

/// How long the daemon is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The daemon looks anew at once at what it may reach now. It does so by and by without being told, so nothing that is wrong
/// here is a reason to refuse the connection.
pub async fn connected(scene: &Scene) {
    let told = tokio::time::timeout(PATIENCE, ask_look(&scene.overrides.control_socket())).await;
    let why = match told {
        // Without a daemon there is nobody to tell.
        Ok(Ok(()) | Err(ClientError::Connect { .. })) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it does not answer within {} s", PATIENCE.as_secs()),
    };
    output::note(&format!("edge: the daemon was not told to look at once: {why}"));
}

/// The configuration with the state folder that the daemon holds, if one runs: what it did is noted there.
async fn in_force(scene: &Scene) -> Result<Config> {
    let mut config = Config::load(&scene.overrides)?;
    if let Some(held) = held::other_of_daemon(&scene.overrides, &config).await {
        config.state_dir = held;
    }
    Ok(config)
}

/// Without its socket the images that edge has pinned there would stay pinned for ever.
pub async fn containerd_goes(scene: &Scene) -> Result<()> {
    let config = in_force(scene).await?;
    // The containerd of the snap's own is reached without the plug.
    let is_own = scene.snap.node.as_ref().is_some_and(|node| node.endpoint == config.runtime.endpoint);
    ensure!(
        is_own || !Mark::below(&config.state_dir).is_set(),
        "images are pinned in containerd, and could not be given free any more hint: `snap set edge runtime.pin-images=false` or `edge leave` first"
    );
    Ok(())
}

/// Without its files kubelet could never get its own credentials back.
pub async fn kubelet_goes(scene: &Scene) -> Result<()> {
    let config = in_force(scene).await?;
    let joined = Record::read(&config.state_dir)?;
    ensure!(
        joined.is_none(),
        "kubelet's credentials are edge's, and could not be given back any more hint: `edge leave` first"
    );
    Ok(())
}

/// Without it the interface for pods could neither be kept nor taken away any more.
pub fn network_control_goes() -> Result<()> {
    ensure!(
        !incluster::is_there(),
        "pods of this node have interface `edge-api`, which could not be taken away any more hint: `edge leave` first, or `snap set edge proxy.in-cluster=false` and `snap restart edge.daemon`"
    );
    Ok(())
}

/// Without its files containerd would go on asking an edge that is gone.
pub async fn containerd_config_goes(scene: &Scene) -> Result<()> {
    let config = in_force(scene).await?;
    let undone = containerd::check_undo(&containerd_settings(&config))?;
    let [first, ..] = &undone.changed[..] else {
        stays(&undone).iter().for_each(|line| output::note(&format!("edge: {line}")));
        return Ok(());
    };
    bail!(
        "`{}` is as edge wrote it for containerd, and could not be put back any more hint: `edge leave` undoes it",
        first.display()
    )
}
