//! Sticks that are plugged in: what is taken from them without anybody asking.

use std::path::Path;

use edge::bundle::{Gateway, auto};
use edge::sys::mounts::mounts;

use crate::bundle_disk::Mounted;

/// Takes what is on a folder as if it were the top of a stick that somebody has mounted.
pub fn take(gateway: &Gateway, stick: &Path) -> auto::Outcome {
    let at = tempfile::tempdir().unwrap();
    let mounted = Mounted::new(stick, at.path(), "bind");
    let mount = mounts().unwrap().into_iter().find(|mount| mount.at == mounted.0).unwrap();
    auto::take(gateway, &auto::Place::Mounted(mount.bare())).unwrap()
}
