//! The node's own credentials for the cloud's API server, and TLS made with them.
//!
//! Owns what a kubeconfig must hold to be of use to a gateway. Dates are judged by edge's clock,
//! which never lies below the time floor: a gateway that boots in 1970 still believes the cloud.
//! Refuses to show a key or token in any form.

mod certificate;
mod error;
mod files;
mod known;
pub mod kubeconfig;
mod tls;

use std::fmt;
use std::path::{Path, PathBuf};

use http::Uri;
use rustls::pki_types::ServerName;

pub use certificate::ClientCertificate;
pub use error::Error;
pub use files::CloudFiles;
pub use known::{Known, Lost};
use kubeconfig::{Kubeconfig, Material};
pub use tls::{Identity, Protocols};

/// Where the cloud is and who this node is to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The kubeconfig they were read from.
    pub path: PathBuf,
    /// All files they were read from, the kubeconfig first.
    pub files: Vec<PathBuf>,
    /// `https` with a host; may carry a path to prepend to every request's.
    pub server: Uri,
    /// The name or address that the server's certificate must carry.
    pub server_name: ServerName<'static>,
    /// `tls-server-name`, if the kubeconfig has one.
    pub tls_server_name: Option<String>,
    /// Whom to trust as the server, PEM.
    pub authority_pem: String,
    /// Who this node is.
    pub client: Option<ClientCertificate>,
    /// A bearer token. A secret.
    pub token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("path", &self.path)
            .field("server", &self.server)
            .field("client", &self.client)
            .field("token", &self.token.as_ref().map(|_| ".."))
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads and checks the kubeconfig at `path` and every file it names. Dates are not judged:
    /// see [`ClientCertificate::check_dates`].
    ///
    /// # Errors
    /// One line that names the file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::of(&Kubeconfig::read(path)?)
    }

    /// Loads and checks what `config` names.
    ///
    /// # Errors
    /// As for [`Credentials::read`].
    pub fn of(config: &Kubeconfig) -> Result<Self, Error> {
        let path = config.path.clone();
        let (server, host) = server(config)?;
        let name = config.tls_server_name.clone().unwrap_or(host);
        let server_name = ServerName::try_from(name)
            .map_err(|_| bad_server(config, "has no host name or address that a certificate can carry"))?;
        let authority = config
            .authority
            .as_ref()
            .ok_or_else(|| Error::Without { path, key: "certificate-authority".into() })?;
        let authority_pem = pem_text(config, authority, "certificate-authority")?;
        tls::roots(&config.path, &authority_pem)?;
        let credentials = Self {
            path: config.path.clone(),
            files: config.files(),
            server,
            server_name,
            tls_server_name: config.tls_server_name.clone(),
            authority_pem,
            client: client(config)?,
            token: token(config)?,
        };
        if credentials.client.is_none() && credentials.token.is_none() {
            return Err(Error::NoIdentity { path: config.path.clone() });
        }
        if credentials.client.is_some() {
            credentials.tls(Identity::Node, Protocols::Any)?;
        }
        Ok(credentials)
    }

    /// The name of this node, if the certificate is a node's.
    pub fn node_name(&self) -> Option<&str> {
        self.client.as_ref()?.common_name.strip_prefix("system:node:").filter(|name| !name.is_empty())
    }

    /// Host and port to dial.
    pub fn address(&self) -> (&str, u16) {
        let host = self.server.host().unwrap_or_default();
        (host.trim_start_matches('[').trim_end_matches(']'), self.server.port_u16().unwrap_or(443))
    }
}

fn bad_server(config: &Kubeconfig, why: &'static str) -> Error {
    Error::Server { path: config.path.clone(), server: config.server.clone(), why }
}

fn server(config: &Kubeconfig) -> Result<(Uri, String), Error> {
    let uri: Uri = config.server.parse().map_err(|_| bad_server(config, "is not an address"))?;
    if uri.scheme_str() != Some("https") {
        return Err(bad_server(config, "is not `https`"));
    }
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(bad_server(config, "is not a host and port"));
    }
    Ok((uri, host))
}

fn pem_text(config: &Kubeconfig, material: &Material, what: &str) -> Result<String, Error> {
    String::from_utf8(material.load()?).map_err(|_| Error::Material {
        path: material.file().unwrap_or(&config.path).into(),
        what: format!("`{what}`"),
        problem: "something else than PEM",
    })
}

fn client(config: &Kubeconfig) -> Result<Option<ClientCertificate>, Error> {
    let (certificate, key) = match (&config.certificate, &config.key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (None, Some(_)) => {
            return Err(Error::Without { path: config.path.clone(), key: "client-certificate".into() });
        }
        (Some(_), None) => {
            return Err(Error::Without { path: config.path.clone(), key: "client-key".into() });
        }
    };
    let chain = pem_text(config, certificate, "client-certificate")?;
    let key = pem_text(config, key, "client-key")?;
    ClientCertificate::parse(&config.path, &chain, &key).map(Some)
}

fn token(config: &Kubeconfig) -> Result<Option<String>, Error> {
    let Some(material) = &config.token else { return Ok(None) };
    let bad = |problem| Error::Material { path: config.path.clone(), what: "`token`".into(), problem };
    let text = String::from_utf8(material.load()?).map_err(|_| bad("something else than text"))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(bad("nothing"));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad("characters that no token has"));
    }
    Ok(Some(text.to_owned()))
}

#[cfg(test)]
mod tests;
