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
}
