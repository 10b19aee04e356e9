//! The floor: durable files, digests, the clock, the lock on the state folder. Knows nothing of Kubernetes.
//!
//! Every other room may use this one; it uses none.

pub mod clock;
pub mod digest;
pub mod durable;
pub mod lock;
pub mod progress;
pub mod snapctl;
