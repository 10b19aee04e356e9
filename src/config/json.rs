//! TOML and JSON, one as the other: rows are read by serde from JSON, snapd and `-o json` speak it.

use serde_json::{Map, Number, Value as Json};
use toml_edit::{Array, InlineTable, Item, Value};

/// Any item: an array of tables is a list of objects. A date is text.
pub fn of_item(item: &Item) -> Json {
    match item {
        Item::None => Json::Null,
        Item::Value(value) => of_value(value),
        Item::Table(table) => object(table.iter().map(|(name, item)| (name, of_item(item)))),
        Item::ArrayOfTables(tables) => tables
            .iter()
            .map(|table| object(table.iter().map(|(name, item)| (name, of_item(item)))))
            .collect(),
    }
}

/// A value.
pub fn of_value(value: &Value) -> Json {
    match value {
        Value::Boolean(switch) => (*switch.value()).into(),
        Value::Integer(number) => (*number.value()).into(),
        Value::Float(number) => Number::from_f64(*number.value()).map_or(Json::Null, Json::Number),
        Value::String(text) => text.value().as_str().into(),
        Value::Array(list) => list.iter().map(of_value).collect(),
        Value::InlineTable(table) => object(table.iter().map(|(name, value)| (name, of_value(value)))),
        Value::Datetime(time) => time.value().to_string().into(),
    }
}

fn object<'a>(entries: impl Iterator<Item = (&'a str, Json)>) -> Json {
    Json::Object(entries.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
}

/// JSON as TOML has it. `None` where TOML has nothing like it: a number beyond 64 bits. What is null
/// in an object is left out.
pub fn to_toml(json: &Json) -> Option<Value> {
    Some(match json {
        Json::Null => return None,
        Json::Bool(switch) => (*switch).into(),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => whole.into(),
            None if number.is_u64() => return None,
            None => number.as_f64()?.into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(list) => list.iter().map(to_toml).collect::<Option<Array>>()?.into(),
        Json::Object(entries) => {
            let mut table = InlineTable::new();
            for (name, value) in entries.iter().filter(|(_, value)| !value.is_null()) {
                table.insert(name, to_toml(value)?);
            }
            table.into()
        }
    })
}
