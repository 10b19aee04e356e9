//! What the cloud's answers mean for changes that were made while it was away.

use http::StatusCode;
use serde_json::Value;

use crate::cache::{Change, ChangeKind};
use crate::kube::{codec, meta};

/// What became of one change.
#[derive(Debug, PartialEq)]
pub enum Fate {
    /// The cloud has it; the object after it, where it says so.
    Done(Option<Value>),
    /// What it is about is not there any more, or another of the same name is.
    Gone(String),
    /// It will never be taken.
    Never(String),
    /// Who made it may not, and is not let do so here either.
    Forbidden(String),
    /// Not now; and how many refusals that counts as.
    Later(String, u32),
}

/// What an answer of the cloud means for a change.
pub fn fate(change: &Change, code: StatusCode, bytes: &[u8]) -> Fate {
    let value = codec::decode(bytes)
        .and_then(codec::Decoded::whole)
        .ok()
        .or_else(|| serde_json::from_slice(bytes).ok())
        .unwrap_or(Value::Null);
    if code.is_success() {
        return Fate::Done((meta::kind(&value) != Some("Status")).then_some(value));
    }
    let said = value.get("message").and_then(Value::as_str).unwrap_or("no reason given");
    let why = format!("{} {said}", code.as_u16());
    match (change.what.kind, code) {
        // Gone already, or there already: what was wanted is so.
        (ChangeKind::Delete, StatusCode::NOT_FOUND) | (ChangeKind::Create, StatusCode::CONFLICT) => {
            Fate::Done(None)
        }
        (ChangeKind::Patch | ChangeKind::Apply, StatusCode::NOT_FOUND) => Fate::Gone(why),
        (_, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY) if is_another(&value) => Fate::Gone(why),
        (_, StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED) => Fate::Later(why, 1),
        (_, StatusCode::FORBIDDEN) => Fate::Forbidden(why),
        (_, code) if code.is_server_error() => Fate::Later(why, 1),
        _ => Fate::Never(why),
    }
}

/// Whether a refusal says that the object has another uid: it was deleted and made again under its name.
fn is_another(status: &Value) -> bool {
    let causes = status.pointer("/details/causes").and_then(Value::as_array);
    let field = |cause: &Value| cause.get("field").and_then(Value::as_str) == Some("metadata.uid");
    let said = status.get("message").and_then(Value::as_str).unwrap_or_default();
    causes.is_some_and(|causes| causes.iter().any(field))
        || said.contains("Precondition failed: UID in precondition")
}
