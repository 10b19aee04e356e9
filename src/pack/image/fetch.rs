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

    /// Gives the same bytes to whoever asks, so many times; its address.
    fn serve(bytes: &'static [u8], times: usize) -> String {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().take(times) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    bytes.len()
                );
                stream.write_all(&[head.as_bytes(), bytes].concat()).unwrap();
            }
        });
        format!("http://{address}/kubelet")
    }

    #[test]
    fn a_kubelet_is_fetched_once_and_another_one_than_asked_for_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let good = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let kept =
            || fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        let error = kubelet(&serve(b"abd", 1), Some(good), &cache).unwrap_err().to_string();
        assert!(error.contains("has sha256 ") && error.contains(good), "{error}");
        assert!(kept().is_empty(), "{:?}", kept());
        // The second time nobody is asked: there is nobody any more.
        let place = serve(b"abc", 1);
        for _ in 0..2 {
            let path = kubelet(&place, Some(good), &cache).unwrap();
            assert_eq!((fs::read(&path).unwrap().as_slice(), kept().len()), (b"abc".as_slice(), 1));
        }
        // What rotted in the cache is told, not used.
        super::super::put(&cache.join(format!("kubelet-{good}")), b"abd", 0o644).unwrap();
        assert!(kubelet(&place, Some(good), &cache).unwrap_err().to_string().contains("has sha256"));
    }

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
