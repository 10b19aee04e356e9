//! What hangs on an image: signatures, attestations, bills of materials. Found by the referrers API, and by the
//! tags `sha256-<hex>`, `.sig`, `.att` and `.sbom`.

use std::collections::BTreeSet;

use super::cosign::{self, PublicKey};
use super::error::Failure;
use super::fetch::{Source, Wire};
use super::image;
use super::plan::Terms;
use crate::oci::{Descriptor, ParsedManifest, is_tag};
use crate::sys::digest::Digest;

/// The ends of tags under which something may hang on an image.
const ENDS: [&str; 4] = ["", ".sig", ".att", ".sbom"];
/// The artifact type of a signature that hangs on an image by the referrers API.
const SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// Things about things about things.
const DEPTH: u32 = 3;

/// Something that hangs on an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attachment {
    /// Its tag, or its digest where it has none.
    pub(super) name: String,
    pub(super) digest: Digest,
    /// What it is about.
    pub(super) subject: Digest,
}

/// What is known of a repository's tags: the list, if it was read.
pub(super) type Listed<'a> = Option<&'a [String]>;

/// All that hangs on `subjects`, directly or not.
pub(super) async fn find(
    wire: &Wire,
    source: &Source,
    subjects: &[Digest],
    listed: Listed<'_>,
    known: &Hosts,
) -> Result<Vec<Attachment>, Failure> {
    let mut found = BTreeSet::new();
    let mut round: Vec<Digest> = subjects.to_vec();
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for subject in &round {
            for attachment in direct(wire, source, subject, listed, known).await? {
                let digest = attachment.digest.clone();
                if found.insert(attachment) {
                    next.push(digest);
                }
            }
        }
        // Only what the API tells hangs on attachments; tags about tags are not made.
        round = if known.has_api(&source.upstream.host) { next } else { Vec::new() };
        if round.is_empty() {
            break;
        }
    }
    Ok(found.into_iter().collect())
}

/// Whether registries have the referrers API, as far as they were asked in this run.
#[derive(Default)]
pub(super) struct Hosts(std::sync::Mutex<std::collections::HashMap<String, bool>>);

impl Hosts {
    fn has_api(&self, host: &str) -> bool {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(host).copied().unwrap_or(true)
    }

    fn note(&self, host: &str, has: bool) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(host.to_owned(), has);
    }
}

async fn direct(
    wire: &Wire,
    source: &Source,
    subject: &Digest,
    listed: Listed<'_>,
    known: &Hosts,
) -> Result<Vec<Attachment>, Failure> {
    let host = &source.upstream.host;
    let mut found = Vec::new();
    if known.has_api(host) {
        let ask = async || wire.client.referrers(&source.upstream, &source.path, subject).await;
        let answer = wire.ask(host, ask).await?;
        known.note(host, answer.is_some());
        for descriptor in answer.into_iter().flatten() {
            let name = descriptor.digest.to_string();
            found.push(Attachment { name, digest: descriptor.digest, subject: subject.clone() });
        }
    }
    let base = ParsedManifest::referrers_tag(subject);
    for end in ENDS {
        let tag = format!("{base}{end}");
        if !is_tag(&tag) || listed.is_some_and(|listed| !listed.contains(&tag)) {
            continue;
        }
        match image::resolve(wire, source, &tag).await {
            Ok(digest) => found.push(Attachment { name: tag, digest, subject: subject.clone() }),
            Err(failure) if failure.is_absent() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(found)
}

/// Fetches an attachment whole.
pub(super) async fn fetch(
    wire: &Wire,
    source: &Source,
    attachment: &Attachment,
    of: &str,
) -> Result<(), Failure> {
    let closure = image::closure(wire, Some(source), &attachment.digest, &Terms::default()).await?;
    image::fetch(wire, source, &closure, of).await
}

/// Whether one of the signatures that hang on `image` is by `key`. Fetches signatures alone.
///
/// # Errors
/// [`Failure::Unsigned`] where none is, or what kept it from being known.
pub(super) async fn verify(
    wire: &Wire,
    source: &Source,
    image: &Digest,
    key: &PublicKey,
    key_name: &str,
    known: &Hosts,
) -> Result<(), Failure> {
    let mut whys = Vec::new();
    for attachment in direct(wire, source, image, None, known).await? {
        let closure = image::closure(wire, Some(source), &attachment.digest, &Terms::default()).await?;
        for manifest in &closure.manifests {
            let kind = manifest.parsed.artifact_type.as_deref().unwrap_or_default();
            if !attachment.name.ends_with(".sig") && kind != SIGNATURE && !cosign::is_bundle(kind) {
                continue;
            }
            for layer in &manifest.parsed.layers {
                match check(wire, source, layer, image, key).await? {
                    Ok(()) => return Ok(()),
                    Err(why) => whys.push(why),
                }
            }
        }
    }
    whys.dedup();
    let why = if whys.is_empty() { "it has no signature".into() } else { whys.join(", ") };
    Err(Failure::Unsigned(format!("`{image}` is not signed by `{key_name}`: {why}")))
}

async fn check(
    wire: &Wire,
    source: &Source,
    layer: &Descriptor,
    image: &Digest,
    key: &PublicKey,
) -> Result<Result<(), String>, Failure> {
    /// A signature's payload is a few hundred bytes.
    const MOST: u64 = 1 << 20;
    let (signature, is_bundle) =
        (layer.annotations.get(cosign::SIGNATURE), cosign::is_bundle(&layer.media_type));
    if signature.is_none() && !is_bundle {
        return Ok(Err("a layer of the signature carries none".into()));
    }
    if layer.size > MOST {
        return Ok(Err("its payload is too large".into()));
    }
    wire.blob(source, layer, "signature").await?;
    let digest = layer.digest.clone();
    let payload =
        wire.blocking(move |store| store.blob(None, &digest)?.map(|blob| blob.read()).transpose()).await?;
    let payload = payload.unwrap_or_default();
    Ok(match signature {
        Some(signature) => key.verify(&payload, signature, image),
        None => key.verify_bundle(&payload, image),
    })
}
