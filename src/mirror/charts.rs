//! Charts of repositories on web servers: what their index lists, and fetching a package with its provenance.
//! Charts in OCI registries are images to the mirror, and fetched as such.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::Url;
use serde::Deserialize;

use super::error::Failure;
use super::fetch::Wire;
use super::filter;
use super::plan::Reason;
use super::settings::ChartRule;
use crate::oci::chart::{ChartPackage, LARGEST, newest_first};
use crate::store::NewChart;
use crate::sys::clock;
use crate::sys::digest::Digest;

/// The largest index that is taken, in bytes.
const LARGEST_INDEX: usize = 64 << 20;
/// The largest provenance file.
const LARGEST_PROVENANCE: usize = 1 << 20;

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
    insecure: bool,
    /// Whether its images are wanted too.
    pub(super) images: bool,
    pub(super) reasons: Vec<Reason>,
}

impl WantedChart {
    /// `app-1.0.0`.
    pub(super) fn title(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// Whether a person means it by `text`.
    pub(super) fn is_meant_by(&self, text: &str) -> bool {
        text == self.name || text == self.title()
    }
}

/// Reads a repository's index.
pub(super) async fn index(wire: &Wire, repository: &str, insecure: bool) -> Result<Arc<Index>, Failure> {
    let mut url = Url::parse(repository).map_err(|e| Failure::Chart(format!("`{repository}`: {e}")))?;
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    let url = url.join("index.yaml").map_err(|e| Failure::Chart(format!("`{repository}`: {e}")))?;
    let bytes = wire.file(&url, insecure, LARGEST_INDEX).await?;
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        entries: Index,
    }
    let parse = move || -> Result<Index, String> {
        let text = std::str::from_utf8(&bytes).map_err(|e| e.to_string())?;
        let file: File = serde_saphyr::from_str(text)
            .map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())?;
        Ok(file.entries)
    };
    let parsed = tokio::task::spawn_blocking(parse).await.map_err(|_| Failure::Ended)?;
    parsed.map(Arc::new).map_err(|why| Failure::Chart(format!("`{url}` is no index of charts: {why}")))
}

/// The charts that a rule wants of an index. Pure.
pub(super) fn choose(
    index: &Index,
    rule: &ChartRule,
    label: &str,
    by: Option<&str>,
) -> Result<Vec<(WantedChart, Entry)>, String> {
    let name = rule.name.as_deref().map(filter::glob).transpose()?;
    let range = rule.versions.as_deref().map(filter::range).transpose()?;
    let base =
        Url::parse(&format!("{}/", rule.repository.trim_end_matches('/'))).map_err(|e| e.to_string())?;
    let mut wanted = Vec::new();
    for (chart, entries) in
        index.iter().filter(|(chart, _)| name.as_ref().is_none_or(|name| name.is_match(chart)))
    {
        let fits = |entry: &&Entry| {
            range
                .as_ref()
                .is_none_or(|range| filter::version(&entry.version).is_some_and(|v| range.matches(&v)))
        };
        let mut fit: Vec<&Entry> = entries.iter().filter(fits).collect();
        fit.sort_by(|a, b| newest_first(&a.version, &b.version));
        fit.truncate(rule.latest.map_or(usize::MAX, |n| n as usize));
        for entry in fit {
            let Some(url) = entry.urls.first().and_then(|url| base.join(url).ok()) else { continue };
            let by = by.map_or_else(|| why(rule), str::to_owned);
            let chart = WantedChart {
                repository: rule.path.clone(),
                name: if entry.name.is_empty() { chart.clone() } else { entry.name.clone() },
                version: entry.version.clone(),
                url,
                digest: entry.digest.clone(),
                insecure: rule.insecure,
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
    let package = wire.file(&wanted.url, wanted.insecure, LARGEST).await?;
    wire.note(package.len());
    let digest = Digest::sha256(&package);
    if wanted.digest.as_deref().is_some_and(|listed| listed.trim_start_matches("sha256:") != digest.hex()) {
        return Err(Failure::Chart(format!("`{}` is not what the index's digest says", wanted.url)));
    }
    let read = ChartPackage::read(&package)
        .map_err(|e| Failure::Chart(e.to_string().replace("; hint:", " hint:")))?;
    if (read.name.as_str(), read.version.as_str()) != (&wanted.name, &wanted.version) {
        return Err(Failure::Chart(format!("`{}` holds {}", wanted.url, read.file_name())));
    }
    let provenance = provenance(wire, wanted).await?;
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
    match wire.file(&url, wanted.insecure, LARGEST_PROVENANCE).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(failure) if failure.may_pass() => Err(failure),
        // Buckets answer 403 for what is not there.
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_takes_names_and_versions_of_an_index() {
        let yaml = "entries:\n  app:\n  - {name: app, version: 1.0.0, urls: [charts/app-1.0.0.tgz]}\n  - {name: app, version: 2.0.0, urls: ['https://cdn.example/app-2.0.0.tgz'], digest: abc}\n  - {name: app, version: 1.5, urls: [x.tgz]}\n  other:\n  - {name: other, version: 3.0.0, urls: [other.tgz]}\n";
        #[derive(Deserialize)]
        struct File {
            entries: Index,
        }
        let file: File = serde_saphyr::from_str(yaml).unwrap();
        let rule = |name: Option<&str>, versions: Option<&str>, latest| ChartRule {
            repository: "https://charts.example.com/stable".into(),
            name: name.map(str::to_owned),
            versions: versions.map(str::to_owned),
            latest,
            images: false,
            dependencies: false,
            path: String::new(),
            insecure: false,
        };
        let chosen = |rule: &ChartRule| -> Vec<String> {
            let wanted = choose(&file.entries, rule, "x", None).unwrap();
            wanted.into_iter().map(|(chart, _)| chart.url.to_string()).collect()
        };
        assert_eq!(
            chosen(&rule(Some("app"), Some(">=1, <2"), None)),
            ["https://charts.example.com/stable/charts/app-1.0.0.tgz"]
        );
        assert_eq!(
            chosen(&rule(None, None, Some(1))),
            ["https://cdn.example/app-2.0.0.tgz", "https://charts.example.com/stable/other.tgz"]
        );
        assert_eq!(chosen(&rule(Some("*"), None, None)).len(), 4);
    }
}
