//! Keeps the node's certificate for the cloud alive: renews it in time, and sees when somebody replaced it.
//!
//! A new pair is complete on disk and was accepted by the cloud once before it takes the old one's place;
//! until then both are kept. Only what join took over is renewed: a kubeconfig with material of
//! its own is read, watched and reported, and never written.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;

use super::api::{self, Api};
use super::cloud::{self, ClientCertificate, CloudFiles, Credentials, Known};
use super::request::{self, Asked, PATH};
use crate::sys::{clock, durable};

/// How often dates and files are looked at: no request, just the clock and a few inodes.
const LOOK: Duration = Duration::from_secs(10);
/// How long one attempt waits for the cloud to sign.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// Why the certificate was not renewed this time.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error(transparent)]
    Cloud(#[from] cloud::Error),
    #[error(transparent)]
    Request(#[from] request::Error),
    #[error(transparent)]
    Api(#[from] api::Error),
    #[error(transparent)]
    File(std::io::Error),
    #[error("the certificate names no node")]
    NoNode,
    #[error("the cloud does not accept the certificate that it has just issued: {0}")]
    NotAccepted(api::Error),
    #[error("the cloud's credentials were replaced on disk meanwhile")]
    Replaced,
}

/// What there is to tell about the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// When it ends. `None` if the node speaks with a token.
    pub not_after: Option<Timestamp>,
    /// When it is renewed. `None` if edge does not renew it.
    pub renews_at: Option<Timestamp>,
    /// Why it was not renewed, or not read again, the last time.
    pub last_error: Option<String>,
}

/// The task's state; [`Rotator::run`] is the task.
pub struct Rotator {
    kubeconfig: PathBuf,
    files: CloudFiles,
    credentials: watch::Sender<Known>,
    life: watch::Sender<Life>,
    seen: Vec<Seen>,
    pause: Duration,
    not_before: Option<Instant>,
    look: Duration,
}

/// What others see of it.
#[derive(Debug, Clone)]
pub struct Watched {
    /// The credentials in force.
    pub credentials: watch::Receiver<Known>,
    /// How their certificate is doing.
    pub life: watch::Receiver<Life>,
}

impl Rotator {
    /// Reads the credentials for the first time.
    ///
    /// # Errors
    /// The kubeconfig is of no use.
    pub fn new(kubeconfig: &Path, state_dir: &Path) -> Result<(Self, Watched), cloud::Error> {
        let files = CloudFiles::of(state_dir);
        let credentials = Credentials::read(kubeconfig)?;
        let seen = look(&credentials.files);
        let life = life_of(&credentials, &files, None);
        if let Some(error) = &life.last_error {
            tracing::warn!(error, "the certificate for the cloud is not renewed");
        }
        let (mut rotator, watched) = Self::of(kubeconfig, files, Known::Good(Arc::new(credentials)), life);
        rotator.seen = seen;
        Ok((rotator, watched))
    }

    /// For `node`, whose credentials cannot be used, and why: they are tried again and again.
    pub fn without(kubeconfig: &Path, state_dir: &Path, node: &str, why: &cloud::Error) -> (Self, Watched) {
        let life = Life { not_after: None, renews_at: None, last_error: None };
        Self::of(kubeconfig, CloudFiles::of(state_dir), Known::lost(kubeconfig, node, why), life)
    }

    fn of(kubeconfig: &Path, files: CloudFiles, known: Known, life: Life) -> (Self, Watched) {
        let (life, life_watched) = watch::channel(life);
        let (credentials, watched) = watch::channel(known);
        let rotator = Self {
            kubeconfig: kubeconfig.to_path_buf(),
            files,
            credentials,
            life,
            seen: Vec::new(),
            pause: FIRST_PAUSE,
            not_before: None,
            look: LOOK,
        };
        (rotator, Watched { credentials: watched, life: life_watched })
    }

    fn good(&self) -> Option<Arc<Credentials>> {
        self.credentials.borrow().good()
    }

    /// Runs for ever. Nothing is asked of the cloud while `is_online` says no. Where other credentials come to lie on the
    /// disk they are taken at once, and what was asked of the cloud with those before is given up.
    pub async fn run(mut self, is_online: impl Fn() -> bool + Send) {
        loop {
            self.reread();
            if self.is_due()
                && is_online()
                && let Some(in_use) = self.good()
            {
                let seen = self.seen.clone();
                let replaced = replaced(&in_use.files, &seen, self.look);
                let renewed = tokio::select! {
                    renewed = self.renew() => renewed,
                    () = replaced => Err(Error::Replaced),
                };
                match renewed {
                    Ok(()) => self.succeed(),
                    Err(Error::Replaced) => {
                        self.reread();
                    }
                    Err(error) => self.fail(&error),
                }
            }
            tokio::time::sleep(self.look).await;
        }
    }

    /// Renews the certificate now. What an attempt that was cut short left behind is used again.
    ///
    /// # Errors
    /// The certificate in use stays in use.
    pub async fn renew(&mut self) -> Result<(), Error> {
        let old = self.good().ok_or(Error::NoNode)?;
        let node = old.node_name().ok_or(Error::NoNode)?.to_owned();
        let left = self.files.read_pair(&self.files.next()).unwrap_or(None);
        let next = match left
            .filter(|pair| Some(&pair.common_name) == old.client.as_ref().map(|c| &c.common_name))
        {
            Some(pair) => pair,
            None => self.issue(&old, &node).await?,
        };
        let probe = Credentials { client: Some(next), ..(*old).clone() };
        if let Err(error) = accepted(&probe).await {
            if matches!(error, Error::NotAccepted(_)) {
                durable::remove(&self.files.next()).map_err(Error::File)?;
            }
            return Err(error);
        }
        self.switch(&old)
    }

    /// The new pair takes the place of the old one, if that is still in use: a node that was joined anew meanwhile has
    /// another cloud's, and this is none for that.
    fn switch(&mut self, old: &Credentials) -> Result<(), Error> {
        let held = CloudFiles::hold();
        if Credentials::read(&self.kubeconfig)? != *old {
            durable::remove(&self.files.next()).map_err(Error::File)?;
            return Err(Error::Replaced);
        }
        self.files.switch(&held).map_err(Error::File)?;
        let renewed = Credentials::read(&self.kubeconfig)?;
        self.take(renewed);
        Ok(())
    }

    async fn issue(&self, old: &Arc<Credentials>, node: &str) -> Result<ClientCertificate, Error> {
        let pending = self.files.pending_key();
        let asked = match std::fs::read_to_string(&pending).ok().and_then(|key| Asked::again(node, &key).ok())
        {
            Some(asked) => asked,
            None => {
                let asked = Asked::new(node)?;
                self.files.write(&pending, asked.key_pem().as_bytes()).map_err(Error::File)?;
                asked
            }
        };
        let api = Api::new(old.clone())?;
        let mut tell = |progress: &request::Progress| {
            tracing::info!(request = %asked.name, state = %progress, "waiting for a new certificate from the cloud");
        };
        let outcome = request::obtain(&api, &asked, Instant::now() + PATIENCE, &mut tell).await;
        if outcome.as_ref().is_err_and(request::Error::is_final) {
            durable::remove(&pending).map_err(Error::File)?;
        }
        let pair = outcome?;
        self.files.write_pair(&self.files.next(), &pair).map_err(Error::File)?;
        durable::remove(&pending).map_err(Error::File)?;
        Ok(pair)
    }

    /// Sees whether kubeconfig or key material was replaced on disk.
    fn reread(&mut self) {
        let Some(in_use) = self.good() else { return self.find() };
        let now = look(&in_use.files);
        if now == self.seen {
            return;
        }
        self.seen = now;
        match Credentials::read(&self.kubeconfig) {
            Ok(credentials) if *in_use == credentials => {}
            Ok(credentials) => {
                tracing::info!(kubeconfig = %self.kubeconfig.display(), "the cloud's credentials were replaced on disk");
                self.pause = FIRST_PAUSE;
                self.not_before = None;
                self.take(credentials);
            }
            Err(error) => {
                tracing::warn!(%error, "the cloud's credentials on disk are of no use; going on with those in use");
                self.life.send_modify(|life| life.last_error = Some(error.to_string()));
            }
        }
    }

    /// Looks whether the credentials can be read by now, or cannot for another reason.
    fn find(&mut self) {
        let why = match Credentials::read(&self.kubeconfig) {
            Ok(credentials) => {
                tracing::info!(kubeconfig = %self.kubeconfig.display(), "the cloud's credentials can be used again");
                return self.take(credentials);
            }
            Err(why) => why,
        };
        let node = self.credentials.borrow().node_name().unwrap_or_default().to_owned();
        let now = Known::lost(&self.kubeconfig, &node, &why);
        self.credentials.send_if_modified(|known| {
            let is_new = *known != now;
            *known = now;
            is_new
        });
    }

    fn take(&mut self, credentials: Credentials) {
        self.seen = look(&credentials.files);
        self.life.send_replace(life_of(&credentials, &self.files, None));
        self.credentials.send_replace(Known::Good(Arc::new(credentials)));
    }

    fn is_due(&self) -> bool {
        let renews_at = self.life.borrow().renews_at;
        renews_at.is_some_and(|at| clock::now() >= at || self.files.next().exists())
            && self.not_before.is_none_or(|at| Instant::now() >= at)
    }

    fn succeed(&mut self) {
        let life = self.life.borrow().clone();
        tracing::info!(not_after = ?life.not_after, renews_at = ?life.renews_at, "renewed the certificate for the cloud");
        self.pause = FIRST_PAUSE;
        self.not_before = Some(Instant::now() + self.rest());
    }

    /// How long nothing is renewed after a renewal: where this clock is wrong by more than a certificate's life, each would
    /// be due as it comes.
    fn rest(&self) -> Duration {
        let in_use = self.good();
        let client = in_use.as_ref().and_then(|credentials| credentials.client.as_ref());
        client.map_or(FIRST_PAUSE, |client| rest(client, clock::now()))
    }

    fn fail(&mut self, error: &Error) {
        let error = request::with_causes(error);
        let left = self.life.borrow().not_after.map(|end| clock::now().duration_until(end));
        if left.is_some_and(|left| left <= SignedDuration::ZERO) {
            tracing::error!(%error, "the certificate for the cloud has expired and cannot be renewed; join again with a new kubeconfig");
        } else {
            tracing::warn!(%error, again_in = ?self.pause, "cannot renew the certificate for the cloud");
        }
        self.life.send_modify(|life| life.last_error = Some(error));
        self.not_before = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether the cloud takes `credentials` for the node they name: any answer but 401 that knows the name.
///
/// # Errors
/// [`Error::NotAccepted`], or why it is not known.
pub async fn accepted(credentials: &Credentials) -> Result<(), Error> {
    let name = credentials.client.as_ref().map(|client| client.common_name.clone()).unwrap_or_default();
    let api = Api::new(Arc::new(credentials.clone()))?;
    match api.get(&format!("{PATH}/edge-asks-whether-its-certificate-is-good")).await {
        Ok(_) => Ok(()),
        Err(error) => match (&error, error.status()) {
            (_, Some(StatusCode::NOT_FOUND)) => Ok(()),
            (api::Error::Refused { message, .. }, Some(StatusCode::FORBIDDEN)) if message.contains(&name) => {
                Ok(())
            }
            (_, Some(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => Err(Error::NotAccepted(error)),
            _ => Err(error.into()),
        },
    }
}

fn life_of(credentials: &Credentials, files: &CloudFiles, last_error: Option<String>) -> Life {
    let client = credentials.client.as_ref();
    // The kubeconfig names the file that a renewal would replace.
    let is_ours = credentials.files.contains(&files.current());
    let elsewhere = || credentials.files.iter().find(|file| !is_ours && CloudFiles::is_current(file));
    Life {
        not_after: client.map(|client| client.not_after),
        renews_at: client.filter(|_| is_ours).map(renews_at),
        last_error: last_error.or_else(|| elsewhere().map(|file| not_renewed(file))),
    }
}

fn not_renewed(file: &Path) -> String {
    format!(
        "the node's certificate is `{}`, in another state folder, and nobody renews it hint: `edge join --from` the node's kubeconfig again",
        file.display()
    )
}

/// Between 70 and 90 % of its life; where in between is the certificate's own, so that a fleet does not
/// ask at once, and a restart changes nothing.
fn renews_at(client: &ClientCertificate) -> Timestamp {
    let fingerprint = client.fingerprint();
    let chance = u8::from_str_radix(fingerprint.get(..2).unwrap_or("80"), 16).unwrap_or(0x80);
    let life = client.not_before.duration_until(client.not_after).as_secs_f64();
    let share = 0.7 + 0.2 * f64::from(chance) / 255.0;
    let at = SignedDuration::try_from_secs_f64(life * share).unwrap_or(SignedDuration::ZERO);
    client.not_before.checked_add(at).unwrap_or(client.not_after)
}

/// A tenth of the certificate's life, and never more than half of what is left of it by a clock that finds it good:
/// clouds date certificates back, by minutes, and some let them live for no more than that.
fn rest(client: &ClientCertificate, now: Timestamp) -> Duration {
    let tenth = client.not_before.duration_until(client.not_after) / 10;
    let left = now.duration_until(client.not_after);
    let rest = if left.is_positive() { tenth.min(left / 2) } else { tenth };
    Duration::try_from(rest).unwrap_or(FIRST_PAUSE)
}

/// What tells that a file was replaced.
type Seen = Option<(u64, u64, Option<SystemTime>)>;

/// Waits until the files are not as they were seen.
async fn replaced(files: &[PathBuf], seen: &[Seen], every: Duration) {
    while look(files) == seen {
        tokio::time::sleep(every).await;
    }
}

fn look(files: &[PathBuf]) -> Vec<Seen> {
    use std::os::unix::fs::MetadataExt;
    let one = |path: &PathBuf| {
        std::fs::metadata(path).ok().map(|meta| (meta.ino(), meta.len(), meta.modified().ok()))
    };
    files.iter().map(one).collect()
}

#[cfg(test)]
#[path = "rotate_tests.rs"]
mod tests;
