//! A container image made of the static busybox, under as many names as a test wants. No registry is needed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::parts;

const APPLETS: [&str; 18] = [
    "sh", "sleep", "cat", "grep", "test", "[", "echo", "ls", "mkdir", "date", "stat", "id", "env", "true",
    "false", "wget", "nc", "hostname",
];

/// Writes a tar that `ctr images import` takes: each name an image with a configuration, and so a digest, of its own.
pub fn archive(dir: &Path, names: &[&str]) -> Result<PathBuf> {
    archive_with(dir, names, &[])
}

/// The same with more programs in `/bin`, given by their paths.
pub fn archive_with(dir: &Path, names: &[&str], programs: &[&str]) -> Result<PathBuf> {
    archive_of(dir, names, programs, (architecture(), Path::new(&parts::program("busybox")?)))
}

/// The same for another machine: its architecture in Go's words, and a static busybox of it.
pub fn archive_of(
    dir: &Path,
    names: &[&str],
    programs: &[&str],
    (architecture, busybox): (&str, &Path),
) -> Result<PathBuf> {
    let work = tempfile::tempdir_in(dir)?;
    let root = work.path().join("root");
    fs::create_dir_all(root.join("bin"))?;
    fs::create_dir_all(root.join("tmp"))?;
    fs::copy(busybox, root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    for program in programs {
        let path = Path::new(program);
        fs::copy(path, root.join("bin").join(path.file_name().unwrap_or_default()))?;
    }
    let out = work.path().join("out");
    fs::create_dir(&out)?;
    tar(&root, &out.join("layer.tar"))?;
    let layer: String =
        Sha256::digest(fs::read(out.join("layer.tar"))?).iter().map(|b| format!("{b:02x}")).collect();
    let mut manifest = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Env": ["PATH=/bin"],
                "Cmd": ["/bin/sh", "-c", "trap 'exit 0' TERM INT; sleep 2147483647 & wait"],
                "Labels": {"name": name},
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        });
        let file = format!("config-{index}.json");
        fs::write(out.join(&file), serde_json::to_vec(&config)?)?;
        manifest.push(json!({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]}));
    }
    fs::write(out.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
    let archive = dir.join("images.tar");
    tar(&out, &archive)?;
    Ok(archive)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn tar(from: &Path, to: &Path) -> Result<()> {
    let flags = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-C"];
    let status = Command::new("tar").args(flags).arg(from).arg("-cf").arg(to).arg(".").status()?;
    ensure!(status.success(), "tar of `{}` ended with {status}", from.display());
    Ok(())
}
