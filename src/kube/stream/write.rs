//! Lists and watch events, written as an API server would.

use serde_json::{Map, Value, json};

use super::{Encoding, ListEnd, WatchKind, parse_json};
use crate::kube::Error;
use crate::kube::codec;
use crate::kube::wire::Writer;

/// What a list says besides its items: the same for reading and writing.
pub type ListHead = ListEnd;

/// Writes a list item by item: `start`, `item` for each object, `end`; their bytes in that order are the body.
///
/// In JSON every part is given out at once. Protobuf puts the length before the list, so it is gathered and
/// comes out at the end.
pub struct ListWriter {
    encoding: Encoding,
    head: ListHead,
    first: bool,
    gathered: Vec<u8>,
}

impl ListWriter {
    /// For a list with the given head.
    pub fn new(encoding: Encoding, head: ListHead) -> Self {
        Self { encoding, head, first: true, gathered: Vec::new() }
    }

    /// What stands before the items.
    pub fn start(&mut self) -> Vec<u8> {
        match self.encoding {
            Encoding::Protobuf => Vec::new(),
            Encoding::Json => {
                let ListHead { kind, api_version, .. } = &self.head;
                let metadata = Value::Object(self.head.metadata());
                let (kind, api_version) = (json!(kind), json!(api_version));
                format!(r#"{{"kind":{kind},"apiVersion":{api_version},"metadata":{metadata},"items":["#)
                    .into_bytes()
            }
        }
    }

    /// One item.
    pub fn item(&mut self, object: &Value) -> Result<Vec<u8>, Error> {
        match self.encoding {
            Encoding::Protobuf => self.gather(object),
            Encoding::Json => {
                let text = serde_json::to_vec(object).map_err(|source| Error::ParseJson { source })?;
                Ok(self.after_comma(&text))
            }
        }
    }

    /// One item, given as its JSON text, which is not looked at if the list is JSON.
    pub fn item_text(&mut self, text: &[u8]) -> Result<Vec<u8>, Error> {
        match self.encoding {
            Encoding::Protobuf => self.gather(&parse_json(text)?),
            Encoding::Json => Ok(self.after_comma(text)),
        }
    }

    /// One item as [`ListSplitter::next_item`](super::ListSplitter::next_item) gave it out of a list of the same kind
    /// and encoding; it is not looked at.
    pub fn item_as_it_came(&mut self, item: &[u8]) -> Vec<u8> {
        match self.encoding {
            Encoding::Json => self.after_comma(item),
            Encoding::Protobuf => {
                let mut to = Writer::default();
                to.bytes_field(2, item);
                self.gathered.extend(to.finish());
                Vec::new()
            }
        }
    }

    /// What stands behind the items.
    pub fn end(self) -> Result<Vec<u8>, Error> {
        if self.encoding == Encoding::Json {
            return Ok(b"]}\n".to_vec());
        }
        let ListHead { kind, api_version, .. } = &self.head;
        let head = json!({"kind": kind, "apiVersion": api_version, "metadata": self.head.metadata()});
        let mut to = Writer::default();
        codec::seal(api_version, kind, &mut to, |to| {
            to.put(&self.gathered);
            codec::write(&head, to)
        })?;
        Ok(to.finish())
    }

    fn after_comma(&mut self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len() + 1);
        if !std::mem::replace(&mut self.first, false) {
            out.push(b',');
        }
        out.extend_from_slice(text);
        out
    }

    fn gather(&mut self, object: &Value) -> Result<Vec<u8>, Error> {
        let mut to = Writer::default();
        codec::write(object, &mut to)?;
        to.close(2, 0);
        self.gathered.extend(to.finish());
        Ok(Vec::new())
    }
}

/// Writes one event of a watch.
pub fn watch_event(kind: WatchKind, object: &Value, encoding: Encoding) -> Result<Vec<u8>, Error> {
    let object = encoding.encode(object)?;
    Ok(event(kind, &object, encoding))
}

/// Writes one event of a watch, of an object given as its JSON text.
pub fn watch_event_text(kind: WatchKind, text: &[u8], encoding: Encoding) -> Result<Vec<u8>, Error> {
    match encoding {
        Encoding::Json => Ok(event(kind, text, encoding)),
        Encoding::Protobuf => watch_event(kind, &parse_json(text)?, encoding),
    }
}

/// Writes one event of a watch, of an object in the bytes of that encoding.
pub fn event(kind: WatchKind, object: &[u8], encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Json => {
            let mut out = format!(r#"{{"type":"{}","object":"#, kind.as_str()).into_bytes();
            out.extend_from_slice(object);
            out.extend_from_slice(b"}\n");
            out
        }
        Encoding::Protobuf => {
            let mut to = Writer::default();
            to.bytes_field(1, object);
            to.close(2, 0);
            to.bytes_field(1, kind.as_str().as_bytes());
            let len = to.len() as u32;
            to.put(&len.to_be_bytes());
            to.finish()
        }
    }
}

impl ListHead {
    /// The list's `metadata`.
    pub(in crate::kube) fn metadata(&self) -> Map<String, Value> {
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".to_owned(), Value::from(self.resource_version.as_str()));
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".to_owned(), Value::from(token.as_str()));
        }
        if let Some(remaining) = self.remaining {
            metadata.insert("remainingItemCount".to_owned(), Value::from(remaining));
        }
        metadata
    }
}
