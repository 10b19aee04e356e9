//! `[pods]` of the configuration.

use super::heal;

/// What may be done to pods without being asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `[pods.self-heal]`.
    pub self_heal: heal::Settings,
}
