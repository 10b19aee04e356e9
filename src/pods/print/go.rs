//! How Go's `fmt` prints values that were JSON.

use serde_json::{Number, Value};

/// `fmt.Sprint` of a value whose integers are integers.
pub(super) fn sprint(value: &Value) -> String {
    let mut out = String::new();
    write(value, &number, &mut out);
    out
}

/// `fmt.Sprint` of a value that Go read from JSON, where every number is a float.
pub(super) fn sprint_floats(value: &Value) -> String {
    let mut out = String::new();
    write(value, &|n| float(n.as_f64().unwrap_or_default()), &mut out);
    out
}

fn write(value: &Value, of_number: &dyn Fn(&Number) -> String, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&of_number(number)),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                write(item, of_number, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push_str("map[");
            for (i, (name, member)) in members.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                out.push_str(name);
                out.push(':');
                write(member, of_number, out);
            }
            out.push(']');
        }
    }
}

/// A number as `%v`.
pub(super) fn number(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() => float(value),
        _ => number.to_string(),
    }
}

/// A float as `%v`: the shortest digits that give it back, with an exponent from 1e+06 on or below 1e-4.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let exponent_form = format!("{value:e}");
    let (digits, exponent) = exponent_form.split_once('e').unwrap_or((&exponent_form, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        return format!("{value}");
    }
    with_exponent(digits, exponent)
}

/// Digits and an exponent as Go writes them: a sign, and two figures at least.
pub(super) fn with_exponent(digits: &str, exponent: i32) -> String {
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The Go type of a value.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
