//! What is wanted and what of it is here.

use std::collections::BTreeMap;

use serde::Serialize;

use super::explain::InForce;
use super::plan::{ImageName, Reason};
use super::record::Record;
use super::{Error, Parts, git};
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
    let in_force = InForce::of(&parts.settings);
    let mut listed = Vec::new();
    for image in &record.images {
        listed.push(Listed {
            kind: "image",
            name: image.image.to_string(),
            here: here.contains_key(&image.image),
            digest: here.get(&image.image).map(|digest| (*digest).clone()),
            refs: BTreeMap::new(),
            size: image.size,
            reasons: in_force.of_image(&image.image, &image.reasons),
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
            reasons: in_force.of_others(&chart.reasons),
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
