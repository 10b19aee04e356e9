//! A folder as a squashfs, with the options that snapd and its store use.
//!
//! mksquashfs makes it, not a library: the store unpacks a snap, packs it again with this program, and compares the
//! bytes; an encoder of another origin would give others.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Packs what is in `folder` into `image`; every time within is `epoch`, in seconds since 1970.
///
/// # Errors
/// mksquashfs is missing, or what it says.
pub fn pack(folder: &Path, image: &Path, epoch: i64) -> Result<()> {
    let output = Command::new("mksquashfs")
        .args([folder, image])
        .args([
            "-noappend",
            "-comp",
            "xz",
            "-no-fragments",
            "-all-root",
            "-no-xattrs",
            "-no-progress",
            "-quiet",
        ])
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .stdin(Stdio::null())
        .output()
        .context("cannot run `mksquashfs` hint: apt-get install squashfs-tools")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "mksquashfs failed: {}",
        said.split_whitespace().collect::<Vec<_>>().join(" ")
    );
    Ok(())
}
