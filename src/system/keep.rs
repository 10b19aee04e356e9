//! `trust.json` on identity: the roots, the highest numbers seen and the time floor, so that a reset of the data does
//! not open the door to bundles that were superseded.
//!
//! `{"format": 1, "roots": ["..."], "root-version": 2, "seqs": {"main": 12}, "time-floor": 1790000000}`
//!
//! It follows `store.db`, and is believed only upwards: what the store knows is never lowered by it.
//!
//! Beside it: the gateway's own key, the time that has certainly passed, and the cloud's credentials as they were renewed.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::given::KUBECONFIG;
use super::identity::Identity;
use super::intake::{Intake, KEPT};
use super::{Error, Places};
use crate::store::{Store, TrustUpdate};
use crate::sys::durable;
use crate::trust::{Anchor, Chain, strict};

/// The largest copy, in bytes.
const LARGEST: u64 = 4 << 20;
const FILE: &str = "trust.json";
const OWN_KEY: &str = "gateway.key";
const TIME: &str = "time-passed";
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// What is kept of the trust state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kept {
    format: u32,
    /// The files of all roots, the oldest first.
    roots: Vec<String>,
    /// The version of the newest; 0 where none is pinned.
    root_version: u64,
    /// The highest number seen of each stream.
    seqs: BTreeMap<String, i64>,
    /// Seconds since 1970 that have certainly passed.
    time_floor: i64,
}

impl Kept {
    /// What the store says now.
    ///
    /// # Errors
    /// Where it or its roots cannot be read.
    pub fn of(store: &Store, state_dir: &Path) -> Result<Self, Error> {
        let version = store.trust_value("root-version")?.and_then(|v| u64::try_from(v).ok()).unwrap_or(0);
        let roots = match version {
            0 => Vec::new(),
            version => {
                let chain = Anchor::below(state_dir).load(Some(version))?;
                chain.files().map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect()
            }
        };
        Ok(Self {
            format: 1,
            roots,
            root_version: version,
            seqs: store.trust_seqs()?.into_iter().collect(),
            time_floor: store.trust_value("time-floor")?.unwrap_or(0),
        })
    }

    /// The copy on identity; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Kept`] where it is damaged.
    pub fn read(places: &Places) -> Result<Option<Self>, Error> {
        let path = places.identity().join(FILE);
        let mut bytes = Vec::new();
        match std::fs::File::open(&path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(durable::named(e, "read", &path).into()),
        }
        let damaged = |why: String| Error::Kept { path: path.clone(), why };
        let kept: Self = strict::parse(&bytes, FILE, LARGEST).map_err(|e| damaged(e.to_string()))?;
        if kept.format != 1 {
            return Err(damaged(format!("it is of format {}, and this edge reads 1", kept.format)));
        }
        kept.chain().map_err(|e| damaged(e.to_string()))?;
        Ok(Some(kept))
    }

    /// The roots, each checked against the one before it.
    fn chain(&self) -> Result<Option<Chain>, crate::trust::Refusal> {
        let mut files = self.roots.iter().map(|text| text.clone().into_bytes());
        let Some(first) = files.next() else { return Ok(None) };
        let mut chain = Chain::begin(first, FILE)?;
        for file in files {
            chain.push(file, FILE)?;
        }
        let found = chain.current().version;
        if found != self.root_version {
            return Err(crate::trust::Refusal::RootOrder { pinned: self.root_version, found });
        }
        Ok(Some(chain))
    }

    /// Writes it, unless the same is there.
    ///
    /// # Errors
    /// Where identity cannot be written.
    pub fn write(&self, places: &Places) -> Result<(), Error> {
        match Self::read(places) {
            Ok(Some(there)) if there == *self => return Ok(()),
            // A damaged one is written over by a store that knows something, and by no other: a newer system may read it.
            Err(error) if self.root_version == 0 && self.seqs.is_empty() => return Err(error),
            _ => {}
        }
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        Identity::open(places)?.write(FILE, &bytes, 0o600)
    }

    /// Raises what `store` knows to what was kept; says whether anything was raised.
    ///
    /// # Errors
    /// Where the store cannot be changed, or another root is pinned there.
    pub fn restore(&self, store: &Store, state_dir: &Path) -> Result<bool, Error> {
        let now = Self::of(store, state_dir)?;
        let mut update = TrustUpdate::default();
        if self.root_version > now.root_version
            && let Some(chain) = self.chain()?
        {
            let theirs = now.roots.last().map(|text| text.as_bytes());
            if theirs.is_some_and(|theirs| chain.agrees(now.root_version, theirs) != Some(true)) {
                let version = now.root_version;
                let folder = Anchor::below(state_dir).folder().to_owned();
                return Err(crate::trust::AnchorError::Refused(crate::trust::Refusal::RootOther {
                    version,
                    folder,
                })
                .into());
            }
            Anchor::below(state_dir).keep(&chain, now.root_version)?;
            update.root_version = Some(self.root_version);
        }
        // A newer root may have begun the time floor anew, as the numbers below.
        let counts = self.root_version >= now.root_version;
        update.time_floor = Some(self.time_floor).filter(|floor| counts && *floor > now.time_floor);
        let mut raised = update.root_version.is_some() || update.time_floor.is_some();
        if raised {
            store.update_trust(update)?;
        }
        // A newer root may have begun the numbers anew: those of an older one would lock its bundles out.
        if counts {
            for (stream, seq) in &self.seqs {
                let (known, seq) = (now.seqs.get(stream).copied().unwrap_or(0), *seq);
                if let Ok(number) = u64::try_from(seq)
                    && seq > known
                {
                    store.update_trust(TrustUpdate {
                        seq: Some((stream.clone(), number)),
                        ..TrustUpdate::default()
                    })?;
                    raised = true;
                }
            }
        }
        Ok(raised)
    }
}

/// Keeps the gateway's own key beside, and gives it back to a state folder that has none: depots know this gateway by it.
/// Where there are two, the one in use counts.
///
/// # Errors
/// Where either cannot be read or written.
pub fn keep_own_key(places: &Places, state_dir: &Path) -> Result<(), Error> {
    let (used, kept) = (state_dir.join("trust/gateway.key"), places.identity().join(OWN_KEY));
    let read = |path: &Path| match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(durable::named(e, "read", path)),
    };
    match (read(&used)?, read(&kept)?) {
        (None, Some(key)) => {
            durable::folder(&state_dir.join("trust"), 0o700)?;
            durable::write(&used, &key, 0o600)?;
        }
        (Some(key), other) if other.as_ref() != Some(&key) => {
            Identity::open(places)?.write(OWN_KEY, &key, 0o600)?;
        }
        _ => {}
    }
    Ok(())
}

/// The time that has certainly passed, as identity has it: seconds since 1970, as text.
///
/// # Errors
/// Where it cannot be read. What is no time counts as none: it is written anew.
pub fn kept_time(places: &Places) -> Result<Option<Timestamp>, Error> {
    let path = places.identity().join(TIME);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim().parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == ErrorKind::InvalidData => Ok(None),
        Err(e) => Err(durable::named(e, "read", &path).into()),
    }
}

/// Keeps it there, where it is a day later than what is kept: flash wears.
///
/// # Errors
/// Where identity cannot be written.
pub fn keep_time(places: &Places, passed: Timestamp) -> Result<(), Error> {
    let kept = kept_time(places)?.unwrap_or(Timestamp::UNIX_EPOCH);
    if passed.duration_since(kept) < DAY {
        return Ok(());
    }
    Identity::open(places)?.write(TIME, format!("{}\n", passed.as_second()).as_bytes(), 0o600)
}

/// Where identity keeps the credentials that a reset brings back.
pub fn kubeconfig_place(places: &Places) -> PathBuf {
    places.identity().join(KEPT).join(KUBECONFIG)
}

/// What lies there; `None` where none were given.
///
/// # Errors
/// Where it cannot be read.
pub fn kept_kubeconfig(places: &Places) -> Result<Option<Vec<u8>>, Error> {
    let path = kubeconfig_place(places);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(durable::named(e, "read", &path).into()),
    }
}

/// Keeps newer ones in their place.
///
/// # Errors
/// Where identity cannot be written.
pub fn keep_kubeconfig(places: &Places, bytes: &[u8]) -> Result<(), Error> {
    Identity::open(places)?.write(&format!("{KEPT}/{KUBECONFIG}"), bytes, 0o600)
}

/// Forgets them: who leaves the cloud has left it after a reset too. Whether there were any.
///
/// # Errors
/// Where identity cannot be written.
pub fn forget_kubeconfig(places: &Places) -> Result<bool, Error> {
    if !kubeconfig_place(places).exists() {
        return Ok(false);
    }
    let mut intake = Intake::read(places);
    let identity = Identity::open(places)?;
    identity.remove(&format!("{KEPT}/{KUBECONFIG}"))?;
    intake.taken.remove(KUBECONFIG);
    intake.write(&identity)?;
    Ok(true)
}

impl From<crate::trust::Refusal> for Error {
    fn from(refusal: crate::trust::Refusal) -> Self {
        Self::Trust(refusal.into())
    }
}
