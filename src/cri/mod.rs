//! CRI and containerd gRPC clients.

mod settings;

pub use settings::Settings;
