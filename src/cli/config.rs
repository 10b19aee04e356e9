//! `edge config`: show, change and check the configuration.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use toml_edit::Value;

use super::Global;
use super::failure::Usage;
use super::output::{self, Format};
use crate::config::{self, Change, KEYS, Overrides};
use crate::daemon::{ClientError, ask_reload};

/// `edge config`
#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the configuration as it is written, or one key of it
    #[command(after_help = "Examples:
  edge config get
  edge config get cloud.probe-interval")]
    Get {
        /// Such as cloud.probe-interval; all keys if none is named
        key: Option<String>,
        /// How to write it
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Change keys in the file, all or none; comments stay
    #[command(after_help = "Examples:
  edge config set offline-mode=false
  edge config set cloud.probe-interval=10s registry.listen=127.0.0.1:5001")]
    Set {
        /// Such as offline-mode=false
        #[arg(required = true, value_name = "KEY=VALUE")]
        changes: Vec<String>,
    },
    /// Check a whole file without using it
    #[command(after_help = "Examples:
  edge config validate
  edge config validate ./edge.toml")]
    Validate {
        /// The file [default: the one in force]
        file: Option<PathBuf>,
    },
    /// Write a file that documents every key
    Sample,
}

impl Config {
    pub fn run(&self, global: &Global) -> Result<()> {
        match &self.command {
            Command::Get { key, output } => {
                let config = config::Config::written(&global.overrides()?)?;
                match key {
                    Some(key) => get(&config, key, *output),
                    None => get_all(&config, *output),
                }
            }
            Command::Set { changes } => set(&global.overrides()?, changes),
            Command::Validate { file } => validate(&global.overrides()?, file.as_ref()),
            Command::Sample => output::result(&config::sample()),
        }
    }
}

fn get(config: &config::Config, key: &str, format: Format) -> Result<()> {
    let value = config.get(key)?;
    match (format, value) {
        (Format::Json, value) => output::json(&value.as_ref().map(config::json::of_value)),
        (Format::Text, Some(Value::String(text))) => output::result(text.value()),
        (Format::Text, Some(value)) => output::result(value.to_string().trim()),
        (Format::Text, None) => Err(anyhow!("`{key}` is not set and has no default")),
    }
}

fn get_all(config: &config::Config, format: Format) -> Result<()> {
    if format == Format::Text {
        return output::result(&config::to_toml(config));
    }
    let mut all = serde_json::Map::new();
    for key in KEYS {
        let value = config.get(key.path)?.as_ref().map(config::json::of_value);
        all.insert(key.path.into(), value.unwrap_or(serde_json::Value::Null));
    }
    output::json(&all)
}

fn set(overrides: &Overrides, changes: &[String]) -> Result<()> {
    let changes = changes.iter().map(|text| Change::assignment(text)).collect::<Result<Vec<_>, _>>()?;
    super::edit::edit(overrides, &changes)?;
    let file = overrides.file();
    let names = changes.iter().map(|change| match change {
        Change::Set(name, _) | Change::Unset(name) => name.as_str(),
    });
    let waiting: Vec<&str> = names.filter(|name| config::is_at_start(name)).collect();
    let advice = match (&overrides.snap, waiting.len() == changes.len()) {
        (Some(_), _) => in_force(overrides.control_socket())?,
        (None, true) => "`systemctl restart edge` makes a running daemon use it",
        (None, false) => "`systemctl reload edge` makes a running daemon read it",
    };
    let late = match (&overrides.snap, &waiting[..]) {
        (_, []) => String::new(),
        (None, all) if all.len() == changes.len() => String::new(),
        (Some(_), late) => {
            format!("; `{}`: from its next start, `snap restart edge.daemon`", late.join("`, `"))
        }
        (None, late) => format!("; `{}`: `systemctl restart edge`", late.join("`, `")),
    };
    output::note(&format!("`{}` is written; {advice}{late}", file.display()));
    let moved = changes.iter().find_map(|change| match change {
        Change::Set(name, folder) if name == "state-dir" => Some(Path::new(folder)),
        _ => None,
    });
    if let (None, Some(folder)) = (&overrides.snap, moved)
        && !folder.starts_with(overrides.defaults().state_dir)
    {
        output::note(&format!(
            "edge: under systemd it can write there only with `ReadWritePaths={}` below `[Service]` hint: `systemctl edit edge`",
            folder.display()
        ));
    }
    Ok(())
}

/// Within a snap nobody but edge can tell its daemon, since snapd knows no reload.
fn in_force(socket: PathBuf) -> Result<&'static str> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(ask_reload(&socket)) {
        Ok(()) => Ok("the daemon has read it"),
        Err(ClientError::Connect { .. }) => Ok("it is in force from the daemon's next start"),
        Err(error) => Err(error.into()),
    }
}

fn validate(overrides: &Overrides, file: Option<&PathBuf>) -> Result<()> {
    let named = file.map(std::path::absolute).transpose()?;
    let overrides = Overrides { config: named.or_else(|| overrides.config.clone()), ..overrides.clone() };
    let config = config::Config::load(&overrides).map_err(|error| match error {
        config::Error::Missing(path) if file.is_some() => {
            anyhow!(Usage(format!(
                "`{}` does not exist hint: without a file the one in force is checked",
                path.display()
            )))
        }
        error => error.into(),
    })?;
    let file = config.file.display();
    output::result(&match config.file.exists() {
        true => format!("`{file}` is good"),
        false => format!("`{file}` is not there; the defaults are in force"),
    })
}
