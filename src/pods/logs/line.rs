//! One line of a CRI log: `TIME STREAM TAG TEXT`, where the tag `P` says that the line goes on in the next one.

use jiff::Timestamp;

/// A whole line that a container wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When its first part was written, as in the file.
    pub stamp: String,
    /// The same, where it can be read.
    pub time: Option<Timestamp>,
    /// What was written, with its newline; without one where the container ended within a line.
    pub text: Vec<u8>,
}

/// A line longer than this is given out in pieces: a container that never ends its line must not fill the memory.
const LONGEST: usize = 1 << 20;

/// Puts partial lines together, per stream.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    open: [Option<Line>; 2],
}

impl Joiner {
    /// Takes a line of the file, without its newline. A line that is no CRI log is given as it is.
    pub(super) fn take(&mut self, raw: &[u8]) -> Option<Line> {
        let Some((stamp, stream, partial, text)) = split(raw) else {
            let mut text = raw.to_vec();
            text.push(b'\n');
            return Some(Line { stamp: String::new(), time: None, text });
        };
        let slot = &mut self.open[usize::from(stream == b"stderr")];
        let mut line = slot.take().unwrap_or_else(|| Line {
            time: stamp.parse().ok(),
            stamp: stamp.to_owned(),
            text: Vec::new(),
        });
        line.text.extend_from_slice(text);
        if partial && line.text.len() < LONGEST {
            *slot = Some(line);
            return None;
        }
        if !partial {
            line.text.push(b'\n');
        }
        Some(line)
    }

    /// What was begun and never ended.
    pub(super) fn rest(&mut self) -> impl Iterator<Item = Line> {
        self.open.iter_mut().filter_map(Option::take)
    }
}

type Parts<'a> = (&'a str, &'a [u8], bool, &'a [u8]);

fn split(raw: &[u8]) -> Option<Parts<'_>> {
    let mut parts = raw.splitn(4, |b| *b == b' ');
    let stamp = std::str::from_utf8(parts.next()?).ok()?;
    let stream = parts.next().filter(|s| matches!(*s, b"stdout" | b"stderr"))?;
    // Tags may be joined by colons; only the first has a meaning.
    let tag = parts.next()?.split(|b| *b == b':').next()?;
    let text = parts.next().unwrap_or_default();
    match tag {
        b"P" => Some((stamp, stream, true, text)),
        b"F" => Some((stamp, stream, false, text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(raw: &[&str]) -> Vec<String> {
        let mut joiner = Joiner::default();
        let mut lines: Vec<Line> = raw.iter().filter_map(|line| joiner.take(line.as_bytes())).collect();
        lines.extend(joiner.rest());
        lines.into_iter().map(|l| String::from_utf8(l.text).unwrap()).collect()
    }

    #[test]
    fn partial_lines_are_joined_per_stream() {
        let lines = [
            "2026-01-01T00:00:00.1Z stdout P one ",
            "2026-01-01T00:00:00.2Z stderr F err",
            "2026-01-01T00:00:00.3Z stdout F two",
            "2026-01-01T00:00:00.4Z stdout P open",
        ];
        assert_eq!(texts(&lines), ["err\n", "one two\n", "open"]);
    }

    #[test]
    fn a_joined_line_has_the_time_of_its_first_part() {
        let mut joiner = Joiner::default();
        assert_eq!(joiner.take(b"2026-01-01T00:00:00.1Z stdout P a"), None);
        let line = joiner.take(b"2026-01-01T00:00:09Z stdout F b").unwrap();
        assert_eq!(line.stamp, "2026-01-01T00:00:00.1Z");
        assert_eq!(line.time, "2026-01-01T00:00:00.1Z".parse().ok());
    }

    #[test]
    fn empty_lines_tags_and_foreign_lines_are_kept() {
        let lines = [
            "2026-01-01T00:00:00Z stdout F ",
            "2026-01-01T00:00:00Z stdout F",
            "2026-01-01T00:00:00Z stdout F:x y  z",
            "what?",
        ];
        assert_eq!(texts(&lines), ["\n", "\n", "y  z\n", "what?\n"]);
    }
}
