//! Tables (`meta.k8s.io/v1`): the rows that `kubectl get` shows, made as the API server makes them.
//!
//! Pods and nodes have their own columns, after Kubernetes' printers; everything else has NAME and AGE, as a
//! custom resource without columns of its own. Also the metadata-only forms of objects.

mod node;
mod pod;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::meta;
use super::stream::ListHead;

/// What each row carries of its object (`includeObject` of the request).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata: what is sent when the request does not say.
    Metadata,
    /// All of it.
    Object,
}

/// Whether a table names its columns; in a watch only the first event's does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// It does.
    Shown,
    /// It does not.
    Left,
}

impl Include {
    /// From the value of `includeObject`; `None` for a value that does not exist.
    pub fn parse(value: &str) -> Option<Include> {
        match value {
            "" | "Metadata" => Some(Include::Metadata),
            "None" => Some(Include::None),
            "Object" => Some(Include::Object),
            _ => None,
        }
    }
}

/// A column, as the API server defines it.
struct Column {
    name: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    priority: u8,
    description: &'static str,
}

/// The cells of a row, and what the printer says of the object's state.
struct Row {
    cells: Vec<Value>,
    conditions: Value,
}

const NAME: Column =
    Column { name: "Name", priority: 0, description: "Name must be unique within a namespace." };
const AGE: Column = Column {
    name: "Age",
    priority: 0,
    description: "CreationTimestamp is a timestamp representing the server time when this object was created.",
};

/// The table of the objects of one kind. `head` gives the kind (of the list or of one object) and the list's
/// metadata; the ages are told as of `now`.
pub fn table<'a>(
    head: &ListHead,
    objects: impl IntoIterator<Item = &'a Value>,
    include: Include,
    header: Header,
    now: Timestamp,
) -> Value {
    let kind = head.kind.strip_suffix("List").unwrap_or(&head.kind);
    let printer = Printer::of(&head.api_version, kind);
    let rows: Vec<Value> = objects.into_iter().map(|object| printer.row(object, include, now)).collect();
    let columns: Vec<Value> = match header {
        Header::Shown => printer.columns().iter().map(Column::definition).collect(),
        Header::Left => Vec::new(),
    };
    let columns = if columns.is_empty() { Value::Null } else { Value::Array(columns) };
    let metadata = head.metadata();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns,
        "rows": rows})
}

/// The object as `PartialObjectMetadata`: its metadata alone.
pub fn partial(object: &Value) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or(Value::Object(Map::new()));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}

#[derive(Clone, Copy)]
enum Printer {
    Pod,
    Node,
    Any,
}

impl Printer {
    fn of(api_version: &str, kind: &str) -> Printer {
        match (api_version, kind) {
            ("v1", "Pod") => Printer::Pod,
            ("v1", "Node") => Printer::Node,
            _ => Printer::Any,
        }
    }

    fn columns(self) -> &'static [Column] {
        match self {
            Printer::Pod => &pod::COLUMNS,
            Printer::Node => &node::COLUMNS,
            Printer::Any => &[NAME, AGE],
        }
    }

    fn row(self, object: &Value, include: Include, now: Timestamp) -> Value {
        let Row { cells, conditions } = match self {
            Printer::Pod => pod::row(object, now),
            Printer::Node => node::row(object, now),
            Printer::Any => {
                let age = age(meta::creation_timestamp(object), now);
                Row {
                    cells: vec![Value::from(meta::name(object).unwrap_or_default()), age.into()],
                    conditions: Value::Null,
                }
            }
        };
        let mut row = json!({"cells": cells});
        if !conditions.is_null() {
            row["conditions"] = conditions;
        }
        row["object"] = match include {
            Include::None => Value::Null,
            Include::Metadata => partial(object),
            Include::Object => object.clone(),
        };
        row
    }
}

impl Column {
    fn definition(&self) -> Value {
        let format = if self.name == "Name" { "name" } else { "" };
        json!({"name": self.name, "type": "string", "format": format, "description": self.description,
            "priority": self.priority})
    }
}

/// How long ago an RFC 3339 time was, as people read it: `5m30s`, `3d4h`.
pub fn age(since: Option<&str>, now: Timestamp) -> String {
    match since.and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(since) => human(now.duration_since(since).as_secs()),
        None => "<unknown>".to_owned(),
    }
}

/// apimachinery's `HumanDuration`: two or three significant figures.
fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |whole: i64, unit: &str, rest: i64, small: &str| match rest {
        0 => format!("{whole}{unit}"),
        rest => format!("{whole}{unit}{rest}{small}"),
    };
    match seconds {
        // A clock that is a second ahead is no error.
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => two(hours / 24, "d", hours % 24, "h"),
        _ if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        _ if hours < 24 * 365 * 8 => two(hours / 24 / 365, "y", hours / 24 % 365, "d"),
        _ => format!("{}y", hours / 24 / 365),
    }
}

/// A text of an object by its path, or what stands for none.
fn or<'a>(object: &'a Value, pointer: &str, none: &'a str) -> &'a str {
    meta::text(object.pointer(pointer)).unwrap_or(none)
}

/// The elements of a list of an object by its path.
fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    meta::list(object.pointer(pointer))
}
