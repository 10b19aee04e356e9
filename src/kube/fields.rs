//! Field selectors: parsed by apimachinery's grammar, kept in one canonical form, matched on JSON, compared.
//!
//! A field is a dotted path into the object; absent is the empty string, except where the typed object of
//! the API server has a zero value to show. Which fields a resource allows is the server's business: offline,
//! the proxy only serves what was once answered online.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use super::{Error, meta};

/// All of its terms must hold; without any, everything matches. Terms are sorted and distinct.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FieldSelector(Vec<Term>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Term {
    field: String,
    must: Must,
    value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Must {
    Equal,
    Differ,
}

impl FieldSelector {
    /// The selector that matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// `field=value`.
    pub fn equal(field: &str, value: &str) -> Self {
        Self(vec![Term { field: field.to_owned(), must: Must::Equal, value: value.to_owned() }])
    }

    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object's metadata is enough to tell whether it satisfies it.
    pub fn is_of_metadata(&self) -> bool {
        self.0.iter().all(|t| t.field.starts_with("metadata."))
    }

    /// The value that `field` must equal, if the selector says so.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|t| t.field == field && t.must == Must::Equal).map(|t| t.value.as_str())
    }

    /// Whether an object satisfies it.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|t| (read(object, &t.field) == t.value) == (t.must == Must::Equal))
    }

    /// Whether everything that this one matches is matched by `wider` too, by its terms alone: then a
    /// list made with `wider` holds all that one made with this would. `false` where it cannot be told.
    pub fn narrows(&self, wider: &FieldSelector) -> bool {
        wider.0.iter().all(|theirs| self.0.iter().any(|ours| ours.implies(theirs)))
    }
}

impl Term {
    fn implies(&self, other: &Term) -> bool {
        self == other
            || (self.field == other.field
                && (self.must, other.must) == (Must::Equal, Must::Differ)
                && self.value != other.value)
    }
}

impl FromStr for FieldSelector {
    type Err = Error;

    /// Parses `a.b=c,d!=e`; in a value, `\` escapes `\`, `,` and `=`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::ParseSelector { selector: text.to_owned(), reason };
        let mut terms = Vec::new();
        for part in split(text).into_iter().filter(|part| !part.is_empty()) {
            let (field, must, value) =
                operator(part).ok_or_else(|| refuse(format!("`{part}` has no `=` or `!=`")))?;
            let value = unescape(value).map_err(refuse)?;
            terms.push(Term { field: field.to_owned(), must, value });
        }
        terms.sort();
        terms.dedup();
        Ok(Self(terms))
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, term) in self.0.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let operator = if term.must == Must::Equal { "=" } else { "!=" };
            write!(f, "{comma}{}{operator}", term.field)?;
            for c in term.value.chars() {
                if matches!(c, '\\' | ',' | '=') {
                    f.write_str("\\")?;
                }
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// Cuts at commas that are not escaped.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Cuts at the first operator.
fn operator(term: &str) -> Option<(&str, Must, &str)> {
    for (at, _) in term.char_indices() {
        let (field, rest) = term.split_at(at);
        for (symbol, must) in [("!=", Must::Differ), ("==", Must::Equal), ("=", Must::Equal)] {
            if let Some(value) = rest.strip_prefix(symbol) {
                return Some((field, must, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("`\\{c}` is no escape")),
                None => return Err("it ends in a single backslash".to_owned()),
            },
            ',' | '=' => return Err(format!("`{c}` in a value must be escaped")),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// What apiserver's `ToSelectableFields` says of a field.
fn read<'a>(object: &'a Value, field: &str) -> Cow<'a, str> {
    let kind = meta::kind(object);
    let is = |wanted: &str| kind.is_none_or(|kind| kind == wanted);
    match field {
        "spec.unschedulable" if is("Node") => or(shown(at(object, field)), "false"),
        "spec.hostNetwork" if is("Pod") => or(shown(at(object, field)), "false"),
        "status.replicas" => or(shown(at(object, field)), "0"),
        "status.successful" if is("Job") => or(shown(at(object, "status.succeeded")), "0"),
        "status.podIP" if is("Pod") => {
            let first = at(object, "status.podIPs").and_then(|ips| ips.get(0)).and_then(|ip| ip.get("ip"));
            or(shown(first), meta::text(at(object, field)).unwrap_or_default())
        }
        _ if kind == Some("Event") => event(object, field),
        _ => shown(at(object, field)),
    }
}

/// Events go by the names of the core group in both of their groups.
fn event<'a>(object: &'a Value, field: &str) -> Cow<'a, str> {
    let first = |fields: [&str; 3]| {
        fields.into_iter().find_map(|field| meta::text(at(object, field))).unwrap_or_default()
    };
    match field {
        "source" => Cow::Borrowed(meta::text(at(object, "source.component")).unwrap_or_else(|| {
            first(["deprecatedSource.component", "reportingComponent", "reportingController"])
        })),
        "reportingComponent" | "reportingController" => {
            Cow::Borrowed(first(["reportingComponent", "reportingController", ""]))
        }
        _ => match field.strip_prefix("involvedObject.").or(field.strip_prefix("regarding.")) {
            Some(rest) => {
                let about = object.get("involvedObject").or_else(|| object.get("regarding"));
                shown(about.and_then(|about| about.get(rest)))
            }
            None => shown(at(object, field)),
        },
    }
}

fn at<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    field.split('.').try_fold(object, |value, key| value.get(key))
}

fn or<'a>(text: Cow<'a, str>, zero: &'a str) -> Cow<'a, str> {
    if text.is_empty() { Cow::Borrowed(zero) } else { text }
}

fn shown(value: Option<&Value>) -> Cow<'_, str> {
    match value {
        Some(Value::String(text)) => Cow::Borrowed(text),
        Some(Value::Bool(true)) => Cow::Borrowed("true"),
        Some(Value::Bool(false)) => Cow::Borrowed("false"),
        Some(Value::Number(number)) => Cow::Owned(number.to_string()),
        _ => Cow::Borrowed(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(text: &str) -> FieldSelector {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn canonical_form() {
        let cases = [
            ("", ""),
            (",", ""),
            ("b=2,a==1,b=2", "a=1,b=2"),
            ("metadata.name!=x", "metadata.name!=x"),
            (r"a=x\,y\=z\\", r"a=x\,y\=z\\"),
            ("a=", "a="),
            ("=x", "=x"),
        ];
        for (text, want) in cases {
            assert_eq!(parse(text).to_string(), want, "{text}");
            assert_eq!(parse(want), parse(text));
        }
        for text in ["a", "a=b=c", r"a=\x", r"a=b\", "a==b=c"] {
            assert!(text.parse::<FieldSelector>().is_err(), "{text}");
        }
        assert_eq!(parse("metadata.name=a").required("metadata.name"), Some("a"));
        assert_eq!(parse("metadata.name!=a").required("metadata.name"), None);
    }

    #[test]
    fn matching() {
        let pod = json!({"kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
            "spec": {"nodeName": "ship-7"}, "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}});
        let node = json!({"kind": "Node", "metadata": {"name": "ship-7"}, "spec": {"unschedulable": true}});
        let event = json!({"kind": "Event", "involvedObject": {"kind": "Pod"}, "source": {"component": "kubelet"},
            "type": "Warning"});
        let newer = json!({"kind": "Event", "regarding": {"kind": "Pod"}, "reportingController": "kubelet"});
        let cases = [
            (&pod, "spec.nodeName=ship-7,metadata.namespace=n", true),
            (&pod, "spec.nodeName!=ship-7", false),
            (&pod, "spec.nodeName=", false),
            (&pod, "status.nominatedNodeName=", true),
            (&pod, "spec.hostNetwork=false", true),
            (&pod, "status.podIP=10.0.0.1", true),
            (&pod, "status.phase!=Succeeded,status.phase!=Failed", true),
            (&node, "spec.unschedulable=true", true),
            (&node, "spec.unschedulable=false", false),
            (&event, "involvedObject.kind=Pod,source=kubelet,type=Warning", true),
            (&newer, "involvedObject.kind=Pod,source=kubelet,reportingComponent=kubelet", true),
            (&json!({"kind": "Job"}), "status.successful=0", true),
            (&json!({}), "anything!=x", true),
        ];
        for (object, text, want) in cases {
            assert_eq!(parse(text).matches(object), want, "{text}");
        }
    }

    #[test]
    fn narrowing() {
        let cases = [
            ("a=1,b=2", "a=1", true),
            ("a=1", "", true),
            ("", "a=1", false),
            ("a=1", "a=1,b=2", false),
            ("a=1", "a!=2", true),
            ("a=2", "a!=2", false),
            ("a!=2", "a=1", false),
        ];
        for (wanted, synced, want) in cases {
            assert_eq!(parse(wanted).narrows(&parse(synced)), want, "{wanted} narrows {synced}");
        }
    }
}
