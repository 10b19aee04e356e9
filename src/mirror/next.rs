//! What a run leaves behind: the next generation and the next record. Pure but for the clock.

use std::collections::{BTreeMap, BTreeSet};

use super::bring::Done;
use super::gather::Gathered;
use super::git::{GitEntry, Turn};
use super::plan::{ImageName, Reason};
use super::record::{ChartRecord, GitRecord, ImageRecord, Record};
use super::run::Request;
use super::summary::{Fetched, State, Summary};
use crate::store::{NewChart, StateOf, StateRef};
use crate::sys::clock;
use crate::sys::digest::Digest;

/// The name of a ref of the mirror's.
pub(super) fn name_of(entry: &StateRef) -> ImageName {
    ImageName { repository: entry.repository.clone(), name: entry.name.clone() }
}

/// All of the generation before, and what came; `None` where that is the same.
pub(super) fn state(before: &StateOf, done: &[Done], charts: &[Fetched]) -> Option<StateOf> {
    let mut refs: BTreeMap<ImageName, Digest> =
        before.refs.iter().map(|entry| (name_of(entry), entry.digest.clone())).collect();
    for one in done {
        let Some(digest) = &one.digest else { continue };
        refs.insert(one.image.clone(), digest.clone());
        for attachment in &one.attached {
            let image = ImageName { repository: one.image.repository.clone(), name: attachment.name.clone() };
            refs.insert(image, attachment.digest.clone());
        }
    }
    let same = refs.len() == before.refs.len()
        && before.refs.iter().all(|entry| refs.get(&name_of(entry)) == Some(&entry.digest));
    let new: Vec<&NewChart> = charts
        .iter()
        .filter_map(|chart| chart.as_ref().ok())
        .filter(|(_, new, _)| *new)
        .map(|(c, ..)| c)
        .collect();
    if same && new.is_empty() {
        return None;
    }
    let replaced = |old: &&NewChart| {
        !new.iter().any(|new| {
            (&new.repository, &new.name, &new.version) == (&old.repository, &old.name, &old.version)
        })
    };
    let mut kept: Vec<NewChart> = before.charts.iter().filter(replaced).cloned().collect();
    kept.extend(new.iter().map(|chart| (*chart).clone()));
    let refs = refs
        .into_iter()
        .map(|(image, digest)| StateRef { repository: image.repository, name: image.name, digest })
        .collect();
    // What is unchanged was looked at too, but nothing that was set aside meanwhile keeps out what is new.
    let news = done.iter().filter(|one| matches!(one.entry.state, State::New | State::Updated));
    let whole = news.flat_map(|one| one.whole.iter().cloned()).collect();
    Some(StateOf { refs, charts: kept, pins: before.pins.clone(), whole, note: "mirror run".into() })
}

/// What is noted of a repository; one that failed is what it was.
fn of_repository(entry: &GitEntry, before: Option<GitRecord>) -> GitRecord {
    let (name, from, reasons) = (entry.name.clone(), entry.from.clone(), entry.reasons.clone());
    let error = entry.error.clone();
    match (&error, before) {
        (Some(_), Some(before)) => GitRecord { from, reasons, error, ..before },
        (Some(_), None) => GitRecord { name, from, reasons, error, missing: true, size: 0, kept: Vec::new() },
        (None, _) => {
            let gone = entry.changes.iter().filter(|change| change.turn == Turn::Gone);
            let kept = gone.map(|change| change.name.clone()).collect();
            GitRecord { name, from, reasons, error, missing: false, size: entry.size, kept }
        }
    }
}

/// What is noted of it.
pub(super) fn record(
    mut old: Record,
    summary: &Summary,
    done: &[Done],
    gathered: &Gathered,
    (request, held): (&Request, &BTreeMap<ImageName, Digest>),
) -> Record {
    let partial = !request.names.is_empty();
    // Why it is wanted besides is known to rules that were not asked.
    let asked: BTreeSet<&String> =
        gathered.plan.read.iter().chain(gathered.plan.failures.iter().map(|failure| &failure.rule)).collect();
    let reasons = |done: &Done| -> Vec<Reason> {
        let before = old.image(&done.image).into_iter().flat_map(|known| &known.reasons);
        let others = before.filter(|reason| partial && !asked.contains(&reason.rule));
        done.entry.reasons.iter().chain(others).cloned().collect()
    };
    let images = done.iter().filter(|done| done.entry.state != State::Absent).map(|done| ImageRecord {
        image: done.image.clone(),
        digest: done.entry.digest.clone(),
        reasons: reasons(done),
        error: done.entry.error.clone(),
        missing: done.digest.is_none() && !held.contains_key(&done.image),
        size: done.size,
        attached: done.entry.attached.clone(),
    });
    let charts = gathered.charts.iter().zip(&summary.charts).map(|(chart, entry)| ChartRecord {
        repository: chart.repository.clone(),
        name: chart.name.clone(),
        version: chart.version.clone(),
        from: entry.from.clone(),
        reasons: entry.reasons.clone(),
        error: entry.error.clone(),
        missing: entry.digest.is_none(),
    });
    let (images, charts): (Vec<ImageRecord>, Vec<ChartRecord>) = (images.collect(), charts.collect());
    for entry in &summary.git {
        let before = old.git.iter().position(|known| known.name == entry.name).map(|at| old.git.remove(at));
        old.git.push(of_repository(entry, before));
    }
    old.git.retain(|known| partial || summary.git.iter().any(|entry| entry.name == known.name));
    old.git.sort_by(|a, b| a.name.cmp(&b.name));
    // What a source that could not be read wanted before is wanted still; so is all that was not asked for.
    let failed: BTreeSet<&String> = summary.failures.iter().map(|failure| &failure.rule).collect();
    let stays = |reasons: &[Reason]| partial || reasons.iter().any(|reason| failed.contains(&reason.rule));
    old.images.retain(|known| stays(&known.reasons) && !images.iter().any(|new| new.image == known.image));
    old.charts.retain(|known| {
        let same = |new: &ChartRecord| {
            (&new.repository, &new.name, &new.version) == (&known.repository, &known.name, &known.version)
        };
        stays(&known.reasons) && !charts.iter().any(same)
    });
    old.images.extend(images);
    old.images.sort_by(|a, b| a.image.cmp(&b.image));
    old.charts.extend(charts);
    if !partial {
        let cut = done.iter().any(|done| done.may_pass)
            || summary.git.iter().any(|entry| entry.may_pass)
            || summary.failures.iter().any(|failure| failure.unreachable);
        old.cut_short = if cut { old.cut_short + 1 } else { 0 };
        (old.started, old.ended) = (Some(summary.started), Some(summary.ended));
        old.failures = summary.failures.clone();
    }
    old.bytes = summary.bytes;
    let now = clock::now().as_second();
    old.looked.extend(done.iter().filter(|done| done.looked).filter_map(|d| Some((d.digest.clone()?, now))));
    let used: BTreeSet<&Digest> = old.images.iter().filter_map(|known| known.digest.as_ref()).collect();
    old.looked.retain(|digest, _| used.contains(digest));
    old
}
