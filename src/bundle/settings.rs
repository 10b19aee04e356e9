//! What bundles need to know of this machine; filled from the section `[bundle]`.

use std::path::PathBuf;

use super::Identity;
use crate::trust::is_name;

/// The settings of bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who this is, for a bundle's audience and in receipts.
    pub gateway: Option<String>,
    /// The fleet that it belongs to.
    pub fleet: Option<String>,
    /// Whether a stick with a valid bundle is imported when it is plugged in.
    pub auto_import: bool,
    /// Where sticks are mounted.
    pub media_dirs: Vec<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        let media_dirs = ["/media", "/run/media", "/mnt"].map(PathBuf::from).to_vec();
        Self { gateway: None, fleet: None, auto_import: false, media_dirs }
    }
}

impl Settings {
    /// The key of a name that cannot be one, and the name.
    pub fn improper_name(&self) -> Option<(&'static str, &str)> {
        let names = [("bundle.gateway", &self.gateway), ("bundle.fleet", &self.fleet)];
        let given = names.into_iter().filter_map(|(key, name)| Some((key, name.as_deref()?)));
        given.into_iter().find(|(_, name)| !is_name(name))
    }

    /// Who this gateway is.
    pub fn identity(&self) -> Identity {
        Identity { gateway: self.gateway.clone(), fleet: self.fleet.clone() }
    }
}
