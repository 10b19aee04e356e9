//! Who may write: users of an htpasswd file (bcrypt), or bearer tokens.
//!
//! docker, podman and skopeo show a credential only if `/v2/` asked for one, and docker pulls nothing from a registry that
//! asks for a password it has not got. So `/v2/` asks for a token, as Docker Hub does, and everybody gets one: those with
//! a password one that may write, the others one that is good for nothing but reading.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use http::{HeaderMap, StatusCode, header};
use tokio::sync::Semaphore;

use super::reply::Refusal;
use super::server::Peer;
use super::{Error, Settings};
use crate::sys::digest::Digest;

/// How long a token that was given out may write.
const TOKEN: Duration = Duration::from_secs(300);
/// The token of those who showed no credential.
const ANYBODY: &str = "anybody";
/// How long a checked password need not be checked again: bcrypt is slow on purpose.
const REMEMBERED: Duration = Duration::from_secs(300);
const MOST_REMEMBERED: usize = 256;
/// Passwords that wait to be checked. One is at a time: anybody may send some, and each costs a processor a while.
const WAITING: usize = 8;

pub(super) struct Auth {
    push: bool,
    open_on_loopback: bool,
    /// bcrypt hashes by user.
    users: HashMap<String, String>,
    /// Hashes of tokens, so that comparing takes the same time for all.
    tokens: Vec<Digest>,
    /// Hashes of headers that were good, and until when.
    good: Mutex<HashMap<Digest, Instant>>,
    /// The one place where a password is checked.
    checking: Arc<Semaphore>,
    /// Places for those that wait, and the one that is checked.
    waiting: Semaphore,
}

impl Auth {
    pub(super) fn read(settings: &Settings) -> Result<Self, Error> {
        let mut users = HashMap::new();
        if let Some(path) = &settings.htpasswd {
            super::secret::check(path)?;
            for (number, line) in lines(path)?.iter().enumerate() {
                let pair = line.split_once(':').filter(|(_, hash)| hash.starts_with("$2"));
                let Some((user, hash)) = pair else {
                    let why = format!(
                        "has no bcrypt entry in line {} hint: make it with `htpasswd -B`",
                        number + 1
                    );
                    return Err(Error::Content { path: path.clone(), why });
                };
                users.insert(user.to_owned(), hash.to_owned());
            }
        }
        let tokens = match &settings.tokens {
            Some(path) => {
                super::secret::check(path)?;
                lines(path)?.iter().map(|line| Digest::sha256(line.as_bytes())).collect()
            }
            None => Vec::new(),
        };
        let (push, open_on_loopback) = (settings.push, settings.insecure_loopback_push);
        let (checking, waiting) = (Arc::new(Semaphore::new(1)), Semaphore::new(1 + WAITING));
        Ok(Self { push, open_on_loopback, users, tokens, good: Mutex::default(), checking, waiting })
    }

    /// Refuses a write that is not allowed.
    pub(super) async fn may_write(&self, headers: &HeaderMap, peer: Peer) -> Result<(), Refusal> {
        if !self.push {
            let why = "writing is off hint: set `registry.push`";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "DENIED", why));
        }
        if self.open_on_loopback && peer.loopback {
            return Ok(());
        }
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(shown) = shown else { return Err(refused("writing needs a credential")) };
        let key = Digest::sha256(shown.as_bytes());
        if self.is_remembered(&key) {
            return Ok(());
        }
        let (scheme, value) = shown.split_once(' ').unwrap_or_default();
        let good = match scheme.to_ascii_lowercase().as_str() {
            "basic" => self.is_user(value).await?,
            "bearer" => self.tokens.contains(&Digest::sha256(value.trim().as_bytes())),
            _ => false,
        };
        if !good {
            return Err(refused("the credential is not good for writing"));
        }
        self.remember(key, REMEMBERED);
        Ok(())
    }

    /// What `/v2/` asks for where writing needs a credential and none, or a bad one, is shown; `realm` is where tokens are.
    pub(super) async fn may_enter(
        &self,
        headers: &HeaderMap,
        peer: Peer,
        realm: &str,
    ) -> Result<(), Refusal> {
        if !self.push || (self.open_on_loopback && peer.loopback) {
            return Ok(());
        }
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if shown == Some(&format!("Bearer {ANYBODY}")) {
            return Ok(());
        }
        match self.may_write(headers, peer).await {
            Err(refusal) if refusal.is_busy() => return Err(refusal),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
        let challenge = format!("Bearer realm=\"{realm}\",service=\"edge\"");
        Err(Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "a token is needed; anybody gets one")
            .with(header::WWW_AUTHENTICATE, &challenge))
    }

    /// A token for whoever asks, as docker's specification of tokens has it.
    pub(super) async fn token(&self, headers: &HeaderMap, peer: Peer) -> Result<serde_json::Value, Refusal> {
        let token = match headers.contains_key(header::AUTHORIZATION) {
            false => ANYBODY.to_owned(),
            true => {
                self.may_write(headers, peer).await?;
                let token = uuid::Uuid::new_v4().simple().to_string();
                self.remember(Digest::sha256(format!("Bearer {token}").as_bytes()), TOKEN);
                token
            }
        };
        Ok(serde_json::json!({ "token": token, "access_token": token, "expires_in": TOKEN.as_secs() }))
    }

    fn remember(&self, key: Digest, period: Duration) {
        let mut remembered = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= MOST_REMEMBERED {
            let now = Instant::now();
            remembered.retain(|_, until| *until > now);
        }
        if remembered.len() >= MOST_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, Instant::now() + period);
    }

    fn is_remembered(&self, key: &Digest) -> bool {
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.get(key).is_some_and(|until| Instant::now() < *until)
    }

    async fn is_user(&self, value: &str) -> Result<bool, Refusal> {
        let decoded = base64::engine::general_purpose::STANDARD.decode(value.trim()).ok();
        let Some(pair) = decoded.and_then(|bytes| String::from_utf8(bytes).ok()) else { return Ok(false) };
        let Some((user, password)) = pair.split_once(':') else { return Ok(false) };
        let Some(hash) = self.users.get(user).cloned() else { return Ok(false) };
        let busy = |_| {
            let why = "too many passwords are being checked: try again";
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", why).with(header::RETRY_AFTER, "5")
        };
        let _waiting = self.waiting.try_acquire().map_err(busy)?;
        let Ok(checking) = self.checking.clone().acquire_owned().await else { return Ok(false) };
        let password = password.to_owned();
        let checked = tokio::task::spawn_blocking(move || {
            let good = bcrypt::verify(password, &hash).unwrap_or(false);
            // Held to the end, also of a client that is gone.
            drop(checking);
            good
        });
        Ok(checked.await.unwrap_or(false))
    }
}

fn refused(message: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
        .with(header::WWW_AUTHENTICATE, "Basic realm=\"edge\"")
}

/// The lines of a file that say something.
fn lines(path: &Path) -> Result<Vec<String>, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_passwords_at_once_few_are_checked_and_the_good_one_is_after_them() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("htpasswd");
        std::fs::write(&path, format!("ann:{}\n", bcrypt::hash("right", 8).unwrap())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let settings = Settings { push: true, htpasswd: Some(path), ..Settings::default() };
        let auth = Auth::read(&settings).unwrap();
        let ask = async |password: &str| {
            let pair = base64::engine::general_purpose::STANDARD.encode(format!("ann:{password}"));
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, format!("Basic {pair}").parse().unwrap());
            auth.may_write(&headers, Peer { loopback: false }).await
        };
        let passwords: Vec<String> = (0..40).map(|n| format!("wrong {n}")).collect();
        let asked = futures_util::future::join_all(passwords.iter().map(|password| ask(password))).await;
        let busy = asked.iter().filter(|answer| answer.as_ref().is_err_and(Refusal::is_busy)).count();
        assert!(asked.iter().all(Result::is_err));
        assert_eq!(busy, 40 - 1 - WAITING);
        assert!(ask("right").await.is_ok(), "nobody waits any more");
    }
}
