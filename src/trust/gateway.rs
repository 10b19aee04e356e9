//! Gateways' own keys: a gateway signs what it says of itself, and a depot believes those that it enrolled.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::envelope::Envelope;
use super::key::{PublicKey, SecretKey};
use super::{AnchorError, KeyError, Refusal, Verified, strict};
use crate::sys::durable;

/// Seals `payload` with one key.
///
/// # Errors
/// [`Refusal::Malformed`] for a payload that is no JSON.
pub fn seal(payload: &impl Serialize, payload_type: &str, key: &SecretKey) -> Result<Vec<u8>, Refusal> {
    let bytes = serde_json::to_vec(payload)
        .map_err(|e| Refusal::Malformed { what: payload_type.into(), why: e.to_string() })?;
    let mut envelope = Envelope::unsigned(payload_type, &bytes);
    envelope.sign(key)?;
    Ok(envelope.to_bytes())
}

/// Opens what one known key sealed.
///
/// # Errors
/// [`Refusal::UnknownKey`] where it was another.
pub fn open<T: DeserializeOwned>(
    bytes: &[u8],
    what: &str,
    payload_type: &'static str,
    most: u64,
    key: &PublicKey,
) -> Result<Verified<T>, Refusal> {
    let envelope = Envelope::parse(bytes, what, most)?;
    let keys = [(key.id(), key.clone())].into();
    let payload = envelope.open(what, payload_type, &keys, 1)?;
    Ok(Verified::new(strict::parse(&payload, what, most)?, bytes))
}

/// Reads a document that claims to be of `payload_type` without believing it; for the moment in which a person
/// vouches for the key that is named in it.
///
/// # Errors
/// [`Refusal`].
pub fn peek<T: DeserializeOwned>(bytes: &[u8], what: &str, most: u64) -> Result<T, Refusal> {
    let envelope = Envelope::parse(bytes, what, most)?;
    strict::parse(&envelope.payload(what)?, what, most)
}

/// The gateways whose receipts a depot believes: one file each, `<gateway>.pub`.
#[derive(Clone, Debug)]
pub struct Enrolled {
    folder: PathBuf,
}

impl Enrolled {
    /// Below the state folder.
    pub fn below(state_folder: &Path) -> Self {
        Self { folder: state_folder.join("trust/gateways") }
    }

    /// The key of `gateway`, if it is enrolled.
    ///
    /// # Errors
    /// Where its file cannot be read, or holds no key: that is not the same as none, after which another would be taken.
    pub fn key(&self, gateway: &str) -> Result<Option<PublicKey>, AnchorError> {
        let path = self.file(gateway);
        match std::fs::read_to_string(&path) {
            Ok(text) => match PublicKey::parse(&text) {
                Some(key) => Ok(Some(key)),
                None => Err(AnchorError::Enrolment { gateway: gateway.to_owned(), path }),
            },
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(AnchorError::Files(durable::named(e, "read", &path))),
        }
    }

    /// Enrols a gateway. The same key again changes nothing.
    ///
    /// # Errors
    /// [`Refusal::OtherKey`] where it is known with another one.
    pub fn enrol(&self, gateway: &str, key: &PublicKey) -> Result<(), AnchorError> {
        if let Some(known) = self.key(gateway)? {
            if known == *key {
                return Ok(());
            }
            return Err(Refusal::OtherKey {
                gateway: gateway.into(),
                known: known.id(),
                found: key.id(),
                file: self.file(gateway),
            }
            .into());
        }
        durable::folder(&self.folder, 0o700).map_err(AnchorError::Files)?;
        durable::write(&self.file(gateway), format!("{}\n", key.text()).as_bytes(), 0o600)
            .map_err(AnchorError::Files)
    }

    /// All enrolled gateways in order.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn list(&self) -> Result<Vec<(String, PublicKey)>, AnchorError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(AnchorError::Files(durable::named(e, "list", &self.folder))),
        };
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(gateway) = name.to_str().and_then(|name| name.strip_suffix(".pub")) else { continue };
            if let Some(key) = self.key(gateway)? {
                found.push((gateway.to_owned(), key));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    fn file(&self, gateway: &str) -> PathBuf {
        self.folder.join(format!("{gateway}.pub"))
    }
}

/// This gateway's own key, made when it is first needed.
///
/// # Errors
/// [`KeyError`].
pub fn own_key(state_folder: &Path) -> Result<SecretKey, KeyError> {
    SecretKey::read_or_make(&state_folder.join("trust/gateway.key"))
}

/// Whether a text can name a gateway, a fleet or a stream: it becomes part of file names on FAT.
pub fn is_name(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| word(b) || b == b'-' || b == b'.')
        && text.bytes().next().is_some_and(word)
        && text.bytes().last().is_some_and(word)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_enrolment_is_told_and_no_other_key_is_taken_in_its_place() {
        let state = tempfile::tempdir().unwrap();
        let enrolled = Enrolled::below(state.path());
        let keys: Vec<PublicKey> = ["one", "two"]
            .iter()
            .map(|name| SecretKey::read_or_make(&state.path().join(name)).unwrap().public())
            .collect();
        enrolled.enrol("ship-7", &keys[0]).unwrap();
        let file = state.path().join("trust/gateways/ship-7.pub");
        for damaged in ["", "no key\n", "AAAA"] {
            std::fs::write(&file, damaged).unwrap();
            let told = |error: AnchorError| {
                let text = error.to_string();
                assert!(text.contains(&format!("`{}`", file.display())) && text.contains("hint: "), "{text}");
            };
            told(enrolled.key("ship-7").unwrap_err());
            told(enrolled.list().unwrap_err());
            // Neither its own key nor another one.
            told(enrolled.enrol("ship-7", &keys[1]).unwrap_err());
            told(enrolled.enrol("ship-7", &keys[0]).unwrap_err());
            assert_eq!(std::fs::read_to_string(&file).unwrap(), damaged);
        }
        std::fs::remove_file(&file).unwrap();
        enrolled.enrol("ship-7", &keys[0]).unwrap();
        assert_eq!(enrolled.key("ship-7").unwrap(), Some(keys[0].clone()));
    }
}
