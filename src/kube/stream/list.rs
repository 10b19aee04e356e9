//! A list body, cut into its items.

use std::collections::VecDeque;

use serde_json::Value;

use super::json::{self, Scanner};
use super::protobuf::ProtobufList;
use super::{Encoding, MAX_OBJECT, malformed, parse_json};
use crate::kube::codec::{self, Decoded};
use crate::kube::{Error, meta};

/// Cuts the body of a list into its items as the chunks arrive.
///
/// `push` each chunk, take what `next_item` gives until it gives nothing, and at the end of the body `finish`.
pub struct ListSplitter {
    form: Form,
    items: VecDeque<Vec<u8>>,
}

enum Form {
    Json(JsonList),
    Protobuf(ProtobufList),
}

/// What the body turned out to be.
#[derive(Debug, PartialEq)]
pub enum Finished {
    /// A whole list; its items were given out.
    List(ListEnd),
    /// A single object, such as a `Status`, as it came: `Encoding::decode` reads it.
    Object(Vec<u8>),
}

/// What a list says besides its items.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListEnd {
    /// `PodList`.
    pub kind: String,
    /// `v1`.
    pub api_version: String,
    /// The version to watch from.
    pub resource_version: String,
    /// The token of the next page; `None` on the last one.
    pub continue_token: Option<String>,
    /// About how many objects follow on further pages.
    pub remaining: Option<i64>,
}

impl ListSplitter {
    /// For a body in the given encoding.
    pub fn new(encoding: Encoding) -> Self {
        Self::with_limit(encoding, MAX_OBJECT)
    }

    /// With another limit to the bytes of one item, and of the list without its items.
    pub fn with_limit(encoding: Encoding, limit: usize) -> Self {
        let form = match encoding {
            Encoding::Json => Form::Json(JsonList::new(limit)),
            Encoding::Protobuf => Form::Protobuf(ProtobufList::new(limit)),
        };
        Self { form, items: VecDeque::new() }
    }

    /// Takes the next chunk of the body, of any length.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        match &mut self.form {
            Form::Json(list) => list.push(chunk, &mut self.items),
            Form::Protobuf(list) => list.push(chunk, &mut self.items),
        }
    }

    /// The next item, as it stands in the list: a JSON object, or a protobuf message without envelope.
    /// `decode_item` reads it.
    pub fn next_item(&mut self) -> Option<Vec<u8>> {
        self.items.pop_front()
    }

    /// Reads an item and sets its `apiVersion` and `kind` by those of the list. An item of a JSON list whose own
    /// kind comes behind the items (no apiserver writes so) is left without.
    pub fn decode_item(&self, item: &[u8]) -> Result<Decoded, Error> {
        match &self.form {
            Form::Protobuf(list) => codec::message(&list.end.api_version, item_kind(&list.end.kind), item),
            Form::Json(list) => {
                let mut value = parse_json(item)?;
                if let Some((api_version, kind)) = &list.of
                    && let Value::Object(object) = &mut value
                    && !object.contains_key("kind")
                {
                    object.insert("kind".to_owned(), Value::from(item_kind(kind)));
                    object.insert("apiVersion".to_owned(), Value::from(api_version.as_str()));
                }
                Ok(Decoded { value, unknown: None })
            }
        }
    }

    /// Says what the body was; an error if it was cut short. Items that were not taken are dropped.
    pub fn finish(self) -> Result<Finished, Error> {
        match self.form {
            Form::Json(list) => list.finish(),
            Form::Protobuf(list) => list.finish(),
        }
    }
}

/// `PodList` holds `Pod`s.
pub(super) fn item_kind(list: &str) -> &str {
    list.strip_suffix("List").unwrap_or(list)
}

struct JsonList {
    limit: usize,
    scanner: Scanner,
    place: Place,
    /// The body without its items.
    head: Vec<u8>,
    item: Vec<u8>,
    /// apiVersion and kind of the list, once the items begin.
    of: Option<(String, String)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Head,
    /// Between items; whether one went before, and whether a comma stands since.
    Items {
        before: bool,
        comma: bool,
    },
    Item,
}

impl JsonList {
    fn new(limit: usize) -> Self {
        let scanner = Scanner::default();
        Self { limit, scanner, place: Place::Head, head: Vec::new(), item: Vec::new(), of: None }
    }

    fn push(&mut self, chunk: &[u8], items: &mut VecDeque<Vec<u8>>) -> Result<(), Error> {
        let mut rest = chunk;
        while let [byte, tail @ ..] = rest {
            rest = match self.place {
                Place::Item => self.in_item(rest, items)?,
                Place::Items { before, comma } => {
                    self.between(*byte, before, comma)?;
                    tail
                }
                Place::Head => {
                    self.in_head(*byte)?;
                    tail
                }
            };
        }
        Ok(())
    }

    fn in_item<'a>(&mut self, bytes: &'a [u8], items: &mut VecDeque<Vec<u8>>) -> Result<&'a [u8], Error> {
        let closed = self.scanner.close(bytes, 2);
        let (part, rest) = bytes.split_at(closed.unwrap_or(bytes.len()));
        if self.item.len() + part.len() > self.limit {
            return Err(malformed("list", "an item is too large"));
        }
        self.item.extend_from_slice(part);
        if closed.is_some() {
            items.push_back(std::mem::take(&mut self.item));
            self.place = Place::Items { before: true, comma: false };
        }
        Ok(rest)
    }

    fn between(&mut self, byte: u8, before: bool, comma: bool) -> Result<(), Error> {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return Ok(()),
            b',' if before && !comma => self.place = Place::Items { before, comma: true },
            b'{' if before == comma => {
                self.scanner.step(byte);
                self.item.push(byte);
                self.place = Place::Item;
            }
            b']' if !comma => {
                self.scanner.step(byte);
                self.head.push(byte);
                self.place = Place::Head;
            }
            _ => return Err(malformed("list", "an item is no object")),
        }
        Ok(())
    }

    fn in_head(&mut self, byte: u8) -> Result<(), Error> {
        let (depth, string) = (self.scanner.depth(), self.scanner.in_string());
        let outside = depth == 0 && !string;
        if outside && byte.is_ascii_whitespace() {
            return Ok(());
        }
        if outside && (byte != b'{' || !self.head.is_empty()) {
            return Err(malformed("list", "the body is not one JSON object"));
        }
        if self.head.len() >= self.limit {
            return Err(malformed("list", "it is too large beside its items"));
        }
        self.scanner.step(byte);
        if byte == b'[' && depth == 1 && !string && self.at_items() {
            let word =
                |key| json::member(&closed(&self.head), key).and_then(|v| serde_json::from_slice(v).ok());
            self.of = word("apiVersion").zip(word("kind"));
            self.place = Place::Items { before: false, comma: false };
        }
        self.head.push(byte);
        Ok(())
    }

    /// Whether what was read last is the key `items` and its colon.
    fn at_items(&self) -> bool {
        let Some(key) = self.head.trim_ascii_end().strip_suffix(b":") else { return false };
        let key = key.trim_ascii_end();
        let Some(start) = key.strip_suffix(b"\"").and_then(|k| k.iter().rposition(|b| *b == b'"')) else {
            return false;
        };
        // A quote behind a backslash begins no string.
        key.get(start.wrapping_sub(1)) != Some(&b'\\') && json::names(&key[start..], "items")
    }

    fn finish(self) -> Result<Finished, Error> {
        if self.head.is_empty() || self.scanner.depth() > 0 || self.scanner.in_string() {
            return Err(malformed("list", "the body is cut short"));
        }
        let head = parse_json(&self.head)?;
        match head.get("items") {
            Some(Value::Array(_) | Value::Null) => Ok(Finished::List(list_end(&head))),
            _ => Ok(Finished::Object(self.head)),
        }
    }
}

/// The head so far, up to the key `items`, made a whole object.
fn closed(head: &[u8]) -> Vec<u8> {
    let mut object = head.to_vec();
    object.extend_from_slice(b"null}");
    object
}

/// What the list says of itself, from the list without its items.
pub(super) fn list_end(head: &Value) -> ListEnd {
    let own = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let metadata = &head["metadata"];
    ListEnd {
        kind: own(meta::kind(head)),
        api_version: own(meta::api_version(head)),
        resource_version: own(meta::resource_version(head)),
        continue_token: meta::text(metadata.get("continue")).map(str::to_owned),
        remaining: metadata["remainingItemCount"].as_i64(),
    }
}
