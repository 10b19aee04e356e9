//! Changes keys in `edge.toml` and leaves everything else in it as it was, comments included.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use toml_edit::{DocumentMut, Item, Table, TableLike};

use super::error::{Error, Problem, Wrong};
use super::table::Key;
use super::{Config, file, names, read};
use crate::sys::durable;

/// One change to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Gives the key this value, as text.
    Set(String, String),
    /// Takes the key out; its section too, when nothing else is left in it.
    Unset(String),
}

impl Change {
    /// Reads `KEY=VALUE`.
    ///
    /// # Errors
    /// [`Error::NotAssignment`].
    pub fn assignment(text: &str) -> Result<Self, Error> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self::Set(key.into(), value.into())),
            _ => Err(Error::NotAssignment(text.into())),
        }
    }
}

/// Applies all `changes` to `path`, or none: the whole outcome is checked first, then written durably.
/// A file that is not there is made (0600: `mirror.proxy` may hold a password). Nothing is written when nothing changes.
///
/// # Errors
/// One line on the first change, or on the first thing in the file, that is wrong.
pub fn edit(path: &Path, changes: &[Change]) -> Result<Config, Error> {
    let before = read(path)?;
    let mut document = file::parse(path, before.as_deref().unwrap_or_default())?;
    for change in changes {
        match change {
            Change::Set(name, text) => set(&mut document, known(name)?, text)?,
            Change::Unset(name) => unset(&mut document, known(name)?),
        }
    }
    let config = Config::from_document(path, &document)?;
    let after = document.to_string();
    if before.as_deref().unwrap_or_default() != after {
        write(path, &after)?;
    }
    Ok(config)
}

fn known(name: &str) -> Result<&'static Key, Error> {
    names::find(name)
        .ok_or_else(|| Error::Given(Problem::Unknown { key: name.to_owned(), nearest: names::nearest(name) }))
}

pub(super) fn set(document: &mut DocumentMut, key: &Key, text: &str) -> Result<(), Error> {
    let mut value = key.slot.value_of(text);
    let item = Item::Value(value.clone());
    if let Err(wrong) = key.slot.fill(&item, &mut Config::default()) {
        return Err(Error::Given(wrong.of(key.path, file::shown(&item))));
    }
    let (section, name) = key.split();
    let entries = entries_of(document.as_table_mut(), section)?;
    match entries.get_mut(name).and_then(Item::as_value_mut) {
        Some(old) => {
            // What stands around the value on its line, such as a comment, stays.
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => {
            entries.insert(name, Item::Value(value));
        }
    }
    Ok(())
}

/// The entries of a section, such as `pods.self-heal`; it is made if it is not there.
fn entries_of<'a>(root: &'a mut Table, section: &str) -> Result<&'a mut dyn TableLike, Error> {
    let mut entries: &mut dyn TableLike = root;
    for name in section.split('.').filter(|name| !name.is_empty()) {
        let found = entries.get(name).map(file::shown).unwrap_or_default();
        let wrong = || Error::Given(Wrong::whole("a section".into()).of(section, found));
        let made = || {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        };
        entries = entries.entry(name).or_insert_with(made).as_table_like_mut().ok_or_else(wrong)?;
    }
    Ok(entries)
}

pub(super) fn unset(document: &mut DocumentMut, key: &Key) {
    let names: Vec<&str> = key.path.split('.').collect();
    remove(document.as_table_mut(), &names);
}

/// Removes what `names` leads to, and every section on the way that is empty then.
fn remove(entries: &mut dyn TableLike, names: &[&str]) {
    let Some((name, deeper)) = names.split_first() else { return };
    if deeper.is_empty() {
        entries.remove(name);
        return;
    }
    let Some(item) = entries.get_mut(name) else { return };
    let Some(section) = item.as_table_like_mut() else { return };
    remove(section, deeper);
    if section.is_empty() && !has_comment(item) {
        entries.remove(name);
    }
}

/// Whether somebody wrote something above or beside the section's head.
fn has_comment(section: &Item) -> bool {
    let Item::Table(table) = section else { return false };
    let decor = table.decor();
    [decor.prefix(), decor.suffix()]
        .into_iter()
        .flatten()
        .any(|raw| raw.as_str().is_some_and(|s| s.contains('#')))
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    let mode = std::fs::metadata(path).map_or(0o600, |meta| meta.permissions().mode() & 0o777);
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty() && !f.exists()) {
        durable::folder(folder, 0o755).map_err(Error::File)?;
    }
    durable::write(path, text.as_bytes(), mode).map_err(Error::File)
}
