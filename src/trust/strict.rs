//! JSON that can be read in one way only: no key twice, no fractions, bounded depth and size.
//!
//! Two parsers that disagree about a document are how a signature comes to cover something else than what is acted on.

use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::Refusal;

/// Levels of lists and objects within one another.
const DEEPEST: u8 = 12;

/// Reads all of `bytes` as one document of type `T`. `what` names it in a refusal, `most` is its size in bytes.
///
/// # Errors
/// [`Refusal::TooLarge`] before anything is parsed, [`Refusal::Malformed`].
pub fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str, most: u64) -> Result<T, Refusal> {
    if bytes.len() as u64 > most {
        return Err(Refusal::TooLarge { what: what.into(), most });
    }
    let malformed = |e: serde_json::Error| Refusal::Malformed { what: what.into(), why: e.to_string() };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Level(DEEPEST).deserialize(&mut deserializer).map_err(malformed)?;
    deserializer.end().map_err(malformed)?;
    serde_json::from_value(value).map_err(malformed)
}

/// Reads one value; holds how many levels may still begin.
struct Level(u8);

impl Level {
    fn below<E: serde::de::Error>(&self) -> Result<Level, E> {
        let deeper = self.0.checked_sub(1);
        deeper.map(Level).ok_or_else(|| E::custom(format_args!("it is nested deeper than {DEEPEST} levels")))
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without fractions")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self.below()?)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key `{key}` stands in it twice")));
            }
            let value = entries.next_value_seed(self.below()?)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        parse(text.as_bytes(), "x", 1000).map_err(|e| e.to_string())
    }

    #[test]
    fn one_meaning_or_none() {
        assert_eq!(read(r#"{"a":[1,-2,null,true,"x"]}"#).unwrap()["a"][1], -2);
        for (text, why) in [
            (r#"{"a":1,"a":1}"#, "stands in it twice"),
            (r#"{"b":{"a":1,"\u0061":2}}"#, "stands in it twice"),
            ("1.5", "without fractions"),
            ("{} {}", "trailing"),
            ("{", "EOF"),
            ("", "EOF"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(read(&nested(usize::from(DEEPEST))).is_ok());
        assert!(read(&nested(usize::from(DEEPEST) + 2)).unwrap_err().contains("deeper"));
        assert!(read(&" ".repeat(1001)).unwrap_err().contains("more than 1000 bytes"));
    }
}
