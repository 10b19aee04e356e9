//! The task that keeps the images of cached pods. It is not core: without it everything else goes on.

use serde_json::Value;
use tokio::sync::watch;

use crate::cache::Cache;
use crate::config::Config;
use crate::cri::{self, ImageStore, Runtime};
use crate::health::Board;
use crate::pods::pins::{Mark, Places, keep};

/// CRI-O's folder of configuration.
const CRIO: &str = "/etc/crio";

/// The running task's end that the daemon holds.
#[derive(Debug)]
pub struct Pins {
    wanted: watch::Sender<bool>,
}

impl Pins {
    /// Starts the task.
    ///
    /// # Errors
    /// An endpoint that is none.
    pub fn start(config: &Config, cache: &Cache, board: &Board) -> Result<Self, cri::Error> {
        let places = Places {
            store: ImageStore::new(&config.runtime)?,
            runtime: Runtime::new(&config.runtime)?,
            crio: CRIO.into(),
            mark: Mark::below(&config.state_dir),
        };
        let (wanted, asked) = watch::channel(Self::are_wanted(config));
        let cache = cache.clone();
        tokio::spawn(keep(places, asked, board.part("pins"), move || pods(cache.clone())));
        Ok(Self { wanted })
    }

    /// Takes a changed configuration: without offline mode no image is kept.
    pub fn set(&self, config: &Config) {
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, Self::are_wanted(config)) != *wanted);
    }

    /// Has it look at once.
    pub fn look(&self) {
        self.wanted.send_modify(|_| {});
    }

    fn are_wanted(config: &Config) -> bool {
        config.offline_mode && config.runtime.pin_images
    }
}

/// The cached pods of this node; `None` while they were never listed, which is not the same as none.
async fn pods(cache: Cache) -> Option<Vec<Value>> {
    match cache.read(|reader| reader.own_pods()).await {
        Ok(pods) => pods,
        Err(error) => {
            tracing::warn!(%error, "cached pods cannot be read to keep their images");
            None
        }
    }
}
