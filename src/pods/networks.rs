//! What CNI plugins noted of pods' networks, and a power cut left unreadable. libcni, flannel and host-local do not sync
//! what they write: after the cut such a file is there and empty, the plugin that is to take the network down cannot read
//! it, so kubelet can never stop the sandbox of the boot before, and never makes the pod a new one
//! (containernetworking/cni issue 1055). Without the file they take the network down all the same.

use std::fs::{self, Metadata};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where plugins keep their notes: as a service of the host, and as a strict snap sees the host.
pub const FOLDERS: [&str; 2] = ["/var/lib/cni", "/var/lib/snapd/hostfs/var/lib/cni"];

/// Each file in these is one JSON document of a network of a sandbox: of libcni, older and newer, of flannel, of Multus.
const DOCUMENTS: [&str; 4] = ["results", "cache/results", "flannel", "multus"];

/// host-local's, a folder for each network, with a file for each address that is given away, which says to whom.
const ADDRESSES: &str = "networks";

/// The most bytes that a note has; who finds a larger one did not find a note.
const MOST: u64 = 1 << 20;

/// Longer than any plugin takes between making a file and filling it.
const WRITTEN_BY_THEN: Duration = Duration::from_secs(1);

/// A note that nobody can read.
#[derive(Debug, PartialEq, Eq)]
struct Broken {
    path: PathBuf,
    /// Device, inode, size and time of the last change: another file by this name has others.
    file: (u64, u64, u64, i64, i64),
}

/// Removes the notes below `folder` that nobody can read, and that are as they are for [`WRITTEN_BY_THEN`]; gives their
/// paths, and the errors of those that cannot be removed. A folder that is not there has none. Sleeps, if there are any.
pub fn clear(folder: &Path) -> (Vec<PathBuf>, Vec<io::Error>) {
    let found = broken(folder);
    if found.is_empty() {
        return (Vec::new(), Vec::new());
    }
    std::thread::sleep(WRITTEN_BY_THEN);
    let still = broken(folder);
    let (mut gone, mut failed) = (Vec::new(), Vec::new());
    for note in found.into_iter().filter(|note| still.contains(note)) {
        match fs::remove_file(&note.path) {
            Ok(()) => gone.push(note.path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                failed.push(io::Error::new(error.kind(), format!("{}: {error}", note.path.display())))
            }
        }
    }
    (gone, failed)
}

fn broken(folder: &Path) -> Vec<Broken> {
    let mut found = Vec::new();
    for documents in DOCUMENTS {
        for (path, is) in files(&folder.join(documents)) {
            note(&mut found, path, &is, |text| {
                serde_json::from_slice::<serde::de::IgnoredAny>(text).is_err()
            });
        }
    }
    for network in fs::read_dir(folder.join(ADDRESSES)).into_iter().flatten().flatten() {
        for (path, is) in files(&network.path()) {
            // The others there are its lock, and the address that it gave last.
            let name = path.file_name().and_then(|name| name.to_str());
            if name.is_some_and(|name| name.parse::<IpAddr>().is_ok()) {
                note(&mut found, path, &is, |text| text.iter().all(|byte| *byte == 0));
            }
        }
    }
    found
}

/// The plain files of a folder.
fn files(folder: &Path) -> impl Iterator<Item = (PathBuf, Metadata)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let is = entry.metadata().ok()?;
        (is.is_file() && is.len() <= MOST).then(|| (entry.path(), is))
    })
}

fn note(found: &mut Vec<Broken>, path: PathBuf, is: &Metadata, is_broken: impl Fn(&[u8]) -> bool) {
    if fs::read(&path).is_ok_and(|text| is_broken(&text)) {
        let file = (is.dev(), is.ino(), is.size(), is.mtime(), is.mtime_nsec());
        found.push(Broken { path, file });
    }
}

#[cfg(test)]
#[path = "networks_tests.rs"]
mod tests;
