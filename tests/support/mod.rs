//! A real cluster on one machine, for the tests: etcd (or kine), kube-apiserver, controller-manager, scheduler,
//! containerd, kubelet, and edge between them. Nothing here stands in for a part of Kubernetes; the only stand-ins are
//! the ways in which a cloud goes away.
//!
//! - `machine`   namespaces that behave like a machine of their own: addresses, disks, `/run`, power switch
//! - `process`   one program started in a machine, its log, its signals
//! - `cluster`   the cloud side; `cut` takes it away in each of the usual ways, with `front` and `names`; `backup` brings an
//!   earlier one back
//! - `client`    kubectl, kubeconfigs, waiting
//! - `node`      the gateway, with its power switch; `runtime`, `kubelet` and `edge` are what runs on it
//! - `pod`       what the API server, or a kubelet, says of pods
//! - `keys`      the authorities, certificates and kubeconfigs
//! - `image`     a container image made of a static busybox
//! - `scene`     a gateway that has joined: where scenarios begin
//! - `vm`        a virtual machine that boots an appliance image; `power` is its disk whose cache a power cut empties
//! - `monitor`   what is plugged into it while it runs
//! - `workload`  the standard pods of the scenario tests
//! - `parts`     where `scripts/parts` put the programs
//!
//! The tests need root. Whatever a run leaves behind goes when its process ends, however it ends: each machine's
//! first process and the undertaker hold a pipe to the test process.
#![allow(dead_code, reason = "each test target uses a part of it")]
#![allow(
    clippy::disallowed_methods,
    reason = "test files need not survive a power cut, nor times a time floor"
)]
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "this is test code"
)]

mod backup;
mod client;
mod cluster;
mod cut;
mod edge;
mod front;
mod image;
pub mod keys;
mod kubelet;
pub mod machine;
pub mod monitor;
mod names;
mod node;
pub mod parts;
mod pod;
pub mod power;
mod process;
mod runtime;
mod scene;
mod undertaker;
pub mod vm;
pub mod workload;

#[allow(unused_imports, reason = "each test target uses a part of it")]
pub use self::{
    cluster::{Cluster, ClusterOptions, KUBE_ADDRESS, KUBE_NAME, Layout},
    cut::Cut,
    edge::Edge,
    image::{archive as image_archive, archive_of as image_archive_of},
    keys::{Authority, Pair, kubeconfig, token_kubeconfig, with_user},
    kubelet::Kubelet,
    machine::Machine,
    node::{Node, NodeOptions},
    parts::{kubectl_path, network_part},
    pod::{Container, Pod},
    process::Process,
    runtime::Containerd,
    scene::Scene,
};

use std::time::Duration;

/// Whole seconds, as deadlines are written.
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
