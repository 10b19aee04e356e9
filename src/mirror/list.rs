//! What is wanted and what of it is here, and why something is in or out.

use std::collections::BTreeMap;

use serde::Serialize;

use super::filter::TagChooser;
use super::plan::{ImageName, Reason};
use super::record::Record;
use super::settings::repository_of;
use super::{Error, Parts, git};
use crate::oci::Reference;
use crate::store::Owner;
use crate::sys::digest::Digest;

/// One thing that is wanted, or is here without being wanted any more.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// `image`, `chart` or `git`.
    pub kind: &'static str,
    /// `docker.io/library/nginx:1.27`, or `app-1.0.0`.
    pub name: String,
    /// Whether something of that name is here.
    pub here: bool,
    /// What is here; absent where nothing is, and for a repository.
    pub digest: Option<Digest>,
    /// A repository's refs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refs: BTreeMap<String, String>,
    /// Bytes of all of it.
    pub size: u64,
    /// Why it is wanted; empty where no rule does.
    pub reasons: Vec<Reason>,
    /// Names of what hangs on it.
    pub attached: Vec<String>,
    /// Why the last run did not bring it.
    pub error: Option<String>,
}

/// Everything that the mirror holds or wants, in order.
///
/// # Errors
/// [`Error`].
pub fn list(parts: &Parts) -> Result<Vec<Listed>, Error> {
    let record = Record::read(&parts.state_dir)?;
    let state = parts.store.state_of(&Owner::Mirror)?;
    let here: BTreeMap<ImageName, &Digest> = state
        .refs
        .iter()
        .map(|entry| {
            (ImageName { repository: entry.repository.clone(), name: entry.name.clone() }, &entry.digest)
        })
        .collect();
    let mut listed = Vec::new();
    for image in &record.images {
        listed.push(Listed {
            kind: "image",
            name: image.image.to_string(),
            here: here.contains_key(&image.image),
            digest: here.get(&image.image).map(|digest| (*digest).clone()),
            refs: BTreeMap::new(),
            size: image.size,
            reasons: image.reasons.clone(),
            attached: image.attached.clone(),
            error: image.error.clone(),
        });
    }
    let attached: std::collections::BTreeSet<(&str, &str)> = record
        .images
        .iter()
        .flat_map(|image| image.attached.iter().map(|name| (image.image.repository.as_str(), name.as_str())))
        .collect();
    for (image, digest) in &here {
        let known = record.image(image).is_some()
            || attached.contains(&(image.repository.as_str(), image.name.as_str()));
        if !known {
            listed.push(unwanted("image", image.to_string(), Some((*digest).clone())));
        }
    }
    for chart in &record.charts {
        let here = state.charts.iter().find(|here| {
            (&here.repository, &here.name, &here.version) == (&chart.repository, &chart.name, &chart.version)
        });
        listed.push(Listed {
            kind: "chart",
            name: format!("{}-{}", chart.name, chart.version),
            here: here.is_some(),
            digest: here.map(|here| here.digest.clone()),
            refs: BTreeMap::new(),
            size: here
                .and_then(|here| parts.store.blob(None, &here.digest).ok().flatten())
                .map_or(0, |b| b.size),
            reasons: chart.reasons.clone(),
            attached: Vec::new(),
            error: chart.error.clone(),
        });
    }
    for chart in &state.charts {
        let known = record.charts.iter().any(|known| {
            (&chart.repository, &chart.name, &chart.version)
                == (&known.repository, &known.name, &known.version)
        });
        if !known {
            listed.push(unwanted(
                "chart",
                format!("{}-{}", chart.name, chart.version),
                Some(chart.digest.clone()),
            ));
        }
    }
    listed.extend(repositories(parts, &record)?);
    listed.sort_by(|a, b| (b.kind, &a.name).cmp(&(a.kind, &b.name)));
    Ok(listed)
}

/// The git repositories that are wanted, or here.
fn repositories(parts: &Parts, record: &Record) -> Result<Vec<Listed>, Error> {
    let mut names = git::here(&parts.state_dir)?;
    names.extend(record.git.iter().filter_map(|known| Some(known.name.strip_suffix(".git")?.to_owned())));
    names.sort();
    names.dedup();
    let each = names.into_iter().map(|name| {
        let title = format!("{name}.git");
        let known = record.git.iter().find(|known| known.name == title);
        let refs = match crate::git::read_refs(&crate::git::folder(&parts.state_dir, &name)) {
            Err(crate::git::Error::Absent(_)) => BTreeMap::new(),
            other => other?.0.into_iter().map(|(name, id)| (name, id.to_string())).collect(),
        };
        Ok(Listed {
            kind: "git",
            name: title,
            here: !refs.is_empty(),
            digest: None,
            refs,
            size: known.map_or(0, |known| known.size),
            reasons: known.map(|known| known.reasons.clone()).unwrap_or_default(),
            attached: Vec::new(),
            error: known.and_then(|known| known.error.clone()),
        })
    });
    each.collect()
}

fn unwanted(kind: &'static str, name: String, digest: Option<Digest>) -> Listed {
    let (here, refs) = (true, BTreeMap::new());
    Listed { kind, name, here, digest, refs, size: 0, reasons: Vec::new(), attached: Vec::new(), error: None }
}

/// Whether a rule wants something.
#[derive(Clone, Debug, Serialize)]
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

/// Says why `name`, an image or a chart, is in or out.
///
/// # Errors
/// A name that is none.
pub fn explain(parts: &Parts, name: &str) -> Result<Explanation, Error> {
    let listed = list(parts)?;
    let is_chart = listed.iter().any(|one| one.kind == "chart" && is_chart_of(&one.name, name));
    if is_chart {
        let here: Vec<Listed> =
            listed.into_iter().filter(|one| one.kind == "chart" && is_chart_of(&one.name, name)).collect();
        let rules = verdicts(here.iter());
        return Ok(Explanation { name: name.to_owned(), wanted: !rules.is_empty(), here, rules });
    }
    let rule = parts.settings.git.iter().find(|rule| rule.is_meant_by(name));
    let title = rule.map_or_else(|| format!("{}.git", name.trim_end_matches(".git")), |rule| rule.title());
    let here: Vec<Listed> =
        listed.iter().filter(|one| one.kind == "git" && one.name == title).cloned().collect();
    if rule.is_some() || !here.is_empty() {
        let verdict = |rule: &git::GitRule| Verdict {
            rule: rule.label(),
            wants: true,
            why: format!("{}, of {}", rule.why(), rule.url),
        };
        let rules: Vec<Verdict> = rule.map(verdict).into_iter().collect();
        return Ok(Explanation { name: title, wanted: !rules.is_empty(), here, rules });
    }
    let reference: Reference =
        name.parse().map_err(|e: crate::oci::ReferenceError| Error::Name(e.to_string()))?;
    let image = ImageName { repository: reference.repository(), name: reference.name().to_owned() };
    let full = image.to_string();
    let here: Vec<Listed> =
        listed.into_iter().filter(|one| one.kind == "image" && one.name == full).collect();
    let mut rules = verdicts(here.iter());
    for rule in &parts.settings.images {
        let label = rule.label();
        if rules.iter().any(|verdict| verdict.rule == label) {
            continue;
        }
        let same = repository_of(&rule.repository).is_ok_and(|other| other.repository() == image.repository);
        if !same {
            continue;
        }
        let Ok(chooser) = TagChooser::compile(&rule.tags) else { continue };
        let (wants, why) = match chooser.fits(&image.name) {
            Err(why) => (false, why),
            Ok(()) if rule.tags.latest.is_some() => {
                let newest = rule.tags.latest.unwrap_or_default();
                (false, format!("it fits, and was not among the newest {newest} when the last run looked"))
            }
            Ok(()) => (true, "it fits hint: `edge mirror sync` brings it".into()),
        };
        rules.push(Verdict { rule: label, wants, why });
    }
    let wanted = rules.iter().any(|verdict| verdict.wants);
    Ok(Explanation { name: full, wanted, here, rules })
}

fn is_chart_of(listed: &str, name: &str) -> bool {
    let version = listed.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
    listed == name
        || version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit() || c == 'v'))
}

fn verdicts<'a>(listed: impl Iterator<Item = &'a Listed>) -> Vec<Verdict> {
    let mut rules: Vec<Verdict> = Vec::new();
    for reason in listed.flat_map(|one| &one.reasons) {
        let verdict = Verdict { rule: reason.rule.clone(), wants: true, why: reason.by.clone() };
        if !rules.iter().any(|known| (&known.rule, &known.why) == (&verdict.rule, &verdict.why)) {
            rules.push(verdict);
        }
    }
    rules
}
