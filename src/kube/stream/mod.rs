//! Lists and watches as they come over the wire, cut into objects without holding more than one.
//!
//! Owns the framing of both encodings and the caps against hostile input. What an object means is
//! not its business: it comes out as bytes, and [`Encoding::decode`] reads them.

mod json;
mod list;
mod protobuf;
mod watch;
mod write;

#[cfg(test)]
mod tests;

pub use list::{Finished, ListEnd, ListSplitter};
pub use watch::{WatchEvent, WatchKind, WatchSplitter};
pub use write::{ListHead, ListWriter, event, watch_event, watch_event_text};

use super::Error;
use super::codec::{self, Decoded};

/// Bytes that one object may have, unless set otherwise.
pub const MAX_OBJECT: usize = 16 << 20;

/// How objects are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// `application/json`.
    Json,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

impl Encoding {
    /// From a `Content-Type`; `None` for any other type. Parameters are ignored.
    pub fn of(content_type: &str) -> Option<Encoding> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "application/json" => Some(Encoding::Json),
            "application/vnd.kubernetes.protobuf" => Some(Encoding::Protobuf),
            _ => None,
        }
    }

    /// The `Content-Type` of an object or list.
    pub fn content_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }

    /// The `Content-Type` of a watch.
    pub fn watch_content_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        }
    }

    /// Reads one whole object: a body, or the object of a watch event.
    pub fn decode(self, object: &[u8]) -> Result<Decoded, Error> {
        match self {
            Encoding::Protobuf => codec::decode(object),
            Encoding::Json => Ok(Decoded { value: parse_json(object)?, unknown: None }),
        }
    }

    /// Writes one whole object.
    pub fn encode(self, object: &serde_json::Value) -> Result<Vec<u8>, Error> {
        match self {
            Encoding::Protobuf => codec::encode(object),
            Encoding::Json => Ok(serde_json::to_vec(object).map_err(|source| Error::ParseJson { source })?),
        }
    }
}

fn parse_json(text: &[u8]) -> Result<serde_json::Value, Error> {
    serde_json::from_slice(text).map_err(|source| Error::ParseJson { source })
}

fn malformed(stream: &'static str, reason: &'static str) -> Error {
    Error::SplitStream { stream, reason }
}
