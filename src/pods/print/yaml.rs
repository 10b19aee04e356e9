//! YAML as kubectl writes it (sigs.k8s.io/yaml on go-yaml v2): members by name, lists not indented under
//! their key, and a string quoted only where it would otherwise be read as something else.

use std::cmp::Ordering;

use serde_json::Value;

/// A document, with a newline at the end.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(members) if !members.is_empty() => object(members, 0, &mut out),
        Value::Array(items) if !items.is_empty() => array(items, 0, &mut out),
        scalar => {
            write_scalar(scalar, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

fn object(members: &serde_json::Map<String, Value>, indent: usize, out: &mut String) {
    let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
    sorted.sort_by(|(a, _), (b, _)| natural(a, b));
    for (i, (name, value)) in sorted.into_iter().enumerate() {
        if i > 0 {
            pad(indent, out);
        }
        key(name, out);
        match value {
            Value::Object(members) if !members.is_empty() => {
                out.push('\n');
                pad(indent + 2, out);
                object(members, indent + 2, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                pad(indent, out);
                array(items, indent, out);
            }
            scalar => {
                out.push(' ');
                write_scalar(scalar, indent + 2, out);
                out.push('\n');
            }
        }
    }
}

fn array(items: &[Value], indent: usize, out: &mut String) {
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            pad(indent, out);
        }
        out.push_str("- ");
        match item {
            Value::Object(members) if !members.is_empty() => object(members, indent + 2, out),
            Value::Array(items) if !items.is_empty() => array(items, indent + 2, out),
            scalar => {
                write_scalar(scalar, indent + 2, out);
                out.push('\n');
            }
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    (0..indent).for_each(|_| out.push(' '));
}

fn key(name: &str, out: &mut String) {
    // A key longer than 128 bytes, or of several lines, is written `? key` and `: value` below.
    if name.contains('\n') {
        double_quoted(name, out);
    } else {
        text(name, 0, out);
    }
    out.push(':');
}

fn write_scalar(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::String(value) => text(value, indent, out),
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&super::go::number(number)),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

fn text(value: &str, indent: usize, out: &mut String) {
    let shape = Shape::of(value);
    if value.contains('\n') {
        if shape.block { literal(value, indent, out) } else { double_quoted(value, out) }
    } else if reads_as_other(value) {
        double_quoted(value, out);
    } else if shape.plain && !value.is_empty() {
        fold(value, indent, out);
    } else if shape.single {
        out.push('\'');
        fold(&value.replace('\'', "''"), indent, out);
        out.push('\'');
    } else {
        double_quoted(value, out);
    }
}

/// A string on lines that are broken at a lone space behind column 80, as go-yaml does it.
fn fold(value: &str, indent: usize, out: &mut String) {
    let mut column = out.chars().rev().take_while(|c| *c != '\n').count();
    let mut before = None;
    let mut chars = value.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        let lone = before != Some(' ') && chars.peek().is_some_and(|next| *next != ' ');
        if c == ' ' && lone && column > 80 && indent > 0 && !first {
            out.push('\n');
            pad(indent, out);
            column = indent;
        } else {
            out.push(c);
            column += 1;
        }
        before = Some(c);
        first = false;
    }
}

/// What forms a string may have, as libyaml's analysis of a scalar says.
struct Shape {
    plain: bool,
    single: bool,
    block: bool,
}

impl Shape {
    fn of(value: &str) -> Self {
        let mut indicators = value.starts_with("---") || value.starts_with("...");
        let (mut special, mut space_break, mut break_space) = (false, false, false);
        let chars: Vec<char> = value.chars().collect();
        let blank_or_end = |i: usize| chars.get(i).is_none_or(|c| matches!(c, ' ' | '\t' | '\r' | '\n'));
        let mut before = None;
        for (i, c) in chars.iter().copied().enumerate() {
            let first = i == 0;
            let follows_space = first || matches!(before, Some(' ' | '\t' | '\r' | '\n'));
            indicators |= match c {
                '#' => follows_space,
                ':' => blank_or_end(i + 1),
                ',' | '?' | '[' | ']' | '{' | '}' if !first => false,
                '-' | '?' if first => blank_or_end(i + 1),
                ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => {
                    first
                }
                _ => false,
            };
            special |= !is_printable(c) && c != '\n';
            space_break |= is_break(c) && before == Some(' ');
            break_space |= c == ' ' && before.is_some_and(is_break);
            before = Some(c);
        }
        let edge = |c: Option<&char>| c.is_some_and(|c| *c == ' ' || is_break(*c));
        let edges = edge(chars.first()) || edge(chars.last());
        let many = chars.iter().any(|c| is_break(*c));
        Self {
            plain: !(edges || many || special || space_break || indicators),
            single: !(special || space_break || break_space && many && edges),
            block: !(special || space_break || chars.last() == Some(&' ')),
        }
    }
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_printable(c: char) -> bool {
    // go-yaml knows none beyond the basic plane.
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && c != '\u{feff}'
}

fn literal(value: &str, indent: usize, out: &mut String) {
    out.push('|');
    if value.starts_with([' ', '\n', '\r']) {
        out.push('2');
    }
    let ends = value.chars().rev().take_while(|c| *c == '\n').count();
    if ends == 0 {
        out.push('-');
    } else if ends > 1 || value == "\n" {
        out.push('+');
    }
    for line in value.strip_suffix('\n').unwrap_or(value).split('\n') {
        out.push('\n');
        if !line.is_empty() {
            pad(indent, out);
            out.push_str(line);
        }
    }
}

fn double_quoted(value: &str, out: &mut String) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{85}' => out.push_str("\\N"),
            '\u{2028}' => out.push_str("\\L"),
            '\u{2029}' => out.push_str("\\P"),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) < 0x100 => out.push_str(&format!("\\x{:02X}", u32::from(c))),
            c if u32::from(c) < 0x1_0000 => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
}

/// Whether YAML 1.1 reads the bare word as something else than a string.
fn reads_as_other(value: &str) -> bool {
    const WORDS: [&str; 11] = ["", "~", "null", "y", "n", "yes", "no", "true", "false", "on", "off"];
    const NUMBERS: [&str; 4] = [".nan", ".inf", "+.inf", "-.inf"];
    let cased = |word: &str| {
        let lower = value.to_ascii_lowercase();
        let title = value.get(..1).is_some_and(|f| f.chars().all(|c| c.is_ascii_uppercase()))
            && value.get(1..).is_some_and(|r| !r.chars().any(|c| c.is_ascii_uppercase()));
        lower == word && (value == lower || title || value == value.to_ascii_uppercase())
    };
    if WORDS.iter().any(|w| cased(w)) || value == "<<" {
        return true;
    }
    if matches!(value, ".NaN" | ".Inf" | "+.Inf" | "-.Inf" | ".NAN" | ".INF" | "+.INF" | "-.INF")
        || NUMBERS.contains(&value)
    {
        return true;
    }
    is_number(value) || is_base_sixty(value) || is_timestamp(value)
}

fn is_number(value: &str) -> bool {
    let plain: String = value.chars().filter(|c| *c != '_').collect();
    let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    if value.starts_with('_') || !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    let radix = |prefixes: [&str; 2], radix: u32| {
        prefixes
            .iter()
            .find_map(|p| unsigned.strip_prefix(p))
            .is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)))
    };
    radix(["0x", "0X"], 16) || radix(["0b", "0B"], 2) || radix(["0o", "0O"], 8) || is_decimal(unsigned)
}

/// Digits, a point, an exponent: `1`, `1.`, `.5`, `1e3`.
fn is_decimal(text: &str) -> bool {
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa = (digits(whole) && (fraction.is_empty() || digits(fraction)))
        || (whole.is_empty() && digits(fraction));
    mantissa && exponent.is_none_or(|e| digits(e.strip_prefix(['+', '-']).unwrap_or(e)))
}

/// `1:30`: a number to the base of 60 for readers of YAML 1.1.
fn is_base_sixty(value: &str) -> bool {
    let unsigned = value.strip_prefix(['+', '-']).unwrap_or(value);
    let mut parts = unsigned.split(':');
    let first = parts.next().unwrap_or_default();
    if !first.starts_with(|c: char| c.is_ascii_digit())
        || !first.bytes().all(|b| b.is_ascii_digit() || b == b'_')
    {
        return false;
    }
    let rest: Vec<&str> = parts.collect();
    !rest.is_empty()
        && rest.iter().enumerate().all(|(i, part)| {
            let whole = if i + 1 == rest.len() { part.split('.').next().unwrap_or(part) } else { part };
            matches!(whole.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9'])
        })
}

fn is_timestamp(value: &str) -> bool {
    let Some((year, rest)) = value.split_once('-') else { return false };
    if year.len() != 4 || !year.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let Some((month, rest)) = rest.split_once('-') else { return false };
    let two = |t: &str| (1..=2).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit());
    let day_end = rest.find(['T', 't', ' ']).unwrap_or(rest.len());
    let (day, time) = rest.split_at(day_end);
    if !two(month) || !two(day) {
        return false;
    }
    if time.is_empty() {
        return day.len() == 2 && month.len() == 2;
    }
    let clock = time.trim_start_matches(['T', 't', ' ']);
    let mut parts = clock.splitn(3, ':');
    parts.next().is_some_and(two)
        && parts.next().is_some_and(two)
        && parts.next().is_some_and(|s| s.len() >= 2 && s.as_bytes()[..2].iter().all(u8::is_ascii_digit))
}

/// go-yaml's order of keys: runs of digits as numbers, letters after every other sign.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let Some(i) = (0..a.len().min(b.len())).find(|i| a[*i] != b[*i]) else {
        return a.len().cmp(&b.len());
    };
    match (a[i].is_alphabetic(), b[i].is_alphabetic()) {
        (true, true) => a[i].cmp(&b[i]),
        (false, true) => Ordering::Less,
        (true, false) => Ordering::Greater,
        (false, false) => numbers(&a, &b, i),
    }
}

fn numbers(a: &[char], b: &[char], i: usize) -> Ordering {
    // A zero behind another digit is part of a longer number, and not a leading zero.
    let within = a[..i].iter().rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
    let start = u128::from((a[i] == '0' || b[i] == '0') && within);
    let run = |s: &[char]| -> (u128, usize) {
        let digits: Vec<u32> = s[i..].iter().map_while(|c| c.to_digit(10)).collect();
        let value = digits.iter().fold(start, |v, d| v.saturating_mul(10).saturating_add(u128::from(*d)));
        (value, digits.len())
    };
    run(a).cmp(&run(b)).then(a[i].cmp(&b[i]))
}
