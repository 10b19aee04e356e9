//! Import: nothing of a bundle is seen before one transaction makes all of it seen.
//!
//! Roots, manifest and lists are verified; then everything is judged that can be judged without reading blobs; then
//! each missing blob is read once, and what is written is what was hashed; then refs, generation, sequence number,
//! root version and time floor change together. An interrupted import leaves blobs that nothing refers to, and the
//! next one goes on with them; a refused one leaves none. The bundle in force once more brings what was damaged since.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::history::Newest;
use super::list::{BlobLine, Carried, Content};
use super::manifest::{Identity, Manifest, own_platform};
use super::open::{Opened, Passed, open};
use super::receipt::{self, Receipt};
use super::state::Lost;
use super::system::{Appliance, Asked, Origin, Staging};
use super::{Error, Fault, copy, state, turn};
use crate::store::{Intake, Owner, StateOf, Store, TrustUpdate};
use crate::sys::clock;
use crate::sys::digest::Digest;
use crate::sys::failpoint;
use crate::sys::mounts::Writable;
use crate::sys::progress::Progress;
use crate::trust::{Anchor, Chain, Verified, gateway, sequence};

/// This gateway, as an import sees it.
#[derive(Debug)]
pub struct Gateway {
    /// The state folder.
    pub state_dir: PathBuf,
    /// Who it is.
    pub me: Identity,
    /// Its store.
    pub store: Store,
    /// Its slots, where it is an appliance.
    pub appliance: Option<Arc<dyn Appliance>>,
}

/// What an import did.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Imported {
    /// Its stream.
    pub stream: String,
    /// Its number.
    pub seq: u64,
    /// The generation in force, if this import made it.
    pub generation: Option<u64>,
    /// Blobs that came.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Refs in force.
    pub refs: u64,
    /// What of the bundle in force was damaged and came again: blobs and lists.
    pub repaired: u64,
    /// What became of the system in it, where it was staged.
    pub staged: Option<String>,
    /// The receipt, if one could be written.
    pub receipt: Option<PathBuf>,
    /// What there is to say besides.
    pub remarks: Vec<String>,
}

/// What a generation's note holds.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub struct Note {
    /// Its number in the stream.
    pub seq: u64,
    /// The envelope that it came in.
    pub manifest: Digest,
    /// The state.
    pub snapshot: Digest,
    /// When the depot made it.
    pub created: Timestamp,
    /// Blobs of the state.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The depot's words.
    pub notes: String,
    /// The version of the system that it held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

/// A bundle that this gateway may import, and what that takes.
pub struct Judged {
    /// The bundle.
    pub opened: Opened,
    /// Whether it was imported before.
    pub again: Option<Again>,
    /// The highest number of its stream that was accepted before; 0 where none was, or its numbers begin anew.
    pub highest: u64,
    /// The root version in force before.
    pub root_before: u64,
    /// Whether its keys are so new that sequence numbers begin anew.
    pub forget_seqs: bool,
    /// Blobs that must come.
    pub missing: u64,
    /// Their bytes.
    pub missing_bytes: u64,
    /// Blobs of the bundle in force that are damaged and that it leaves out: how many, and the first.
    pub absent: Option<(u64, Digest)>,
}

/// The same bundle a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It is in force.
    InForce,
    /// It was rolled back; this is its generation.
    RolledBack(u64),
}

impl Gateway {
    /// The roots that are pinned.
    ///
    /// # Errors
    /// [`Error::Trust`] where none is.
    pub fn chain(&self) -> Result<Chain, Error> {
        let version = self.store.trust_value("root-version")?;
        Ok(Anchor::below(&self.state_dir).load(version.and_then(|v| u64::try_from(v).ok()))?)
    }

    /// The folder for what is needed for a moment.
    pub fn scratch(&self) -> PathBuf {
        self.state_dir.join("bundle")
    }

    /// A time that has passed: what bundles said, which the store keeps, and what the pinned root and edge know. The
    /// machine's clock is no witness: it may have been set back, or ahead.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn passed(&self, chain: &Chain) -> Result<Passed, Error> {
        let kept = self.store.trust_value("time-floor")?.unwrap_or(0);
        let told = Timestamp::from_second(kept).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(Passed { told, sure: clock::floor().max(chain.current().created) })
    }

    /// Verifies the bundle in `folder` up to its lists, and judges whether it may be imported here.
    ///
    /// # Errors
    /// [`Error`]; nothing was changed.
    pub fn judge(&self, folder: &Path) -> Result<Judged, Error> {
        let chain = self.chain()?;
        let root_before = chain.current().version;
        let passed = self.passed(&chain)?;
        let opened = open(folder, chain, passed, &self.scratch())?;
        let manifest = &opened.manifest;
        manifest.check_audience(&self.me, &own_platform())?;
        let forget_seqs = opened.chain.keys_are_new_since(root_before);
        let highest = if forget_seqs { 0 } else { self.highest(&manifest.stream)? };
        let again = if forget_seqs { None } else { self.again(manifest, highest)? };
        let comes_back = highest > 0 && manifest.seq == highest && self.is_lost(&manifest.stream)?;
        if again.is_none() && !comes_back {
            sequence::judge(&manifest.stream, manifest.seq, highest)?;
        }
        let lost = if again == Some(Again::InForce) { Lost::Told } else { Lost::Refused };
        let state::Found { missing, missing_bytes, absent } = state::check(&opened, &self.store, lost)?;
        Ok(Judged { opened, again, highest, root_before, forget_seqs, missing, missing_bytes, absent })
    }

    /// The highest number of a stream that was ever accepted; 0 where none was.
    pub(super) fn highest(&self, stream: &str) -> Result<u64, Error> {
        let highest = self.store.trust_value(&format!("seq:{stream}"))?;
        Ok(highest.and_then(|v| u64::try_from(v).ok()).unwrap_or(0))
    }

    /// Whether nothing of a stream is here, though numbers of it are known: the data was reset. Its newest bundle may come
    /// once more then, which is no step back.
    pub(super) fn is_lost(&self, stream: &str) -> Result<bool, Error> {
        Ok(self.store.generations(&Owner::Bundle(stream.to_owned()))?.is_empty())
    }

    /// Whether it is the last one that was accepted, or, after a rollback, an earlier one that is in force: that flips nothing.
    fn again(&self, manifest: &Verified<Manifest>, highest: u64) -> Result<Option<Again>, Error> {
        let generations = self.store.generations(&Owner::Bundle(manifest.stream.clone()))?;
        let same = generations.iter().find(|generation| {
            Note::read(&generation.note).is_some_and(|note| note.manifest == *manifest.digest())
        });
        Ok(match same {
            Some(generation) if generation.current => Some(Again::InForce),
            Some(generation) if manifest.seq == highest => Some(Again::RolledBack(generation.number)),
            _ => None,
        })
    }

    /// Imports the bundle in `folder`.
    ///
    /// # Errors
    /// [`Error`]; what was in force before is in force. On an appliance a system that could not be staged is an error
    /// too, with all else in force if that had come so far; the system that runs is untouched.
    pub fn import(&self, folder: &Path, asked: Asked, progress: &Progress) -> Result<Imported, Error> {
        let _turn = turn::import(&self.scratch(), progress)?;
        let judged = self.judge(folder)?;
        let manifest = &judged.opened.manifest;
        let mut imported = Imported {
            stream: manifest.stream.clone(),
            seq: manifest.seq,
            generation: None,
            blobs: judged.missing,
            bytes: judged.missing_bytes,
            refs: manifest.refs.lines,
            repaired: 0,
            staged: None,
            receipt: None,
            remarks: Vec::new(),
        };
        if let Some(Again::RolledBack(generation)) = judged.again {
            (imported.blobs, imported.bytes) = (0, 0);
            imported.remarks.push(format!(
                "it was imported before and rolled back; nothing changed hint: `edge bundle rollback {} --to {generation}` \
                 puts it in force again",
                manifest.stream
            ));
            return Ok(imported);
        }
        let origin =
            Origin { stream: &manifest.stream, seq: manifest.seq, manifest: manifest.digest(), asked };
        // A state that is not whole, and is refused at the end, brings no system; nor does one that a newer bundle has superseded.
        let wanted = match judged.absent {
            None if manifest.seq >= judged.highest => {
                self.judge_system(manifest, origin, &mut imported.remarks)?
            }
            _ => None,
        };
        let stage =
            || wanted.map(|part| self.stage_system(&judged.opened, part, origin, progress)).transpose();
        let staging = if judged.again == Some(Again::InForce) {
            imported.repaired = self.repair(&judged, progress)?;
            let changed = match (imported.repaired, wanted.is_some()) {
                (0, false) => "nothing changed".into(),
                (0, true) => "its system alone is staged again".into(),
                (repaired, false) => format!("{repaired} damaged blobs were repaired"),
                (repaired, true) => {
                    format!("{repaired} damaged blobs were repaired, its system is staged again")
                }
            };
            imported.remarks.insert(0, format!("it is in force already; {changed}"));
            stage()?
        } else {
            self.store.check_room(judged.missing_bytes)?;
            let intake = self.store.intake()?;
            copy::blobs(&judged.opened, &self.store, &intake, judged.missing_bytes, progress)?;
            // The other slot is written before anything is in force: what refers to it comes after it.
            let done = stage().and_then(|staging| Ok((staging, self.flip(&judged, &intake)?)));
            let (staging, generation) = match done {
                Ok(done) => done,
                Err(error) if error.is_refusal() => {
                    copy::forget(&judged.opened, &self.store, &intake)?;
                    return Err(error);
                }
                Err(error) => return Err(error),
            };
            imported.generation = Some(generation);
            tracing::info!(stream = manifest.stream, seq = manifest.seq, "imported a bundle");
            staging
        };
        if let Err(error) = self.note_seen() {
            imported.remarks.push(format!("the numbers of bundles are kept in the store alone: {error}"));
        }
        if let Some(appliance) = &self.appliance {
            appliance.keep_trust(&self.store)?;
        }
        imported.staged = staging.map(Staging::commit).transpose()?;
        failpoint::pass("receipt");
        match self.write_receipt(&judged, folder) {
            Ok(path) => imported.receipt = path,
            Err(error) => imported.remarks.push(format!("no receipt was written: {error}")),
        }
        let age = Newest::new(&manifest.stream, manifest.seq, manifest.created, clock::now());
        imported.remarks.extend(age.warning());
        // The receipt says what is here: the next bundle that is made by it brings the rest.
        match judged.absent {
            Some((missing, first)) => Err(Fault::Base { missing, first }.into()),
            None => Ok(imported),
        }
    }

    /// Brings again what was set aside of the bundle in force, as far as it lies in it; says how many blobs and lists.
    fn repair(&self, judged: &Judged, progress: &Progress) -> Result<u64, Error> {
        let opened = &judged.opened;
        let manifest = &opened.manifest;
        let mut repaired = 0;
        for list in [&manifest.blobs.digest, &manifest.refs.digest, manifest.digest()] {
            repaired += u64::from(self.store.glance(list)?.is_none());
        }
        if judged.missing + repaired == 0 {
            return Ok(0);
        }
        self.store.check_room(judged.missing_bytes)?;
        let intake = self.store.intake()?;
        match copy::blobs(opened, &self.store, &intake, judged.missing_bytes, progress) {
            Ok(came) => repaired += came,
            // A manifest came again of which a layer is damaged that does not lie in this bundle; that is told at the end.
            Err(Error::Content(Fault::Unlisted { .. })) if judged.absent.is_some() => {
                repaired += judged.missing;
            }
            Err(error) => return Err(error),
        }
        copy::lists(opened, &intake)?;
        tracing::info!(
            stream = manifest.stream,
            seq = manifest.seq,
            repaired,
            "repaired the bundle in force"
        );
        Ok(repaired)
    }

    /// Keeps the lists with the generation, and puts it in force.
    fn flip(&self, judged: &Judged, intake: &Intake) -> Result<u64, Error> {
        let opened = &judged.opened;
        let manifest = &opened.manifest;
        let pins = copy::lists(opened, intake)?;
        let note = Note {
            seq: manifest.seq,
            manifest: manifest.digest().clone(),
            snapshot: manifest.snapshot.clone(),
            created: manifest.created,
            blobs: manifest.totals.blobs,
            bytes: manifest.totals.bytes,
            notes: manifest.notes.clone(),
            system: manifest.system.as_ref().map(|part| part.version.clone()),
        };
        Anchor::below(&self.state_dir).keep(&opened.chain, judged.root_before)?;
        let trust = TrustUpdate {
            root_version: Some(opened.chain.current().version),
            seq: Some((manifest.stream.clone(), manifest.seq)),
            time_floor: Some(manifest.created.as_second()),
            forget_seqs: judged.forget_seqs,
        };
        let to = StateOf { pins, note: note.to_text(), ..StateOf::default() };
        let (mut lines, stream) = (opened.ref_lines()?, manifest.stream.clone());
        // They were checked line by line before; what goes wrong now is the disk.
        let next = move || match lines.next_ref() {
            Ok(line) => Ok(line.map(|line| line.into_state(&stream))),
            Err(fault) => Err(std::io::Error::other(fault).into()),
        };
        Ok(self.store.flip_with(&Owner::Bundle(manifest.stream.clone()), to, next, trust)?)
    }

    /// Says on the stick what is here now, and no more: what is damaged has to come again. `None` where the bundle does not lie on a stick of the usual form.
    fn write_receipt(&self, judged: &Judged, folder: &Path) -> Result<Option<PathBuf>, Error> {
        let Some(receipts) = receipt::folder_beside(folder) else { return Ok(None) };
        let _writable = Writable::new(folder).map_err(Error::Stick)?;
        let manifest = &judged.opened.manifest;
        let key = gateway::own_key(&self.state_dir)?;
        let receipt = Receipt {
            gateway: self.name(),
            key: key.public().text(),
            stream: manifest.stream.clone(),
            // Of one that a rollback has put in force the next number does not follow.
            seq: manifest.seq.max(judged.highest),
            manifest: manifest.digest().clone(),
            snapshot: manifest.snapshot.clone(),
            imported: clock::now(),
            have: manifest.blobs.clone(),
        };
        let mut lines = judged.opened.blob_lines()?;
        let part_size = manifest.part_size;
        let lines = std::iter::from_fn(|| lines.next_blob(part_size).map_err(Error::from).transpose());
        let here = |line: Result<BlobLine, Error>| {
            let digest = match line {
                // A system is in a slot, from which nobody can take it again.
                Ok(line) if line.kind == Content::System => return None,
                Ok(line) => line.digest,
                Err(error) => return Some(Err(error)),
            };
            let blob = self.store.glance(&digest).map_err(Error::from);
            blob.map(|blob| blob.map(|_| digest)).transpose()
        };
        let digests = lines.filter_map(here);
        Ok(Some(receipt::write(&receipts, receipt, &key, digests)?))
    }

    /// Its configured name, or the machine's.
    pub fn name(&self) -> String {
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let name = self.me.gateway.clone().or(host.map(|host| host.to_ascii_lowercase()));
        name.filter(|name| crate::trust::is_name(name)).unwrap_or_else(|| "gateway".into())
    }
}

impl Note {
    /// As a generation keeps it.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads it back.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// Whether a blob comes with this bundle.
pub fn is_carried(carried: &Carried) -> bool {
    *carried != Carried::No
}
