//! `edge chart`: the charts of edge's chart repositories.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::image::{store, tell, word};
use super::output::{self, Format};
use super::{Global, progress};
use crate::config::Config;
use crate::daemon::stores::StoreTask;
use crate::daemon::task::Task;
use crate::oci::chart::newest_first;
use crate::store::Chart as Stored;
use crate::sys::durable;

/// `edge chart`
#[derive(Debug, Args)]
pub struct Chart {
    #[command(subcommand)]
    command: Command,
}

/// Which chart repository.
#[derive(Debug, Args)]
struct Repository {
    /// The path of the chart repository, such as team/stable [default: the one at the root]
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    repository: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List charts with their versions
    List {
        /// Only charts of this name
        name: Option<String>,
        /// How to write it
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Tell what a version of a chart says of itself
    Inspect {
        /// The chart
        name: String,
        /// The version [default: the newest]
        version: Option<String>,
        #[command(flatten)]
        at: Repository,
        /// How to write it
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    #[command(after_help = "Example:
  edge chart add app-1.0.0.tgz")]
    /// Add a packed chart, with the provenance file beside it if there is one
    Add {
        /// The package that `helm package` made
        path: PathBuf,
        #[command(flatten)]
        at: Repository,
        /// Put it in the place of the same version
        #[arg(long)]
        force: bool,
        /// How to write the result
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Remove a version of a chart
    Remove {
        /// The chart
        name: String,
        /// The version
        version: String,
        #[command(flatten)]
        at: Repository,
        /// How to write the result
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
}

impl Chart {
    pub fn run(&self, global: &Global) -> Result<()> {
        let config = global.load()?;
        match &self.command {
            Command::List { name, output } => list(&config, name.as_deref(), *output),
            Command::Inspect { name, version, at, output } => {
                inspect(&config, &at.repository, name, version.as_deref(), *output)
            }
            Command::Add { path, at, force, output } => {
                let path = std::path::absolute(path)?;
                let mut beside = path.clone().into_os_string();
                beside.push(".prov");
                let provenance = durable::exists(beside.as_ref())?.then(|| beside.into());
                let repository = at.repository.clone();
                let task = StoreTask::ChartAdd { path, provenance, repository, force: *force };
                let done = progress::perform(&config, Task::Store(task))?;
                tell(&done, *output, |one| format!("added {} {}", word(one, "name"), word(one, "version")))
            }
            Command::Remove { name, version, at, output } => {
                let (repository, name, version) = (at.repository.clone(), name.clone(), version.clone());
                let task = StoreTask::ChartRemove { repository, name, version };
                let done = progress::perform(&config, Task::Store(task))?;
                tell(&done, *output, |one| format!("removed {} {}", word(one, "name"), word(one, "version")))
            }
        }
    }
}

fn list(config: &Config, name: Option<&str>, format: Format) -> Result<()> {
    let mut charts: Vec<Stored> = Vec::new();
    if let Some(store) = store(config)? {
        for repository in store.chart_repositories()? {
            let mut found = store.charts(&repository, name)?;
            found.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| newest_first(&a.version, &b.version)));
            charts.extend(found);
        }
    }
    let told: Vec<Value> = charts.iter().map(described).collect();
    match format {
        Format::Json => output::json(&told),
        Format::Text if told.is_empty() => {
            output::note("no charts");
            Ok(())
        }
        Format::Text => {
            let heads = ["REPOSITORY", "NAME", "VERSION", "APP VERSION", "FROM", "DESCRIPTION"];
            let mut rows = vec![heads.map(str::to_owned).to_vec()];
            let shown = |one: &Value, key: &str| match &*word(one, key) {
                "" => "-".to_owned(),
                text => text.to_owned(),
            };
            let keys = ["repository", "name", "version", "appVersion", "from", "description"];
            rows.extend(told.iter().map(|one| keys.iter().map(|key| shown(one, key)).collect()));
            output::result(&output::columns(&rows))
        }
    }
}

fn described(chart: &Stored) -> Value {
    let entry: Value = serde_json::from_str(&chart.entry).unwrap_or_default();
    json!({
        "repository": chart.repository, "name": chart.name, "version": chart.version,
        "appVersion": entry["appVersion"], "description": entry["description"], "digest": chart.digest,
        "provenance": chart.provenance, "created": entry["created"], "from": chart.owner.to_string(),
    })
}

fn inspect(
    config: &Config,
    repository: &str,
    name: &str,
    version: Option<&str>,
    format: Format,
) -> Result<()> {
    let mut found = match store(config)? {
        Some(store) => store.charts(repository, Some(name))?,
        None => Vec::new(),
    };
    found.sort_by(|a, b| newest_first(&a.version, &b.version));
    let chart = found.iter().find(|chart| version.is_none_or(|version| chart.version == version));
    let Some(chart) = chart else {
        let which = version.map(|version| format!(" of version `{version}`")).unwrap_or_default();
        anyhow::bail!("there is no chart `{name}`{which} hint: `edge chart list` says what is here");
    };
    let mut told = described(chart);
    told["chart"] = serde_json::from_str(&chart.entry).unwrap_or_default();
    if format == Format::Json {
        return output::json(&told);
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    for (key, value) in told["chart"].as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        rows.push(vec![key.clone(), text]);
    }
    rows.push(vec!["from".into(), word(&told, "from").into_owned()]);
    rows.push(vec!["provenance".into(), if chart.provenance.is_some() { "yes" } else { "no" }.into()]);
    output::result(&output::columns(&rows))
}
