//! Go's `Sprint` and `Sprintf` for the values that templates have.

use super::eval::Val;
use crate::pods::print::go;

/// Values one after the other, with a space between two that are no strings.
pub(super) fn sprint(arguments: &[Val<'_>]) -> String {
    let mut out = String::new();
    let mut text_before = true;
    for (i, argument) in arguments.iter().enumerate() {
        let text = matches!(argument, Val::Text(_));
        if i > 0 && !text && !text_before {
            out.push(' ');
        }
        out.push_str(&argument.show());
        text_before = text;
    }
    out
}

#[derive(Default)]
struct Verb {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Widths and precisions above this are refused by Go, too.
const WIDEST: usize = 1_000_000;

pub(super) fn sprintf(format: &str, arguments: &[Val<'_>]) -> String {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '+' | '#' | ' ' | '0')) {
            match flag {
                '-' => verb.minus = true,
                '+' => verb.plus = true,
                '#' => verb.sharp = true,
                ' ' => verb.space = true,
                _ => verb.zero = true,
            }
        }
        let digits = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut value = None;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                let more = value.unwrap_or(0) * 10 + digit.to_digit(10).unwrap_or(0) as usize;
                value = Some(more.min(WIDEST));
            }
            value
        };
        verb.width = digits(&mut chars);
        if chars.next_if_eq(&'.').is_some() {
            verb.precision = Some(digits(&mut chars).unwrap_or(0));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(letter) => match arguments.next() {
                None => out.push_str(&format!("%!{letter}(MISSING)")),
                Some(argument) => out.push_str(&verb.format(letter, argument)),
            },
        }
    }
    let extra: Vec<String> = arguments
        .map(|a| {
            if matches!(a, Val::Nil) { "<nil>".to_owned() } else { format!("{}={}", a.type_name(), a.show()) }
        })
        .collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

impl Verb {
    fn format(&self, letter: char, argument: &Val<'_>) -> String {
        let wrong = || match argument {
            Val::Nil => format!("%!{letter}(<nil>)"),
            other => format!("%!{letter}({}={})", other.type_name(), other.show()),
        };
        let number = matches!(argument, Val::Int(_) | Val::Float(_));
        let text = match (letter, argument) {
            ('T', argument) => argument.type_name().to_owned(),
            ('v', Val::Float(value)) => self.signed(go::float(*value)),
            ('v', Val::Int(value)) => self.signed(value.to_string()),
            ('v', argument) => argument.show(),
            ('s', Val::Text(text)) => self.cut(text),
            ('s', Val::Json(value)) => go::sprint_floats(value),
            ('q', Val::Text(text)) => quote(&self.cut(text)),
            ('q', Val::Int(value)) => {
                u32::try_from(*value).ok().and_then(char::from_u32).map_or_else(wrong, |c| format!("'{c}'"))
            }
            ('x', Val::Text(text)) => text.bytes().map(|b| format!("{b:02x}")).collect(),
            ('X', Val::Text(text)) => text.bytes().map(|b| format!("{b:02X}")).collect(),
            ('t', Val::Bool(value)) => value.to_string(),
            ('d', Val::Int(value)) => self.signed(value.to_string()),
            ('x', Val::Int(value)) => self.radix(*value, &|v| format!("{v:x}"), "0x"),
            ('X', Val::Int(value)) => self.radix(*value, &|v| format!("{v:X}"), "0X"),
            ('o', Val::Int(value)) => self.radix(*value, &|v| format!("{v:o}"), "0"),
            ('b', Val::Int(value)) => self.radix(*value, &|v| format!("{v:b}"), "0b"),
            ('c', Val::Int(value)) => {
                u32::try_from(*value).ok().and_then(char::from_u32).unwrap_or('\u{fffd}').to_string()
            }
            ('f' | 'F', Val::Float(value)) => self.signed(format!("{value:.*}", self.precision.unwrap_or(6))),
            ('e', Val::Float(value)) => {
                let text = format!("{value:.*e}", self.precision.unwrap_or(6));
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                self.signed(go::with_exponent(digits, exponent.parse().unwrap_or(0)))
            }
            ('g', Val::Float(value)) => self.signed(go::float(*value)),
            _ => return wrong(),
        };
        self.pad(text, number)
    }

    fn signed(&self, text: String) -> String {
        match (text.starts_with(['-', '+']), self.plus, self.space) {
            (true, ..) | (_, false, false) => text,
            (_, true, _) => format!("+{text}"),
            (_, _, true) => format!(" {text}"),
        }
    }

    fn radix(&self, value: i64, digits: &dyn Fn(u64) -> String, prefix: &str) -> String {
        let sign = if value < 0 { "-" } else { "" };
        let prefix = if self.sharp { prefix } else { "" };
        self.signed(format!("{sign}{prefix}{}", digits(value.unsigned_abs())))
    }

    fn cut(&self, text: &str) -> String {
        text.chars().take(self.precision.unwrap_or(usize::MAX)).collect()
    }

    fn pad(&self, text: String, number: bool) -> String {
        let missing = self.width.unwrap_or(0).saturating_sub(text.chars().count());
        let fill = |c: char| c.to_string().repeat(missing);
        if missing == 0 {
            text
        } else if self.minus {
            text + &fill(' ')
        } else if self.zero && number {
            let at = usize::from(text.starts_with(['-', '+']));
            format!("{}{}{}", &text[..at], fill('0'), &text[at..])
        } else if self.zero {
            fill('0') + &text
        } else {
            fill(' ') + &text
        }
    }
}

/// A string in double quotes as Go's `strconv.Quote` writes it.
pub(in crate::pods::print) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
