//! Ends what containerd of the snap has left: pods run on when it stops, and the snap's folder cannot go while
//! something is mounted in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Places;
use crate::sys::program;

/// Where containerd has runc keep the containers of pods.
const CONTAINERS: &str = "run/runc/k8s.io";
const SHIM: &str = "containerd-shim-runc-v2";

/// Ends all containers and their shims, and takes away all mounts below the snap's folder. Gives what could not be done.
pub fn clear(places: &Places) -> Vec<String> {
    let mut left = Vec::new();
    for id in names(&places.own(CONTAINERS)) {
        left.extend(delete(places, &id).err());
    }
    for pid in shims(places) {
        if let Err(error) = kill(pid, Signal::SIGKILL) {
            left.push(format!("cannot end shim {pid}: {error}"));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_else(|error| {
        left.push(format!("cannot see what is mounted: {error}"));
        String::new()
    });
    for point in below(&mounts, &places.common) {
        if let Err(error) = umount2(&point, MntFlags::MNT_DETACH) {
            left.push(format!("cannot unmount `{}`: {error}", point.display()));
        }
    }
    left
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn delete(places: &Places, id: &str) -> Result<(), String> {
    let mut runc = Command::new(places.snap.join("usr/sbin/runc"));
    runc.arg("--root").arg(places.own(CONTAINERS)).args(["delete", "--force", id]);
    program::run(&mut runc, b"").map(drop).map_err(|why| format!("cannot end container {id}: {why}"))
}

/// The shims of this containerd, by the address that they were started with.
fn shims(places: &Places) -> Vec<Pid> {
    let address = places.own("run/containerd/containerd.sock").display().to_string();
    let is_own = |pid: &i32| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        words.next().is_some_and(|program| program.ends_with(SHIM.as_bytes()))
            && words.any(|word| word == address.as_bytes())
    };
    let all = names(Path::new("/proc")).into_iter().filter_map(|name| name.parse().ok());
    all.filter(is_own).map(Pid::from_raw).collect()
}

/// Where something is mounted below `folder`, the last first.
fn below(mounts: &str, folder: &Path) -> Vec<PathBuf> {
    // Spaces and the like are written in octal there; no path of containerd's or kubelet's has any.
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> =
        points.filter(|point| point.starts_with(folder) && point != folder).collect();
    below.reverse();
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_last_goes_first_and_nothing_of_others() {
        let mounts = "\
            21 1 8:1 / / rw - ext4 /dev/a rw\n\
            22 21 8:1 /c /var/snap/edge/common rw - ext4 /dev/a rw\n\
            23 22 0:9 / /var/snap/edge/common/run/containerd/x rw - overlay o rw\n\
            24 23 0:8 / /var/snap/edge/common/run/containerd/x/y rw - proc p rw\n\
            25 21 0:7 / /var/snap/edge/commons rw - tmpfs t rw\n";
        let found = below(mounts, Path::new("/var/snap/edge/common"));
        let expected =
            ["x/y", "x"].map(|end| PathBuf::from("/var/snap/edge/common/run/containerd").join(end));
        assert_eq!(found, expected);
    }
}
