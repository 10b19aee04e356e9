//! The kinds of value a key can hold: how each is read, checked and written.
//!
//! A slot reaches its field through a function, so that the table and the rooms' settings cannot
//! drift apart: the compiler holds the type of the one to the type of the other.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml_edit::{Array, Item, Value};

use super::error::Wrong;
use super::json;
use super::quantity;
use super::rows::AnyRows;

/// Reaches one field of the settings `C`.
pub type Field<C, T> = fn(&mut C) -> &mut T;

/// What a key holds, and where it goes. The text of an optional one is an example.
pub enum Slot<C: 'static> {
    /// `true` or `false`.
    Switch(Field<C, bool>),
    /// One of two words; the field says whether it is the second.
    Either(Field<C, bool>, [&'static str; 2]),
    /// A whole number within bounds, both ends included.
    Number(Field<C, u32>, u32, u32),
    /// An absolute path.
    Path(Field<C, PathBuf>),
    /// An absolute path that need not be given.
    OptionalPath(Field<C, Option<PathBuf>>, &'static str),
    /// Absolute paths.
    Paths(Field<C, Vec<PathBuf>>),
    /// Any text without control characters that need not be given.
    OptionalText(Field<C, Option<String>>, &'static str),
    /// Texts without control characters.
    Texts(Field<C, Vec<String>>),
    /// A time span within bounds, both ends included.
    Span(Field<C, Duration>, Duration, Duration),
    /// Bytes within bounds, both ends included.
    Size(Field<C, u64>, u64, u64),
    /// Bytes, at least one.
    OptionalSize(Field<C, Option<u64>>, &'static str),
    /// Bytes a second within bounds, both ends included.
    Rate(Field<C, u64>, u64, u64),
    /// Bytes a second, at least one.
    OptionalRate(Field<C, Option<u64>>, &'static str),
    /// `ip:port`.
    Address(Field<C, SocketAddr>),
    /// `ip:port` with an address that only this machine reaches.
    Loopback(Field<C, SocketAddr>),
    /// `ip:port` with an IPv4 address that no router passes on.
    LinkLocal(Field<C, SocketAddr>),
    /// `unix:///path/of/a.sock`.
    UnixSocket(Field<C, String>),
    /// An array of tables, such as `[[mirror.images]]`.
    Rows(&'static dyn AnyRows<C>),
}

impl<C> Slot<C> {
    /// The one file that it names, if it is of that kind and given.
    pub fn file(&self, config: &mut C) -> Option<PathBuf> {
        match self {
            Self::OptionalPath(field, _) => field(config).clone(),
            _ => None,
        }
    }

    /// What a value must be, in words for an error and for the documentation.
    pub fn expected(&self) -> String {
        match self {
            Self::Switch(_) => "`true` or `false`".into(),
            Self::Either(_, [first, second]) => format!("`{first}` or `{second}`"),
            Self::Number(_, least, most) => format!("a whole number from `{least}` to `{most}`"),
            Self::Path(_) | Self::OptionalPath(..) => "an absolute path".into(),
            Self::Paths(_) => "a list of absolute paths such as `[\"/media\", \"/mnt\"]`".into(),
            Self::OptionalText(..) => "a text on one line".into(),
            Self::Texts(_) => "a list of texts such as `[\"a\", \"b\"]`".into(),
            Self::Span(_, least, most) => format!(
                "a duration from `{}` to `{}`, such as `5s` or `1h30m`",
                quantity::span_text(*least),
                quantity::span_text(*most)
            ),
            Self::Size(_, least, most) => format!(
                "a size from `{}` to `{}`, such as `512MiB` or `10GiB`",
                quantity::size_text(*least),
                quantity::size_text(*most)
            ),
            Self::OptionalSize(..) => "a size such as `512MiB` or `10GiB`".into(),
            Self::Rate(_, least, most) => format!(
                "a rate from `{}/s` to `{}/s`, such as `512KiB/s` or `2MiB/s`",
                quantity::size_text(*least),
                quantity::size_text(*most)
            ),
            Self::OptionalRate(..) => "a rate such as `512KiB/s` or `2MiB/s`".into(),
            Self::Address(_) => "an address and port such as `127.0.0.1:5000` or `[::1]:5000`".into(),
            Self::Loopback(_) => "a loopback address and port such as `127.0.0.1:6445`".into(),
            Self::LinkLocal(_) => "a link-local address and port such as `169.254.64.45:6445`, or for pods of IPv6 a unique local one such as `[fd69:6467:6500::45]:6445`".into(),
            Self::UnixSocket(_) => "a unix socket such as `unix:///run/containerd/containerd.sock`".into(),
            Self::Rows(_) => "a list of tables".into(),
        }
    }

    /// Puts what `item` holds into its field; nothing is changed if it is not what is expected.
    ///
    /// # Errors
    /// What was expected, and for rows where in them it was.
    pub fn fill(&self, item: &Item, into: &mut C) -> Result<(), Wrong> {
        if let Self::Rows(rows) = self {
            return rows.fill(item, into);
        }
        let filled = item.as_value().and_then(|value| self.fill_value(value, into));
        filled.ok_or_else(|| Wrong::whole(self.expected()))
    }

    fn fill_value(&self, value: &Value, into: &mut C) -> Option<()> {
        match self {
            Self::Switch(field) => *field(into) = value.as_bool()?,
            Self::Either(field, words) => {
                let given = value.as_str()?;
                *field(into) = words.iter().position(|word| *word == given)? == 1;
            }
            Self::Number(field, least, most) => {
                let number = u32::try_from(value.as_integer()?).ok()?;
                *field(into) = Some(number).filter(|n| n >= least && n <= most)?;
            }
            Self::Path(field) => *field(into) = absolute(value.as_str()?)?,
            Self::OptionalPath(field, _) => *field(into) = Some(absolute(value.as_str()?)?),
            Self::Paths(field) => *field(into) = each(value, absolute)?,
            Self::OptionalText(field, _) => *field(into) = Some(line(value.as_str()?)?),
            Self::Texts(field) => *field(into) = each(value, line)?,
            Self::Span(field, least, most) => {
                *field(into) = quantity::span(value.as_str()?).filter(|d| d >= least && d <= most)?;
            }
            Self::Size(field, least, most) => {
                *field(into) = quantity::size(value.as_str()?).filter(|s| s >= least && s <= most)?;
            }
            Self::OptionalSize(field, _) => {
                *field(into) = Some(quantity::size(value.as_str()?).filter(|s| *s > 0)?);
            }
            Self::Rate(field, least, most) => {
                *field(into) = quantity::rate(value.as_str()?).filter(|r| r >= least && r <= most)?;
            }
            Self::OptionalRate(field, _) => {
                *field(into) = Some(quantity::rate(value.as_str()?).filter(|r| *r > 0)?);
            }
            Self::Address(field) => *field(into) = value.as_str()?.parse().ok()?,
            Self::Loopback(field) => {
                *field(into) = value.as_str()?.parse().ok().filter(|a: &SocketAddr| a.ip().is_loopback())?;
            }
            Self::LinkLocal(field) => {
                // Pods reach no link-local address of IPv6 but those of their own link.
                let local = |a: &SocketAddr| match a.ip() {
                    IpAddr::V4(ip) => ip.is_link_local() && a.port() != 0,
                    IpAddr::V6(ip) => ip.is_unique_local() && a.port() != 0,
                };
                *field(into) = value.as_str()?.parse().ok().filter(local)?;
            }
            Self::UnixSocket(field) => {
                let text = value.as_str()?;
                absolute(text.strip_prefix("unix://")?)?;
                *field(into) = text.to_owned();
            }
            Self::Rows(_) => return None,
        }
        Some(())
    }

    /// What stands in the field now. `None` if nothing does.
    pub fn show(&self, from: &mut C) -> Option<Value> {
        Some(match self {
            Self::Switch(field) => (*field(from)).into(),
            Self::Either(field, [first, second]) => {
                let word: &str = if *field(from) { second } else { first };
                word.into()
            }
            Self::Number(field, ..) => i64::from(*field(from)).into(),
            Self::Path(field) => path_text(field(from)).into(),
            Self::OptionalPath(field, _) => path_text(field(from).as_deref()?).into(),
            Self::Paths(field) => list(field(from).iter().map(|path| path_text(path))),
            Self::OptionalText(field, _) => field(from).as_deref()?.into(),
            Self::Texts(field) => list(field(from).iter().cloned()),
            Self::Span(field, ..) => quantity::span_text(*field(from)).into(),
            Self::Size(field, ..) => quantity::size_text(*field(from)).into(),
            Self::OptionalSize(field, _) => quantity::size_text((*field(from))?).into(),
            Self::Rate(field, ..) => format!("{}/s", quantity::size_text(*field(from))).into(),
            Self::OptionalRate(field, _) => format!("{}/s", quantity::size_text((*field(from))?)).into(),
            Self::Address(field) | Self::Loopback(field) | Self::LinkLocal(field) => {
                field(from).to_string().into()
            }
            Self::UnixSocket(field) => field(from).as_str().into(),
            Self::Rows(rows) => rows.show(from),
        })
    }

    /// A value to show where nothing stands in the field by default.
    pub fn example(&self) -> Option<&'static str> {
        match self {
            Self::OptionalPath(_, example)
            | Self::OptionalText(_, example)
            | Self::OptionalSize(_, example)
            | Self::OptionalRate(_, example) => Some(example),
            _ => None,
        }
    }

    /// Turns text without a type (a command line, the environment) into a value of this kind's type.
    /// A list is written as JSON or as in `edge.toml`; one of texts also with commas in between.
    pub fn value_of(&self, text: &str) -> Value {
        match (self, text) {
            (Self::Switch(_), "true") => true.into(),
            (Self::Switch(_), "false") => false.into(),
            (Self::Number(..), _) => text.parse::<i64>().map_or_else(|_| text.into(), Into::into),
            (Self::Paths(_) | Self::Texts(_) | Self::Rows(_), _) if text.trim_start().starts_with('[') => {
                let written = serde_json::from_str(text).ok().and_then(|read| json::to_toml(&read));
                written.or_else(|| text.parse().ok()).unwrap_or_else(|| text.into())
            }
            (Self::Paths(_) | Self::Texts(_), "") => Array::new().into(),
            (Self::Paths(_) | Self::Texts(_), _) => list(text.split(',').map(|one| one.trim().to_owned())),
            _ => text.into(),
        }
    }
}

fn absolute(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    (path.is_absolute() && !text.contains('\0')).then(|| path.to_path_buf())
}

fn line(text: &str) -> Option<String> {
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

fn each<T>(value: &Value, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(|one| read(one.as_str()?)).collect()
}

fn list(texts: impl Iterator<Item = String>) -> Value {
    texts.collect::<Array>().into()
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
