//! The task that keeps the images of cached pods. It is not core: without it everything else goes on.

use serde_json::Value;
use tokio::sync::watch;

use crate::cache::Cache;
use crate::config::Config;
use crate::cri::{self, ImageStore};
use crate::pods::pins::keep;

/// The running task's two ends.
#[derive(Debug)]
pub struct Pins {
    wanted: watch::Sender<bool>,
    /// What prevents that images are kept, if anything.
    pub trouble: watch::Receiver<Option<String>>,
}

impl Pins {
    /// Starts the task.
    ///
    /// # Errors
    /// An endpoint that is none.
    pub fn start(config: &Config, cache: &Cache) -> Result<Self, cri::Error> {
        let store = ImageStore::new(&config.runtime)?;
        let (wanted, asked) = watch::channel(Self::are_wanted(config));
        let (told, trouble) = watch::channel(None);
        let cache = cache.clone();
        tokio::spawn(keep(store, asked, told, move || pods(cache.clone())));
        Ok(Self { wanted, trouble })
    }

    /// Takes a changed configuration: without offline mode no image is kept.
    pub fn set(&self, config: &Config) {
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, Self::are_wanted(config)) != *wanted);
    }

    fn are_wanted(config: &Config) -> bool {
        config.offline_mode && config.runtime.pin_images
    }
}

/// The cached pods; `None` while they were never listed, which is not the same as none.
async fn pods(cache: Cache) -> Option<Vec<Value>> {
    let read = cache.read(|reader| {
        let synced =
            reader.counts()?.iter().any(|count| count.resource == "v1/pods" && count.synced.is_some());
        Ok(if synced { Some(reader.all("v1/pods")?) } else { None })
    });
    match read.await {
        Ok(pods) => pods,
        Err(error) => {
            tracing::warn!(%error, "cached pods cannot be read to keep their images");
            None
        }
    }
}
