//! A list in protobuf: the envelope, and in it a message of list metadata (1) and items (2).

use std::collections::VecDeque;

use serde_json::{Map, Value};

use super::list::{Finished, ListEnd, list_end};
use super::malformed;
use crate::kube::Error;
use crate::kube::codec::{PREFIX, text, type_meta};
use crate::kube::decode::Decoder;
use crate::kube::schema::{self, Card, Form};
use crate::kube::wire;

pub(super) struct ProtobufList {
    limit: usize,
    place: Place,
    /// What has arrived and is not yet understood.
    buf: Vec<u8>,
    pub(super) end: ListEnd,
    /// Whether the contents were there.
    contents: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Prefix,
    /// Between the fields of the envelope.
    Envelope,
    /// In the list, so many bytes before its end.
    List(usize),
    /// Not a list: the body is kept as it is.
    Object,
}

/// A field that is wholly in the buffer.
struct Whole {
    number: u32,
    /// Bytes of its tag and length.
    head: usize,
    len: usize,
}

impl ProtobufList {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, place: Place::Prefix, buf: Vec::new(), end: ListEnd::default(), contents: false }
    }

    pub(super) fn push(&mut self, chunk: &[u8], items: &mut VecDeque<Vec<u8>>) -> Result<(), Error> {
        self.buf.extend_from_slice(chunk);
        let mut at = 0;
        while let Some(next) = self.step(at, items)? {
            at = next;
        }
        if self.place == Place::Object {
            return if self.buf.len() <= self.limit { Ok(()) } else { Err(too_large()) };
        }
        self.buf.drain(..at);
        Ok(())
    }

    /// Understands what stands at `at`; returns where the next begins, or nothing if more must arrive.
    fn step(&mut self, at: usize, items: &mut VecDeque<Vec<u8>>) -> Result<Option<usize>, Error> {
        match self.place {
            Place::Object => Ok(None),
            Place::Prefix if self.buf.len() < PREFIX.len() => Ok(None),
            Place::Prefix if !self.buf.starts_with(PREFIX) => {
                Err(malformed("list", "the body does not start with `k8s\\0`"))
            }
            Place::Prefix => self.step_type(),
            Place::List(0) => {
                self.place = Place::Envelope;
                Ok(Some(at))
            }
            Place::List(left) => self.step_list(at, left, items),
            Place::Envelope => self.step_envelope(at),
        }
    }

    /// The prefix and the type, which every encoder writes first. They stay in the buffer until it is known
    /// whether the body is a list.
    fn step_type(&mut self) -> Result<Option<usize>, Error> {
        let at = PREFIX.len();
        let Some(field) = self.field(at, usize::MAX)? else { return Ok(None) };
        if field.number != 1 {
            return Err(malformed("list", "the envelope does not start with a type"));
        }
        let end = at + field.head + field.len;
        let (api_version, kind) =
            type_meta(&self.buf[at + field.head..end]).map_err(|reason| malformed("list", reason))?;
        self.end.api_version = api_version.to_owned();
        self.end.kind = kind.to_owned();
        self.place = if is_list(api_version, kind)? { Place::Envelope } else { Place::Object };
        Ok(Some(end))
    }

    fn step_envelope(&mut self, at: usize) -> Result<Option<usize>, Error> {
        let Some((number, len, head)) = self.head(at)? else { return Ok(None) };
        match number {
            // The contents, which are read field by field.
            2 if !self.contents => {
                self.contents = true;
                self.place = Place::List(len);
                Ok(Some(at + head))
            }
            3 | 4 => {
                let Some(field) = self.field(at, usize::MAX)? else { return Ok(None) };
                let end = at + field.head + field.len;
                let word =
                    text(&self.buf[at + field.head..end]).map_err(|reason| malformed("list", reason))?;
                let known = word.is_empty() || (number == 4 && word == "application/vnd.kubernetes.protobuf");
                if known { Ok(Some(end)) } else { Err(malformed("list", "its contents are encoded")) }
            }
            _ => Err(malformed("list", "the envelope has a field that is not known")),
        }
    }

    fn step_list(
        &mut self,
        at: usize,
        left: usize,
        items: &mut VecDeque<Vec<u8>>,
    ) -> Result<Option<usize>, Error> {
        let Some(field) = self.field(at, left)? else { return Ok(None) };
        let start = at + field.head;
        let end = start + field.len;
        match field.number {
            1 => self.metadata(start, end)?,
            2 => items.push_back(self.buf[start..end].to_vec()),
            _ => return Err(malformed("list", "it has a field that is not known")),
        }
        self.place = Place::List(left - (end - at));
        Ok(Some(end))
    }

    fn metadata(&mut self, start: usize, end: usize) -> Result<(), Error> {
        let mut message = Vec::with_capacity(end - start + 11);
        message.push(0x0a);
        let mut len = wire::Writer::default();
        len.put_varint((end - start) as u64);
        message.extend(len.finish());
        message.extend_from_slice(&self.buf[start..end]);
        let Some(kind) = schema::kind(&self.end.api_version, &self.end.kind) else { return Ok(()) };
        let mut head = Map::new();
        let read = Decoder::new().object(kind.message.get(), &message, &mut head);
        read.map_err(|reason| malformed("list", reason))?;
        let ListEnd { kind, api_version, .. } = std::mem::take(&mut self.end);
        self.end = ListEnd { kind, api_version, ..list_end(&Value::Object(head)) };
        Ok(())
    }

    /// The field at `at`, which must end within `left` bytes, if all of it is there.
    fn field(&self, at: usize, left: usize) -> Result<Option<Whole>, Error> {
        let Some((number, len, head)) = self.head(at)? else { return Ok(None) };
        if len > self.limit {
            return Err(too_large());
        }
        if head + len > left {
            return Err(malformed("list", "a field is longer than the list"));
        }
        let there = self.buf.len() >= at + head + len;
        Ok(there.then_some(Whole { number, head, len }))
    }

    /// Number and length of the field at `at`, and the bytes they take.
    fn head(&self, at: usize) -> Result<Option<(u32, usize, usize)>, Error> {
        let bad = |reason| malformed("list", reason);
        let Some((tag, tag_len)) = wire::varint(&self.buf[at..]).map_err(bad)? else { return Ok(None) };
        if tag & 7 != 2 {
            return Err(bad("a field is of another type"));
        }
        let Some((len, len_len)) = wire::varint(&self.buf[at + tag_len..]).map_err(bad)? else {
            return Ok(None);
        };
        let number = u32::try_from(tag >> 3).map_err(|_| bad("a field number is out of range"))?;
        // No body is as long as half the address space.
        let len = usize::try_from(len).ok().filter(|len| *len < usize::MAX / 2).ok_or_else(too_large)?;
        Ok(Some((number, len, tag_len + len_len)))
    }

    pub(super) fn finish(self) -> Result<Finished, Error> {
        match self.place {
            Place::Object => Ok(Finished::Object(self.buf)),
            Place::Envelope if self.contents && self.buf.is_empty() => Ok(Finished::List(self.end)),
            _ => Err(malformed("list", "the body is cut short")),
        }
    }
}

/// Whether the kind's message is a list's: metadata and items, and nothing else.
fn is_list(api_version: &str, kind: &str) -> Result<bool, Error> {
    let unknown = || Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() };
    let fields = &schema::kind(api_version, kind).ok_or_else(unknown)?.message.get().fields;
    Ok(match fields.as_slice() {
        [metadata, items] => {
            metadata.name == "metadata"
                && items.name == "items"
                && items.card == Card::Repeated
                && matches!(items.form, Form::Message(_))
        }
        _ => false,
    })
}

fn too_large() -> Error {
    malformed("list", "an item is too large")
}
