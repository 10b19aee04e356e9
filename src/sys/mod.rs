//! The floor: durable files, tables of SQLite, digests, what manifests link to, YAML, the clock, mounts, the lock on
//! the state folder, what services are called. Knows nothing of Kubernetes.
//!
//! Every other room may use this one; it uses none.

pub mod beside;
pub mod clock;
pub mod descriptors;
pub mod digest;
pub mod direct;
#[cfg(test)]
pub mod drive;
pub mod durable;
pub mod facts;
#[doc(hidden)]
pub mod failpoint;
pub mod lock;
pub mod mounts;
pub mod pass;
pub mod priority;
pub mod program;
pub mod progress;
pub mod service;
pub mod snapctl;
pub mod tables;
pub mod yaml;
