//! `edge pod get`: which pods were asked for, and what is said where there are none. The words and
//! exit codes are kubectl's.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

use super::print::{Asked, Output, Style, print};
use crate::kube::{Error, FieldSelector, LabelSelector, meta};

/// The fields that the API server lets pods be selected by.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
];
/// Those that have no value in most pods.
const MORE_FIELDS: [&str; 2] = ["status.podIPs", "status.nominatedNodeName"];

/// Which pods.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// By name; empty for all that the selectors match.
    pub names: Vec<String>,
    /// Where; `None` for all namespaces.
    pub namespace: Option<String>,
    /// `-l`.
    pub labels: Option<String>,
    /// `--field-selector`.
    pub fields: Option<String>,
    /// `--ignore-not-found`.
    pub ignore_not_found: bool,
    /// `--watch`: this is what it begins with.
    pub watch: bool,
}

impl Query {
    /// Whether it selects by labels or fields. A selector that is empty is none, as for kubectl.
    pub fn has_selector(&self) -> bool {
        given(self.labels.as_deref()).or(given(self.fields.as_deref())).is_some()
    }
}

fn given(selector: Option<&str>) -> Option<&str> {
    selector.map(str::trim).filter(|text| !text.is_empty())
}

/// What to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub text: String,
    /// A line each for standard error.
    pub notes: Vec<String>,
    /// Exit code 1.
    pub failed: bool,
}

/// The pods that `query` is about, and the names that there are none of.
#[derive(Debug, Clone, PartialEq)]
pub struct Selected<'a> {
    /// In the order of the names, or as they came.
    pub pods: Vec<&'a Value>,
    /// As kubectl reports each.
    pub missing: Vec<String>,
}

/// Picks from `pods`, which are all there are, sorted by namespace and name.
///
/// # Errors
/// In kubectl's words, `error: ` or `Error from server` included.
pub fn select<'a>(pods: &'a [Value], query: &Query) -> Result<Selected<'a>, String> {
    if query.has_selector() && !query.names.is_empty() {
        return Err("error: name cannot be provided when a selector is specified".to_owned());
    }
    if query.namespace.is_none() && !query.names.is_empty() {
        return Err("error: a resource cannot be retrieved by name across all namespaces".to_owned());
    }
    let labels: LabelSelector = parse(query, given(query.labels.as_deref()))?;
    let fields: FieldSelector = parse(query, given(query.fields.as_deref()))?;
    check_fields(query)?;
    let here = |pod: &&Value| query.namespace.is_none() || meta::namespace(pod) == query.namespace.as_deref();
    if query.names.is_empty() {
        let found = pods.iter().filter(here).filter(|pod| labels.matches(pod) && fields.matches(pod));
        return Ok(Selected { pods: found.collect(), missing: Vec::new() });
    }
    let mut selected = Selected { pods: Vec::new(), missing: Vec::new() };
    for name in &query.names {
        match pods.iter().filter(here).find(|pod| meta::name(pod) == Some(name)) {
            Some(pod) => selected.pods.push(pod),
            None if query.ignore_not_found => {}
            None => selected.missing.push(not_found(name)),
        }
    }
    Ok(selected)
}

/// kubectl's words for a pod that is not there.
pub fn not_found(name: &str) -> String {
    format!("Error from server (NotFound): pods \"{name}\" not found")
}

/// What `edge pod get` says of `pods` at `now`.
pub fn get(pods: &[Value], query: &Query, style: &Style, now: Timestamp) -> Answer {
    let fail = |error: String| Answer { text: String::new(), notes: vec![error], failed: true };
    let Selected { pods: found, missing } = match select(pods, query) {
        Ok(selected) => selected,
        Err(error) => return fail(error),
    };
    let failed = !missing.is_empty();
    if found.is_empty() && !query.names.is_empty() {
        return Answer { text: String::new(), notes: missing, failed };
    }
    // Mostly all of them are shown, and then none is copied.
    let all = query.names.is_empty() && found.len() == pods.len();
    let shown: Cow<'_, [Value]> =
        if all { Cow::Borrowed(pods) } else { found.into_iter().cloned().collect::<Vec<_>>().into() };
    let asked = match query.names.len() {
        _ if query.watch => Asked::Each,
        1 => Asked::One,
        _ => Asked::Many,
    };
    let text = match print(style, &shown, asked, now) {
        Ok(text) => text,
        Err(error) => return fail(format!("error: {error}")),
    };
    let mut notes = missing;
    if shown.is_empty() && !query.ignore_not_found && matches!(style.output, Output::Table { .. }) {
        notes.push(match &query.namespace {
            Some(namespace) => format!("No resources found in {namespace} namespace."),
            None => "No resources found".to_owned(),
        });
    }
    Answer { text, notes, failed }
}

fn parse<T: std::str::FromStr<Err = Error> + Default>(
    query: &Query,
    text: Option<&str>,
) -> Result<T, String> {
    match text {
        None => Ok(T::default()),
        Some(text) => text.parse().map_err(|error| match error {
            Error::ParseSelector { reason, .. } => refused(query, &reason),
            other => refused(query, &other.to_string()),
        }),
    }
}

fn check_fields(query: &Query) -> Result<(), String> {
    for term in given(query.fields.as_deref()).unwrap_or_default().split(',').filter(|t| !t.is_empty()) {
        let field = term.split(['=', '!']).next().unwrap_or(term).trim();
        if !FIELDS.contains(&field) && !MORE_FIELDS.contains(&field) {
            return Err(refused(query, &format!("field label not supported: {field}")));
        }
    }
    Ok(())
}

fn refused(query: &Query, reason: &str) -> String {
    let labels = query.labels.as_deref().unwrap_or_default();
    let fields = query.fields.as_deref().unwrap_or_default();
    format!(
        "Error from server (BadRequest): Unable to find \"/v1, Resource=pods\" that match label selector \
         \"{labels}\", field selector \"{fields}\": {reason}"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// kubectl has no `List` in a watch, and sets documents of YAML apart.
    #[test]
    fn a_watch_begins_with_each_pod_by_itself() {
        let pod = |name: &str| json!({"metadata": {"name": name, "namespace": "ns"}});
        let pods = [pod("db"), pod("web")];
        let document = |name: &str| format!("metadata:\n  name: {name}\n  namespace: ns\n");
        let (db, web) = (document("db"), document("web"));
        let object = |name: &str| {
            format!(
                "{{\n    \"metadata\": {{\n        \"name\": \"{name}\",\n        \"namespace\": \"ns\"\n    }}\n}}\n"
            )
        };
        for (format, begun, text) in [
            ("yaml", false, format!("{db}---\n{web}")),
            ("yaml", true, format!("---\n{db}---\n{web}")),
            ("json", false, object("db") + &object("web")),
            ("jsonpath={.metadata.name} ", false, "db web ".to_owned()),
            ("go-template={{.metadata.name}};", true, "db;web;".to_owned()),
            ("custom-columns=A:.metadata.name", false, "A\ndb\nweb\n".to_owned()),
            ("custom-columns=A:.metadata.name", true, "db\nweb\n".to_owned()),
            ("name", true, "pod/db\npod/web\n".to_owned()),
        ] {
            let output =
                Output::parse(Some(format), None, true, &|path| std::fs::read_to_string(path)).unwrap();
            let style = Style { output, begun, ..Style::default() };
            let query = Query { watch: true, ..Query::default() };
            assert_eq!(get(&pods, &query, &style, Timestamp::UNIX_EPOCH).text, text, "{format} {begun}");
        }
        let style = Style { begun: true, ..Style::default() };
        let text = get(&pods, &Query::default(), &style, Timestamp::UNIX_EPOCH).text;
        assert!(text.starts_with("db "), "the headers are there: {text}");
    }

    #[test]
    fn an_empty_selector_is_none() {
        let pod = |name: &str| json!({"metadata": {"name": name, "namespace": "ns"}});
        let pods = [pod("db"), pod("web")];
        for (names, labels, fields, found) in [
            (&["web"][..], Some(""), None, Some(1)),
            (&["web"], Some(" \t"), Some(" "), Some(1)),
            (&["web"], Some("app"), None, None),
            (&["web"], None, Some("status.phase=Running"), None),
            (&[], Some(""), Some(""), Some(2)),
            (&[], Some(" app "), None, Some(0)),
        ] {
            let query = Query {
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                namespace: Some("ns".to_owned()),
                labels: labels.map(str::to_owned),
                fields: fields.map(str::to_owned),
                ..Query::default()
            };
            let selected = select(&pods, &query).ok().map(|selected| selected.pods.len());
            assert_eq!(selected, found, "{query:?}");
        }
    }
}
