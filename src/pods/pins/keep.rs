//! Keeps pins as they should be for as long as it runs.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use super::{Mark, apply, crio, is_honoured};
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
    /// Whether there are any.
    pub mark: Mark,
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
                // Nothing is kept nor to be kept, so nobody misses the runtime.
                Err(error) if pods.is_empty() && error.is_down() && !places.mark.is_set() => part.off(),
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

/// Gives free everything that edge had pinned, once. Where it never pinned anything, a runtime that is down is none that
/// holds pins.
///
/// # Errors
/// Why images may still be pinned.
pub async fn free(places: &Places) -> Result<(), String> {
    match look(places, &[]).await {
        Ok(None) => Ok(()),
        Ok(Some(_)) if !places.mark.is_set() => Ok(()),
        Ok(Some(why)) => Err(why),
        Err(error) if error.is_down() && !places.mark.is_set() => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Sees to the pins once; what prevents that they have an effect, if anything.
async fn look(places: &Places, pods: &[Value]) -> Result<Option<String>, Error> {
    let version = match places.store.version().await {
        Ok(version) => version,
        Err(Error::Unimplemented { .. }) => {
            return crio::look(&places.runtime, &places.crio, pods, &places.mark).await;
        }
        Err(error) => return Err(error),
    };
    let report = apply(&places.store, pods, &places.mark).await?;
    let unheeded = (!is_honoured(&version) && !pods.is_empty()).then(|| {
        format!("image pins are not honoured by containerd {version} hint: 1.7 or later keeps the images of offline pods")
    });
    Ok(unheeded.or(report.unmarked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::Settings;

    /// A containerd that has stopped still has its pins.
    #[tokio::test]
    async fn a_runtime_that_is_down_holds_no_pins_only_where_none_were_made() {
        let folder = tempfile::tempdir().unwrap();
        let endpoint = format!("unix://{}", folder.path().join("none.sock").display());
        let settings = Settings { endpoint, ..Settings::default() };
        let places = Places {
            store: ImageStore::new(&settings).unwrap(),
            runtime: Runtime::new(&settings).unwrap(),
            crio: folder.path().join("crio"),
            mark: Mark::below(folder.path()),
        };
        free(&places).await.unwrap();
        places.mark.set().unwrap();
        let why = free(&places).await.unwrap_err();
        assert!(why.starts_with("no container runtime at `unix://"), "{why}");
        let board = crate::health::Board::default();
        let (wanted, asked) = watch::channel(false);
        drop(wanted);
        keep(places, asked, board.part("pins"), async || None).await;
        assert_eq!(board.all()[0].state, crate::health::State::Trouble);
    }
}
