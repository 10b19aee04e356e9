//! What stays on the build host: makes the snap of a built binary, and the appliance image. Only `edge-pack` uses it.
//!
//! Everything here gives the same bytes for the same input: times are the caller's, owners are root, and order is by
//! name.

mod elf;
pub mod image;
mod parts;
mod snap;
mod squashfs;
mod work;

/// It was asked for wrongly: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

pub use elf::{Machine, check as check_binary};
pub use snap::{Confinement, Flavour, SnapPlan, pack as pack_snap};
