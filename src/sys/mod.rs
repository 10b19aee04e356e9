//! The floor: durable files, the clock, the lock on the state folder. Knows nothing of Kubernetes.
//!
//! Every other room may use this one; it uses none.

pub mod clock;
pub mod durable;
pub mod lock;
