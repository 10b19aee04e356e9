//! Image references as people write them, and the one form that edge keeps them in.
//!
//! `nginx` is `docker.io/library/nginx:latest`; docker.io, index.docker.io and registry-1.docker.io are one.

use std::fmt;
use std::str::FromStr;

use crate::sys::digest::{Digest, DigestError};

/// The longest repository path and tag that registries take.
const LONGEST_PATH: usize = 255;
const LONGEST_TAG: usize = 128;

/// A reference in its full form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`.
    pub host: String,
    /// `library/nginx`.
    pub path: String,
    /// `1.27`; `latest` where neither tag nor digest was written.
    pub tag: Option<String>,
    /// What it is pinned to.
    pub digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceError {
    /// The part before tag and digest.
    #[error("`{0}` is not an image name hint: lower-case letters, digits, `.`, `_`, `-` between slashes")]
    Name(String),
    /// The part after the colon.
    #[error("`{0}` is not a tag hint: letters, digits, `.`, `_`, `-`, at most 128 of them")]
    Tag(String),
    /// The part after the `@`.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// `<host>/<path>`, the name of the repository in the store.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// The path of a name that says no host, without tag and digest, as it is written; `None` where it says one.
    pub fn without_host(text: &str) -> Option<&str> {
        let (name, _) = apart(text.split_once('@').map_or(text, |(rest, _)| rest));
        let host = name.split_once('/').is_some_and(|(first, _)| is_host(first));
        (!host && is_repository_path(name)).then_some(name)
    }

    /// What to ask a registry for: the digest if there is one, else the tag.
    pub fn name(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (name, tag) = apart(rest);
        if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag(tag.into()));
        }
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if is_host(host) => (canonical_host(host), path.to_owned()),
            _ => ("docker.io", name.to_owned()),
        };
        let path = if host == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path };
        if !is_repository_path(&path) || host.len() > LONGEST_PATH {
            return Err(ReferenceError::Name(text.chars().take(300).collect()));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some("latest".to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self { host: host.to_ascii_lowercase(), path, tag, digest })
    }
}

/// Name and tag of what has no digest.
fn apart(text: &str) -> (&str, Option<&str>) {
    let last = text.rfind('/').map_or(0, |slash| slash + 1);
    match text[last..].find(':') {
        Some(colon) => (&text[..last + colon], Some(&text[last + colon + 1..])),
        None => (text, None),
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The name that a registry's host goes by here.
pub fn canonical_host(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// Whether the first part of a name is a host, as docker tells: it has a dot or a port, or is localhost.
pub(crate) fn is_host(part: &str) -> bool {
    let named = part == "localhost" || part.contains('.') || part.contains(':');
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'[' || b == b']');
    named
        && ends(part.bytes().next())
        && ends(part.bytes().last())
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
}

/// Whether a text can name a repository: components of lower-case letters and digits, parted by one `.`,
/// one or two `_`, or any number of `-`.
pub fn is_repository_path(path: &str) -> bool {
    path.len() <= LONGEST_PATH && path.split('/').all(is_component)
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().zip(bytes.last()).is_some_and(|(a, z)| alphanumeric(*a) && alphanumeric(*z));
    let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    ends && separators
        .filter(|s| !s.is_empty())
        .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

/// Whether a text can be a tag.
pub fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= LONGEST_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_its_host_is_known_as_such() {
        let pinned = format!("team/app@sha256:{}", "a".repeat(64));
        for (name, path) in [("nginx", "nginx"), ("team/app:1", "team/app"), (pinned.as_str(), "team/app")] {
            assert_eq!(Reference::without_host(name), Some(path), "{name}");
        }
        for name in ["quay.io/app:1", "localhost:5000/app", "Team/app", "app/", ""] {
            assert_eq!(Reference::without_host(name), None, "{name}");
        }
    }

    #[test]
    fn short_names_get_their_full_form() {
        let digest = Digest::sha256(b"");
        for (written, full) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.27", "docker.io/library/nginx:1.27".into()),
            ("grafana/grafana", "docker.io/grafana/grafana:latest".into()),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest".into()),
            ("registry-1.docker.io/library/nginx:1", "docker.io/library/nginx:1".into()),
            ("localhost:5000/a/b__c:v1", "localhost:5000/a/b__c:v1".into()),
            ("localhost/x", "localhost/x:latest".into()),
            ("quay.io/a/b---c.d", "quay.io/a/b---c.d:latest".into()),
            (&format!("nginx@{digest}"), format!("docker.io/library/nginx@{digest}")),
            (&format!("q.io/n:1@{digest}"), format!("q.io/n:1@{digest}")),
        ] {
            assert_eq!(written.parse::<Reference>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn what_could_leave_its_folder_or_its_path_is_refused() {
        for bad in [
            "",
            "/",
            "a//b",
            "../b",
            "a/../b",
            "UPPER",
            "a/b.",
            "a/.b",
            "a..b",
            "a___b",
            "q.io/",
            "a:",
            "a:b c",
            "a@sha256:1",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        assert!(!is_tag(&"x".repeat(129)));
        assert!(!is_repository_path(&"x".repeat(256)));
    }
}
