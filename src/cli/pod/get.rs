//! `edge pod get`.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::Seen;
use crate::cli::output;
use crate::config::Config;
use crate::pods::get::{Query, get, select};
use crate::pods::observe::Observed;
use crate::pods::print::{Asked, Output, Style, print};
use crate::pods::view::runtime_uid;
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
    #[arg(value_parser = super::pod_name)]
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
        let style = Style { begun: !answer.text.is_empty(), ..style };
        if self.watch { self.go_on(config, style, seen).await } else { Ok(()) }
    }

    fn query(&self) -> Query {
        Query {
            names: self.names.clone(),
            namespace: (!self.all_namespaces).then(|| self.namespace.namespace.clone()),
            labels: self.selector.clone(),
            fields: self.field_selector.clone(),
            ignore_not_found: self.ignore_not_found,
            watch: self.watch,
        }
    }

    fn style(&self) -> Result<Style, String> {
        let read = |path: &str| std::fs::read_to_string(path);
        let template = self.template.as_deref();
        let format = self.output.as_deref();
        Ok(Style {
            output: Output::parse(format, template, self.allow_missing_template_keys, &read)?,
            no_headers: self.no_headers,
            begun: false,
            show_labels: self.show_labels,
            label_columns: self.label_columns.clone(),
            with_namespace: self.all_namespaces,
            managed_fields: self.show_managed_fields,
        })
    }

    /// Shows pods that changed, and once more those that are gone, until it is interrupted. Ages alone are no change.
    /// What part of the picture goes missing meanwhile is told once.
    async fn go_on(&self, config: &Config, mut style: Style, seen: Seen) -> Result<()> {
        let query = self.query();
        let mut watched = Watched::default();
        watched.next(&seen.observed, &query);
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
            for pod in watched.next(&seen.observed, &query) {
                let text = print(&style, &[pod], Asked::Each, clock::now());
                output::result_raw(&text.map_err(|error| super::said(&format!("error: {error}")))?)?;
                style.begun = true;
            }
        }
    }
}

/// The pods of a watch as they were shown last, by the uid under which the kubelet runs them.
#[derive(Default)]
struct Watched {
    shown: HashMap<String, Value>,
    /// Those of them that the runtime alone has told of.
    runtime_only: BTreeSet<String>,
}

impl Watched {
    /// What is to be shown of the pods of this moment, by name. One that was deleted, or is selected no more, is shown
    /// once more, as kubectl does; one that only the runtime knows is not gone when the runtime is away.
    fn next(&mut self, observed: &Observed, query: &Query) -> Vec<Value> {
        let uid = |pod: &Value| runtime_uid(pod).unwrap_or_default().to_owned();
        let selected = select(&observed.pods, query).map(|selected| selected.pods).unwrap_or_default();
        let mut now: HashMap<String, Value> =
            selected.into_iter().map(|pod| (uid(pod), pod.clone())).collect();
        let before = std::mem::take(&mut self.shown);
        let changed = now.iter().filter(|(uid, pod)| before.get(*uid) != Some(pod)).map(|(_, pod)| pod);
        let changed: Vec<Value> = changed.cloned().collect();
        let mut news = Vec::new();
        for (gone, pod) in before {
            if now.contains_key(&gone) {
                continue;
            }
            if observed.runtime.is_err() && self.runtime_only.contains(&gone) {
                now.insert(gone, pod);
                continue;
            }
            let still_there = observed.pods.iter().find(|pod| uid(pod) == gone);
            news.push(still_there.cloned().unwrap_or(pod));
        }
        news.extend(changed);
        news.sort_by_key(|pod| pod["metadata"]["name"].to_string());
        if observed.runtime.is_ok() {
            self.runtime_only.clone_from(&observed.runtime_only);
        }
        self.shown = now;
        news
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cri::{self, State};

    fn pod(uid: &str, name: &str, phase: &str) -> Value {
        let labels = json!({"app": "web"});
        json!({"metadata": {"name": name, "namespace": "ns", "uid": uid, "labels": labels}, "status": {"phase": phase}})
    }

    fn observed(pods: &[Value], runtime_only: &[&str], runtime_is_there: bool) -> Observed {
        let away = cri::Error::Missing { endpoint: "unix:///nowhere".to_owned() };
        Observed {
            pods: pods.to_vec(),
            state: State::default(),
            runtime_only: runtime_only.iter().map(|uid| (*uid).to_owned()).collect(),
            untold: Vec::new(),
            runtime: if runtime_is_there { Ok(()) } else { Err(away) },
        }
    }

    #[test]
    fn a_watch_shows_what_changed_and_what_is_gone_once() {
        let query = Query { labels: Some("app=web".to_owned()), ..Query::default() };
        let mut watched = Watched::default();
        let mut next = |pods: &[Value], runtime_only: &[&str], is_there: bool| -> Vec<String> {
            let news = watched.next(&observed(pods, runtime_only, is_there), &query);
            let told = |pod: &Value| {
                format!("{} {}", pod["metadata"]["uid"], pod["status"]["phase"]).replace('"', "")
            };
            news.iter().map(told).collect()
        };
        let (a, b) = (pod("1", "a", "Running"), pod("2", "b", "Running"));
        assert_eq!(next(&[a.clone(), b.clone()], &["2"], true), ["1 Running", "2 Running"]);
        assert_eq!(next(&[a.clone(), b.clone()], &["2"], true), [""; 0]);
        assert_eq!(next(&[pod("1", "a", "Failed"), b.clone()], &["2"], true), ["1 Failed"]);
        // The runtime is away, and with it what only it knows.
        assert_eq!(next(&[pod("1", "a", "Failed")], &[], false), [""; 0]);
        assert_eq!(next(&[pod("1", "a", "Failed"), b.clone()], &["2"], true), [""; 0]);
        // Another of the same name: the old one first.
        assert_eq!(next(&[pod("3", "a", "Pending"), b.clone()], &["2"], true), ["1 Failed", "3 Pending"]);
        let mut moved = pod("3", "a", "Running");
        moved["metadata"]["labels"] = json!({});
        assert_eq!(next(&[moved.clone()], &[], true), ["3 Running", "2 Running"], "as it is; as it was");
        assert_eq!(next(&[moved], &[], true), [""; 0]);
    }
}
