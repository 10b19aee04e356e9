//! Charts of repositories on web servers: what their index lists, and fetching a package with its provenance.
//! Charts in OCI registries are images to the mirror, and fetched as such; those that an index says to be in a registry
//! are packages to the mirror too, and kept as such.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use regex_lite::Regex;
use reqwest::Url;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::address::shown;
use super::depends::Wish;
use super::error::Failure;
use super::fetch::{Source, Wire};
use super::filter;
use super::plan::Reason;
use super::settings::{ChartRule, Settings};
use super::{oci_charts, order};
use crate::oci::chart::{ChartPackage, LARGEST};
use crate::oci::{Reference, clean};
use crate::store::NewChart;
use crate::sys::clock;
use crate::sys::digest::Digest;
use crate::sys::yaml;

/// The largest index that is taken, in bytes.
const LARGEST_INDEX: usize = 64 << 20;
/// The largest provenance file.
pub(super) const LARGEST_PROVENANCE: usize = 1 << 20;

/// What an index says of one version of a chart.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Entry {
    #[serde(default)]
    name: String,
    #[serde(default, deserialize_with = "text")]
    version: String,
    #[serde(default)]
    urls: Vec<String>,
    #[serde(default)]
    digest: Option<String>,
    #[serde(default)]
    pub(super) dependencies: Vec<Dependency>,
}

/// A chart that another depends on.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Dependency {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default, deserialize_with = "text")]
    pub(super) version: String,
    #[serde(default)]
    pub(super) repository: String,
}

/// A version that somebody forgot to quote is a number.
fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => text,
        serde_json::Value::Null => String::new(),
        other => other.to_string(),
    })
}

/// All charts of a repository, by name.
pub(super) type Index = BTreeMap<String, Vec<Entry>>;

/// A chart that is wanted.
#[derive(Clone, Debug)]
pub(super) struct WantedChart {
    /// The chart repository here.
    pub(super) repository: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) url: Url,
    digest: Option<String>,
    /// Whether whoever has it may be asked over plain HTTP.
    plain: bool,
    /// Whether its images are wanted too.
    pub(super) images: bool,
    pub(super) reasons: Vec<Reason>,
}

impl WantedChart {
    /// `app-1.0.0`.
    pub(super) fn title(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// Where it is, and under which tag, if the index says that it is in a registry: `oci://host/path:tag`, where
    /// helm has the version for the tag if there is none, and `_` for `+`.
    fn in_registry(&self) -> Result<Option<(Source, String)>, Failure> {
        let Some(name) = self.url.as_str().strip_prefix("oci://") else { return Ok(None) };
        let last = name.rsplit('/').next().unwrap_or_default();
        let tag = if last.contains(':') { String::new() } else { format!(":{}", self.version) };
        let reference: Reference = format!("{name}{tag}").replace('+', "_").parse().map_err(|_| {
            let url = clean(&self.url);
            Failure::Chart(format!("the index lists `{url}` for {}, which is no name", self.title()))
        })?;
        Ok(Some((Source::of(&reference.repository(), self.plain), reference.name().to_owned())))
    }

    /// Has it fetched over plain HTTP where a rule allows that for whoever has it.
    pub(super) fn allow(&mut self, settings: &Settings) {
        self.plain = settings.is_plain(self.url.as_str());
    }

    #[cfg(test)]
    pub(super) fn is_plain(&self) -> bool {
        self.plain
    }

    /// Whether a person means it by `text`.
    pub(super) fn is_meant_by(&self, text: &str) -> bool {
        text == self.name || text == self.title()
    }
}

/// Reads of a repository's index the charts with these names; all without.
pub(super) async fn index(
    wire: &Wire,
    repository: &str,
    insecure: bool,
    names: Option<Regex>,
) -> Result<Arc<Index>, Failure> {
    let unfit = |e: url::ParseError| Failure::Chart(format!("`{}`: {e}", shown(repository)));
    let mut url = Url::parse(repository).map_err(unfit)?;
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    let url = url.join("index.yaml").map_err(unfit)?;
    let bytes = wire.file(&url, insecure, LARGEST_INDEX).await?;
    let parse = move || parse(&bytes, names.as_ref());
    let parsed = tokio::task::spawn_blocking(parse).await.map_err(|_| Failure::Ended)?;
    parsed
        .map(Arc::new)
        .map_err(|why| Failure::Chart(format!("`{}` is no index of charts: {why}", clean(&url))))
}

/// Reads an index, which is YAML, and of some servers JSON, which is read faster. Pure.
fn parse(bytes: &[u8], names: Option<&Regex>) -> Result<Index, String> {
    if bytes.trim_ascii_start().starts_with(b"{")
        && let Ok(index) = Names(names, true).deserialize(&mut serde_json::Deserializer::from_slice(bytes))
    {
        return Ok(index);
    }
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    yaml::read_large(text, Names(names, true))
}

/// Reads the charts whose names fit, of a whole index or of its `entries`: most indexes are far larger than what is
/// wanted of them.
#[derive(Clone, Copy)]
struct Names<'a>(Option<&'a Regex>, bool);

impl<'de> DeserializeSeed<'de> for Names<'_> {
    type Value = Index;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Index, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Names<'_> {
    type Value = Index;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("charts by their names")
    }

    fn visit_unit<E>(self) -> Result<Index, E> {
        Ok(Index::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Index, A::Error> {
        let Self(names, is_whole) = self;
        let mut index = Index::new();
        while let Some(key) = map.next_key::<String>()? {
            if is_whole && key == "entries" {
                index = map.next_value_seed(Self(names, false))?;
            } else if !is_whole && names.is_none_or(|names| names.is_match(&key)) {
                index.insert(key, map.next_value::<Option<Vec<Entry>>>()?.unwrap_or_default());
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(index)
    }
}

/// The charts that a rule wants of an index. Pure.
pub(super) fn choose(index: &Index, wish: &Wish, label: &str) -> Result<Vec<(WantedChart, Entry)>, String> {
    let (rule, range) = (&wish.rule, wish.range.as_ref());
    let name = rule.name.as_deref().map(filter::glob).transpose()?;
    let base =
        Url::parse(&format!("{}/", rule.repository.trim_end_matches('/'))).map_err(|e| e.to_string())?;
    let mut wanted = Vec::new();
    for (chart, entries) in
        index.iter().filter(|(chart, _)| name.as_ref().is_none_or(|name| name.is_match(chart)))
    {
        let fits = |entry: &&Entry| {
            range.is_none_or(|range| filter::version(&entry.version).is_some_and(|v| range.matches(&v)))
        };
        let mut fit: Vec<&Entry> = entries.iter().filter(fits).collect();
        order::sort(&mut fit, |entry| &entry.version);
        let latest = rule.latest.map(|n| n as usize);
        order::newest(&mut fit, |entry| &entry.version, latest, range.is_some());
        for entry in fit {
            let Some(url) = entry.urls.first().and_then(|url| base.join(url).ok()) else { continue };
            let by = wish.by.clone().unwrap_or_else(|| why(rule));
            let chart = WantedChart {
                repository: rule.path.clone(),
                name: if entry.name.is_empty() { chart.clone() } else { entry.name.clone() },
                version: entry.version.clone(),
                url,
                digest: entry.digest.clone(),
                plain: false,
                images: rule.images,
                reasons: vec![Reason { rule: label.to_owned(), by }],
            };
            wanted.push((chart, entry.clone()));
        }
    }
    Ok(wanted)
}

pub(super) fn why(rule: &ChartRule) -> String {
    let parts = [
        rule.name.as_ref().map(|name| format!("name {name}")),
        rule.versions.as_ref().map(|range| format!("versions {range}")),
        rule.latest.map(|n| format!("latest {n}")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "every chart".into() } else { parts.join(", ") }
}

/// A chart that came, or was here.
pub(super) struct Got {
    pub(super) chart: NewChart,
    pub(super) package: Bytes,
    /// Whether it had to be fetched.
    pub(super) travelled: bool,
}

/// Fetches a chart, unless `before` is the one that the index lists. Stores nothing with `dry`.
pub(super) async fn fetch(
    wire: &Wire,
    wanted: &WantedChart,
    before: Option<&NewChart>,
    dry: bool,
) -> Result<Got, Failure> {
    if let Some(chart) = before.filter(|before| is_same(wanted, before)) {
        let (digest, provenance) = (chart.digest.clone(), chart.provenance.clone());
        let here = wire.blocking(move |store| {
            // What of it was set aside comes again.
            if let Some(provenance) = provenance
                && store.blob(None, &provenance)?.is_none()
            {
                return Ok(None);
            }
            store.blob(None, &digest)?.map(|blob| blob.read()).transpose()
        });
        let here = here.await?;
        if let Some(package) = here {
            return Ok(Got { chart: chart.clone(), package: package.into(), travelled: false });
        }
    }
    let (package, provenance) = match wanted.in_registry()? {
        Some((source, tag)) => oci_charts::signed(wire, &source, &tag, dry).await?,
        None => {
            let package = wire.file(&wanted.url, wanted.plain, LARGEST).await?;
            wire.note(package.len());
            (package, provenance(wire, wanted).await?)
        }
    };
    let digest = Digest::sha256(&package);
    if wanted.digest.as_deref().is_some_and(|listed| listed.trim_start_matches("sha256:") != digest.hex()) {
        return Err(Failure::Chart(format!("`{}` is not what the index's digest says", clean(&wanted.url))));
    }
    let read = ChartPackage::read(&package)
        .map_err(|e| Failure::Chart(e.to_string().replace("; hint:", " hint:")))?;
    if (read.name.as_str(), read.version.as_str()) != (&wanted.name, &wanted.version) {
        return Err(Failure::Chart(format!("`{}` holds {}", clean(&wanted.url), read.file_name())));
    }
    let created = clock::now().as_second();
    let entry = read.entry(&digest, created);
    let chart = NewChart {
        repository: wanted.repository.clone(),
        name: read.name,
        version: read.version,
        provenance: provenance.as_ref().map(|bytes| Digest::sha256(bytes)),
        digest,
        created,
        entry,
    };
    if !dry {
        for bytes in [Some(package.clone()), provenance].into_iter().flatten() {
            let digest = Digest::sha256(&bytes);
            wire.blocking(move |store| store.add_blob(None, &digest, &bytes).map(|_| ())).await?;
        }
    }
    Ok(Got { chart, package, travelled: true })
}

fn is_same(wanted: &WantedChart, before: &NewChart) -> bool {
    // Without a digest in the index, a version is taken to stay what it was.
    wanted.digest.as_deref().is_none_or(|listed| listed.trim_start_matches("sha256:") == before.digest.hex())
}

/// The signature beside a package, if there is one.
async fn provenance(wire: &Wire, wanted: &WantedChart) -> Result<Option<Bytes>, Failure> {
    let mut url = wanted.url.clone();
    url.set_path(&format!("{}.prov", url.path()));
    match wire.file(&url, wanted.plain, LARGEST_PROVENANCE).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(failure) if failure.may_pass() => Err(failure),
        // Buckets answer 403 for what is not there.
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
#[path = "charts_tests.rs"]
mod tests;
