//! A first boot's configuration: found on a stick, on the EFI system partition, on identity or in the image, checked,
//! and put where everything looks for it. The image is the ground: what a stick or the EFI system partition does not have is
//! taken from it.
//!
//! What was taken is kept on identity, so that a reset comes back with it; what lay on the EFI system partition is
//! removed then: credentials do not stay on FAT. `edge.toml` is put in place last, and says that this was done; what
//! was refused is still taken from the EFI system partition then, and nothing else is.
//!
//! `cloud.kubeconfig` goes to `given.kubeconfig`: joining makes the cloud's and kubelet's own of it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::esp::Esp;
use super::given::{Checks, FIRST, FOLDERS, Given, all, check, has_something, names, small, strangers};
use super::identity::Identity;
use super::intake::{Intake, KEPT, present};
use super::{Error, Places};
use crate::sys::durable;
use crate::sys::mounts::{Mounted, is_stick, own_disk};

/// The folder at the top of a stick, or of the EFI system partition.
const FOLDER: &str = "edge-config";
const ESP: &str = "the EFI system partition";
const IDENTITY: &str = "identity";
const IMAGE: &str = "the image";
const IGNORED: &str = "is ignored, this machine has its configuration hint: `edge system reset` begins anew";
/// How long a stick may take to appear on a machine that has no configuration yet.
const PATIENCE: Duration = Duration::from_secs(6);

/// What came of looking.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provisioned {
    /// The files that were taken, by where they were found.
    pub taken: Vec<(String, Vec<String>)>,
    /// Lines for the console: what is wrong, or ignored.
    pub lines: Vec<String>,
}

impl Provisioned {
    fn took(&mut self, source: &str, files: &[Taken]) {
        if !files.is_empty() {
            self.taken.push((source.to_owned(), files.iter().map(|file| file.name.clone()).collect()));
        }
    }
}

/// A file that was read and found good.
struct Taken {
    name: String,
    to: PathBuf,
    mode: u32,
    bytes: Vec<u8>,
}

/// Looks for a configuration, if there is none yet, and puts it in place. Where there is one, only for the files of it
/// that were refused. The network of pods is there after it, too.
///
/// # Errors
/// Where it cannot be put there; what is wrong with a file is told in the lines and is no error.
pub fn provision(places: &Places, checks: &dyn Checks) -> Result<Provisioned, Error> {
    places.booted()?;
    let network = lay_out_network(places).err().map(|e| format!("pods have no network: {e}"));
    if let Err(error) = clear_remains(places) {
        tracing::warn!(%error, "what a check of the EFI system partition left there stays");
    }
    let mut done = configure(places, checks)?;
    done.lines.splice(..0, network);
    Ok(done)
}

/// The network of a gateway alone; a network plugin's own file sorts before it. Pods of one without it never start, and
/// what is copied without being synced is an empty file after a power cut.
fn lay_out_network(places: &Places) -> Result<(), Error> {
    let to = places.at("/var/etc/cni/net.d/99-edge.conflist");
    if std::fs::metadata(&to).is_ok_and(|meta| meta.len() > 0) {
        return Ok(());
    }
    let from = places.at("/usr/share/edge/cni/99-edge.conflist");
    let bytes = std::fs::read(&from).map_err(|e| durable::named(e, "read", &from))?;
    durable::folder(&places.at("/var/etc/cni/net.d"), 0o755)?;
    Ok(durable::write(&to, &bytes, 0o644)?)
}

fn configure(places: &Places, checks: &dyn Checks) -> Result<Provisioned, Error> {
    let before = Intake::read(places);
    let known = places.at(FIRST.to).exists();
    if known {
        let stick = Stick::look(places, Mounted::plain, &has_something);
        return mend(places, before, stick.map(|stick| stick.shown), checks);
    }
    let stick = Stick::find(places, &has_something);
    let mut done = Provisioned::default();
    let strange = |folder: &Path| strangers(folder, "it").is_some();
    // One with nothing but wrong names is looked for only where no better one is.
    let wrong = if stick.is_none() { Stick::look(places, Mounted::new, &strange) } else { None };
    let sticks = [&stick, &wrong].into_iter().flatten();
    let given = sticks.map(|stick| (stick.shown.as_str(), stick.folder.clone()));
    let given = given.chain([(ESP, places.esp().join(FOLDER))]);
    done.lines.extend(given.filter_map(|(shown, folder)| strangers(&folder, shown)));
    drop(wrong);
    let image = places.at("/usr/share/edge/config");
    let sources = [
        stick.as_ref().map(|stick| (stick.shown.clone(), stick.folder.clone())),
        Some((ESP.into(), places.esp().join(FOLDER))),
        Some((IDENTITY.into(), places.identity().join(KEPT))),
        Some((IMAGE.into(), image.clone())),
    ];
    let Some((shown, folder)) = sources.into_iter().flatten().find(|(_, folder)| has_something(folder))
    else {
        return Ok(done);
    };
    let mut intake = before.next_round(shown != IDENTITY);
    // The note is written before the files: what a power cut kept from identity was not taken.
    let kept = places.identity().join(KEPT);
    intake.taken.retain(|name| kept.join(name).exists());
    let mut taken = read(places, all(&folder), &folder, &shown, checks, &mut intake, &mut done.lines);
    drop(stick);
    if shown == IDENTITY && intake.refused.contains(FIRST.name) && !folder.join(FIRST.name).exists() {
        done.lines.push(format!("`{}` was refused, and is still asked for in `{FOLDER}`", FIRST.name));
    }
    done.took(&shown, &taken);
    // A reset comes back with what was taken of it.
    if shown != IDENTITY && shown != IMAGE {
        // What was given and is wrong is asked for: what the image has of that name would take its place.
        let is_open =
            |one: &Given| ![&intake.taken, &intake.refused].iter().any(|names| names.contains(&one.name));
        let open = all(&image).into_iter().filter(is_open).collect();
        let ground = read(places, open, &image, IMAGE, checks, &mut intake, &mut done.lines);
        done.took(IMAGE, &ground);
        taken.extend(ground);
    }
    if taken.is_empty() && intake == before {
        return Ok(done);
    }
    let was_given = [&intake.taken, &intake.refused].iter().any(|names| names.contains(FIRST.name));
    if !taken.is_empty() && !was_given {
        // Nobody gave one: the defaults hold, and this is not looked for again.
        let bytes = b"# Nothing was given at the first boot; `edge config` shows what holds.\n".to_vec();
        intake.note(FIRST.name, true);
        taken.push(Taken { name: FIRST.name.into(), to: places.at(FIRST.to), mode: FIRST.mode, bytes });
    }
    put(places, taken, intake)?;
    clear_esp(places)?;
    Ok(done)
}

/// Where the configuration is in place: takes from the EFI system partition what was refused before and is good now,
/// and says what is ignored. A stick is not asked any more: whoever passes by may plug one in.
fn mend(
    places: &Places,
    mut intake: Intake,
    stick: Option<String>,
    checks: &dyn Checks,
) -> Result<Provisioned, Error> {
    let mut done = Provisioned::default();
    let (before, folder) = (intake.clone(), places.esp().join(FOLDER));
    let kept = places.identity().join(KEPT);
    // A power cut came between the last file and the note about it.
    intake.open = false;
    for one in all(&kept).into_iter().filter(|one| before.refused.contains(&one.name)) {
        let both = (small(&kept.join(&one.name)), small(&places.at(&one.to)));
        if matches!(both, (Ok(Some(kept)), Ok(Some(there))) if kept == there) {
            intake.note(&one.name, true);
        }
    }
    // What was put there by other means stays.
    let waits = |one: &Given| intake.refused.contains(&one.name) && !places.at(&one.to).exists();
    let asked: Vec<Given> = all(&folder).into_iter().filter(waits).collect();
    let names: Vec<String> = asked.iter().map(|one| one.name.clone()).collect();
    let taken = read(places, asked, &folder, ESP, checks, &mut intake, &mut done.lines);
    if let Some(stick) = stick {
        let mut line = format!("{stick}: `{FOLDER}` {IGNORED}");
        if !intake.refused.is_empty() {
            let names: Vec<&str> = intake.refused.iter().map(String::as_str).collect();
            line += &format!("; `{}` is still taken from {ESP}", names.join("`, `"));
        }
        done.lines.push(line);
    }
    done.took(ESP, &taken);
    if intake != before || !intake.withdrawn(places).is_empty() {
        put(places, taken, intake)?;
    }
    clear_esp(places)?;
    let ignored: Vec<String> = present(&folder).into_iter().filter(|name| !names.contains(name)).collect();
    if !ignored.is_empty() {
        done.lines.push(format!("{ESP}: `{}` in `{FOLDER}` {IGNORED}", ignored.join("`, `")));
    }
    Ok(done)
}

/// Puts what was taken on identity, then where it is looked for, `edge.toml` last; then it is noted that this was done.
fn put(places: &Places, mut taken: Vec<Taken>, mut intake: Intake) -> Result<(), Error> {
    taken.sort_by_key(|file| file.name == FIRST.name);
    {
        let identity = Identity::open(places)?;
        let kept = places.identity().join(KEPT);
        for folder in FOLDERS {
            durable::folder(&kept.join(folder.name), 0o700)?;
        }
        // Before the files: with `edge.toml` among them, and no note of a round, this would be a machine that was
        // reset.
        if intake.open {
            intake.write(&identity)?;
        }
        for file in &taken {
            identity.write(&format!("{KEPT}/{}", file.name), &file.bytes, 0o600)?;
        }
    }
    for file in &taken {
        if let Some(folder) = file.to.parent().filter(|folder| !folder.exists()) {
            durable::folder(folder, 0o755)?;
        }
        durable::write(&file.to, &file.bytes, file.mode)?;
    }
    if places.at(FIRST.to).exists() {
        let identity = Identity::open(places)?;
        intake.open = false;
        for name in intake.withdrawn(places) {
            identity.remove(&format!("{KEPT}/{name}"))?;
        }
        intake.write(&identity)?;
    }
    Ok(())
}

/// Reads and checks files of a source, and notes which are good.
fn read(
    places: &Places,
    asked: Vec<Given>,
    folder: &Path,
    shown: &str,
    checks: &dyn Checks,
    intake: &mut Intake,
    lines: &mut Vec<String>,
) -> Vec<Taken> {
    let mut taken = Vec::new();
    for Given { name, to, mode } in asked {
        let found = small(&folder.join(&name)).transpose();
        let Some(found) = found else { continue };
        let good = found.and_then(|bytes| check(&name, &bytes, checks).map(|()| bytes));
        intake.note(&name, good.is_ok());
        match good {
            Ok(bytes) => taken.push(Taken { to: places.at(&to), name, mode, bytes }),
            Err(why) => lines.push(format!("`{name}` on {shown} is not taken: {why}")),
        }
    }
    taken
}

/// Removes from the EFI system partition what identity has the same of.
fn clear_esp(places: &Places) -> Result<(), Error> {
    let (folder, kept) = (places.esp().join(FOLDER), places.identity().join(KEPT));
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
    let esp = Esp::first(places)?;
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
    esp.sync()
}

/// Removes what the check of the FAT found that belongs to no file (`FSCK0000.REC`): the remains of what was written as the
/// power went.
fn clear_remains(places: &Places) -> Result<(), Error> {
    let listed = std::fs::read_dir(places.esp()).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_remains = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        name.starts_with("FSCK") && name.ends_with(".REC")
    };
    let remains: Vec<PathBuf> = listed.filter(is_remains).collect();
    if remains.is_empty() {
        return Ok(());
    }
    let esp = Esp::first(places)?;
    for path in remains {
        durable::remove(&path)?;
    }
    esp.sync()
}

/// Whether a stick has the file `name` in its folder.
pub(super) fn stick_asks_reset(places: &Places, name: &str) -> bool {
    let asks = |folder: &Path| folder.join(name).symlink_metadata().is_ok_and(|meta| meta.is_file());
    Stick::find(places, &asks).is_some()
}

/// How a stick is mounted.
type Mount = fn(&Path, &Path) -> io::Result<Option<Mounted>>;

/// A stick that has what is looked for on it, mounted until this is dropped.
struct Stick {
    shown: String,
    folder: PathBuf,
    _mounted: Mounted,
}

impl Stick {
    fn find(places: &Places, is_it: &dyn Fn(&Path) -> bool) -> Option<Self> {
        let begun = Instant::now();
        loop {
            if let Some(found) = Self::look(places, Mounted::new, is_it) {
                return Some(found);
            }
            if begun.elapsed() >= PATIENCE {
                return None;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn look(places: &Places, mount: Mount, is_it: &dyn Fn(&Path) -> bool) -> Option<Self> {
        let at = places.at("/run/edge/config-stick");
        let own = own_disk(&places.at("/"));
        for entry in std::fs::read_dir(places.at("/sys/class/block")).ok()?.flatten() {
            if is_stick(&entry.path(), &own).is_none() {
                continue;
            }
            let device = places.at("/dev").join(entry.file_name());
            let mounted = match mount(&device, &at) {
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
