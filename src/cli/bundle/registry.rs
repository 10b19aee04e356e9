//! `edge bundle push` and `pull`: the same bundle in a registry instead of on a stick.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use crate::bundle::{self, remote};
use crate::cli::failure::Usage;
use crate::cli::{Global, held, output, progress};
use crate::config::{Config, Error as ConfigError, Overrides};
use crate::oci::{Credentials, Upstream};
use crate::registry::upstream_client;
use crate::store;
use crate::trust::AnchorError;

#[derive(Debug, Args)]
struct Registry {
    /// docker's config.json with credentials for the registry [default: registry.docker-config]
    #[arg(long, value_name = "FILE")]
    docker_config: Option<PathBuf>,
    /// Speak plain HTTP
    #[arg(long)]
    insecure: bool,
}

impl Registry {
    /// The place, by what is configured of registries and what is given here; and the configuration.
    fn open(&self, text: &str, global: &Global) -> Result<(remote::Registry, Config)> {
        let overrides = global.overrides()?;
        let (may_read, named) = (|path: &Path| File::open(path).map(drop), self.docker_config.is_some());
        let (config, unread) = configured(Config::load(&overrides), &overrides, named, may_read)?;
        let config = held::follow(&overrides, config)?;
        for why in unread {
            output::note(&format!("{why}: going on without it"));
        }
        let given = self.docker_config.as_deref().map(Credentials::read).transpose().map_err(Usage)?;
        let settings = &config.registry;
        let client = upstream_client(settings, given).map_err(|e| Usage(e.to_string()))?;
        let at = |host: &str| match self.insecure {
            true => Upstream::at(host, true),
            false => settings.upstream(host),
        };
        let registry = remote::Registry::new(text, client, at)?;
        Ok((registry, config))
    }
}

/// What is configured, and why some of that of registries is left out: whoever carries bundles need not be root, whose
/// alone the configuration is. What somebody names is not left out. `named` says that credentials are.
fn configured(
    loaded: Result<Config, ConfigError>,
    overrides: &Overrides,
    named: bool,
    may_read: impl Fn(&Path) -> io::Result<()>,
) -> Result<(Config, Vec<String>)> {
    let mut unread = Vec::new();
    let mut config = match loaded {
        Err(ConfigError::File(error))
            if overrides.config.is_none() && error.kind() == ErrorKind::PermissionDenied =>
        {
            unread.push(error.to_string());
            Config::unread(overrides)?
        }
        loaded => loaded?,
    };
    if let Some(path) = config.registry.docker_config.as_ref().filter(|_| !named)
        && let Err(error) = may_read(path)
        && error.kind() == ErrorKind::PermissionDenied
    {
        unread.push(format!("cannot read `{}`: {error}", path.display()));
        config.registry.docker_config = None;
    }
    Ok((config, unread))
}

/// What this machine believes. Whoever is not root cannot read that, and only carries the bundle.
fn pinned(config: &Config) -> Result<Option<remote::Pinned>> {
    match remote::Pinned::below(&config.state_dir) {
        Err(
            bundle::Error::Store(store::Error::Io(error))
            | bundle::Error::Trust(AnchorError::Files(error))
            | bundle::Error::Files(error),
        ) if error.kind() == ErrorKind::PermissionDenied => {
            output::note(
                "only root can read the pinned root: signatures are checked when the bundle is imported",
            );
            Ok(None)
        }
        pinned => Ok(pinned?),
    }
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
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let (found, (registry, _)) = (bundle::find_one(&self.folder)?, self.registry.open(&self.to, global)?);
        let pushed =
            progress::run(async |progress| remote::push(&registry.telling(progress), found.newest()).await)?;
        output::result(&format!("{} is {pushed}", self.to))
    }
}

impl Pull {
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        let (registry, config) = self.registry.open(&self.from, global)?;
        let pinned = pinned(&config)?;
        let pulled = progress::run(async |progress| {
            remote::pull(&registry.telling(progress), &self.to, pinned).await
        })?;
        output::result(&format!("{}\nnow: edge bundle import {}", pulled.display(), self.to.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_root_carries_bundles_without_what_only_root_may_read() {
        let denied = |_: &Path| Err(io::Error::from(ErrorKind::PermissionDenied));
        let absent = |_: &Path| Err(io::Error::from(ErrorKind::NotFound));
        let unreadable =
            |kind: ErrorKind| Err(ConfigError::File(io::Error::new(kind, "cannot read `edge.toml`")));
        let proxy = Some("http://proxy.example:3128".to_owned());
        let plain = Overrides { proxy: proxy.clone(), ..Overrides::default() };
        let (read, unread) =
            configured(unreadable(ErrorKind::PermissionDenied), &plain, false, denied).unwrap();
        assert_eq!((read.registry.proxy, unread), (proxy, vec!["cannot read `edge.toml`".to_owned()]));
        // Whoever names a file means it, and a disk that fails is no matter of rights.
        let by_name = Overrides { config: Some("/x/edge.toml".into()), ..Overrides::default() };
        configured(unreadable(ErrorKind::PermissionDenied), &by_name, false, denied).unwrap_err();
        configured(unreadable(ErrorKind::InvalidData), &plain, false, denied).unwrap_err();

        let credentials = PathBuf::from("/etc/edge/docker.json");
        let mut config = Config::default();
        config.registry.docker_config = Some(credentials.clone());
        let (read, unread) = configured(Ok(config.clone()), &plain, false, denied).unwrap();
        assert!(
            read.registry.docker_config.is_none() && unread[0].contains("/etc/edge/docker.json"),
            "{unread:?}"
        );
        // What is not there is told by whoever reads it; and with credentials that are given nobody reads it.
        for (named, read) in [
            (false, configured(Ok(config.clone()), &plain, false, absent)),
            (true, configured(Ok(config), &plain, true, denied)),
        ] {
            let (read, unread) = read.unwrap();
            assert_eq!(
                (read.registry.docker_config, unread.len()),
                (Some(credentials.clone()), 0),
                "{named}"
            );
        }
    }
}
