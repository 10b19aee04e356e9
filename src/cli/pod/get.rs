//! `edge pod get`.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::Seen;
use crate::cli::output;
use crate::config::Config;
use crate::pods::get::{Query, get, select};
use crate::pods::print::{Asked, Output, Style, print};
use crate::sys::clock;

/// Between two looks of `--watch`.
const LOOK: Duration = Duration::from_secs(1);

/// `edge pod get`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  edge pod get -A
  edge pod get web -o yaml
  edge pod get -l app=web -o jsonpath='{range .items[*]}{.metadata.name}{\"\\n\"}{end}'")]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of kubectl's")]
pub struct Get {
    /// Names of pods; all of the namespace if none is given
    names: Vec<String>,
    #[command(flatten)]
    namespace: super::Namespace,
    /// Pods of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only pods with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only pods with these fields
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// json, yaml, name, wide, jsonpath=, jsonpath-as-json=, jsonpath-file=, custom-columns=,
    /// custom-columns-file=, go-template=, go-template-file=
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<String>,
    /// The template, where the format does not hold it
    #[arg(long)]
    template: Option<String>,
    /// Whether a template may name what is not there
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    allow_missing_template_keys: bool,
    /// Without the line of headers
    #[arg(long)]
    no_headers: bool,
    /// With a column of all labels
    #[arg(long)]
    show_labels: bool,
    /// With a column for each of these labels
    #[arg(short = 'L', long, value_name = "LABEL", value_delimiter = ',')]
    label_columns: Vec<String>,
    /// JSON and YAML with managedFields
    #[arg(long)]
    show_managed_fields: bool,
    /// Say nothing of names that there are none of
    #[arg(long)]
    ignore_not_found: bool,
    /// Go on, and show every pod that changes
    #[arg(short, long)]
    watch: bool,
}

impl Get {
    pub async fn run(&self, config: &Config) -> Result<()> {
        let style = self.style().map_err(|error| super::said(&format!("error: {error}")))?;
        let seen = Seen::now(config).await?;
        seen.tell_gaps();
        let answer = get(&seen.observed.pods, &self.query(), &style, clock::now());
        output::result_raw(&answer.text)?;
        // Where pods are waited for, that there are none yet is no news; kubectl says nothing either.
        if answer.failed || !self.watch {
            answer.notes.iter().for_each(|note| output::note(note));
        }
        if answer.failed {
            return Err(output::Exit(1).into());
        }
        let begun = !answer.text.is_empty();
        if self.watch { self.go_on(config, style, seen, begun).await } else { Ok(()) }
    }

    fn query(&self) -> Query {
        Query {
            names: self.names.clone(),
            namespace: (!self.all_namespaces).then(|| self.namespace.namespace.clone()),
            labels: self.selector.clone(),
            fields: self.field_selector.clone(),
            ignore_not_found: self.ignore_not_found,
        }
    }

    fn style(&self) -> Result<Style, String> {
        let read = |path: &str| std::fs::read_to_string(path);
        let template = self.template.as_deref();
        let format = self.output.as_deref();
        Ok(Style {
            output: Output::parse(format, template, self.allow_missing_template_keys, &read)?,
            no_headers: self.no_headers,
            show_labels: self.show_labels,
            label_columns: self.label_columns.clone(),
            with_namespace: self.all_namespaces,
            managed_fields: self.show_managed_fields,
        })
    }

    /// Shows pods that changed, until it is interrupted. Ages alone are no change. `begun` is whether the line of headers
    /// was there already. What part of the picture goes missing meanwhile is told once.
    async fn go_on(&self, config: &Config, mut style: Style, seen: Seen, begun: bool) -> Result<()> {
        style.no_headers |= begun;
        let query = self.query();
        let keyed = |pods: &[Value]| -> HashMap<String, Value> {
            let found = select(pods, &query).map(|selected| selected.pods).unwrap_or_default();
            found.into_iter().map(|pod| (pod["metadata"]["uid"].to_string(), pod.clone())).collect()
        };
        let mut before = keyed(&seen.observed.pods);
        let mut told = seen.gaps();
        loop {
            tokio::time::sleep(LOOK).await;
            // A cache that is being replaced cannot be read at this moment.
            let seen = Seen::now(config).await;
            let gaps = match &seen {
                Ok(seen) => seen.gaps(),
                Err(error) => vec![format!("edge: pods are shown as they were: {error:#}")],
            };
            gaps.iter().filter(|gap| !told.contains(gap)).for_each(|gap| output::note(gap));
            told = gaps;
            let Ok(seen) = seen else { continue };
            let now = keyed(&seen.observed.pods);
            let changed = now.iter().filter(|(uid, pod)| before.get(*uid) != Some(pod));
            let mut changed: Vec<Value> = changed.map(|(_, pod)| pod.clone()).collect();
            changed.sort_by_key(|pod| pod["metadata"]["name"].to_string());
            for pod in changed {
                let text = print(&style, &[pod], Asked::One, clock::now());
                output::result_raw(&text.map_err(|error| super::said(&format!("error: {error}")))?)?;
                style.no_headers = true;
            }
            before = now;
        }
    }
}
