//! What a git client asks for, in both versions of the protocol. Pure.

use std::collections::HashSet;

use crate::git::cut::Depth;
use crate::git::pkt::{Line, Lines};
use crate::git::{Oid, oid};

/// A depth that git's clients mean all of history by.
const ALL: u32 = 0x7fff_ffff;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// The refs that begin with one of these; all without.
    Refs { prefixes: Vec<String>, symrefs: bool, peel: bool },
    /// A pack.
    Fetch(Fetch),
}

/// How a pack is cut into lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Band {
    /// Not at all.
    #[default]
    None,
    /// So many bytes of data in a line.
    Of(usize),
}

/// A pack that is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) wants: Vec<Oid>,
    pub(super) haves: Vec<Oid>,
    /// Commits that the client has without their parents.
    pub(super) shallow: HashSet<Oid>,
    pub(super) depth: Option<Depth>,
    /// No more haves come.
    pub(super) done: bool,
    /// The client wants no pack before it has said so.
    pub(super) wait_for_done: bool,
    pub(super) band: Band,
    /// Version 0: each common commit is told.
    pub(super) detailed: bool,
    /// Tags of what is sent come along.
    pub(super) include_tag: bool,
    pub(super) without_blobs: bool,
    /// Version 0: the client has said what it wants and waits for where history is cut.
    pub(super) only_wants: bool,
}

/// Lines of a request at the most: one for each object that is wanted, or that the client has. Of marks alone, which are
/// four bytes, a request would hold two million.
const LINES: usize = 100_000;

fn lines(body: &[u8]) -> Result<Vec<Line>, String> {
    let (mut lines, mut found) = (Lines::default(), Vec::new());
    lines.add(body);
    while let Some(line) = lines.cut()? {
        if found.len() == LINES {
            return Err(format!("the request has more than {LINES} lines"));
        }
        found.push(line);
    }
    if lines.is_empty() { Ok(found) } else { Err("the request ends early".into()) }
}

fn text(line: &Line) -> Result<&str, String> {
    std::str::from_utf8(line.text()).map_err(|_| "a line is no text".to_owned())
}

fn id(text: &str) -> Result<Oid, String> {
    oid(text.as_bytes()).ok_or_else(|| format!("`{}` is no name of an object", text.escape_debug()))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{}` is no number", text.escape_debug()))
}

/// Reads a request of version 2.
pub(super) fn parse_two(body: &[u8]) -> Result<Command, String> {
    let lines = lines(body)?;
    let mut parts = lines.split(|line| *line == Line::Delimiter);
    let head = parts.next().unwrap_or_default();
    let arguments = parts.next().unwrap_or_default().iter().filter(|line| matches!(line, Line::Data(_)));
    let mut command = None;
    for line in head.iter().filter(|line| matches!(line, Line::Data(_))) {
        let text = text(line)?;
        match text.split_once('=') {
            Some(("command", name)) => command = Some(name.to_owned()),
            Some(("object-format", format)) if format != "sha1" => {
                return Err(format!("objects have names of SHA-1 here, not of `{}`", format.escape_debug()));
            }
            _ => {}
        }
    }
    match command.as_deref() {
        Some("ls-refs") => {
            let (mut prefixes, mut symrefs, mut peel) = (Vec::new(), false, false);
            for line in arguments {
                match text(line)? {
                    "symrefs" => symrefs = true,
                    "peel" => peel = true,
                    other => prefixes.extend(other.strip_prefix("ref-prefix ").map(str::to_owned)),
                }
            }
            Ok(Command::Refs { prefixes, symrefs, peel })
        }
        Some("fetch") => {
            let mut fetch = Fetch { band: Band::Of(crate::git::pkt::BAND), ..Fetch::default() };
            let mut more = false;
            for line in arguments {
                let text = text(line)?;
                match text {
                    "done" => fetch.done = true,
                    "wait-for-done" => fetch.wait_for_done = true,
                    "include-tag" => fetch.include_tag = true,
                    "deepen-relative" => more = true,
                    _ => fetch.argument(text)?,
                }
            }
            fetch.relative(more);
            Ok(Command::Fetch(fetch))
        }
        Some(other) => Err(format!("the command `{}` is not done here", other.escape_debug())),
        None => Err("the request has no command".into()),
    }
}

/// Reads a request of version 0.
pub(super) fn parse_zero(body: &[u8]) -> Result<Fetch, String> {
    let lines = lines(body)?;
    let mut fetch = Fetch::default();
    let mut more = false;
    let flush = lines.iter().position(|line| *line == Line::Flush).unwrap_or(lines.len());
    for line in &lines[..flush] {
        let text = text(line)?;
        let (line, offers) = match text.strip_prefix("want ") {
            Some(rest) => {
                rest.split_once(' ').map_or((text, ""), |(id, offers)| (&text[..5 + id.len()], offers))
            }
            None => (text, ""),
        };
        for offer in offers.split(' ') {
            match offer {
                "side-band-64k" => fetch.band = Band::Of(crate::git::pkt::BAND),
                "side-band" if fetch.band == Band::None => fetch.band = Band::Of(999 - 4),
                "multi_ack_detailed" => fetch.detailed = true,
                "include-tag" => fetch.include_tag = true,
                "deepen-relative" => more = true,
                _ => {}
            }
        }
        fetch.argument(line)?;
    }
    let rest = lines.get(flush + 1..).unwrap_or_default();
    fetch.only_wants = rest.is_empty();
    for line in rest.iter().filter(|line| matches!(line, Line::Data(_))) {
        match text(line)? {
            "done" => fetch.done = true,
            other => fetch.argument(other)?,
        }
    }
    fetch.relative(more);
    Ok(fetch)
}

impl Fetch {
    /// What both versions say in the same words.
    fn argument(&mut self, text: &str) -> Result<(), String> {
        match text.split_once(' ') {
            Some(("want", name)) => self.wants.push(id(name)?),
            Some(("have", name)) => self.haves.push(id(name)?),
            Some(("shallow", name)) => drop(self.shallow.insert(id(name)?)),
            Some(("deepen", depth)) => {
                let depth: u32 = number(depth)?;
                self.depth = (depth > 0).then_some(Depth::Commits(depth));
            }
            Some(("deepen-since", time)) => self.depth = Some(Depth::Since(number(time)?)),
            Some(("deepen-not", _)) => return Err("`deepen-not` is not done here".into()),
            Some(("filter", "blob:none")) => self.without_blobs = true,
            Some(("filter", other)) => {
                return Err(format!(
                    "the filter `{}` is not done here, only `blob:none`",
                    other.escape_debug()
                ));
            }
            // What is only about how, such as `thin-pack`, `ofs-delta` and `no-progress`.
            _ => {}
        }
        Ok(())
    }

    /// Each name once; any object that is here may be wanted, as clones without files do, so there is no other limit.
    fn once(&mut self) {
        for ids in [&mut self.wants, &mut self.haves] {
            let mut seen = HashSet::new();
            ids.retain(|id| seen.insert(*id));
        }
    }

    fn relative(&mut self, more: bool) {
        self.once();
        if let (true, Some(Depth::Commits(depth))) = (more, self.depth) {
            self.depth = Some(Depth::More(depth));
        }
        if self.depth == Some(Depth::Commits(ALL)) {
            self.depth = Some(Depth::Commits(u32::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::pkt;

    fn body(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            match *line {
                "0000" => out.extend_from_slice(pkt::FLUSH),
                "0001" => out.extend_from_slice(pkt::DELIMITER),
                line => pkt::put(&mut out, format!("{line}\n").as_bytes()),
            }
        }
        out
    }

    #[test]
    fn both_versions_are_read() {
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let (want, have) = (format!("want {one}"), format!("have {two}"));
        let asked = body(&[
            "command=fetch",
            "object-format=sha1",
            "0001",
            &want,
            &have,
            "deepen 3",
            "deepen-relative",
            "filter blob:none",
            "0000",
        ]);
        let Command::Fetch(fetch) = parse_two(&asked).unwrap() else { panic!() };
        assert_eq!((fetch.wants.len(), fetch.haves.len(), fetch.done), (1, 1, false));
        assert_eq!((fetch.depth, fetch.without_blobs), (Some(Depth::More(3)), true));
        let asked = body(&["command=fetch", "0001", &want, &have, &want, &have, &want, "0000"]);
        let Command::Fetch(fetch) = parse_two(&asked).unwrap() else { panic!() };
        assert_eq!((fetch.wants.len(), fetch.haves.len()), (1, 1));
        let asked = body(&["command=ls-refs", "0001", "peel", "ref-prefix refs/heads/", "0000"]);
        let prefixes = vec!["refs/heads/".to_owned()];
        assert_eq!(parse_two(&asked), Ok(Command::Refs { prefixes, symrefs: false, peel: true }));

        let first = format!("{want} multi_ack_detailed side-band-64k agent=git/2");
        let fetch = parse_zero(&body(&[&first, "deepen 1", "0000"])).unwrap();
        assert!(fetch.only_wants && fetch.detailed && fetch.band == Band::Of(pkt::BAND), "{fetch:?}");
        let fetch = parse_zero(&body(&[&first, "0000", &have, "0000", "done"])).unwrap();
        assert!(fetch.done && fetch.haves.len() == 1 && !fetch.only_wants, "{fetch:?}");
    }

    #[test]
    fn a_request_of_marks_alone_is_refused() {
        let lines = |count: usize| [b"0012command=fetch\n0001".to_vec(), pkt::FLUSH.repeat(count)].concat();
        assert!(parse_two(&lines(LINES - 2)).is_ok());
        for parsed in [parse_two(&lines(LINES - 1)).map(drop), parse_zero(&lines(LINES - 1)).map(drop)] {
            assert_eq!(parsed.unwrap_err(), "the request has more than 100000 lines");
        }
    }

    #[test]
    fn what_is_not_done_is_said() {
        for (lines, why) in [
            (&["command=object-info", "0000"][..], "object-info"),
            (&["command=fetch", "object-format=sha256", "0001", "0000"], "sha256"),
            (&["command=fetch", "0001", "want abc", "0000"], "`abc`"),
            (&["command=fetch", "0001", "deepen -1", "0000"], "`-1`"),
            (&["command=fetch", "0001", "filter tree:0", "0000"], "tree:0"),
            (&["0000"], "no command"),
        ] {
            let error = parse_two(&body(lines)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(parse_zero(b"0010want").is_err());
    }
}
