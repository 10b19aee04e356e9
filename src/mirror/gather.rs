//! Asks every source what it wants: lists of tags, indexes of charts, manifests, the pods of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use reqwest::Url;
use serde_json::Value;

use super::charts::{self, Dependency, WantedChart};
use super::depends::Wish;
use super::error::Failure;
use super::fetch::{Source, Wire};
use super::filter::{self, Chosen, TagChooser};
use super::found::{self, Found};
use super::package::Referred;
use super::plan::{ImageName, Plan, Reason, SourceFailure, Terms};
use super::scope::Scope;
use super::settings::{ChartRule, ImageRule, ManifestRule, Settings};
use super::{CLUSTER, KUBERNETES, kubernetes, oci_charts};
use crate::oci::{Platform, Reference, clean};

/// The largest file of manifests, in bytes.
const LARGEST: usize = 64 << 20;
/// Charts that are fetched at the same time; each is in memory as a whole.
const CHARTS: usize = 2;

/// What all sources together want.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) plan: Plan,
    pub(super) charts: Vec<WantedChart>,
    /// The tags of repositories whose lists were read.
    pub(super) tags: BTreeMap<String, Vec<String>>,
}

/// The platforms that are wanted where a rule says none.
pub(super) fn platforms(settings: &Settings, of_rule: &[String]) -> Vec<Platform> {
    let written = if of_rule.is_empty() { &settings.platforms } else { of_rule };
    if written.len() == 1 && written[0] == "all" {
        return Vec::new();
    }
    // Settings were checked before.
    let written: Vec<Platform> = written.iter().filter_map(|text| text.parse().ok()).collect();
    if written.is_empty() { vec![Platform::own()] } else { written }
}

/// Asks the sources of `scope`. One that fails is noted, and the others go on.
pub(super) async fn gather(
    wire: &Wire,
    settings: &Settings,
    scope: &Scope,
    pods: Option<Vec<Value>>,
    dry: bool,
) -> Gathered {
    let mut gathered = Gathered::default();
    for rule in settings.images.iter().filter(|rule| scope.asks(&rule.label())) {
        let label = rule.label();
        match image_rule(wire, settings, rule, &label, &mut gathered).await {
            Ok(()) => gathered.plan.read.push(label),
            Err(failure) => gathered.failed(label, &failure),
        }
    }
    for rule in settings.charts.iter().filter(|rule| scope.asks(&rule.label())) {
        let label = rule.label();
        match chart_rule(wire, settings, rule, &label, dry, &mut gathered).await {
            Ok(()) => gathered.plan.read.push(label),
            Err(failure) => gathered.failed(label, &failure),
        }
    }
    for rule in settings.manifests.iter().filter(|rule| scope.asks(&rule.label())) {
        let label = rule.label();
        match manifests(wire, rule).await {
            Ok(found) => {
                gathered.want_found(settings, found, &label, "");
                gathered.plan.read.push(label);
            }
            Err(failure) => gathered.failed(label, &failure),
        }
    }
    if settings.cluster_images && scope.asks(CLUSTER) {
        match pods {
            Some(pods) => {
                let found = pods.iter().flat_map(|pod| found::in_object(pod, &[])).collect();
                gathered.want_found(settings, found, CLUSTER, "");
                gathered.plan.read.push(CLUSTER.to_owned());
            }
            None => gathered.failed(
                CLUSTER.to_owned(),
                &Failure::Stopped(
                    "the pods of this node were not read yet hint: `edge join`, and a running daemon".into(),
                ),
            ),
        }
    }
    if let Some(version) = settings.kubernetes_version.as_ref().filter(|_| scope.asks(KUBERNETES)) {
        let images = kubernetes::images(version, &settings.kubernetes_images).unwrap_or_default();
        for (repository, name) in images {
            let image = ImageName { repository, name };
            let terms = Terms {
                platforms: platforms(settings, &[]),
                insecure: settings.is_plain(image.parts().0),
                keys: settings.keys_for(&image.repository),
                guessed: false,
            };
            let reason = Reason { rule: KUBERNETES.into(), by: format!("version {version}") };
            gathered.plan.want(image, reason, terms);
        }
        gathered.plan.read.push(KUBERNETES.to_owned());
    }
    gathered
}

impl Gathered {
    pub(super) fn failed(&mut self, rule: String, failure: &Failure) {
        let unreachable = failure.may_pass();
        self.plan.failures.push(SourceFailure { rule, why: failure.to_string(), unreachable });
    }

    /// Wants what a chart refers to; where that is not all known, says so.
    pub(super) fn want_referred(&mut self, settings: &Settings, referred: Referred, rule: &str, title: &str) {
        for why in referred.unread {
            let why = format!("chart {title}: images are missing of what cannot be read, {why}");
            self.failed(rule.to_owned(), &Failure::Chart(why));
        }
        self.want_found(settings, referred.found, rule, &format!("chart {title}"));
    }

    /// Wants the images that were found, `by` before where they were found.
    pub(super) fn want_found(&mut self, settings: &Settings, found: Vec<Found>, rule: &str, by: &str) {
        for one in found {
            let Ok(reference) = one.image.parse::<Reference>() else { continue };
            let by = if by.is_empty() { one.at } else { format!("{by}: {}", one.at) };
            let terms = Terms {
                platforms: platforms(settings, &[]),
                insecure: settings.is_plain(&reference.host),
                keys: settings.keys_for(&reference.repository()),
                guessed: one.guessed,
            };
            // A digest beside a tag is what runs.
            let image = ImageName { repository: reference.repository(), name: reference.name().to_owned() };
            self.plan.want(image, Reason { rule: rule.to_owned(), by }, terms);
        }
    }
}

impl Settings {
    /// The keys that images of a repository must be signed with, whoever wants them.
    pub(super) fn keys_for(&self, repository: &str) -> Vec<PathBuf> {
        let same = |rule: &&ImageRule| {
            super::settings::repository_of(&rule.repository).is_ok_and(|name| name.repository() == repository)
        };
        self.images.iter().filter(same).filter_map(|rule| rule.cosign_key.clone()).collect()
    }
}

async fn image_rule(
    wire: &Wire,
    settings: &Settings,
    rule: &ImageRule,
    label: &str,
    gathered: &mut Gathered,
) -> Result<(), Failure> {
    let reference = super::settings::repository_of(&rule.repository).map_err(Failure::Stopped)?;
    let repository = reference.repository();
    let chooser = TagChooser::compile(&rule.tags).map_err(|(_, why)| Failure::Stopped(why))?;
    let listed = if chooser.needs_listing() {
        tags(wire, &repository, rule.insecure, gathered).await?
    } else {
        Vec::new()
    };
    let terms = Terms {
        platforms: platforms(settings, &rule.platforms),
        insecure: rule.insecure,
        keys: rule.cosign_key.iter().cloned().collect(),
        guessed: false,
    };
    for Chosen { tag, why } in chooser.choose(&listed) {
        let image = ImageName { repository: repository.clone(), name: tag };
        gathered.plan.want(image, Reason { rule: label.to_owned(), by: why }, terms.clone());
    }
    for digest in &rule.digests {
        let image = ImageName { repository: repository.clone(), name: digest.clone() };
        gathered.plan.want(image, Reason { rule: label.to_owned(), by: "digests".into() }, terms.clone());
    }
    Ok(())
}

pub(super) async fn tags(
    wire: &Wire,
    repository: &str,
    insecure: bool,
    gathered: &mut Gathered,
) -> Result<Vec<String>, Failure> {
    if let Some(known) = gathered.tags.get(repository) {
        return Ok(known.clone());
    }
    let source = Source::of(repository, insecure);
    let ask = async || wire.client.tags(&source.upstream, &source.path).await;
    let listed = wire.ask(&source.upstream.host, ask).await?;
    gathered.tags.insert(repository.to_owned(), listed.clone());
    Ok(listed)
}

/// A chart rule, and the rules that dependencies make of it.
async fn chart_rule(
    wire: &Wire,
    settings: &Settings,
    rule: &ChartRule,
    label: &str,
    dry: bool,
    gathered: &mut Gathered,
) -> Result<(), Failure> {
    let mut queue = vec![Wish::of(rule).map_err(Failure::Stopped)?];
    let mut seen = BTreeSet::new();
    let mut indexes: BTreeMap<String, Arc<charts::Index>> = BTreeMap::new();
    while let Some(wish) = queue.pop() {
        let rule = &wish.rule;
        if !seen.insert((rule.repository.clone(), rule.name.clone(), rule.versions.clone())) {
            continue;
        }
        if rule.oci().is_some() {
            for (depends, title) in oci_charts::want(wire, settings, &wish, label, dry, gathered).await? {
                queue.extend(gathered.dependencies(settings, &wish, (&depends, &title), label));
            }
            continue;
        }
        let index = match indexes.get(&rule.repository) {
            Some(index) => index.clone(),
            None => {
                let index = {
                    // What charts depend on may have any name.
                    let named = rule.name.as_deref().filter(|_| !rule.dependencies);
                    let names = named.map(filter::glob).transpose().map_err(Failure::Stopped)?;
                    charts::index(wire, &rule.repository, rule.insecure, names).await?
                };
                indexes.insert(rule.repository.clone(), index.clone());
                index
            }
        };
        for (chart, entry) in charts::choose(&index, &wish, label).map_err(Failure::Chart)? {
            let (depends, title) = (&entry.dependencies, chart.title());
            queue.extend(gathered.dependencies(settings, &wish, (depends, &title), label));
            gathered.want_chart(settings, chart);
        }
    }
    Ok(())
}

impl Gathered {
    /// What a chart depends on; what of it cannot be looked for is a failure of the rule.
    fn dependencies(
        &mut self,
        settings: &Settings,
        wish: &Wish,
        (listed, title): (&[Dependency], &str),
        label: &str,
    ) -> Vec<Wish> {
        let (wishes, failures) = wish.dependencies(settings, listed, title);
        for failure in &failures {
            self.failed(label.to_owned(), failure);
        }
        wishes
    }

    /// Wants a chart, over plain HTTP where that is allowed for whoever has it.
    pub(super) fn want_chart(&mut self, settings: &Settings, mut chart: WantedChart) {
        chart.allow(settings);
        let same = |known: &&mut WantedChart| {
            (&known.repository, &known.name, &known.version)
                == (&chart.repository, &chart.name, &chart.version)
        };
        match self.charts.iter_mut().find(same) {
            Some(known) => {
                known.images |= chart.images;
                known.reasons.extend(chart.reasons);
            }
            None => self.charts.push(chart),
        }
    }
}

/// The images of files, folders and addresses of manifests.
async fn manifests(wire: &Wire, rule: &ManifestRule) -> Result<Vec<Found>, Failure> {
    if let Some(url) = &rule.url {
        let url = Url::parse(url)
            .map_err(|e| Failure::Stopped(format!("`{}`: {e}", super::address::shown(url))))?;
        let text = String::from_utf8_lossy(&wire.file(&url, rule.insecure, LARGEST).await?).into_owned();
        return found::in_yaml(&text, &rule.custom)
            .map_err(|why| Failure::Stopped(format!("`{}`: {why}", clean(&url))));
    }
    let (path, custom) = (rule.path.clone().unwrap_or_default(), rule.custom.clone());
    let read = tokio::task::spawn_blocking(move || {
        let mut found = Vec::new();
        for file in files(&path).map_err(|e| format!("cannot read `{}`: {e}", path.display()))? {
            let text = std::fs::read_to_string(&file)
                .map_err(|e| format!("cannot read `{}`: {e}", file.display()))?;
            let images =
                found::in_yaml(&text, &custom).map_err(|why| format!("`{}`: {why}", file.display()))?;
            found.extend(images);
        }
        Ok::<_, String>(found)
    });
    read.await.map_err(|_| Failure::Ended)?.map_err(Failure::Stopped)
}

/// A file itself, or those of a folder and the folders in it that are manifests by their names; in order.
fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !std::fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let inner = entry?.path();
        let is_manifest =
            inner.extension().is_some_and(|end| ["yaml", "yml", "json"].iter().any(|known| end == *known));
        // A link may lead in a circle.
        if inner.is_dir() && !inner.is_symlink() {
            found.extend(files(&inner)?);
        } else if is_manifest {
            found.push(inner);
        }
    }
    found.sort();
    Ok(found)
}

/// Fetches charts, and wants the images that they refer to. The results are in the order of the charts.
pub(super) async fn chart_images(
    wire: &Wire,
    settings: &Settings,
    gathered: &mut Gathered,
    before: &[crate::store::NewChart],
    dry: bool,
) -> Vec<Result<(crate::store::NewChart, bool, u64), Failure>> {
    let wanted = gathered.charts.clone();
    let fetched = stream::iter(wanted.iter().map(|chart| {
        let here = before.iter().find(|before| {
            (&before.repository, &before.name, &before.version)
                == (&chart.repository, &chart.name, &chart.version)
        });
        async move {
            let got = charts::fetch(wire, chart, here, dry).await?;
            let size = got.package.len() as u64;
            let found = if chart.images {
                let package = got.package.clone();
                let read = tokio::task::spawn_blocking(move || super::package::images(&package)).await;
                Some(read.map_err(|_| Failure::Ended)?.map_err(Failure::Chart)?)
            } else {
                None
            };
            Ok((got.chart, got.travelled, size, found))
        }
    }))
    .buffered(CHARTS)
    .collect::<Vec<Result<_, Failure>>>()
    .await;
    let mut results = Vec::with_capacity(fetched.len());
    for (chart, result) in wanted.iter().zip(fetched) {
        results.push(result.map(|(new, travelled, size, found)| {
            let label = chart.reasons.first().map(|reason| reason.rule.clone()).unwrap_or_default();
            if let Some(found) = found {
                gathered.want_referred(settings, found, &label, &chart.title());
            }
            (new, travelled, size)
        }));
    }
    results
}

#[cfg(test)]
#[path = "gather_tests.rs"]
mod tests;
