//! Every test that goes through the public doors: one binary, so that it links once.

#[cfg(test)]
mod baseline;
#[cfg(test)]
mod outages;
#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod command;
mod config;
