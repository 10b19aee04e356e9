//! An upstream's repository over git's smart HTTP protocol, version 2, or 0 where it speaks no other: what refs it has,
//! and a pack of what is not here.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use reqwest::Url;
use tokio::sync::mpsc;

use super::answer::Reading;
use super::refs::is_theirs;
use crate::git::pkt::{self, Line, Lines};
use crate::git::{Oid, Refs, oid};
use crate::mirror::error::Failure;
use crate::mirror::fetch::Wire;
use crate::sys::progress::Item;

/// The most that a list of refs may have, in bytes.
const LARGEST_LIST: usize = 32 << 20;
/// The most lines of it, and marks between them: each takes more memory than it has bytes.
const MOST_LINES: usize = 500_000;
/// Bytes after which it is looked whether there is room for more.
const LOOK: u64 = 4 << 20;
const AGENT: &str = concat!("agent=edge/", env!("CARGO_PKG_VERSION"));
/// What of version 0 is of use where it is offered.
const OFFERED: [&str; 5] = ["multi_ack_detailed", "side-band-64k", "thin-pack", "ofs-delta", "no-progress"];

/// A repository upstream.
pub(super) struct Remote<'a> {
    wire: &'a Wire,
    url: Url,
    insecure: bool,
}

/// What it has.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Branches and tags.
    pub(super) refs: Refs,
    /// The branch that its `HEAD` names.
    pub(super) head: Option<String>,
    /// How to ask for more.
    speech: Speech,
}

/// The protocol's version.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Speech {
    #[default]
    Two,
    /// With what the server offers.
    Zero(Vec<String>),
}

impl<'a> Remote<'a> {
    pub(super) fn new(wire: &'a Wire, url: Url, insecure: bool) -> Self {
        Self { wire, url, insecure }
    }

    fn below(&self, path: &str) -> Result<Url, Failure> {
        let text = format!("{}/{path}", self.url.as_str().trim_end_matches('/'));
        Url::parse(&text).map_err(|e| Failure::Git(format!("`{text}`: {e}")))
    }

    fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        self.url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
    }

    /// Asks for branches, tags and `HEAD`.
    pub(super) async fn list(&self) -> Result<Listing, Failure> {
        let mut url = self.below("info/refs")?;
        url.set_query(Some("service=git-upload-pack"));
        let host = self.host();
        let headers = headers(None);
        let ask = async || self.wire.client.exchange(&url, self.insecure, headers.clone(), None).await;
        let answer = self.wire.ask(&host, ask).await?;
        let lines = lines(answer, &url).await?;
        let mut lines = lines.into_iter().filter(|line| !line.text().starts_with(b"# service=")).peekable();
        while lines.next_if_eq(&Line::Flush).is_some() {}
        if lines.peek().is_none_or(|line| line.text() != b"version 2") {
            return listing_zero(lines).map_err(|why| self.unfit(&why));
        }
        let lines: Vec<Line> = lines.collect();
        let sha1 =
            |line: &Line| line.text().starts_with(b"object-format=") && line.text() != b"object-format=sha1";
        if lines.iter().any(sha1) {
            return Err(self.unfit("its objects have other names than those of SHA-1"));
        }
        let mut body = Vec::new();
        for text in ["command=ls-refs\n", AGENT, "object-format=sha1"] {
            pkt::put(&mut body, text.as_bytes());
        }
        body.extend_from_slice(pkt::DELIMITER);
        for text in ["symrefs\n", "ref-prefix HEAD\n", "ref-prefix refs/heads/\n", "ref-prefix refs/tags/\n"]
        {
            pkt::put(&mut body, text.as_bytes());
        }
        body.extend_from_slice(pkt::FLUSH);
        let (url, body) = (self.below("git-upload-pack")?, Bytes::from(body));
        let headers = self::headers(Some("2"));
        let ask = async || {
            self.wire.client.exchange(&url, self.insecure, headers.clone(), Some(body.clone())).await
        };
        let answer = self.wire.ask(&host, ask).await?;
        listing_two(self::lines(answer, &url).await?).map_err(|why| self.unfit(&why))
    }

    fn unfit(&self, why: &str) -> Failure {
        Failure::Git(format!("`{}`: {why}", self.url))
    }

    /// Asks for a pack of what `wants` needs and `haves` do not have, and hands it on as it comes.
    pub(super) async fn fetch(
        &self,
        listing: &Listing,
        wants: &[Oid],
        haves: &[Oid],
        most: u64,
        (hand, item): (mpsc::Sender<Bytes>, &mut Item),
    ) -> Result<(), Failure> {
        let (body, version) = match &listing.speech {
            Speech::Two => (ask_two(wants, haves), Some("2")),
            Speech::Zero(offered) => (ask_zero(wants, haves, offered), None),
        };
        let (url, body) = (self.below("git-upload-pack")?, Bytes::from(body));
        let headers = self::headers(version.or(Some("0")));
        let ask = async || {
            self.wire.client.exchange(&url, self.insecure, headers.clone(), Some(body.clone())).await
        };
        let mut answer = self.wire.ask(&self.host(), ask).await?;
        let mut reading = Reading::of(&listing.speech);
        let (mut lines, mut came, mut looked) = (Lines::default(), 0, 0);
        loop {
            let piece = answer.chunk().await.map_err(|e| broken(&url, &e))?;
            let Some(piece) = piece else { break };
            self.wire.came(piece.len()).await;
            self.wire.go_on()?;
            came += piece.len() as u64;
            item.add(piece.len() as u64);
            if came > most {
                let why = format!("more than {most} bytes came hint: `mirror.git-size-limit`");
                return Err(self.unfit(&why));
            }
            // What the store leaves free for others is left by packs too, with an index and as much again to come.
            if came >= looked {
                self.wire.blocking(|store| store.room_for(2 * LOOK)).await?;
                looked = came + LOOK;
            }
            // Without a side band the pack follows as it is.
            if reading == Reading::Bare {
                if hand.send(piece).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            lines.add(&piece);
            while let Some(line) = lines.cut().map_err(|why| self.unfit(&why))? {
                // Whoever takes it says why it takes no more.
                if let Some(data) = reading.take(line).map_err(|why| self.unfit(&why))?
                    && hand.send(data.into()).await.is_err()
                {
                    return Ok(());
                }
                if reading == Reading::Bare {
                    let _ = hand.send(lines.rest().into()).await;
                    break;
                }
            }
        }
        match reading {
            Reading::Over | Reading::Bare => Ok(()),
            _ => Err(Failure::Upstream {
                why: format!("`{url}` ended early"),
                unreachable: true,
                absent: false,
            }),
        }
    }
}

fn headers(version: Option<&str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if version != Some("0") {
        headers.insert("git-protocol", HeaderValue::from_static("version=2"));
    }
    if version.is_some() {
        let kind = HeaderValue::from_static("application/x-git-upload-pack-request");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/x-git-upload-pack-result"));
    }
    headers
}

fn broken(url: &Url, error: &reqwest::Error) -> Failure {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Failure::Upstream { why: format!("cannot read `{url}`: {cause}"), unreachable: true, absent: false }
}

/// All lines of a small answer.
async fn lines(mut answer: reqwest::Response, url: &Url) -> Result<Vec<Line>, Failure> {
    let unfit = |why: &str| {
        Failure::Git(format!(
            "`{url}` is no repository that smart HTTP serves: {why} hint: is the address right?"
        ))
    };
    let (mut lines, mut found, mut size) = (Lines::default(), Vec::new(), 0);
    while let Some(piece) = answer.chunk().await.map_err(|e| broken(url, &e))? {
        size += piece.len();
        if size > LARGEST_LIST {
            return Err(unfit("its list of refs is too long"));
        }
        lines.add(&piece);
        while let Some(line) = lines.cut().map_err(|why| unfit(&why))? {
            if let Some(why) = line.text().strip_prefix(b"ERR ") {
                return Err(unfit(&String::from_utf8_lossy(why)));
            }
            if found.len() == MOST_LINES {
                return Err(unfit("its list of refs is too long"));
            }
            found.push(line);
        }
    }
    if lines.is_empty() { Ok(found) } else { Err(unfit("its answer ends early")) }
}

/// Version 2: `oid ref[ symref-target:ref]`.
fn listing_two(lines: Vec<Line>) -> Result<Listing, String> {
    let mut listing = Listing::default();
    for line in lines.iter().filter(|line| matches!(line, Line::Data(_))) {
        let text = std::str::from_utf8(line.text()).unwrap_or_default();
        let mut words = text.split(' ');
        let (id, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if name == "HEAD" {
            let target = words.find_map(|word| word.strip_prefix("symref-target:"));
            listing.head = target.filter(|name| is_theirs(name)).map(str::to_owned);
        } else if is_theirs(name) {
            let id = oid(id.as_bytes()).ok_or_else(|| format!("`{id}` is no name of an object"))?;
            listing.refs.insert(name.to_owned(), id);
        }
    }
    Ok(listing)
}

/// Version 0: `oid ref`, the first with what is offered behind a NUL.
fn listing_zero(lines: impl Iterator<Item = Line>) -> Result<Listing, String> {
    let (mut listing, mut offered) = (Listing::default(), None);
    for line in lines.filter(|line| matches!(line, Line::Data(_))) {
        let mut parts = line.text().splitn(2, |byte| *byte == 0);
        let text = std::str::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
        if let (None, Some(words)) = (&offered, parts.next()) {
            let words: Vec<String> = String::from_utf8_lossy(words).split(' ').map(str::to_owned).collect();
            listing.head = words
                .iter()
                .find_map(|word| word.strip_prefix("symref=HEAD:"))
                .filter(|name| is_theirs(name))
                .map(str::to_owned);
            offered = Some(words);
        }
        let (id, name) =
            text.split_once(' ').ok_or_else(|| format!("`{}` is no ref", text.escape_debug()))?;
        if is_theirs(name) {
            let id = oid(id.as_bytes()).ok_or_else(|| format!("`{id}` is no name of an object"))?;
            listing.refs.insert(name.to_owned(), id);
        }
    }
    listing.speech = Speech::Zero(offered.ok_or("it does not speak git's smart protocol")?);
    Ok(listing)
}

fn ask_two(wants: &[Oid], haves: &[Oid]) -> Vec<u8> {
    let mut body = Vec::new();
    for text in ["command=fetch", AGENT, "object-format=sha1"] {
        pkt::put(&mut body, text.as_bytes());
    }
    body.extend_from_slice(pkt::DELIMITER);
    for text in ["thin-pack", "no-progress", "ofs-delta"] {
        pkt::put(&mut body, text.as_bytes());
    }
    for (word, ids) in [("want", wants), ("have", haves)] {
        for id in ids {
            pkt::put(&mut body, format!("{word} {id}\n").as_bytes());
        }
    }
    pkt::put(&mut body, b"done\n");
    body.extend_from_slice(pkt::FLUSH);
    body
}

fn ask_zero(wants: &[Oid], haves: &[Oid], offered: &[String]) -> Vec<u8> {
    let known: Vec<&str> = OFFERED.into_iter().filter(|word| offered.iter().any(|one| one == word)).collect();
    let mut words = format!(" {} {AGENT}", known.join(" "));
    let mut body = Vec::new();
    for id in wants {
        pkt::put(&mut body, format!("want {id}{}\n", std::mem::take(&mut words)).as_bytes());
    }
    body.extend_from_slice(pkt::FLUSH);
    for id in haves {
        pkt::put(&mut body, format!("have {id}\n").as_bytes());
    }
    pkt::put(&mut body, b"done\n");
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line::Data(text.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn a_list_of_lines_that_say_nothing_is_refused() {
        let url = Url::parse("https://git.example.com/a.git").unwrap();
        let told = async |line: &[u8], times: usize| {
            let answer = http::Response::new(line.repeat(times));
            lines(answer.into(), &url).await.map(|lines| lines.len()).map_err(|failure| failure.to_string())
        };
        for line in [pkt::FLUSH, b"0005x", b"0004"] {
            assert_eq!(told(line, 1000).await, Ok(1000));
            assert!(told(line, MOST_LINES + 1).await.unwrap_err().contains("its list of refs is too long"));
        }
    }

    #[test]
    fn lists_of_both_versions_say_the_same_and_leave_out_what_is_not_wanted() {
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let zero = listing_zero(
            [
                line(&format!(
                    "{one} HEAD\0multi_ack side-band-64k symref=HEAD:refs/heads/main agent=git/2\n"
                )),
                line(&format!("{one} refs/heads/main\n")),
                line(&format!("{two} refs/pull/1/head\n")),
                line(&format!("{two} refs/tags/v1\n")),
                line(&format!("{one} refs/tags/v1^{{}}\n")),
                Line::Flush,
            ]
            .into_iter(),
        )
        .unwrap();
        let two_lines = vec![
            line(&format!("{one} HEAD symref-target:refs/heads/main\n")),
            line(&format!("{one} refs/heads/main\n")),
            line(&format!("{two} refs/tags/v1 peeled:{one}\n")),
            line(&format!("{two} refs/heads/..\n")),
            Line::Flush,
        ];
        let newer = listing_two(two_lines).unwrap();
        assert_eq!((&zero.refs, &zero.head), (&newer.refs, &newer.head));
        assert_eq!(zero.refs.keys().collect::<Vec<_>>(), ["refs/heads/main", "refs/tags/v1"]);
        let body = ask_zero(&[zero.refs["refs/tags/v1"]], &[], &["side-band-64k".into(), "filter".into()]);
        let text = String::from_utf8(body).unwrap();
        assert!(text.contains(&format!("want {two} side-band-64k agent=edge/")), "{text}");
        assert!(listing_zero([line("<html>")].into_iter()).is_err());
        assert!(listing_two(vec![line("12 refs/heads/a")]).is_err());
    }
}
