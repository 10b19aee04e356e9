//! What a bundle holds and what importing it would change, believed or not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::history::Newest;
use super::import::{Again, Gateway, Judged};
use super::list::RefLine;
use super::manifest::{self, Manifest};
use super::open::{Opened, Passed, open};
use super::sizes::Sizes;
use super::stick::Stick;
use super::{Error, Fault, name, readback, state};
use crate::store::Owner;
use crate::sys::clock;
use crate::sys::progress::Progress;
use crate::trust::{Chain, Refusal, gateway};

/// What is said of a bundle.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspected {
    /// Where.
    pub folder: PathBuf,
    /// Whether its signatures hold here, and everything but its blobs was checked.
    pub verified: bool,
    /// Whether it is not what was signed, or by nobody who is believed.
    pub spoiled: bool,
    /// Why not, or why it would not be imported.
    pub refused: Option<String>,
    /// What is signed, or claimed.
    pub manifest: Manifest,
    /// Blobs that an import would bring, and their bytes.
    pub missing: u64,
    /// Their bytes.
    pub missing_bytes: u64,
    /// Whether it is in force already.
    pub in_force: bool,
    /// That it is old, where it is.
    pub warning: Option<String>,
    /// Whether it was judged by the pinned root, and for this gateway.
    pub for_here: bool,
    /// What it holds; empty where it is not verified.
    pub refs: Vec<String>,
    /// Bytes of each of `refs`, in their order: all that it needs, also what others need, or what the bundle leaves out. `None`
    /// where a manifest of it cannot be had.
    pub sizes: Vec<Option<u64>>,
    /// Names that would be new.
    pub added: Vec<String>,
    /// Names that would stand for something else.
    pub changed: Vec<String>,
    /// Names that would go.
    pub removed: Vec<String>,
}

impl Gateway {
    /// Says what the bundle in `folder` holds and would change. `chain` is what to believe, if not the pinned roots; then it is
    /// not asked whom it is for, and nothing is said of changes.
    ///
    /// # Errors
    /// Only where not even its manifest can be read.
    pub fn inspect(&self, folder: &Path, chain: Option<Chain>) -> Result<Inspected, Error> {
        let for_here = chain.is_none();
        let looked = match chain {
            Some(_) => self.believed(folder, chain).map(|opened| (opened, None)),
            None => {
                self.judge(folder).map(|Judged { opened, again, missing, missing_bytes, absent, .. }| {
                    (opened, Some((again, missing, missing_bytes, absent)))
                })
            }
        };
        match looked {
            Ok((opened, judged)) => {
                let mut said = empty(folder, (*opened.manifest).clone());
                (said.verified, said.for_here) = (true, for_here);
                let Some((again, missing, bytes, absent)) = judged else {
                    self.list(&opened, &mut said, |_, _| {})?;
                    return Ok(said);
                };
                (said.missing, said.missing_bytes) = (missing, bytes);
                said.in_force = again == Some(Again::InForce);
                said.refused = absent.map(|(missing, first)| Fault::Base { missing, first }.to_string());
                self.changes(&opened, &mut said)?;
                Ok(said)
            }
            Err(error) => {
                let stick = Stick::open(folder)?;
                let bytes = stick.small(&[name::MANIFEST], manifest::LARGEST)?;
                let bytes = bytes.ok_or_else(|| Fault::Missing(name::MANIFEST.into()))?;
                let claimed: Manifest = gateway::peek(&bytes, name::MANIFEST, manifest::LARGEST)?;
                let mut said = empty(folder, claimed);
                said.for_here = for_here;
                if let Some(opened) = self.signed(folder, &error) {
                    said.verified = true;
                    self.list(&opened, &mut said, |_, _| {})?;
                }
                said.spoiled = error.is_refusal() && !said.verified;
                said.refused = Some(error.to_string());
                Ok(said)
            }
        }
    }

    /// What was refused for being somebody else's, or old, where it is signed as it should be.
    fn signed(&self, folder: &Path, refused: &Error) -> Option<Opened> {
        let is_about_me = matches!(
            refused,
            Error::Content(Fault::Audience { .. } | Fault::Base { .. })
                | Error::Refused(Refusal::SeqOld { .. } | Refusal::SeqFar { .. })
        );
        let opened = || -> Result<Opened, Error> {
            let chain = self.chain()?;
            let passed = self.passed(&chain)?;
            let opened = open(folder, chain, passed, &self.scratch())?;
            state::check_alone(&opened)?;
            Ok(opened)
        };
        is_about_me.then(|| opened().ok()).flatten()
    }

    fn changes(&self, opened: &Opened, said: &mut Inspected) -> Result<(), Error> {
        let stream = &opened.manifest.stream;
        let mut before: BTreeMap<String, String> = BTreeMap::new();
        for found in self.store.refs_of(&Owner::Bundle(stream.clone()))? {
            before.insert(found.0, found.1.to_string());
        }
        let (mut added, mut changed) = (Vec::new(), Vec::new());
        self.list(opened, said, |line, shown| {
            let (key, digest) = keyed(line, stream);
            match before.remove(&key) {
                None => added.push(shown.to_owned()),
                Some(old) if old != digest => changed.push(shown.to_owned()),
                Some(_) => {}
            }
        })?;
        (said.added, said.changed, said.removed) = (added, changed, before.into_keys().collect());
        Ok(())
    }

    /// Says what the bundle holds, by name and size, and hands `each` the lines with what they are called.
    fn list(
        &self,
        opened: &Opened,
        said: &mut Inspected,
        mut each: impl FnMut(&RefLine, &str),
    ) -> Result<(), Error> {
        let sizes = Sizes::of(opened, &self.store, &self.scratch())?;
        let mut lines = opened.ref_lines()?;
        while let Some(line) = lines.next_ref()? {
            let shown = line.shown();
            each(&line, &shown);
            said.sizes.push(sizes.of_ref(&line)?);
            said.refs.push(shown);
        }
        Ok(())
    }

    /// Checks all of a bundle, every byte. `chain` is what to believe, if not the pinned roots.
    ///
    /// # Errors
    /// [`Error`]; nothing is changed.
    pub fn verify(
        &self,
        folder: &Path,
        chain: Option<Chain>,
        progress: &Progress,
    ) -> Result<Manifest, Error> {
        let opened = self.believed(folder, chain)?;
        readback::verify(&opened, progress)?;
        Ok((*opened.manifest).clone())
    }

    /// Opens a bundle and checks all but its blobs. `chain` is what to believe, if not the pinned roots.
    ///
    /// # Errors
    /// [`Error`]; nothing is changed.
    pub(super) fn believed(&self, folder: &Path, chain: Option<Chain>) -> Result<Opened, Error> {
        let opened = match chain {
            // Another depot's bundle, or this depot's own: whom it is for is not asked.
            Some(chain) => open(folder, chain, Passed::sure(clock::floor()), &self.scratch())?,
            None => self.judge(folder)?.opened,
        };
        state::check_alone(&opened)?;
        Ok(opened)
    }
}

/// How the store calls a line's name, and what it stands for.
fn keyed(line: &RefLine, stream: &str) -> (String, String) {
    let shown = match line {
        RefLine::File { name, .. } => format!("{}/{stream}:{name}", super::list::FILES),
        other => other.shown(),
    };
    let digest = line.digests().first().map(ToString::to_string).unwrap_or_default();
    (shown, digest)
}

fn empty(folder: &Path, manifest: Manifest) -> Inspected {
    let age = Newest::new(&manifest.stream, manifest.seq, manifest.created, clock::now());
    Inspected {
        folder: folder.to_owned(),
        verified: false,
        spoiled: false,
        refused: None,
        manifest,
        missing: 0,
        missing_bytes: 0,
        in_force: false,
        warning: age.warning(),
        for_here: true,
        refs: Vec::new(),
        sizes: Vec::new(),
        added: Vec::new(),
        changed: Vec::new(),
        removed: Vec::new(),
    }
}
