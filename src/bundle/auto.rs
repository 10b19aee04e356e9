//! Imports what is plugged in: sticks that somebody mounted below the media folders, and those that nobody mounts.
//!
//! A stick is ours if it bears the root that is pinned here. What is not ours is left alone: nothing is written on it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::choose::Chosen;
use super::events::Events;
use super::import::{Gateway, Imported};
use super::stick::{Stick, find};
use super::system::Asked;
use super::{Error, Identity, Settings, name, receipt};
use crate::health::Part;
use crate::sys::clock;
use crate::sys::mounts::{Mount, Mounted, Writable, is_stick, mounts, own_disk, read};
use crate::sys::progress::Progress;
use crate::trust::{LARGEST_ROOT, root_file_name};

/// However quiet it is, everything is looked at after this.
const ANYWAY: Duration = Duration::from_secs(60);
/// So often it is seen that somebody asks for it.
const ASKED: Duration = Duration::from_secs(5);

/// Pauses before what failed is tried again: the first, which doubles, and the longest. A stick wears by what is written
/// about each try.
const AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));

/// What became of one stick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not ours.
    NotOurs,
    /// Nothing new on it.
    Known,
    /// A line for each bundle that was imported.
    Imported(String),
    /// Why not; it will be the same the next time, unless this gateway becomes somebody else.
    Refused(String),
    /// Why not this time: the store has no room, the stick cannot be read. It is tried again.
    Failed(String),
    /// It cannot be looked at: this machine does not let edge open the device.
    Closed(String),
}

/// Watches until `stop` holds true. `settings` and `gateway` are asked each time anew; what comes with a gateway is
/// held for as long as it is used.
pub async fn run<S, G, F, H>(settings: S, gateway: G, part: Part, mut stop: watch::Receiver<bool>)
where
    S: Fn() -> Settings,
    G: Fn() -> F,
    F: Future<Output = Result<(Gateway, H), String>>,
    H: Send + 'static,
{
    // Opened when somebody asks: where edge is confined, each look at them is told as a fault.
    let mut events: Option<Events> = None;
    let (mut seen, mut watching, mut pinned) = (Seen::default(), false, false);
    loop {
        let (now, mut listed) = (settings(), true);
        let me = now.identity();
        if now.auto_import && !pinned {
            pinned = match is_pinned(&gateway).await {
                Ok(()) => true,
                Err(why) => {
                    part.trouble(why);
                    false
                }
            };
        }
        if now.auto_import && pinned {
            events.get_or_insert_with(Events::open);
            let looked = tokio::task::spawn_blocking(move || places(&now.media_dirs)).await;
            match looked.unwrap_or_else(|e| Err(io::Error::other(e.to_string()))) {
                Ok(found) => {
                    if !watching {
                        part.good();
                        watching = true;
                    }
                    seen.keep(&found, &me, &part);
                    for place in found.into_iter().filter(|place| seen.is_due(place)).collect::<Vec<_>>() {
                        let told = match gateway().await {
                            Ok(gateway) => tell(&part, &place, blocking(gateway, place.clone()).await),
                            Err(why) => {
                                part.trouble(&why);
                                // Not the stick's: it does not go with it.
                                Told { settled: false, trouble: None }
                            }
                        };
                        seen.note(place, told);
                    }
                }
                Err(error) => {
                    part.trouble(error.to_string());
                    (watching, listed) = (false, false);
                }
            }
        } else {
            // Sticks that are here when a root is pinned are looked at then.
            if !now.auto_import {
                part.off();
            }
            seen = Seen::default();
            (events, watching) = (None, false);
        }
        let anyway = if events.is_some() { ANYWAY } else { ASKED };
        // What cannot be listed is not looked at the sooner for a stick that is due.
        let due = seen.next_due().filter(|_| listed);
        let anyway = due.map_or(anyway, |due| anyway.min(due));
        let changed = async {
            match &mut events {
                Some(events) => events.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = changed => {}
            () = tokio::time::sleep(anyway) => {}
        }
    }
}

/// Sticks that were looked at.
#[derive(Default)]
struct Seen {
    /// What came of them stays so for as long as they are in.
    settled: BTreeSet<Place>,
    /// What failed, when it is tried again, and after which pause.
    failed: BTreeMap<Place, (Instant, Duration)>,
    /// What was told as trouble of those that are in.
    trouble: BTreeMap<Place, String>,
    /// Who this was then: a bundle that was for others may be for this gateway now.
    me: Identity,
}

impl Seen {
    /// What was pulled is forgotten, so that it is looked at when it comes back; so is what was settled as somebody else.
    fn keep(&mut self, found: &BTreeSet<Place>, me: &Identity, part: &Part) {
        if self.me != *me {
            self.settled.clear();
            self.me = me.clone();
        }
        self.settled.retain(|place| found.contains(place));
        self.failed.retain(|place, _| found.contains(place));
        let (here, pulled): (_, BTreeMap<_, _>) =
            std::mem::take(&mut self.trouble).into_iter().partition(|(place, _)| found.contains(place));
        self.trouble = here;
        match (pulled.first_key_value(), self.trouble.first_key_value()) {
            (None, _) => {}
            (Some(_), Some((_, left))) => part.trouble(left),
            (Some((_, why)), None) => part.good_with(format!("{why}; it was pulled")),
        }
    }

    fn is_due(&self, place: &Place) -> bool {
        let waits = self.failed.get(place).is_some_and(|(due, _)| *due > Instant::now());
        !waits && !self.settled.contains(place)
    }

    fn note(&mut self, place: Place, told: Told) {
        let before = self.failed.remove(&place);
        self.trouble.remove(&place);
        self.trouble.extend(told.trouble.map(|why| (place.clone(), why)));
        if told.settled {
            self.settled.insert(place);
            return;
        }
        let pause = before.map_or(AGAIN.0, |(_, pause)| (pause * 2).min(AGAIN.1));
        self.failed.insert(place, (Instant::now() + pause, pause));
    }

    /// How long until something is due.
    fn next_due(&self) -> Option<Duration> {
        let due = self.failed.values().map(|(due, _)| *due).min();
        due.map(|due| due.saturating_duration_since(Instant::now()))
    }
}

/// Whether any stick could be ours: without a root none is.
async fn is_pinned<F, H>(gateway: impl Fn() -> F) -> Result<(), String>
where
    F: Future<Output = Result<(Gateway, H), String>>,
{
    let (gateway, _held) = gateway().await?;
    let chain = tokio::task::spawn_blocking(move || gateway.chain().map(drop)).await;
    chain.map_err(|e| e.to_string())?.map_err(|e| format!("nothing can be imported from sticks: {e}"))
}

async fn blocking<H: Send + 'static>((gateway, held): (Gateway, H), place: Place) -> Result<Outcome, Error> {
    let looked = move || {
        let done = take(&gateway, &place);
        drop(held);
        done
    };
    let done = tokio::task::spawn_blocking(looked).await;
    done.unwrap_or_else(|e| Err(Error::Files(io::Error::other(e.to_string()))))
}

/// What was told of a stick.
struct Told {
    /// Whether it stays so for as long as it is in.
    settled: bool,
    trouble: Option<String>,
}

/// Tells what became of a stick.
fn tell(part: &Part, place: &Place, outcome: Result<Outcome, Error>) -> Told {
    let stick = place.shown();
    let (settled, trouble) = match outcome {
        Ok(Outcome::NotOurs) => {
            tracing::debug!(stick, "a stick without a bundle of ours is left alone");
            (true, None)
        }
        Ok(Outcome::Known) => {
            part.good_with(format!("{stick}: nothing new"));
            (true, None)
        }
        Ok(Outcome::Imported(line)) => {
            tracing::info!(stick, line, "imported from a stick");
            part.good_with(format!("{stick}: {line}"));
            (true, None)
        }
        // Every stick of somebody else's would be trouble where edge is confined; those that are mounted are seen.
        Ok(Outcome::Closed(why)) => {
            tracing::info!(stick, why, "a stick that nobody mounted is left alone");
            (true, None)
        }
        Ok(Outcome::Refused(why)) => (true, Some(why)),
        Ok(Outcome::Failed(why)) => (false, Some(why)),
        Err(error) => (!may_pass(&error), Some(error.to_string())),
    };
    let trouble = trouble.map(|why| format!("{stick}: {why}"));
    if let Some(why) = &trouble {
        part.trouble(why);
    }
    Told { settled, trouble }
}

/// Where a stick may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Somebody mounted it.
    Mounted(Mount),
    /// Nobody did; its device, and a number that differs each time that one comes.
    Device(PathBuf, String),
}

impl Place {
    fn shown(&self) -> String {
        match self {
            Self::Mounted(mount) => mount.at.display().to_string(),
            Self::Device(device, _) => device.display().to_string(),
        }
    }
}

/// All places where a stick may be now.
///
/// # Errors
/// The kernel does not tell what is mounted.
fn places(media_dirs: &[PathBuf]) -> io::Result<BTreeSet<Place>> {
    let mounted = mounts().map_err(|e| {
        let hint = match e.kind() {
            io::ErrorKind::PermissionDenied => " hint: in a snap, `snap connect edge:mount-observe`",
            _ => "",
        };
        io::Error::new(e.kind(), format!("it cannot be seen where sticks are mounted: {e}{hint}"))
    })?;
    let below = |mount: &&Mount| media_dirs.iter().any(|dir| mount.at.starts_with(dir));
    let mut found: BTreeSet<Place> =
        mounted.iter().filter(below).map(|mount| Place::Mounted(mount.bare())).collect();
    let entries = std::fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let own = own_disk(Path::new("/"));
    for entry in entries {
        let folder = entry.path();
        if let Some(number) = is_stick(&folder, &own)
            && !mounted.iter().any(|mount| read(&folder.join("dev")) == mount.device)
        {
            found.insert(Place::Device(Path::new("/dev").join(entry.file_name()), number));
        }
    }
    Ok(found)
}

/// Looks at one stick, and imports what is new on it.
///
/// # Errors
/// Where it cannot be read.
pub fn take(gateway: &Gateway, place: &Place) -> Result<Outcome, Error> {
    match place {
        Place::Mounted(mount) => take_mounted(gateway, &mount.at),
        Place::Device(device, _) => {
            let at = gateway.scratch().join("stick");
            match Mounted::new(device, &at) {
                Ok(Some(mounted)) => take_mounted(gateway, &mounted.at),
                Ok(None) => Ok(Outcome::NotOurs),
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(Outcome::Closed(e.to_string())),
                Err(e) => Err(Error::Stick(e)),
            }
        }
    }
}

fn take_mounted(gateway: &Gateway, top: &Path) -> Result<Outcome, Error> {
    let streams = match find(top) {
        Ok(streams) => streams,
        Err(Error::NotThere(_)) => return Ok(Outcome::NotOurs),
        Err(error) => return Err(error),
    };
    let (mut done, mut refused, mut ours, mut staged) = (Vec::new(), Vec::new(), false, false);
    let (mut passing, mut unread) = (false, None);
    for found in streams {
        let Chosen { folder, left } = gateway.choose(&found);
        let shown = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match is_ours(gateway, &folder) {
            Ok(true) => ours = true,
            Ok(false) => continue,
            // The other streams of the stick are no worse for it.
            Err(error) => {
                refused.push(format!("{shown}: {error}"));
                unread.get_or_insert(error);
                continue;
            }
        }
        match gateway.import(&folder, Asked::ByStick, &Progress::silent()) {
            Ok(imported) => {
                staged |= imported.staged.is_some();
                if let Some(line) = line(&imported) {
                    done.push(line);
                    done.extend(left);
                }
            }
            Err(error) => {
                passing |= may_pass(&error);
                refused.push(format!("{shown}: {error}"));
            }
        }
    }
    if let Some(error) = unread {
        if !ours {
            return Err(error);
        }
        passing = true;
    }
    let said = [done.clone(), refused.clone()].concat().join("; ");
    if !said.is_empty() {
        let told =
            Writable::new(top).map_err(Error::Stick).and_then(|_writable| outcome(gateway, top, &said));
        if let Err(error) = told {
            tracing::warn!(stick = %top.display(), %error, "the outcome cannot be written on the stick");
        }
    }
    if let Some(appliance) = gateway.appliance.as_ref().filter(|appliance| staged && appliance.is_eager()) {
        tracing::info!("a bundle brought another system: the machine starts anew");
        appliance.start_staged()?;
    }
    Ok(match (ours, refused.is_empty(), done.is_empty()) {
        (false, ..) => Outcome::NotOurs,
        (_, false, _) if passing => Outcome::Failed(said),
        (_, false, _) => Outcome::Refused(said),
        (_, true, false) => Outcome::Imported(said),
        (_, true, true) => Outcome::Known,
    })
}

/// Whether the same bundle may be imported later: nothing is wrong with it. A system that could not be staged is not tried
/// again by itself, which would write over a slot each time; one that could not yet is, as nothing was written.
fn may_pass(error: &Error) -> bool {
    !error.is_refusal() && !error.is_usage() && !matches!(error, Error::System(_))
}

fn line(imported: &Imported) -> Option<String> {
    let (name, refs) = (name::folder(&imported.stream, imported.seq), imported.refs);
    let staged = imported.staged.as_ref().map(|staged| format!("; {staged}")).unwrap_or_default();
    let repaired = match imported.repaired {
        0 => String::new(),
        repaired => format!("; {repaired} damaged blobs were repaired"),
    };
    match imported.generation {
        Some(_) => Some(format!("{name} is in force, {refs} refs, {} blobs came{staged}", imported.blobs)),
        None if staged.is_empty() && repaired.is_empty() => None,
        None => Some(format!("{name} was in force{repaired}{staged}")),
    }
}

/// Whether it bears our root. Everything else about it is judged by the import.
fn is_ours(gateway: &Gateway, folder: &Path) -> Result<bool, Error> {
    let Ok(chain) = gateway.chain() else { return Ok(false) };
    let stick = Stick::open(folder)?;
    let version = chain.files().next().map_or(1, |(version, _)| version);
    let theirs = stick.small(&[name::TRUST, &root_file_name(version)], LARGEST_ROOT);
    Ok(theirs.is_ok_and(|theirs| theirs.is_some_and(|theirs| chain.agrees(version, &theirs) == Some(true))))
}

/// Says on the stick what became of it, for whoever carries it back.
fn outcome(gateway: &Gateway, top: &Path, said: &str) -> Result<(), Error> {
    let path = top.join(name::RECEIPTS).join(format!("{}.txt", gateway.name()));
    receipt::write_text(&path, &format!("{} {said}\n", clock::now()))
}
