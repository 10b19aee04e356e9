//! The services of the snap's node flavour follow their keys: `node.kubelet = false` stops kubelet and keeps it so.
//!
//! snapd runs them; edge tells it which. Elsewhere than in that snap there is nothing to tell.

use std::time::Duration;

use tokio::sync::watch;

use crate::config::Snap;
use crate::node::{Part, Settings};
use crate::sys::snapctl::{Snapctl, SnapctlError};

/// The name of the snap, which stands before those of its services.
const SNAP: &str = "edge";
/// How long after a refusal snapd is told again: it refuses while it changes the snap itself.
const AGAIN: Duration = Duration::from_secs(5);

/// Tells snapd what is wanted; cheap to drop, which ends it.
#[derive(Debug)]
pub struct Services {
    wanted: watch::Sender<Settings>,
}

impl Services {
    /// Begins where the snap has these services; they run as `settings` say from now on.
    pub fn start(snap: Option<&Snap>, settings: &Settings) -> Option<Self> {
        let snap = snap.filter(|snap| snap.node.is_some())?;
        let (wanted, follow) = watch::channel(settings.clone());
        tokio::spawn(keep(Snapctl::new(&snap.snapctl), follow));
        Some(Self { wanted })
    }

    /// What is wanted from now on.
    pub fn set(&self, settings: &Settings) {
        self.wanted.send_if_modified(|wanted| {
            let new = wanted != settings;
            wanted.clone_from(settings);
            new
        });
    }
}

/// Ends when nobody can want anything any more.
async fn keep(snapctl: Snapctl, mut wanted: watch::Receiver<Settings>) {
    loop {
        let settings = wanted.borrow_and_update().clone();
        let refused = match bring(&snapctl, &settings).await {
            Ok(()) => false,
            Err(error) => {
                tracing::info!(%error, "snapd is told again which services are wanted");
                true
            }
        };
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if refused => {}
        }
    }
}

/// Starts and stops what is not as it should be. kubelet goes before containerd, and comes after it.
async fn bring(snapctl: &Snapctl, settings: &Settings) -> Result<(), SnapctlError> {
    let services = snapctl.services().await?;
    // One that fails again and again is not active, and must be stopped all the same.
    let differs = |part: &Part| {
        let service = services.iter().find(|service| service.name == part.name());
        let wanted = part.is_wanted(settings);
        service.is_some_and(|service| service.enabled != wanted || service.active != wanted)
    };
    let (on, off): (Vec<Part>, Vec<Part>) =
        Part::ALL.into_iter().filter(differs).partition(|part| part.is_wanted(settings));
    for (part, wanted) in
        off.into_iter().rev().map(|part| (part, false)).chain(on.into_iter().map(|part| (part, true)))
    {
        let service = format!("{SNAP}.{}", part.name());
        tracing::info!(service, wanted, "a service of the snap is switched");
        snapctl.switch(&service, wanted).await?;
    }
    Ok(())
}
