//! Pods as text, in every form that `kubectl get` has. Pure: pods and a time in, text out; what kubectl 1.36
//! prints of the same objects is the fixture (`tests/fixtures/kubectl`).

mod columns;
mod go;
mod json;
mod jsonpath;
mod layout;
mod template;
mod yaml;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kube::stream::ListHead;
use crate::kube::table::{Header, Include, table as kube_table};

pub use columns::Columns;
pub use jsonpath::JsonPath;
pub use template::Template;

/// `-o`.
#[derive(Debug, Clone)]
pub enum Output {
    /// The table.
    Table {
        /// `-o wide`.
        wide: bool,
    },
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// `pod/NAME`.
    Name,
    /// kubectl's jsonpath, and the text it was parsed from.
    JsonPath(String, JsonPath),
    /// The same with each result as JSON.
    JsonPathAsJson(String, JsonPath),
    /// Columns by jsonpath.
    Columns(Columns),
    /// Go's text/template, and the text it was parsed from.
    Template(String, Template),
}

/// The flags of `edge pod get` that say how pods are shown.
#[derive(Debug, Clone)]
pub struct Style {
    /// `-o`.
    pub output: Output,
    /// `--no-headers`.
    pub no_headers: bool,
    /// Others were shown before: the headers are there, and a document of YAML must be set apart.
    pub begun: bool,
    /// `--show-labels`.
    pub show_labels: bool,
    /// `-L`: a column for each of these labels.
    pub label_columns: Vec<String>,
    /// `-A`: the namespace is the first column.
    pub with_namespace: bool,
    /// `--show-managed-fields`.
    pub managed_fields: bool,
}

impl Default for Style {
    fn default() -> Self {
        Self {
            output: Output::Table { wide: false },
            no_headers: false,
            begun: false,
            show_labels: false,
            label_columns: Vec::new(),
            with_namespace: false,
            managed_fields: false,
        }
    }
}

/// What JSON, YAML and templates are of: a pod that was asked for by its name, or a `List` of those that were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// By name, one.
    One,
    /// Several names, or whatever a selector finds.
    Many,
    /// Whatever a watch shows: each pod by itself.
    Each,
}

const FORMATS: &str = "custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,\
                       jsonpath-as-json,jsonpath-file,name,template,templatefile,wide,yaml";

impl Output {
    /// From `-o` and `--template`. `read` gives the text of a file that a format names.
    ///
    /// # Errors
    /// In kubectl's words, without `error: `.
    pub fn parse(
        format: Option<&str>,
        template: Option<&str>,
        allow_missing: bool,
        read: &dyn Fn(&str) -> std::io::Result<String>,
    ) -> Result<Self, String> {
        let template = template.filter(|t| !t.is_empty());
        let format = match (format.unwrap_or_default(), template) {
            ("", None) => return Ok(Self::Table { wide: false }),
            ("", Some(_)) => "go-template",
            (format, _) => format,
        };
        let (kind, argument) = match format.split_once('=') {
            Some((kind, argument)) => (kind, template.unwrap_or(argument)),
            None => (format, template.unwrap_or_default()),
        };
        let file = |path: &str| {
            read(path).map_err(|e| format!("error reading --template {path}, {e}")).map(|text| (text, kind))
        };
        match kind {
            "wide" if format == "wide" => Ok(Self::Table { wide: true }),
            "json" if format == "json" => Ok(Self::Json),
            "yaml" if format == "yaml" => Ok(Self::Yaml),
            "name" if format == "name" => Ok(Self::Name),
            "custom-columns" => Columns::parse(argument).map(Self::Columns),
            "custom-columns-file" => {
                let text = read(argument).map_err(|e| format!("error reading template {argument}, {e}"))?;
                Columns::parse_file(&text).map(Self::Columns)
            }
            "jsonpath" | "jsonpath-as-json" | "jsonpath-file" | "go-template" | "template"
            | "go-template-file" | "templatefile"
                if argument.is_empty() =>
            {
                Err("template format specified but no template given".to_owned())
            }
            "jsonpath" | "jsonpath-as-json" => Self::jsonpath(argument, kind, allow_missing),
            "jsonpath-file" => {
                file(argument).and_then(|(text, kind)| Self::jsonpath(&text, kind, allow_missing))
            }
            "go-template" | "template" => Self::template(argument, allow_missing),
            "go-template-file" | "templatefile" => {
                file(argument).and_then(|(text, _)| Self::template(&text, allow_missing))
            }
            _ => Err(format!(
                "unable to match a printer suitable for the output format \"{format}\", allowed formats are: {FORMATS}"
            )),
        }
    }

    fn jsonpath(text: &str, kind: &str, allow_missing: bool) -> Result<Self, String> {
        let mut path = JsonPath::parse(text).map_err(|e| format!("error parsing jsonpath {text}, {e}"))?;
        path.allow_missing = allow_missing;
        let text = text.to_owned();
        Ok(if kind == "jsonpath-as-json" {
            Self::JsonPathAsJson(text, path)
        } else {
            Self::JsonPath(text, path)
        })
    }

    fn template(text: &str, allow_missing: bool) -> Result<Self, String> {
        let template = Template::parse(text, allow_missing)
            .map_err(|e| format!("error parsing template {text}, {e}"))?;
        Ok(Self::Template(text.to_owned(), template))
    }
}

/// The text for `pods`, which are whole objects of `v1`.
///
/// # Errors
/// What kubectl says behind `error: ` where a template does not go with the objects.
pub fn print(style: &Style, pods: &[Value], asked: Asked, now: Timestamp) -> Result<String, String> {
    let object = || object(style, pods, asked);
    match &style.output {
        Output::Table { wide } => Ok(table(style, *wide, pods, now)),
        Output::Columns(columns) => columns.print(pods, !style.no_headers && !style.begun),
        Output::Name => {
            Ok(pods.iter().map(|pod| format!("pod/{}\n", text(&pod["metadata"]["name"]))).collect())
        }
        _ if asked == Asked::Each => each(style, pods, now),
        Output::Json => Ok(json::indented(&object()) + "\n"),
        Output::Yaml => Ok(yaml::document(&object())),
        Output::JsonPath(source, path) => path.text(&object()).map_err(|e| in_jsonpath(source, &e)),
        Output::JsonPathAsJson(source, path) => path.json(&object()).map_err(|e| in_jsonpath(source, &e)),
        Output::Template(source, template) => {
            template.run(&object()).map_err(|e| format!("error executing template {}: {e}", quoted(source)))
        }
    }
}

fn each(style: &Style, pods: &[Value], now: Timestamp) -> Result<String, String> {
    let mut text = String::new();
    for pod in pods {
        if matches!(style.output, Output::Yaml) && (style.begun || !text.is_empty()) {
            text.push_str("---\n");
        }
        text += &print(style, std::slice::from_ref(pod), Asked::One, now)?;
    }
    Ok(text)
}

fn in_jsonpath(source: &str, error: &str) -> String {
    format!("error executing jsonpath {}: Error executing template: {error}.", quoted(source))
}

fn quoted(text: &str) -> String {
    template::quote(text)
}

fn object(style: &Style, pods: &[Value], asked: Asked) -> Value {
    let mut shown: Vec<Value> = pods.to_vec();
    let printed = matches!(style.output, Output::Json | Output::Yaml);
    if printed && !style.managed_fields {
        for metadata in shown.iter_mut().filter_map(|pod| pod["metadata"].as_object_mut()) {
            metadata.remove("managedFields");
        }
    }
    match (asked, shown.len()) {
        (Asked::One, 1) => shown.swap_remove(0),
        _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": shown}),
    }
}

/// The rows are those that the API server would make; kubectl adds columns of labels and of the namespace.
fn table(style: &Style, wide: bool, pods: &[Value], now: Timestamp) -> String {
    let head = ListHead { kind: "PodList".to_owned(), api_version: "v1".to_owned(), ..ListHead::default() };
    let table = kube_table(&head, pods, Include::None, Header::Shown, now);
    let columns = list(&table["columnDefinitions"]);
    let shown: Vec<bool> = columns.iter().map(|column| wide || column["priority"] == 0).collect();
    let own = |cells: &mut dyn Iterator<Item = &Value>| -> Vec<String> {
        let cells = cells.zip(&shown).filter(|(_, shown)| **shown);
        cells.map(|(cell, _)| text(cell).to_owned()).collect()
    };
    let mut rows = Vec::with_capacity(pods.len() + 1);
    if !style.no_headers && !style.begun && !pods.is_empty() {
        let names = own(&mut columns.iter().map(|column| &column["name"]));
        rows.push(header(style, names.iter().map(|name| name.to_uppercase()).collect()));
    }
    let cells = list(&table["rows"]).iter().map(|row| own(&mut list(&row["cells"]).iter()));
    rows.extend(pods.iter().zip(cells).map(|(pod, cells)| decorated(style, pod, cells)));
    layout::lay_out(&rows)
}

fn header(style: &Style, own: Vec<String>) -> Vec<String> {
    let mut row: Vec<String> = Vec::new();
    row.extend(style.with_namespace.then(|| "NAMESPACE".to_owned()));
    row.extend(own);
    let last_part = |label: &String| label.rsplit('/').next().unwrap_or(label).to_uppercase();
    row.extend(style.label_columns.iter().map(last_part));
    row.extend(style.show_labels.then(|| "LABELS".to_owned()));
    row
}

fn decorated(style: &Style, pod: &Value, own: Vec<String>) -> Vec<String> {
    let labels = &pod["metadata"]["labels"];
    let mut row: Vec<String> = Vec::new();
    row.extend(style.with_namespace.then(|| text(&pod["metadata"]["namespace"]).to_owned()));
    row.extend(own);
    row.extend(style.label_columns.iter().map(|label| text(&labels[label.as_str()]).to_owned()));
    row.extend(style.show_labels.then(|| {
        let pairs = labels.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", text(v)));
        let pairs = pairs.collect::<Vec<_>>().join(",");
        if pairs.is_empty() { "<none>".to_owned() } else { pairs }
    }));
    row
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
