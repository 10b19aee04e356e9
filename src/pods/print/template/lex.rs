//! Go's text/template, text to tokens: plain text, and what stands between `{{` and `}}`.

use crate::pods::print::jsonpath::unquote;

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    Space,
    Dot,
    Field(String),
    Variable(String),
    Word(String),
    Text(String),
    Int(i64),
    Float(f64),
    Pipe,
    Comma,
    Open,
    Close,
    Assign,
    Declare,
}

/// Cuts a template at its delimiters; `{{- ` and ` -}}` take the white space beside them.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut trim = false;
    loop {
        let open = rest.find("{{");
        let mut plain = &rest[..open.unwrap_or(rest.len())];
        if trim {
            plain = plain.trim_start_matches(is_space);
        }
        let Some(open) = open else {
            push_text(&mut out, plain);
            return Ok(out);
        };
        let mut inside = &rest[open + 2..];
        if let Some(after) = inside.strip_prefix('-').filter(|a| a.starts_with(is_space)) {
            plain = plain.trim_end_matches(is_space);
            inside = after;
        }
        push_text(&mut out, plain);
        (rest, trim) = match inside.trim_start_matches(is_space) {
            comment if comment.starts_with("/*") => after_comment(comment)?,
            _ => {
                let (tokens, after, trim) = action(inside)?;
                out.push(Piece::Action(tokens));
                (after, trim)
            }
        };
    }
}

fn push_text(out: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        out.push(Piece::Text(text.to_owned()));
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn after_comment(comment: &str) -> Result<(&str, bool), String> {
    let end = comment.find("*/").ok_or("unclosed comment")?;
    let after = &comment[end + 2..];
    if let Some(rest) = after.strip_prefix("}}") {
        return Ok((rest, false));
    }
    match after.strip_prefix(is_space).and_then(|a| a.strip_prefix("-}}")) {
        Some(rest) => Ok((rest, true)),
        None => Err("comment ends before closing delimiter".to_owned()),
    }
}

/// The tokens up to `}}`, what comes behind it, and whether white space there is taken.
fn action(text: &str) -> Result<(Vec<Token>, &str, bool), String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((tokens, after, false));
        }
        let spaceless = rest.trim_start_matches(is_space);
        if spaceless.len() < rest.len() {
            if let Some(after) = spaceless.strip_prefix("-}}") {
                return Ok((tokens, after, true));
            }
            tokens.push(Token::Space);
            rest = spaceless;
            continue;
        }
        let (token, after) = token(rest)?;
        tokens.push(token);
        rest = after;
    }
}

fn token(rest: &str) -> Result<(Token, &str), String> {
    let Some(first) = rest.chars().next() else { return Err("unclosed action".to_owned()) };
    let after = &rest[first.len_utf8()..];
    let word = |text: &str| text.find(|c: char| !is_word(c)).unwrap_or(text.len());
    match first {
        '|' => Ok((Token::Pipe, after)),
        ',' => Ok((Token::Comma, after)),
        '(' => Ok((Token::Open, after)),
        ')' => Ok((Token::Close, after)),
        '=' => Ok((Token::Assign, after)),
        ':' => match after.strip_prefix('=') {
            Some(after) => Ok((Token::Declare, after)),
            None => Err("expected :=".to_owned()),
        },
        '"' => quoted(rest, '"').and_then(|(raw, after)| {
            unquote(raw).map(|text| (Token::Text(text), after)).map_err(|_| "invalid syntax".to_owned())
        }),
        '\'' => quoted(rest, '\'').and_then(|(raw, after)| {
            let text = unquote(raw).map_err(|_| "invalid syntax".to_owned())?;
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => Ok((Token::Int(i64::from(u32::from(c))), after)),
                _ => Err(format!("malformed character constant: {raw}")),
            }
        }),
        '`' => match after.find('`') {
            Some(end) => Ok((Token::Text(after[..end].to_owned()), &after[end + 1..])),
            None => Err("unterminated raw quoted string".to_owned()),
        },
        '$' => {
            let end = word(after);
            Ok((Token::Variable(after[..end].to_owned()), &after[end..]))
        }
        '.' if !after.starts_with(|c: char| c.is_ascii_digit()) => {
            let end = word(after);
            let name = &after[..end];
            Ok((if name.is_empty() { Token::Dot } else { Token::Field(name.to_owned()) }, &after[end..]))
        }
        c if c.is_ascii_digit() || matches!(c, '+' | '-' | '.') => number(rest),
        c if is_word(c) => {
            let end = word(rest);
            Ok((Token::Word(rest[..end].to_owned()), &rest[end..]))
        }
        c => Err(format!("unrecognized character in action: U+{:04X} '{c}'", u32::from(c))),
    }
}

fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn quoted(rest: &str, quote: char) -> Result<(&str, &str), String> {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '\n' => break,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Ok(rest.split_at(at + 1)),
            _ => {}
        }
    }
    let what = if quote == '"' { "quoted string" } else { "character constant" };
    Err(format!("unterminated {what}"))
}

fn number(rest: &str) -> Result<(Token, &str), String> {
    let mut before = ' ';
    let end = rest.find(|c: char| {
        let sign = matches!(c, '+' | '-') && matches!(before, ' ' | 'e' | 'E' | 'p' | 'P');
        let part = c.is_ascii_alphanumeric() || c == '_' || c == '.' || sign;
        before = c;
        !part
    });
    let (text, after) = rest.split_at(end.unwrap_or(rest.len()));
    let bad = || format!("bad number syntax: {text:?}");
    let plain = text.replace('_', "");
    let unsigned = plain.trim_start_matches(['+', '-']);
    let sign = if plain.starts_with('-') { -1 } else { 1 };
    let radix = match unsigned.get(..2) {
        Some("0x" | "0X") => Some((16, &unsigned[2..])),
        Some("0b" | "0B") => Some((2, &unsigned[2..])),
        Some("0o" | "0O") => Some((8, &unsigned[2..])),
        _ if unsigned.len() > 1 && unsigned.starts_with('0') && !unsigned.contains(['.', 'e', 'E']) => {
            Some((8, &unsigned[1..]))
        }
        _ => None,
    };
    if let Some((radix, digits)) = radix {
        return i64::from_str_radix(digits, radix).map(|n| (Token::Int(sign * n), after)).map_err(|_| bad());
    }
    match plain.parse::<i64>() {
        Ok(int) => Ok((Token::Int(int), after)),
        Err(_) => plain.parse::<f64>().map(|float| (Token::Float(float), after)).map_err(|_| bad()),
    }
}
