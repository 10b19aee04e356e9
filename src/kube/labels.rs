//! Label selectors: parsed by apimachinery's grammar, kept in one canonical form, matched, compared.
//!
//! Refuses what the API server refuses, so that a selector that would be answered 400 online is not
//! answered from the cache offline.

use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::Error;
use super::label_lexer::{Token, Tokens};

/// All of its requirements must hold; without any, everything matches. Requirements are sorted and distinct, and
/// `==`, `in (x)` and `notin (x)` are kept as `=`, `=` and `!=`, so equal selectors are equal values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Requirement {
    key: String,
    test: Test,
}

/// What a label must be. Value sets are sorted, distinct and never empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    /// Holds for an absent label too.
    NotIn(Vec<String>),
    GreaterThan(i64),
    LessThan(i64),
}

impl LabelSelector {
    /// The selector that matches everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an object's `metadata.labels` satisfy it.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = super::meta::labels(object);
        self.0.iter().all(|requirement| requirement.holds(labels))
    }

    /// Whether everything that this one matches is matched by `wider` too, by its requirements alone: then a
    /// list made with `wider` holds all that one made with this would. `false` where it cannot be told.
    pub fn narrows(&self, wider: &LabelSelector) -> bool {
        wider.0.iter().all(|theirs| self.0.iter().any(|ours| ours.implies(theirs)))
    }
}

impl Requirement {
    fn holds(&self, labels: Option<&Map<String, Value>>) -> bool {
        let value = labels.and_then(|labels| labels.get(&self.key)).and_then(Value::as_str);
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(set) => value.is_some_and(|value| set.iter().any(|v| v == value)),
            Test::NotIn(set) => value.is_none_or(|value| set.iter().all(|v| v != value)),
            Test::GreaterThan(bound) => number().is_some_and(|n| n > *bound),
            Test::LessThan(bound) => number().is_some_and(|n| n < *bound),
        }
    }

    fn implies(&self, other: &Requirement) -> bool {
        use Test::*;
        self.key == other.key
            && match (&self.test, &other.test) {
                (In(ours), In(theirs)) => ours.iter().all(|v| theirs.contains(v)),
                (In(ours), NotIn(theirs)) => ours.iter().all(|v| !theirs.contains(v)),
                (NotIn(ours), NotIn(theirs)) => theirs.iter().all(|v| ours.contains(v)),
                (Absent, NotIn(_)) => true,
                (In(_) | GreaterThan(_) | LessThan(_), Exists) => true,
                (GreaterThan(ours), GreaterThan(theirs)) => ours >= theirs,
                (LessThan(ours), LessThan(theirs)) => ours <= theirs,
                (ours, theirs) => ours == theirs,
            }
    }
}

impl FromStr for LabelSelector {
    type Err = Error;

    /// Parses as apimachinery's `labels.Parse` does: `a=b,c!=d,e in (f,g),h,!i,j>3`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::ParseSelector { selector: text.to_owned(), reason };
        let mut requirements = parse(&mut Tokens::new(text)).map_err(refuse)?;
        requirements.sort();
        requirements.dedup();
        Ok(Self(requirements))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.test {
            Test::Exists => f.write_str(key),
            Test::Absent => write!(f, "!{key}"),
            Test::In(set) if set.len() == 1 => write!(f, "{key}={}", set[0]),
            Test::NotIn(set) if set.len() == 1 => write!(f, "{key}!={}", set[0]),
            Test::In(set) => write!(f, "{key} in ({})", set.join(",")),
            Test::NotIn(set) => write!(f, "{key} notin ({})", set.join(",")),
            Test::GreaterThan(bound) => write!(f, "{key}>{bound}"),
            Test::LessThan(bound) => write!(f, "{key}<{bound}"),
        }
    }
}

fn parse(tokens: &mut Tokens) -> Result<Vec<Requirement>, String> {
    let mut out = Vec::new();
    if tokens.peek_value() == Token::End {
        return Ok(out);
    }
    loop {
        out.push(requirement(tokens)?);
        match tokens.next_value() {
            Token::End => return Ok(out),
            Token::Comma => {}
            found => return Err(format!("found `{found}`, expected `,` or the end")),
        }
    }
}

fn requirement(tokens: &mut Tokens) -> Result<Requirement, String> {
    let negated = tokens.peek_value() == Token::Not;
    if negated {
        tokens.next_value();
    }
    let key = match tokens.next_value() {
        Token::Word(key) => valid_key(key)?,
        found => return Err(format!("found `{found}`, expected a key")),
    };
    if negated {
        return Ok(Requirement { key, test: Test::Absent });
    }
    if matches!(tokens.peek_value(), Token::End | Token::Comma) {
        return Ok(Requirement { key, test: Test::Exists });
    }
    let test = match tokens.next_operator() {
        Token::In => Test::In(set(tokens)?),
        Token::NotIn => Test::NotIn(set(tokens)?),
        Token::Equals => Test::In(vec![value(tokens)?]),
        Token::NotEquals => Test::NotIn(vec![value(tokens)?]),
        Token::Greater => Test::GreaterThan(number(tokens)?),
        Token::Less => Test::LessThan(number(tokens)?),
        found => return Err(format!("found `{found}`, expected an operator such as `=`, `!=`, `in`")),
    };
    Ok(Requirement { key, test })
}

/// `(a,b)`: empty places are empty values, so `()`, `(,)` and `(a,)` are as in apimachinery.
fn set(tokens: &mut Tokens) -> Result<Vec<String>, String> {
    if tokens.next_value() != Token::Open {
        return Err("expected `(` after `in` or `notin`".to_owned());
    }
    let mut values = Vec::new();
    let mut place = String::new();
    loop {
        match tokens.next_value() {
            Token::Word(word) if place.is_empty() => place = valid_value(word)?,
            Token::Comma => values.push(std::mem::take(&mut place)),
            Token::Close => break values.push(place),
            found => return Err(format!("found `{found}`, expected `,` or `)`")),
        }
    }
    values.sort();
    values.dedup();
    Ok(values)
}

fn value(tokens: &mut Tokens) -> Result<String, String> {
    match tokens.peek_value() {
        Token::End | Token::Comma => Ok(String::new()),
        Token::Word(word) => {
            tokens.next_value();
            valid_value(word)
        }
        found => Err(format!("found `{found}`, expected a value")),
    }
}

fn number(tokens: &mut Tokens) -> Result<i64, String> {
    let text = value(tokens)?;
    text.parse().map_err(|_| format!("`{text}` is no integer"))
}

fn valid_key(key: &str) -> Result<String, String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if name.is_empty() || !is_name(name) || prefix.is_some_and(|prefix| !is_subdomain(prefix)) {
        return Err(format!("`{key}` is no label key"));
    }
    Ok(key.to_owned())
}

fn valid_value(value: &str) -> Result<String, String> {
    if is_name(value) { Ok(value.to_owned()) } else { Err(format!("`{value}` is no label value")) }
}

/// At most 63 of `[A-Za-z0-9._-]`, with a letter or digit at both ends; may be empty.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && bytes.first().is_none_or(u8::is_ascii_alphanumeric)
        && bytes.last().is_none_or(u8::is_ascii_alphanumeric)
}

/// A DNS-1123 subdomain.
fn is_subdomain(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|part| {
            part.bytes().all(|b| letter(b) || b == b'-')
                && part.bytes().next().is_some_and(letter)
                && part.bytes().last().is_some_and(letter)
        })
}

#[cfg(test)]
#[path = "labels_tests.rs"]
mod tests;
