//! A backup of all that the cloud holds, and a cloud that is restored from it: its versions begin again where they were.

use anyhow::Result;
use nix::sys::signal::Signal;

use super::cluster::{Cluster, STORE, locked};

const BACKUP: &str = "/run/etcd.backup";

impl Cluster {
    /// Takes a backup, as of a disk at one moment.
    pub fn back_up(&self) -> Result<()> {
        let store = locked(&self.inner.store);
        store.signal(Signal::SIGSTOP);
        let copied = self.inner.machine.shell(&format!("rm -rf {BACKUP}; cp -a {STORE} {BACKUP}"));
        store.signal(Signal::SIGCONT);
        copied.map(drop)
    }

    /// Ends every part of the cloud and starts it from the backup; waits until the API server answers.
    pub fn restore(&self) -> Result<()> {
        locked(&self.inner.apiserver).kill();
        locked(&self.inner.store).kill();
        let mut parts = locked(&self.inner.parts);
        parts.iter_mut().for_each(super::process::Process::kill);
        parts.clear();
        drop(parts);
        self.inner.machine.shell(&format!("rm -rf {STORE}; cp -a {BACKUP} {STORE}"))?;
        self.restart_apiserver()?;
        self.start_controllers()
    }
}
