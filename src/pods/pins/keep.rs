//! Keeps pins as they should be for as long as it runs.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::{apply, is_honoured};
use crate::cri::{Error, ImageStore};

/// Between two looks. The kubelet collects images every five minutes, and none that is younger than two.
const LOOK: Duration = Duration::from_secs(30);

/// Pins what the pods that `cached` gives need, while `wanted`, and gives all free while it is not. `None` from
/// `cached` means that it is not known which pods there are, and then nothing changes. What prevents it is told
/// through `trouble`, and logged when it changes. Runs until dropped.
pub async fn keep<F>(
    store: ImageStore,
    mut wanted: watch::Receiver<bool>,
    trouble: watch::Sender<Option<String>>,
    cached: impl Fn() -> F,
) where
    F: Future<Output = Option<Vec<Value>>>,
{
    loop {
        let pods = if *wanted.borrow_and_update() { cached().await } else { Some(Vec::new()) };
        if let Some(pods) = pods {
            let said = match look(&store, &pods).await {
                Ok(said) => said,
                // Nothing is to be kept, so nobody misses the runtime.
                Err(error) if pods.is_empty() && error.is_down() => None,
                Err(error) => Some(error.to_string()),
            };
            tell(&trouble, said);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            changed = wanted.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

async fn look(store: &ImageStore, pods: &[Value]) -> Result<Option<String>, Error> {
    let version = match store.version().await {
        Ok(version) => version,
        Err(Error::Unimplemented { endpoint, .. }) => {
            return Ok(Some(format!(
                "images are not pinned: `{endpoint}` is not containerd hint: CRI-O takes `pinned_images` in its configuration"
            )));
        }
        Err(error) => return Err(error),
    };
    apply(store, pods).await?;
    Ok((!is_honoured(&version) && !pods.is_empty()).then(|| {
        format!("image pins are not honoured by containerd {version} hint: 1.7 or later keeps the images of offline pods")
    }))
}

fn tell(to: &watch::Sender<Option<String>>, trouble: Option<String>) {
    to.send_if_modified(|before| {
        if *before == trouble {
            return false;
        }
        if let Some(trouble) = &trouble {
            tracing::warn!(trouble, "images cannot be kept from garbage collection");
        }
        *before = trouble;
        true
    });
}
