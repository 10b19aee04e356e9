//! The image of a pod's first container, made of Debian's catatonit: a pod starts on a machine that never saw a network.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::pack::elf::{self, Machine};

/// What containerd is told to call it: see config/appliance/etc/containerd/config.toml.
pub const NAME: &str = "edge.internal/pause:1";

/// The image as an archive of an OCI layout, of the static program at `catatonit`.
///
/// # Errors
/// It cannot be read, or needs libraries, which the image has not.
pub fn archive(catatonit: &Path) -> Result<Vec<u8>> {
    let machine = elf::machine_of(catatonit)?;
    elf::check(catatonit, machine)?;
    let program =
        std::fs::read(catatonit).with_context(|| format!("cannot read `{}`", catatonit.display()))?;
    layout(&program, machine)
}

fn layout(program: &[u8], machine: Machine) -> Result<Vec<u8>> {
    let layer = tar(&[("pause", program, 0o755)])?;
    let diff = digest(&layer);
    let config = serde_json::to_vec(&json!({
        "architecture": machine.name(),
        "os": "linux",
        // -P: no program but itself; it waits, and buries whom nobody else does.
        "config": {"Entrypoint": ["/pause", "-P"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", &layer)],
    }))?;
    let mut entry = described("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] =
        json!({"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "1"});
    entry["platform"] = json!({"architecture": machine.name(), "os": "linux"});
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }))?;
    let blob = |bytes: &[u8]| digest(bytes).replacen(':', "/", 1);
    let names = [&config, &layer, &manifest].map(|bytes| format!("blobs/{}", blob(bytes)));
    tar(&[
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644),
        ("index.json", &index, 0o644),
        (&names[0], &config, 0o644),
        (&names[1], &layer, 0o644),
        (&names[2], &manifest, 0o644),
    ])
}

fn described(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len()})
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", super::sha256(bytes))
}

/// Files of root, of 1970.
fn tar(files: &[(&str, &[u8], u32)]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes, mode) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(*mode);
        header.set_mtime(0);
        builder.append_data(&mut header, path, *bytes)?;
    }
    Ok(builder.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_blob_lies_under_its_digest() {
        let bytes = layout(b"program", Machine::Arm64).unwrap();
        assert_eq!(bytes, layout(b"program", Machine::Arm64).unwrap());
        let mut count = 0;
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            if let Some(hex) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(hex, crate::pack::image::sha256(&bytes));
                count += 1;
            }
        }
        assert_eq!(count, 3);
    }
}
