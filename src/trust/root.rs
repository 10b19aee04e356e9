//! The root: which keys may sign what. Version N + 1 is believed where the thresholds of both N and N + 1 signed it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::envelope::Envelope;
use super::key::{KeyId, PublicKey};
use super::{Refusal, Verified, strict};

/// The largest root file, in bytes.
pub const LARGEST_ROOT: u64 = 256 << 10;
/// What a root is signed as.
pub const ROOT_TYPE: &str = "application/vnd.edge.root.v1+json";
/// The format that this edge writes and reads.
const FORMAT: &str = "edge-root 1";

/// The content of `N.root.json`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub struct Root {
    format: String,
    /// From 1, without gaps.
    pub version: u64,
    /// When it was made. Signed by the root keys, so this time has passed.
    pub created: Timestamp,
    /// When it is no longer to be used.
    pub expires: Option<Timestamp>,
    /// The public keys by their names.
    keys: BTreeMap<String, String>,
    /// Who may sign roots.
    root: Role,
    /// Who may sign bundles.
    bundle: Role,
}

/// Keys, and how many of them must sign.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Role {
    /// Their names.
    pub keys: BTreeSet<String>,
    /// How many of them.
    pub threshold: u32,
}

/// What a role may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoleName {
    /// Roots.
    Root,
    /// Bundles.
    Bundle,
}

impl Root {
    /// A root of these keys; it holds nothing until it is signed.
    ///
    /// # Errors
    /// [`Refusal::Root`] for a threshold that cannot be met.
    pub fn new(
        version: u64,
        created: Timestamp,
        expires: Option<Timestamp>,
        root: (&[PublicKey], u32),
        bundle: (&[PublicKey], u32),
    ) -> Result<Self, Refusal> {
        let role = |(keys, threshold): (&[PublicKey], u32)| Role {
            keys: keys.iter().map(|key| key.id().as_str().to_owned()).collect(),
            threshold,
        };
        let all = root.0.iter().chain(bundle.0);
        let made = Self {
            format: FORMAT.into(),
            version,
            created,
            expires,
            keys: all.map(|key| (key.id().as_str().to_owned(), key.text())).collect(),
            root: role(root),
            bundle: role(bundle),
        };
        made.check()?;
        Ok(made)
    }

    /// An envelope of it to be signed.
    pub fn envelope(&self) -> Envelope {
        Envelope::unsigned(ROOT_TYPE, &serde_json::to_vec(self).unwrap_or_default())
    }

    /// A role's keys and threshold.
    pub fn role(&self, name: RoleName) -> &Role {
        match name {
            RoleName::Root => &self.root,
            RoleName::Bundle => &self.bundle,
        }
    }

    /// A role's public keys by their names.
    pub fn keys(&self, name: RoleName) -> BTreeMap<KeyId, PublicKey> {
        let role = self.role(name);
        let keys = self.keys.iter().filter(|(id, _)| role.keys.contains(*id));
        keys.filter_map(|(_, text)| PublicKey::parse(text)).map(|key| (key.id(), key)).collect()
    }

    /// Refuses a root that contradicts itself.
    fn check(&self) -> Result<(), Refusal> {
        let fault = |why: String| Refusal::Root { version: self.version, why };
        if self.format != FORMAT {
            return Err(fault(format!("its format is not `{FORMAT}`")));
        }
        if self.version == 0 {
            return Err(fault("versions begin with 1".into()));
        }
        for (id, text) in &self.keys {
            // A key under a name that is not its own could be counted twice.
            if PublicKey::parse(text).is_none_or(|key| key.id().as_str() != id) {
                return Err(fault(format!(
                    "the key `{}` is none, or has another's name",
                    id.get(..16).unwrap_or(id)
                )));
            }
        }
        for (name, role) in [("root", &self.root), ("bundle", &self.bundle)] {
            if role.threshold == 0 || role.threshold as usize > role.keys.len() {
                return Err(fault(format!(
                    "{} of {} `{name}` keys cannot sign",
                    role.threshold,
                    role.keys.len()
                )));
            }
            if role.keys.iter().any(|id| !self.keys.contains_key(id)) {
                return Err(fault(format!("a `{name}` key is named and not given")));
            }
        }
        Ok(())
    }
}

impl Verified<Root> {
    /// Believes a root because a person says so: it must be signed by its own threshold.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn pinned(bytes: &[u8], what: &str) -> Result<Self, Refusal> {
        let (root, envelope) = read(bytes, what)?;
        envelope.open(what, ROOT_TYPE, &root.keys(RoleName::Root), root.root.threshold)?;
        Ok(Verified::new(root, bytes))
    }

    /// Believes the next version because this one's threshold signed it, and its own.
    ///
    /// # Errors
    /// [`Refusal::RootOrder`] for any other version, [`Refusal::Threshold`].
    pub fn next(&self, bytes: &[u8], what: &str) -> Result<Self, Refusal> {
        let (root, envelope) = read(bytes, what)?;
        if root.version != self.version + 1 {
            return Err(Refusal::RootOrder { pinned: self.version, found: root.version });
        }
        envelope.open(what, ROOT_TYPE, &self.keys(RoleName::Root), self.root.threshold)?;
        envelope.open(what, ROOT_TYPE, &root.keys(RoleName::Root), root.root.threshold)?;
        Ok(Verified::new(root, bytes))
    }

    /// Opens what the bundle keys signed as a `payload_type`. `most` is the size of `bytes`.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn open<T: DeserializeOwned>(
        &self,
        bytes: &[u8],
        what: &str,
        payload_type: &'static str,
        most: u64,
    ) -> Result<Verified<T>, Refusal> {
        let envelope = Envelope::parse(bytes, what, most)?;
        let payload =
            envelope.open(what, payload_type, &self.keys(RoleName::Bundle), self.bundle.threshold)?;
        Ok(Verified::new(strict::parse(&payload, what, most)?, bytes))
    }

    /// Refuses a root whose time is over, judged by a time that has certainly passed.
    ///
    /// # Errors
    /// [`Refusal::RootExpired`].
    pub fn check_time(&self, passed: Timestamp) -> Result<(), Refusal> {
        match self.expires.filter(|expires| *expires < passed) {
            Some(expires) => Err(Refusal::RootExpired { version: self.version, expires }),
            None => Ok(()),
        }
    }
}

/// A root file as it stands, for `edge trust show` and ceremonies: nothing in it is believed yet.
#[derive(Debug)]
pub struct Draft {
    /// What it says.
    pub root: Root,
    envelope: Envelope,
}

impl Draft {
    /// Reads a root file, signed or not.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], [`Refusal::Root`].
    pub fn read(bytes: &[u8], what: &str) -> Result<Self, Refusal> {
        let (root, envelope) = read(bytes, what)?;
        Ok(Self { root, envelope })
    }

    /// A new root that nobody has signed.
    pub fn new(root: Root) -> Self {
        Self { envelope: root.envelope(), root }
    }

    /// The envelope, to be signed.
    pub fn envelope_mut(&mut self) -> &mut Envelope {
        &mut self.envelope
    }

    /// The file's content.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.envelope.to_bytes()
    }

    /// Which of the root keys of `by` (this root, or the one before it) have signed.
    pub fn signers(&self, by: &Root) -> BTreeSet<KeyId> {
        let payload = self.envelope.payload("root").unwrap_or_default();
        self.envelope.signers(&payload, &by.keys(RoleName::Root))
    }
}

/// Whether two root files say the same, whoever has signed each. Nothing in them is believed for that.
pub(super) fn say_the_same(one: &[u8], other: &[u8]) -> bool {
    let read = |bytes| Envelope::parse(bytes, "root", LARGEST_ROOT);
    match (read(one), read(other)) {
        (Ok(one), Ok(other)) => match (one.content("root"), other.content("root")) {
            (Ok(one), Ok(other)) => one == other,
            _ => false,
        },
        _ => false,
    }
}

fn read(bytes: &[u8], what: &str) -> Result<(Root, Envelope), Refusal> {
    let envelope = Envelope::parse(bytes, what, LARGEST_ROOT)?;
    let root: Root = strict::parse(&envelope.payload(what)?, what, LARGEST_ROOT)?;
    root.check()?;
    Ok((root, envelope))
}
