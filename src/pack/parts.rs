//! The parts of a node that go into the snap's node flavour: a folder of programs, libraries and links, as it lies in the
//! snap.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::elf::{self, Machine};

/// The loader of the parts that need one: in the snap, by a path that no refresh changes.
pub const LOADER: &str = "/snap/edge/current/lib/ld.so";
/// What a snap of this flavour is for; those with a loader are Debian's.
const PROGRAMS: [(&str, bool); 9] = [
    ("usr/bin/kubelet", false),
    ("usr/bin/busybox", false),
    ("usr/bin/containerd", true),
    ("usr/bin/containerd-shim-runc-v2", true),
    ("usr/sbin/apparmor_parser", true),
    ("usr/sbin/runc", true),
    ("usr/sbin/xtables-nft-multi", true),
    ("usr/lib/cni/bridge", true),
    ("usr/lib/cni/loopback", true),
];

/// Checks that what the snap is for is there, for `machine`, and finds its loader in the snap.
///
/// # Errors
/// What is missing, or what else it is.
pub fn check(folder: &Path, machine: Machine) -> Result<()> {
    for (path, has_loader) in PROGRAMS {
        let program = folder.join(path);
        let bytes = fs::read(&program).with_context(|| {
            let arch = machine.name();
            format!(
                "cannot read `{}` hint: scripts/snap --flavour node --arch {arch} gets it",
                program.display()
            )
        })?;
        let loader = elf::loader(&bytes, machine);
        let loader = loader
            .with_context(|| format!("`{}` is no program for {}", program.display(), machine.name()))?;
        let wanted = has_loader.then_some(LOADER);
        ensure!(
            loader.as_deref() == wanted,
            "`{}` has loader {loader:?}, expected {wanted:?}",
            program.display()
        );
    }
    Ok(())
}

/// Copies the folder over the tree of the snap. Links must lead to something in the folder.
///
/// # Errors
/// With the path.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("cannot read `{}`", from.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read `{}`", from.display()))?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        let told = || format!("cannot copy `{}`", source.display());
        if kind.is_dir() {
            fs::create_dir_all(&target).with_context(told)?;
            fs::set_permissions(&target, Permissions::from_mode(0o755))?;
            copy(&source, &target)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&source).with_context(told)?;
            // snapd refuses links that lead out of the snap.
            ensure!(link.is_relative(), "`{}` is a link to `{}`", source.display(), link.display());
            symlink(link, &target).with_context(told)?;
        } else {
            let runs = fs::metadata(&source).with_context(told)?.permissions().mode() & 0o111 != 0;
            fs::copy(&source, &target).with_context(told)?;
            fs::set_permissions(&target, Permissions::from_mode(if runs { 0o755 } else { 0o644 }))?;
        }
    }
    Ok(())
}
