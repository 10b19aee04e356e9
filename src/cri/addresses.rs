//! Which addresses the pods of this node have, as the runtime tells: whatever kind of network they are in.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Error, Runtime, v1};

/// How long an address is taken for that of a pod which had it.
const BELIEVED: Duration = Duration::from_secs(10);
/// How often the runtime is asked at the most, whoever comes.
const PAUSE: Duration = Duration::from_millis(200);
/// How long it may take to tell all.
const PATIENCE: Duration = Duration::from_secs(2);

/// The addresses of pods; asked for when somebody comes whose address is not among them.
#[derive(Debug)]
pub struct Addresses {
    runtime: Runtime,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of each sandbox that is ready. They stay as they are for as long as it is.
    of: HashMap<String, Vec<IpAddr>>,
    /// When the runtime was asked last, and why it did not tell.
    asked: Option<(Instant, Result<(), String>)>,
}

impl Addresses {
    /// Nothing is asked yet.
    pub fn new(runtime: Runtime) -> Self {
        Self { runtime, known: Mutex::default() }
    }

    /// Whether a pod of this node has `address`. The network of this machine itself is no pod's.
    ///
    /// # Errors
    /// In words, why the runtime does not tell.
    pub async fn has(&self, address: IpAddr) -> Result<bool, String> {
        let came = Instant::now();
        let mut known = self.known.lock().await;
        let asked = known.asked.as_ref().map(|(at, _)| *at);
        let is_believed = asked.is_some_and(|at| at.elapsed() < BELIEVED) && known.has(address);
        // Its pod may be new. All who come while the runtime is asked wait for one more answer.
        if !is_believed && asked.is_none_or(|at| at < came) {
            if let Some(at) = asked {
                tokio::time::sleep_until(at + PAUSE).await;
            }
            let begun = Instant::now();
            let told = tokio::time::timeout(PATIENCE, self.ask(&mut known.of)).await;
            let told = match told {
                Ok(told) => told.map_err(|error| error.to_string()),
                Err(_) => Err(format!("`{}` does not answer", self.runtime.endpoint())),
            };
            known.asked = Some((begun, told));
        }
        let has = known.has(address);
        match &known.asked {
            Some((_, Err(why))) if !has => Err(why.clone()),
            _ => Ok(has),
        }
    }

    async fn ask(&self, of: &mut HashMap<String, Vec<IpAddr>>) -> Result<(), Error> {
        let ready: HashSet<String> = self.runtime.ready_sandboxes().await?.into_iter().collect();
        of.retain(|id, _| ready.contains(id));
        let mut failed = None;
        for id in ready {
            if of.contains_key(&id) {
                continue;
            }
            match self.runtime.sandbox(&id).await {
                Ok(status) => _ = of.insert(id, addresses(status)),
                // It went since the list was made.
                Err(gone) if gone.is_not_found() => {}
                // One that the runtime cannot tell of hides no other.
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Known {
    fn has(&self, address: IpAddr) -> bool {
        self.of.values().flatten().any(|one| *one == address)
    }
}

fn addresses(status: v1::PodSandboxStatus) -> Vec<IpAddr> {
    let network = status.network.unwrap_or_default();
    let more = network.additional_ips.into_iter().map(|more| more.ip);
    std::iter::once(network.ip).chain(more).filter_map(|ip| ip.parse().ok()).collect()
}
