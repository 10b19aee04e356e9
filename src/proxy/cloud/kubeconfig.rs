//! Kubeconfig files: what the current context of one says, and the two that edge writes.
//!
//! Reads only what a node's credentials can be: certificate, key, token. Refuses what would have to
//! run a program, or would leave the server unproven. Nothing of a file's content stands in an error,
//! since any part of it may be a secret.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::Error;
use crate::sys::durable;

/// Larger files are not read: a kubeconfig with its certificates is a few KiB.
const MOST_BYTES: u64 = 1 << 20;

/// What the current context says. Nothing is checked beyond its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// The file it was read from.
    pub path: PathBuf,
    /// Such as `https://10.0.0.1:6443`.
    pub server: String,
    /// The name that the server's certificate must carry, if it is not that of `server`.
    pub tls_server_name: Option<String>,
    /// Whom to trust as the server.
    pub authority: Option<Material>,
    /// The client's certificate chain.
    pub certificate: Option<Material>,
    /// The key to it.
    pub key: Option<Material>,
    /// A bearer token.
    pub token: Option<Material>,
}

/// A piece of a kubeconfig that may lie in a file of its own.
#[derive(Clone, PartialEq, Eq)]
pub enum Material {
    /// It stood in the kubeconfig.
    Inline(Vec<u8>),
    /// It lies there; the path is absolute, or relative to the working directory as the kubeconfig's was.
    File(PathBuf),
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline(..)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Material {
    /// Its bytes.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(&self) -> Result<Vec<u8>, Error> {
        match self {
            Self::Inline(bytes) => Ok(bytes.clone()),
            Self::File(path) => read_capped(path),
        }
    }

    /// The file, if it lies in one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Inline(_) => None,
            Self::File(path) => Some(path),
        }
    }
}

impl Kubeconfig {
    /// Reads the current context of the file at `path`.
    ///
    /// # Errors
    /// One line that names the file and the key, never a value of it.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Self::parse(path, &read_capped(path)?)
    }

    /// Reads `bytes` as the content of `path`.
    ///
    /// # Errors
    /// As for [`Kubeconfig::read`].
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, Error> {
        let root: Value = serde_saphyr::from_slice(bytes).map_err(|e| Error::Syntax {
            path: path.to_path_buf(),
            line: e.location().map_or(1, |at| at.line()),
        })?;
        let file = Reader { path, root: &root };
        let name = file.text(&root, "", "current-context")?.ok_or_else(|| file.without("current-context"))?;
        let context = file.named("contexts", "context", &name)?;
        let cluster_name =
            file.text(context, "context.", "cluster")?.ok_or_else(|| file.without("cluster"))?;
        let user_name = file.text(context, "context.", "user")?.ok_or_else(|| file.without("user"))?;
        let cluster = file.named("clusters", "cluster", &cluster_name)?;
        let user = file.named("users", "user", &user_name)?;
        file.refuse_unsupported(cluster, user)?;
        Ok(Self {
            path: path.to_path_buf(),
            server: file.text(cluster, "cluster.", "server")?.ok_or_else(|| file.without("server"))?,
            tls_server_name: file.text(cluster, "cluster.", "tls-server-name")?,
            authority: file.material(cluster, "cluster.", "certificate-authority")?,
            certificate: file.material(user, "user.", "client-certificate")?,
            key: file.material(user, "user.", "client-key")?,
            token: file.token(user)?,
        })
    }

    /// The files that the kubeconfig is made of, itself first.
    pub fn files(&self) -> Vec<PathBuf> {
        let parts = [&self.authority, &self.certificate, &self.key, &self.token];
        let mut files = vec![self.path.clone()];
        for file in parts.into_iter().flatten().filter_map(Material::file) {
            if !files.iter().any(|known| known == file) {
                files.push(file.to_path_buf());
            }
        }
        files
    }
}

struct Reader<'a> {
    path: &'a Path,
    root: &'a Value,
}

impl<'a> Reader<'a> {
    fn without(&self, key: &str) -> Error {
        Error::Without { path: self.path.to_path_buf(), key: key.into() }
    }

    fn named(&self, list: &str, part: &str, name: &str) -> Result<&'a Value, Error> {
        let entries = self.root.get(list).and_then(Value::as_array).ok_or_else(|| self.without(list))?;
        entries
            .iter()
            .find(|entry| entry.get("name").and_then(Value::as_str) == Some(name))
            .and_then(|entry| entry.get(part))
            .filter(|entry| entry.is_object())
            .ok_or_else(|| Error::Dangling {
                path: self.path.to_path_buf(),
                part: part.into(),
                name: name.into(),
            })
    }

    /// A text that is there and not empty; client-go takes an empty one for none.
    fn text(&self, within: &Value, section: &str, key: &str) -> Result<Option<String>, Error> {
        match within.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Error::NotText { path: self.path.to_path_buf(), key: format!("{section}{key}") }),
        }
    }

    /// `KEY-data` (base64) wins over `KEY` (a path), as in client-go.
    fn material(&self, within: &Value, section: &str, key: &str) -> Result<Option<Material>, Error> {
        let inline = format!("{key}-data");
        if let Some(data) = self.text(within, section, &inline)? {
            let packed: String = data.split_whitespace().collect();
            let bytes = STANDARD.decode(packed).map_err(|_| Error::NotBase64 {
                path: self.path.to_path_buf(),
                key: format!("{section}{inline}"),
            })?;
            return Ok(Some(Material::Inline(bytes)));
        }
        Ok(self.text(within, section, key)?.map(|text| Material::File(self.resolve(&text))))
    }

    /// `tokenFile` wins over `token`, as in client-go.
    fn token(&self, user: &Value) -> Result<Option<Material>, Error> {
        if let Some(file) = self.text(user, "user.", "tokenFile")? {
            return Ok(Some(Material::File(self.resolve(&file))));
        }
        Ok(self.text(user, "user.", "token")?.map(|token| Material::Inline(token.into_bytes())))
    }

    fn resolve(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new(".")).join(path)
    }

    fn refuse_unsupported(&self, cluster: &Value, user: &Value) -> Result<(), Error> {
        let refused = |key: &str, why: &'static str| {
            Err(Error::Unsupported { path: self.path.to_path_buf(), key: key.into(), why })
        };
        let is_set = |within: &Value, key: &str| {
            within
                .get(key)
                .is_some_and(|v| !matches!(v, Value::Null | Value::Bool(false)) && v.as_str() != Some(""))
        };
        if is_set(cluster, "insecure-skip-tls-verify") {
            return refused(
                "insecure-skip-tls-verify",
                "anybody on the way could then read the node's Secrets hint: name the server's `certificate-authority`",
            );
        }
        if is_set(cluster, "proxy-url") {
            return refused(
                "proxy-url",
                "edge speaks to the cloud directly hint: route the traffic on the network layer",
            );
        }
        for key in ["exec", "auth-provider"] {
            if is_set(user, key) {
                return refused(
                    key,
                    "its program needs the cloud when it is gone hint: use a client certificate, or a bootstrap token",
                );
            }
        }
        for key in ["username", "password"] {
            if is_set(user, key) {
                return refused(
                    key,
                    "no API server takes passwords any more hint: use a client certificate, or a bootstrap token",
                );
            }
        }
        for key in ["as", "as-uid", "as-groups", "as-user-extra"] {
            if is_set(user, key) {
                return refused(key, "a node speaks for itself alone");
            }
        }
        Ok(())
    }
}

/// What stands in a kubeconfig that edge writes.
pub struct Written<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// Name of the user.
    pub user: &'a str,
    /// `https://...`
    pub server: &'a str,
    /// See [`Kubeconfig::tls_server_name`].
    pub tls_server_name: Option<&'a str>,
    /// See [`Kubeconfig::authority`].
    pub authority: Material,
    /// See [`Kubeconfig::certificate`].
    pub certificate: Material,
    /// See [`Kubeconfig::key`].
    pub key: Material,
}

impl Written<'_> {
    /// The file's text, YAML. A secret where the key is inline.
    pub fn text(&self) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        let field = |key: &str, material: &Material| match material {
            Material::Inline(bytes) => format!("    {key}-data: {}\n", STANDARD.encode(bytes)),
            Material::File(path) => format!("    {key}: {}\n", quoted(&path.display().to_string())),
        };
        let name = self.tls_server_name.map(|n| format!("    tls-server-name: {}\n", quoted(n)));
        let (cluster, user) = (quoted(self.cluster), quoted(self.user));
        format!(
            "# Written by edge join; edge leave takes it away.\n\
             apiVersion: v1\nkind: Config\ncurrent-context: {cluster}\n\
             contexts:\n- name: {cluster}\n  context:\n    cluster: {cluster}\n    user: {user}\n\
             clusters:\n- name: {cluster}\n  cluster:\n    server: {}\n{}{}\
             users:\n- name: {user}\n  user:\n{}{}",
            quoted(self.server),
            name.unwrap_or_default(),
            field("certificate-authority", &self.authority),
            field("client-certificate", &self.certificate),
            field("client-key", &self.key),
        )
    }
}

fn read_capped(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::Read(durable::named(e, "read", path)))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Error::TooLarge { path: path.to_path_buf(), most: MOST_BYTES });
    }
    Ok(bytes)
}
