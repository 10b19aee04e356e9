//! CRI-O has no call for pins: it reads them from its configuration, where edge keeps a file of its own. It reads it
//! again on SIGHUP, as `systemctl reload crio` sends it. What CRI-O makes of it is seen in CRI's `pinned`.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Mark;
use super::needed::{Needed, needed, normalised};
use crate::cri::{Error, Runtime, v1};
use crate::sys::durable;

/// edge's file, below CRI-O's folder.
const DROP_IN: &str = "crio.conf.d/50-edge-pins.conf";
/// CRI-O reads its configuration beside its other work; it is given this often a fifth of a second.
const TRIES: u32 = 15;
const TRY: Duration = Duration::from_millis(200);

/// Writes the file that pins what `pods` need, or removes it where they need nothing; what prevents that it has an
/// effect, if anything.
///
/// # Errors
/// The runtime's.
pub async fn look(
    runtime: &Runtime,
    folder: &Path,
    pods: &[Value],
    mark: &Mark,
) -> Result<Option<String>, Error> {
    let name = runtime.version().await?.runtime_name;
    if name != "cri-o" {
        let why = format!("images are not pinned: `{name}` is neither containerd nor CRI-O");
        return Ok((!pods.is_empty()).then_some(why));
    }
    let needed = needed(pods);
    let marked = if needed.is_empty() { Ok(()) } else { mark.set() };
    let changed = match write(&folder.join(DROP_IN), &needed) {
        Ok(changed) => changed,
        Err(error) => return Ok(Some(format!("images are not pinned: {error}"))),
    };
    let marked = if needed.is_empty() { mark.clear() } else { marked };
    if changed && let Err(error) = reload(runtime).await {
        tracing::warn!(%error, "CRI-O was not told to read its configuration again");
    }
    let mut left = free(runtime, &needed).await?;
    for _ in 0..TRIES {
        if !changed || left.is_none() {
            break;
        }
        tokio::time::sleep(TRY).await;
        left = free(runtime, &needed).await?;
    }
    let late = left.map(|image| {
        format!(
            "CRI-O does not keep `{image}` yet hint: `systemctl reload crio`, and it reads its pins again"
        )
    });
    Ok(late.or(marked.err().map(|error| error.to_string())))
}

/// An image that is needed and not pinned, if there is one.
async fn free(runtime: &Runtime, needed: &Needed) -> Result<Option<String>, Error> {
    let images = runtime.images().await?;
    let mut free = images.iter().filter(|image| !image.pinned);
    Ok(free.find_map(|image| wanted(image, needed)).map(str::to_owned))
}

/// Has CRI-O read its configuration again. Whoever else listens in its place is left alone.
async fn reload(runtime: &Runtime) -> std::io::Result<()> {
    let Some(pid) = runtime.listener().await? else { return Ok(()) };
    if std::fs::read_to_string(format!("/proc/{pid}/comm"))?.trim() != "crio" {
        return Err(std::io::Error::other(format!("process {pid} listens at its socket, and is not `crio`")));
    }
    kill(Pid::from_raw(pid), Signal::SIGHUP).map_err(std::io::Error::from)
}

/// The name by which an image is needed, if it is.
fn wanted<'i>(image: &'i v1::Image, needed: &Needed) -> Option<&'i str> {
    let tags = image.repo_tags.iter().find(|tag| needed.names.contains(&normalised(tag)));
    let by_digest = |name: &&String| name.split_once('@').is_some_and(|(_, d)| needed.digests.contains(d));
    tags.or_else(|| image.repo_digests.iter().find(by_digest)).map(String::as_str)
}

/// Makes the file what it should be; false if it is so already.
fn write(path: &Path, needed: &Needed) -> std::io::Result<bool> {
    let there = match std::fs::read(path) {
        Ok(there) => Some(there),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(durable::named(e, "read", path)),
    };
    if needed.is_empty() {
        durable::remove(path)?;
        return Ok(there.is_some());
    }
    let text = drop_in(needed);
    if there.as_deref() == Some(text.as_bytes()) {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        durable::folder(folder, 0o755)?;
    }
    durable::write(path, text.as_bytes(), 0o644)?;
    Ok(true)
}

/// The content of the file.
fn drop_in(needed: &Needed) -> String {
    let images = needed.names.iter().filter(|name| !name.starts_with("sha256:"));
    let lines: String = images.map(|name| format!("    {},\n", toml_string(name))).collect();
    format!(
        "# Written by edge: the images that this gateway's pods need.\n[crio.image]\npinned_images = [\n{lines}]\n"
    )
}

fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_file_is_toml_that_names_every_image_and_goes_with_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DROP_IN);
        let pods = [json!({"spec": {"containers": [{"image": "nginx"}, {"image": "a.test/b:1"}]}})];
        assert!(write(&path, &needed(&pods)).unwrap());
        assert!(!write(&path, &needed(&pods)).unwrap(), "it is so already");
        let read: toml::Table = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let pinned = read["crio"]["image"]["pinned_images"].as_array().unwrap();
        assert_eq!(pinned.len(), 2);
        assert_eq!(pinned[1].as_str(), Some("docker.io/library/nginx:latest"));
        assert!(write(&path, &needed(&[])).unwrap());
        assert!(!path.exists());
        assert!(!write(&path, &needed(&[])).unwrap());
    }

    #[test]
    fn an_image_is_needed_by_its_tag_or_its_digest() {
        let needed =
            needed(&[json!({"spec": {"containers": [{"image": "nginx"}, {"image": "b@sha256:aa"}]}})]);
        let image = |tag: &str, digest: &str| v1::Image {
            repo_tags: vec![tag.to_owned()],
            repo_digests: vec![digest.to_owned()],
            ..v1::Image::default()
        };
        assert!(wanted(&image("docker.io/library/nginx:latest", "x@sha256:bb"), &needed).is_some());
        assert!(wanted(&image("b:1", "docker.io/library/b@sha256:aa"), &needed).is_some());
        assert_eq!(wanted(&image("c:1", "c@sha256:cc"), &needed), None);
    }
}
