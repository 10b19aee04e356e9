//! What Helm reads of a `Chart.yaml` and of a repository's index, field by field.
//!
//! Helm reads a `Chart.yaml` as YAML, which makes a text of `appVersion: 1.16`; an index that is JSON it reads as JSON,
//! where one number in a text's place makes all of it unusable. So scalars stand in an index as the text that was
//! written, and what has another shape than Helm's, or a name that Helm does not know, stands there not at all.

use std::borrow::Cow;
use std::fmt;

use serde::de::DeserializeSeed;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::sys::yaml;

/// What a field holds.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Flag,
    Texts,
    /// Texts by name.
    TextMap,
    /// A list of things with these fields.
    Rows(Fields),
    /// A list of whatever.
    Any,
}

type Fields = &'static [(&'static str, Shape)];

const CHART: Fields = &[
    ("annotations", Shape::TextMap),
    ("apiVersion", Shape::Text),
    ("appVersion", Shape::Text),
    ("condition", Shape::Text),
    ("dependencies", Shape::Rows(DEPENDENCY)),
    ("deprecated", Shape::Flag),
    ("description", Shape::Text),
    ("home", Shape::Text),
    ("icon", Shape::Text),
    ("keywords", Shape::Texts),
    ("kubeVersion", Shape::Text),
    ("maintainers", Shape::Rows(MAINTAINER)),
    ("name", Shape::Text),
    ("sources", Shape::Texts),
    ("tags", Shape::Text),
    ("type", Shape::Text),
    ("version", Shape::Text),
];
const MAINTAINER: Fields = &[("email", Shape::Text), ("name", Shape::Text), ("url", Shape::Text)];
const DEPENDENCY: Fields = &[
    ("alias", Shape::Text),
    ("condition", Shape::Text),
    ("enabled", Shape::Flag),
    ("import-values", Shape::Any),
    ("name", Shape::Text),
    ("repository", Shape::Text),
    ("tags", Shape::Texts),
    ("version", Shape::Text),
];
/// What an index says of a chart besides.
const PLACE: Fields =
    &[("created", Shape::Text), ("digest", Shape::Text), ("removed", Shape::Flag), ("urls", Shape::Texts)];

/// What a `Chart.yaml` says, in Helm's shapes.
///
/// # Errors
/// What is wrong with the YAML, on one line.
pub(super) fn read(text: &str) -> Result<Map<String, Value>, String> {
    let known: Value = yaml::read(text)?;
    // A tag can say that a scalar is no text; then it stands for what it was read as.
    let texts = yaml::read_with(text, Texts(&known)).unwrap_or_else(|_| texts_of(&known));
    match fields(&known, &texts, &[CHART]) {
        Some(read) => Ok(read),
        None => Err("it is no mapping".into()),
    }
}

/// A chart's entry of an index, as [`super::ChartPackage::entry`] gave it or as an older edge did, in Helm's shapes.
pub fn sound(entry: &str) -> Cow<'_, str> {
    // An index has thousands, nearly all of them as they should be.
    if Fit::Row(CHART, PLACE).deserialize(&mut serde_json::Deserializer::from_str(entry)).is_ok() {
        return Cow::Borrowed(entry);
    }
    let Ok(known) = serde_json::from_str::<Value>(entry) else { return Cow::Borrowed(entry) };
    match fields(&known, &texts_of(&known), &[CHART, PLACE]) {
        Some(read) if known.as_object() != Some(&read) => Cow::Owned(Value::Object(read).to_string()),
        _ => Cow::Borrowed(entry),
    }
}

/// The known fields of `known`, as far as they have their shapes; `texts` is the same with scalars as they were
/// written.
fn fields(known: &Value, texts: &Value, wanted: &[Fields]) -> Option<Map<String, Value>> {
    let known = known.as_object()?;
    let shaped = |(name, shape): &(&str, Shape)| {
        let value = of_shape(*shape, known.get(*name)?, &texts[*name])?;
        Some(((*name).to_owned(), value))
    };
    Some(wanted.iter().copied().flatten().filter_map(shaped).collect())
}

fn of_shape(shape: Shape, known: &Value, text: &Value) -> Option<Value> {
    let is_text = |text: &Value| text.is_string();
    match shape {
        Shape::Text => Some(text.clone()).filter(is_text),
        Shape::Flag => Some(known.clone()).filter(Value::is_boolean),
        Shape::Any => Some(known.clone()).filter(Value::is_array),
        Shape::Texts => Some(text.as_array()?.iter().filter(|text| is_text(text)).cloned().collect()),
        Shape::TextMap => {
            let texts = text.as_object()?.iter().filter(|(_, text)| is_text(text));
            Some(Value::Object(texts.map(|(name, text)| (name.clone(), text.clone())).collect()))
        }
        Shape::Rows(wanted) => {
            let rows = known.as_array()?.iter().zip(text.as_array()?);
            Some(rows.filter_map(|(known, text)| fields(known, text, &[wanted]).map(Value::Object)).collect())
        }
    }
}

/// The same with scalars as texts, where nothing is known of how they were written.
fn texts_of(known: &Value) -> Value {
    match known {
        Value::Bool(flag) => flag.to_string().into(),
        Value::Number(number) => number.to_string().into(),
        Value::Array(many) => many.iter().map(texts_of).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), texts_of(value))).collect())
        }
        Value::Null | Value::String(_) => known.clone(),
    }
}

/// Reads what is as [`fields`] would leave it, keeps nothing of it, and fails for all else.
#[derive(Clone, Copy)]
enum Fit {
    /// What a field holds.
    Value(Shape),
    /// A thing with fields of the one or the other list, and no more.
    Row(Fields, Fields),
}

impl<'de> DeserializeSeed<'de> for Fit {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fit {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Helm's shape")
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<(), E> {
        if matches!(self, Self::Value(Shape::Text)) { Ok(()) } else { Err(E::custom(NO_FIT)) }
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<(), E> {
        if matches!(self, Self::Value(Shape::Flag)) { Ok(()) } else { Err(E::custom(NO_FIT)) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let each = match self {
            Self::Value(Shape::Texts) => Self::Value(Shape::Text),
            Self::Value(Shape::Rows(fields)) => Self::Row(fields, &[]),
            Self::Value(Shape::Any) => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(());
            }
            _ => return Err(A::Error::custom(NO_FIT)),
        };
        while seq.next_element_seed(each)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        if matches!(self, Self::Value(shape) if !matches!(shape, Shape::TextMap)) {
            return Err(A::Error::custom(NO_FIT));
        }
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let shape = match self {
                Self::Value(_) => Some(Shape::Text),
                Self::Row(some, more) => {
                    some.iter().chain(more).find(|(known, _)| *known == name).map(|(_, shape)| *shape)
                }
            };
            map.next_value_seed(Self::Value(shape.ok_or_else(|| A::Error::custom(NO_FIT))?))?;
        }
        Ok(())
    }
}

const NO_FIT: &str = "it has another shape";

/// Reads a text of which the values are known, with scalars as they are written.
#[derive(Clone, Copy)]
struct Texts<'a>(&'a Value);

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.0 {
            Value::Null => deserializer.deserialize_ignored_any(IgnoredAny).map(|_| Value::Null),
            Value::Array(_) => deserializer.deserialize_seq(self),
            Value::Object(_) => deserializer.deserialize_map(self),
            _ => deserializer.deserialize_string(self),
        }
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what was there before")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let known = self.0.as_array().into_iter().flatten();
        let mut texts = Vec::new();
        for known in known {
            let text = seq.next_element_seed(Texts(known))?;
            texts.push(text.ok_or_else(|| A::Error::custom("a list is shorter than it was"))?);
        }
        // Its end is to be seen.
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(texts.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut texts = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let text = map.next_value_seed(Texts(&self.0[name.as_str()]))?;
            texts.insert(name, text);
        }
        Ok(texts.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_texts_as_they_were_written() {
        let yaml = "apiVersion: v2\nname: app\nversion: 1.10\nappVersion: 1.10\nkubeVersion: 1e3\n\
                    description: true\nicon: ~\nhome: 2026-01-01\ntype: 0x10\n\
                    keywords: [a, 1.20, ~, yes, {x: 1}]\nsources:\n- 007\n\
                    annotations: {a: true, b: 1.0, c: x, d: {e: f}, g: ~}\n\
                    maintainers: [{name: 5, email: x, other: 1}, nobody]\ndeprecated: true\n\
                    dependencies:\n- {name: sub, version: 2.0, enabled: maybe, tags: [1], import-values: [{child: 1}]}\n";
        assert_eq!(
            Value::Object(read(yaml).unwrap()),
            json!({
                "apiVersion": "v2", "name": "app", "version": "1.10", "appVersion": "1.10", "kubeVersion": "1e3",
                "description": "true", "home": "2026-01-01", "type": "0x10",
                "keywords": ["a", "1.20", "yes"], "sources": ["007"],
                "annotations": {"a": "true", "b": "1.0", "c": "x"},
                "maintainers": [{"name": "5", "email": "x"}], "deprecated": true,
                "dependencies": [{"name": "sub", "version": "2.0", "tags": ["1"], "import-values": [{"child": 1}]}],
            })
        );
    }

    #[test]
    fn what_has_another_shape_or_name_is_left_out() {
        let yaml = "name: app\nversion: 1.0.0\nappVersion: {a: b}\nkeywords: one\nannotations: [x]\n\
                    deprecated: 'yes'\nmaintainers: me\nAppVersion: 1.16\nremoved: 1\nengine: {}\nx: 1\n";
        assert_eq!(Value::Object(read(yaml).unwrap()), json!({"name": "app", "version": "1.0.0"}));
        assert!(read("[]").is_err());
        // Anchors, and a key that stands twice.
        let yaml = "name: app\nversion: &v 1.30\nappVersion: *v\nhome: a\nhome: 2.0\n";
        assert_eq!(
            Value::Object(read(yaml).unwrap()),
            json!({"name": "app", "version": "1.30", "appVersion": "1.30", "home": "2.0"})
        );
    }

    #[test]
    fn an_entry_of_before_is_mended_and_a_good_one_left_as_it_is() {
        let good = r#"{"name":"a","version":"1","urls":["charts/a-1.tgz"],"digest":"00","created":"1970-01-01T00:00:00Z"}"#;
        assert!(matches!(sound(good), Cow::Borrowed(_)));
        for (name, fits) in [
            (r#""annotations":{"a":"b"}"#, true),
            (
                r#""maintainers":[{"name":"m"}],"dependencies":[{"import-values":[{"x":[1]}],"tags":[]}]"#,
                true,
            ),
            (r#""deprecated":true,"keywords":["k"]"#, true),
            (r#""annotations":{"a":1}"#, false),
            (r#""maintainers":[{"name":"m","phone":"1"}]"#, false),
            (r#""deprecated":"true""#, false),
            (r#""appVersion":null"#, false),
            (r#""name":{}"#, false),
            (r#""urls":"u""#, false),
            (r#""other":1"#, false),
        ] {
            let entry = format!("{{{name}}}");
            let read = Fit::Row(CHART, PLACE).deserialize(&mut serde_json::Deserializer::from_str(&entry));
            assert_eq!(read.is_ok(), fits, "{entry}");
            // The long way says the same of it.
            let known: Value = serde_json::from_str(&entry).unwrap();
            let same = fields(&known, &texts_of(&known), &[CHART, PLACE]);
            assert_eq!(same.as_ref() == known.as_object(), fits, "{entry}");
        }
        let bad = r#"{"name":"a","version":"1","appVersion":1.16,"keywords":[1,"b"],"annotations":{"a":true},"x":1,"urls":["u"]}"#;
        assert_eq!(
            serde_json::from_str::<Value>(&sound(bad)).unwrap(),
            json!({"name": "a", "version": "1", "appVersion": "1.16", "keywords": ["1", "b"], "annotations": {"a": "true"},
                   "urls": ["u"]})
        );
    }
}
