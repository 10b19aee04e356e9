//! edge keeps a Kubernetes gateway working when the cloud is gone.
//!
//! # Layout
//!
//! Rooms are cut by what they are for. Arrows point down only: `cli` -> `daemon` -> `config` -> rooms -> ground ->
//! `sys`, and any of them may skip a storey. Rooms never import one another, parts of the ground neither: each stands on
//! `sys` alone. `config` takes only their `Settings`. Only `cli` prints. `tests/it/house.rs` reads the imports and fails
//! where an arrow runs up or sideways.
//!
//! | storey | parts |
//! |--------|-------|
//! | top    | [`cli`] the only code that prints; [`daemon`] supervision and control socket; [`config`] edge.toml |
//! | rooms  | [`proxy`], [`pods`], [`registry`], [`mirror`], [`bundle`], [`node`], [`system`] |
//! | ground | [`cache`], [`store`], [`trust`], [`oci`], [`git`], [`kube`], [`cri`], [`link`], [`health`] |
//! | floor  | [`sys`]; [`pack`] the snap and the image, on the build host only |

pub mod bundle;
pub mod cache;
pub mod cli;
pub mod config;
pub mod cri;
pub mod daemon;
pub mod git;
pub mod health;
pub mod kube;
pub mod link;
pub mod mirror;
pub mod node;
pub mod oci;
pub mod pack;
pub mod pods;
pub mod proxy;
pub mod registry;
pub mod store;
pub mod sys;
pub mod system;
pub mod trust;
