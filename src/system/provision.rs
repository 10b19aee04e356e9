//! A first boot's configuration: found on a stick, on the EFI system partition, on identity or in the image, checked,
//! and put where everything looks for it.
//!
//! What was taken is kept on identity, so that a reset comes back with it; what lay on the EFI system partition is
//! removed then: credentials do not stay on FAT. `edge.toml` is put in place last, and says that this was done.
//!
//! `cloud.kubeconfig` goes to `given.kubeconfig`: joining makes the cloud's and kubelet's own of it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::given::{Checks, FIRST, FOLDERS, Given, all, check, has_something, names, small};
use super::identity::Identity;
use super::{Error, Places};
use crate::sys::durable;
use crate::sys::mounts::{Mounted, Writable, is_stick, own_disk};

/// The folder at the top of a stick, or of the EFI system partition.
const FOLDER: &str = "edge-config";
/// How long a stick may take to appear on a machine that has no configuration yet.
const PATIENCE: Duration = Duration::from_secs(6);

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
    let known = places.at(FIRST.to).exists();
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
    if !gave_configuration {
        // Nobody gave one: the defaults hold, and this is not looked for again.
        let bytes = b"# Nothing was given at the first boot; `edge config` shows what holds.\n".to_vec();
        taken.push(Taken { name: FIRST.name.into(), to: places.at(FIRST.to), mode: FIRST.mode, bytes });
    }
    taken.sort_by_key(|file| file.name == FIRST.name);
    let identity = Identity::open(places)?;
    let kept = places.identity().join("config");
    for folder in FOLDERS {
        durable::folder(&kept.join(folder.name), 0o700)?;
    }
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
    for Given { name, to, mode } in all(folder) {
        let to = places.at(&to);
        let bytes = match small(&folder.join(&name)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => continue,
            Err(why) => {
                gave |= name == FIRST.name;
                lines.push(format!("`{name}` on {shown} is not taken: {why}"));
                continue;
            }
        };
        gave |= name == FIRST.name;
        match check(&name, &bytes, checks) {
            Ok(()) => taken.push(Taken { name, to, mode, bytes }),
            Err(why) => lines.push(format!("`{name}` on {shown} is not taken: {why}")),
        }
    }
    (taken, gave)
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
    for inner in FOLDERS {
        let _ = std::fs::remove_dir(folder.join(inner.name));
    }
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
        let own = own_disk(&places.at("/"));
        for entry in std::fs::read_dir(places.at("/sys/class/block")).ok()?.flatten() {
            if is_stick(&entry.path(), &own).is_none() {
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
