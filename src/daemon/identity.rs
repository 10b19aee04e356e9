//! What the daemon of an appliance does for it beside: it joins the cloud with credentials that were given and that the
//! boot could not join with, and copies to identity what a reset must not lose: the node's certificate as it was renewed,
//! and the time that has passed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::kubelet::follow_membership;
use super::membership;
use super::system::{asked_join, given};
use super::task::{Place, TaskError, blocking};
use crate::config::Config;
use crate::proxy;
use crate::proxy::cloud::Credentials;
use crate::proxy::cloud::kubeconfig::{Kubeconfig, Material, Written};
use crate::proxy::join::Record;
use crate::sys::durable;
use crate::sys::progress::Progress;
use crate::system::{self, Places};

/// How often identity is compared with what there is.
const PACE: Duration = Duration::from_secs(600);
/// Between two attempts to join: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// How long one attempt waits for the cloud's signature; the next one finds the same request. A person who joins by hand
/// waits for it.
const ATTEMPT: Duration = Duration::from_secs(20);

/// Runs until told to stop; on other machines it ends at once.
pub(super) async fn keep(place: Arc<Place>, mut stopped: watch::Receiver<bool>) {
    let places = Places::below(&place.config().system.root);
    if places.booted().is_err() {
        return;
    }
    let (mut pause, mut told) = (PAUSE.0, String::new());
    loop {
        let wait = match join(&place, &places).await {
            Ok(()) => {
                pause = PAUSE.0;
                PACE
            }
            Err(error) => {
                if error.message != told {
                    tracing::warn!(why = error.message, "the cloud is not joined yet, and is tried again");
                    told = error.message;
                }
                let wait = pause;
                pause = (pause * 2).min(PAUSE.1);
                wait
            }
        };
        if let Err(error) = copy(&place, &places).await {
            tracing::warn!(why = error.message, "identity has no copy of what a reset must not lose");
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = stopped.changed() => return,
        }
    }
}

/// Joins with the credentials that were given, if there are any. They go when kubelet was told: until then, whatever cut
/// this short, the next round tells it.
async fn join(place: &Place, places: &Places) -> Result<(), TaskError> {
    let given = given(places);
    if !given.exists() {
        return Ok(());
    }
    // Nobody joins or leaves by hand between a look and what follows from it.
    let alone = place.membership.lock().await;
    if !given.exists() {
        return Ok(());
    }
    if Record::read(&place.config().state_dir).map_err(TaskError::failed)?.is_none() {
        let silent = Progress::silent();
        let work = membership::join_alone(asked_join(places, ATTEMPT)?, place, &silent, &alone);
        let joined = place.doing("edge join", None, work).await?;
        tracing::info!(node = %joined["node"], "the cloud is joined with the credentials that were given");
        if let Some(why) = joined["restart"].as_str() {
            tracing::warn!(why, "edge serves the cloud that was joined once it starts anew");
        }
    }
    let config = place.config();
    blocking(move || follow_membership(&config)).await?;
    // They have been taken: who leaves the cloud has left it.
    durable::remove(&given).map_err(TaskError::failed)
}

async fn copy(place: &Place, places: &Places) -> Result<(), TaskError> {
    let passed = place.cache().await?.read(proxy::time_passed).await.map_err(TaskError::failed)?;
    // Who leaves meanwhile has left: what was joined with is not written back.
    let _alone = place.membership.lock().await;
    let (config, places) = (place.config(), places.clone());
    let copied = move || {
        if let Some(passed) = passed {
            system::keep_time(&places, passed).map_err(TaskError::failed)?;
        }
        copy_certificate(&config, &places)
    };
    blocking(copied).await
}

fn copy_certificate(config: &Config, places: &Places) -> Result<(), TaskError> {
    let Some(record) = Record::read(&config.state_dir).map_err(TaskError::failed)? else { return Ok(()) };
    let Some(kept) = system::kept_kubeconfig(places).map_err(TaskError::failed)? else { return Ok(()) };
    let path = &record.cloud_kubeconfig.path;
    let used = Kubeconfig::read(path).map_err(TaskError::failed)?;
    let now = Credentials::of(&used).map_err(TaskError::failed)?;
    let Some(pair) = &now.client else { return Ok(()) };
    let kept = Kubeconfig::parse(&system::kubeconfig_place(places), &kept).map_err(TaskError::failed)?;
    // Another cloud's, or another node's: what was joined by hand is not what a reset brings back.
    let other_cloud = kept.server.trim_end_matches('/') != used.server.trim_end_matches('/');
    let before =
        if kept.certificate.is_some() { Credentials::of(&kept).ok().and_then(|c| c.client) } else { None };
    let is_newer = before
        .is_none_or(|before| before.common_name == pair.common_name && before.not_after < pair.not_after);
    if other_cloud || !is_newer {
        return Ok(());
    }
    let text = Written {
        cluster: "cloud",
        user: &pair.common_name,
        server: &used.server,
        tls_server_name: used.tls_server_name.as_deref(),
        authority: Material::Inline(now.authority_pem.clone().into_bytes()),
        certificate: Material::Inline(pair.chain_pem.clone().into_bytes()),
        key: Material::Inline(pair.key_pem.clone().into_bytes()),
    }
    .text();
    system::keep_kubeconfig(places, text.as_bytes()).map_err(TaskError::failed)?;
    tracing::info!(until = %pair.not_after, "the renewed certificate is kept on identity too");
    Ok(())
}
