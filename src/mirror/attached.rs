//! What hangs on an image: signatures, attestations, bills of materials. Found by the referrers API, and by the
//! tags `sha256-<hex>`, `.sig`, `.att` and `.sbom`.

use std::collections::BTreeSet;

use super::cosign::{self, PublicKey};
use super::error::Failure;
use super::fetch::{Source, Wire};
use super::image::{self, Closure};
use super::plan::Terms;
use crate::oci::{Descriptor, ParsedManifest, is_tag};
use crate::sys::digest::Digest;

/// The ends of tags under which something may hang on an image.
const ENDS: [&str; 4] = ["", ".sig", ".att", ".sbom"];
/// Those among them under which there may be signatures.
const SIGNED: [&str; 2] = ["", ".sig"];
/// The artifact type of a signature that hangs on an image by the referrers API.
const SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// What says nothing of an artifact: the type of its configuration, which clients that know no other write down.
const CONFIGS: [&str; 2] = ["application/vnd.oci.empty.v1+json", "application/vnd.oci.image.config.v1+json"];
/// Things about things about things.
const DEPTH: u32 = 3;
/// The most things that are taken of what hangs on one image, directly or not.
const MOST: usize = 1024;
/// Signatures of one list that are looked at, and reasons that are told of why none is the right one.
const MOST_SIGNATURES: usize = 256;
const MOST_WHYS: usize = 8;

/// Something that hangs on an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attachment {
    /// Its tag, or its digest where it has none.
    pub(super) name: String,
    pub(super) digest: Digest,
    /// What it is about.
    pub(super) subject: Digest,
    /// What the registry says that it is, if it does.
    kind: Option<String>,
}

/// What is known of a repository's tags: the list, if it was read.
pub(super) type Listed<'a> = Option<&'a [String]>;

/// What hangs on `subjects`, directly or not; and whether that is not all, since there is more than anybody needs.
pub(super) async fn find(
    wire: &Wire,
    source: &Source,
    subjects: &[Digest],
    listed: Listed<'_>,
    known: &Apis,
) -> Result<(Vec<Attachment>, bool), Failure> {
    let mut found = BTreeSet::new();
    let mut round: Vec<Digest> = subjects.to_vec();
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for subject in &round {
            for attachment in direct(wire, source, subject, (listed, &ENDS), known).await? {
                let digest = attachment.digest.clone();
                if found.len() == MOST && !found.contains(&attachment) {
                    return Ok((found.into_iter().collect(), true));
                }
                if found.insert(attachment) {
                    next.push(digest);
                }
            }
        }
        // Only what the API tells hangs on attachments; tags about tags are not made.
        round = if known.has(source) { next } else { Vec::new() };
        if round.is_empty() {
            break;
        }
    }
    Ok((found.into_iter().collect(), false))
}

/// Whether repositories have the referrers API, as far as they were asked in this run. It is not asked of the
/// registry as a whole: one in front of others has it for some.
#[derive(Default)]
pub(super) struct Apis(std::sync::Mutex<std::collections::HashMap<String, bool>>);

impl Apis {
    fn has(&self, source: &Source) -> bool {
        let known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.get(&name(source)).copied().unwrap_or(true)
    }

    /// Once it answered, a 404 is about what was asked for.
    fn note(&self, source: &Source, has: bool) {
        let mut known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *known.entry(name(source)).or_insert(has) |= has;
    }
}

fn name(source: &Source) -> String {
    format!("{}/{}", source.upstream.host, source.path)
}

async fn direct(
    wire: &Wire,
    source: &Source,
    subject: &Digest,
    (listed, ends): (Listed<'_>, &[&str]),
    known: &Apis,
) -> Result<Vec<Attachment>, Failure> {
    let host = &source.upstream.host;
    let mut found = Vec::new();
    if known.has(source) {
        let ask = async || wire.client.referrers(&source.upstream, &source.path, subject).await;
        let answer = wire.ask(host, ask).await?;
        known.note(source, answer.is_some());
        for descriptor in answer.into_iter().flatten() {
            let (name, kind) = (descriptor.digest.to_string(), descriptor.artifact_type);
            found.push(Attachment { name, digest: descriptor.digest, subject: subject.clone(), kind });
        }
    }
    let base = ParsedManifest::referrers_tag(subject);
    for end in ends {
        let tag = format!("{base}{end}");
        if !is_tag(&tag) || listed.is_some_and(|listed| !listed.contains(&tag)) {
            continue;
        }
        match image::resolve(wire, source, &tag).await {
            Ok(digest) => found.push(Attachment { name: tag, digest, subject: subject.clone(), kind: None }),
            Err(failure) if failure.is_absent() => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(found)
}

/// All of an attachment, fetched unless `dry`.
pub(super) async fn fetch(
    wire: &Wire,
    source: &Source,
    attachment: &Attachment,
    of: &str,
    dry: bool,
) -> Result<Closure, Failure> {
    let closure = image::closure(wire, Some(source), &attachment.digest, &Terms::default()).await?;
    if !dry {
        image::fetch(wire, source, &closure, of).await?;
    }
    Ok(closure)
}

/// Why none of the signatures that were looked at is the right one.
#[derive(Default)]
struct Doubts {
    whys: Vec<String>,
    /// What kept one from being looked at now, and may not the next time.
    passing: Option<Failure>,
}

impl Doubts {
    /// Notes that one cannot be read, which says nothing of the others.
    ///
    /// # Errors
    /// Where nothing else need be tried either.
    fn note(&mut self, failure: Failure) -> Result<(), Failure> {
        match failure {
            Failure::Store { .. } | Failure::Stopped(_) | Failure::Ended => return Err(failure),
            failure if failure.may_pass() => drop(self.passing.get_or_insert(failure)),
            failure => self.tell(failure.to_string()),
        }
        Ok(())
    }

    fn tell(&mut self, why: String) {
        if self.whys.len() < MOST_WHYS && !self.whys.contains(&why) {
            self.whys.push(why);
        }
    }
}

fn is_signature(kind: &str) -> bool {
    kind == SIGNATURE || cosign::is_bundle(kind)
}

/// Whether one of the signatures that hang on `image` is by `key`. Fetches signatures alone, which are kept unless `dry`; one that cannot be read takes
/// nothing from the others, for anybody may have hung it there.
///
/// # Errors
/// [`Failure::Unsigned`] where none is, or what kept it from being known.
pub(super) async fn verify(
    wire: &Wire,
    source: &Source,
    image: &Digest,
    key: &PublicKey,
    key_name: &str,
    (known, dry): (&Apis, bool),
) -> Result<(), Failure> {
    let mut doubts = Doubts::default();
    for attachment in direct(wire, source, image, (None, &SIGNED), known).await? {
        for signature in signatures(wire, source, &attachment, &mut doubts).await? {
            for layer in &signature.layers {
                match check(wire, source, layer, image, (key, dry)).await {
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(why)) => doubts.tell(why),
                    Err(failure) => doubts.note(failure)?,
                }
            }
        }
    }
    if let Some(failure) = doubts.passing {
        return Err(failure);
    }
    let why = if doubts.whys.is_empty() { "it has no signature".into() } else { doubts.whys.join(", ") };
    Err(Failure::Unsigned(format!("`{image}` is not signed by `{key_name}`: {why}")))
}

/// What of an attachment is a signature: itself, or some of the list that clients keep where a registry has no referrers
/// API. Nothing else is fetched where the registry says what it is.
async fn signatures(
    wire: &Wire,
    source: &Source,
    attachment: &Attachment,
    doubts: &mut Doubts,
) -> Result<Vec<ParsedManifest>, Failure> {
    let mut found = Vec::new();
    let may_be = |kind: &Option<String>| {
        kind.as_deref().is_none_or(|kind| is_signature(kind) || CONFIGS.contains(&kind))
    };
    if !may_be(&attachment.kind) {
        return Ok(found);
    }
    let mut waiting = vec![(attachment.digest.clone(), 0)];
    while let Some((digest, depth)) = waiting.pop() {
        match image::manifest(wire, Some(source), &digest).await {
            Err(failure) => doubts.note(failure)?,
            Ok(known) if known.parsed.is_index() && depth == 0 => {
                let listed = known.parsed.manifests.iter().filter(|child| may_be(&child.artifact_type));
                waiting.extend(listed.take(MOST_SIGNATURES).map(|child| (child.digest.clone(), 1)));
            }
            Ok(known) => {
                let kind = known.parsed.artifact_type.as_deref().unwrap_or_default();
                if attachment.name.ends_with(".sig") || is_signature(kind) {
                    found.push(known.parsed);
                }
            }
        }
    }
    Ok(found)
}

async fn check(
    wire: &Wire,
    source: &Source,
    layer: &Descriptor,
    image: &Digest,
    (key, dry): (&PublicKey, bool),
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
    let payload = wire.small(source, layer, "signature", dry).await?;
    Ok(match signature {
        Some(signature) => key.verify(&payload, signature, image),
        None => key.verify_bundle(&payload, image),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_that_is_none_says_nothing_of_other_repositories() {
        let (apis, one, other) = (Apis::default(), Source::of("q.io/a", false), Source::of("q.io/b", false));
        apis.note(&one, false);
        assert!(!apis.has(&one) && apis.has(&other));
        apis.note(&other, true);
        apis.note(&other, false);
        assert!(apis.has(&other));
    }

    /// A registry in which 200 things are about everything.
    async fn crowded() -> Source {
        use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source = Source::of(&format!("{}/a", listener.local_addr().unwrap()), false);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (read, mut write) = stream.split();
                let mut lines = tokio::io::BufReader::new(read).lines();
                let asked = lines.next_line().await.unwrap().unwrap_or_default();
                while lines.next_line().await.unwrap().is_some_and(|line| !line.is_empty()) {}
                let of = |n: usize| serde_json::json!({"digest": Digest::sha256(format!("{n} {asked}").as_bytes())});
                let body = serde_json::json!({"manifests": (0..200).map(of).collect::<Vec<_>>()}).to_string();
                let head =
                    format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
                write.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        });
        source
    }

    #[tokio::test]
    async fn what_hangs_on_an_image_without_end_ends() {
        let folder = tempfile::tempdir().unwrap();
        let store = crate::store::Store::open(crate::store::Settings::below(folder.path())).unwrap();
        let client = crate::oci::Client::new(crate::oci::ClientSettings::default()).unwrap();
        let progress = crate::sys::progress::Progress::silent();
        let wire = Wire::new(std::sync::Arc::new(client), store, progress, (None, 4), None);
        let (source, subject) = (crowded().await, Digest::sha256(b"image"));
        let found = find(&wire, &source, &[subject], Some(&[]), &Apis::default()).await.unwrap();
        assert_eq!((found.0.len(), found.1), (MOST, true));
        let asked = wire.asked.load(std::sync::atomic::Ordering::Relaxed);
        assert!(asked <= 10, "{asked}");
    }
}
