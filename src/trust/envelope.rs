//! DSSE: a payload, what it is, and who vouches for both.
//!
//! What is signed is the pre-authentication encoding of the payload's type and its exact bytes
//! (<https://github.com/secure-systems-lab/dsse/blob/master/protocol.md>), so nothing is ever made canonical.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::key::{KeyId, PublicKey, SecretKey};
use super::{Refusal, strict};

/// Signatures that are looked at in one envelope.
const MOST_SIGNATURES: usize = 64;

/// An envelope whose signatures nobody has looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<Signed>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    keyid: String,
    sig: String,
}

impl Envelope {
    /// An envelope of `payload` that nobody has signed yet.
    pub fn unsigned(payload_type: &str, payload: &[u8]) -> Self {
        Self { payload_type: payload_type.into(), payload: STANDARD.encode(payload), signatures: Vec::new() }
    }

    /// Adds the signature of `key`, in place of one that it has made before.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] where the payload is no base64.
    pub fn sign(&mut self, key: &SecretKey) -> Result<(), Refusal> {
        let signature = key.sign(&pae(&self.payload_type, &self.payload("envelope")?));
        let keyid = key.public().id().as_str().to_owned();
        self.signatures.retain(|signed| signed.keyid != keyid);
        self.signatures.push(Signed { keyid, sig: STANDARD.encode(signature) });
        Ok(())
    }

    /// The envelope as a file holds it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads an envelope of at most `most` bytes; `what` names it in a refusal.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Malformed`].
    pub fn parse(bytes: &[u8], what: &str, most: u64) -> Result<Self, Refusal> {
        let envelope: Self = strict::parse(bytes, what, most)?;
        if envelope.signatures.len() > MOST_SIGNATURES {
            let why = format!("it has more than {MOST_SIGNATURES} signatures");
            return Err(Refusal::Malformed { what: what.into(), why });
        }
        Ok(envelope)
    }

    /// The payload, if enough of `keys` vouch for it as a `wanted`. A key that signs twice counts once.
    ///
    /// # Errors
    /// [`Refusal::PayloadType`], [`Refusal::Threshold`].
    pub(super) fn open(
        &self,
        what: &str,
        wanted: &'static str,
        keys: &BTreeMap<KeyId, PublicKey>,
        threshold: u32,
    ) -> Result<Vec<u8>, Refusal> {
        if self.payload_type != wanted {
            let found = self.payload_type.chars().take(100).collect();
            return Err(Refusal::PayloadType { what: what.into(), found, wanted });
        }
        let payload = self.payload(what)?;
        let found = self.signers(&payload, keys).len();
        if found < threshold.max(1) as usize {
            return Err(Refusal::Threshold { what: what.into(), found, needed: threshold.max(1) });
        }
        Ok(payload)
    }

    /// Which of `keys` vouch for it.
    pub(super) fn signers(&self, payload: &[u8], keys: &BTreeMap<KeyId, PublicKey>) -> BTreeSet<KeyId> {
        let message = pae(&self.payload_type, payload);
        let mut found = BTreeSet::new();
        for (id, key) in keys {
            let mut theirs = self.signatures.iter().filter(|signed| signed.keyid == id.as_str());
            let holds = |signed: &Signed| {
                STANDARD.decode(&signed.sig).is_ok_and(|signature| key.verifies(&message, &signature))
            };
            if theirs.any(holds) {
                found.insert(id.clone());
            }
        }
        found
    }

    /// What is signed, without any check: the payload's type, and the payload.
    pub(super) fn content(&self, what: &str) -> Result<(&str, Vec<u8>), Refusal> {
        Ok((&self.payload_type, self.payload(what)?))
    }

    /// The payload without any check; for what is checked next.
    pub(super) fn payload(&self, what: &str) -> Result<Vec<u8>, Refusal> {
        let decoded = STANDARD.decode(&self.payload);
        decoded.map_err(|e| Refusal::Malformed { what: what.into(), why: format!("its payload: {e}") })
    }
}

/// `DSSEv1 LEN(type) type LEN(body) body`.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut message = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    message.extend_from_slice(payload);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(of: &[&SecretKey]) -> BTreeMap<KeyId, PublicKey> {
        of.iter().map(|key| (key.public().id(), key.public())).collect()
    }

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        let expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
        assert_eq!(pae("http://example.com/HelloWorld", b"hello world"), expected);
    }

    #[test]
    fn a_threshold_counts_keys_and_not_signatures() {
        let (one, two) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let known = keys(&[&one, &two]);
        let mut envelope = Envelope::unsigned("t", b"payload");
        assert!(matches!(envelope.open("x", "t", &known, 1), Err(Refusal::Threshold { found: 0, .. })));
        envelope.sign(&one).unwrap();
        assert_eq!(envelope.open("x", "t", &known, 1).unwrap(), b"payload");
        let again = envelope.signatures[0].clone();
        envelope.signatures.push(again);
        assert!(matches!(envelope.open("x", "t", &known, 2), Err(Refusal::Threshold { found: 1, .. })));
        // The same signature under another key's name is worth nothing.
        envelope.signatures[1].keyid = two.public().id().as_str().to_owned();
        assert!(matches!(envelope.open("x", "t", &known, 2), Err(Refusal::Threshold { found: 1, .. })));
        envelope.signatures.pop();
        envelope.sign(&two).unwrap();
        assert!(envelope.open("x", "t", &known, 2).is_ok());
        assert!(matches!(envelope.open("x", "u", &known, 2), Err(Refusal::PayloadType { .. })));
        envelope.payload = STANDARD.encode(b"other");
        assert!(matches!(envelope.open("x", "t", &known, 1), Err(Refusal::Threshold { found: 0, .. })));
    }
}
