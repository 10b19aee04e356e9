//! Arrays of tables: a room's row type is read by serde, and what is wrong in a row is named by its
//! place, such as `mirror.images[0].tags.semver`.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use toml_edit::{Array, Item, Value};

use super::error::Wrong;
use super::json;
use super::slot::Field;

/// The rows of type `T` of a key. `T` denies unknown fields and names them with dashes:
/// `#[serde(deny_unknown_fields, rename_all = "kebab-case")]`.
pub struct Rows<C: 'static, T: 'static>(pub Field<C, Vec<T>>);

/// Rows of whatever type.
pub trait AnyRows<C>: Sync {
    /// Reads all rows, or changes nothing.
    ///
    /// # Errors
    /// Where in the rows, and what was expected.
    fn fill(&self, item: &Item, into: &mut C) -> Result<(), Wrong>;
    /// The rows as a list of inline tables.
    fn show(&self, from: &mut C) -> Value;
}

impl<C, T: Serialize + DeserializeOwned> AnyRows<C> for Rows<C, T> {
    fn fill(&self, item: &Item, into: &mut C) -> Result<(), Wrong> {
        let json = json::of_item(item);
        if !json.as_array().is_some_and(|rows| rows.iter().all(Json::is_object)) {
            return Err(Wrong::whole("a list of tables".into()));
        }
        let rows = serde_path_to_error::deserialize(json).map_err(|e| {
            let place = e.path().to_string();
            Wrong::within(if place == "." { String::new() } else { place }, e.inner().to_string())
        })?;
        *(self.0)(into) = rows;
        Ok(())
    }

    fn show(&self, from: &mut C) -> Value {
        let rows = serde_json::to_value(&*(self.0)(from)).ok();
        rows.as_ref().and_then(json::to_toml).unwrap_or_else(|| Array::new().into())
    }
}
