//! A kubelet that lies elsewhere: fetched once by curl, and taken only if it is the one that was asked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::pack::Usage;

/// The file that `place` names: itself, or, for an address, one in `cache`. With `sha256`, in hexadecimal, it is that file.
///
/// # Errors
/// An address without `sha256`; curl fails; the bytes are others.
pub fn kubelet(place: &str, sha256: Option<&str>, cache: &Path) -> Result<PathBuf> {
    if !(place.starts_with("https://") || place.starts_with("http://")) {
        let path = PathBuf::from(place);
        if let Some(wanted) = sha256 {
            verify(&path, wanted)?;
        }
        return Ok(path);
    }
    let Some(wanted) = sha256 else {
        let why = "--kubelet is an address hint: --kubelet-sha256 HEX says what must lie there";
        return Err(Usage(why.into()).into());
    };
    if wanted.len() != 64 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Usage(format!("--kubelet-sha256 `{wanted}` is not of 64 hexadecimal digits")).into());
    }
    let path = cache.join(format!("kubelet-{wanted}"));
    if path.exists() {
        verify(&path, wanted)?;
        return Ok(path);
    }
    fs::create_dir_all(cache).with_context(|| format!("cannot make `{}`", cache.display()))?;
    let part = cache.join(format!(".kubelet-{wanted}-{}", std::process::id()));
    let fetched = fetch(place, &part).and_then(|()| verify(&part, wanted));
    let kept = fetched.and_then(|()| Ok(fs::rename(&part, &path)?));
    let _ = fs::remove_file(&part);
    kept.map(|()| path)
}

fn fetch(url: &str, to: &Path) -> Result<()> {
    let output = Command::new("curl")
        .args(["--fail", "--location", "--silent", "--show-error", "--retry", "3", "--output"])
        .arg(to)
        .arg(url)
        .stdin(Stdio::null())
        .output()
        .context("cannot run `curl` hint: apt-get install curl")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot fetch `{url}`: {}", said.trim());
    Ok(())
}

fn verify(path: &Path, wanted: &str) -> Result<()> {
    let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let found = super::sha256(&bytes);
    ensure!(found.eq_ignore_ascii_case(wanted), "`{}` has sha256 {found}, not {wanted}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_file_that_was_asked_for_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubelet");
        super::super::put(&path, b"abc", 0o644).unwrap();
        let place = path.to_str().unwrap();
        let good = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(kubelet(place, Some(good), folder.path()).unwrap(), path);
        let told =
            |place: &str, sum: Option<&str>| kubelet(place, sum, folder.path()).unwrap_err().to_string();
        assert!(told(place, Some(&"0".repeat(64))).contains(&format!("has sha256 {good}, not 000")));
        assert!(told("https://127.0.0.1:1/kubelet", None).contains("hint: --kubelet-sha256"));
        assert!(told("https://127.0.0.1:1/kubelet", Some(good)).contains("cannot fetch"));
    }
}
