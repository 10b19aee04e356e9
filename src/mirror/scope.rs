//! Which sources a run has to ask: where something is asked for by name, those alone that can want it. Pure.

use std::collections::BTreeSet;

use super::plan::{ImageName, Reason};
use super::record::Record;
use super::settings::{ChartRule, Settings, repository_of};
use super::{CLUSTER, KUBERNETES, filter, kubernetes};

/// The rules whose sources are asked, by their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All of them.
    All,
    /// These.
    Some(BTreeSet<String>),
}

impl Scope {
    /// What has to be asked for `names`. Settings and the last run say who can want a name; where neither knows it, it may
    /// stand in a chart or a manifest, and only then those are read.
    pub(super) fn of(settings: &Settings, names: &[String], record: &Record) -> Self {
        if names.is_empty() {
            return Self::All;
        }
        let mut asked = BTreeSet::new();
        for name in names {
            let known = known(settings, record, name);
            asked.extend(if known.is_empty() { unforeseen(settings) } else { known });
        }
        Self::Some(asked)
    }

    /// Whether the source of a rule is asked.
    pub(super) fn asks(&self, label: &str) -> bool {
        match self {
            Self::All => true,
            Self::Some(asked) => asked.contains(label),
        }
    }
}

/// The charts that named an image in the last run, as `app-1.0.0`.
pub(super) fn charts_of<'a>(record: &'a Record, name: &'a str) -> impl Iterator<Item = &'a str> {
    let images = record.images.iter().filter(move |known| known.image.is_meant_by(name));
    images.flat_map(|known| &known.reasons).filter_map(chart_of)
}

/// The chart that a reason names, as `app-1.0.0`.
pub(super) fn chart_of(reason: &Reason) -> Option<&str> {
    reason.by.strip_prefix("chart ")?.split(':').next()
}

/// The rules that can want `name`, as settings and the last run have it.
fn known(settings: &Settings, record: &Record, name: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    for rule in &settings.images {
        if repository_of(&rule.repository).is_ok_and(|of| is_of(&of.repository(), name)) {
            labels.insert(rule.label());
        }
    }
    labels.extend(settings.charts.iter().filter(|rule| can_be(rule, name)).map(ChartRule::label));
    labels.extend(settings.git.iter().filter(|rule| rule.is_meant_by(name)).map(|rule| rule.label()));
    if let Some(version) = &settings.kubernetes_version {
        let images = kubernetes::images(version, &settings.kubernetes_images).unwrap_or_default();
        let mut images = images.into_iter().map(|(repository, name)| ImageName { repository, name });
        labels.extend(images.any(|image| image.is_meant_by(name)).then(|| KUBERNETES.to_owned()));
    }
    let images =
        record.images.iter().filter(|known| known.image.is_meant_by(name)).map(|known| &known.reasons);
    let is_chart = |chart: &str, version: &str| name == chart || name == format!("{chart}-{version}");
    let charts = record.charts.iter().filter(|known| is_chart(&known.name, &known.version));
    let reasons = images.chain(charts.map(|known| &known.reasons)).flatten();
    labels.extend(reasons.map(|reason| reason.rule.clone()));
    labels
}

/// The rules whose sources may name anything.
fn unforeseen(settings: &Settings) -> BTreeSet<String> {
    let charts = settings.charts.iter().filter(|rule| rule.images || rule.dependencies);
    let mut labels: BTreeSet<String> = charts.map(ChartRule::label).collect();
    labels.extend(settings.manifests.iter().map(|rule| rule.label()));
    labels.extend(settings.cluster_images.then(|| CLUSTER.to_owned()));
    labels
}

/// Whether some tag or digest of a repository is what a person means by `text`.
fn is_of(repository: &str, text: &str) -> bool {
    let without = text.split_once('@').map_or(text, |(repository, _)| repository);
    // A colon before a slash parts a host from its port.
    let tagless =
        without.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map(|(repository, _)| repository);
    [Some(text), Some(without), tagless].into_iter().flatten().any(|part| {
        repository == part || repository.strip_suffix(part).is_some_and(|rest| rest.ends_with('/'))
    })
}

/// Whether some version of the charts of a rule is what a person means by `text`.
pub(super) fn can_be(rule: &ChartRule, text: &str) -> bool {
    if let Some(base) = rule.oci() {
        let name = rule.name.as_deref().unwrap_or_default();
        return repository_of(&format!("{base}/{name}")).is_ok_and(|of| is_of(&of.repository(), text));
    }
    if text.contains(['/', ':', '@']) {
        return false;
    }
    let Some(Ok(name)) = rule.name.as_deref().map(filter::glob) else { return rule.name.is_none() };
    let dashes = text.match_indices('-').map(|(at, _)| &text[..at]);
    dashes.chain([text]).any(|chart| name.is_match(chart))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::record::ImageRecord;
    use crate::mirror::settings::{ImageRule, ManifestRule, TagFilter};

    fn settings() -> Settings {
        let image = |repository: &str| ImageRule {
            repository: repository.into(),
            tags: TagFilter { latest: Some(1), ..TagFilter::default() },
            digests: vec![],
            platforms: vec![],
            insecure: false,
            cosign_key: None,
        };
        let chart = |repository: &str, name: Option<&str>, images| ChartRule {
            repository: repository.into(),
            name: name.map(str::to_owned),
            versions: None,
            latest: None,
            images,
            dependencies: false,
            path: String::new(),
            insecure: false,
        };
        let url = Some("https://x.example/all.yaml".to_owned());
        Settings {
            images: vec![image("nginx"), image("q.io:5000/team/app")],
            charts: vec![
                chart("https://a.example", Some("ingress-*"), true),
                chart("oci://r.example/charts", Some("db"), false),
            ],
            manifests: vec![ManifestRule { path: None, url, custom: vec![], insecure: false }],
            kubernetes_version: Some("1.36.3".into()),
            ..Settings::default()
        }
    }

    const INGRESS: &str = "charts https://a.example ingress-*";
    const MANIFESTS: &str = "manifests https://x.example/all.yaml";

    fn asked(record: &Record, names: &[&str]) -> Vec<String> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        match Scope::of(&settings(), &names, record) {
            Scope::All => vec!["all".into()],
            Scope::Some(labels) => labels.into_iter().collect(),
        }
    }

    #[test]
    fn a_name_asks_those_alone_that_can_want_it() {
        let none = Record::default();
        assert_eq!(asked(&none, &[]), ["all"]);
        for name in ["nginx", "nginx:1.27", "library/nginx@sha256:00", "docker.io/library/nginx:1"] {
            assert_eq!(asked(&none, &[name]), ["images nginx"], "{name}");
        }
        for name in ["app:2", "team/app", "q.io:5000/team/app:2"] {
            assert_eq!(asked(&none, &[name]), ["images q.io:5000/team/app"], "{name}");
        }
        for name in ["ingress-nginx", "ingress-nginx-4.11.0"] {
            assert_eq!(asked(&none, &[name]), [INGRESS], "{name}");
        }
        assert_eq!(asked(&none, &["charts/db:1.0.0"]), ["charts oci://r.example/charts db"]);
        assert_eq!(asked(&none, &["pause"]), [KUBERNETES]);
        assert_eq!(asked(&none, &["nginx", "app"]).len(), 2);
    }

    #[test]
    fn who_wanted_it_the_last_time_is_asked_and_else_whoever_may_name_anything() {
        let image = ImageName { repository: "q.io/side".into(), name: "1".into() };
        let by = "chart ingress-nginx-4.0.0: values.yaml image".to_owned();
        let reasons = vec![Reason { rule: INGRESS.into(), by }];
        let known = ImageRecord {
            image,
            digest: None,
            reasons,
            error: None,
            missing: false,
            size: 0,
            attached: vec![],
        };
        let record = Record { images: vec![known], ..Record::default() };
        assert_eq!(asked(&record, &["side:1"]), [INGRESS]);
        assert_eq!(charts_of(&record, "side").collect::<Vec<_>>(), ["ingress-nginx-4.0.0"]);
        assert_eq!(asked(&record, &["other:1"]), [INGRESS, MANIFESTS]);
    }
}
