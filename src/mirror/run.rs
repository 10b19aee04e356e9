//! A run: ask what is wanted, fetch what is missing of it, put one new generation in force, note what was found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use serde::Serialize;

use super::attached::{self, Attachment, Hosts};
use super::charts::WantedChart;
use super::cosign::PublicKey;
use super::error::{Error, Failure};
use super::fetch::{Source, Wire};
use super::gather::{self, Gathered};
use super::image;
use super::plan::{ImageName, Reason, SourceFailure, WantedImage};
use super::record::{ChartRecord, ImageRecord, Record};
use super::schedule::{self, Window};
use super::{Parts, settings::Settings};
use crate::store::{NewChart, Owner, StateOf, StateRef, TrustUpdate};
use crate::sys::clock;
use crate::sys::digest::Digest;
use crate::sys::progress::Progress;

/// Images that are looked at at the same time; bytes have a limit of their own.
const IMAGES: usize = 8;
/// Seconds after which it is looked again for what hangs on an image that has not changed.
const LOOK_AGAIN: i64 = 7 * 24 * 3600;

/// What is asked of a run.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Only these images and charts; all without.
    pub names: Vec<String>,
    /// Fetch and change nothing.
    pub dry_run: bool,
    /// By the schedule, and so within its windows.
    pub scheduled: bool,
}

/// What became of an image or chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was not here.
    New,
    /// Another one was here under the name.
    Updated,
    /// It is here as it is upstream.
    Unchanged,
    /// It did not come.
    Failed,
    /// A signature that has to be there is not.
    Refused,
    /// Guessed, and not there upstream.
    Absent,
}

/// One image or chart of a run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// `docker.io/library/nginx:1.27`, or `app-1.0.0`.
    pub name: String,
    /// What became of it.
    pub state: State,
    /// What it is upstream.
    pub digest: Option<Digest>,
    /// Bytes that had to travel for it.
    pub bytes: u64,
    /// Where from.
    pub from: String,
    /// Why it is wanted.
    pub reasons: Vec<Reason>,
    /// Names of what hangs on it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attached: Vec<String>,
    /// Why it did not come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Nothing was changed.
    pub dry_run: bool,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Bytes that travelled; for a dry run, that would.
    pub bytes: u64,
    /// Requests for manifests and lists.
    pub requests: u64,
    /// The generation that it made, if anything changed.
    pub generation: Option<u64>,
    /// Images, in order.
    pub images: Vec<Entry>,
    /// Charts, in order.
    pub charts: Vec<Entry>,
    /// Sources that could not be read.
    pub failures: Vec<SourceFailure>,
    /// How many failed, sources among them.
    pub failed: usize,
    /// How many were refused.
    pub refused: usize,
}

/// An image, with what the run found of it.
struct Done {
    entry: Entry,
    image: ImageName,
    /// What it stands for from now on.
    digest: Option<Digest>,
    size: u64,
    attached: Vec<Attachment>,
    /// Whether it was looked for what hangs on it.
    looked: bool,
    may_pass: bool,
}

struct Context<'a> {
    wire: &'a Wire,
    before: &'a BTreeMap<ImageName, Digest>,
    record: &'a Record,
    tags: &'a BTreeMap<String, Vec<String>>,
    hosts: Hosts,
    keys: BTreeMap<std::path::PathBuf, PublicKey>,
    dry: bool,
    /// What a dry run has counted: a blob that many images want comes once.
    counted: std::sync::Mutex<BTreeSet<Digest>>,
}

/// Runs once.
///
/// # Errors
/// [`Error`]; what fails of single images and charts is in the summary.
pub async fn sync(parts: &Parts, request: &Request, progress: &Progress) -> Result<Summary, Error> {
    let settings = &parts.settings;
    settings.check().map_err(|fault| Error::Setting { key: fault.key, why: fault.why })?;
    let keys = keys(settings)?;
    let _seat = parts.desk.take()?;
    let started = clock::now();
    let _hold = parts.store.hold();
    let wire = Wire::new(
        Arc::new(parts.client().await?),
        parts.store.clone(),
        if request.dry_run { Progress::silent() } else { progress.clone() },
        (settings.bandwidth_limit, settings.parallel),
        until(settings, request, started),
    );
    let (store, folder) = (parts.store.clone(), parts.state_dir.clone());
    let read = move || Ok::<_, Error>((store.state_of(&Owner::Mirror)?, Record::read(&folder)?));
    let (before, record) = tokio::task::spawn_blocking(read).await.map_err(|_| Error::Ended)??;

    let mut gathered = gather::gather(&wire, settings, parts.pods().await).await;
    let wanted_charts = chosen(&mut gathered, request);
    let charts = gather::chart_images(&wire, settings, &mut gathered, &before.charts, request.dry_run).await;
    narrow(&mut gathered, request, &wanted_charts)?;

    let held: BTreeMap<ImageName, Digest> =
        before.refs.iter().map(|r| (name_of(r), r.digest.clone())).collect();
    let context = Context {
        wire: &wire,
        before: &held,
        record: &record,
        tags: &gathered.tags,
        hosts: Hosts::default(),
        keys,
        dry: request.dry_run,
        counted: std::sync::Mutex::default(),
    };
    let all: Vec<&WantedImage> = gathered.plan.images().collect();
    let mut done: Vec<Done> = stream::iter(all.into_iter().map(|wanted| one(&context, wanted)))
        .buffer_unordered(IMAGES)
        .collect()
        .await;
    done.sort_by(|a, b| a.image.cmp(&b.image));

    let mut summary = Summary {
        dry_run: request.dry_run,
        started,
        ended: started,
        bytes: wire.travelled.load(Ordering::Relaxed),
        requests: wire.asked.load(Ordering::Relaxed),
        generation: None,
        images: done.iter().map(|done| done.entry.clone()).collect(),
        charts: Vec::new(),
        failures: gathered.plan.failures.clone(),
        failed: 0,
        refused: 0,
    };
    for (wanted, result) in gathered.charts.iter().zip(&charts) {
        summary.charts.push(chart_entry(wanted, result, &before.charts));
    }
    count(&mut summary);
    if !request.dry_run {
        let state = next_state(&before, &done, &charts);
        if let Some(state) = state {
            let store = parts.store.clone();
            let flip = move || store.flip(&Owner::Mirror, state, TrustUpdate::default());
            summary.generation = Some(tokio::task::spawn_blocking(flip).await.map_err(|_| Error::Ended)??);
        }
        summary.ended = clock::now();
        let record = next_record(record, &summary, &done, &gathered, (request, &held));
        let folder = parts.state_dir.clone();
        tokio::task::spawn_blocking(move || record.write(&folder)).await.map_err(|_| Error::Ended)??;
    } else {
        summary.bytes = summary.images.iter().chain(&summary.charts).map(|entry| entry.bytes).sum();
        summary.ended = clock::now();
    }
    Ok(summary)
}

/// When a run by schedule has to end.
fn until(settings: &Settings, request: &Request, now: Timestamp) -> Option<Timestamp> {
    if !request.scheduled || settings.windows.is_empty() {
        return None;
    }
    let windows: Vec<Window> = settings.windows.iter().filter_map(|text| Window::parse(text).ok()).collect();
    let open = schedule::open_for(&windows, now).unwrap_or_default();
    now.checked_add(open).ok()
}

fn keys(settings: &Settings) -> Result<BTreeMap<std::path::PathBuf, PublicKey>, Error> {
    let mut keys = BTreeMap::new();
    for (at, rule) in settings.images.iter().enumerate() {
        let Some(path) = &rule.cosign_key else { continue };
        let key = format!("mirror.images[{at}].cosign-key");
        let text = std::fs::read(path).map_err(|e| Error::Setting {
            key: key.clone(),
            why: format!("cannot read `{}`: {e}", path.display()),
        })?;
        let parsed = PublicKey::parse(&text)
            .map_err(|why| Error::Setting { key, why: format!("`{}`: {why}", path.display()) })?;
        keys.insert(path.clone(), parsed);
    }
    Ok(keys)
}

/// Keeps only the charts that are asked for by name; says their names.
fn chosen(gathered: &mut Gathered, request: &Request) -> BTreeSet<String> {
    if request.names.is_empty() {
        return BTreeSet::new();
    }
    gathered.charts.retain(|chart| request.names.iter().any(|name| chart.is_meant_by(name)));
    gathered.charts.iter().map(WantedChart::title).collect()
}

/// Keeps only the images that are asked for by name, or wanted by a chart that is.
fn narrow(gathered: &mut Gathered, request: &Request, charts: &BTreeSet<String>) -> Result<(), Error> {
    if request.names.is_empty() {
        return Ok(());
    }
    for name in &request.names {
        let chart = gathered.charts.iter().any(|chart| chart.is_meant_by(name));
        if !chart && !gathered.plan.images().any(|wanted| wanted.image.is_meant_by(name)) {
            return Err(Error::Unwanted(name.clone()));
        }
    }
    let of_chart = |reason: &Reason| {
        charts.iter().any(|title| {
            reason.by.strip_prefix("chart ").is_some_and(|by| by.starts_with(&format!("{title}:")))
        })
    };
    gathered.plan.retain(|wanted| {
        request.names.iter().any(|name| wanted.image.is_meant_by(name)) || wanted.reasons.iter().any(of_chart)
    });
    Ok(())
}

fn name_of(entry: &StateRef) -> ImageName {
    ImageName { repository: entry.repository.clone(), name: entry.name.clone() }
}

/// One image, from asking to having.
async fn one(context: &Context<'_>, wanted: &WantedImage) -> Done {
    let source = Source::of(&wanted.image.repository, wanted.terms.insecure);
    let mut done = Done {
        entry: Entry {
            name: wanted.image.to_string(),
            state: State::Unchanged,
            digest: None,
            bytes: 0,
            from: source.upstream.url.clone(),
            reasons: wanted.reasons.clone(),
            attached: Vec::new(),
            error: None,
        },
        image: wanted.image.clone(),
        digest: None,
        size: context.record.image(&wanted.image).map_or(0, |known| known.size),
        attached: Vec::new(),
        looked: false,
        may_pass: false,
    };
    if let Err(failure) = bring(context, wanted, &source, &mut done).await {
        done.may_pass = failure.may_pass();
        done.entry.state = match &failure {
            failure if failure.is_refusal() => State::Refused,
            failure if failure.is_absent() && wanted.terms.guessed => State::Absent,
            _ => State::Failed,
        };
        if done.entry.state != State::Absent {
            done.entry.error = Some(failure.to_string());
        }
    }
    done
}

async fn bring(
    context: &Context<'_>,
    wanted: &WantedImage,
    source: &Source,
    done: &mut Done,
) -> Result<(), Failure> {
    let wire = context.wire;
    let digest = image::resolve(wire, source, &wanted.image.name).await?;
    done.entry.digest = Some(digest.clone());
    let before = context.before.get(&wanted.image);
    let state = match before {
        None => State::New,
        Some(before) if *before != digest => State::Updated,
        Some(_) => State::Unchanged,
    };
    for path in &wanted.terms.keys {
        let Some(key) = context.keys.get(path) else { continue };
        let name = path.display().to_string();
        attached::verify(wire, source, &digest, key, &name, &context.hosts).await?;
    }
    let closure = image::closure(wire, Some(source), &digest, &wanted.terms).await?;
    done.size = closure.size();
    done.entry.bytes = closure.bytes();
    // Something of it was lost, or more platforms are wanted: it comes anew.
    done.entry.state = if state == State::Unchanged && !closure.is_here() { State::Updated } else { state };
    if context.dry {
        let mut counted = context.counted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let twice = closure.missing.iter().filter(|blob| !counted.insert(blob.digest.clone()));
        done.entry.bytes -= twice.map(|blob| blob.size).sum::<u64>();
        return Ok(());
    }
    image::fetch(wire, source, &closure, &wanted.image.to_string()).await?;
    done.digest = Some(digest.clone());
    let looked = context.record.looked.get(&digest).copied().unwrap_or(0);
    let due = clock::now().as_second() - looked >= LOOK_AGAIN;
    if done.entry.state == State::Unchanged && !due {
        let known = context.record.image(&wanted.image);
        done.entry.attached = known.map(|known| known.attached.clone()).unwrap_or_default();
        // A list of tags that was read anyway tells what is new for nothing.
        if !context.tags.contains_key(&wanted.image.repository) {
            return Ok(());
        }
    }
    let listed = context.tags.get(&wanted.image.repository).map(Vec::as_slice);
    if done.entry.state == State::Unchanged
        && !due
        && listed.is_some_and(|tags| !hang(tags, &closure, context))
    {
        return Ok(());
    }
    let subjects = image::subjects(&closure);
    let attachments = attached::find(wire, source, &subjects, listed, &context.hosts).await?;
    for attachment in &attachments {
        attached::fetch(wire, source, attachment, &wanted.image.to_string()).await?;
    }
    done.looked = true;
    done.entry.attached = attachments.iter().map(|attachment| attachment.name.clone()).collect();
    done.attached = attachments;
    Ok(())
}

/// Whether a tag of the list hangs on the image and is not here.
fn hang(tags: &[String], closure: &image::Closure, context: &Context<'_>) -> bool {
    let subjects: BTreeSet<String> = image::subjects(closure).iter().map(ToString::to_string).collect();
    let here = |tag: &String| context.before.keys().any(|image| image.name == *tag);
    let hangs =
        |tag: &&String| super::filter::attached_to(tag).is_some_and(|subject| subjects.contains(&subject));
    tags.iter().filter(hangs).any(|tag| !here(tag))
}

type Fetched = Result<(NewChart, bool, u64), Failure>;

fn chart_entry(wanted: &WantedChart, result: &Fetched, before: &[NewChart]) -> Entry {
    let known = before.iter().any(|before| {
        (&before.repository, &before.name, &before.version)
            == (&wanted.repository, &wanted.name, &wanted.version)
    });
    let (state, digest, bytes, error) = match result {
        Ok((chart, true, size)) => {
            (if known { State::Updated } else { State::New }, Some(chart.digest.clone()), *size, None)
        }
        Ok((chart, false, _)) => (State::Unchanged, Some(chart.digest.clone()), 0, None),
        Err(failure) => (State::Failed, None, 0, Some(failure.to_string())),
    };
    let (name, from, reasons) = (wanted.title(), wanted.url.to_string(), wanted.reasons.clone());
    Entry { name, state, digest, bytes, from, reasons, attached: Vec::new(), error }
}

fn count(summary: &mut Summary) {
    let with =
        |state: State| summary.images.iter().chain(&summary.charts).filter(|e| e.state == state).count();
    (summary.failed, summary.refused) = (with(State::Failed) + summary.failures.len(), with(State::Refused));
}

/// All of the generation before, and what came; `None` where that is the same.
fn next_state(before: &StateOf, done: &[Done], charts: &[Fetched]) -> Option<StateOf> {
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
    Some(StateOf { refs, charts: kept, pins: before.pins.clone(), note: "mirror run".into() })
}

fn next_record(
    mut old: Record,
    summary: &Summary,
    done: &[Done],
    gathered: &Gathered,
    (request, held): (&Request, &BTreeMap<ImageName, Digest>),
) -> Record {
    let images = done.iter().filter(|done| done.entry.state != State::Absent).map(|done| ImageRecord {
        image: done.image.clone(),
        digest: done.entry.digest.clone(),
        reasons: done.entry.reasons.clone(),
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
    // What a source that could not be read wanted before is wanted still; so is all that was not asked for.
    let failed: BTreeSet<&String> = summary.failures.iter().map(|failure| &failure.rule).collect();
    let partial = !request.names.is_empty();
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
