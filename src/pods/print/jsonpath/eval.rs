//! kubectl's jsonpath, nodes to results. `range` and `end` are not nested in the nodes: an evaluation runs
//! from a `range` to its `end` for each element and then goes on behind that `end`, as client-go does it.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use super::{Node, Range, Results};
use crate::pods::print::go;

/// More results than this are refused: nested recursion could otherwise ask for any amount of memory.
const MOST: usize = 4_000_000;

pub(super) fn find<'a>(
    nodes: &[Node],
    allow_missing: bool,
    data: &'a Value,
) -> Result<Vec<Results<'a>>, String> {
    let mut walk = Walk { nodes, allow_missing, begin: 0, inside: 0, end: 0, last_end: None, results: 0 };
    walk.from(0, Cow::Borrowed(data))
}

struct Walk<'n> {
    nodes: &'n [Node],
    allow_missing: bool,
    /// `range` seen and not begun.
    begin: usize,
    /// Ranges being run.
    inside: usize,
    /// `end` seen and not taken.
    end: usize,
    /// Where the last `end` stands.
    last_end: Option<usize>,
    results: usize,
}

impl Walk<'_> {
    fn from<'a>(&mut self, first: usize, data: Cow<'a, Value>) -> Result<Vec<Results<'a>>, String> {
        let mut all = Vec::new();
        let mut i = first;
        while i < self.nodes.len() {
            let results = self.walk(vec![data.clone()], &self.nodes[i])?;
            if self.end > 0 && self.end <= self.inside {
                self.end -= 1;
                self.last_end = Some(i);
                break;
            }
            if self.begin > 0 {
                self.begin -= 1;
                self.inside += 1;
                if results.is_empty() {
                    // Run once on nothing, so that the position of the `end` is known.
                    self.from(i + 1, Cow::Owned(Value::Null))?;
                }
                for value in results {
                    all.extend(self.from(i + 1, value)?);
                }
                self.inside -= 1;
                if let Some(end) = self.last_end.filter(|end| *end > i) {
                    i = end;
                }
            } else {
                self.results += results.len();
                if self.results > MOST {
                    return Err(format!("more than {MOST} results"));
                }
                all.push(results);
            }
            i += 1;
        }
        Ok(all)
    }

    fn walk<'a>(&mut self, input: Results<'a>, node: &Node) -> Result<Results<'a>, String> {
        let constant = |value: Value| Ok(input.iter().map(|_| Cow::Owned(value.clone())).collect());
        match node {
            Node::Text(text) => Ok(vec![Cow::Owned(Value::String(text.clone()))]),
            Node::List(nodes) => self.list(input, nodes),
            Node::Field(name) => self.field(input, name),
            Node::Wildcard => Ok(input.into_iter().flat_map(children).collect()),
            Node::Recursive => {
                let mut out = Vec::new();
                for value in input {
                    recurse(value, &mut out)?;
                }
                Ok(out)
            }
            Node::Array(range) => array(input, range),
            Node::Union(lists) => {
                let mut out = Vec::new();
                for list in lists {
                    out.extend(self.list(input.clone(), list)?);
                }
                Ok(out)
            }
            Node::Exists(left) => self.filter(input, |walk, item| {
                // A path that is not there is no error here, it is the answer.
                Ok(walk.list(vec![item], left).is_ok_and(|found| !found.is_empty()))
            }),
            Node::Filter(left, operator, right) => self.filter(input, |walk, item| {
                let lefts = walk.list(vec![item.clone()], left)?;
                let Some(left) = single(&lefts)? else { return Ok(false) };
                let rights = walk.list(vec![item], right)?;
                let Some(right) = single(&rights)? else { return Ok(false) };
                compare(left, operator, right)
            }),
            Node::Int(value) => constant(Value::from(*value)),
            Node::Float(value) => constant(Value::from(*value)),
            Node::Bool(value) => constant(Value::from(*value)),
            Node::Identifier(name) => match name.as_str() {
                "range" => {
                    self.begin += 1;
                    Ok(input)
                }
                "end" if self.inside > 0 => {
                    self.end += 1;
                    Ok(Vec::new())
                }
                "end" => Err("not in range, nothing to end".to_owned()),
                other => Err(format!("unrecognized identifier {other}")),
            },
        }
    }

    fn list<'a>(&mut self, input: Results<'a>, nodes: &[Node]) -> Result<Results<'a>, String> {
        nodes.iter().try_fold(input, |value, node| self.walk(value, node))
    }

    fn field<'a>(&self, input: Results<'a>, name: &str) -> Result<Results<'a>, String> {
        if input.is_empty() {
            return Ok(input);
        }
        let found: Results<'a> = input
            .into_iter()
            .filter_map(|value| match value {
                Cow::Borrowed(value) => value.get(name).map(Cow::Borrowed),
                Cow::Owned(value) => value.get(name).cloned().map(Cow::Owned),
            })
            .collect();
        if found.is_empty() && !self.allow_missing {
            return Err(format!("{name} is not found"));
        }
        Ok(found)
    }

    fn filter<'a>(
        &mut self,
        input: Results<'a>,
        mut keep: impl FnMut(&mut Self, Cow<'a, Value>) -> Result<bool, String>,
    ) -> Result<Results<'a>, String> {
        let mut out = Vec::new();
        for value in input {
            if !value.is_array() {
                let shown = match value.as_ref() {
                    Value::Null => "<invalid Value>".to_owned(),
                    other => go::sprint(other),
                };
                return Err(format!("{shown} is not array or slice and cannot be filtered"));
            }
            for item in children(value) {
                if keep(self, item.clone())? {
                    out.push(item);
                }
            }
        }
        Ok(out)
    }
}

fn children(value: Cow<'_, Value>) -> Vec<Cow<'_, Value>> {
    match value {
        Cow::Borrowed(Value::Array(items)) => items.iter().map(Cow::Borrowed).collect(),
        Cow::Borrowed(Value::Object(members)) => members.values().map(Cow::Borrowed).collect(),
        Cow::Owned(Value::Array(items)) => items.into_iter().map(Cow::Owned).collect(),
        Cow::Owned(Value::Object(members)) => members.into_iter().map(|(_, v)| Cow::Owned(v)).collect(),
        // To Go a string is a list of bytes.
        other => other.as_str().unwrap_or_default().bytes().map(|b| Cow::Owned(Value::from(b))).collect(),
    }
}

/// Everything that has something in it, outer things first.
fn recurse<'a>(value: Cow<'a, Value>, out: &mut Results<'a>) -> Result<(), String> {
    let parts = children(value.clone());
    if parts.is_empty() {
        return Ok(());
    }
    if out.len() > MOST {
        return Err(format!("more than {MOST} results"));
    }
    let leaf = value.is_string();
    out.push(value);
    if leaf {
        return Ok(());
    }
    parts.into_iter().try_for_each(|part| recurse(part, out))
}

fn array<'a>(input: Results<'a>, range: &Range) -> Result<Results<'a>, String> {
    let mut out = Vec::new();
    for value in input {
        if value.is_null() {
            continue;
        }
        if !value.is_array() {
            return Err(format!("{} is not array or slice", go::type_of(&value)));
        }
        let items = children(value);
        let (from, to) = bounds(range, i64::try_from(items.len()).unwrap_or(i64::MAX))?;
        if from == to {
            return Ok(out);
        }
        let step = match range.step {
            Some(step) if step <= 0 => return Err("step must be > 0".to_owned()),
            Some(step) => usize::try_from(step).unwrap_or(usize::MAX),
            None => 1,
        };
        out.extend(items.into_iter().take(to).skip(from).step_by(step));
    }
    Ok(out)
}

fn bounds(range: &Range, length: i64) -> Result<(usize, usize), String> {
    let mut from = range.from.unwrap_or(0);
    if from < 0 {
        from += length;
    }
    let mut to = range.to.unwrap_or(length);
    if to < 0 || (to == 0 && range.derived) {
        to += length;
    }
    if from == to {
        return Ok((0, 0));
    }
    let out = |index: i64| Err(format!("array index out of bounds: index {index}, length {length}"));
    if from >= length || from < 0 {
        return out(from);
    }
    if to > length || to < 0 {
        return out(to - 1);
    }
    if from > to {
        return Err(format!("starting index {from} is greater than ending index {to}"));
    }
    Ok((usize::try_from(from).unwrap_or(0), usize::try_from(to).unwrap_or(0)))
}

fn single<'v>(found: &'v Results<'_>) -> Result<Option<&'v Value>, String> {
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err("can only compare one element at a time".to_owned()),
    }
}

fn compare(left: &Value, operator: &str, right: &Value) -> Result<bool, String> {
    const TYPE: &str = "invalid type for comparison";
    const PAIR: &str = "incompatible types for comparison";
    let order = match (left, right) {
        (Value::Null | Value::Array(_) | Value::Object(_), _)
        | (_, Value::Null | Value::Array(_) | Value::Object(_)) => return Err(TYPE.to_owned()),
        (Value::Bool(a), Value::Bool(b)) if matches!(operator, "==" | "!=") => a.cmp(b),
        (Value::Bool(_), Value::Bool(_)) => return Err(TYPE.to_owned()),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) if a.is_f64() == b.is_f64() => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => match a.as_f64().partial_cmp(&b.as_f64()) {
                Some(order) => order,
                None => return Ok(operator == "!="),
            },
        },
        _ => return Err(PAIR.to_owned()),
    };
    Ok(match operator {
        "<" => order == Ordering::Less,
        ">" => order == Ordering::Greater,
        "==" => order == Ordering::Equal,
        "!=" => order != Ordering::Equal,
        "<=" => order != Ordering::Greater,
        ">=" => order != Ordering::Less,
        other => return Err(format!("unrecognized filter operator {other}")),
    })
}
