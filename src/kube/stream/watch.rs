//! A watch body, cut into its events.

use std::collections::VecDeque;

use super::json::{self, Scanner};
use super::{Encoding, MAX_OBJECT, malformed};
use crate::kube::Error;
use crate::kube::codec::text;
use crate::kube::wire::Reader;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WatchKind {
    /// It is new to the watcher.
    Added,
    /// It has changed.
    Modified,
    /// It is gone; the object is its last state.
    Deleted,
    /// Nothing: the object holds only a resourceVersion, up to which all was told.
    Bookmark,
    /// The watch ends; the object is a `Status`.
    Error,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// What happened.
    pub kind: WatchKind,
    /// The object as it came; `Encoding::decode` reads it.
    pub object: Vec<u8>,
}

/// Cuts the body of a watch into its events as the chunks arrive.
///
/// `push` each chunk, take what `next_event` gives until it gives nothing, and at the end of the body `finish`.
pub struct WatchSplitter {
    encoding: Encoding,
    limit: usize,
    scanner: Scanner,
    buf: Vec<u8>,
    events: VecDeque<WatchEvent>,
}

impl WatchKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            WatchKind::Added => "ADDED",
            WatchKind::Modified => "MODIFIED",
            WatchKind::Deleted => "DELETED",
            WatchKind::Bookmark => "BOOKMARK",
            WatchKind::Error => "ERROR",
        }
    }

    fn parse(word: &str) -> Result<Self, Error> {
        use WatchKind::*;
        let found =
            [Added, Modified, Deleted, Bookmark, Error].into_iter().find(|kind| kind.as_str() == word);
        found.ok_or_else(|| malformed("watch", "an event is of a type that is not known"))
    }
}

impl WatchSplitter {
    /// For a body in the given encoding.
    pub fn new(encoding: Encoding) -> Self {
        Self::with_limit(encoding, MAX_OBJECT)
    }

    /// With another limit to the bytes of one event.
    pub fn with_limit(encoding: Encoding, limit: usize) -> Self {
        let scanner = Scanner::default();
        Self { encoding, limit, scanner, buf: Vec::new(), events: VecDeque::new() }
    }

    /// Takes the next chunk of the body, of any length.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        match self.encoding {
            Encoding::Json => self.push_json(chunk),
            Encoding::Protobuf => self.push_frames(chunk),
        }
    }

    /// The next event.
    pub fn next_event(&mut self) -> Option<WatchEvent> {
        self.events.pop_front()
    }

    /// An error if the body ended within an event.
    pub fn finish(self) -> Result<(), Error> {
        if self.buf.is_empty() { Ok(()) } else { Err(malformed("watch", "an event is cut short")) }
    }

    fn push_json(&mut self, chunk: &[u8]) -> Result<(), Error> {
        let mut rest = chunk;
        loop {
            if self.buf.is_empty() {
                rest = rest.trim_ascii_start();
                match rest.first() {
                    None => return Ok(()),
                    Some(b'{') => self.scanner = Scanner::default(),
                    Some(_) => return Err(malformed("watch", "an event is no JSON object")),
                }
            }
            let closed = self.scanner.close(rest, 0);
            let (part, tail) = rest.split_at(closed.unwrap_or(rest.len()));
            if self.buf.len() + part.len() > self.limit {
                return Err(too_large());
            }
            self.buf.extend_from_slice(part);
            if closed.is_none() {
                return Ok(());
            }
            let event = read_json(&self.buf)?;
            self.events.push_back(event);
            self.buf.clear();
            rest = tail;
        }
    }

    /// Frames behind their length (4 bytes, big endian); see apimachinery's `LengthDelimitedFramer`.
    fn push_frames(&mut self, chunk: &[u8]) -> Result<(), Error> {
        self.buf.extend_from_slice(chunk);
        let mut rest = self.buf.as_slice();
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            if len > self.limit {
                return Err(too_large());
            }
            let Some((frame, tail)) = tail.split_at_checked(len) else { break };
            self.events.push_back(read_frame(frame)?);
            rest = tail;
        }
        let taken = self.buf.len() - rest.len();
        self.buf.drain(..taken);
        Ok(())
    }
}

fn read_json(event: &[u8]) -> Result<WatchEvent, Error> {
    let word = json::member(event, "type").and_then(|text| serde_json::from_slice::<String>(text).ok());
    let object = json::member(event, "object");
    let (Some(word), Some(object)) = (word, object) else {
        return Err(malformed("watch", "an event lacks its type or object"));
    };
    Ok(WatchEvent { kind: WatchKind::parse(&word)?, object: object.to_vec() })
}

/// A `meta/v1.WatchEvent`, without an envelope: type (1), and a RawExtension (2) whose bytes (1) are an object
/// in an envelope of its own.
fn read_frame(frame: &[u8]) -> Result<WatchEvent, Error> {
    let bad = |reason| malformed("watch", reason);
    let (mut word, mut object) = ("", &[][..]);
    let mut reader = Reader::new(frame);
    while let Some((number, wire)) = reader.next().map_err(bad)? {
        let bytes = wire.bytes().map_err(bad)?;
        match number {
            1 => word = text(bytes).map_err(bad)?,
            2 => match Reader::new(bytes).next().map_err(bad)? {
                Some((1, wire)) => object = wire.bytes().map_err(bad)?,
                _ => return Err(bad("an event lacks its object")),
            },
            _ => return Err(bad("an event has a field that is not known")),
        }
    }
    Ok(WatchEvent { kind: WatchKind::parse(word)?, object: object.to_vec() })
}

fn too_large() -> Error {
    malformed("watch", "an event is too large")
}
