//! Keeps pins as they should be for as long as it runs.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::{apply, crio, is_honoured};
use crate::cri::{Error, ImageStore, Runtime};
use crate::health::Part;

/// Between two looks. The kubelet collects images every five minutes, and none that is younger than two.
const LOOK: Duration = Duration::from_secs(30);

/// Where pins are kept.
#[derive(Debug)]
pub struct Places {
    /// containerd's own image store.
    pub store: ImageStore,
    /// The same runtime, through CRI.
    pub runtime: Runtime,
    /// CRI-O's folder of configuration, which is there where CRI-O is: `/etc/crio`.
    pub crio: PathBuf,
}

/// Pins what the pods that `cached` gives need, while `wanted`, and gives all free while it is not. `None` from
/// `cached` means that it is not known which pods there are, and then nothing changes. How it goes is told through
/// `part`. Runs until `wanted` has no sender any more.
pub async fn keep<F>(places: Places, mut wanted: watch::Receiver<bool>, part: Part, cached: impl Fn() -> F)
where
    F: Future<Output = Option<Vec<Value>>>,
{
    loop {
        let on = *wanted.borrow_and_update();
        let pods = if on { cached().await } else { Some(Vec::new()) };
        match pods {
            // A machine that has joined no cloud, or has not heard of its pods yet.
            None => part.good_with("no pods are known"),
            Some(pods) => match look(&places, &pods).await {
                Ok(Some(trouble)) => part.trouble(trouble),
                Ok(None) if on => part.good(),
                Ok(None) => part.off(),
                // Nothing is to be kept, so nobody misses the runtime.
                Err(error) if pods.is_empty() && error.is_down() => part.off(),
                Err(error) => part.trouble(error.to_string()),
            },
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Gives free everything that edge had pinned, once. Without a runtime there is nothing to see.
///
/// # Errors
/// The runtime's.
pub async fn free(places: &Places) -> Result<(), Error> {
    match look(places, &[]).await {
        Err(error) if !error.is_down() => Err(error),
        _ => Ok(()),
    }
}

/// Sees to the pins once; what prevents that they have an effect, if anything.
async fn look(places: &Places, pods: &[Value]) -> Result<Option<String>, Error> {
    let version = match places.store.version().await {
        Ok(version) => version,
        Err(Error::Unimplemented { .. }) => return crio::look(&places.runtime, &places.crio, pods).await,
        Err(error) => return Err(error),
    };
    apply(&places.store, pods).await?;
    Ok((!is_honoured(&version) && !pods.is_empty()).then(|| {
        format!("image pins are not honoured by containerd {version} hint: 1.7 or later keeps the images of offline pods")
    }))
}
