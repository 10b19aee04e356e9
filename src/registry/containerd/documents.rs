//! The texts of containerd's files. Pure.

use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, value};

use super::{CERTS, ContainerdError, ContainerdSettings, LastResort};
use crate::oci::Upstream;

/// The plugin that pulls images, by version of the configuration.
const CRI_V2: &str = "io.containerd.grpc.v1.cri";
const CRI_V3: &str = "io.containerd.cri.v1.images";

/// containerd's configuration with a `config_path`, and the folder that it names. Untouched where it
/// has one.
pub(super) fn config(path: &Path, before: &str) -> Result<(String, PathBuf), ContainerdError> {
    let mut document = parse(path, before)?;
    let version = document.get("version").and_then(Item::as_integer);
    let plugin = match version {
        Some(version) if version >= 3 => CRI_V3,
        _ => CRI_V2,
    };
    let registry = document.get("plugins").and_then(|p| p.get(plugin)).and_then(|p| p.get("registry"));
    let filled = |key: &str| {
        registry.and_then(|r| r.get(key)).and_then(Item::as_table_like).is_some_and(|table| !table.is_empty())
    };
    if filled("mirrors") || filled("configs") {
        return Err(ContainerdError::Legacy(path.to_owned()));
    }
    let config_path = registry.and_then(|r| r.get("config_path")).and_then(Item::as_str).unwrap_or_default();
    if let Some(first) = config_path.split(':').find(|folder| !folder.is_empty()) {
        return Ok((before.to_owned(), first.into()));
    }
    let malformed = |why: &str| ContainerdError::Toml { path: path.to_owned(), why: why.to_owned() };
    if version == Some(1) || (version.is_none() && !before.trim().is_empty()) {
        return Err(malformed(
            "it is of version 1, which containerd no longer reads hint: `containerd config migrate`",
        ));
    }
    if version.is_none() {
        document.insert("version", value(2));
    }
    let mut table = document.as_table_mut();
    for key in ["plugins", plugin, "registry"] {
        let mut implicit = Table::new();
        implicit.set_implicit(true);
        let item = table.entry(key).or_insert(Item::Table(implicit));
        table = item.as_table_mut().ok_or_else(|| malformed("its plugins are no plain tables"))?;
    }
    table.insert("config_path", value(CERTS));
    Ok((document.to_string(), CERTS.into()))
}

/// A registry's `hosts.toml`: edge first, then what was there, then the registry itself.
pub(super) fn hosts(
    path: &Path,
    before: &str,
    upstream: &Upstream,
    settings: &ContainerdSettings,
) -> Result<String, ContainerdError> {
    let before = parse(path, before)?;
    let mut document = DocumentMut::new();
    match settings.last_resort {
        LastResort::Nobody => document["server"] = value(&settings.edge),
        LastResort::Registry => match before.get("server") {
            Some(server) => document["server"] = value(server.as_str().unwrap_or_default()),
            // For all registries there is no one server; containerd falls back to the one in the name.
            None if upstream.host == "_default" => {}
            None => document["server"] = value(&upstream.url),
        },
    }
    let mut edge = Table::new();
    edge["capabilities"] = value(Array::from_iter(["pull", "resolve"]));
    if let Some(authority) = &settings.authority {
        edge["ca"] = value(authority.display().to_string());
    }
    let mut hosts = Table::new();
    hosts.set_implicit(true);
    hosts.insert(&settings.edge, Item::Table(edge));
    if settings.last_resort == LastResort::Registry
        && let Some(others) = before.get("host").and_then(Item::as_table_like)
    {
        for (name, other) in others.iter().filter(|(name, _)| *name != settings.edge) {
            let mut other = other.clone();
            if let Some(table) = other.as_table_mut() {
                table.set_position(None);
            }
            hosts.insert(name, other);
        }
    }
    document.insert("host", Item::Table(hosts));
    Ok(format!(
        "# Written by edge. `edge registry configure-containerd --undo` puts back what was here.\n{document}"
    ))
}

fn parse(path: &Path, text: &str) -> Result<DocumentMut, ContainerdError> {
    text.parse().map_err(|e: toml_edit::TomlError| ContainerdError::Toml {
        path: path.to_owned(),
        why: e.message().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(last_resort: LastResort) -> ContainerdSettings {
        ContainerdSettings {
            config: "/c".into(),
            backup: "/b".into(),
            edge: "http://127.0.0.1:5000".into(),
            authority: None,
            hosts: Vec::new(),
            last_resort,
        }
    }

    fn hosts_of(before: &str, host: &str, last_resort: LastResort) -> String {
        let text = hosts(Path::new("/h"), before, &Upstream::of_host(host), &settings(last_resort)).unwrap();
        text.split_once('\n').unwrap().1.to_owned()
    }

    const EDGE: &str = "[host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n";

    #[test]
    fn edge_goes_first_and_the_registry_last() {
        let plain = hosts_of("", "docker.io", LastResort::Registry);
        assert_eq!(plain, format!("server = \"https://registry-1.docker.io\"\n\n{EDGE}"));
        assert_eq!(hosts_of("", "_default", LastResort::Registry), EDGE);
        let alone = hosts_of("server = 'https://x'\n[host.'https://m']\n", "q.io", LastResort::Nobody);
        assert_eq!(alone, format!("server = \"http://127.0.0.1:5000\"\n\n{EDGE}"));
        let before = "server = 'https://x'\n[host.'https://m']\nskip_verify = true\n";
        let behind = hosts_of(before, "q.io", LastResort::Registry);
        assert_eq!(
            behind,
            format!("server = \"https://x\"\n\n{EDGE}[host.\"https://m\"]\nskip_verify = true\n")
        );
    }

    #[test]
    fn config_path_is_set_only_where_it_is_not() {
        let set = |before: &str| config(Path::new("/c"), before);
        let (text, certs) = set("").unwrap();
        assert_eq!(certs, Path::new(CERTS));
        assert_eq!(
            text,
            format!(
                "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{CERTS}\"\n"
            )
        );
        let there = "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/a:/b'\n";
        assert_eq!(set(there).unwrap(), (there.to_owned(), "/a".into()));
        let kept =
            set("# mine\nversion = 3\n[plugins.'io.containerd.cri.v1.images']\nx = 1 # so\n").unwrap().0;
        assert!(
            kept.starts_with("# mine\n") && kept.contains("x = 1 # so") && kept.contains("config_path"),
            "{kept}"
        );
        let legacy = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry.mirrors.'docker.io']\nendpoint = []\n";
        assert!(matches!(set(legacy), Err(ContainerdError::Legacy(_))));
        assert!(matches!(set("root = '/x'"), Err(ContainerdError::Toml { .. })));
    }
}
