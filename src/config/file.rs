//! Reads a whole `edge.toml` into settings, or says the first thing that is wrong with it.

use std::path::Path;

use toml_edit::{DocumentMut, Item, TableLike};

use super::error::{Error, Problem, Wrong};
use super::{Config, names, rules};

/// Parses the text of `file` as TOML; the keys are not looked at.
///
/// # Errors
/// [`Error::Syntax`].
pub fn parse(file: &Path, text: &str) -> Result<DocumentMut, Error> {
    text.parse::<DocumentMut>().map_err(|e| {
        let at = e.span().map_or(0, |span| span.start).min(text.len());
        Error::Syntax {
            file: file.to_path_buf(),
            line: text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1,
            why: e.message().lines().collect::<Vec<_>>().join(", "),
        }
    })
}

/// Puts every key of `document` over the values in `into`, then checks them together.
///
/// # Errors
/// The first problem, in the order of the file.
pub fn fill(document: &DocumentMut, into: &mut Config) -> Result<(), Problem> {
    section(document.as_table(), "", into)?;
    rules::check(into)
}

fn section(entries: &dyn TableLike, prefix: &str, into: &mut Config) -> Result<(), Problem> {
    for (name, item) in entries.iter() {
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        entry(&path, item, into)?;
    }
    Ok(())
}

fn entry(path: &str, item: &Item, into: &mut Config) -> Result<(), Problem> {
    if let Some(key) = names::find(path) {
        return key.slot.fill(item, into).map_err(|wrong| wrong.of(path, shown(item)));
    }
    if names::is_section(path) {
        let wrong = || Wrong::whole("a section".into()).of(path, shown(item));
        return section(item.as_table_like().ok_or_else(wrong)?, path, into);
    }
    Err(Problem::Unknown { key: path.to_owned(), nearest: names::nearest(path) })
}

/// A value as it was written, on one line and not too long for one; without what is before the `@` of an address, since
/// snapd shows a refusal to every user of the machine.
pub fn shown(item: &Item) -> String {
    let text: String = match item.as_str() {
        Some(text) => without_secret(text).chars().map(seen).collect(),
        None => {
            let parts: Vec<String> = item.to_string().trim().split('"').map(without_secret).collect();
            parts.join("\"").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
        }
    };
    let mut line: String = text.chars().take(61).collect();
    if line.chars().count() > 60 {
        line.truncate(line.char_indices().nth(57).map_or(line.len(), |(at, _)| at));
        line.push_str("...");
    }
    line
}

/// What nobody would see otherwise, such as the end of a line that was made elsewhere, may be what is wrong.
fn seen(c: char) -> String {
    if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
}

fn without_secret(text: &str) -> String {
    let start = text.find("://").map(|at| at + "://".len());
    match (start, text.rfind('@')) {
        (Some(start), Some(at)) if start < at => format!("{}...{}", &text[..start], &text[at..]),
        // `user:password@proxy` is an address, too.
        (None, Some(at)) if text[..at].contains(':') => format!("...{}", &text[at..]),
        _ => text.to_owned(),
    }
}
