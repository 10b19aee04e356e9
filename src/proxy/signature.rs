//! Checks the signature of a JSON web token against one key of the cloud's token issuer.
//!
//! Of RFC 7515 what Kubernetes signs with: RS256, ES256 and ES384. ring does the mathematics, and has none for the ES512 of
//! a key on P-521: its tokens hold offline as far as the cloud took them before. Expiry and claims are not looked at; what
//! they mean offline is for `caller` to say.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature;
use serde::Deserialize;

/// A public key as a JSON web key (RFC 7517).
#[derive(Debug, Deserialize)]
#[serde(tag = "kty")]
enum Key {
    #[serde(rename = "RSA")]
    Rsa { n: String, e: String },
    #[serde(rename = "EC")]
    Ec { crv: String, x: String, y: String },
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

/// The id of the key that signed `token`, as its header says.
pub fn key_id(token: &str) -> Option<String> {
    header(token)?.kid
}

/// Whether `token` was signed by the key `jwk`.
pub fn holds(token: &str, jwk: &str) -> bool {
    verify(token, jwk).is_some()
}

fn verify(token: &str, jwk: &str) -> Option<()> {
    let (signed, signature) = token.rsplit_once('.')?;
    let signature = bytes(signature)?;
    match (header(token)?.alg.as_str(), serde_json::from_str(jwk).ok()?) {
        ("RS256", Key::Rsa { n, e }) => {
            let key = signature::RsaPublicKeyComponents { n: bytes(&n)?, e: bytes(&e)? };
            let algorithm = &signature::RSA_PKCS1_2048_8192_SHA256;
            key.verify(algorithm, signed.as_bytes(), &signature).ok()
        }
        (algorithm, Key::Ec { crv, x, y }) => {
            let algorithm = match (algorithm, crv.as_str()) {
                ("ES256", "P-256") => &signature::ECDSA_P256_SHA256_FIXED,
                ("ES384", "P-384") => &signature::ECDSA_P384_SHA384_FIXED,
                _ => return None,
            };
            let point = [vec![4], bytes(&x)?, bytes(&y)?].concat();
            let key = signature::UnparsedPublicKey::new(algorithm, point);
            key.verify(signed.as_bytes(), &signature).ok()
        }
        _ => None,
    }
}

fn header(token: &str) -> Option<Header> {
    serde_json::from_slice(&bytes(token.split('.').next()?)?).ok()
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

#[cfg(test)]
pub mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    };

    use super::*;

    /// An issuer of tokens whose key's id is `k`.
    pub struct Signer(EcdsaKeyPair);

    impl Signer {
        pub fn new() -> Self {
            let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            Self(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap())
        }

        /// Its public key as a JSON web key.
        pub fn jwk(&self) -> String {
            let point = self.0.public_key().as_ref();
            let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            serde_json::json!({"kty": "EC", "crv": "P-256", "kid": "k",
                "x": text(&point[1..33]), "y": text(&point[33..])})
            .to_string()
        }

        /// A token.
        pub fn sign(&self, claims: &str) -> String {
            let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
            let head = format!("{}.{}", text(br#"{"alg":"ES256","kid":"k"}"#), text(claims.as_bytes()));
            let signature = self.0.sign(&SystemRandom::new(), head.as_bytes()).unwrap();
            format!("{head}.{}", text(signature.as_ref()))
        }
    }

    #[test]
    fn a_key_on_the_larger_curve_signs_with_the_longer_hash() {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P384_SHA384_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = pair.public_key().as_ref();
        let jwk = |curve: &str| {
            serde_json::json!({"kty": "EC", "crv": curve, "x": text(&point[1..49]), "y": text(&point[49..])})
                .to_string()
        };
        let token = |algorithm: &str| {
            let head = format!(r#"{{"alg":"{algorithm}","kid":"k"}}"#);
            let signed = format!("{}.{}", text(head.as_bytes()), text(b"{}"));
            let signature = pair.sign(&random, signed.as_bytes()).unwrap();
            format!("{signed}.{}", text(signature.as_ref()))
        };
        assert!(holds(&token("ES384"), &jwk("P-384")));
        assert!(!holds(&token("ES256"), &jwk("P-384")), "a key signs with the hash of its curve");
        assert!(!holds(&token("ES384"), &jwk("P-256")));
    }

    #[test]
    fn holds_for_the_key_and_the_very_bytes_only() {
        let (signer, other) = (Signer::new(), Signer::new());
        let (jwk, token, other) = (signer.jwk(), signer.sign("{}"), other.jwk());
        assert_eq!(key_id(&token).as_deref(), Some("k"));
        assert!(holds(&token, &jwk));
        assert!(!holds(&token, &other));
        assert!(!holds(&token.replacen("e30", "e31", 1), &jwk));
        let none = format!("{}.e30.", URL_SAFE_NO_PAD.encode(br#"{"alg":"none","kid":"k"}"#));
        assert!(!holds(&none, &jwk));
    }
}
