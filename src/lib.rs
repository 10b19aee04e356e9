//! edge keeps a Kubernetes gateway working when the cloud is gone.
//!
//! # Layout
//!
//! Rooms are cut by what they are for. Arrows point down only:
//! `cli` -> `daemon`, `config` -> rooms -> ground -> `sys`; rooms never import one another.
//! `tests/it/house.rs` reads the imports and fails where an arrow runs up.
//!
//! | floor  | rooms |
//! |--------|-------|
//! | top    | [`cli`] the only code that prints; [`daemon`] supervision and control socket; [`config`] |
//! | rooms  | [`proxy`], [`pods`], [`registry`] |
//! | ground | [`cache`], [`store`], [`trust`], [`oci`], [`kube`], [`cri`], [`link`], [`health`] |
//! | floor  | [`sys`] |

pub mod cache;
pub mod cli;
pub mod config;
pub mod cri;
pub mod daemon;
pub mod health;
pub mod kube;
pub mod link;
pub mod oci;
pub mod pods;
pub mod proxy;
pub mod registry;
pub mod store;
pub mod sys;
pub mod trust;
