//! The task that tends pods: ties the pods' room, which restarts, to the proxy, which tells the cloud. It is not core:
//! without it everything else goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;

use crate::cache::Cache;
use crate::config::Config;
use crate::cri::{self, Runtime};
use crate::health::{Board, Part};
use crate::pods::{self, ahead, networks, tend};
use crate::proxy::Proxy;

/// The running task's end that the daemon holds.
#[derive(Debug)]
pub struct Pods {
    settings: watch::Sender<pods::Settings>,
}

/// What the pods of any cloud are tended with.
struct Cloud {
    cache: Cache,
    runtime: Runtime,
    state_dir: PathBuf,
    turns: PathBuf,
    settings: watch::Receiver<pods::Settings>,
    part: Part,
}

impl Cloud {
    /// Tends while a cloud is joined.
    async fn follow(self, mut proxies: watch::Receiver<Option<Proxy>>) {
        loop {
            let proxy = proxies.borrow_and_update().clone();
            let tending = async {
                match proxy {
                    Some(proxy) => tend::tend(self.parts(proxy)).await,
                    None => {
                        self.part.off();
                        std::future::pending().await
                    }
                }
            };
            tokio::select! {
                () = tending => return,
                changed = proxies.changed() => if changed.is_err() { return },
            }
        }
    }

    fn parts(&self, proxy: Proxy) -> tend::Parts {
        tend::Parts {
            cache: self.cache.clone(),
            runtime: self.runtime.clone(),
            state_dir: self.state_dir.clone(),
            turns: self.turns.clone(),
            node: proxy.credentials().node_name().unwrap_or_default().to_owned(),
            boot: tend::boot_id(),
            tell: Arc::new(move |event| {
                let proxy = proxy.clone();
                Box::pin(async move { proxy.tell(event).await })
            }),
            settings: self.settings.clone(),
            part: self.part.clone(),
        }
    }
}

impl Pods {
    /// Starts the task. While no cloud is joined there are no pods of its, and nothing is tended.
    ///
    /// # Errors
    /// An endpoint that is none.
    pub fn start(
        config: &Config,
        cache: &Cache,
        proxy: watch::Receiver<Option<Proxy>>,
        board: &Board,
    ) -> Result<Self, cri::Error> {
        let (settings, watched) = watch::channel(config.pods.clone());
        let cloud = Cloud {
            cache: cache.clone(),
            runtime: Runtime::new(&config.runtime)?,
            state_dir: config.state_dir.clone(),
            turns: config.turns(),
            settings: watched,
            part: board.part("self-heal"),
        };
        // Without a cloud no pod is known, and none is touched.
        tokio::spawn(ahead::tidy(cloud.cache.clone(), cloud.runtime.clone()));
        tokio::spawn(cloud.follow(proxy));
        Ok(Self { settings })
    }

    /// Takes a changed configuration.
    pub fn set(&self, config: &Config) {
        self.settings
            .send_if_modified(|settings| std::mem::replace(settings, config.pods.clone()) != *settings);
    }

    /// Has it look at once.
    pub fn look(&self) {
        self.settings.send_modify(|_| {});
    }
}

/// Removes what keeps kubelet from stopping the sandboxes of the boot before. Beside all else: kubelet tries again and again.
pub fn clear_networks() {
    tokio::task::spawn_blocking(|| {
        for folder in networks::FOLDERS {
            let (gone, failed) = networks::clear(Path::new(folder));
            for note in gone {
                let note = note.display();
                tracing::warn!(%note, "what a CNI plugin noted of a pod's network was unreadable after a power cut: removed");
            }
            for error in failed {
                tracing::warn!(%error, "what a CNI plugin noted of a pod's network is unreadable, and keeps kubelet from stopping that pod");
            }
        }
    });
}
