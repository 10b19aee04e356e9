//! What the appliance is told; filled from the section `[system]`.

use std::path::PathBuf;

/// The settings of the appliance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether an import that brought another system boots it at once. Else that waits for a person.
    pub reboot_after_import: bool,
    /// The one stream whose bundles may bring systems. `None`: that of the system that came last.
    pub stream: Option<String>,
    /// The top of the file system that holds the slots and identity; another one than `/` for tests alone.
    pub root: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self { reboot_after_import: false, stream: None, root: PathBuf::from("/") }
    }
}
