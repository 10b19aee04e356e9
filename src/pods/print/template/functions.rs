//! The functions of templates.

use std::borrow::Cow;
use std::cmp::Ordering;

use base64::Engine as _;
use serde_json::Value;

use super::eval::{Run, Val};
use super::parse::Operand;
use super::printf;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Or,
    Not,
    Len,
    Index,
    Slice,
    Print,
    Printf,
    Println,
    Html,
    Js,
    Urlquery,
    Call,
    Compare(Comparison),
    Exists,
    Base64decode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

const NAMES: [(&str, Function); 21] = [
    ("and", Function::And),
    ("or", Function::Or),
    ("not", Function::Not),
    ("len", Function::Len),
    ("index", Function::Index),
    ("slice", Function::Slice),
    ("print", Function::Print),
    ("printf", Function::Printf),
    ("println", Function::Println),
    ("html", Function::Html),
    ("js", Function::Js),
    ("urlquery", Function::Urlquery),
    ("call", Function::Call),
    ("eq", Function::Compare(Comparison::Eq)),
    ("ne", Function::Compare(Comparison::Ne)),
    ("lt", Function::Compare(Comparison::Lt)),
    ("le", Function::Compare(Comparison::Le)),
    ("gt", Function::Compare(Comparison::Gt)),
    ("ge", Function::Compare(Comparison::Ge)),
    ("exists", Function::Exists),
    ("base64decode", Function::Base64decode),
];

impl Function {
    pub(super) fn named(name: &str) -> Option<Self> {
        NAMES.iter().find(|(n, _)| *n == name).map(|(_, function)| *function)
    }

    fn name(self) -> &'static str {
        NAMES.iter().find(|(_, f)| *f == self).map_or("", |(name, _)| name)
    }
}

pub(super) fn call<'a>(
    run: &mut Run<'a, '_>,
    function: Function,
    operands: &[Operand],
    dot: &Val<'a>,
    piped: Option<Val<'a>>,
) -> Result<Val<'a>, String> {
    let (least, most) = match function {
        Function::Not | Function::Len | Function::Base64decode => (1, 1),
        Function::Print | Function::Println | Function::Html | Function::Js | Function::Urlquery => {
            (0, usize::MAX)
        }
        Function::Compare(Comparison::Eq) => (1, usize::MAX),
        Function::Compare(_) => (2, 2),
        _ => (1, usize::MAX),
    };
    let given = operands.len() + usize::from(piped.is_some());
    if given < least || given > most {
        let at_least = if most == usize::MAX { "at least " } else { "" };
        return Err(format!(
            "wrong number of args for {}: want {at_least}{least} got {given}",
            function.name()
        ));
    }
    if matches!(function, Function::And | Function::Or) {
        return junction(run, function, operands, dot, piped);
    }
    if function == Function::Call {
        let named = match operands {
            [Operand::Fields(of, names), ..] if matches!(**of, Operand::Dot) => {
                format!(".{} ", names.join("."))
            }
            _ => String::new(),
        };
        let first = operands.first().map_or(Ok(Val::Nil), |operand| run.operand(operand, dot))?;
        return Err(format!("error calling call: non-function {named}of type {}", first.type_name()));
    }
    let mut arguments = operands.iter().map(|o| run.operand(o, dot)).collect::<Result<Vec<_>, _>>()?;
    arguments.extend(piped);
    apply(function, &arguments).map_err(|e| format!("error calling {}: {e}", function.name()))
}

/// `and` and `or` look no further than they must.
fn junction<'a>(
    run: &mut Run<'a, '_>,
    function: Function,
    operands: &[Operand],
    dot: &Val<'a>,
    piped: Option<Val<'a>>,
) -> Result<Val<'a>, String> {
    let mut last = Val::Nil;
    for operand in operands {
        last = run.operand(operand, dot)?;
        if last.is_true() == (function == Function::Or) {
            return Ok(last);
        }
    }
    Ok(piped.unwrap_or(last))
}

fn apply<'a>(function: Function, arguments: &[Val<'a>]) -> Result<Val<'a>, String> {
    let text = |text: String| Ok(Val::Text(text));
    match function {
        Function::Not => Ok(Val::Bool(!arguments[0].is_true())),
        Function::Len => length(&arguments[0]),
        Function::Index => arguments[1..].iter().try_fold(arguments[0].clone(), index),
        Function::Slice => slice(&arguments[0], &arguments[1..]),
        Function::Print => text(printf::sprint(arguments)),
        Function::Println => text(arguments.iter().map(Val::show).collect::<Vec<_>>().join(" ") + "\n"),
        Function::Printf => match &arguments[0] {
            Val::Text(format) => text(printf::sprintf(format, &arguments[1..])),
            other => Err(format!("wrong type for value; expected string; got {}", other.type_name())),
        },
        Function::Html => text(escape_html(&joined(arguments))),
        Function::Js => text(escape_js(&joined(arguments))),
        Function::Urlquery => text(escape_query(&joined(arguments))),
        Function::Compare(comparison) => compare(comparison, arguments).map(Val::Bool),
        Function::Exists => Ok(Val::Bool(exists(arguments))),
        Function::Base64decode => decode(&arguments[0]),
        Function::And | Function::Or | Function::Call => Ok(Val::Nil),
    }
}

fn joined(arguments: &[Val<'_>]) -> String {
    match arguments {
        [Val::Text(text)] => text.clone(),
        _ => printf::sprint(arguments),
    }
}

fn length(of: &Val<'_>) -> Result<Val<'static>, String> {
    let length = match of {
        Val::Text(text) => text.len(),
        Val::Json(value) => match value.as_ref() {
            Value::Array(items) => items.len(),
            Value::Object(members) => members.len(),
            _ => 0,
        },
        Val::Nil => return Err("len of nil pointer".to_owned()),
        other => return Err(format!("len of type {}", other.type_name())),
    };
    Ok(Val::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn index<'a>(of: Val<'a>, by: &Val<'a>) -> Result<Val<'a>, String> {
    let position = |length: usize| match by {
        Val::Int(i) => {
            usize::try_from(*i).ok().filter(|i| *i < length).ok_or_else(|| format!("index out of range: {i}"))
        }
        Val::Nil => Err("cannot index slice/array with nil".to_owned()),
        other => Err(format!("cannot index slice/array with type {}", other.type_name())),
    };
    match of {
        Val::Json(Cow::Borrowed(Value::Array(items))) => {
            Ok(Val::of(Cow::Borrowed(&items[position(items.len())?])))
        }
        Val::Json(Cow::Borrowed(Value::Object(members))) => match by {
            Val::Text(name) => Ok(members.get(name).map_or(Val::Nil, |v| Val::of(Cow::Borrowed(v)))),
            other => Err(format!("value has type {}; should be string", other.type_name())),
        },
        Val::Text(text) => Ok(Val::Int(i64::from(text.as_bytes()[position(text.len())?]))),
        Val::Nil => Err("index of untyped nil".to_owned()),
        other => Err(format!("can't index item of type {}", other.type_name())),
    }
}

fn slice<'a>(of: &Val<'a>, bounds: &[Val<'a>]) -> Result<Val<'a>, String> {
    let Val::Text(text) = of else {
        return Err(format!("can't slice item of type {}", of.type_name()));
    };
    let bound = |i: usize, default: usize| match bounds.get(i) {
        None => Ok(default),
        Some(Val::Int(at)) => {
            let at_most = usize::try_from(*at).ok().filter(|at| *at <= text.len());
            at_most.ok_or_else(|| format!("index out of range: {at}"))
        }
        Some(other) => Err(format!("cannot index slice/array with type {}", other.type_name())),
    };
    let (from, to) = (bound(0, 0)?, bound(1, text.len())?);
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(Val::Text(String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned()))
}

fn compare(comparison: Comparison, arguments: &[Val<'_>]) -> Result<bool, String> {
    let (first, rest) = (&arguments[0], &arguments[1..]);
    if rest.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    if matches!(comparison, Comparison::Eq | Comparison::Ne) {
        let equal =
            rest.iter().try_fold(false, |found, other| Ok::<_, String>(found || equal(first, other)?))?;
        return Ok(equal == (comparison == Comparison::Eq));
    }
    let order = order(first, &rest[0])?;
    Ok(match comparison {
        Comparison::Lt => order == Ordering::Less,
        Comparison::Le => order != Ordering::Greater,
        Comparison::Gt => order == Ordering::Greater,
        _ => order != Ordering::Less,
    })
}

fn equal(a: &Val<'_>, b: &Val<'_>) -> Result<bool, String> {
    match (a, b) {
        (Val::Nil, other) | (other, Val::Nil) => Ok(matches!(other, Val::Nil)),
        (Val::Bool(a), Val::Bool(b)) => Ok(a == b),
        (Val::Json(a), _) | (_, Val::Json(a)) => Err(format!(
            "non-comparable type {}: {}",
            super::super::go::type_of(a),
            super::super::go::sprint_floats(a)
        )),
        _ => order(a, b).map(|order| order == Ordering::Equal),
    }
}

fn order(a: &Val<'_>, b: &Val<'_>) -> Result<Ordering, String> {
    match (a, b) {
        (Val::Text(a), Val::Text(b)) => Ok(a.cmp(b)),
        (Val::Int(a), Val::Int(b)) => Ok(a.cmp(b)),
        (Val::Float(a), Val::Float(b)) => Ok(a.partial_cmp(b).unwrap_or(Ordering::Greater)),
        (Val::Nil | Val::Json(_) | Val::Bool(_), _) | (_, Val::Nil | Val::Json(_)) => {
            Err("invalid type for comparison".to_owned())
        }
        _ => Err(format!("incompatible types for comparison: {} and {}", a.type_name(), b.type_name())),
    }
}

/// kubectl's `exists OBJECT NAME-OR-INDEX…`.
fn exists(arguments: &[Val<'_>]) -> bool {
    let found = arguments[1..].iter().try_fold(arguments[0].clone(), |of, by| match index(of, by) {
        Ok(Val::Nil) | Err(_) => None,
        Ok(value) => Some(value),
    });
    found.is_some_and(|value| !matches!(value, Val::Nil))
}

fn decode(of: &Val<'_>) -> Result<Val<'static>, String> {
    let Val::Text(text) = of else {
        return Err(format!("wrong type for value; expected string; got {}", of.type_name()));
    };
    match base64::engine::general_purpose::STANDARD.decode(text) {
        Ok(bytes) => Ok(Val::Text(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) => at,
                _ => text.len(),
            };
            Err(format!("base64 decode failed: illegal base64 data at input byte {at}"))
        }
    }
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

fn escape_js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' | '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

fn escape_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
