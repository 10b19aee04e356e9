//! Charts in registries: their versions are tags, with `_` for `+`. They come as images do; what they refer to and
//! depend on stands in their package, which is read where a rule asks for it.

use bytes::Bytes;
use semver::Version;

use super::charts::{self, Dependency};
use super::depends::Wish;
use super::error::Failure;
use super::fetch::{Source, Wire};
use super::gather::{Gathered, platforms, tags};
use super::image;
use super::package::{self, Referred};
use super::plan::{ImageName, Reason, Terms};
use super::ranges::Versions;
use super::settings::{Settings, repository_of};
use super::{filter, order};
use crate::oci::ParsedManifest;
use crate::oci::chart::LARGEST;

/// Versions in vain, because nothing answers, before a rule is left.
const LOST: u32 = 3;
/// What helm pushes a package as, and its signature.
pub(super) const PACKAGE: &str = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
pub(super) const PROVENANCE: &str = "application/vnd.cncf.helm.chart.provenance.v1.prov";

/// A chart's dependencies, and what it is called.
pub(super) type Depends = (Vec<Dependency>, String);

/// Wants the versions of a rule, and the images that they refer to; says what they depend on. A version that cannot be
/// read is noted, and the others go on.
pub(super) async fn want(
    wire: &Wire,
    settings: &Settings,
    wish: &Wish,
    label: &str,
    dry: bool,
    gathered: &mut Gathered,
) -> Result<Vec<Depends>, Failure> {
    let rule = &wish.rule;
    let (base, name) = (rule.oci().unwrap_or_default(), rule.name.as_deref().unwrap_or_default());
    let reference = repository_of(&format!("{base}/{name}")).map_err(Failure::Stopped)?;
    let repository = reference.repository();
    let listed = tags(wire, &repository, rule.insecure, gathered).await?;
    let fit = choose(listed, wish.range.as_ref(), rule.latest);
    let by = wish.by.clone().unwrap_or_else(|| charts::why(rule));
    let terms = Terms {
        platforms: platforms(settings, &[]),
        insecure: rule.insecure,
        keys: settings.keys_for(&repository),
        guessed: false,
    };
    for tag in &fit {
        let image = ImageName { repository: repository.clone(), name: tag.clone() };
        gathered.plan.want(image, Reason { rule: label.to_owned(), by: by.clone() }, terms.clone());
    }
    let (mut depends, mut lost) = (Vec::new(), 0);
    if !rule.images && !rule.dependencies {
        return Ok(depends);
    }
    let source = Source::of(&repository, rule.insecure);
    for tag in &fit {
        let (found, listed) = match read(wire, &source, tag, dry).await {
            Ok(read) => read,
            Err(failure) => {
                // A registry that is gone is not asked for each version.
                lost += u32::from(failure.may_pass());
                if lost == LOST || wire.go_on().is_err() {
                    return Err(failure);
                }
                gathered.failed(label.to_owned(), &failure);
                continue;
            }
        };
        let title = format!("{name}-{}", tag.replace('_', "+"));
        if rule.images {
            gathered.want_referred(settings, found, label, &title);
        }
        if rule.dependencies {
            depends.push((listed, title));
        }
    }
    Ok(depends)
}

/// The tags whose versions fit, the newest first. Pure.
fn choose(listed: Vec<String>, range: Option<&Versions>, latest: Option<u32>) -> Vec<String> {
    let fits = |version: Version| range.is_none_or(|range| range.matches(&version));
    let mut fit: Vec<(String, String)> = listed.into_iter().map(|tag| (tag.replace('_', "+"), tag)).collect();
    fit.retain(|(version, _)| filter::version(version).is_some_and(fits));
    order::sort(&mut fit, |(version, _)| version);
    order::newest(&mut fit, |(version, _)| version, latest.map(|n| n as usize), range.is_some());
    fit.into_iter().map(|(_, tag)| tag).collect()
}

/// The images that a version refers to, and what it depends on.
async fn read(
    wire: &Wire,
    source: &Source,
    tag: &str,
    dry: bool,
) -> Result<(Referred, Vec<Dependency>), Failure> {
    let package = fetch(wire, source, tag, dry).await?;
    let read = move || Ok((package::images(&package)?, package::dependencies(&package)?));
    let read = tokio::task::spawn_blocking(read).await.map_err(|_| Failure::Ended)?;
    read.map_err(Failure::Chart)
}

/// The package of a chart: from the store, where it is put first unless `dry`.
async fn fetch(wire: &Wire, source: &Source, tag: &str, dry: bool) -> Result<Bytes, Failure> {
    let parsed = manifest(wire, source, tag).await?;
    package(wire, source, tag, &parsed, dry).await
}

/// The same with the signature beside it, if there is one.
pub(super) async fn signed(
    wire: &Wire,
    source: &Source,
    tag: &str,
    dry: bool,
) -> Result<(Bytes, Option<Bytes>), Failure> {
    let parsed = manifest(wire, source, tag).await?;
    let package = package(wire, source, tag, &parsed, dry).await?;
    let kind = (PROVENANCE, charts::LARGEST_PROVENANCE);
    Ok((package, layer(wire, source, tag, &parsed, kind, dry).await?))
}

async fn package(
    wire: &Wire,
    source: &Source,
    tag: &str,
    parsed: &ParsedManifest,
    dry: bool,
) -> Result<Bytes, Failure> {
    let package = layer(wire, source, tag, parsed, (PACKAGE, LARGEST), dry).await?;
    package.ok_or_else(|| Failure::Chart(format!("`{}` is no chart", title(source, tag))))
}

async fn manifest(wire: &Wire, source: &Source, tag: &str) -> Result<ParsedManifest, Failure> {
    let digest = image::resolve(wire, source, tag).await?;
    if let Some(known) = image::here(wire, &digest).await? {
        return Ok(known.parsed);
    }
    let ask = async || wire.client.manifest(&source.upstream, &source.path, digest.as_str()).await;
    let fetched = wire.ask(&source.upstream.host, ask).await?;
    Ok(ParsedManifest::parse(&fetched.bytes, &fetched.media_type)?)
}

fn title(source: &Source, tag: &str) -> String {
    format!("{}/{}:{tag}", source.upstream.host, source.path)
}

/// The layer of a kind, with its most bytes; `None` where there is none.
async fn layer(
    wire: &Wire,
    source: &Source,
    tag: &str,
    parsed: &ParsedManifest,
    (kind, most): (&str, usize),
    dry: bool,
) -> Result<Option<Bytes>, Failure> {
    let title = title(source, tag);
    let Some(layer) = parsed.blobs().find(|blob| blob.media_type == kind) else { return Ok(None) };
    if layer.size > most as u64 {
        return Err(Failure::Chart(format!("`{title}` has {} bytes hint: the most is {most}", layer.size)));
    }
    wire.small(source, layer, &title, dry).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_found_however_it_was_built() {
        let listed =
            ["1.9.0_b2", "1.10.0_b1", "1.10.0-rc1_b9", "latest", "1.2.0"].map(str::to_owned).to_vec();
        assert_eq!(choose(listed.clone(), None, Some(2)), ["1.10.0_b1", "1.9.0_b2"]);
        assert_eq!(choose(listed.clone(), None, None)[..2], ["1.10.0_b1", "1.10.0-rc1_b9"]);
        let early = ["1.0.0-rc.2", "1.0.0-rc.10"].map(str::to_owned).to_vec();
        assert_eq!(choose(early, None, Some(1)), ["1.0.0-rc.10"]);
        let range = Versions::Own(filter::range(">=1.2").unwrap());
        assert_eq!(choose(listed, Some(&range), None), ["1.10.0_b1", "1.9.0_b2", "1.2.0"]);
    }
}
