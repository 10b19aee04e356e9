//! `edge hook NAME`, and the same by the name that edge is called by: what snapd runs around the life of the snap.
//!
//! A hook answers snapd with an exit code and, where it refuses, with one line. It waits for no network, no cluster and
//! no lock. A hook that has nothing to do here ends well.

mod configure;
mod health;
mod interface;
mod refresh;
mod remove;

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;

pub use refresh::check_stamp;

use super::{Global, output};
use crate::config::{Overrides, Snap};
use crate::sys::snapctl::Snapctl;

/// `edge hook`
#[derive(Debug, Args)]
#[command(after_help = "Example:
  edge hook check-health        what snapd runs as meta/hooks/check-health")]
pub struct Hook {
    /// Its name, as below meta/hooks of the snap
    name: Name,
}

/// The hooks of the snap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// After the first link of the snap
    Install,
    /// Before services start for the first time
    DefaultConfigure,
    /// When values are set, and on install, refresh and revert
    Configure,
    /// In the old revision, before it stops
    PreRefresh,
    /// In the new revision, before it starts
    PostRefresh,
    /// Before the snap goes
    Remove,
    /// After install and refresh, and whenever asked
    CheckHealth,
    /// containerd's socket was connected
    ConnectPlugContainerd,
    /// Before containerd's socket is disconnected
    DisconnectPlugContainerd,
    /// containerd's configuration was connected
    ConnectPlugContainerdConfig,
    /// Before containerd's configuration is disconnected
    DisconnectPlugContainerdConfig,
    /// kubelet's files were connected
    ConnectPlugKubelet,
    /// Before kubelet's files are disconnected
    DisconnectPlugKubelet,
    /// Before the right to make interfaces is disconnected
    DisconnectPlugNetworkControl,
}

/// What a hook works on.
struct Scene {
    overrides: Overrides,
    snap: Snap,
    snapctl: Snapctl,
}

impl Hook {
    /// The same command line, when edge is called by the name of a hook: a link in the snap's meta/hooks.
    pub fn by_own_name(mut arguments: Vec<OsString>) -> Vec<OsString> {
        let called =
            arguments.first().map(Path::new).and_then(Path::file_name).and_then(|name| name.to_str());
        let hook = called.filter(|name| <Name as clap::ValueEnum>::from_str(name, false).is_ok());
        if let Some(name) = hook.map(OsString::from) {
            arguments.splice(1..1, ["hook".into(), name]);
        }
        arguments
    }

    /// Runs it. What is wrong is one line, and exit code 1: to snapd every refusal is the same.
    pub fn run(&self, global: &Global) -> Result<()> {
        let Err(error) = self.dispatch(global) else { return Ok(()) };
        output::note(&super::failure::line(&error));
        Err(output::Exit(1).into())
    }

    fn dispatch(&self, global: &Global) -> Result<()> {
        let overrides = global.overrides()?;
        let snap = overrides
            .snap
            .clone()
            .context("no snap: SNAP_NAME and SNAP_COMMON are not set hint: snapd runs hooks")?;
        let scene = Scene { snapctl: Snapctl::new(&snap.snapctl), snap, overrides };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            match self.name {
                Name::Install => refresh::install(&scene),
                Name::DefaultConfigure => configure::defaults(&scene).await,
                Name::Configure => configure::configure(&scene).await,
                Name::PreRefresh => refresh::before(&scene).await,
                Name::PostRefresh => refresh::after(&scene).await,
                Name::Remove => remove::remove(&scene).await,
                Name::CheckHealth => health::check(&scene).await,
                Name::ConnectPlugContainerd
                | Name::ConnectPlugContainerdConfig
                | Name::ConnectPlugKubelet => {
                    interface::connected(&scene).await;
                    Ok(())
                }
                Name::DisconnectPlugContainerd => interface::containerd_goes(&scene).await,
                Name::DisconnectPlugContainerdConfig => interface::containerd_config_goes(&scene).await,
                Name::DisconnectPlugKubelet => interface::kubelet_goes(&scene).await,
                Name::DisconnectPlugNetworkControl => interface::network_control_goes(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_edge_is_called_by_is_a_hook_or_none() {
        let seen = |called: &str| {
            let words = Hook::by_own_name(vec![called.into(), "x".into()]);
            words.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            seen("/snap/edge/x1/meta/hooks/configure"),
            "/snap/edge/x1/meta/hooks/configure hook configure x"
        );
        assert_eq!(seen("disconnect-plug-kubelet"), "disconnect-plug-kubelet hook disconnect-plug-kubelet x");
        for other in ["edge", "/snap/edge/x1/bin/edge", "hook", "configured", ""] {
            assert_eq!(seen(other), format!("{other} x"));
        }
    }
}
