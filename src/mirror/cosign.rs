//! Signatures as cosign makes them with a key: a simple signing payload and its signature beside it, or, since cosign 3, a
//! Sigstore bundle with a statement in an envelope. Pure, and no network: transparency logs are not asked.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;

use crate::sys::digest::Digest;

/// The annotation of a layer that holds the signature of its bytes.
pub(super) const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// How the media types of Sigstore bundles begin; a version follows.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// What a statement is whose bundle is the signature of an image, and no attestation.
const SIGNS: &str = "https://sigstore.dev/cosign/sign/v1";

/// Whether this is the media type of a bundle.
pub(super) fn is_bundle(media_type: &str) -> bool {
    media_type.starts_with(BUNDLE)
}

/// A public key that images may have to be signed with.
pub(super) struct PublicKey {
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

#[derive(Deserialize)]
struct Bundle {
    #[serde(rename = "dsseEnvelope")]
    envelope: Option<Envelope>,
}

#[derive(Deserialize)]
struct Envelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "predicateType")]
    predicate_type: String,
    subject: Vec<Subject>,
}

#[derive(Deserialize)]
struct Subject {
    digest: BTreeMap<String, String>,
}

impl PublicKey {
    /// Reads `-----BEGIN PUBLIC KEY-----` of an elliptic curve key on P-256 or of an Ed25519 key.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn parse(pem: &[u8]) -> Result<Self, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem)
            .map_err(|_| "it is no public key in PEM hint: `cosign public-key` writes one".to_owned())?;
        let (_, info) =
            <x509_parser::x509::SubjectPublicKeyInfo<'_> as x509_parser::prelude::FromDer<_>>::from_der(&der)
                .map_err(|_| "its public key cannot be read".to_owned())?;
        let bytes = info.subject_public_key.data.to_vec();
        let algorithm: &'static dyn VerificationAlgorithm =
            match info.algorithm.algorithm.to_id_string().as_str() {
                "1.2.840.10045.2.1" if bytes.len() == 65 => &signature::ECDSA_P256_SHA256_ASN1,
                "1.3.101.112" => &signature::ED25519,
                _ => return Err("its key is neither of P-256 nor of Ed25519".into()),
            };
        Ok(Self { algorithm, bytes })
    }

    /// Whether `payload` is signed by this key, and says that the image is `image`.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn verify(&self, payload: &[u8], signature: &str, image: &Digest) -> Result<(), String> {
        self.holds(payload, signature)?;
        // Only now is the payload read.
        let payload: Payload =
            serde_json::from_slice(payload).map_err(|_| "what is signed is no image signature".to_owned())?;
        if payload.critical.kind != "cosign container image signature" {
            return Err(format!("what is signed is a `{}`", payload.critical.kind));
        }
        if payload.critical.image.digest != *image {
            return Err(format!("what is signed is `{}`", payload.critical.image.digest));
        }
        Ok(())
    }

    /// Whether a bundle is signed by this key, and says that the image is `image`.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn verify_bundle(&self, bundle: &[u8], image: &Digest) -> Result<(), String> {
        let bundle: Bundle =
            serde_json::from_slice(bundle).map_err(|_| "the bundle cannot be read".to_owned())?;
        let envelope = bundle.envelope.ok_or("the bundle holds no envelope")?;
        let payload =
            STANDARD.decode(&envelope.payload).map_err(|_| "its payload is not base64".to_owned())?;
        let kind = &envelope.payload_type;
        // The envelope's own encoding of what is signed (DSSE).
        let mut signed = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
        signed.extend_from_slice(&payload);
        let mut holds = Err("the bundle has no signature".to_owned());
        for signature in &envelope.signatures {
            holds = holds.or_else(|_| self.holds(&signed, &signature.sig));
        }
        holds?;
        // Only now is the payload read.
        let statement: Statement = serde_json::from_slice(&payload)
            .map_err(|_| "what is signed is no statement about an image".to_owned())?;
        if statement.predicate_type != SIGNS {
            return Err(format!("what is signed is a `{}`", statement.predicate_type));
        }
        let (algorithm, hex) = image.as_str().split_once(':').unwrap_or_default();
        if statement.subject.iter().any(|one| one.digest.get(algorithm).is_some_and(|is| is == hex)) {
            return Ok(());
        }
        Err("what is signed is another image".into())
    }

    /// Whether `signature`, in base64, is this key's over `signed`.
    fn holds(&self, signed: &[u8], signature: &str) -> Result<(), String> {
        let signature =
            STANDARD.decode(signature.trim()).map_err(|_| "the signature is not base64".to_owned())?;
        UnparsedPublicKey::new(self.algorithm, &self.bytes)
            .verify(signed, &signature)
            .map_err(|_| "the signature is not of this key".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};

    fn payload(digest: &Digest, kind: &str) -> Vec<u8> {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"q.io/a"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":null}}"#
        )
        .into_bytes()
    }

    #[test]
    fn only_this_key_over_this_image_holds() {
        let (image, other) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let kind = "cosign container image signature";
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ED25519] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            assert!(!pair.der_bytes().is_empty());
            let key = PublicKey::parse(pair.public_key_pem().as_bytes()).unwrap();
            let sign = |bytes: &[u8]| STANDARD.encode(pair.sign(bytes).unwrap());
            let good = payload(&image, kind);
            assert_eq!(key.verify(&good, &sign(&good), &image), Ok(()));
            assert!(key.verify(&good, &sign(&good), &other).unwrap_err().contains(image.as_str()));
            let attestation = payload(&image, "other");
            assert!(key.verify(&attestation, &sign(&attestation), &image).is_err());
            assert!(key.verify(&payload(&other, kind), &sign(&good), &other).is_err());
            assert!(key.verify(&good, "!", &image).is_err());
            let stranger = KeyPair::generate_for(algorithm).unwrap();
            let stranger = PublicKey::parse(stranger.public_key_pem().as_bytes()).unwrap();
            assert!(stranger.verify(&good, &sign(&good), &image).is_err());
        }
    }

    #[test]
    fn a_bundle_holds_for_this_key_and_this_image_alone_and_attestations_are_no_signatures() {
        let (image, other) = (Digest::sha256(b"a"), Digest::sha256(b"b"));
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let key = PublicKey::parse(pair.public_key_pem().as_bytes()).unwrap();
        let bundle = |kind: &str, signed_kind: &str, predicate: &str| {
            let statement = format!(
                r#"{{"_type":"https://in-toto.io/Statement/v1","subject":[{{"digest":{{"sha256":"{}"}}}}],"predicateType":"{predicate}","predicate":{{}}}}"#,
                image.hex()
            );
            let signed =
                format!("DSSEv1 {} {signed_kind} {} {statement}", signed_kind.len(), statement.len());
            let (payload, sig) =
                (STANDARD.encode(&statement), STANDARD.encode(pair.sign(signed.as_bytes()).unwrap()));
            format!(
                r#"{{"mediaType":"{BUNDLE}.v0.3+json","dsseEnvelope":{{"payload":"{payload}","payloadType":"{kind}","signatures":[{{"sig":"AAAA"}},{{"sig":"{sig}"}}]}}}}"#
            )
        };
        let kind = "application/vnd.in-toto+json";
        let good = bundle(kind, kind, SIGNS);
        assert_eq!(key.verify_bundle(good.as_bytes(), &image), Ok(()));
        assert!(key.verify_bundle(good.as_bytes(), &other).unwrap_err().contains("another image"));
        let attestation = bundle(kind, kind, "https://spdx.dev/Document");
        assert!(key.verify_bundle(attestation.as_bytes(), &image).unwrap_err().contains("spdx"));
        let other_kind = bundle("text/plain", kind, SIGNS);
        assert!(key.verify_bundle(other_kind.as_bytes(), &image).unwrap_err().contains("not of this key"));
        let stranger = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let stranger = PublicKey::parse(stranger.public_key_pem().as_bytes()).unwrap();
        assert!(stranger.verify_bundle(good.as_bytes(), &image).is_err());
        for bad in ["", "{}", r#"{"dsseEnvelope":{"payload":"","payloadType":"x","signatures":[]}}"#] {
            assert!(key.verify_bundle(bad.as_bytes(), &image).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_key_is_said() {
        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem();
        for pem in ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", p384.as_str()] {
            assert!(PublicKey::parse(pem.as_bytes()).is_err(), "{pem}");
        }
    }
}
