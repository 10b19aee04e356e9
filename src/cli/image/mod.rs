//! `edge image`: the images that edge has, with or without a daemon. Listings read the store from disk; what changes it
//! is done by whoever holds the state folder.

mod list;
mod piped;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::output::{self, Format};
use super::{Global, progress};
use crate::config::Config;
use crate::daemon::stores::StoreTask;
use crate::daemon::task::Task;
use crate::store::{Settings, Store};

/// `edge image`
#[derive(Debug, Args)]
pub struct Image {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List images: name, digest, platforms, size, where from, who needs them
    List(list::List),
    /// Tell everything about an image: manifests, layers, names, referrers
    Inspect(Inspect),
    /// Fetch an image from its registry, and keep it
    Pull(Pull),
    /// Bring in the images of an OCI layout or of what `docker save` or `ctr images export` wrote
    Import(Import),
    /// Write images to an OCI layout, which docker and containerd can load too
    Export(Export),
    /// Remove images; `edge gc` frees their bytes a day after their last use
    Remove(Remove),
}

/// `edge image inspect`
#[derive(Debug, Args)]
struct Inspect {
    /// Its name, such as docker.io/library/nginx:1.27
    image: String,
    /// How to write it
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// `edge image pull`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge image pull nginx:1.27                              for this machine
  edge image pull quay.io/team/app:2 --platform linux/arm64 --platform linux/arm/v7
  edge image pull quay.io/team/app:2 --all-platforms

The registry is asked because the image's name says so, configured as upstream or not; one on loopback in plain HTTP.")]
struct Pull {
    /// Its name
    image: String,
    /// A platform to fetch, such as linux/arm64; may be given several times [default: this machine's]
    #[arg(long, value_name = "PLATFORM", conflicts_with = "all_platforms")]
    platform: Vec<String>,
    /// Fetch all platforms
    #[arg(long)]
    all_platforms: bool,
    /// How to write the result
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// `edge image import`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge image import images.tar                     docker save, ctr images export, skopeo copy docker-archive:
  edge image import layout/ --name quay.io/team/app:2
  docker save app:2 | edge image import -")]
struct Import {
    /// The archive or folder, compressed by gzip or not; `-` reads an archive from standard input
    path: PathBuf,
    /// The name of an image that has none in the archive, or only a tag
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only this platform; may be given several times [default: all that are there]
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<String>,
    /// How to write the result
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// `edge image export`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge image export nginx:1.27 redis:7 --to images.tar
  edge image export nginx:1.27 --to layout/      a folder, for skopeo oci:

An archive is for ctr images import, docker load and skopeo oci-archive:")]
struct Export {
    /// Their names
    #[arg(required = true)]
    images: Vec<String>,
    /// The archive to write; a folder if it ends with a slash
    #[arg(long, value_name = "PATH")]
    to: String,
    /// Only this platform; may be given several times [default: all that are here]
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<String>,
    /// How to write the result
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// `edge image remove`
#[derive(Debug, Args)]
#[command(
    after_help = "Their names go at once. `edge gc`, which the daemon does by itself now and then, frees their bytes a day after
they were stored or used last."
)]
struct Remove {
    /// Their names
    #[arg(required = true)]
    images: Vec<String>,
    /// Also what pods need
    #[arg(long)]
    force: bool,
    /// How to write the result
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

impl Image {
    pub fn run(&self, global: &Global) -> Result<()> {
        let config = global.in_force()?;
        match &self.command {
            Command::List(command) => command.run(&config),
            Command::Inspect(command) => command.run(&config),
            Command::Pull(command) => {
                let task = StoreTask::ImagePull {
                    image: command.image.clone(),
                    platforms: command.platform.clone(),
                    all: command.all_platforms,
                };
                let done = progress::perform(&config, Task::Store(task))?;
                for warning in done["warnings"].as_array().into_iter().flatten().filter_map(|w| w.as_str()) {
                    output::note(&format!("warning: {}", output::visible(warning)));
                }
                tell(&done, command.output, |one| {
                    let fetched = output::size(one["fetched"].as_u64().unwrap_or(0));
                    let attached = match one["attached"].as_array().map_or(0, Vec::len) {
                        0 => String::new(),
                        count => format!(", with {count} attached"),
                    };
                    format!(
                        "pulled {} {}, {fetched} fetched{attached}",
                        word(one, "name"),
                        word(one, "digest")
                    )
                })
            }
            Command::Import(command) => {
                let piped =
                    (command.path == Path::new("-")).then(|| piped::Piped::read(&config)).transpose()?;
                let path = piped.as_ref().map_or(&*command.path, piped::Piped::path);
                let task = StoreTask::ImageImport {
                    path: std::path::absolute(path)?,
                    called: piped.as_ref().map(|_| "standard input".into()),
                    name: command.name.clone(),
                    platforms: command.platform.clone(),
                };
                let done = progress::perform(&config, Task::Store(task))?;
                tell(&done, command.output, |one| {
                    format!("imported {} {}", word(one, "name"), word(one, "digest"))
                })
            }
            Command::Export(command) => {
                let folder = command.to.ends_with('/');
                let path = std::path::absolute(Path::new(command.to.trim_end_matches('/')))?;
                let (images, platforms) = (command.images.clone(), command.platform.clone());
                let task = StoreTask::ImageExport { images, path, folder, platforms };
                let done = progress::perform(&config, Task::Store(task))?;
                tell(&done, command.output, |one| {
                    format!("exported {} {}", word(one, "name"), word(one, "digest"))
                })
            }
            Command::Remove(command) => {
                let task = StoreTask::ImageRemove { images: command.images.clone(), force: command.force };
                let done = progress::perform(&config, Task::Store(task))?;
                tell(&done, command.output, |one| format!("removed {}", word(one, "name")))
            }
        }
    }
}

impl Inspect {
    fn run(&self, config: &Config) -> Result<()> {
        let pods = crate::daemon::needs::pods(&config.state_dir)?;
        let store = store(config)?;
        let unknown = || crate::registry::images::ImageError::Unknown(self.image.clone());
        let store = store.ok_or_else(unknown)?;
        let told =
            crate::registry::images::inspect(&store, &self.image, |name, digest| pods.of(name, digest))?;
        match self.output {
            Format::Json => output::json(&told),
            Format::Text => output::result(&list::inspected(&told)),
        }
    }
}

/// The store, for reading; none where nothing was ever stored.
pub(super) fn store(config: &Config) -> Result<Option<Store>> {
    Store::open_for_reading(Settings::below(&config.state_dir)).context("cannot read the store")
}

/// A result that is one object or a list of them, a line each.
pub(super) fn tell(done: &Value, format: Format, line: impl Fn(&Value) -> String) -> Result<()> {
    match (format, done) {
        (Format::Json, done) => output::json(done),
        (Format::Text, Value::Array(many)) => {
            output::result(&many.iter().map(|one| line(one) + "\n").collect::<String>())
        }
        (Format::Text, one) => output::result(&line(one)),
    }
}

/// A text, as a part of a line: labels and names are whoever pushed the image's.
pub(super) fn word<'a>(value: &'a Value, key: &str) -> Cow<'a, str> {
    output::visible(value[key].as_str().unwrap_or_default())
}
