//! The OCI registry and chart repository on one listener.

mod settings;

pub use settings::Settings;
