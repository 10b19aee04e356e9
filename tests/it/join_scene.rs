//! A cloud that is an authority alone, and a gateway with kubelet's folder for certificates: for joining and leaving.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use edge::proxy::cloud::Credentials;
use edge::trust::ca::{LocalCa, Pair};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use crate::command::{Done, Place};

/// A cloud's authority that issues for as long as it is told.
pub struct Cloud {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Cloud {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "cloud");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn issue(&self, common_name: &str, years: (i32, i32)) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        Pair { chain: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    pub fn node(&self, until: i32) -> Pair {
        self.issue("system:node:ship-7", (2020, until))
    }

    pub fn kubeconfig(&self, user: &str) -> String {
        let ca = STANDARD.encode(&self.pem);
        format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: 'https://192.0.2.1:6443', certificate-authority-data: {ca}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        )
    }

    pub fn inline(&self, pair: &Pair) -> String {
        let (chain, key) = (STANDARD.encode(&pair.chain), STANDARD.encode(&pair.key));
        self.kubeconfig(&format!("client-certificate-data: {chain}, client-key-data: {key}"))
    }
}

/// A gateway with kubelet's folder for certificates.
pub struct Gateway {
    pub place: Place,
    pub cloud: Cloud,
}

impl Gateway {
    pub fn new() -> Self {
        let place = Place::new();
        place.write("etc/edge.toml", "# mine\n[cloud]\nprobe-interval = \"7s\" # slow\n");
        std::fs::create_dir_all(place.path("pki")).unwrap();
        Self { place, cloud: Cloud::new() }
    }

    /// Kubelet's own rotated certificate, as kubelet lays it out.
    pub fn arm(&self, pair: &Pair) -> PathBuf {
        let dated = self.place.write("pki/kubelet-client-2026.pem", &format!("{}{}", pair.chain, pair.key));
        let current = self.current();
        symlink(dated, &current).unwrap();
        current
    }

    pub fn current(&self) -> PathBuf {
        self.place.path("pki/kubelet-client-current.pem")
    }

    pub fn conf_with_current(&self) -> String {
        let current = self.current();
        let user = format!("client-certificate: {0}, client-key: {0}", current.display());
        self.place.write("kubelet.conf", &self.cloud.kubeconfig(&user));
        "kubelet.conf".into()
    }

    pub fn conf_inline(&self, pair: &Pair) -> String {
        self.place.write("given.conf", &self.cloud.inline(pair));
        "given.conf".into()
    }

    pub fn join(&self, from: &str, more: &[&str]) -> Done {
        self.place.run(&[&["join", "--from", from, "--kubelet-cert-dir", "pki"], more].concat())
    }

    pub fn leave(&self) -> Done {
        self.place.run(&["leave"])
    }

    pub fn credentials(&self, below: &str) -> Credentials {
        Credentials::read(&self.place.path(below)).unwrap()
    }

    pub fn local_ca(&self) -> LocalCa {
        LocalCa::open_or_create(&self.place.path("state/pki")).unwrap()
    }

    /// Everything outside the state folder: names, contents, permissions, where links lead.
    pub fn outside(&self) -> Vec<String> {
        let mut seen = Vec::new();
        look(self.place.folder.path(), &mut seen);
        seen.retain(|line| !line.contains("/state"));
        seen.sort();
        seen
    }
}

fn look(folder: &Path, seen: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        if meta.is_dir() {
            look(&path, seen);
        } else if meta.is_symlink() {
            seen.push(format!("{} -> {}", path.display(), std::fs::read_link(&path).unwrap().display()));
        } else if meta.is_file() {
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            seen.push(format!("{} {:o} {text}", path.display(), meta.permissions().mode() & 0o777));
        }
    }
}

pub fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

pub fn leaf(pair: &Pair) -> &str {
    &pair.chain[..pair.chain.find("-----END").unwrap()]
}
