//! Kubernetes' protobuf (`application/vnd.kubernetes.protobuf`) to and from JSON values.
//!
//! Owns the envelope: the bytes `k8s\0`, then a `runtime.Unknown` message that names the kind and holds the
//! object. Refuses kinds and fields that it has no table for: the caller asks the server for JSON instead.

use serde_json::{Map, Value};

use super::decode::Decoder;
use super::encode;
use super::schema::{self, Kind};
use super::wire::{Reader, Writer};
use super::{Error, meta};

/// What every protobuf body starts with.
pub const PREFIX: &[u8; 4] = b"k8s\0";

/// An object out of protobuf.
#[derive(Debug)]
#[must_use = "`unknown` says whether the value is the whole object"]
pub struct Decoded {
    /// The object, with `apiVersion` and `kind`.
    pub value: Value,
    /// What was met that this version of edge has no table for: the value lacks it. It must not be
    /// stored or sent on as if it were the object.
    pub unknown: Option<String>,
}

impl Decoded {
    /// The value, if it is the whole object.
    pub fn whole(self) -> Result<Value, Error> {
        match self.unknown {
            None => Ok(self.value),
            Some(what) => Err(Error::UnknownField { what }),
        }
    }
}

/// The envelope around an object.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub raw: &'a [u8],
    pub content_encoding: &'a str,
    pub content_type: &'a str,
}

/// Reads one object. Lists are read whole: large ones go through `ListSplitter`.
pub fn decode(body: &[u8]) -> Result<Decoded, Error> {
    let envelope = Envelope::read(body)?;
    envelope.plain()?;
    if envelope.content_type == "application/json" {
        let value = serde_json::from_slice(envelope.raw).map_err(|source| Error::ParseJson { source })?;
        return Ok(Decoded { value, unknown: None });
    }
    message(envelope.api_version, envelope.kind, envelope.raw)
}

/// Reads the message of an object of the given kind, without an envelope.
pub(super) fn message(api_version: &str, kind: &str, raw: &[u8]) -> Result<Decoded, Error> {
    let found = table(api_version, kind)?;
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), Value::from(api_version));
    object.insert("kind".to_owned(), Value::from(kind));
    let mut decoder = Decoder::new();
    let message = found.message.get();
    decoder
        .object(message, raw, &mut object)
        .map_err(|reason| Error::DecodeProtobuf { what: kind.to_owned(), reason })?;
    Ok(Decoded { value: Value::Object(object), unknown: decoder.unknown })
}

/// Writes one object, as a Go program would, byte for byte.
pub fn encode(object: &Value) -> Result<Vec<u8>, Error> {
    let api_version = meta::api_version(object).unwrap_or_default();
    let kind = meta::kind(object).unwrap_or_default();
    let mut to = Writer::default();
    let raw = |to: &mut Writer| write(object, to);
    seal(api_version, kind, &mut to, raw)?;
    Ok(to.finish())
}

/// Writes the message of an object, without an envelope.
pub(super) fn write(object: &Value, to: &mut Writer) -> Result<(), Error> {
    let kind = meta::kind(object).unwrap_or_default();
    let found = table(meta::api_version(object).unwrap_or_default(), kind)?;
    let Value::Object(object) = object else {
        return Err(misfit(kind, "", "an object was expected"));
    };
    encode::object(found.message.get(), object, to).map_err(|e| misfit(kind, &e.field, e.reason))
}

/// Writes the envelope around the raw bytes that `raw` writes.
pub(super) fn seal(
    api_version: &str,
    kind: &str,
    to: &mut Writer,
    raw: impl FnOnce(&mut Writer) -> Result<(), Error>,
) -> Result<(), Error> {
    to.bytes_field(4, b"");
    to.bytes_field(3, b"");
    let before = to.len();
    raw(to)?;
    to.close(2, before);
    let before = to.len();
    to.bytes_field(2, kind.as_bytes());
    to.bytes_field(1, api_version.as_bytes());
    to.close(1, before);
    to.put(PREFIX);
    Ok(())
}

fn table(api_version: &str, kind: &str) -> Result<Kind, Error> {
    schema::kind(api_version, kind)
        .ok_or_else(|| Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() })
}

fn misfit(kind: &str, field: &str, reason: &'static str) -> Error {
    Error::EncodeProtobuf { field: format!("{kind}.{field}"), reason }
}

impl<'a> Envelope<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<Self, Error> {
        let bad = |reason| Error::DecodeProtobuf { what: "envelope".to_owned(), reason };
        let message = body.strip_prefix(PREFIX).ok_or(bad("it does not start with `k8s\\0`"))?;
        Self::fields(message).map_err(bad)
    }

    fn fields(message: &'a [u8]) -> Result<Self, &'static str> {
        let mut out = Envelope::default();
        let mut raw = None;
        let mut reader = Reader::new(message);
        while let Some((number, wire)) = reader.next()? {
            match number {
                1 => (out.api_version, out.kind) = type_meta(wire.bytes()?)?,
                2 => raw = Some(wire.bytes()?),
                3 => out.content_encoding = text(wire.bytes()?)?,
                4 => out.content_type = text(wire.bytes()?)?,
                _ => return Err("it has a field that is not known"),
            }
        }
        // Always written, also when empty: without it the body is cut short.
        out.raw = raw.ok_or("it has no contents")?;
        Ok(out)
    }

    /// Refuses contents that are compressed or of a type other than protobuf and JSON.
    pub(super) fn plain(&self) -> Result<(), Error> {
        let bad = |reason| Err(Error::DecodeProtobuf { what: "envelope".to_owned(), reason });
        match (self.content_encoding, self.content_type) {
            ("", "" | "application/json" | "application/vnd.kubernetes.protobuf") => Ok(()),
            ("", _) => bad("the type of its contents is not known"),
            _ => bad("its contents are encoded"),
        }
    }
}

/// apiVersion and kind of a `TypeMeta` message.
pub(super) fn type_meta(message: &[u8]) -> Result<(&str, &str), &'static str> {
    let (mut api_version, mut kind) = ("", "");
    let mut reader = Reader::new(message);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => api_version = text(wire.bytes()?)?,
            2 => kind = text(wire.bytes()?)?,
            _ => return Err("its type has a field that is not known"),
        }
    }
    Ok((api_version, kind))
}

pub(super) fn text(bytes: &[u8]) -> Result<&str, &'static str> {
    std::str::from_utf8(bytes).map_err(|_| "a text is not UTF-8")
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
