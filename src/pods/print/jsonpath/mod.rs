//! kubectl's jsonpath on JSON values: what client-go's `util/jsonpath` gives for the same text and object,
//! but that the members of an object come in the order of their names and not in Go's random one.

mod eval;
mod parse;
mod unquote;

use std::borrow::Cow;

use serde_json::Value;

pub(super) use unquote::unquote;

use super::json;

/// A template, parsed.
#[derive(Debug, Clone)]
pub struct JsonPath {
    nodes: Vec<Node>,
    /// An absent field is an empty result; otherwise it is an error.
    pub allow_missing: bool,
}

#[derive(Debug, Clone)]
enum Node {
    Text(String),
    List(Vec<Node>),
    Field(String),
    Wildcard,
    Recursive,
    Array(Range),
    Union(Vec<Vec<Node>>),
    Exists(Vec<Node>),
    Filter(Vec<Node>, String, Vec<Node>),
    Int(i64),
    Float(f64),
    Bool(bool),
    Identifier(String),
}

#[derive(Debug, Clone)]
struct Range {
    from: Option<i64>,
    to: Option<i64>,
    /// `to` was not written but follows from `from`.
    derived: bool,
    step: Option<i64>,
}

/// The results of one `{…}`.
pub(super) type Results<'a> = Vec<Cow<'a, Value>>;

impl JsonPath {
    /// Parses a template.
    ///
    /// # Errors
    /// In kubectl's words.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { nodes: parse::parse(text)?, allow_missing: true })
    }

    /// What each piece of the template finds in `data`.
    ///
    /// # Errors
    /// In kubectl's words.
    pub(super) fn find<'a>(&self, data: &'a Value) -> Result<Vec<Results<'a>>, String> {
        eval::find(&self.nodes, self.allow_missing, data)
    }

    /// The results as text: strings bare, lists and objects as JSON, several results with spaces between.
    ///
    /// # Errors
    /// In kubectl's words.
    pub fn text(&self, data: &Value) -> Result<String, String> {
        let mut out = String::new();
        for results in self.find(data)? {
            for (i, result) in results.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                match result.as_ref() {
                    Value::String(text) => out.push_str(text),
                    Value::Array(_) | Value::Object(_) => out.push_str(&json::compact(result)),
                    Value::Number(number) => out.push_str(&super::go::number(number)),
                    Value::Bool(_) | Value::Null => out.push_str(&result.to_string()),
                }
            }
        }
        Ok(out)
    }

    /// The results of each piece as a JSON list (`-o jsonpath-as-json`).
    ///
    /// # Errors
    /// In kubectl's words.
    pub fn json(&self, data: &Value) -> Result<String, String> {
        let mut out = String::new();
        for results in self.find(data)? {
            let list = Value::Array(results.into_iter().map(Cow::into_owned).collect());
            out.push_str(&json::indented(&list));
            out.push('\n');
        }
        Ok(out)
    }
}
