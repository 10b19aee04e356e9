//! Every test that goes through the public doors: one binary, so that it links once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]

mod baseline;
mod callers;
mod certificates;
mod clock;
mod command;
mod config;
mod cri;
mod daemon_faults;
mod disk_faults;
mod eviction;
mod house;
mod join;
mod link;
mod newer_kinds;
mod offline_mode;
mod offline_truth;
mod outage;
mod outages;
mod pod_print;
mod pods;
mod pods_heal;
mod pods_logs;
mod pods_orders;
mod pods_restart;
mod pull_secret;
mod readme;
mod registry;
mod registry_charts;
mod registry_clients;
mod registry_cluster;
mod registry_containerd;
mod registry_daemon;
mod registry_faults;
mod registry_pull;
mod registry_rights;
mod registry_secure;
mod registry_spec;
mod registry_tools;
mod snap_hooks;
mod snap_pack;
mod snap_real;
mod store;
mod store_crash;
#[path = "../support/mod.rs"]
mod support;
mod tasks;
mod teardown;
mod units;
