//! Credentials for upstream registries, as `docker login` keeps them in `config.json`.
//!
//! Several may be for one registry: of its parts (`ghcr.io/team`), of hosts by a pattern
//! (`*.dkr.ecr.*.amazonaws.com`), of several pull secrets. Those that may be good are tried one after the other, as
//! kubelet does, the longest path first. Plain entries are read at once; a credential helper, where one is named, is
//! asked when its host is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
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

/// Credentials by what they are for.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// In the order in which they are tried.
    written: Vec<(Place, Credential)>,
    /// By host: the end of the name of the program that has them.
    helpers: HashMap<String, String>,
    /// The same for all other hosts.
    store: Option<String>,
}

/// One of the credentials that may be good for something.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Candidate {
    /// There is none: what anybody gets.
    Nobody,
    /// By its place in the list.
    Written(usize),
    /// The program that has it.
    Helper(String),
}

/// What a credential is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// `*` and `?` stand for what is between two dots.
    host: String,
    /// The repositories below it; all where it is empty.
    path: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
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
        if mode & 0o077 != 0 && !read.written.is_empty() {
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
        let mut read = Self { store: file.store.filter(|store| !store.is_empty()), ..Self::default() };
        for (key, entry) in file.auths {
            let credential =
                entry.credential().ok_or_else(|| format!("has no readable `auth` for `{key}`"))?;
            read.written.extend(credential.map(|credential| (Place::parse(&key), credential)));
        }
        read.helpers =
            file.helpers.into_iter().map(|(key, helper)| (Place::parse(&key).host, helper)).collect();
        read.sort();
        Ok(read)
    }

    /// Takes what `other` has too, to be tried after what is here for the same.
    pub fn add(&mut self, other: Self) {
        for one in other.written {
            if !self.written.contains(&one) {
                self.written.push(one);
            }
        }
        self.sort();
        for (host, helper) in other.helpers {
            self.helpers.entry(host).or_insert(helper);
        }
        self.store = self.store.take().or(other.store);
    }

    /// The longest path first; of those alike a whole host before a pattern, else as they came.
    fn sort(&mut self) {
        self.written.sort_by_key(|(place, _)| (Reverse(place.path.len()), place.host.contains(['*', '?'])));
    }

    /// What may be shown to a host for a repository, in the order in which it is tried; never empty. A helper comes
    /// after what is written.
    pub(super) fn candidates(&self, host: &str, path: &str) -> Vec<Candidate> {
        let host = canonical_host(host);
        let fits = |(at, (place, _)): (usize, &(Place, Credential))| {
            place.covers(host, path).then_some(Candidate::Written(at))
        };
        let mut found: Vec<Candidate> = self.written.iter().enumerate().filter_map(fits).collect();
        let helper = self.helpers.get(host).or(self.store.as_ref());
        found.extend(helper.map(|program| Candidate::Helper(program.clone())));
        if found.is_empty() { vec![Candidate::Nobody] } else { found }
    }

    /// One that is written.
    pub(super) fn written(&self, at: usize) -> Option<&Credential> {
        self.written.get(at).map(|(_, credential)| credential)
    }
}

impl Place {
    /// `https://index.docker.io/v1/` is docker.io; `/v1/` and `/v2/` are the API's, and no repositories.
    fn parse(key: &str) -> Self {
        let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_matches('/');
        let path = match path.split_once('/').unwrap_or((path, "")) {
            ("v1" | "v2", below) => below,
            _ => path,
        };
        Self { host: canonical_host(&host.to_ascii_lowercase()).to_owned(), path: path.to_owned() }
    }

    fn covers(&self, host: &str, path: &str) -> bool {
        let below = path.trim_start_matches('/').strip_prefix(self.path.as_str());
        // A git repository's address may or may not end so.
        let below = below.map(|rest| rest.strip_prefix(".git").unwrap_or(rest));
        let below =
            below.is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('/'));
        below && is_like(&self.host, &host.to_ascii_lowercase())
    }
}

/// Whether a host fits a pattern, part by part: no `*` stands for a dot.
fn is_like(pattern: &str, host: &str) -> bool {
    let mut parts = (pattern.split('.'), host.split('.'));
    loop {
        match (parts.0.next(), parts.1.next()) {
            (None, None) => return true,
            (Some(pattern), Some(part)) if part_is_like(pattern.as_bytes(), part.as_bytes()) => {}
            _ => return false,
        }
    }
}

fn part_is_like(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        // A port is written out, or there is none.
        (Some((b'*', rest)), _) => {
            let most = text.iter().position(|b| *b == b':').unwrap_or(text.len());
            (0..=most).any(|taken| part_is_like(rest, &text[taken..]))
        }
        (Some((b'?', rest)), Some((b, after))) if *b != b':' => part_is_like(rest, after),
        (Some((a, rest)), Some((b, after))) if a == b => part_is_like(rest, after),
        _ => false,
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

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_login_writes() {
        let text = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"dXNlcjpwYTpzcw=="},
            "quay.io":{"identitytoken":"t0k"},"helper.io":{}},"credsStore":"desktop"}"#;
        let read = Credentials::parse(text).unwrap();
        let first = |host: &str| match &read.candidates(host, "a/b")[0] {
            Candidate::Written(at) => read.written(*at).map(|c| (c.user.clone(), c.secret.clone())),
            _ => None,
        };
        assert_eq!(first("registry-1.docker.io"), Some(("user".into(), "pa:ss".into())));
        assert_eq!(first("quay.io"), Some((String::new(), "t0k".into())));
        assert_eq!(read.candidates("helper.io", "a/b"), [Candidate::Helper("desktop".into())]);
        assert!(!format!("{read:?}").contains("pa:ss"));
    }

    /// The rules of kubelet's keyring.
    #[test]
    fn a_credential_is_for_its_repositories_and_the_longest_path_goes_first() {
        let of = |keys: &[&str]| {
            let entry = |key: &&str| format!(r#""{key}":{{"username":"{key}","password":"x"}}"#);
            let text = format!(r#"{{"auths":{{{}}}}}"#, keys.iter().map(entry).collect::<Vec<_>>().join(","));
            Credentials::parse(text.as_bytes()).unwrap()
        };
        let mut all = of(&[
            "ghcr.io",
            "ghcr.io/org1",
            "https://ghcr.io/v2/org1/deep/",
            "*.dkr.ecr.*.amazonaws.com",
            "r.io:5000",
            "r*.io",
            "hub/x",
            "https://git.io/team/config",
        ]);
        all.add(of(&["ghcr.io/org1/", "r.io", "https://index.docker.io/v1/", "docker.io/team"]));
        for (host, path, expected) in [
            (
                "ghcr.io",
                "org1/deep/app",
                &["https://ghcr.io/v2/org1/deep/", "ghcr.io/org1", "ghcr.io/org1/", "ghcr.io"][..],
            ),
            ("ghcr.io", "org1", &["ghcr.io/org1", "ghcr.io/org1/", "ghcr.io"]),
            ("ghcr.io", "org10/app", &["ghcr.io"]),
            ("1.dkr.ecr.eu-north-1.amazonaws.com", "a", &["*.dkr.ecr.*.amazonaws.com"]),
            ("1.dkr.ecr.amazonaws.com", "a", &[]),
            ("r.io", "a", &["r.io", "r*.io"]),
            ("r.io:5000", "a", &["r.io:5000"]),
            ("registry-1.docker.io", "team/app", &["docker.io/team", "https://index.docker.io/v1/"]),
            ("git.io", "/team/config.git/info/refs", &["https://git.io/team/config"]),
            ("git.io", "/team/config.gitops", &[]),
            ("other.io", "a", &[]),
        ] {
            let found = all.candidates(host, path);
            let users: Vec<&str> = found
                .iter()
                .filter_map(|one| match one {
                    Candidate::Written(at) => all.written(*at).map(|credential| credential.user.as_str()),
                    _ => None,
                })
                .collect();
            assert_eq!(users, expected, "{host}/{path}");
            assert_eq!(found == [Candidate::Nobody], expected.is_empty());
        }
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
