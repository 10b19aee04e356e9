//! Asks the cloud to sign a client certificate for this node, and waits until it has.
//!
//! The name of the request is derived from its key, so that whoever asks again with the same key
//! finds the request that is already there. Decides nothing about when to ask or where to keep the outcome.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::api::{self, Api};
use super::cloud::{self, ClientCertificate};

/// The signer of kubelets' client certificates.
pub const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Where signing requests live.
pub const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum Error {
    #[error(transparent)]
    Api(#[from] api::Error),
    #[error("the key of the open signing request is damaged: {0}")]
    Key(String),
    #[error("cannot make a signing request: {0}")]
    Make(String),
    #[error(
        "the cloud denied the signing request `{name}`: {reason} hint: ask its operator; `kubectl describe csr {name}` says more"
    )]
    Denied { name: String, reason: String },
    #[error("the cloud could not sign the request `{name}`: {reason}")]
    Failed { name: String, reason: String },
    #[error(
        "the signing request `{name}` was not answered in time: {reason} hint: approve it with `kubectl certificate approve {name}` and run this again; it goes on where it stopped"
    )]
    Deadline { name: String, reason: String },
    #[error("the certificate that the cloud issued for `{name}` {why}")]
    Foreign { name: String, why: &'static str },
    #[error("the certificate that the cloud issued for `{name}` cannot be read")]
    Unreadable { name: String, source: cloud::Error },
}

impl Error {
    /// Whether the request itself has come to its end, so that another needs another key.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Denied { .. }
                | Self::Failed { .. }
                | Self::Foreign { .. }
                | Self::Unreadable { .. }
                | Self::Key(_)
        )
    }
}

/// A request that can be sent.
pub struct Asked {
    /// The name of the CertificateSigningRequest object.
    pub name: String,
    node: String,
    key: KeyPair,
    csr_pem: String,
}

impl Asked {
    /// A request for `node` with a new key.
    ///
    /// # Errors
    /// No randomness.
    pub fn new(node: &str) -> Result<Self, Error> {
        Self::with(node, KeyPair::generate().map_err(making)?)
    }

    /// The request that was made with this key before.
    ///
    /// # Errors
    /// [`Error::Key`] if it is none.
    pub fn again(node: &str, key_pem: &str) -> Result<Self, Error> {
        Self::with(node, KeyPair::from_pem(key_pem).map_err(|e| Error::Key(e.to_string()))?)
    }

    /// The key, PEM. A secret.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    fn with(node: &str, key: KeyPair) -> Result<Self, Error> {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "system:nodes");
        subject.push(DnType::CommonName, format!("system:node:{node}"));
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        let csr_pem = params.serialize_request(&key).and_then(|csr| csr.pem()).map_err(making)?;
        let mut hash = Sha256::new();
        hash.update(key.subject_public_key_info());
        hash.update(node);
        let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { name: format!("node-csr-{digest}"), node: node.to_owned(), key, csr_pem })
    }

    fn object(&self) -> Value {
        json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": { "name": self.name },
            "spec": {
                "request": STANDARD.encode(&self.csr_pem),
                "signerName": SIGNER,
                "usages": ["digital signature", "client auth"],
            }
        })
    }

    /// The certificate in an issued request, if it is one for this key and node.
    fn accept(&self, chain_pem: &str) -> Result<ClientCertificate, Error> {
        let foreign = |why| Error::Foreign { name: self.name.clone(), why };
        let path = std::path::Path::new(&self.name);
        let pair = ClientCertificate::parse(path, chain_pem, &self.key_pem())
            .map_err(|source| Error::Unreadable { name: self.name.clone(), source })?;
        let leaf = pair.leaf().unwrap_or_else(|| Vec::new().into());
        let (_, leaf) = X509Certificate::from_der(&leaf).map_err(|_| foreign("holds no certificate"))?;
        if leaf.public_key().subject_public_key.data.as_ref() != self.key.der_bytes() {
            return Err(foreign("is for another key"));
        }
        if pair.common_name != format!("system:node:{}", self.node) {
            return Err(foreign("is for another node"));
        }
        Ok(pair)
    }
}

/// What happens while waiting, for whoever watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// The request is at the cloud under this name and nobody has judged it.
    Unapproved(String),
    /// It is approved and not signed yet.
    Approved(String),
    /// The cloud cannot be asked just now, for this reason.
    Unreachable(String),
}

/// Sends the request, unless it is there already, and waits until it is answered or `deadline` has passed.
/// What it waits for is told once it has waited a moment for that.
///
/// # Errors
/// See [`Error`]; after one that is not final the same request can be tried again.
pub async fn obtain(
    api: &Api,
    asked: &Asked,
    deadline: Instant,
    tell: &mut (dyn FnMut(&Progress) + Send),
) -> Result<ClientCertificate, Error> {
    let mut pause = Duration::from_secs(1);
    let (mut last, mut told): (Option<Progress>, Option<Progress>) = (None, None);
    loop {
        let progress = match look(api, asked).await {
            Ok(object) => match judge(&object, &asked.name)? {
                Judged::Issued(chain) => return asked.accept(&chain),
                Judged::Open(progress) => progress,
            },
            Err(e) if e.is_passing() => Progress::Unreachable(with_causes(&e)),
            Err(e) => return Err(e.into()),
        };
        if last.as_ref() == Some(&progress) && told != last {
            tell(&progress);
            told = last;
        }
        if Instant::now() + pause > deadline {
            return Err(Error::Deadline { name: asked.name.clone(), reason: progress.to_string() });
        }
        last = Some(progress);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unapproved(_) => f.write_str("nobody has approved it"),
            Self::Approved(_) => f.write_str("it is approved and not signed yet"),
            Self::Unreachable(why) => f.write_str(why),
        }
    }
}

async fn look(api: &Api, asked: &Asked) -> Result<Value, api::Error> {
    let path = format!("{PATH}/{}", asked.name);
    match api.get(&path).await {
        Err(e) if e.status() == Some(StatusCode::NOT_FOUND) => {}
        other => return other,
    }
    match api.post(PATH, &asked.object()).await {
        // Another try of ours was faster.
        Err(e) if e.status() == Some(StatusCode::CONFLICT) => api.get(&path).await,
        other => other,
    }
}

enum Judged {
    Issued(String),
    Open(Progress),
}

fn judge(object: &Value, name: &str) -> Result<Judged, Error> {
    let none = Vec::new();
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).unwrap_or(&none);
    let condition = |kind: &str| conditions.iter().find(|c| c["type"] == kind);
    let reason = |c: &Value| {
        let texts = [c["reason"].as_str(), c["message"].as_str()];
        texts.into_iter().flatten().collect::<Vec<_>>().join(": ")
    };
    let name = name.to_owned();
    if let Some(denied) = condition("Denied") {
        return Err(Error::Denied { name, reason: reason(denied) });
    }
    if let Some(failed) = condition("Failed") {
        return Err(Error::Failed { name, reason: reason(failed) });
    }
    let certificate = object.pointer("/status/certificate").and_then(Value::as_str).unwrap_or_default();
    if condition("Approved").is_none() {
        return Ok(Judged::Open(Progress::Unapproved(name)));
    }
    if certificate.is_empty() {
        return Ok(Judged::Open(Progress::Approved(name)));
    }
    let pem = STANDARD.decode(certificate).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    pem.map(Judged::Issued).ok_or(Error::Foreign { name, why: "is not PEM" })
}

/// An error and what caused it, on one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn making(error: rcgen::Error) -> Error {
    Error::Make(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::ca::LocalCa;

    fn object(conditions: Value, certificate: &str) -> Value {
        json!({"status": {"conditions": conditions, "certificate": certificate}})
    }

    #[test]
    fn an_answer_is_judged_by_its_conditions() {
        let approved = json!([{"type": "Approved"}]);
        let open = |object: &Value| match judge(object, "n").unwrap() {
            Judged::Open(progress) => progress,
            Judged::Issued(chain) => panic!("issued {chain}"),
        };
        assert_eq!(open(&json!({})), Progress::Unapproved("n".into()));
        assert_eq!(open(&object(json!([]), "eA==")), Progress::Unapproved("n".into()));
        assert_eq!(open(&object(approved.clone(), "")), Progress::Approved("n".into()));
        assert!(
            matches!(judge(&object(approved.clone(), "eA=="), "n").unwrap(), Judged::Issued(text) if text == "x")
        );
        for (conditions, certificate, expected) in [
            (
                json!([{"type": "Denied", "reason": "No", "message": "not you"}]),
                "",
                "denied the signing request `n`: No: not you",
            ),
            (
                json!([{"type": "Approved"}, {"type": "Failed", "reason": "SignerValidationFailure"}]),
                "",
                "SignerValidationFailure",
            ),
            (approved, "%", "is not PEM"),
        ] {
            let error = judge(&object(conditions, certificate), "n").err().unwrap();
            assert!(error.to_string().contains(expected) && error.is_final(), "{error}");
        }
    }

    #[test]
    fn the_same_key_makes_the_same_request_and_takes_only_its_own_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let ca = LocalCa::open_or_create(folder.path()).unwrap();
        let first = Asked::new("a").unwrap();
        let again = Asked::again("a", &first.key_pem()).unwrap();
        assert_eq!(first.name, again.name);
        assert_ne!(first.name, Asked::again("b", &first.key_pem()).unwrap().name);
        assert!(matches!(Asked::again("a", "no key"), Err(Error::Key(_))));

        let signed = ca.sign_client_csr(&first.csr_pem).unwrap();
        assert_eq!(again.accept(&signed).unwrap().common_name, "system:node:a");
        let other = Asked::new("a").unwrap();
        assert!(other.accept(&signed).unwrap_err().to_string().contains("is for another key"));
        let renamed = Asked::again("b", &first.key_pem()).unwrap();
        assert!(renamed.accept(&signed).unwrap_err().to_string().contains("is for another node"));
        assert!(matches!(first.accept("nothing"), Err(Error::Unreadable { .. })));
    }
}
