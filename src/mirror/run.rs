//! A run: ask what is wanted, fetch what is missing of it, put one new generation in force, note what was found.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;

use super::attached::Apis;
use super::bring::{self, Context, Done};
use super::charts::WantedChart;
use super::cosign::PublicKey;
use super::error::Error;
use super::fetch::Wire;
use super::gather::{self, Gathered};
use super::git::{self, GitEntry};
use super::next;
use super::plan::{ImageName, WantedImage};
use super::record::Record;
use super::schedule::{self, Window};
use super::scope::{self, Scope};
use super::summary::{Summary, chart_entry};
use super::{Parts, settings::Settings};
use crate::store::{Owner, TrustUpdate};
use crate::sys::clock;
use crate::sys::digest::Digest;
use crate::sys::progress::Progress;

/// Images that are looked at at the same time; bytes have a limit of their own.
const IMAGES: usize = 8;
/// Git repositories that are fetched at the same time.
const REPOSITORIES: usize = 2;

/// What is asked of a run.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Only these images, charts and repositories; all without.
    pub names: Vec<String>,
    /// Fetch and change nothing.
    pub dry_run: bool,
    /// By the schedule, and so within its windows.
    pub scheduled: bool,
}

impl Request {
    /// Whether something is asked for that `is` says is meant by a name.
    fn asks_for(&self, is: impl Fn(&str) -> bool) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| is(name))
    }
}

/// Runs once.
///
/// # Errors
/// [`Error`]; what fails of single images and charts is in the summary.
pub async fn sync(parts: &Parts, request: &Request, progress: &Progress) -> Result<Summary, Error> {
    let settings = &parts.settings;
    settings.check().map_err(|fault| Error::Setting { key: fault.key, why: fault.why })?;
    let keys = keys(settings)?;
    let seat = Arc::new(parts.desk.take()?);
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

    let scope = Scope::of(settings, &request.names, &record);
    let mut gathered = gather::gather(&wire, settings, &scope, parts.pods().await, request.dry_run).await;
    let wanted_charts = chosen(&mut gathered, settings, request, &record);
    let charts = gather::chart_images(&wire, settings, &mut gathered, &before.charts, request.dry_run).await;
    narrow(&mut gathered, settings, request, &wanted_charts)?;

    let held: BTreeMap<ImageName, Digest> =
        before.refs.iter().map(|r| (next::name_of(r), r.digest.clone())).collect();
    let context = Context {
        wire: &wire,
        before: &held,
        record: &record,
        tags: &gathered.tags,
        hosts: Apis::default(),
        keys,
        dry: request.dry_run,
        counted: std::sync::Mutex::default(),
    };
    let all: Vec<&WantedImage> = gathered.plan.images().collect();
    let mut done: Vec<Done> = stream::iter(all.into_iter().map(|wanted| bring::one(&context, wanted)))
        .buffer_unordered(IMAGES)
        .collect()
        .await;
    done.sort_by(|a, b| a.image.cmp(&b.image));

    let (most, dry) = (settings.git_size_limit, request.dry_run);
    let how = git::How { seat: &seat, state_dir: &parts.state_dir, most, dry };
    let asked = settings.git.iter().filter(|rule| request.asks_for(|name| rule.is_meant_by(name)));
    let repositories: Vec<GitEntry> =
        stream::iter(asked.map(|rule| git::one(&wire, rule, how))).buffered(REPOSITORIES).collect().await;

    let mut summary = Summary {
        dry_run: request.dry_run,
        started,
        ended: started,
        bytes: wire.travelled(),
        requests: wire.asked.load(Ordering::Relaxed),
        generation: None,
        images: done.iter().map(|done| done.entry.clone()).collect(),
        charts: Vec::new(),
        git: repositories,
        failures: gathered.plan.failures.clone(),
        failed: 0,
        refused: 0,
    };
    for (wanted, result) in gathered.charts.iter().zip(&charts) {
        summary.charts.push(chart_entry(wanted, result, &before.charts));
    }
    summary.count();
    if !request.dry_run {
        let state = next::state(&before, &done, &charts);
        if let Some(state) = state {
            let store = parts.store.clone();
            let flip = move || store.flip(&Owner::Mirror, state, TrustUpdate::default());
            summary.generation = Some(tokio::task::spawn_blocking(flip).await.map_err(|_| Error::Ended)??);
        }
        summary.ended = clock::now();
        let record = next::record(record, &summary, &done, &gathered, (request, &held));
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

/// Keeps only the charts that are asked for by name, and says their names; and those that name an image that is asked for
/// and that nothing else wants.
fn chosen(
    gathered: &mut Gathered,
    settings: &Settings,
    request: &Request,
    record: &Record,
) -> BTreeSet<String> {
    if request.names.is_empty() {
        return BTreeSet::new();
    }
    let by_name = |chart: &WantedChart| request.names.iter().any(|name| chart.is_meant_by(name));
    let titles = gathered.charts.iter().filter(|chart| by_name(chart)).map(WantedChart::title).collect();
    let Gathered { plan, charts, .. } = gathered;
    let is_wanted = |name: &str| {
        charts.iter().any(|chart| chart.is_meant_by(name))
            || settings.git.iter().any(|rule| rule.is_meant_by(name))
            || plan.images().any(|wanted| wanted.image.is_meant_by(name))
    };
    let others: Vec<&String> = request.names.iter().filter(|name| !is_wanted(name)).collect();
    let names_one = |chart: &WantedChart| {
        let title = chart.title();
        others.iter().any(|name| {
            let mut known = scope::charts_of(record, name).peekable();
            chart.images && (known.peek().is_none() || known.any(|one| one == title))
        })
    };
    charts.retain(|chart| by_name(chart) || names_one(chart));
    titles
}

/// Keeps only the images that are asked for by name, or wanted by a chart that is.
fn narrow(
    gathered: &mut Gathered,
    settings: &Settings,
    request: &Request,
    charts: &BTreeSet<String>,
) -> Result<(), Error> {
    if request.names.is_empty() {
        return Ok(());
    }
    for name in &request.names {
        let chart = gathered.charts.iter().any(|chart| chart.is_meant_by(name));
        let repository = settings.git.iter().any(|rule| rule.is_meant_by(name));
        let image = gathered.plan.images().any(|wanted| wanted.image.is_meant_by(name));
        if !chart && !repository && !image {
            // Whoever could not be asked might have wanted it.
            return Err(match gathered.plan.failures.first() {
                Some(failure) => Error::Unasked { name: name.clone(), why: failure.to_string() },
                None => Error::Unwanted(name.clone()),
            });
        }
    }
    gathered.plan.retain(|wanted| {
        request.names.iter().any(|name| wanted.image.is_meant_by(name))
            || wanted
                .reasons
                .iter()
                .any(|reason| scope::chart_of(reason).is_some_and(|title| charts.contains(title)))
    });
    Ok(())
}
