//! The task that tends pods: ties the pods' room, which restarts, to the proxy, which tells the cloud. It is not core:
//! without it everything else goes on.

use std::sync::Arc;

use tokio::sync::watch;

use crate::cache::Cache;
use crate::config::Config;
use crate::cri::{self, Runtime};
use crate::health::Board;
use crate::pods::{heal, tend};
use crate::proxy::Proxy;

/// The running task's end that the daemon holds.
#[derive(Debug)]
pub struct Pods {
    settings: watch::Sender<heal::Settings>,
}

impl Pods {
    /// Starts the task. Without a cloud there are no pods of its, and nothing is tended.
    ///
    /// # Errors
    /// An endpoint that is none.
    pub fn start(
        config: &Config,
        cache: &Cache,
        proxy: Option<&Proxy>,
        board: &Board,
    ) -> Result<Self, cri::Error> {
        let (settings, watched) = watch::channel(config.pods.self_heal.clone());
        let part = board.part("self-heal");
        let Some(proxy) = proxy.cloned() else {
            part.off();
            return Ok(Self { settings });
        };
        let node = proxy.credentials().node_name().unwrap_or_default().to_owned();
        let parts = tend::Parts {
            cache: cache.clone(),
            runtime: Runtime::new(&config.runtime)?,
            state_dir: config.state_dir.clone(),
            turns: config.turns(),
            node,
            boot: tend::boot_id(),
            tell: Arc::new(move |event| {
                let proxy = proxy.clone();
                Box::pin(async move { proxy.tell(event).await })
            }),
            settings: watched,
            part,
        };
        tokio::spawn(tend::tend(parts));
        Ok(Self { settings })
    }

    /// Takes a changed configuration.
    pub fn set(&self, config: &Config) {
        self.settings.send_if_modified(|settings| {
            std::mem::replace(settings, config.pods.self_heal.clone()) != *settings
        });
    }
}
