//! The cluster's DNS for the pods of a kubelet that edge starts, an appliance's or the snap's: the cloud is asked for it as soon
//! as it answers, and kubelet is told. A join needs no cloud, so it is not asked there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::kubelet::follow_membership;
use super::membership::failed;
use super::task::{Place, TaskError, blocking};
use crate::config::{Config, Snap};
use crate::health::{Board, Part};
use crate::link::LinkState;
use crate::node;
use crate::proxy::Proxy;
use crate::proxy::cloud::Credentials;
use crate::proxy::join::{ClusterDns, Record};
use crate::sys::snapctl::Snapctl;
use crate::system::Places;

/// Between two questions once the cloud has answered: it hardly ever changes.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Between two that were not answered: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Whose kubelet edge starts.
#[derive(Clone, Debug)]
pub(super) enum Kubelet {
    Appliance,
    Snap(Snapctl),
}

impl Kubelet {
    /// Of this machine, if there is one.
    pub fn of(config: &Config, snap: Option<&Snap>) -> Option<Self> {
        if Places::below(&config.system.root).booted().is_ok() {
            return Some(Self::Appliance);
        }
        snap.filter(|snap| snap.node.is_some()).map(|snap| Self::Snap(Snapctl::new(&snap.snapctl)))
    }

    /// Has it start anew with what is known now.
    async fn tell(&self, place: &Place) -> Result<(), TaskError> {
        match self {
            Self::Appliance => {
                let config = place.config();
                blocking(move || follow_membership(&config)).await.map(drop)
            }
            Self::Snap(snapctl) => {
                let name = node::Part::Kubelet.name();
                let all = snapctl.services().await.map_err(TaskError::failed)?;
                // One that is switched off is told when it starts.
                if all.iter().any(|service| service.name == name && service.active) {
                    snapctl.restart(&format!("edge.{name}")).await.map_err(TaskError::failed)?;
                }
                Ok(())
            }
        }
    }
}

/// What came of asking so far.
#[derive(Debug, Default)]
struct Asked {
    /// When the cloud answered last, since this daemon started.
    answered: Option<Instant>,
    /// Which one that was: where it is, and who is trusted there.
    cloud: (String, String),
    /// kubelet does not know yet what it said.
    untold: bool,
}

/// Runs until told to stop.
pub(super) async fn keep(
    place: Arc<Place>,
    kubelet: Kubelet,
    board: Board,
    (cloud, mut link): (watch::Receiver<Option<Proxy>>, watch::Receiver<LinkState>),
    mut stopped: watch::Receiver<bool>,
) {
    let part = board.part("cluster-dns");
    part.off();
    let is_online = || cloud.borrow().as_ref().is_some_and(|proxy| proxy.link().state().is_online());
    let (mut asked, mut pause) = (Asked::default(), PAUSE.0);
    loop {
        link.borrow_and_update();
        let wait = match look(&place, &kubelet, &mut asked, is_online(), &part).await {
            Ok(()) => {
                pause = PAUSE.0;
                DAY
            }
            // It is asked when it comes back.
            Err(_) if !is_online() && !asked.untold => DAY,
            Err(error) => {
                part.trouble(format!(
                    "pods may find no names of the cluster, and the cloud is asked for its DNS again: {}",
                    error.message
                ));
                let wait = pause;
                pause = (pause * 2).min(PAUSE.1);
                wait
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = link.changed() => if changed.is_err() { return },
            _ = stopped.changed() => return,
        }
    }
}

/// Asks where the cloud answers and was not asked lately, and has kubelet know what is new.
async fn look(
    place: &Place,
    kubelet: &Kubelet,
    asked: &mut Asked,
    is_online: bool,
    part: &Part,
) -> Result<(), TaskError> {
    let state_dir = place.config().state_dir.clone();
    let Some(record) = Record::read(&state_dir).map_err(failed)? else {
        *asked = Asked::default();
        part.off();
        return Ok(());
    };
    let known = ClusterDns::read(&state_dir).unwrap_or_else(|error| {
        tracing::warn!(%error, "the cloud is asked anew for its DNS");
        None
    });
    let credentials = match is_online {
        true => Some(Credentials::read(&record.cloud_kubeconfig.path).map_err(TaskError::failed)?),
        false => None,
    };
    let cloud_of = |known: &Credentials| (known.server.to_string(), known.authority_pem.clone());
    let is_known = |cloud: &(String, String)| known.is_some() && asked.cloud == *cloud;
    let is_due = |cloud| asked.answered.is_none_or(|at| !is_known(cloud) || at.elapsed() >= DAY);
    if let Some(credentials) = credentials
        && let cloud = cloud_of(&credentials)
        && is_due(&cloud)
    {
        let said = ClusterDns::ask(Arc::new(credentials)).await.map_err(failed)?;
        let _alone = place.membership.lock().await;
        // Who joined or left by hand meanwhile has another cloud, or none.
        if Record::read(&state_dir).map_err(failed)?.as_ref() != Some(&record) {
            return Err(TaskError::failed("another cloud was joined meanwhile"));
        }
        if let Some(said) = said.filter(|said| known.as_ref() != Some(said)) {
            said.write(&state_dir).map_err(TaskError::failed)?;
            tracing::info!(dns = %said, "kubelet starts anew with the cluster's DNS");
            asked.untold = true;
        }
        (asked.answered, asked.cloud) = (Some(Instant::now()), cloud);
    }
    if asked.untold {
        kubelet.tell(place).await?;
        asked.untold = false;
    }
    match ClusterDns::read(&state_dir).map_err(TaskError::failed)? {
        Some(known) => part.good_with(known.to_string()),
        None if asked.answered.is_some() => part.good_with("the cloud names none"),
        None => part.off(),
    }
    Ok(())
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
