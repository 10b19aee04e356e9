//! Credentials for upstream registries, as `docker login` keeps them in `config.json`.
//!
//! Plain entries are read at once; a credential helper, where one is named, is asked when its host is.

use std::collections::HashMap;
use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use base64::Engine;
use serde::Deserialize;

use super::canonical_host;

/// A user and a password, or a token that stands for both.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// Empty where there is only a token.
    pub user: String,
    /// The password, or what `docker login` keeps as identity token.
    pub secret: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Credentials by registry host.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    by_host: HashMap<String, Credential>,
    /// By host: the end of the name of the program that has them.
    helpers: HashMap<String, String>,
    /// The same for all other hosts.
    store: Option<String>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: HashMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: HashMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
}

impl Credentials {
    /// Reads docker's `config.json`.
    ///
    /// # Errors
    /// One line that names the file and the entry, never the secret; also for secrets that others can read.
    pub fn read(path: &Path) -> Result<Self, String> {
        let wrong = |e: std::io::Error| format!("cannot read `{}`: {e}", path.display());
        let text = std::fs::read(path).map_err(wrong)?;
        let read = Self::parse(&text).map_err(|e| format!("`{}` {e}", path.display()))?;
        let mode = std::fs::metadata(path).map_err(wrong)?.mode() & 0o7777;
        if mode & 0o077 != 0 && !read.by_host.is_empty() {
            let path = path.display();
            return Err(format!("`{path}` holds secrets and has mode {mode:04o} hint: chmod 0600 {path}"));
        }
        Ok(read)
    }

    /// Reads the text of docker's `config.json`, which pull secrets hold too.
    ///
    /// # Errors
    /// What is wrong, without the secrets in it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        // The error of the parser quotes what it found, which may be a secret: only the place is told.
        let file: File = serde_json::from_slice(text)
            .map_err(|e| format!("is not a docker config.json: line {}, column {}", e.line(), e.column()))?;
        let mut by_host = HashMap::new();
        for (key, entry) in file.auths {
            let credential =
                entry.credential().ok_or_else(|| format!("has no readable `auth` for `{key}`"))?;
            if let Some(credential) = credential {
                by_host.insert(host_of(&key), credential);
            }
        }
        let helpers = file.helpers.into_iter().map(|(key, helper)| (host_of(&key), helper)).collect();
        Ok(Self { by_host, helpers, store: file.store.filter(|store| !store.is_empty()) })
    }

    /// Sets what a host takes.
    pub fn set(&mut self, host: &str, credential: Credential) {
        self.by_host.insert(canonical_host(host).to_owned(), credential);
    }

    /// Takes what `other` has for hosts that have nothing here.
    pub fn add(&mut self, other: Self) {
        for (host, credential) in other.by_host {
            self.by_host.entry(host).or_insert(credential);
        }
        for (host, helper) in other.helpers {
            self.helpers.entry(host).or_insert(helper);
        }
        self.store = self.store.take().or(other.store);
    }

    /// The credential helper that has what a host takes, if nothing is written for the host.
    pub(super) fn helper(&self, host: &str) -> Option<&str> {
        let host = canonical_host(host);
        if self.by_host.contains_key(host) {
            return None;
        }
        self.helpers.get(host).or(self.store.as_ref()).map(String::as_str)
    }

    /// What to show to a host.
    pub fn for_host(&self, host: &str) -> Option<&Credential> {
        self.by_host.get(canonical_host(host))
    }
}

impl Entry {
    /// `None` where it cannot be read, `Some(None)` where it is empty (a credential helper has it).
    fn credential(self) -> Option<Option<Credential>> {
        let (mut user, mut secret) = (self.username, self.password);
        if !self.auth.is_empty() {
            let decoded = base64::engine::general_purpose::STANDARD.decode(self.auth.trim()).ok()?;
            let decoded = String::from_utf8(decoded).ok()?;
            let (name, password) = decoded.split_once(':')?;
            (user, secret) = (name.to_owned(), password.trim_end_matches('\0').to_owned());
        }
        if !self.identitytoken.is_empty() {
            (user, secret) = (String::new(), self.identitytoken);
        }
        Some((!secret.is_empty()).then_some(Credential { user, secret }))
    }
}

/// `https://index.docker.io/v1/` is docker.io; other keys are hosts, some with a scheme or path.
fn host_of(key: &str) -> String {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    canonical_host(rest.split('/').next().unwrap_or(rest)).to_owned()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_login_writes() {
        let text = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"dXNlcjpwYTpzcw=="},
            "quay.io":{"identitytoken":"t0k"},"helper.io":{}},"credsStore":"desktop"}"#;
        let read = Credentials::parse(text).unwrap();
        let hub = read.for_host("registry-1.docker.io").unwrap();
        assert_eq!((hub.user.as_str(), hub.secret.as_str()), ("user", "pa:ss"));
        assert_eq!(read.for_host("quay.io").unwrap().secret, "t0k");
        assert_eq!(read.for_host("helper.io"), None);
        assert!(!format!("{read:?}").contains("pa:ss"));
    }

    #[test]
    fn a_broken_file_is_told_without_its_secrets() {
        let error = Credentials::parse(br#"{"auths":{"q.io":{"auth":"!!secret"}}}"#).unwrap_err();
        assert!(error.contains("q.io") && !error.contains("secret"), "{error}");
    }
    #[test]
    fn secrets_that_others_can_read_are_refused_for_whoever_asks() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let secret = r#"{"auths":{"q.io":{"auth":"dXNlcjpwYXNz"}}}"#;
        let helper = r#"{"auths":{"q.io":{}},"credsStore":"desktop"}"#;
        for (text, mode, good) in
            [(secret, 0o600, true), (secret, 0o640, false), (secret, 0o604, false), (helper, 0o644, true)]
        {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = Credentials::read(&path);
            assert_eq!(read.is_ok(), good, "{mode:o} {read:?}");
            let told = read.err().unwrap_or_default();
            assert!(good || told.contains("hint: chmod 0600") && !told.contains("pass"), "{told}");
        }
    }
}
