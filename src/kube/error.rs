//! What can be wrong with Kubernetes input.

/// Why a text or a body is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not `version/resource` or `group/version/resource`.
    #[error("`{text}` names no resource hint: write `v1/pods` or `apps/v1/deployments`")]
    ParseResource {
        /// What was given.
        text: String,
    },
    /// A label or field selector that the API server would refuse.
    #[error("selector `{selector}` cannot be parsed: {reason}")]
    ParseSelector {
        /// What was given.
        selector: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Bytes that are not the protobuf they should be.
    #[error("protobuf of `{what}` cannot be decoded: {reason}")]
    DecodeProtobuf {
        /// The kind, or the part of the stream.
        what: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A kind that there is no table for.
    #[error("kind `{kind}` of `{api_version}` has no protobuf table hint: ask the server for JSON")]
    UnknownKind {
        /// Its `apiVersion`.
        api_version: String,
        /// Its `kind`.
        kind: String,
    },
    /// Something in a message that there is no table for.
    #[error("protobuf has `{what}`, which is not known hint: ask the server for JSON")]
    UnknownField {
        /// The message and the field's number, or what else it is.
        what: String,
    },
    /// A JSON value that does not fit the protobuf field of its name.
    #[error("`{field}` cannot be written as protobuf: {reason}")]
    EncodeProtobuf {
        /// Kind and path of the field.
        field: String,
        /// Why not.
        reason: &'static str,
    },
    /// A text that is not JSON.
    #[error("body is no JSON")]
    ParseJson {
        /// Where and why.
        source: serde_json::Error,
    },
    /// A list or watch that cannot be cut into objects.
    #[error("{stream} cannot be read: {reason}")]
    SplitStream {
        /// `list` or `watch`.
        stream: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A patch that cannot be applied to the object.
    #[error("patch cannot be applied at `{field}`: {reason}")]
    ApplyPatch {
        /// Path of the field; empty for the whole.
        field: String,
        /// Why not.
        reason: String,
    },
}

impl Error {
    /// The same error of a patch, one field further out.
    pub(super) fn within(mut self, outer: &str) -> Error {
        if let Error::ApplyPatch { field, .. } = &mut self {
            let dot = if field.is_empty() { "" } else { "." };
            *field = format!("{outer}{dot}{field}");
        }
        self
    }
}
