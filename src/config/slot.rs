//! The kinds of value a key can hold: how each is read, checked and written.
//!
//! A slot reaches its field through a function, so that the table and the rooms' settings cannot
//! drift apart: the compiler holds the type of the one to the type of the other.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml_edit::Value;

use super::quantity;

/// Reaches one field of the settings `C`.
pub type Field<C, T> = fn(&mut C) -> &mut T;

/// What a key holds, and where it goes.
pub enum Slot<C> {
    /// `true` or `false`.
    Switch(Field<C, bool>),
    /// An absolute path.
    Path(Field<C, PathBuf>),
    /// An absolute path that need not be given; with the one shown as an example.
    OptionalPath(Field<C, Option<PathBuf>>, &'static str),
    /// A time span within bounds, both ends included.
    Span(Field<C, Duration>, Duration, Duration),
    /// `ip:port`.
    Address(Field<C, SocketAddr>),
    /// `ip:port` with an address that only this machine reaches.
    Loopback(Field<C, SocketAddr>),
    /// `unix:///path/of/a.sock`.
    UnixSocket(Field<C, String>),
}

impl<C> Slot<C> {
    /// What a value must be, in words for an error and for the documentation.
    pub fn expected(&self) -> String {
        match self {
            Self::Switch(_) => "`true` or `false`".into(),
            Self::Path(_) | Self::OptionalPath(..) => "an absolute path".into(),
            Self::Span(_, least, most) => format!(
                "a duration from `{}` to `{}`, such as `5s` or `1h30m`",
                quantity::span_text(*least),
                quantity::span_text(*most)
            ),
            Self::Address(_) => "an address and port such as `127.0.0.1:5000` or `[::1]:5000`".into(),
            Self::Loopback(_) => "a loopback address and port such as `127.0.0.1:6445`".into(),
            Self::UnixSocket(_) => "a unix socket such as `unix:///run/containerd/containerd.sock`".into(),
        }
    }

    /// Puts `value` into its field. `None` if it is not what is expected; nothing is changed then.
    pub fn fill(&self, value: &Value, into: &mut C) -> Option<()> {
        match self {
            Self::Switch(field) => *field(into) = value.as_bool()?,
            Self::Path(field) => *field(into) = absolute(value.as_str()?)?,
            Self::OptionalPath(field, _) => *field(into) = Some(absolute(value.as_str()?)?),
            Self::Span(field, least, most) => {
                *field(into) = quantity::span(value.as_str()?).filter(|d| d >= least && d <= most)?;
            }
            Self::Address(field) => *field(into) = value.as_str()?.parse().ok()?,
            Self::Loopback(field) => {
                *field(into) = value.as_str()?.parse().ok().filter(|a: &SocketAddr| a.ip().is_loopback())?;
            }
            Self::UnixSocket(field) => {
                let text = value.as_str()?;
                absolute(text.strip_prefix("unix://")?)?;
                *field(into) = text.to_owned();
            }
        }
        Some(())
    }

    /// What stands in the field now. `None` if nothing does.
    pub fn show(&self, from: &mut C) -> Option<Value> {
        Some(match self {
            Self::Switch(field) => (*field(from)).into(),
            Self::Path(field) => path_text(field(from)).into(),
            Self::OptionalPath(field, _) => path_text(field(from).as_deref()?).into(),
            Self::Span(field, ..) => quantity::span_text(*field(from)).into(),
            Self::Address(field) | Self::Loopback(field) => field(from).to_string().into(),
            Self::UnixSocket(field) => field(from).as_str().into(),
        })
    }

    /// A value to show where nothing stands in the field by default.
    pub fn example(&self) -> Option<&'static str> {
        match self {
            Self::OptionalPath(_, example) => Some(example),
            _ => None,
        }
    }

    /// Turns text without a type (a command line, the environment, snapd) into a value of this kind's type.
    pub fn value_of(&self, text: &str) -> Value {
        match (self, text) {
            (Self::Switch(_), "true") => true.into(),
            (Self::Switch(_), "false") => false.into(),
            _ => text.into(),
        }
    }
}

fn absolute(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    (path.is_absolute() && !text.contains('\0')).then(|| path.to_path_buf())
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
