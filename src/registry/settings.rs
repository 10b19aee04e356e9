//! What the registry needs to know; filled from the section `[registry]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::oci::{Upstream, canonical_host};

/// The registry's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where images and charts are served; the daemon binds it and passes the listener in.
    pub listen: SocketAddr,
    /// Whether a miss is fetched from an upstream.
    pub pull_through: bool,
    /// Whether clients may write.
    pub push: bool,
    /// Whether clients on loopback may write without a credential.
    pub insecure_loopback_push: bool,
    /// Whether an image is taken whose configuration or layers are not all here.
    pub push_sparse: bool,
    /// The registries that a miss may be fetched from. Others are never asked.
    pub upstreams: Vec<UpstreamRow>,
    /// Names that clients call this registry by in `?ns=`, such as `127.0.0.1:5000`.
    pub own_hosts: Vec<String>,
    /// The certificate chain to serve with, PEM.
    pub tls_certificate: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Whether to serve with a certificate of edge's own authority.
    pub local_certificate: bool,
    /// Users who may write, as `htpasswd -B` writes them.
    pub htpasswd: Option<PathBuf>,
    /// Bearer tokens that may write, one a line.
    pub tokens: Option<PathBuf>,
    /// Credentials for upstreams, docker's `config.json`.
    pub docker_config: Option<PathBuf>,
    /// Files of certificates (PEM) of authorities that upstreams may have beside the system's.
    pub authorities: Vec<PathBuf>,
    /// The proxy to upstreams on other machines.
    pub proxy: Option<String>,
    /// What is asked without it.
    pub no_proxy: Option<String>,
    /// Bytes that may be held by pull-through alone; beyond them the least recently used goes.
    pub size_limit: Option<u64>,
    /// Bytes of the file system that are left free.
    pub reserve: u64,
    /// How often what nobody needs is removed.
    pub collect_interval: Duration,
    /// How often everything is read again.
    pub verify_interval: Duration,
    /// Bytes a second that reading again in the background may take.
    pub verify_rate: u64,
}

/// A registry to fetch from, as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct UpstreamRow {
    /// What images call it, `docker.io`.
    pub host: String,
    /// Where it is; `https://` and the host where nothing is written, on loopback `http://`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Whether plain HTTP is allowed even where it is not on loopback.
    #[serde(default, skip_serializing_if = "is_false")]
    pub insecure: bool,
    /// Certificates (PEM) of authorities that this one may have beside the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl UpstreamRow {
    /// The registry at `host` itself, or at `url` if that is not empty.
    pub fn new(host: &str, url: &str) -> Self {
        Self { host: host.into(), url: url.into(), insecure: false, ca: None }
    }

    /// The upstream that it means.
    pub fn upstream(&self) -> Upstream {
        let mut upstream = Upstream::of_host(&self.host);
        if !self.url.is_empty() {
            upstream.url.clone_from(&self.url);
        }
        upstream.insecure = self.insecure;
        upstream
    }

    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<String> {
        let url = self.upstream().url;
        let address = url::Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "https" | "http"));
        if !super::names::is_host_name(&self.host) {
            return Some(format!("`{}` is no host hint: write what images call it, `docker.io`", self.host));
        }
        if address.is_none_or(|address| !address.has_host()) {
            // What is before the `@` may be a password.
            let shown = url.rsplit('@').next().unwrap_or_default();
            return Some(format!(
                "`{shown}` is no address hint: write one such as `https://registry.example.com`"
            ));
        }
        match &self.ca {
            Some(path) if !path.is_absolute() => Some(format!("`{}` is no absolute path", path.display())),
            _ => None,
        }
    }
}

/// Name and port of one of `own-hosts`, of which a port may be missing.
pub fn name_and_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (name, Some(port)),
        _ => (host, None),
    }
}

/// A certificate chain and its key, PEM.
#[derive(Clone)]
pub struct Identity {
    /// The chain.
    pub chain: String,
    /// The key. A secret.
    pub key: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 5000)),
            pull_through: true,
            push: false,
            insecure_loopback_push: false,
            push_sparse: false,
            upstreams: Vec::new(),
            own_hosts: Vec::new(),
            tls_certificate: None,
            tls_key: None,
            local_certificate: false,
            htpasswd: None,
            tokens: None,
            docker_config: None,
            authorities: Vec::new(),
            proxy: None,
            no_proxy: None,
            size_limit: None,
            reserve: 64 << 20,
            collect_interval: Duration::from_secs(6 * 3600),
            verify_interval: Duration::from_secs(7 * 24 * 3600),
            verify_rate: 4 << 20,
        }
    }
}

impl Settings {
    /// What is wrong with the proxy's address, if anything.
    pub fn proxy_fault(&self) -> Option<String> {
        self.proxy.as_deref().and_then(crate::oci::proxy_fault)
    }

    /// Refuses what must not be served so.
    ///
    /// # Errors
    /// [`Error::PushWithoutCredential`].
    pub fn check(&self) -> Result<(), Error> {
        let credential = self.htpasswd.is_some() || self.tokens.is_some();
        if self.push && !credential && !self.insecure_loopback_push {
            return Err(Error::PushWithoutCredential);
        }
        Ok(())
    }

    /// Whether clients speak TLS with it.
    pub fn serves_tls(&self) -> bool {
        self.tls_certificate.is_some() || self.local_certificate
    }

    /// Whether `host` in `?ns=` means this registry itself.
    pub fn is_own(&self, host: &str) -> bool {
        let port = self.listen.port();
        let listens = host == self.listen.to_string()
            || ["127.0.0.1", "localhost", "[::1]"].iter().any(|name| host == format!("{name}:{port}"));
        listens || self.own_hosts.iter().any(|own| canonical_host(own) == canonical_host(host))
    }

    /// Where the registry `host` is: by its row among the upstreams if it has one, else at its own name.
    pub fn upstream(&self, host: &str) -> Upstream {
        let row = self.upstreams.iter().find(|row| canonical_host(&row.host) == canonical_host(host));
        row.map_or_else(|| Upstream::of_host(host), UpstreamRow::upstream)
    }

    /// The files that are named, whose content matters too.
    pub fn files(&self) -> Vec<&PathBuf> {
        let single =
            [&self.tls_certificate, &self.tls_key, &self.htpasswd, &self.tokens, &self.docker_config];
        let rows = self.upstreams.iter().filter_map(|row| row.ca.as_ref());
        single.into_iter().flatten().chain(&self.authorities).chain(rows).collect()
    }
}
