//! One image of a run: what its tag stands for, whether it may come, fetching it and what hangs on it.

use std::collections::{BTreeMap, BTreeSet};

use super::attached::{self, Apis, Attachment};
use super::cosign::PublicKey;
use super::error::Failure;
use super::fetch::{Source, Wire};
use super::image;
use super::plan::{ImageName, WantedImage};
use super::record::Record;
use super::summary::{Entry, State};
use crate::sys::clock;
use crate::sys::digest::Digest;

/// Seconds after which it is looked again for what hangs on an image that has not changed.
const LOOK_AGAIN: i64 = 7 * 24 * 3600;

/// An image, with what the run found of it.
pub(super) struct Done {
    pub(super) entry: Entry,
    pub(super) image: ImageName,
    /// What it stands for from now on.
    pub(super) digest: Option<Digest>,
    pub(super) size: u64,
    pub(super) attached: Vec<Attachment>,
    /// Manifests of it and of what hangs on it that came, or were here, with all that they link to.
    pub(super) whole: Vec<Digest>,
    /// Whether it was looked for what hangs on it.
    pub(super) looked: bool,
    pub(super) may_pass: bool,
}

pub(super) struct Context<'a> {
    pub(super) wire: &'a Wire,
    pub(super) before: &'a BTreeMap<ImageName, Digest>,
    pub(super) record: &'a Record,
    pub(super) tags: &'a BTreeMap<String, Vec<String>>,
    pub(super) hosts: Apis,
    pub(super) keys: BTreeMap<std::path::PathBuf, PublicKey>,
    pub(super) dry: bool,
    /// What a dry run has counted: a blob that many images want comes once.
    pub(super) counted: std::sync::Mutex<BTreeSet<Digest>>,
}

impl Context<'_> {
    /// Bytes that have to travel for it, less those that a dry run has counted already: nothing of them came.
    fn count(&self, closure: &image::Closure) -> u64 {
        let mut counted = self.counted.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let first = closure.coming().filter(|(digest, _)| !self.dry || counted.insert((*digest).clone()));
        first.map(|(_, size)| size).sum()
    }
}

/// One image, from asking to having.
pub(super) async fn one(context: &Context<'_>, wanted: &WantedImage) -> Done {
    let source = Source::of(&wanted.image.repository, wanted.terms.insecure);
    let known = context.record.image(&wanted.image);
    let mut done = Done {
        entry: Entry {
            name: wanted.image.to_string(),
            state: State::Unchanged,
            digest: None,
            bytes: 0,
            from: source.upstream.url.clone(),
            reasons: wanted.reasons.clone(),
            // What is known stays known until all of it was looked for.
            attached: known.map(|known| known.attached.clone()).unwrap_or_default(),
            warnings: Vec::new(),
            error: None,
        },
        image: wanted.image.clone(),
        digest: None,
        size: known.map_or(0, |known| known.size),
        attached: Vec::new(),
        whole: Vec::new(),
        looked: false,
        may_pass: false,
    };
    if let Err(failure) = bring(context, wanted, &source, &mut done).await {
        done.may_pass = failure.may_pass();
        done.entry.state = match &failure {
            failure if failure.is_refusal() => State::Refused,
            failure if failure.is_absent() && wanted.terms.guessed => State::Absent,
            _ => State::Failed,
        };
        if done.entry.state != State::Absent {
            done.entry.error = Some(failure.to_string());
        }
    }
    done
}

async fn bring(
    context: &Context<'_>,
    wanted: &WantedImage,
    source: &Source,
    done: &mut Done,
) -> Result<(), Failure> {
    let wire = context.wire;
    let digest = image::resolve(wire, source, &wanted.image.name).await?;
    done.entry.digest = Some(digest.clone());
    let before = context.before.get(&wanted.image);
    let state = match before {
        None => State::New,
        Some(before) if *before != digest => State::Updated,
        Some(_) => State::Unchanged,
    };
    for path in &wanted.terms.keys {
        let Some(key) = context.keys.get(path) else { continue };
        let name = path.display().to_string();
        attached::verify(wire, source, &digest, key, &name, (&context.hosts, context.dry)).await?;
    }
    let closure = image::closure(wire, Some(source), &digest, &wanted.terms).await?;
    done.size = closure.size();
    done.entry.bytes = context.count(&closure);
    // Something of it was lost, or more platforms are wanted: it comes anew.
    done.entry.state = if state == State::Unchanged && !closure.is_here() { State::Updated } else { state };
    if !context.dry {
        image::fetch(wire, source, &closure, &wanted.image.to_string()).await?;
        done.digest = Some(digest.clone());
        done.whole.extend(closure.manifests.iter().map(|known| known.digest.clone()));
    }
    let looked = context.record.looked.get(&digest).copied().unwrap_or(0);
    let due = clock::now().as_second() - looked >= LOOK_AGAIN;
    // A list of tags that was read anyway tells what is new for nothing.
    if done.entry.state == State::Unchanged && !due && !context.tags.contains_key(&wanted.image.repository) {
        return Ok(());
    }
    let listed = context.tags.get(&wanted.image.repository).map(Vec::as_slice);
    if done.entry.state == State::Unchanged
        && !due
        && listed.is_some_and(|tags| !hang(tags, &closure, context))
    {
        return Ok(());
    }
    let subjects = image::subjects(&closure);
    let (attachments, more) = match attached::find(wire, source, &subjects, listed, &context.hosts).await {
        // The image is whole, and what hangs on it is looked for the next time.
        Err(failure @ Failure::Limited { .. }) => {
            done.entry.warnings.push(not_looked_for(&failure));
            return Ok(());
        }
        found => found?,
    };
    if more {
        let most = attachments.len();
        done.entry.warnings.push(format!("more than {most} things hang on it, and the others are left out"));
    }
    let mut there = Vec::new();
    for attachment in attachments {
        match attached::fetch(wire, source, &attachment, &wanted.image.to_string(), context.dry).await {
            Ok(closure) => {
                done.entry.bytes += context.count(&closure);
                done.whole.extend(closure.manifests.into_iter().map(|known| known.digest));
                there.push(attachment.name.clone());
                done.attached.push(attachment);
            }
            // Anybody may hang something on an image that cannot be had: the image is whole without it.
            Err(failure @ (Failure::Upstream { unreachable: false, .. } | Failure::Manifest(_))) => {
                done.entry.warnings.push(format!("{} did not come with it: {failure}", attachment.name));
                let repository = wanted.image.repository.clone();
                let name = ImageName { repository, name: attachment.name };
                if context.before.contains_key(&name) {
                    there.push(name.name);
                }
            }
            Err(failure @ Failure::Limited { .. }) => {
                done.entry.warnings.push(not_looked_for(&failure));
                there.retain(|name| !done.entry.attached.contains(name));
                done.entry.attached.extend(there);
                return Ok(());
            }
            Err(failure) => return Err(failure),
        }
    }
    done.entry.attached = there;
    done.looked = true;
    Ok(())
}

fn not_looked_for(failure: &Failure) -> String {
    format!("what hangs on it was not all looked for: {failure}")
}

/// Whether a tag of the list hangs on the image and is not here.
fn hang(tags: &[String], closure: &image::Closure, context: &Context<'_>) -> bool {
    let subjects: BTreeSet<String> = image::subjects(closure).iter().map(ToString::to_string).collect();
    let here = |tag: &String| context.before.keys().any(|image| image.name == *tag);
    let hangs =
        |tag: &&String| super::filter::attached_to(tag).is_some_and(|subject| subjects.contains(&subject));
    tags.iter().filter(hangs).any(|tag| !here(tag))
}
