//! What no rule wants any more, and its removal when somebody says so. Asks no upstream.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::filter::{TagChooser, attached_to};
use super::plan::{ImageName, Reason};
use super::record::Record;
use super::settings::repository_of;
use super::{CLUSTER, Error, KUBERNETES, Parts, Settings, git};
use crate::store::{Owner, StateOf, StateRef, TrustUpdate};
use crate::sys::digest::Digest;

/// What goes, or went.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// Nothing was removed.
    pub dry_run: bool,
    /// What goes.
    pub remove: Vec<Unwanted>,
    /// What stays.
    pub kept: usize,
    /// The generation without it.
    pub generation: Option<u64>,
    /// What could not be looked at or removed; the others were.
    pub failed: Vec<Unpruned>,
}

/// One thing that is as it was, and should perhaps not be.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unpruned {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// One thing that no rule wants any more.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unwanted {
    /// `image`, `chart`, `git`, `git-ref` or `git-packs`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Bytes of it that nothing that stays has too.
    pub size: u64,
}

/// Removes from the mirror what no rule wants any more, or only says what that is. The bytes go with `edge gc`, once
/// the generations before are forgotten.
///
/// # Errors
/// [`Error`].
pub fn prune(parts: &Parts, dry_run: bool) -> Result<Pruned, Error> {
    parts.settings.check().map_err(|fault| Error::Setting { key: fault.key, why: fault.why })?;
    let _seat = parts.desk.take()?;
    let record = Record::read(&parts.state_dir)?;
    let before = parts.store.state_of(&Owner::Mirror)?;
    let wanted = wanted(&parts.settings, &record, &before.refs);
    let (keep, gone): (Vec<StateRef>, Vec<StateRef>) =
        before.refs.iter().cloned().partition(|entry| wanted.contains(&name_of(entry)));
    let labels = labels(&parts.settings);
    let (charts, gone_charts): (Vec<_>, Vec<_>) = before.charts.iter().cloned().partition(|chart| {
        record.charts.iter().any(|known| {
            (&known.repository, &known.name, &known.version)
                == (&chart.repository, &chart.name, &chart.version)
                && known.reasons.iter().any(|reason| labels.contains(&reason.rule))
        })
    });
    let kept_blobs = blobs_of(parts, keep.iter().map(|entry| &entry.digest))?;
    let mut pruned = Pruned { dry_run, kept: keep.len() + charts.len(), ..Pruned::default() };
    for entry in &gone {
        let all = blobs_of(parts, std::iter::once(&entry.digest))?;
        let size =
            all.iter().filter(|(digest, _)| !kept_blobs.contains_key(*digest)).map(|(_, size)| size).sum();
        pruned.remove.push(Unwanted { kind: "image", name: name_of(entry).to_string(), size });
    }
    for chart in &gone_charts {
        let size = parts.store.blob(None, &chart.digest)?.map_or(0, |blob| blob.size);
        pruned.remove.push(Unwanted {
            kind: "chart",
            name: format!("{}-{}", chart.name, chart.version),
            size,
        });
    }
    let changed = !pruned.remove.is_empty();
    let left = git::prune((&parts.state_dir, &parts.store), &parts.settings.git, dry_run)?;
    pruned.remove.extend(left.gone);
    pruned.kept += left.kept;
    pruned.failed = left.failed;
    if !dry_run && changed {
        let state =
            StateOf { refs: keep, charts, pins: before.pins, whole: Vec::new(), note: "prune".into() };
        pruned.generation = Some(parts.store.flip(&Owner::Mirror, state, TrustUpdate::default())?);
    }
    Ok(pruned)
}

fn name_of(entry: &StateRef) -> ImageName {
    ImageName { repository: entry.repository.clone(), name: entry.name.clone() }
}

/// The rules of the settings, by their labels.
pub(super) fn labels(settings: &Settings) -> BTreeSet<String> {
    let mut labels: BTreeSet<String> = settings.images.iter().map(|rule| rule.label()).collect();
    labels.extend(settings.charts.iter().map(|rule| rule.label()));
    labels.extend(settings.manifests.iter().map(|rule| rule.label()));
    labels.extend(settings.cluster_images.then(|| CLUSTER.to_owned()));
    labels.extend(settings.kubernetes_version.is_some().then(|| KUBERNETES.to_owned()));
    labels
}

/// The names among `refs` that stay. Rules of images are asked about what is here, so that a tag that upstream has
/// removed is wanted still; other rules want what they wanted when they were last read. Pure.
fn wanted(settings: &Settings, record: &Record, refs: &[StateRef]) -> BTreeSet<ImageName> {
    let labels = labels(settings);
    let images: BTreeSet<String> = settings.images.iter().map(|rule| rule.label()).collect();
    let by_record = |reason: &Reason| labels.contains(&reason.rule) && !images.contains(&reason.rule);
    let recorded = record.images.iter().filter(|known| known.reasons.iter().any(by_record));
    let mut wanted: BTreeSet<ImageName> = recorded.map(|known| known.image.clone()).collect();
    let mut tags: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for entry in refs {
        tags.entry(&entry.repository).or_default().push(entry.name.clone());
    }
    for rule in &settings.images {
        let (Ok(name), Ok(chooser)) = (repository_of(&rule.repository), TagChooser::compile(&rule.tags))
        else {
            continue;
        };
        let repository = name.repository();
        let here = tags.get(repository.as_str()).map(Vec::as_slice).unwrap_or_default();
        let chosen = chooser.choose(here).into_iter().map(|chosen| chosen.tag);
        for name in chosen.chain(rule.digests.iter().cloned()) {
            wanted.insert(ImageName { repository: repository.clone(), name });
        }
    }
    // What hangs on something that stays, stays.
    let stay: BTreeSet<(String, Digest)> = refs
        .iter()
        .filter(|entry| wanted.contains(&name_of(entry)))
        .map(|entry| (entry.repository.clone(), entry.digest.clone()))
        .collect();
    let attached = record.images.iter().filter(|known| wanted.contains(&known.image)).flat_map(|known| {
        known
            .attached
            .iter()
            .map(|name| ImageName { repository: known.image.repository.clone(), name: name.clone() })
    });
    let attached: Vec<ImageName> = attached.collect();
    wanted.extend(attached);
    for entry in refs {
        let subject = attached_to(&entry.name).and_then(|subject| subject.parse::<Digest>().ok());
        if subject.is_some_and(|subject| stay.contains(&(entry.repository.clone(), subject))) {
            wanted.insert(name_of(entry));
        }
    }
    wanted
}

/// Every blob below these manifests, with its size.
fn blobs_of<'a>(
    parts: &Parts,
    manifests: impl Iterator<Item = &'a Digest>,
) -> Result<BTreeMap<Digest, u64>, Error> {
    let mut found = BTreeMap::new();
    let mut stack: Vec<Digest> = manifests.cloned().collect();
    while let Some(digest) = stack.pop() {
        let Some(manifest) = parts.store.manifest_of(&digest)? else { continue };
        if found.insert(digest, manifest.blob.size).is_some() {
            continue;
        }
        let Ok(parsed) = crate::oci::ParsedManifest::parse(&manifest.blob.read()?, &manifest.media_type)
        else {
            continue;
        };
        found.extend(parsed.blobs().map(|blob| (blob.digest.clone(), blob.size)));
        stack.extend(parsed.manifests.iter().map(|child| child.digest.clone()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::record::ImageRecord;
    use crate::mirror::settings::{ImageRule, TagFilter};

    #[test]
    fn what_a_rule_still_means_stays_whatever_upstream_says() {
        let image = Digest::sha256(b"image");
        let entry = |name: &str, digest: &Digest| StateRef {
            repository: "q.io/a".into(),
            name: name.into(),
            digest: digest.clone(),
        };
        let signature = format!("sha256-{}.sig", image.hex());
        let other = format!("sha256-{}.sig", Digest::sha256(b"gone").hex());
        let old = Digest::sha256(b"old");
        let refs = [
            entry("2.0.0", &image),
            entry("1.0.0", &old),
            entry(&signature, &old),
            entry(&other, &old),
            entry("x", &old),
        ];
        let rule = ImageRule {
            repository: "q.io/a".into(),
            tags: TagFilter { semver: Some(">=2".into()), ..TagFilter::default() },
            digests: vec![],
            platforms: vec![],
            insecure: false,
            cosign_key: None,
        };
        let settings = Settings { images: vec![rule], cluster_images: true, ..Settings::default() };
        let of = |name: &str, rule: &str| ImageRecord {
            image: ImageName { repository: "q.io/a".into(), name: name.into() },
            digest: None,
            reasons: vec![Reason { rule: rule.into(), by: String::new() }],
            error: None,
            missing: false,
            size: 0,
            attached: vec![],
        };
        let record =
            Record { images: vec![of("x", CLUSTER), of("1.0.0", "images q.io/a")], ..Record::default() };
        let names = |settings: &Settings| -> Vec<String> {
            let wanted = wanted(settings, &record, &refs);
            refs.iter().map(name_of).filter(|name| wanted.contains(name)).map(|name| name.name).collect()
        };
        assert_eq!(names(&settings), ["2.0.0", signature.as_str(), "x"]);
        assert!(names(&Settings::default()).is_empty());
    }
}
