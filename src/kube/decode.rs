//! A protobuf message to the JSON object that Go's encoding/json would print of it.
//!
//! Driven by the field table, one pass over the bytes. What the table does not know is noted, never
//! dropped unseen. Caps depth and the number of values, so that a small hostile message stays small.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::scalar::{self, Precision};
use super::schema::{Card, Field, Form, Message, Omit};
use super::wire::{Fault, Reader, Wire};

/// Messages inside one another; the deepest of the known types that are transcoded needs 14.
const MAX_DEPTH: u32 = 48;
/// JSON values in one object. A large pod has a thousand.
const MAX_VALUES: u32 = 1_000_000;

/// The state of one decoding.
pub(super) struct Decoder {
    values_left: u32,
    /// The first thing that the table does not know.
    pub(super) unknown: Option<String>,
}

/// Whether a value is Go's zero value of its type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Zero {
    Yes,
    No,
}

impl Zero {
    fn when(zero: bool) -> Zero {
        if zero { Zero::Yes } else { Zero::No }
    }
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { values_left: MAX_VALUES, unknown: None }
    }

    /// Adds the fields of a message to a JSON object.
    pub(super) fn object(
        &mut self,
        message: &'static Message,
        bytes: &[u8],
        to: &mut Map<String, Value>,
    ) -> Result<(), Fault> {
        self.message(message, bytes, to, 0).map(drop)
    }

    fn message(
        &mut self,
        message: &'static Message,
        bytes: &[u8],
        to: &mut Map<String, Value>,
        depth: u32,
    ) -> Result<Zero, Fault> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deep");
        }
        let (mut seen, mut zero) = (0u128, Zero::Yes);
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next()? {
            let Some(at) = message.find(number) else {
                if !is_retired(message, number, &wire) {
                    self.note(message, || format!("field {number}"));
                }
                continue;
            };
            let field = &message.fields[at];
            let many = matches!(field.card, Card::Repeated | Card::Map);
            if seen & 1 << at != 0 && !many {
                self.note(message, || format!("field {number}, given twice"));
            }
            seen |= 1 << at;
            if self.field(field, wire, &mut reader, to, depth)? == Zero::No {
                zero = Zero::No;
            }
        }
        for (at, field) in message.fields.iter().enumerate() {
            if seen & 1 << at == 0 {
                self.absent(field, to, depth)?;
            }
        }
        Ok(zero)
    }

    /// Adds a field that is on the wire. Elements of a list that follow at once are read along.
    fn field(
        &mut self,
        field: &'static Field,
        wire: Wire<'_>,
        reader: &mut Reader<'_>,
        to: &mut Map<String, Value>,
        depth: u32,
    ) -> Result<Zero, Fault> {
        match field.card {
            Card::Plain => {
                let (value, zero) = self.value(field.form, wire, depth)?;
                let drop = match field.omit {
                    Omit::Never => false,
                    Omit::Zero => zero == Zero::Yes,
                    Omit::Empty => is_empty(field.form, &value),
                };
                if !drop {
                    to.insert(field.name.to_owned(), value);
                }
                Ok(zero)
            }
            Card::Pointer => {
                let (value, _) = self.value(field.form, wire, depth)?;
                to.insert(field.name.to_owned(), value);
                Ok(Zero::No)
            }
            Card::Inline => match field.form {
                Form::Message(id) => self.message(id.get(), wire.bytes()?, to, depth + 1),
                _ => Err("only a message can be inlined"),
            },
            Card::Repeated => {
                let mut list = Vec::new();
                self.element(field.form, wire, depth, &mut list)?;
                let mut ahead = reader.clone();
                while let Some((number, wire)) = ahead.next()?
                    && number == field.number
                {
                    *reader = ahead.clone();
                    self.element(field.form, wire, depth, &mut list)?;
                }
                match to.get_mut(field.name) {
                    Some(Value::Array(before)) => before.append(&mut list),
                    _ => drop(to.insert(field.name.to_owned(), Value::Array(list))),
                }
                Ok(Zero::No)
            }
            Card::Map => {
                let (key, value) = self.entry(field.form, wire.bytes()?, depth)?;
                match to.get_mut(field.name) {
                    Some(Value::Object(map)) => drop(map.insert(key, value)),
                    _ => {
                        drop(to.insert(field.name.to_owned(), Value::Object(Map::from_iter([(key, value)]))))
                    }
                }
                Ok(Zero::No)
            }
        }
    }

    /// One element of a list, or several if they are numbers in packed form.
    fn element(
        &mut self,
        form: Form,
        wire: Wire<'_>,
        depth: u32,
        list: &mut Vec<Value>,
    ) -> Result<(), Fault> {
        let varints = matches!(form, Form::Bool | Form::Int32 | Form::Int64);
        match wire {
            Wire::Bytes(packed) if varints => {
                let mut reader = Reader::new(packed);
                while !reader.is_done() {
                    let wire = Wire::Varint(reader.varint()?);
                    list.push(self.value(form, wire, depth)?.0);
                }
            }
            wire => list.push(self.value(form, wire, depth)?.0),
        }
        Ok(())
    }

    fn entry(&mut self, form: Form, bytes: &[u8], depth: u32) -> Result<(String, Value), Fault> {
        let (mut key, mut value) = (String::new(), None);
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next()? {
            match number {
                1 => key = self.text(wire.bytes()?),
                2 => value = Some(self.value(form, wire, depth)?.0),
                _ => self.unknown = self.unknown.take().or(Some("a third field in a map entry".to_owned())),
            }
        }
        let value = match value {
            Some(value) => value,
            None => match form {
                Form::String | Form::Bytes => Value::String(String::new()),
                Form::Bool => Value::Bool(false),
                Form::Int32 | Form::Int64 => Value::from(0),
                Form::Double => Value::from(0.0),
                form => self.value(form, Wire::Bytes(&[]), depth)?.0,
            },
        };
        Ok((key, value))
    }

    /// What Go prints for a field that is not on the wire.
    fn absent(
        &mut self,
        field: &'static Field,
        to: &mut Map<String, Value>,
        depth: u32,
    ) -> Result<(), Fault> {
        let value = match (field.card, field.form, field.omit) {
            (Card::Inline, Form::Message(id), _) => {
                return self.message(id.get(), &[], to, depth + 1).map(drop);
            }
            (Card::Plain, Form::Message(_), Omit::Never | Omit::Empty) => {
                self.value(field.form, Wire::Bytes(&[]), depth)?.0
            }
            (_, Form::Opaque, _) => return Ok(()),
            (Card::Plain, Form::Time | Form::MicroTime | Form::Raw, Omit::Never | Omit::Empty) => Value::Null,
            (Card::Plain, Form::Quantity, Omit::Never | Omit::Empty) => Value::from("0"),
            (Card::Plain, Form::IntOrString, Omit::Never | Omit::Empty) => Value::from(0),
            (_, _, Omit::Empty | Omit::Zero) => return Ok(()),
            (Card::Plain, Form::String, Omit::Never) => Value::String(String::new()),
            (Card::Plain, Form::Bool, Omit::Never) => Value::Bool(false),
            (Card::Plain, Form::Int32 | Form::Int64, Omit::Never) => Value::from(0),
            (Card::Plain, Form::Double, Omit::Never) => Value::from(0.0),
            (Card::Plain, Form::Duration, Omit::Never) => Value::from("0s"),
            (_, _, Omit::Never) => Value::Null,
        };
        to.insert(field.name.to_owned(), value);
        Ok(())
    }

    fn value(&mut self, form: Form, wire: Wire<'_>, depth: u32) -> Result<(Value, Zero), Fault> {
        self.values_left = self.values_left.checked_sub(1).ok_or("it has too many values")?;
        Ok(match form {
            Form::String => {
                let text = self.text(wire.bytes()?);
                let zero = Zero::when(text.is_empty());
                (Value::String(text), zero)
            }
            Form::Bool => {
                let set = wire.varint()? != 0;
                (Value::Bool(set), Zero::when(!set))
            }
            // Go keeps the low half of what is on the wire.
            Form::Int32 => number(i64::from(wire.varint()? as i32)),
            Form::Int64 => number(wire.varint()? as i64),
            Form::Double => match wire {
                Wire::Fixed64(bits) => double(f64::from_bits(bits))?,
                _ => return Err("a double was expected"),
            },
            Form::Bytes => (Value::String(STANDARD.encode(wire.bytes()?)), Zero::No),
            Form::Message(id) => {
                let mut object = Map::new();
                let zero = self.message(id.get(), wire.bytes()?, &mut object, depth + 1)?;
                (Value::Object(object), zero)
            }
            Form::Time => time(wire.bytes()?, Precision::Seconds)?,
            Form::MicroTime => time(wire.bytes()?, Precision::Micros)?,
            Form::Duration => {
                let nanos = self.only(wire.bytes()?)?.map(Wire::varint).transpose()?.unwrap_or(0) as i64;
                (Value::String(scalar::show_duration(nanos)), Zero::when(nanos == 0))
            }
            Form::Quantity => match self.only(wire.bytes()?)? {
                Some(wire) => (Value::String(self.text(wire.bytes()?)), Zero::No),
                None => (Value::from("0"), Zero::Yes),
            },
            Form::IntOrString => self.int_or_string(wire.bytes()?)?,
            Form::Raw => match self.only(wire.bytes()?)? {
                Some(wire) => (self.raw(wire.bytes()?), Zero::No),
                None => (Value::Null, Zero::Yes),
            },
            Form::Strings => self.strings(wire.bytes()?)?,
            Form::Opaque => {
                self.unknown = self.unknown.take().or(Some("a type that has no table".to_owned()));
                (Value::Null, Zero::No)
            }
        })
    }

    /// The value of field 1 of a message that has no other.
    fn only<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Wire<'a>>, Fault> {
        let mut found = None;
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next()? {
            if number != 1 || found.is_some() {
                self.unknown = self.unknown.take().or(Some(format!("field {number} of a wrapped value")));
            }
            found = (number == 1).then_some(wire).or(found);
        }
        Ok(found)
    }

    fn int_or_string(&mut self, bytes: &[u8]) -> Result<(Value, Zero), Fault> {
        let (mut kind, mut int, mut text) = (0, 0, String::new());
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next()? {
            match number {
                1 => kind = wire.varint()?,
                2 => int = wire.varint()? as i32,
                3 => text = self.text(wire.bytes()?),
                _ => return Err("an IntOrString has a field that is not known"),
            }
        }
        match kind {
            0 => Ok((Value::from(int), Zero::when(int == 0 && text.is_empty()))),
            1 => Ok((Value::String(text), Zero::No)),
            _ => Err("an IntOrString is neither"),
        }
    }

    fn strings(&mut self, bytes: &[u8]) -> Result<(Value, Zero), Fault> {
        let mut list = Vec::new();
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next()? {
            match number {
                1 => list.push(self.value(Form::String, wire, 0)?.0),
                _ => return Err("a list of strings has a field that is not known"),
            }
        }
        Ok((Value::Array(list), Zero::No))
    }

    /// JSON inside protobuf. What is no JSON (an envelope in an envelope, CBOR) is left to the server to tell.
    fn raw(&mut self, bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap_or_else(|_| {
            self.unknown = self.unknown.take().or(Some("a raw value that is no JSON".to_owned()));
            Value::Null
        })
    }

    fn text(&mut self, bytes: &[u8]) -> String {
        match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                self.unknown = self.unknown.take().or(Some("a string that is not UTF-8".to_owned()));
                String::from_utf8_lossy(bytes).into_owned()
            }
        }
    }

    fn note(&mut self, message: &Message, what: impl FnOnce() -> String) {
        if self.unknown.is_none() {
            self.unknown = Some(format!("{} {}", message.name, what()));
        }
    }
}

/// Fields that Kubernetes has taken out, and that older clients write into every object, empty.
const RETIRED: [(&str, u32); 1] = [
    // clusterName, until 1.24
    ("meta/v1.ObjectMeta", 15),
];

fn is_retired(message: &Message, number: u32, wire: &Wire<'_>) -> bool {
    matches!(wire, Wire::Bytes([])) && RETIRED.contains(&(message.name, number))
}

fn number(n: i64) -> (Value, Zero) {
    (Value::from(n), Zero::when(n == 0))
}

fn double(n: f64) -> Result<(Value, Zero), Fault> {
    if !n.is_finite() {
        return Err("a number is not finite");
    }
    // Go prints whole numbers without a point: they are integers to whoever reads the JSON.
    let whole = n.fract() == 0.0 && n.abs() < 9e15 && !(n == 0.0 && n.is_sign_negative());
    let value = if whole { Value::from(n as i64) } else { Value::from(n) };
    Ok((value, Zero::when(n == 0.0)))
}

fn time(bytes: &[u8], precision: Precision) -> Result<(Value, Zero), Fault> {
    Ok(match scalar::read_time(bytes, precision)? {
        Some(text) => (Value::String(text), Zero::No),
        None => (Value::Null, Zero::Yes),
    })
}

/// Whether `omitempty` leaves the value out: never for messages, also when they are zero.
fn is_empty(form: Form, value: &Value) -> bool {
    match (form, value) {
        (Form::String | Form::Bytes, Value::String(text)) => text.is_empty(),
        (Form::Bool, value) => *value == Value::Bool(false),
        (Form::Int32 | Form::Int64 | Form::Double, Value::Number(n)) => n.as_f64() == Some(0.0),
        (Form::Strings, Value::Array(list)) => list.is_empty(),
        _ => false,
    }
}
