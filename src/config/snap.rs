//! snapd's values to [`Config`] and back. A snap key is a key of `edge.toml`, a dot for each section.
//!
//! snapd hands values over as JSON. Types are strict, but the texts `"true"` and `"7"` count as what they say, since
//! gadgets and scripts write them so; and where a text is expected, `true` and `7` count as one, which snapd makes of it.

use serde_json::{Map, Value as Json};
use toml_edit::{Item, Value};

use super::error::Problem;
use super::table::{KEYS, Key};
use super::{Config, Slot, file, json, names, rules};

/// What users of an older product call `offline-mode`. It is taken as that, and not kept.
pub const ALIAS: &str = "kubelet.offline-mode";
/// The section of [`ALIAS`], which holds nothing else.
pub const SECTION: &str = "kubelet";
const MODE: &str = "offline-mode";

/// What snapd's values come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// All of them together, over the defaults.
    pub config: Config,
    /// Keys that snapd must be told, so that it shows what is in force: those that nobody set.
    pub missing: Vec<(&'static str, Json)>,
    /// Keys and sections that are to be taken out of what snapd has: that of [`ALIAS`], where it was given.
    pub gone: Vec<&'static str>,
}

/// The first words of all keys, each once.
pub fn sections() -> Vec<&'static str> {
    let mut words: Vec<&str> = KEYS.iter().filter_map(|key| key.path.split('.').next()).collect();
    words.dedup();
    words.push(SECTION);
    words
}

/// Reads all of snapd's `values` over `defaults`, or says the first thing that is wrong. `before` is what was in
/// force: by it, a changed `offline-mode` is told from one that only stands there beside [`ALIAS`].
///
/// # Errors
/// One line that names the key, the value and what was expected.
pub fn read(
    values: &Map<String, Json>,
    defaults: &Config,
    before: Option<&Config>,
) -> Result<Taken, Problem> {
    let mut reader = Reader { config: defaults.clone(), alias: None, mode: None };
    reader.section("", values)?;
    let Reader { mut config, alias, mode } = reader;
    if let Some(alias) = alias {
        let changed = mode.filter(|mode| before.is_none_or(|before| before.offline_mode != *mode));
        if changed.is_some_and(|mode| mode != alias) {
            let why =
                format!("but `{MODE}` is `{}` hint: they are two names of one key, set one of them", !alias);
            return Err(Problem::Conflict { key: ALIAS, value: alias.to_string(), why });
        }
        config.offline_mode = alias;
    }
    rules::check(&config)?;
    let missing = KEYS.iter().filter(|key| is_missing(key, values, alias.is_some()));
    let missing = missing.filter_map(|key| shown(key, &config)).collect();
    let gone = alias.map(|_| SECTION).into_iter().collect();
    Ok(Taken { config, missing, gone })
}

/// Every key that has a value, as snapd is told.
pub fn values(config: &Config) -> Vec<(&'static str, Json)> {
    KEYS.iter().filter_map(|key| shown(key, config)).collect()
}

struct Reader {
    config: Config,
    alias: Option<bool>,
    mode: Option<bool>,
}

impl Reader {
    fn section(&mut self, prefix: &str, values: &Map<String, Json>) -> Result<(), Problem> {
        for (name, value) in values.iter().filter(|(_, value)| !value.is_null()) {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            self.entry(&path, value)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &str, value: &Json) -> Result<(), Problem> {
        if path == ALIAS {
            let mut given = self.config.clone();
            fill(&mut given, MODE, path, value)?;
            self.alias = Some(given.offline_mode);
            return Ok(());
        }
        if let Some(key) = names::find(path) {
            fill(&mut self.config, key.path, path, value)?;
            if path == MODE {
                self.mode = Some(self.config.offline_mode);
            }
            return Ok(());
        }
        if path != SECTION && !names::is_section(path) {
            return Err(Problem::Unknown { key: path.to_owned(), nearest: names::nearest(path) });
        }
        let inner = value.as_object().ok_or_else(|| Problem::Value {
            key: path.to_owned(),
            value: file::shown(&item(value)),
            expected: "a section".into(),
        })?;
        self.section(path, inner)
    }
}

/// Puts a value under the key `path` into the settings; `told` is the name that a fault is told by.
fn fill(config: &mut Config, path: &str, told: &str, value: &Json) -> Result<(), Problem> {
    let Some(key) = names::find(path) else { return Ok(()) };
    let item = match (value, &key.slot) {
        (Json::String(text), slot) => Item::Value(slot.value_of(text)),
        (plain, Slot::OptionalText(..) | Slot::Texts(_)) if is_plain(plain) => {
            Item::Value(key.slot.value_of(&plain.to_string()))
        }
        (Json::Array(all), Slot::Texts(_)) => item(&Json::from_iter(all.iter().map(as_text))),
        (other, _) => item(other),
    };
    key.slot.fill(&item, config).map_err(|wrong| match wrong.of(told, file::shown(&item)) {
        // `snap set KEY=` is how people empty a key of snapd's own.
        Problem::Value { key, value, expected } if value.is_empty() => {
            let expected = format!("{expected} hint: `snap unset edge {key}` takes it out");
            Problem::Value { key, value, expected }
        }
        problem => problem,
    })
}

/// What snapd takes for a number or a boolean and has as it was written: `snap set edge bundle.gateway=42`. Not fractions,
/// of which zeros at the end are gone by then.
fn is_plain(value: &Json) -> bool {
    value.is_boolean() || value.is_i64() || value.is_u64()
}

fn as_text(value: &Json) -> Json {
    if is_plain(value) { value.to_string().into() } else { value.clone() }
}

fn item(value: &Json) -> Item {
    let text = || Value::from(value.to_string());
    Item::Value(json::to_toml(value).unwrap_or_else(text))
}

fn shown(key: &Key, config: &Config) -> Option<(&'static str, Json)> {
    key.slot.show(&mut config.clone()).map(|value| (key.path, json::of_value(&value)))
}

/// Whether snapd does not have the key. What was said through the alias goes under the right name.
fn is_missing(key: &Key, values: &Map<String, Json>, alias: bool) -> bool {
    if key.path == MODE && alias {
        return true;
    }
    let mut words = key.path.split('.');
    let first = words.next().and_then(|word| values.get(word));
    words.fold(first, |found, word| found.and_then(|found| found.get(word))).is_none_or(Json::is_null)
}

#[cfg(test)]
#[path = "snap_tests.rs"]
mod tests;
