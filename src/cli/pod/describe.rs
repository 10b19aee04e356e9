//! `edge pod describe`.

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use super::Seen;
use crate::cache::Reader;
use crate::cli::output;
use crate::config::Config;
use crate::kube::meta;
use crate::pods::describe::describe;
use crate::pods::get::{Query, select};
use crate::sys::clock;

/// `edge pod describe`
#[derive(Debug, Args)]
pub struct Describe {
    /// Pods
    #[arg(required = true, value_parser = super::pod_name)]
    names: Vec<String>,
    #[command(flatten)]
    namespace: super::Namespace,
}

impl Describe {
    pub async fn run(&self, config: &Config) -> Result<()> {
        let seen = Seen::now(config).await?;
        seen.tell_gaps();
        let events = events(config)?;
        let query = Query {
            names: self.names.clone(),
            namespace: Some(self.namespace.namespace.clone()),
            ..Query::default()
        };
        let found = select(&seen.observed.pods, &query).map_err(|error| super::said(&error))?;
        for (i, pod) in found.pods.iter().enumerate() {
            let gap = if i > 0 { "\n\n" } else { "" };
            output::result_raw(&format!("{gap}{}", describe(pod, &events, clock::now())))?;
        }
        found.missing.iter().for_each(|missing| output::note(missing));
        if found.missing.is_empty() { Ok(()) } else { Err(output::Exit(1).into()) }
    }
}

/// Those that the cloud has told of, and those of here that wait for it.
fn events(config: &Config) -> Result<Vec<Value>> {
    let path = super::cache_file(config);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let reader = Reader::open(&path).context("cannot read the cache")?;
    let mut events = reader.all("v1/events")?;
    events.extend(reader.all("events.k8s.io/v1/events")?);
    let waiting =
        reader.changes()?.into_iter().filter(|change| change.what.key.resource.ends_with("/events"));
    // What waits for the cloud is kept here as well, as long as it is among the newest.
    for change in waiting {
        let name =
            |event: &Value| (meta::namespace(event).map(str::to_owned), meta::name(event).map(str::to_owned));
        let event: Option<Value> = change.what.body.and_then(|body| serde_json::from_slice(&body).ok());
        let Some(event) = event else { continue };
        if !events.iter().any(|kept| name(kept) == name(&event)) {
            events.push(event);
        }
    }
    Ok(events)
}
