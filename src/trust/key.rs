//! Ed25519 keys: made, kept in files (PKCS #8, PEM, as openssl reads them), named by the hash of what is public.

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _, KeypairBytes};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use pkcs8::LineEnding;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::KeyError;
use crate::sys::digest::Digest;
use crate::sys::durable;

/// The name of a key: 64 hex digits, the SHA-256 of its 32 public bytes. So one key has one name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The first 16 digits are enough to tell a person's keys apart.
        f.write_str(self.0.get(..16).unwrap_or(&self.0))
    }
}

/// The public half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads what [`PublicKey::text`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 32] = STANDARD.decode(text.trim()).ok()?.try_into().ok()?;
        let key = VerifyingKey::from_bytes(&bytes).ok()?;
        // A weak key would hold for more than one message.
        (!key.is_weak()).then_some(Self(key))
    }

    /// Its 32 bytes in base64.
    pub fn text(&self) -> String {
        STANDARD.encode(self.0.as_bytes())
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        KeyId(Digest::sha256(self.0.as_bytes()).hex().to_owned())
    }

    /// Whether `signature` (64 bytes) is this key's for exactly `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let signature = Signature::from_slice(signature);
        signature.is_ok_and(|signature| self.0.verify_strict(message, &signature).is_ok())
    }
}

/// A key that signs. Its memory is wiped when it goes.
pub struct SecretKey(SigningKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({})", self.public().id())
    }
}

impl SecretKey {
    /// A new one.
    ///
    /// # Errors
    /// [`KeyError::Randomness`] where the machine has none.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| KeyError::Randomness)?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).to_bytes().to_vec()
    }

    /// Keeps it in a file that only its owner reads (0600), encrypted where a passphrase is given
    /// (scrypt and AES-256, as `openssl pkcs8` reads it).
    ///
    /// # Errors
    /// [`KeyError::Exists`] rather than replacing a key, [`KeyError::Files`].
    pub fn write(&self, path: &Path, passphrase: Option<&[u8]>) -> Result<(), KeyError> {
        if path.exists() {
            return Err(KeyError::Exists(path.to_owned()));
        }
        // Without the public half it is PKCS #8 of version 1, which every openssl reads.
        let pair = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        let pem = match passphrase {
            Some(passphrase) => pair.to_pkcs8_encrypted_pem(passphrase, LineEnding::LF),
            None => pair.to_pkcs8_pem(LineEnding::LF),
        };
        let pem = pem.map_err(|e| KeyError::Format { path: path.to_owned(), why: e.to_string() })?;
        durable::write(path, pem.as_bytes(), 0o600).map_err(KeyError::Files)
    }

    /// Reads it back. A passphrase that a plain key does not need is no error.
    ///
    /// # Errors
    /// [`KeyError::Passphrase`] where one is missing or wrong.
    pub fn read(path: &Path, passphrase: Option<&[u8]>) -> Result<Self, KeyError> {
        let text =
            std::fs::read_to_string(path).map_err(|e| KeyError::Files(durable::named(e, "read", path)))?;
        let wrong = |why: &'static str| KeyError::Passphrase { path: path.to_owned(), why };
        let key = if text.contains("BEGIN ENCRYPTED PRIVATE KEY") {
            let passphrase = passphrase.ok_or_else(|| wrong("needs a passphrase"))?;
            SigningKey::from_pkcs8_encrypted_pem(&text, passphrase)
                .map_err(|_| wrong("cannot be opened with this passphrase"))?
        } else {
            SigningKey::from_pkcs8_pem(&text)
                .map_err(|e| KeyError::Format { path: path.to_owned(), why: e.to_string() })?
        };
        Ok(Self(key))
    }

    /// Reads the one at `path`, or makes and keeps it.
    ///
    /// # Errors
    /// As [`SecretKey::read`] and [`SecretKey::write`].
    pub fn read_or_make(path: &Path) -> Result<Self, KeyError> {
        if path.exists() {
            return Self::read(path, None);
        }
        let key = Self::generate()?;
        if let Some(folder) = path.parent() {
            durable::folder(folder, 0o700).map_err(KeyError::Files)?;
        }
        key.write(path, None)?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_file_is_for_its_owner_and_its_passphrase() {
        let folder = tempfile::tempdir().unwrap();
        let key = SecretKey::generate().unwrap();
        let (plain, sealed) = (folder.path().join("plain.key"), folder.path().join("sealed.key"));
        key.write(&plain, None).unwrap();
        key.write(&sealed, Some(b"correct horse")).unwrap();
        assert!(matches!(key.write(&plain, None), Err(KeyError::Exists(_))));
        for path in [&plain, &sealed] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
            let read = SecretKey::read(path, Some(b"correct horse")).unwrap();
            assert_eq!(read.public(), key.public());
        }
        assert!(!std::fs::read_to_string(&sealed).unwrap().contains("BEGIN PRIVATE"));
        let error = SecretKey::read(&sealed, None).unwrap_err().to_string();
        assert!(error.contains("needs a passphrase"), "{error}");
        assert!(SecretKey::read(&sealed, Some(b"wrong")).is_err());
    }

    #[test]
    fn signatures_hold_for_their_message_and_key_only() {
        let (key, other) = (SecretKey::generate().unwrap(), SecretKey::generate().unwrap());
        let signature = key.sign(b"message");
        assert!(key.public().verifies(b"message", &signature));
        assert!(!key.public().verifies(b"massage", &signature));
        assert!(!other.public().verifies(b"message", &signature));
        assert!(!key.public().verifies(b"message", &signature[..63]));
        assert_eq!(PublicKey::parse(&key.public().text()).unwrap().id(), key.public().id());
    }

    #[test]
    fn weak_keys_are_none() {
        assert!(PublicKey::parse(&STANDARD.encode([0; 32])).is_none());
        assert!(PublicKey::parse(&STANDARD.encode([1; 31])).is_none());
    }
}
