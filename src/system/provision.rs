//! A first boot's configuration: found on a stick, on the EFI system partition, on identity or in the image, checked,
//! and put where everything looks for it.
//!
//! What was taken is kept on identity, so that a reset comes back with it; what lay on the EFI system partition is
//! removed then: credentials do not stay on FAT. `edge.toml` is put in place last, and says that this was done.
//!
//! `cloud.kubeconfig` goes to `given.kubeconfig`: joining makes the cloud's and kubelet's own of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::identity::Identity;
use super::{Error, Places};
use crate::sys::durable;
use crate::sys::mounts::{Mounted, Writable, is_stick};
use crate::trust::Chain;

/// The folder at the top of a stick, or of the EFI system partition.
const FOLDER: &str = "edge-config";
/// How long a stick may take to appear on a machine that has no configuration yet.
const PATIENCE: Duration = Duration::from_secs(6);
/// The largest file that is taken, in bytes.
const LARGEST: u64 = 1 << 20;
/// Static pods that are taken.
const MOST_PODS: usize = 200;
/// Where each file goes, and its permissions. The first is put there last.
const FILES: [(&str, &str, u32); 4] = [
    ("edge.toml", "/var/etc/edge/edge.toml", 0o600),
    ("cloud.kubeconfig", "/var/etc/edge/given.kubeconfig", 0o600),
    ("1.root.json", "/var/etc/edge/1.root.json", 0o644),
    ("authorized_keys", "/var/etc/edge/authorized_keys", 0o600),
];
const PODS: &str = "static-pods";
const PODS_TO: &str = "/var/lib/kubelet/static-pods";

/// What only the whole of edge can judge.
pub trait Checks {
    /// Whether a text can be `edge.toml`.
    ///
    /// # Errors
    /// One line.
    fn configuration(&self, text: &str) -> Result<(), String>;

    /// Whether bytes are a kubeconfig with credentials.
    ///
    /// # Errors
    /// One line.
    fn kubeconfig(&self, bytes: &[u8]) -> Result<(), String>;
}

/// What came of looking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provisioned {
    /// Where it was found; `None` where nothing new was taken.
    pub source: Option<String>,
    /// The files that were taken.
    pub taken: Vec<String>,
    /// Lines for the console: what is wrong, or ignored.
    pub lines: Vec<String>,
}

/// A file that was read and found good.
struct Taken {
    name: String,
    to: PathBuf,
    mode: u32,
    bytes: Vec<u8>,
}

/// Looks for a configuration, if there is none yet, and puts it in place.
///
/// # Errors
/// Where it cannot be put there; what is wrong with a file is told in the lines and is no error.
pub fn provision(places: &Places, checks: &dyn Checks) -> Result<Provisioned, Error> {
    places.booted()?;
    let mut done = Provisioned::default();
    let known = places.at(FILES[0].1).exists();
    let patience = if known { Duration::ZERO } else { PATIENCE };
    let stick = Stick::find(places, patience, &has_something);
    if known {
        if let Some(stick) = stick {
            done.lines.push(format!(
                "{}: `{FOLDER}` is ignored, this machine has its configuration hint: `edge system reset` begins anew",
                stick.shown
            ));
        }
        clear_esp(places)?;
        return Ok(done);
    }
    let sources = [
        stick.as_ref().map(|stick| (stick.shown.clone(), stick.folder.clone())),
        Some(("the EFI system partition".into(), places.esp().join(FOLDER))),
        Some(("identity".into(), places.identity().join("config"))),
        Some(("the image".into(), places.at("/usr/share/edge/config"))),
    ];
    let Some((shown, folder)) = sources.into_iter().flatten().find(|(_, folder)| has_something(folder))
    else {
        return Ok(done);
    };
    let (taken, gave_configuration) = read(places, &folder, &shown, checks, &mut done.lines);
    drop(stick);
    if taken.is_empty() {
        return Ok(done);
    }
    done.taken = taken.iter().map(|file| file.name.clone()).collect();
    put(places, taken, gave_configuration)?;
    done.source = Some(shown);
    clear_esp(places)?;
    Ok(done)
}

/// Puts what was taken on identity, then where it is looked for, `edge.toml` last.
fn put(places: &Places, mut taken: Vec<Taken>, gave_configuration: bool) -> Result<(), Error> {
    let first = FILES[0];
    if !gave_configuration {
        // Nobody gave one: the defaults hold, and this is not looked for again.
        let bytes = b"# Nothing was given at the first boot; `edge config` shows what holds.\n".to_vec();
        taken.push(Taken { name: first.0.into(), to: places.at(first.1), mode: first.2, bytes });
    }
    taken.sort_by_key(|file| file.name == first.0);
    let identity = Identity::open(places)?;
    let kept = places.identity().join("config");
    durable::folder(&kept.join(PODS), 0o700)?;
    for file in &taken {
        identity.write(&format!("config/{}", file.name), &file.bytes, 0o600)?;
    }
    // What was given before and is not any more must not come back with the next reset: a key that was withdrawn, a pod.
    for name in names(&kept).into_iter().filter(|name| taken.iter().all(|file| file.name != *name)) {
        identity.remove(&format!("config/{name}"))?;
    }
    drop(identity);
    for file in &taken {
        if let Some(folder) = file.to.parent().filter(|folder| !folder.exists()) {
            durable::folder(folder, 0o755)?;
        }
        durable::write(&file.to, &file.bytes, file.mode)?;
    }
    Ok(())
}

/// Reads and checks all files of a source; and whether it has an `edge.toml`, good or not.
fn read(
    places: &Places,
    folder: &Path,
    shown: &str,
    checks: &dyn Checks,
    lines: &mut Vec<String>,
) -> (Vec<Taken>, bool) {
    let (mut taken, mut gave) = (Vec::new(), false);
    let names = FILES.iter().map(|(name, to, mode)| ((*name).to_owned(), places.at(to), *mode));
    let pods = pods(folder).into_iter().take(MOST_PODS);
    let pods = pods.map(|name| (format!("{PODS}/{name}"), places.at(PODS_TO).join(name), 0o600));
    for (name, to, mode) in names.chain(pods) {
        let bytes = match small(&folder.join(&name)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(why) => {
                gave |= name == FILES[0].0;
                lines.push(format!("`{name}` on {shown} is not taken: {why}"));
                continue;
            }
        };
        gave |= name == FILES[0].0;
        match check(&name, &bytes, checks) {
            Ok(()) => taken.push(Taken { name, to, mode, bytes }),
            Err(why) => lines.push(format!("`{name}` on {shown} is not taken: {why}")),
        }
    }
    (taken, gave)
}

fn check(name: &str, bytes: &[u8], checks: &dyn Checks) -> Result<(), String> {
    let text = || std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned());
    match name {
        "edge.toml" => checks.configuration(text()?),
        "cloud.kubeconfig" => checks.kubeconfig(bytes),
        "1.root.json" => Chain::begin(bytes.to_vec(), name).map(drop).map_err(|e| e.to_string()),
        "authorized_keys" => {
            let mut lines =
                text()?.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            let is_key = |line: &str| {
                let words: Vec<&str> = line.split_ascii_whitespace().collect();
                let kind = |word: &&str| {
                    word.starts_with("ssh-") || word.starts_with("ecdsa-") || word.starts_with("sk-")
                };
                words
                    .iter()
                    .position(kind)
                    .is_some_and(|at| words.get(at + 1).is_some_and(|key| key.starts_with("AAAA")))
            };
            match lines.clone().find(|line| !is_key(line)) {
                Some(line) => {
                    Err(format!("`{}` is no public key", line.chars().take(40).collect::<String>()))
                }
                None if lines.next().is_none() => Err("it holds no public key".into()),
                None => Ok(()),
            }
        }
        _ => check_pod(text()?),
    }
}

fn check_pod(text: &str) -> Result<(), String> {
    let pod: serde_json::Value = serde_saphyr::from_str(text).map_err(|e| format!("it is no YAML: {e}"))?;
    let is_pod = pod["kind"] == "Pod" && pod["apiVersion"] == "v1";
    let named = pod["metadata"]["name"].as_str().is_some_and(|name| !name.is_empty());
    let runs = pod["spec"]["containers"].as_array().is_some_and(|all| !all.is_empty());
    if is_pod && named && runs {
        Ok(())
    } else {
        Err("it is no Pod of `v1` with a name and containers".into())
    }
}

/// All that a source may hold, whether it does or not, and the pods that it holds.
fn names(folder: &Path) -> Vec<String> {
    let pods = pods(folder).into_iter().map(|name| format!("{PODS}/{name}"));
    FILES.iter().map(|(name, ..)| (*name).to_owned()).chain(pods).collect()
}

fn pods(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder.join(PODS)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str().map(str::to_owned));
    let mut names: Vec<String> = names
        .filter(|name| !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml")))
        .collect();
    names.sort();
    names
}

/// Whether there is anything that would be taken.
fn has_something(folder: &Path) -> bool {
    FILES.iter().any(|(name, ..)| folder.join(name).symlink_metadata().is_ok()) || !pods(folder).is_empty()
}

/// A small plain file; never through a link, which on a stick could lead anywhere.
fn small(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let opened = File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e.to_string()),
    };
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("it is not a plain file".into());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > LARGEST {
        return Err("it has more than 1 MiB".into());
    }
    Ok(Some(bytes))
}

/// Removes from the EFI system partition what identity has the same of.
fn clear_esp(places: &Places) -> Result<(), Error> {
    let (folder, kept) = (places.esp().join(FOLDER), places.identity().join("config"));
    if !folder.is_dir() {
        return Ok(());
    }
    let names = names(&folder);
    let same = |name: &String| {
        let (there, here) = (small(&folder.join(name)), small(&kept.join(name)));
        matches!((there, here), (Ok(Some(there)), Ok(Some(here))) if there == here)
    };
    let done: Vec<&String> = names.iter().filter(|name| same(name)).collect();
    if done.is_empty() {
        return Ok(());
    }
    let _writable = Writable::new(&places.esp())?;
    for name in done {
        let path = folder.join(name);
        // Its bytes first: a FAT only forgets where they lie.
        let length = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        let blanked = File::options().write(true).open(&path).and_then(|mut file| {
            io::Write::write_all(&mut file, &vec![0; usize::try_from(length).unwrap_or(0)])?;
            file.sync_all()
        });
        blanked.map_err(|e| durable::named(e, "overwrite", &path))?;
        durable::remove(&path)?;
    }
    // Folders that are empty now; others stay.
    let _ = std::fs::remove_dir(folder.join(PODS));
    let _ = std::fs::remove_dir(&folder);
    super::esp::sync(&places.esp())
}

/// Whether a stick has the file `name` in its folder.
pub(super) fn stick_asks_reset(places: &Places, name: &str) -> bool {
    let asks = |folder: &Path| folder.join(name).symlink_metadata().is_ok_and(|meta| meta.is_file());
    Stick::find(places, PATIENCE, &asks).is_some()
}

/// A stick that has what is looked for on it, mounted until this is dropped.
struct Stick {
    shown: String,
    folder: PathBuf,
    _mounted: Mounted,
}

impl Stick {
    fn find(places: &Places, patience: Duration, is_it: &dyn Fn(&Path) -> bool) -> Option<Self> {
        let begun = Instant::now();
        loop {
            if let Some(found) = Self::look(places, is_it) {
                return Some(found);
            }
            if begun.elapsed() >= patience {
                return None;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn look(places: &Places, is_it: &dyn Fn(&Path) -> bool) -> Option<Self> {
        let at = places.at("/run/edge/config-stick");
        for entry in std::fs::read_dir(places.at("/sys/class/block")).ok()?.flatten() {
            if is_stick(&entry.path()).is_none() {
                continue;
            }
            let device = places.at("/dev").join(entry.file_name());
            let mounted = match Mounted::new(&device, &at) {
                Ok(Some(mounted)) => mounted,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%error, "a stick cannot be looked at");
                    continue;
                }
            };
            let folder = at.join(FOLDER);
            if folder.symlink_metadata().is_ok_and(|meta| meta.is_dir()) && is_it(&folder) {
                return Some(Self {
                    shown: format!("stick `{}`", device.display()),
                    folder,
                    _mounted: mounted,
                });
            }
        }
        None
    }
}
