//! A JSON object to the protobuf message that a Go program would write of it.
//!
//! Byte for byte as gogo-protobuf does: fields by number, plain fields also when zero, maps by key.
//! Refuses a key that the table does not know, so that nothing is lost on the way.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::scalar::{self, Precision};
use super::schema::{Card, Field, Form, Message};
use super::wire::{Fault, Writer};

const MAX_DEPTH: u32 = 48;

/// Where and why a value does not fit its field.
#[derive(Debug)]
pub(super) struct Misfit {
    pub field: String,
    pub reason: Fault,
}

type Result<T = ()> = std::result::Result<T, Misfit>;

/// Writes the message of a top-level object; `apiVersion` and `kind` are the envelope's.
pub(super) fn object(message: &'static Message, object: &Map<String, Value>, to: &mut Writer) -> Result {
    encode(message, object, to, 0)
}

fn encode(message: &'static Message, object: &Map<String, Value>, to: &mut Writer, depth: u32) -> Result {
    if depth > MAX_DEPTH {
        return Err(misfit("", "it is nested too deep"));
    }
    let mut known = fields(message, object, to, depth)?;
    if message.typed {
        known += ["apiVersion", "kind"].iter().filter(|key| object.contains_key(**key)).count();
    }
    if known == object.len() {
        return Ok(());
    }
    let typed = |key: &str| message.typed && (key == "apiVersion" || key == "kind");
    let stranger = object.keys().find(|key| message.key(key).is_none() && !typed(key));
    Err(misfit(stranger.map_or("", String::as_str), "the field is not known"))
}

/// Writes the fields of a message, the last first; returns how many of the object's keys they took.
fn fields(
    message: &'static Message,
    object: &Map<String, Value>,
    to: &mut Writer,
    depth: u32,
) -> Result<usize> {
    let mut known = 0;
    for field in message.fields.iter().rev() {
        if let (Card::Inline, Form::Message(id)) = (field.card, field.form) {
            let before = to.len();
            known += fields(id.get(), object, to, depth + 1)?;
            to.close(field.number, before);
            continue;
        }
        let value = object.get(field.name);
        known += usize::from(value.is_some());
        let value = value.unwrap_or(&Value::Null);
        write(field, value, to, depth).map_err(|e| e.within(field.name))?;
    }
    Ok(known)
}

fn write(field: &'static Field, value: &Value, to: &mut Writer, depth: u32) -> Result {
    let (number, form) = (field.number, field.form);
    match (field.card, value) {
        (Card::Pointer | Card::Repeated | Card::Map, Value::Null) => Ok(()),
        // A nil slice is not written; a plain value always is.
        (Card::Plain, Value::Null) if matches!(form, Form::Bytes | Form::Strings | Form::Opaque) => Ok(()),
        (Card::Plain | Card::Pointer, value) => one(number, form, value, to, depth),
        (Card::Repeated, Value::Array(list)) => {
            for (at, value) in list.iter().enumerate().rev() {
                one(number, form, value, to, depth).map_err(|e| e.within(&format!("[{at}]")))?;
            }
            Ok(())
        }
        (Card::Map, Value::Object(map)) => {
            for (key, value) in map.iter().rev() {
                let before = to.len();
                one(2, form, value, to, depth).map_err(|e| e.within(key))?;
                to.bytes_field(1, key.as_bytes());
                to.close(number, before);
            }
            Ok(())
        }
        (Card::Repeated, _) => Err(misfit("", "a list was expected")),
        (Card::Map, _) => Err(misfit("", "an object was expected")),
        (Card::Inline, _) => Err(misfit("", "only a message can be inlined")),
    }
}

/// Writes one value; null is the zero value, as Go reads it.
fn one(number: u32, form: Form, value: &Value, to: &mut Writer, depth: u32) -> Result {
    match form {
        Form::String => to.bytes_field(number, text(value)?.as_bytes()),
        Form::Bool => match value {
            Value::Bool(set) => to.varint_field(number, u64::from(*set)),
            Value::Null => to.varint_field(number, 0),
            _ => return Err(misfit("", "true or false was expected")),
        },
        Form::Int32 => to.varint_field(number, i64::from(int32(value)?) as u64),
        Form::Int64 => to.varint_field(number, int64(value)? as u64),
        Form::Double => {
            let n = if value.is_null() { Some(0.0) } else { value.as_f64() };
            to.fixed64_field(number, n.ok_or_else(|| misfit("", "a number was expected"))?.to_bits());
        }
        Form::Bytes => {
            let bytes = STANDARD.decode(text(value)?).map_err(|_| misfit("", "it is no base64"))?;
            to.bytes_field(number, &bytes);
        }
        _ => {
            let before = to.len();
            nested(form, value, to, depth)?;
            to.close(number, before);
        }
    }
    Ok(())
}

/// Writes what is inside a value that is a message on the wire.
fn nested(form: Form, value: &Value, to: &mut Writer, depth: u32) -> Result {
    match form {
        Form::Message(id) => match value {
            Value::Object(object) => encode(id.get(), object, to, depth + 1)?,
            Value::Null => encode(id.get(), &Map::new(), to, depth + 1)?,
            _ => return Err(misfit("", "an object was expected")),
        },
        Form::Time | Form::MicroTime if value.is_null() => {}
        Form::Time => write_time(value, Precision::Seconds, to)?,
        Form::MicroTime => write_time(value, Precision::Micros, to)?,
        Form::Duration => {
            let nanos = if value.is_null() { Some(0) } else { scalar::parse_duration(text(value)?) };
            to.varint_field(1, nanos.ok_or_else(|| misfit("", "it is no duration"))? as u64);
        }
        Form::Quantity => match value {
            Value::Number(n) => to.bytes_field(1, n.to_string().as_bytes()),
            Value::Null => to.bytes_field(1, b"0"),
            value => to.bytes_field(1, text(value)?.as_bytes()),
        },
        Form::IntOrString => {
            let (int, string) = match value {
                Value::String(string) => (0, Some(string)),
                value => (int32(value)?, None),
            };
            to.bytes_field(3, string.map_or(&[], |s| s.as_bytes()));
            to.varint_field(2, i64::from(int) as u64);
            to.varint_field(1, u64::from(string.is_some()));
        }
        Form::Raw if value.is_null() => {}
        Form::Raw => {
            let json = serde_json::to_vec(value).map_err(|_| misfit("", "it cannot be written as JSON"))?;
            to.bytes_field(1, &json);
        }
        Form::Strings => match value {
            Value::Null => {}
            Value::Array(list) => {
                for value in list.iter().rev() {
                    to.bytes_field(1, text(value)?.as_bytes());
                }
            }
            _ => return Err(misfit("", "a list was expected")),
        },
        _ => return Err(misfit("", "the type cannot be written as protobuf")),
    }
    Ok(())
}

fn write_time(value: &Value, precision: Precision, to: &mut Writer) -> Result {
    scalar::write_time(text(value)?, precision, to).map_err(|reason| misfit("", reason))
}

fn text(value: &Value) -> Result<&str> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(""),
        _ => Err(misfit("", "a string was expected")),
    }
}

fn int64(value: &Value) -> Result<i64> {
    if value.is_null() {
        return Ok(0);
    }
    value.as_i64().ok_or_else(|| misfit("", "an integer was expected"))
}

fn int32(value: &Value) -> Result<i32> {
    int64(value)?.try_into().map_err(|_| misfit("", "the integer is out of range"))
}

fn misfit(field: &str, reason: Fault) -> Misfit {
    Misfit { field: field.to_owned(), reason }
}

impl Misfit {
    fn within(mut self, outer: &str) -> Misfit {
        let dot = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{outer}{dot}{}", self.field);
        self
    }
}
