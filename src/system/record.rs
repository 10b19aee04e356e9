//! `system.json` on identity: what is known of the slots beside their boot entries.
//!
//! `{"format": 1, "highest": 2, "slots": {"a": {"number": 1, "version": "1.0", "stream": "main", "seq": 4,
//! "manifest-digest": "sha256:...", "state": "good", "verity-uuid": "...", "reason": null}}}`

use std::collections::BTreeMap;
use std::io::ErrorKind;

use serde::{Deserialize, Serialize};

use super::entry::VerityId;
use super::identity::Identity;
use super::slot::{Slot, State};
use super::{Error, Places};
use crate::sys::digest::Digest;
use crate::sys::durable;

/// The largest that is read, in bytes.
const LARGEST: u64 = 64 << 10;

/// What is known of the slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Record {
    /// Of this file: 1.
    pub format: u32,
    /// The highest number that an entry ever had.
    #[serde(default)]
    pub highest: u64,
    /// By slot.
    #[serde(default)]
    pub slots: BTreeMap<Slot, Recorded>,
}

/// What is known of one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Recorded {
    /// Its entry's number.
    pub number: u64,
    /// The image's version, for people.
    #[serde(default)]
    pub version: String,
    /// The bundle's stream that brought it; `None` where it came with the card.
    #[serde(default)]
    pub stream: Option<String>,
    /// The bundle's number.
    #[serde(default)]
    pub seq: Option<u64>,
    /// The bundle's manifest.
    #[serde(default)]
    pub manifest_digest: Option<Digest>,
    /// How it was when this was written.
    pub state: State,
    /// The id of its hash tree.
    pub verity_uuid: String,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<String>,
    /// What its boot partition or the file of its boot entry holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<Sum>,
}

/// Bytes by their digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Of all of them.
    pub digest: Digest,
    /// How many.
    pub size: u64,
}

impl Recorded {
    /// What was never noted: a system of this number and hash tree, of which nothing else is known.
    pub fn unknown(number: u64, verity_uuid: String) -> Self {
        Self {
            number,
            version: String::new(),
            stream: None,
            seq: None,
            manifest_digest: None,
            state: State::Trying,
            verity_uuid,
            reason: None,
            boot: None,
        }
    }

    /// The id of its hash tree.
    pub fn verity(&self) -> Option<VerityId> {
        VerityId::parse(&self.verity_uuid)
    }
}

impl Record {
    /// Reads it; nothing is known where there is none. A damaged one counts as none, and says so in the log: the boot
    /// entries say what matters.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(places: &Places) -> Result<Self, Error> {
        use std::io::Read as _;
        let path = places.record();
        let mut bytes = Vec::new();
        match std::fs::File::open(&path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(e) => return Err(durable::named(e, "read", &path).into()),
        }
        match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(record),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "what was noted of the slots is damaged: their boot entries are believed");
                Ok(Self::default())
            }
        }
    }

    /// Writes it durably.
    ///
    /// # Errors
    /// Where identity cannot be written.
    pub fn write(&mut self, identity: &Identity<'_>) -> Result<(), Error> {
        self.format = 1;
        let numbers = self.slots.values().map(|slot| slot.number);
        self.highest = numbers.max().unwrap_or(0).max(self.highest);
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        identity.write("system.json", &bytes, 0o600)
    }
}
