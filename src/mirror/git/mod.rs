//! Git repositories: what their upstream has and is not here comes as one pack, which is checked whole before any ref
//! changes; then all refs change in one go. What upstream drops or replaces stays, and is told.

mod answer;
mod prune;
mod refs;
mod remote;
mod rule;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::oneshot;

use super::Seat;
use super::error::Failure;
use super::fetch::{Wire, pause};
use super::plan::Reason;
use super::summary::State;
use crate::git::{self, BRANCHES, Incoming, KEPT, Oid, Refs, Repository, walk};
use crate::store::Store;
use crate::sys::progress::Unit;

pub(super) use prune::{here, prune};
pub use refs::{Change, Turn};
pub use rule::GitRule;

/// Tries of one pack.
const TRIES: u32 = 3;
/// Packs of a repository before they are made one.
const PACKS: usize = 24;
/// Commits that an upstream is told of.
const TOLD: usize = 512;

/// A repository of a run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GitEntry {
    /// `config.git`
    pub name: String,
    /// What became of it.
    pub state: State,
    /// Bytes that travelled for it; unknown, and so 0, for a dry run.
    pub bytes: u64,
    /// Where from.
    pub from: String,
    /// Branches and tags that are here from now on.
    pub refs: usize,
    /// Bytes of it here.
    pub size: u64,
    /// Refs that changed, or that upstream has no more.
    pub changes: Vec<Change>,
    /// Why it is wanted.
    pub reasons: Vec<Reason>,
    /// Why it did not come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether another time may be better.
    #[serde(skip)]
    pub may_pass: bool,
}

impl GitRule {
    /// `config.git`
    pub(super) fn title(&self) -> String {
        format!("{}.git", self.name)
    }

    /// Whether a person means it by `text`.
    pub(super) fn is_meant_by(&self, text: &str) -> bool {
        text == self.name || text == self.title()
    }
}

/// How a repository is brought.
#[derive(Clone, Copy)]
pub(super) struct How<'a> {
    /// Whoever works in a repository has it, so that no other run does.
    pub(super) seat: &'a Arc<Seat>,
    pub(super) state_dir: &'a Path,
    /// The most bytes that it may take.
    pub(super) most: u64,
    pub(super) dry: bool,
}

/// One repository, from asking to having.
pub(super) async fn one(wire: &Wire, rule: &GitRule, how: How<'_>) -> GitEntry {
    let mut entry = GitEntry {
        name: rule.title(),
        state: State::Unchanged,
        bytes: 0,
        from: rule.url.clone(),
        refs: 0,
        size: 0,
        changes: Vec::new(),
        reasons: vec![Reason { rule: rule.label(), by: rule.why() }],
        error: None,
        may_pass: false,
    };
    let mut tries = 0;
    loop {
        tries += 1;
        match bring(wire, rule, how, &mut entry).await {
            Ok(()) => return entry,
            Err(failure) if failure.may_pass() && tries < TRIES && wire.go_on().is_ok() => {
                tokio::time::sleep(pause(tries)).await;
            }
            Err(failure) => {
                entry.state = State::Failed;
                entry.changes.clear();
                entry.may_pass = failure.may_pass();
                entry.error = Some(failure.to_string());
                return entry;
            }
        }
    }
}

async fn bring(wire: &Wire, rule: &GitRule, how: How<'_>, entry: &mut GitEntry) -> Result<(), Failure> {
    let url = rule.address().ok_or(Failure::Ended)?;
    let remote = remote::Remote::new(wire, url, rule.insecure);
    let listing = remote.list().await?;
    let chooser = rule.chooser();
    let mut upstream = listing.refs.clone();
    upstream.retain(|name, _| chooser.wants(name));
    let folder = git::folder(how.state_dir, &rule.name);
    let here = open(folder, how).await?;
    let new = here.is_none();
    let known = here.as_ref().map(|here| here.refs.clone()).unwrap_or_default();
    if how.dry {
        // Whether a branch goes on is known only to whoever has its commits.
        (_, entry.changes) = refs::turn(&known, &upstream, |_, _| true);
        entry.state = state(new, &entry.changes);
        return Ok(());
    }
    let Some(mut here) = here else { return Err(Failure::Ended) };
    // Only what refs name was checked: a pack may have brought more than was asked for.
    let checked: BTreeSet<Oid> = known.values().copied().collect();
    let wants: Vec<Oid> = distinct(upstream.values().filter(|id| !checked.contains(*id)));
    let taken = if wants.is_empty() {
        None
    } else {
        let (taken, back) =
            fetch(wire, &remote, &listing, (wants, upstream.clone()), here, how, entry).await?;
        here = back;
        Some(taken)
    };
    let (head, new, store) = (listing.head, known.is_empty(), wire.store.clone());
    let done = apart(how.seat, move || {
        if let Some((taken, incoming)) = taken {
            here.admit(&taken)?;
            drop(incoming);
        }
        let mut reader = here.objects.reader();
        let mut goes_on = |from: &Oid, to: &Oid| {
            walk::reaches(&mut reader, to, &[*from].into()).unwrap_or_else(|error| {
                tracing::warn!(%error, "a branch is kept, since it is not known whether it goes on");
                false
            })
        };
        let (next, changes) = refs::turn(&here.refs, &upstream, &mut goes_on);
        let head = choose_head(&next, head, &here.head);
        if next != here.refs || head != here.head {
            here.flip(next, &head)?;
        }
        if here.is_scattered(PACKS)
            && let Err(error) = here.repack(room(store))
        {
            tracing::warn!(%error, folder = %here.folder.display(), "its packs were not made one");
        }
        Ok((here, changes))
    });
    let (here, changes) = done.await?;
    entry.state = state(new, &changes);
    entry.changes = changes;
    entry.refs = here.refs.keys().filter(|name| !name.starts_with(KEPT)).count();
    entry.size = here.objects.size();
    Ok(())
}

/// What changed; that upstream has dropped something is told each time, and changes nothing.
fn state(new: bool, changes: &[Change]) -> State {
    match changes.iter().any(|change| change.turn != Turn::Gone || change.kept.is_some()) {
        _ if new => State::New,
        true => State::Updated,
        false => State::Unchanged,
    }
}

/// Opens a repository, and makes it unless `dry`.
async fn open(folder: PathBuf, how: How<'_>) -> Result<Option<Repository>, Failure> {
    let dry = how.dry;
    apart(how.seat, move || match dry {
        true => match Repository::open(&folder) {
            Err(git::Error::Absent(_)) => Ok(None),
            other => other.map(Some),
        },
        false => match Repository::open_to_change(&folder) {
            Err(git::Error::Absent(_)) => Repository::open_or_create(&folder).map(Some),
            other => other.map(Some),
        },
    })
    .await
}

/// Asks the store whether there is room: what it leaves free for others is left by packs too.
fn room(store: Store) -> impl FnOnce(u64) -> Result<(), git::Error> {
    move |bytes| {
        store.room_for(bytes).map_err(|error| {
            let full = error.is_full().then_some(std::io::ErrorKind::StorageFull);
            git::Error::File(std::io::Error::new(full.unwrap_or(std::io::ErrorKind::Other), error))
        })
    }
}

/// Fetches what is not here and checks all of it.
async fn fetch(
    wire: &Wire,
    remote: &remote::Remote<'_>,
    listing: &remote::Listing,
    (wants, upstream): (Vec<Oid>, Refs),
    here: Repository,
    how: How<'_>,
    entry: &mut GitEntry,
) -> Result<((git::pack::Taken, Incoming), Repository), Failure> {
    let haves = apart(how.seat, {
        let here = here.clone();
        move || told(&here)
    })
    .await?;
    let most = how.most.saturating_sub(here.objects.size());
    let (hand, mut coming) = answer::Coming::channel();
    let taking = apart(how.seat, move || {
        let incoming = here.incoming()?;
        let taken = git::pack::take(&mut coming, incoming.path(), &here.objects)?;
        let known: Vec<Oid> = here.refs.values().copied().collect();
        let all = here.with(incoming.path())?;
        let tips: Vec<Oid> = upstream.values().copied().collect();
        walk::check(&mut all.reader(), &tips, &known)?;
        Ok(((taken, incoming), here))
    });
    let mut item = wire.progress.item(entry.name.clone(), None, Unit::Bytes);
    let before = wire.travelled();
    let (fetched, taken) =
        tokio::join!(remote.fetch(listing, &wants, &haves, most, (hand, &mut item)), taking);
    entry.bytes += wire.travelled() - before;
    // Why nothing more came says more than that the pack is short.
    fetched?;
    let taken = taken?;
    item.done();
    Ok(taken)
}

/// Commits to tell an upstream of: all tips, and of each branch some that lie further and further behind, for an
/// upstream that has forgotten the tip.
fn told(here: &Repository) -> Result<Vec<Oid>, git::Error> {
    let mut told: Vec<Oid> = distinct(here.refs.values());
    told.truncate(TOLD / 2);
    let mut reader = here.objects.reader();
    for id in here.refs.iter().filter(|(name, _)| name.starts_with(BRANCHES)).map(|(_, id)| id) {
        let (mut at, mut step, mut next) = (*id, 0_u32, 1_u32);
        while told.len() < TOLD {
            let Some(parent) = walk::commit(&mut reader, &at)?.parents.first().copied() else { break };
            (at, step) = (parent, step + 1);
            if step == next {
                told.push(at);
                next = next.saturating_mul(2);
            }
        }
    }
    Ok(told)
}

fn distinct<'a>(ids: impl Iterator<Item = &'a Oid>) -> Vec<Oid> {
    ids.copied().collect::<BTreeSet<Oid>>().into_iter().collect()
}

/// The branch of `HEAD`: upstream's, if it is mirrored; else what it was; else some branch.
fn choose_head(refs: &Refs, upstream: Option<String>, before: &str) -> String {
    let usual = ["main", "master"].map(|name| format!("{BRANCHES}{name}"));
    let first = refs.keys().find(|name| name.starts_with(BRANCHES)).cloned();
    let order = upstream.into_iter().chain([before.to_owned()]).chain(usual).chain(first);
    order.into_iter().find(|name| refs.contains_key(name)).unwrap_or_else(|| before.to_owned())
}

/// Runs what waits for the disk, or for a pack, on a thread of its own. A run that is called off is not over before it.
async fn apart<T: Send + 'static>(
    seat: &Arc<Seat>,
    work: impl FnOnce() -> Result<T, git::Error> + Send + 'static,
) -> Result<T, Failure> {
    let (tell, told) = oneshot::channel();
    let seat = seat.clone();
    let run = move || {
        // What nobody waits for goes before the seat does.
        let done = Some(work()).filter(|_| !tell.is_closed());
        drop(seat);
        if let Some(done) = done {
            drop(tell.send(done));
        }
    };
    let thread = std::thread::Builder::new().name("git".into()).stack_size(2 << 20).spawn(run);
    thread.map_err(|e| Failure::Git(format!("cannot start a thread: {e}")))?;
    Ok(told.await.map_err(|_| Failure::Ended)??)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::mirror::{Desk, Error};

    #[tokio::test]
    async fn a_run_that_is_called_off_is_not_over_before_its_threads() {
        let (begun, has_begun) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let held = Arc::new(());
        let kept = Arc::downgrade(&held);
        let desk = Desk::default();
        let mine = desk.holding(Some(held));
        let seat = Arc::new(mine.take().unwrap());
        drop(mine);
        let work = move || {
            begun.send(()).unwrap();
            may_go_on.recv().unwrap();
            Ok(())
        };
        {
            let run = std::pin::pin!(apart(&seat, work));
            assert!(futures_util::poll!(run).is_pending());
        }
        drop(seat);
        has_begun.recv().unwrap();
        assert!(matches!(desk.take(), Err(Error::Running(_))), "another run in the same repositories");
        assert!(kept.upgrade().is_some() && desk.since().is_some());
        go_on.send(()).unwrap();
        while desk.take().is_err() || kept.upgrade().is_some() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn head_names_a_branch_that_is_here() {
        let id = git::oid(&[b'1'; 40]).unwrap();
        let refs =
            |names: &[&str]| -> Refs { names.iter().map(|n| (format!("{BRANCHES}{n}"), id)).collect() };
        let head = |names: &[&str], upstream: Option<&str>| {
            choose_head(&refs(names), upstream.map(|n| format!("{BRANCHES}{n}")), "refs/heads/old")
        };
        assert_eq!(head(&["a", "main", "dev"], Some("dev")), "refs/heads/dev");
        assert_eq!(head(&["a", "main", "old"], Some("dev")), "refs/heads/old");
        assert_eq!(head(&["a", "main"], Some("dev")), "refs/heads/main");
        assert_eq!(head(&["b", "a"], None), "refs/heads/a");
        assert_eq!(head(&[], Some("main")), "refs/heads/old");
    }
}
