//! What is to be mirrored, filled from the sections `[mirror...]`; and what of it makes no sense.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::{self, CREDENTIAL, holds_credential, shown};
use super::filter::TagChooser;
use super::git::GitRule;
use super::schedule::{Timetable, Window};
use crate::oci::{Platform, Reference};
use crate::sys::digest::Digest;

/// The mirror's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// When it runs by itself, as a line of cron in UTC; never without one.
    pub schedule: Option<String>,
    /// Up to how much later than its schedule a run begins, so that a fleet does not come at once.
    pub jitter: Duration,
    /// Hours of the day, in UTC, within which scheduled runs may fetch: `22:00-06:00`. Empty: always.
    pub windows: Vec<String>,
    /// The platforms whose images are fetched; empty for this machine's own.
    pub platforms: Vec<String>,
    /// Bytes a second that all transfers together may take.
    pub bandwidth_limit: Option<u64>,
    /// Transfers at the same time.
    pub parallel: u32,
    /// The proxy to other machines.
    pub proxy: Option<String>,
    /// What is asked without it.
    pub no_proxy: Option<String>,
    /// docker's `config.json` with credentials for upstreams.
    pub docker_config: Option<PathBuf>,
    /// PEM files of authorities that upstreams may have beside the system's.
    pub authorities: Vec<PathBuf>,
    /// `[[mirror.images]]`.
    pub images: Vec<ImageRule>,
    /// `[[mirror.charts]]`.
    pub charts: Vec<ChartRule>,
    /// `[[mirror.manifests]]`.
    pub manifests: Vec<ManifestRule>,
    /// `[[mirror.git]]`.
    pub git: Vec<GitRule>,
    /// The most bytes that one git repository may take.
    pub git_size_limit: u64,
    /// Whether every image of this node's pods is mirrored.
    pub cluster_images: bool,
    /// The version of Kubernetes whose own images are mirrored.
    pub kubernetes_version: Option<String>,
    /// Which of them.
    pub kubernetes_images: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            schedule: None,
            jitter: Duration::from_secs(600),
            windows: Vec::new(),
            platforms: Vec::new(),
            bandwidth_limit: None,
            parallel: 4,
            proxy: None,
            no_proxy: None,
            docker_config: None,
            authorities: Vec::new(),
            images: Vec::new(),
            charts: Vec::new(),
            manifests: Vec::new(),
            git: Vec::new(),
            git_size_limit: 1 << 30,
            cluster_images: false,
            kubernetes_version: None,
            kubernetes_images: ["pause", "kube-proxy", "coredns"].map(str::to_owned).to_vec(),
        }
    }
}

/// Which tags of a repository. `glob`, `regex` and `semver` must all hold; `latest` takes the newest of those.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct TagFilter {
    /// These, whatever else is said.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exact: Vec<String>,
    /// `1.2*`, `{a,b}`, `?`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub glob: Option<String>,
    /// Found anywhere in the tag unless anchored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// `>=1.25, <2`: of tags that are whole versions, with or without a `v`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub semver: Option<String>,
    /// So many of the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest: Option<u32>,
}

/// `[[mirror.images]]`: images of one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImageRule {
    /// `docker.io/library/nginx`.
    pub repository: String,
    /// Which tags.
    #[serde(default)]
    pub tags: TagFilter,
    /// Images by digest, kept without a tag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<String>,
    /// In place of `mirror.platforms`; `all` for every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// Whether the registry may be asked over plain HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    /// A public key (PEM) that must have signed each image with cosign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cosign_key: Option<PathBuf>,
}

/// `[[mirror.charts]]`: charts of one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ChartRule {
    /// `https://charts.example.com`, or `oci://registry.example.com/charts` with an exact `name`.
    pub repository: String,
    /// Names, `*` and `?` allowed; all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A range of versions, `>=4, <6`; all without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<String>,
    /// So many of the newest versions of each chart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<u32>,
    /// Whether the images that the charts refer to are mirrored too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub images: bool,
    /// Whether charts that these depend on are mirrored from their own repositories too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dependencies: bool,
    /// The chart repository here that they go to; the one at the root without.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Whether the repository may be asked over plain HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// `[[mirror.manifests]]`: the images that Kubernetes YAML names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ManifestRule {
    /// A file, or a folder whose `.yaml`, `.yml` and `.json` files are read, also those in folders below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The same from a web server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Where custom resources name images, such as `spec.*.image`; asked for upstream before it is believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub custom: Vec<String>,
    /// Whether the web server of `url` may be asked over plain HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Such as `mirror.images[0].tags.semver`.
    pub key: String,
    /// What is wrong, with what was expected.
    pub why: String,
}

impl Fault {
    pub(super) fn new(key: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Self { key: key.into(), why: why.to_string() }
    }
}

impl ImageRule {
    /// How it is named to people and in the record: a rule that is edited stays the same rule.
    pub fn label(&self) -> String {
        format!("images {}", self.repository)
    }
}

impl ChartRule {
    /// How it is named.
    pub fn label(&self) -> String {
        let name = self.name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        address::label("charts", &self.repository, &name)
    }

    /// The repository and path of an OCI chart, without the chart's name.
    pub fn oci(&self) -> Option<&str> {
        self.repository.strip_prefix("oci://").map(|rest| rest.trim_end_matches('/'))
    }
}

impl ManifestRule {
    /// How it is named.
    pub fn label(&self) -> String {
        match (&self.path, &self.url) {
            (None, Some(url)) => address::label("manifests", url, ""),
            (path, _) => format!("manifests {}", path.as_deref().unwrap_or(Path::new("")).display()),
        }
    }
}

impl Settings {
    /// Checks all that can be checked without asking anybody.
    ///
    /// # Errors
    /// The first setting that makes no sense.
    pub fn check(&self) -> Result<(), Fault> {
        if let Some(line) = &self.schedule {
            Timetable::parse(line).map_err(|why| Fault::new("mirror.schedule", why))?;
        }
        for (at, window) in self.windows.iter().enumerate() {
            Window::parse(window).map_err(|why| Fault::new(format!("mirror.windows[{at}]"), why))?;
        }
        platforms("mirror.platforms", &self.platforms)?;
        if let Some(why) = self.proxy.as_deref().and_then(crate::oci::proxy_fault) {
            return Err(Fault::new("mirror.proxy", why));
        }
        for (at, rule) in self.images.iter().enumerate() {
            rule.check(&format!("mirror.images[{at}]"))?;
        }
        for (at, rule) in self.charts.iter().enumerate() {
            rule.check(&format!("mirror.charts[{at}]"))?;
        }
        for (at, rule) in self.manifests.iter().enumerate() {
            rule.check(&format!("mirror.manifests[{at}]"))?;
        }
        for (at, rule) in self.git.iter().enumerate() {
            rule.check(&format!("mirror.git[{at}]"))?;
            if self.git[..at].iter().any(|other| other.name == rule.name) {
                let why = format!("`{}` is there twice", rule.name);
                return Err(Fault::new(format!("mirror.git[{at}].name"), why));
            }
        }
        if let Some(version) = &self.kubernetes_version {
            let names = super::kubernetes::images(version, &self.kubernetes_images);
            names.map_err(|(key, why)| Fault::new(format!("mirror.kubernetes.{key}"), why))?;
        }
        Ok(())
    }
}

impl ImageRule {
    fn check(&self, key: &str) -> Result<(), Fault> {
        let repository = repository_of(&self.repository);
        repository.map_err(|why| Fault::new(format!("{key}.repository"), why))?;
        TagChooser::compile(&self.tags)
            .map_err(|(field, why)| Fault::new(format!("{key}.tags.{field}"), why))?;
        if self.tags == TagFilter::default() && self.digests.is_empty() {
            let why = "it chooses nothing hint: `tags = { exact = [\"1.0\"] }`, or `digests`";
            return Err(Fault::new(key, why));
        }
        for (at, digest) in self.digests.iter().enumerate() {
            let read = digest.parse::<Digest>();
            read.map_err(|e| {
                Fault::new(format!("{key}.digests[{at}]"), e.to_string().replace("; hint:", " hint:"))
            })?;
        }
        if self.platforms != ["all"] {
            platforms(&format!("{key}.platforms"), &self.platforms)?;
        }
        match &self.cosign_key {
            Some(path) if !path.is_absolute() => Err(Fault::new(
                format!("{key}.cosign-key"),
                format!("`{}` is no absolute path", path.display()),
            )),
            _ => Ok(()),
        }
    }
}

impl ChartRule {
    fn check(&self, key: &str) -> Result<(), Fault> {
        let fault = |field: &str, why: String| Err(Fault::new(format!("{key}.{field}"), why));
        match self.oci() {
            // It is part of no name, and an error would quote it.
            Some(_) if holds_credential(&self.repository) => {
                return fault("repository", CREDENTIAL.into());
            }
            Some(base) => {
                let name = self.name.as_deref().unwrap_or_default();
                if name.is_empty() || name.contains(['*', '?', '[', '{']) {
                    return fault("name", "an OCI registry lists no charts: give the exact name".into());
                }
                if let Err(why) = repository_of(&format!("{base}/{name}")) {
                    return fault("repository", why);
                }
            }
            None => match reqwest::Url::parse(&self.repository) {
                Ok(url) if matches!(url.scheme(), "http" | "https") && url.host().is_some() => {}
                _ => {
                    let why =
                        format!("`{}` is neither `https://...` nor `oci://...`", shown(&self.repository));
                    return fault("repository", why);
                }
            },
        }
        if let Some(Err(why)) = self.name.as_deref().map(super::filter::glob) {
            return fault("name", why);
        }
        if let Some(Err(why)) = self.versions.as_deref().map(super::filter::range) {
            return fault("versions", why);
        }
        if !self.path.is_empty() && !self.path.split('/').all(crate::oci::chart::is_path_part) {
            return fault("path", format!("`{}` is no path such as `apps/stable`", self.path));
        }
        Ok(())
    }
}

impl ManifestRule {
    fn check(&self, key: &str) -> Result<(), Fault> {
        match (&self.path, &self.url) {
            (Some(path), None) if path.is_absolute() => {}
            (Some(path), None) => {
                return Err(Fault::new(
                    format!("{key}.path"),
                    format!("`{}` is no absolute path", path.display()),
                ));
            }
            (None, Some(url))
                if reqwest::Url::parse(url).is_ok_and(|url| url.scheme().starts_with("http")) => {}
            (None, Some(url)) => {
                return Err(Fault::new(
                    format!("{key}.url"),
                    format!("`{}` is no `https://...`", shown(url)),
                ));
            }
            _ => return Err(Fault::new(key, "it needs either `path` or `url`")),
        }
        for (at, pattern) in self.custom.iter().enumerate() {
            if pattern.is_empty() || pattern.split('.').any(str::is_empty) {
                let why = format!("`{pattern}` is no path such as `spec.*.image`");
                return Err(Fault::new(format!("{key}.custom[{at}]"), why));
            }
        }
        Ok(())
    }
}

/// A repository without tag or digest, in its full form.
pub(super) fn repository_of(text: &str) -> Result<Reference, String> {
    let reference: Reference =
        text.parse().map_err(|e: crate::oci::ReferenceError| hinted(&e.to_string()))?;
    let last = text.rsplit('/').next().unwrap_or(text);
    if last.contains([':', '@']) {
        return Err(format!(
            "`{text}` has a tag or digest hint: name the repository alone, and `tags` or `digests`"
        ));
    }
    Ok(reference)
}

/// With the hint as the configuration writes it.
fn hinted(text: &str) -> String {
    text.replace("; hint:", " hint:")
}

fn platforms(key: &str, written: &[String]) -> Result<(), Fault> {
    for (at, text) in written.iter().enumerate() {
        text.parse::<Platform>().map_err(|why| Fault::new(format!("{key}[{at}]"), hinted(&why)))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
