//! A configuration that snapd may yet refuse. It is kept beside the one in force, and takes its place once snapd has
//! committed the same values; otherwise it is dropped, and what snapd did commit is put into force. Nothing is applied or deleted before.
//!
//! snapd runs the hook that checks the values before it commits them, and tells nobody afterwards. So whoever holds
//! a prepared one asks for the committed values until they are the same, for a while.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::membership;
use crate::config::{self, Config, Overrides, Snap};
use crate::sys::durable;
use crate::sys::snapctl::Snapctl;

/// How long snapd may take to commit after the hook. It does so at once; this covers a machine that swaps.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the file and of what waits for it: `mirror.proxy` may hold a password. snapd shows its values to root alone, too.
const MODE: u32 = 0o600;
/// Holds the revision whose daemon ran last, in the folder that all revisions share.
const RAN: &str = "revision";
/// Between two looks, at first and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// What a start waits for snapd at most; later looks go on while it runs.
const START: Duration = Duration::from_secs(2);

/// What came of a prepared configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// snapd has the same values: these.
    Committed(Box<Config>),
    /// snapd has others, and this one may come yet: a command told it something meanwhile.
    Meanwhile(Box<Config>),
    /// snapd has others, and had time: what those come to, or what is wrong with them. A command may have changed the
    /// file, and told snapd, while this one waited; then part of it was committed all the same.
    Other(Box<Result<Config, String>>),
}

/// Where a configuration for `file` waits.
pub fn path(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".prepared");
    file.with_file_name(name)
}

/// The one that waits for `file`, if one does.
///
/// # Errors
/// With the path.
pub fn waiting(file: &Path) -> io::Result<Option<String>> {
    written(&path(file))
}

/// Keeps `text` for `file`, over one that waits already.
///
/// # Errors
/// With the path.
pub fn stage(file: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent().filter(|folder| !folder.exists()) {
        durable::folder(folder, 0o755)?;
    }
    durable::write(&path(file), text.as_bytes(), MODE)
}

/// Puts `text` into force as `file`, and leaves what waits.
///
/// # Errors
/// With the path.
pub fn put(file: &Path, text: &str) -> io::Result<()> {
    durable::write(file, text.as_bytes(), MODE)
}

/// Forgets the one that waits.
///
/// # Errors
/// With the path.
pub fn drop_waiting(file: &Path) -> io::Result<()> {
    durable::remove(&path(file))
}

/// Follows what becomes of a prepared configuration.
pub struct Settling {
    snap: Snap,
    defaults: Config,
    wanted: Config,
    began: Instant,
    pause: Duration,
    /// What snapd had at the last look.
    before: Option<Config>,
}

impl Settling {
    /// Begins to follow `wanted`, which is over `defaults`.
    pub fn new(snap: Snap, defaults: Config, wanted: Config) -> Self {
        Self { snap, defaults, wanted, began: Instant::now(), pause: LOOK.0, before: None }
    }

    /// Waits until snapd has committed it, or certainly will not, or has committed something else meanwhile.
    pub async fn next(&mut self) -> Verdict {
        loop {
            match committed(&self.snap, &self.defaults).await {
                Some(Ok(found)) if found == self.wanted => return Verdict::Committed(Box::new(found)),
                Some(found) if self.began.elapsed() > PATIENCE => return Verdict::Other(Box::new(found)),
                Some(Ok(found)) => {
                    let before = self.before.replace(found.clone());
                    if before.is_some_and(|before| before != found) {
                        return Verdict::Meanwhile(Box::new(found));
                    }
                }
                // A snapd that is away says nothing of what it has.
                _ => {}
            }
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LOOK.1);
        }
    }
}

/// Before the daemon reads its configuration: a prepared one that snapd has committed while nobody ran is put into
/// force. Where snapd has other values than both that and the file, these are: a command changed the file, and told snapd,
/// after the hook. So they are where another revision ran before: a revert gives back the values that this one had, and
/// starts the daemon before the hook. And where the file has a key that this edge does not know: a newer one wrote it, and a
/// refresh that is undone runs no hook at all. What cannot be judged now stays for later; a start waits for nobody.
///
/// # Errors
/// A file cannot be read or written.
pub fn settle_before_start(overrides: &Overrides) -> io::Result<()> {
    let Some(snap) = &overrides.snap else { return Ok(()) };
    let defaults = overrides.defaults();
    close(&defaults.file);
    let mut waits = None;
    if let Some(text) = waiting(&defaults.file)? {
        waits = Config::parse_over(defaults.clone(), &text).ok();
        if waits.is_none() {
            tracing::error!(file = %path(&defaults.file).display(), "a prepared configuration is damaged, and dropped");
            drop_waiting(&defaults.file)?;
        }
    }
    let unknown = unknown_key(&defaults)?;
    let ran = snap.common.join(RAN);
    let another = match &snap.revision {
        Some(revision) if written(&ran)?.as_ref() != Some(revision) => Some(revision),
        _ => None,
    };
    if waits.is_none() && unknown.is_none() && another.is_none() {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let look = async { tokio::time::timeout(START, committed(snap, &defaults)).await };
    let Ok(Some(Ok(found))) = runtime.block_on(look) else { return Ok(()) };
    settle(&defaults, found, waits.as_ref(), unknown.as_deref())?;
    // Last: where a power cut comes before, the next start asks again.
    if let Some(revision) = another
        && let Err(error) = durable::write(&ran, revision.as_bytes(), MODE)
    {
        tracing::warn!(%error, "which revision runs is not noted, and the next start asks snapd again");
    }
    Ok(())
}

/// Puts into force what snapd has committed, as far as that is to be.
fn settle(
    defaults: &Config,
    mut found: Config,
    waits: Option<&Config>,
    unknown: Option<&str>,
) -> io::Result<()> {
    let before = in_force(defaults)?;
    let is_committed = waits == Some(&found);
    match unknown {
        _ if is_committed => {}
        Some(key) => {
            tracing::warn!(key, "the file is of a newer edge: what snapd has committed is put into force");
        }
        None if before.as_ref().is_some_and(|before| *before != found) => {
            tracing::warn!("the file is not what snapd has committed, which is put into force");
        }
        // Without a file nothing was ever in force: snapd is about to commit for the first time. What waits goes on
        // waiting, since it may be committed yet.
        None => return Ok(()),
    }
    // The configure hook tells snapd at the next change. Of a newer edge's file nothing is known.
    let known = before.as_ref().or_else(|| unknown.is_some().then_some(defaults));
    if let Some(why) = membership::follow(&mut found, known) {
        tracing::warn!("{why}");
    }
    put(&defaults.file, &text_of(&found))?;
    if is_committed { drop_waiting(&defaults.file) } else { Ok(()) }
}

/// A key in the file that this edge does not know.
fn unknown_key(defaults: &Config) -> io::Result<Option<String>> {
    let Some(text) = written(&defaults.file)? else { return Ok(None) };
    Ok(match Config::parse_over(defaults.clone(), &text) {
        Err(config::Error::Content { problem: config::Problem::Unknown { key, .. }, .. }) => Some(key),
        _ => None,
    })
}

/// Takes from others what an older edge let them read. A disk that takes no change is no reason not to start.
fn close(file: &Path) {
    for path in [file, &path(file)] {
        let is_open = std::fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o077 != 0);
        let closed = || std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE));
        if is_open && let Err(error) = closed() {
            tracing::warn!(path = %path.display(), %error, "others can read it");
        }
    }
}

/// The text of a file that comes of snapd's values.
pub fn text_of(config: &Config) -> String {
    let head = "# Written by edge from what snapd holds. Change it with: snap set edge KEY=VALUE";
    format!("{head}\n{}", config::to_toml(config))
}

/// What is in the file that `defaults` names, if one was ever written and can be read as a configuration: one that somebody
/// broke by hand is replaced by values that were checked.
///
/// # Errors
/// With the path.
pub fn in_force(defaults: &Config) -> io::Result<Option<Config>> {
    let text = written(&defaults.file)?;
    Ok(text.and_then(|text| Config::parse_over(defaults.clone(), &text).ok()))
}

/// The text of a file, if it is there.
fn written(file: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(durable::named(e, "read", file)),
    }
}

/// What snapd's values come to, or what is wrong with them; `None` where it does not say.
async fn committed(snap: &Snap, defaults: &Config) -> Option<Result<Config, String>> {
    match Snapctl::new(&snap.snapctl).values(&config::snap::sections()).await {
        Ok(values) => {
            let taken = config::snap::read(&values, defaults, None);
            Some(taken.map(|taken| taken.config).map_err(|wrong| wrong.to_string()))
        }
        Err(error) => {
            tracing::debug!(%error, "snapd was not asked what it has committed");
            None
        }
    }
}
