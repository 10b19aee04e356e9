//! Standard output and standard error, and a reader that went away. What others say of themselves must not steer a
//! terminal, or look as if edge said it: control characters are written out, here for all that is written.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};

use anyhow::Result;

/// Standard output was closed by its reader (`edge ... | head`): no failure of edge's.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub struct Closed;

/// All was said; the process ends with this code.
#[derive(Debug, thiserror::Error)]
#[error("exit code {0}")]
pub struct Exit(pub u8);

/// What a listing is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs; stable.
    Json,
}

/// Writes a result to standard output, with a line end if it has none. Its lines stay lines.
pub fn result(text: &str) -> Result<()> {
    let text = lines(text);
    let mut out = std::io::stdout().lock();
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(end.as_bytes()));
    match written.and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        other => Ok(other?),
    }
}

/// Writes text to standard output as it is.
pub fn result_raw(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        other => Ok(other?),
    }
}

/// Writes a value as indented JSON to standard output.
pub fn json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    // Only texts hold such characters, and JSON knows each of them by its number.
    let number = |c: char| -> String {
        c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect()
    };
    result(&written(&text, |c| c != '\n' && steers(c), number))
}

/// Writes a line about the work to standard error. If nobody reads it, nobody is told.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{}", lines(text));
}

/// Whether a person reads standard error.
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}

/// Rows as aligned columns, three spaces apart, the last one ragged; as kubectl lays tables out.
/// Control characters of a cell are written out, ends of lines among them.
pub fn columns(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| visible(cell).into_owned()).collect()).collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Text of somebody else's, as a part of a line: its control characters are written out, and ends of lines too.
pub fn visible(text: &str) -> Cow<'_, str> {
    written(text, steers, |c| c.escape_default().to_string())
}

fn lines(text: &str) -> Cow<'_, str> {
    written(text, |c| !matches!(c, '\n' | '\t') && steers(c), |c| c.escape_default().to_string())
}

/// Whether a character changes how others are shown: it controls the terminal, ends a line or turns its direction.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn written<'a>(
    text: &'a str,
    is_meant: impl Fn(char) -> bool,
    write: impl Fn(char) -> String,
) -> Cow<'a, str> {
    if !text.chars().any(&is_meant) {
        return text.into();
    }
    text.chars().map(|c| if is_meant(c) { write(c) } else { c.to_string() }).collect::<String>().into()
}

/// Bytes for people: in the unit that leaves at most five figures.
pub fn size(bytes: u64) -> String {
    match bytes {
        b if b < 10 << 10 => format!("{b} B"),
        b if b < 10 << 20 => format!("{} KiB", b >> 10),
        b if b < 10 << 30 => format!("{} MiB", b >> 20),
        b => format!("{} GiB", b >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_does_not_steer_the_terminal() {
        let rows = [vec!["a\u{1b}[2J\u{9b}\r\n".to_owned(), "b\u{7f}".to_owned()], vec!["ü".to_owned()]];
        let text = columns(&rows);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("a\\u{1b}[2J\\u{9b}\\r\\n   b\\u{7f}\n"), "{text}");
        assert_eq!(visible("a\u{202e}b\nc"), "a\\u{202e}b\\nc");
        assert_eq!(lines("a\tb\u{7}\nc"), "a\tb\\u{7}\nc");
    }
}
