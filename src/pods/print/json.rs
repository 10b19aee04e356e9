//! JSON as Go writes it: members by name, four spaces, and `<`, `>`, `&` escaped.

use serde_json::Value;

/// On one line, without spaces.
pub(super) fn compact(value: &Value) -> String {
    let mut out = String::new();
    write(value, None, &mut out);
    out
}

/// One member per line, four spaces for each level; no newline at the end.
pub(super) fn indented(value: &Value) -> String {
    let mut out = String::new();
    write(value, Some(0), &mut out);
    out
}

fn write(value: &Value, level: Option<usize>, out: &mut String) {
    match value {
        Value::String(text) => string(text, out),
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                next(i, level, out);
                write(item, level.map(|l| l + 1), out);
            }
            close(']', level, out);
        }
        Value::Object(members) if !members.is_empty() => {
            out.push('{');
            for (i, (name, member)) in members.iter().enumerate() {
                next(i, level, out);
                string(name, out);
                out.push_str(if level.is_some() { ": " } else { ":" });
                write(member, level.map(|l| l + 1), out);
            }
            close('}', level, out);
        }
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
    }
}

fn next(i: usize, level: Option<usize>, out: &mut String) {
    if i > 0 {
        out.push(',');
    }
    if let Some(level) = level {
        line(level + 1, out);
    }
}

fn close(bracket: char, level: Option<usize>, out: &mut String) {
    if let Some(level) = level {
        line(level, out);
    }
    out.push(bracket);
}

fn line(level: usize, out: &mut String) {
    out.push('\n');
    (0..level).for_each(|_| out.push_str("    "));
}

/// A quoted string as Go's `encoding/json` escapes it.
pub(super) fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
