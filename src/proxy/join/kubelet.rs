//! Kubelet's side: its kubeconfig, and the certificate that it rotates by itself.
//!
//! With `rotateCertificates: true` kubelet prefers `kubelet-client-current.pem` to the certificate in
//! its kubeconfig. While that one is the cloud's, kubelet would show the proxy a certificate that the local
//! authority did not sign. So it is moved aside; kubelet then starts with its kubeconfig's and
//! keeps that one, or a later one that edge signed, under the same name.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Error;
use crate::proxy::cloud::kubeconfig::{Material, Written};
use crate::proxy::cloud::{ClientCertificate, Credentials};
use crate::sys::{clock, durable};
use crate::trust::ca::LocalCa;

const CURRENT: &str = "kubelet-client-current.pem";
const ASIDE: &str = "kubelet-client-current.pem.before-edge";

/// What kubelet has as its own certificate.
pub struct Rotated {
    folder: PathBuf,
}

impl Rotated {
    /// In kubelet's folder for certificates.
    pub fn in_folder(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf() }
    }

    /// The file, or link to one, that kubelet prefers.
    pub fn current(&self) -> PathBuf {
        self.folder.join(CURRENT)
    }

    fn aside(&self) -> PathBuf {
        self.folder.join(ASIDE)
    }

    /// Whether it can be seen what kubelet has there, which may be nothing. A strict snap whose plug is not connected is
    /// kept from looking.
    pub fn check(&self) -> Result<(), Error> {
        match std::fs::read_dir(&self.folder) {
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Err(Error::File(durable::named(e, "read", &self.folder)))
            }
            _ => Ok(()),
        }
    }

    /// Whether kubelet has one that the local authority did not sign. One that cannot be read is none
    /// of edge's, and kubelet cannot read it either: it counts.
    pub fn is_armed(&self, ca: &LocalCa) -> bool {
        exists(&self.current()) && !self.is_local(ca)
    }

    /// Whether kubelet has one that the local authority signed.
    pub fn is_local(&self, ca: &LocalCa) -> bool {
        let leaf = read(&self.current()).and_then(|pair| pair.leaf());
        leaf.is_some_and(|leaf| ca.has_signed(&leaf))
    }

    /// Moves it aside, over one that was moved aside earlier.
    pub fn disarm(&self) -> Result<(), Error> {
        rename(&self.current(), &self.aside()).map_err(Error::File)
    }

    /// Puts the certificate back that the cloud accepts: what was moved aside, or `newest` if that is another.
    pub fn rearm(&self, newest: Option<&ClientCertificate>) -> Result<(), Error> {
        let holds =
            |path: &Path, pair: &ClientCertificate| read(path).is_some_and(|p| p.leaf() == pair.leaf());
        match newest {
            Some(pair) if holds(&self.current(), pair) => {}
            Some(pair) if !holds(&self.aside(), pair) => self.install(pair)?,
            _ => return rename(&self.aside(), &self.current()).map_err(Error::File),
        }
        durable::remove(&self.aside()).map_err(Error::File)
    }

    /// Takes away one that only edge accepts.
    pub fn drop_local(&self, ca: &LocalCa) -> Result<(), Error> {
        if self.is_local(ca) { durable::remove(&self.current()).map_err(Error::File) } else { Ok(()) }
    }

    /// As kubelet does it: a file with the date in its name, and a link to it. Kubelet refuses to rotate
    /// where the name is no link.
    pub fn install(&self, pair: &ClientCertificate) -> Result<(), Error> {
        let date = clock::now().strftime("%Y-%m-%d-%H-%M-%S");
        let dated = self.folder.join(format!("kubelet-client-{date}.pem"));
        durable::write(&dated, pair.both_pem().as_bytes(), 0o600).map_err(Error::File)?;
        let link = self.folder.join(format!(".{CURRENT}.edge"));
        durable::remove(&link).map_err(Error::File)?;
        // By its name alone: a snap sees kubelet's folder under another path.
        std::os::unix::fs::symlink(dated.file_name().unwrap_or(dated.as_os_str()), &link)
            .map_err(|e| Error::File(durable::named(e, "link", &link)))?;
        rename(&link, &self.current()).map_err(Error::File)
    }
}

/// Writes kubelet's kubeconfig towards the proxy at `listen`, unless a good one is there already:
/// a new certificate each time would help nobody.
pub fn write_kubeconfig(path: &Path, node: &str, listen: SocketAddr, ca: &LocalCa) -> Result<(), Error> {
    if is_good(path, node, listen, ca) {
        return Ok(());
    }
    let pair = ca.issue_client(&format!("system:node:{node}"), "system:nodes")?;
    let text = Written {
        cluster: "edge",
        user: &format!("system:node:{node}"),
        server: &format!("https://{listen}"),
        tls_server_name: None,
        authority: Material::Inline(ca.ca_pem().into()),
        certificate: Material::Inline(pair.chain.into()),
        key: Material::Inline(pair.key.into()),
    }
    .text();
    write_in_folder(path, &text)
}

/// Writes a file that only root reads, and its folder if there is none.
pub fn write_in_folder(path: &Path, text: &str) -> Result<(), Error> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        durable::folder(folder, 0o755).map_err(Error::File)?;
    }
    durable::write(path, text.as_bytes(), 0o600).map_err(Error::File)
}

fn is_good(path: &Path, node: &str, listen: SocketAddr, ca: &LocalCa) -> bool {
    let Ok(credentials) = Credentials::read(path) else { return false };
    let leaf = credentials.client.as_ref().and_then(ClientCertificate::leaf);
    credentials.server.authority().is_some_and(|a| a.as_str() == listen.to_string())
        && credentials.node_name() == Some(node)
        && credentials.authority_pem == ca.ca_pem()
        && leaf.is_some_and(|leaf| ca.has_signed(&leaf))
}

fn read(path: &Path) -> Option<ClientCertificate> {
    let text = std::fs::read_to_string(followed(path)).ok()?;
    ClientCertificate::parse(path, &text, &text).ok()
}

/// The file behind a link of kubelet's, which names it by its whole path. A snap sees kubelet's folder under another one,
/// where that leads nowhere; kubelet keeps both in one folder.
pub fn followed(path: &Path) -> PathBuf {
    let target = path.read_link().ok().filter(|target| target.is_absolute() && !path.exists());
    let name = target.as_deref().and_then(Path::file_name);
    name.map_or_else(|| path.to_path_buf(), |name| path.with_file_name(name))
}

/// Also of a link whose file is gone.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Ok(()) => durable::sync_folder_of(to),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(durable::named(e, "rename", from)),
    }
}

#[cfg(test)]
#[path = "kubelet_tests.rs"]
mod tests;
