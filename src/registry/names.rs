//! Which repositories of the store a client's path may mean. Pure.
//!
//! Repositories are kept as `<host>/<path>`. containerd names the host in `?ns=`; others write it into the
//! path; a path without one is what was pushed so, or an image of docker.io.

use super::Settings;
use super::reply::Refusal;
use crate::oci::{canonical_host, is_repository_path};

/// The repositories to look into, in this order. What is written goes to the first.
pub(super) fn candidates(path: &str, ns: Option<&str>, settings: &Settings) -> Result<Vec<String>, Refusal> {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let ns = ns.filter(|ns| !settings.is_own(ns));
    if let Some(ns) = ns {
        if !is_host_name(ns) || !is_repository_path(path) {
            return Err(Refusal::name(path));
        }
        return Ok(vec![docker_library(canonical_host(ns), path)]);
    }
    if first.contains(['.', ':']) || first == "localhost" {
        if is_host_name(first) && is_repository_path(rest) {
            return Ok(vec![docker_library(canonical_host(first), rest)]);
        }
        return Err(Refusal::name(path));
    }
    if !is_repository_path(path) {
        return Err(Refusal::name(path));
    }
    Ok(vec![path.to_owned(), docker_library("docker.io", path)])
}

fn docker_library(host: &str, path: &str) -> String {
    if host == "docker.io" && !path.contains('/') {
        format!("{host}/library/{path}")
    } else {
        format!("{host}/{path}")
    }
}

/// Whether a text can be the host of a registry, with or without a port.
pub fn is_host_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 255
        && host.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'[')
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_its_host_without_it_and_beside_it_is_one() {
        let settings = Settings::default();
        let names = |path: &str, ns| candidates(path, ns, &settings).unwrap();
        let nginx = "docker.io/library/nginx";
        assert_eq!(names("library/nginx", Some("docker.io")), [nginx]);
        assert_eq!(names("library/nginx", Some("registry-1.docker.io")), [nginx]);
        assert_eq!(names("docker.io/library/nginx", None), [nginx]);
        assert_eq!(names("index.docker.io/nginx", None), [nginx]);
        assert_eq!(names("nginx", None), ["nginx", nginx]);
        assert_eq!(names("library/nginx", None), ["library/nginx", nginx]);
        assert_eq!(names("my/app", Some("127.0.0.1:5000")), ["my/app", "docker.io/my/app"]);
        assert_eq!(names("localhost:5000/a", None), ["localhost:5000/a"]);
        for wrong in ["", "..", "../evil", "a/b", ".hidden", "a b"] {
            assert!(!is_host_name(wrong), "{wrong}");
        }
        for (path, ns) in
            [("a/../b", None), ("../b", None), ("a", Some("a/b")), ("A", None), ("q.io/", None), ("", None)]
        {
            assert!(candidates(path, ns, &settings).is_err(), "{path} {ns:?}");
        }
    }
}
