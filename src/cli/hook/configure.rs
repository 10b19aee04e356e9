//! The configure hook: takes snapd's values as a whole, or refuses them with one line.
//!
//! Here nothing is put into force. snapd commits the values only after this hook has ended well, so they are left
//! with the daemon, or on disk where none runs; `daemon::prepared` says what becomes of them.

use std::time::Duration;

use anyhow::Result;

use super::{Scene, check_stamp};
use crate::cli::{moved, output};
use crate::config::snap::{self, Taken};
use crate::config::{self, Config};
use crate::daemon::{self, ClientError, ask_prepare, prepared};

pub(super) const KUBECONFIG: &str = "cloud.kubeconfig";

/// How long the daemon may take; one that hangs must not hold snapd up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Checks all values, tells snapd what nobody set, and leaves them with the daemon if anything changed.
pub async fn configure(scene: &Scene) -> Result<()> {
    // snapd runs no other hook when it reverts, and goes back where this one fails.
    check_stamp(&scene.snap.common)?;
    let defaults = scene.overrides.defaults();
    let in_force = prepared::in_force(&defaults)?;
    let waiting = prepared::waiting(&defaults.file)?;
    let waits = waiting.as_deref().and_then(|text| Config::parse_over(defaults.clone(), text).ok());
    // What was committed a moment ago and not yet promoted is what these values are compared with.
    let before = waits.as_ref().or(in_force.as_ref());
    let mut taken = values(scene, &defaults, before).await?;
    moved::check(&scene.overrides, in_force.as_ref(), &taken.config.state_dir)?;
    follow_membership(&mut taken, in_force.as_ref());
    tell_snapd(scene, &taken).await?;
    if before == Some(&taken.config) {
        // What the file has, or what waits, the daemon may not have: somebody changed it by hand, or a command was cut off.
        ask(&taken.config, &prepared::text_of(&taken.config)).await?;
        return Ok(());
    }
    hand_over(&taken.config, waiting).await
}

/// What was joined or left stays so, whatever snapd has, and snapd is told.
fn follow_membership(taken: &mut Taken, in_force: Option<&Config>) {
    let given = taken.config.cloud.kubeconfig.clone();
    if let Some(why) = daemon::follow_membership(&mut taken.config, in_force) {
        output::note(&format!("edge: {why}"));
    }
    match (given, &taken.config.cloud.kubeconfig) {
        (None, Some(path)) => taken.missing.push((KUBECONFIG, path.to_string_lossy().into_owned().into())),
        (Some(gone), None) => {
            let gone = gone.display();
            output::note(&format!(
                "edge: `{KUBECONFIG}` is unset: this node left the cloud, and `{gone}` is gone"
            ));
            taken.gone.push(KUBECONFIG);
        }
        _ => {}
    }
}

/// Sets what nobody set, and leaves all on disk for the first start: what a gadget sets is in force from then on. snapd has
/// committed it before it starts the services, and runs the other hook after.
pub async fn defaults(scene: &Scene) -> Result<()> {
    let taken = values(scene, &scene.overrides.defaults(), None).await?;
    let config = &taken.config;
    moved::check(&scene.overrides, None, &config.state_dir)?;
    tell_snapd(scene, &taken).await?;
    Ok(prepared::stage(&config.file, &prepared::text_of(config))?)
}

/// snapd's values, checked.
pub async fn values(scene: &Scene, defaults: &Config, before: Option<&Config>) -> Result<Taken> {
    let values = scene.snapctl.values(&snap::sections()).await?;
    Ok(snap::read(&values, defaults, before).map_err(config::Error::Given)?)
}

/// Within the hook's own transaction: if it fails, none of this was said.
async fn tell_snapd(scene: &Scene, taken: &Taken) -> Result<()> {
    for key in &taken.gone {
        scene.snapctl.unset(key).await?;
    }
    Ok(scene.snapctl.set(&taken.missing).await?)
}

/// Leaves a configuration with the daemon. Where none listens, on disk, and then it is looked for once more: one that
/// starts meanwhile looks on disk after it listens, so that one of the two finds the other. What waited there comes back
/// where this one is refused.
async fn hand_over(config: &Config, waited: Option<String>) -> Result<()> {
    let text = prepared::text_of(config);
    if ask(config, &text).await? {
        return Ok(());
    }
    prepared::stage(&config.file, &text)?;
    let asked = ask(config, &text).await.map(drop);
    if asked.is_err() {
        match waited {
            Some(waited) => prepared::stage(&config.file, &waited)?,
            None => prepared::drop_waiting(&config.file)?,
        }
    }
    asked
}

/// Whether the daemon took it; false if none answers.
async fn ask(config: &Config, text: &str) -> Result<bool> {
    match tokio::time::timeout(PATIENCE, ask_prepare(&config.socket, text.to_owned())).await {
        Ok(Ok(())) => Ok(true),
        Ok(Err(refused @ ClientError::Refused(_))) => Err(refused.into()),
        Ok(Err(_)) | Err(_) => Ok(false),
    }
}
