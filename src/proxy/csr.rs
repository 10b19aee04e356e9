//! Answers kubelet's own requests for a client certificate, with the local authority.
//!
//! Kubelet's certificate is shown to the proxy alone, so the cloud need not know of it, and rotation goes on
//! without the cloud. Pure: an object in, an answer out. Requests for other signers (kubelet's serving
//! certificate) are the cloud's to judge.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::request::SIGNER;
use crate::trust::ca::{LocalCa, RequestedSubject};

/// What becomes of a CertificateSigningRequest that kubelet creates.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It is for another signer: the cloud answers.
    Forward,
    /// The object as the API server would show it, approved and issued.
    Signed(Value),
    /// It is not what a kubelet may ask for; to be told with 403.
    Refused(String),
}

/// Answers `object` (certificates.k8s.io/v1, JSON), created by the kubelet of `node` at `now`.
///
/// The rules are those of the API server's own signer for kubelets: the subject is the node's and nothing else.
pub fn answer(object: &Value, ca: &LocalCa, node: &str, now: jiff::Timestamp) -> Answer {
    if object.pointer("/spec/signerName").and_then(Value::as_str) != Some(SIGNER) {
        return Answer::Forward;
    }
    match sign(object, ca, node) {
        Ok(certificate) => Answer::Signed(issued(object, node, &certificate, now)),
        Err(reason) => Answer::Refused(reason),
    }
}

fn sign(object: &Value, ca: &LocalCa, node: &str) -> Result<String, String> {
    let request = object.pointer("/spec/request").and_then(Value::as_str).unwrap_or_default();
    let pem = STANDARD
        .decode(request)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or("spec.request is not PEM in base64")?;
    let asked = RequestedSubject::read(&pem).map_err(|e| e.to_string())?;
    let user = format!("system:node:{node}");
    if asked.common_name != user || asked.organization.as_deref() != Some("system:nodes") {
        return Err(format!("the subject must be `{user}` of `system:nodes`"));
    }
    if asked.alternative_names > 0 {
        return Err("a client certificate carries no alternative names".into());
    }
    let usages =
        object.pointer("/spec/usages").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = usages.iter().find(|usage| !allowed.iter().any(|known| *usage == known)) {
        return Err(format!("the usage {other} is not one of a client certificate"));
    }
    ca.sign_client_csr(&pem).map_err(|e| e.to_string())
}

fn issued(object: &Value, node: &str, certificate: &str, now: jiff::Timestamp) -> Value {
    let text =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let uid = uuid::Uuid::new_v4().to_string();
    let prefix = text("/metadata/generateName").unwrap_or("csr-");
    let name = text("/metadata/name").map_or_else(|| format!("{prefix}{}", &uid[..5]), ToOwned::to_owned);
    let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut answer = object.clone();
    answer["apiVersion"] = "certificates.k8s.io/v1".into();
    answer["kind"] = "CertificateSigningRequest".into();
    answer["metadata"]["name"] = name.into();
    answer["metadata"]["uid"] = uid.into();
    answer["metadata"]["creationTimestamp"] = at.as_str().into();
    answer["metadata"]["resourceVersion"] = "1".into();
    answer["spec"]["username"] = format!("system:node:{node}").into();
    answer["spec"]["groups"] = json!(["system:nodes", "system:authenticated"]);
    answer["status"] = json!({
        "certificate": STANDARD.encode(certificate),
        "conditions": [{
            "type": "Approved",
            "status": "True",
            "reason": "LocalAuthority",
            "message": "signed on this gateway by edge",
            "lastUpdateTime": at,
            "lastTransitionTime": at,
        }]
    });
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn csr(common_name: &str, organization: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, common_name);
        change(&mut params);
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    fn object(pem: &str) -> Value {
        json!({
            "metadata": {"generateName": "csr-"},
            "spec": {"signerName": SIGNER, "request": STANDARD.encode(pem), "usages": ["digital signature", "client auth"]}
        })
    }

    fn local() -> (tempfile::TempDir, LocalCa) {
        let folder = tempfile::tempdir().unwrap();
        let ca = LocalCa::open_or_create(folder.path()).unwrap();
        (folder, ca)
    }

    fn now() -> jiff::Timestamp {
        "2026-11-20T10:00:00.123Z".parse().unwrap()
    }

    #[test]
    fn kubelet_s_request_is_issued_as_the_api_server_would_show_it() {
        let (_folder, ca) = local();
        let asked = object(&csr("system:node:a", "system:nodes", |_| {}));
        let Answer::Signed(answer) = answer(&asked, &ca, "a", now()) else { panic!("not signed") };
        assert_eq!(answer["spec"]["request"], asked["spec"]["request"]);
        assert_eq!(answer["spec"]["username"], "system:node:a");
        assert_eq!(answer["status"]["conditions"][0]["type"], "Approved");
        assert_eq!(answer["metadata"]["creationTimestamp"], "2026-11-20T10:00:00Z");
        let name = answer["metadata"]["name"].as_str().unwrap();
        assert!(name.starts_with("csr-") && name.len() == 9, "{name}");
        let pem = STANDARD.decode(answer["status"]["certificate"].as_str().unwrap()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
        assert!(ca.has_signed(&pem.contents));
        assert_eq!(pem.parse_x509().unwrap().subject().to_string(), "O=system:nodes, CN=system:node:a");
    }

    #[test]
    fn a_given_name_is_kept() {
        let (_folder, ca) = local();
        let mut asked = object(&csr("system:node:a", "system:nodes", |_| {}));
        asked["metadata"] = json!({"name": "mine"});
        let Answer::Signed(answer) = answer(&asked, &ca, "a", now()) else { panic!("not signed") };
        assert_eq!(answer["metadata"]["name"], "mine");
    }

    #[test]
    fn other_signers_are_the_cloud_s() {
        let (_folder, ca) = local();
        let mut asked = object(&csr("system:node:a", "system:nodes", |_| {}));
        for signer in [
            json!("kubernetes.io/kubelet-serving"),
            json!("kubernetes.io/kube-apiserver-client"),
            Value::Null,
        ] {
            asked["spec"]["signerName"] = signer;
            assert_eq!(answer(&asked, &ca, "a", now()), Answer::Forward);
        }
        assert_eq!(answer(&Value::Null, &ca, "a", now()), Answer::Forward);
    }

    #[test]
    fn a_kubelet_gets_its_own_name_and_nothing_else() {
        let (_folder, ca) = local();
        let named = csr("system:node:a", "system:nodes", |params| {
            params.subject_alt_names.push(SanType::DnsName("a".try_into().unwrap()));
        });
        let cases = [
            (object(&csr("system:node:b", "system:nodes", |_| {})), "must be `system:node:a`"),
            (
                object(&csr("system:node:a", "system:masters", |_| {})),
                "must be `system:node:a` of `system:nodes`",
            ),
            (object(&csr("admin", "system:masters", |_| {})), "must be `system:node:a`"),
            (object(&named), "no alternative names"),
            (object("no request"), "CERTIFICATE REQUEST"),
        ];
        for (asked, expected) in cases {
            match answer(&asked, &ca, "a", now()) {
                Answer::Refused(reason) => assert!(reason.contains(expected), "{reason}"),
                other => panic!("{expected}: {other:?}"),
            }
        }
        let mut serving = object(&csr("system:node:a", "system:nodes", |_| {}));
        serving["spec"]["usages"] = json!(["server auth"]);
        assert!(matches!(answer(&serving, &ca, "a", now()), Answer::Refused(r) if r.contains("server auth")));
        serving["spec"]["request"] = json!("%");
        assert!(matches!(answer(&serving, &ca, "a", now()), Answer::Refused(r) if r.contains("base64")));
    }
}
