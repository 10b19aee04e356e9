//! `trust/seen.json`: the version of the newest root, the highest numbers and the time floor, beside the roots and outside
//! of `store/`. A `store.db` that was lost, or removed to be made anew, so opens the door to nothing that was superseded.
//!
//! `{"format": 1, "root-version": 2, "seqs": {"main": 12}, "time-floor": 1790000000}`
//!
//! It follows `store.db`, and is believed only upwards: what the store knows is never lowered by it.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::import::Gateway;
use crate::store::{Store, TrustUpdate};
use crate::sys::durable;
use crate::trust::{Anchor, strict};

/// The largest one, in bytes.
const LARGEST: u64 = 4 << 20;
const FORMAT: u32 = 1;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Seen {
    format: u32,
    /// The version of the newest root; 0 where none is pinned.
    root_version: u64,
    /// The highest number seen of each stream.
    seqs: BTreeMap<String, i64>,
    /// Seconds since 1970 that have certainly passed.
    time_floor: i64,
}

impl Seen {
    fn of(store: &Store) -> Result<Self, Error> {
        let version = store.trust_value("root-version")?.and_then(|v| u64::try_from(v).ok());
        Ok(Self {
            format: FORMAT,
            root_version: version.unwrap_or(0),
            seqs: store.trust_seqs()?.into_iter().collect(),
            time_floor: store.trust_value("time-floor")?.unwrap_or(0),
        })
    }

    /// Raises what `store` knows, as `now`, to this.
    fn raise(&self, store: &Store, now: &Self) -> Result<(), Error> {
        let update = TrustUpdate {
            root_version: Some(self.root_version).filter(|version| *version > now.root_version),
            time_floor: Some(self.time_floor).filter(|floor| *floor > now.time_floor),
            ..TrustUpdate::default()
        };
        if update.root_version.is_some() || update.time_floor.is_some() {
            store.update_trust(update)?;
        }
        for (stream, seq) in &self.seqs {
            let known = now.seqs.get(stream).copied().unwrap_or(0);
            if let Some(seq) = u64::try_from(*seq).ok().filter(|_| *seq > known) {
                let raised = store
                    .update_trust(TrustUpdate { seq: Some((stream.clone(), seq)), ..TrustUpdate::default() });
                match raised {
                    // Somebody else has raised it meanwhile.
                    Err(crate::store::Error::Rollback { .. }) => {}
                    raised => raised?,
                }
            }
        }
        Ok(())
    }
}

impl Gateway {
    /// Raises what the store knows of roots, numbers and time to what lies outside of it, and keeps there what it knows
    /// more. A store that knows of no root believes the newest of those that were pinned before.
    ///
    /// # Errors
    /// Where nothing tells what was seen, though roots were pinned; where the store cannot be changed.
    pub fn recall(&self) -> Result<(), Error> {
        let now = Seen::of(&self.store)?;
        let kept = kept(&self.state_dir, &now)?;
        if kept.root_version > now.root_version {
            Anchor::below(&self.state_dir).load(Some(kept.root_version))?;
            tracing::warn!(
                root = kept.root_version,
                "the store knows less than the roots that are pinned: raised"
            );
        }
        // A newer root may have begun numbers and time anew: those of an older one would lock its bundles out.
        if kept.root_version >= now.root_version {
            kept.raise(&self.store, &now)?;
        }
        if let Err(error) = self.note_seen() {
            tracing::warn!(%error, "what was seen of bundles is kept in the store alone");
        }
        Ok(())
    }

    /// Keeps beside the roots what the store knows now.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn note_seen(&self) -> Result<(), Error> {
        let now = Seen::of(&self.store)?;
        if now.root_version == 0 || seen(&self.state_dir).is_ok_and(|kept| kept.as_ref() == Some(&now)) {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&now).map_err(|e| Error::Files(e.into()))?;
        durable::write(&seen_path(&self.state_dir), &bytes, 0o600).map_err(Error::Files)
    }
}

/// The version of the root that counts and the time floor, as [`Gateway::recall`] would have the store know them: for
/// whoever only reads. `store` is `None` where it is lost.
///
/// # Errors
/// Where nothing tells what was seen, though roots were pinned.
pub fn recalled(state_dir: &Path, store: Option<&Store>) -> Result<(u64, i64), Error> {
    let now = store.map(Seen::of).transpose()?.unwrap_or_default();
    let kept = kept(state_dir, &now)?;
    Ok(match kept.root_version >= now.root_version {
        true => (kept.root_version, kept.time_floor.max(now.time_floor)),
        false => (now.root_version, now.time_floor),
    })
}

/// What lies outside of a store that knows `now`.
fn kept(state_dir: &Path, now: &Seen) -> Result<Seen, Error> {
    match seen(state_dir) {
        Ok(Some(kept)) => Ok(kept),
        // Older releases kept the roots alone, and a power cut may come before the rest.
        Ok(None) if now.root_version == 0 => {
            let newest = Anchor::below(state_dir).newest()?;
            Ok(Seen { root_version: newest.unwrap_or(0), ..Seen::default() })
        }
        Ok(None) => Ok(Seen::default()),
        Err(error) if now.root_version == 0 => Err(error),
        Err(error) => {
            tracing::warn!(%error, "what was seen of bundles is noted anew");
            Ok(Seen::default())
        }
    }
}

fn seen_path(state_dir: &Path) -> PathBuf {
    state_dir.join("trust/seen.json")
}

fn seen(state_dir: &Path) -> Result<Option<Seen>, Error> {
    let path = seen_path(state_dir);
    let mut bytes = Vec::new();
    match std::fs::File::open(&path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)) {
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::Files(durable::named(e, "read", &path))),
    }
    let what = path.display().to_string();
    let seen: Seen = strict::parse(&bytes, &what, LARGEST).map_err(|why| damaged(&what, &why.to_string()))?;
    if seen.format != FORMAT {
        return Err(damaged(
            &what,
            &format!("it is of format {}, and this edge reads {FORMAT}", seen.format),
        ));
    }
    Ok(Some(seen))
}

/// Which bundles were superseded is not known then, so a person must say that their numbers begin anew.
fn damaged(what: &str, why: &str) -> Error {
    Error::Files(io::Error::other(format!(
        "`{what}`, the highest numbers of bundles, is damaged: {why} hint: remove it, and their numbers begin anew"
    )))
}
