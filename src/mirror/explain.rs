//! Why an image, a chart or a repository is in or out: what each rule says that could want it, by the settings as they
//! are and by what the last run found. Asks no upstream.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::filter::{self, TagChooser};
use super::list::{Listed, list};
use super::plan::{ImageName, Reason};
use super::settings::{ChartRule, ImageRule, Settings, repository_of};
use super::{Error, KUBERNETES, Parts, git, kubernetes, prune, scope};
use crate::oci::Reference;

/// What brings it where nothing else is in the way.
const BRINGS: &str = "it fits hint: `edge mirror sync` brings it";

/// Whether a rule wants something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The rule.
    pub rule: String,
    /// Whether it wants it.
    pub wants: bool,
    /// Why, or why not.
    pub why: String,
}

/// Why an image or chart is in or out.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The full name of what was asked for.
    pub name: String,
    /// Whether some rule wants it.
    pub wanted: bool,
    /// What is here of it.
    pub here: Vec<Listed>,
    /// What each rule that could want it says.
    pub rules: Vec<Verdict>,
}

/// Says why `name`, an image, a chart or a repository, is in or out.
///
/// # Errors
/// A name that is none.
pub fn explain(parts: &Parts, name: &str) -> Result<Explanation, Error> {
    let (listed, settings) = (list(parts)?, &parts.settings);
    let only = |kind: &str, is: &dyn Fn(&str) -> bool| -> Vec<Listed> {
        listed.iter().filter(|one| one.kind == kind && is(&one.name)).cloned().collect()
    };
    let charts = only("chart", &|listed| is_chart_of(listed, name));
    if !charts.is_empty() {
        let mut rules = verdicts(&charts);
        add(&mut rules, of_charts(settings, name));
        return Ok(told(name.to_owned(), charts, rules));
    }
    let rule = settings.git.iter().find(|rule| rule.is_meant_by(name));
    let title = rule.map_or_else(|| format!("{}.git", name.trim_end_matches(".git")), |rule| rule.title());
    let here = only("git", &|listed| listed == title);
    if rule.is_some() || !here.is_empty() {
        let verdict = |rule: &git::GitRule| Verdict {
            rule: rule.label(),
            wants: true,
            why: format!("{}, of {}", rule.why(), rule.url),
        };
        return Ok(told(title, here, rule.map(verdict).into_iter().collect()));
    }
    let of_charts = of_charts(settings, name);
    let reference: Result<Reference, _> = name.parse();
    let image = match reference {
        Ok(reference) => ImageName { repository: reference.repository(), name: reference.name().to_owned() },
        // Versions of charts may have what no tag has.
        Err(_) if !of_charts.is_empty() => return Ok(told(name.to_owned(), Vec::new(), of_charts)),
        Err(error) => return Err(Error::Name(error.to_string())),
    };
    let full = image.to_string();
    let here = only("image", &|listed| listed == full);
    let mut rules = verdicts(&here);
    add(&mut rules, of_image(settings, &image));
    // A name that says nothing of what it is, and which only rules of charts know, is a chart's.
    if here.is_empty() && rules.is_empty() && of_charts.iter().any(|verdict| verdict.why != UNREAD) {
        return Ok(told(name.to_owned(), here, of_charts));
    }
    add(&mut rules, of_charts);
    Ok(told(full, here, rules))
}

fn told(name: String, here: Vec<Listed>, rules: Vec<Verdict>) -> Explanation {
    Explanation { name, wanted: rules.iter().any(|verdict| verdict.wants), here, rules }
}

/// Adds what rules say that have not said why they want it.
fn add(rules: &mut Vec<Verdict>, more: Vec<Verdict>) {
    let known: BTreeSet<String> = rules.iter().map(|verdict| verdict.rule.clone()).collect();
    rules.extend(more.into_iter().filter(|verdict| !known.contains(&verdict.rule)));
}

fn is_chart_of(listed: &str, name: &str) -> bool {
    let version = listed.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
    listed == name || version.is_some_and(begins_version)
}

fn begins_version(text: &str) -> bool {
    text.strip_prefix('v').unwrap_or(text).starts_with(|c: char| c.is_ascii_digit())
}

fn verdicts(listed: &[Listed]) -> Vec<Verdict> {
    let mut rules: Vec<Verdict> = Vec::new();
    for reason in listed.iter().flat_map(|one| &one.reasons) {
        let verdict = Verdict { rule: reason.rule.clone(), wants: true, why: reason.by.clone() };
        if !rules.contains(&verdict) {
            rules.push(verdict);
        }
    }
    rules
}

/// What the rules of images, of charts in registries and of Kubernetes say of an image. Pure.
fn of_image(settings: &Settings, image: &ImageName) -> Vec<Verdict> {
    let is_it = |text: &str| repository_of(text).is_ok_and(|other| other.repository() == image.repository);
    let mut rules = Vec::new();
    for rule in settings.images.iter().filter(|rule| is_it(&rule.repository)) {
        let Ok(chooser) = TagChooser::compile(&rule.tags) else { continue };
        let fits = if rule.digests.contains(&image.name) { Ok(()) } else { chooser.fits(&image.name) };
        let exact = rule.digests.contains(&image.name) || rule.tags.exact.contains(&image.name);
        rules.push(verdict(rule.label(), fits, rule.tags.latest.filter(|_| !exact)));
    }
    for rule in &settings.charts {
        let name = rule.name.as_deref().unwrap_or_default();
        if rule.oci().is_some_and(|base| is_it(&format!("{base}/{name}"))) {
            let fits = fits_range(rule, &image.name.replace('_', "+"));
            rules.push(verdict(rule.label(), fits, rule.latest));
        }
    }
    if let Some(version) = &settings.kubernetes_version {
        let names = kubernetes::images(version, &settings.kubernetes_images).unwrap_or_default();
        let same = names.iter().find(|(repository, _)| *repository == image.repository);
        rules.extend(same.map(|(_, tag)| {
            let fits = if *tag == image.name {
                Ok(())
            } else {
                Err(format!("that of version {version} is `{tag}`"))
            };
            verdict(KUBERNETES.to_owned(), fits, None)
        }));
    }
    rules
}

/// What is said of a name that may be one of all the charts of a repository.
const UNREAD: &str =
    "it takes every chart of its index, which had none of that name when the last run looked, if one did";

/// What the rules of charts of web servers say of a name, if it can be a chart of theirs. Pure.
fn of_charts(settings: &Settings, text: &str) -> Vec<Verdict> {
    let mut rules = Vec::new();
    for rule in settings.charts.iter().filter(|rule| rule.oci().is_none() && scope::can_be(rule, text)) {
        let Some(pattern) = &rule.name else {
            rules.push(Verdict { rule: rule.label(), wants: false, why: UNREAD.into() });
            continue;
        };
        let Ok(pattern) = filter::glob(pattern) else { continue };
        let mut dashes = text.match_indices('-');
        let version = dashes.find_map(|(at, _)| {
            let version = &text[at + 1..];
            (begins_version(version) && pattern.is_match(&text[..at])).then_some(version)
        });
        let fits = version.map_or(Ok(()), |version| fits_range(rule, version));
        rules.push(verdict(rule.label(), fits, rule.latest));
    }
    rules
}

fn verdict(rule: String, fits: Result<(), String>, latest: Option<u32>) -> Verdict {
    let (wants, why) = match (fits, latest) {
        (Err(why), _) => (false, why),
        (Ok(()), Some(newest)) => {
            (false, format!("it fits, and was not among the newest {newest} when the last run looked"))
        }
        (Ok(()), None) => (true, BRINGS.to_owned()),
    };
    Verdict { rule, wants, why }
}

fn fits_range(rule: &ChartRule, version: &str) -> Result<(), String> {
    let Some(written) = &rule.versions else { return Ok(()) };
    let fits =
        filter::range(written).is_ok_and(|range| filter::version(version).is_some_and(|v| range.matches(&v)));
    if fits { Ok(()) } else { Err(format!("`{version}` does not fit versions {written}")) }
}

/// The rules as they are: what the last run noted of others is no reason any more. Pure.
pub(super) struct InForce {
    labels: BTreeSet<String>,
    /// Rules of images say themselves what they want.
    images: BTreeMap<String, Vec<(TagChooser, Vec<String>)>>,
}

impl InForce {
    pub(super) fn of(settings: &Settings) -> Self {
        let mut images: BTreeMap<String, Vec<(TagChooser, Vec<String>)>> = BTreeMap::new();
        let compiled = |rule: &ImageRule| Some((TagChooser::compile(&rule.tags).ok()?, rule.digests.clone()));
        for rule in &settings.images {
            images.entry(rule.label()).or_default().extend(compiled(rule));
        }
        Self { labels: prune::labels(settings), images }
    }

    /// The reasons for an image that still hold.
    pub(super) fn of_image(&self, image: &ImageName, reasons: &[Reason]) -> Vec<Reason> {
        let holds = |reason: &&Reason| {
            self.images.get(&reason.rule).is_none_or(|rules| {
                rules
                    .iter()
                    .any(|(tags, digests)| digests.contains(&image.name) || tags.fits(&image.name).is_ok())
            })
        };
        let named = reasons.iter().filter(|reason| self.labels.contains(&reason.rule));
        named.filter(holds).cloned().collect()
    }

    /// The reasons for something else that still hold.
    pub(super) fn of_others(&self, reasons: &[Reason]) -> Vec<Reason> {
        reasons.iter().filter(|reason| self.labels.contains(&reason.rule)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::Desk;
    use crate::mirror::record::{ImageRecord, Record};
    use crate::mirror::settings::TagFilter;
    use crate::store::{Settings as StoreSettings, Store};

    fn chart(repository: &str, name: Option<&str>, versions: Option<&str>) -> ChartRule {
        ChartRule {
            repository: repository.into(),
            name: name.map(str::to_owned),
            versions: versions.map(str::to_owned),
            latest: None,
            images: false,
            dependencies: false,
            path: String::new(),
            insecure: false,
        }
    }

    fn image(repository: &str, semver: &str) -> ImageRule {
        let tags = TagFilter { semver: Some(semver.into()), ..TagFilter::default() };
        let repository = repository.to_owned();
        ImageRule { repository, tags, digests: vec![], platforms: vec![], insecure: false, cosign_key: None }
    }

    #[test]
    fn every_kind_of_rule_is_asked_before_anything_came() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            images: vec![image("q.io/app", ">=2")],
            charts: vec![
                chart("https://a.example", Some("ingress-*"), Some(">=4")),
                chart("oci://r.example/charts", Some("db"), Some(">=1")),
            ],
            kubernetes_version: Some("1.36.3".into()),
            ..Settings::default()
        };
        let parts = Parts {
            store: Store::open(StoreSettings::below(folder.path())).unwrap(),
            settings,
            state_dir: folder.path().to_owned(),
            cache: None,
            desk: Desk::default(),
        };
        for (asked, name, wanted, rule) in [
            ("ingress-nginx-4.11.0", "ingress-nginx-4.11.0", true, "charts https://a.example ingress-*"),
            ("ingress-nginx", "ingress-nginx", true, "charts https://a.example ingress-*"),
            ("ingress-nginx-3.0.0", "ingress-nginx-3.0.0", false, "charts https://a.example ingress-*"),
            ("ingress-x-4.0.0+b.1", "ingress-x-4.0.0+b.1", true, "charts https://a.example ingress-*"),
            (
                "r.example/charts/db:1.2.0",
                "r.example/charts/db:1.2.0",
                true,
                "charts oci://r.example/charts db",
            ),
            (
                "r.example/charts/db:0.2.0",
                "r.example/charts/db:0.2.0",
                false,
                "charts oci://r.example/charts db",
            ),
            ("registry.k8s.io/pause:3.10.2", "registry.k8s.io/pause:3.10.2", true, KUBERNETES),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9", false, KUBERNETES),
            ("q.io/app:2.0.0", "q.io/app:2.0.0", true, "images q.io/app"),
            ("q.io/app:1.0.0", "q.io/app:1.0.0", false, "images q.io/app"),
        ] {
            let told = explain(&parts, asked).unwrap();
            let rules: Vec<&str> = told.rules.iter().map(|verdict| verdict.rule.as_str()).collect();
            assert_eq!((told.name.as_str(), told.wanted, rules), (name, wanted, vec![rule]), "{asked}");
        }
        let nobody = explain(&parts, "nginx").unwrap();
        assert_eq!((nobody.name.as_str(), nobody.rules.len()), ("docker.io/library/nginx:latest", 0));
        assert!(explain(&parts, "Not A Name").is_err());

        // What takes every chart may or may not have one of that name.
        let mut any = parts.clone();
        any.settings.charts.push(chart("https://all.example", None, None));
        let told = explain(&any, "nginx").unwrap();
        assert_eq!((told.wanted, told.rules[0].rule.as_str()), (false, "charts https://all.example"));
    }

    #[test]
    fn what_a_rule_wanted_that_is_gone_or_another_is_no_reason() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str, rule: &str| ImageRecord {
            image: ImageName { repository: "q.io/app".into(), name: name.into() },
            digest: None,
            reasons: vec![Reason { rule: rule.into(), by: "then".into() }],
            error: None,
            missing: false,
            size: 0,
            attached: vec![],
        };
        let images =
            vec![of("1.0.0", "images q.io/app"), of("2.0.0", "images q.io/app"), of("x", "manifests /gone")];
        Record { images, ..Record::default() }.write(folder.path()).unwrap();
        let parts = Parts {
            store: Store::open(StoreSettings::below(folder.path())).unwrap(),
            settings: Settings { images: vec![image("q.io/app", ">=2")], ..Settings::default() },
            state_dir: folder.path().to_owned(),
            cache: None,
            desk: Desk::default(),
        };
        for (name, wanted, why) in [
            ("1.0.0", false, "`1.0.0` does not fit semver >=2"),
            ("2.0.0", true, "then"),
            ("x", false, "`x` does not fit semver >=2"),
        ] {
            let told = explain(&parts, &format!("q.io/app:{name}")).unwrap();
            assert_eq!((told.wanted, told.rules[0].why.as_str()), (wanted, why), "{name}");
        }
        let reasons: Vec<usize> = list(&parts).unwrap().iter().map(|one| one.reasons.len()).collect();
        assert_eq!(reasons, [0, 1, 0]);
    }
}
