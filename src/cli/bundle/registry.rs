//! `edge bundle push` and `pull`: the same bundle in a registry instead of on a stick.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::bundle::{self, remote};
use crate::cli::{output, progress};

#[derive(Debug, Args)]
struct Registry {
    /// docker's config.json with credentials for the registry
    #[arg(long, value_name = "FILE")]
    docker_config: Option<PathBuf>,
    /// Speak plain HTTP
    #[arg(long)]
    insecure: bool,
}

/// `edge bundle push`
#[derive(Debug, Args)]
pub(super) struct Push {
    /// The stick, or the folder of one bundle on it
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Such as oci://registry.example.com/edge/main:latest
    #[arg(value_name = "oci://REF")]
    to: String,
    #[command(flatten)]
    registry: Registry,
}

/// `edge bundle pull`
#[derive(Debug, Args)]
pub(super) struct Pull {
    /// Such as oci://registry.example.com/edge/main:latest
    #[arg(value_name = "oci://REF")]
    from: String,
    /// The folder that takes the stick's place
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    registry: Registry,
}

impl Push {
    pub(super) fn run(&self) -> Result<()> {
        let found = bundle::find_one(&self.folder)?;
        let pushed = progress::run(|progress| async move {
            let registry = remote::Registry::new(
                &self.to,
                self.registry.docker_config.as_deref(),
                self.registry.insecure,
            )?;
            remote::push(&registry, found.newest(), &progress).await
        })?;
        output::result(&format!("{} is {pushed}", self.to))
    }
}

impl Pull {
    pub(super) fn run(&self) -> Result<()> {
        let pulled = progress::run(|progress| async move {
            let registry = remote::Registry::new(
                &self.from,
                self.registry.docker_config.as_deref(),
                self.registry.insecure,
            )?;
            remote::pull(&registry, &self.to, &progress).await
        })?;
        output::result(&format!("{}\nnow: edge bundle import {}", pulled.display(), self.to.display()))
    }
}
