//! Certificates and kubeconfigs of the test clouds. Makes keys; keeps none of edge's.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// A certificate and its private key, in PEM.
#[derive(Clone)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// A certificate authority.
pub struct Authority {
    pair: Pair,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let pair = Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() };
        Ok(Self { pair, issuer: Issuer::new(params, key) })
    }

    /// Its own certificate, in PEM.
    pub fn certificate(&self) -> &str {
        &self.pair.certificate
    }

    /// Its own key, in PEM: the controller-manager signs with it.
    pub fn key(&self) -> &str {
        &self.pair.key
    }

    /// A server's certificate for these names and addresses.
    pub fn server(&self, names: &[&str]) -> Result<Pair> {
        self.server_until(names, (4096, 1, 1))
    }

    /// A server's certificate that ends on a day (year, month, day).
    pub fn server_until(&self, names: &[&str], end: (i32, u8, u8)) -> Result<Pair> {
        let mut params =
            CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, names.first().copied().unwrap_or("server"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_after = date_time_ymd(end.0, end.1, end.2);
        self.sign(params)
    }

    /// A client's certificate: its user name and group.
    pub fn client(&self, user: &str, group: &str) -> Result<Pair> {
        self.client_until(user, group, (4096, 1, 1))
    }

    /// A client's certificate that ends on a day (year, month, day).
    pub fn client_until(&self, user: &str, group: &str, end: (i32, u8, u8)) -> Result<Pair> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = date_time_ymd(end.0, end.1, end.2);
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Pair> {
        let key = KeyPair::generate()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        Ok(Pair { certificate: params.signed_by(&key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

/// A key pair for service account tokens, in PEM: private, public.
pub fn signing_key() -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

/// A kubeconfig with a client certificate.
pub fn kubeconfig(server: &str, authority: &str, client: &Pair) -> String {
    let user = format!(
        "client-certificate-data: {}, client-key-data: {}",
        STANDARD.encode(&client.certificate),
        STANDARD.encode(&client.key)
    );
    with_user(server, authority, &user)
}

/// A kubeconfig with a bearer token, as a bootstrap kubeconfig is.
pub fn token_kubeconfig(server: &str, authority: &str, token: &str) -> String {
    with_user(server, authority, &format!("token: {token}"))
}

/// A kubeconfig whose user has the fields `user`, as YAML within braces.
pub fn with_user(server: &str, authority: &str, user: &str) -> String {
    let authority = STANDARD.encode(authority);
    format!(
        "apiVersion: v1
kind: Config
current-context: cloud
clusters:
- name: cloud
  cluster: {{server: \"{server}\", certificate-authority-data: {authority}}}
contexts:
- name: cloud
  context: {{cluster: cloud, user: me}}
users:
- name: me
  user: {{{user}}}
"
    )
}
