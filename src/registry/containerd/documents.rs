//! The texts of containerd's files. Pure.

use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, Value, value};

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
    let rows = |key: &str| registry.and_then(|r| r.get(key)).and_then(Item::as_table_like);
    // What containerd itself refuses beside a config_path. A credential, `configs.HOST.auth`, is good with it.
    let has_mirrors = rows("mirrors").is_some_and(|table| !table.is_empty());
    let has_tls = rows("configs").is_some_and(|table| table.iter().any(|(_, row)| row.get("tls").is_some()));
    if has_mirrors || has_tls {
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

/// The files that containerd takes in a registry's folder where that has no `hosts.toml`, by docker's pattern.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// `*.crt`: authorities.
    pub authorities: Vec<String>,
    /// `*.cert`: certificates of its own, and their `*.key` if there is one.
    pub own: Vec<(String, Option<String>)>,
}

impl Certificates {
    /// Finds them among the names in a folder.
    pub(super) fn among(mut names: Vec<String>) -> Self {
        names.sort();
        let ends =
            |end: &'static str| names.iter().filter_map(move |name| Some((name, name.strip_suffix(end)?)));
        let key = |stem: &str| Some(format!("{stem}.key")).filter(|key| names.contains(key));
        Self {
            authorities: ends(".crt").map(|(name, _)| name.clone()).collect(),
            own: ends(".cert").map(|(name, stem)| (name.clone(), key(stem))).collect(),
        }
    }

    /// The same as keys of a `hosts.toml` beside them.
    fn say(&self, document: &mut DocumentMut) {
        if !self.authorities.is_empty() {
            document["ca"] = value(Array::from_iter(self.authorities.iter().map(String::as_str)));
        }
        if !self.own.is_empty() {
            let one = |(certificate, key): &(String, Option<String>)| match key {
                Some(key) => Value::from(Array::from_iter([certificate.as_str(), key.as_str()])),
                None => Value::from(certificate.as_str()),
            };
            document["client"] = value(Array::from_iter(self.own.iter().map(one)));
        }
    }
}

/// A registry's `hosts.toml`: edge first, then what was there, then the registry itself, asked as it was before.
pub(super) fn hosts(
    path: &Path,
    before: &str,
    beside: &Certificates,
    upstream: &Upstream,
    settings: &ContainerdSettings,
) -> Result<String, ContainerdError> {
    let had_none = before.is_empty();
    let before = parse(path, before)?;
    let mut document = DocumentMut::new();
    match settings.last_resort {
        LastResort::Nobody => document["server"] = value(&settings.edge),
        LastResort::Registry => {
            match before.get("server") {
                Some(server) => document["server"] = value(server.as_str().unwrap_or_default()),
                // For all registries there is no one server; containerd falls back to the one in the name.
                None if upstream.host == "_default" => {}
                None => document["server"] = value(&upstream.url),
            }
            // What stands above all hosts is about the server: its authority, headers, capabilities.
            for (key, item) in before.iter().filter(|(key, _)| !["server", "host"].contains(key)) {
                document[key] = placed_anew(item);
            }
            if had_none {
                beside.say(&mut document);
            }
        }
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
            hosts.insert(name, placed_anew(other));
        }
    }
    document.insert("host", Item::Table(hosts));
    Ok(format!(
        "# Written by edge. `edge registry configure-containerd --undo` puts back what was here.\n{document}"
    ))
}

/// The same without the place that it had in its document, for itself and the tables within.
fn placed_anew(item: &Item) -> Item {
    let mut item = item.clone();
    if let Some(table) = item.as_table_mut() {
        table.set_position(None);
        for (_, within) in table.iter_mut() {
            *within = placed_anew(within);
        }
    }
    item
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
        hosts_beside(before, &Certificates::default(), host, last_resort)
    }

    fn hosts_beside(before: &str, beside: &Certificates, host: &str, last_resort: LastResort) -> String {
        let (upstream, settings) = (Upstream::of_host(host), settings(last_resort));
        let text = hosts(Path::new("/h"), before, beside, &upstream, &settings).unwrap();
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
    fn the_server_is_asked_as_it_was_before() {
        let before = "ca = '/etc/ca.crt'\nserver = 'https://x'\nskip_verify = false\ncapabilities = ['pull']\n\
                      dial_timeout = '3s'\noverride_path = true\nclient = [['/c', '/k']]\n\
                      [host.'https://m']\nca = '/m.crt'\n[host.'https://m'.header]\nx-m = ['1']\n\
                      [header]\nx-y = ['a', 'b']\n";
        let read = |text: &str| text.parse::<DocumentMut>().unwrap();
        let (old, new) = (read(before), read(&hosts_of(before, "q.io", LastResort::Registry)));
        let plain = |document: &DocumentMut, key: &str| {
            document[key].clone().into_value().unwrap().to_string().replace('\'', "\"")
        };
        for key in [
            "server",
            "ca",
            "skip_verify",
            "capabilities",
            "dial_timeout",
            "override_path",
            "client",
            "header",
        ] {
            assert_eq!(plain(&new, key).trim(), plain(&old, key).trim(), "{key}");
        }
        assert_eq!(new["host"]["https://m"]["header"]["x-m"][0].as_str(), Some("1"));
        assert_eq!(new["host"]["https://m"]["ca"].as_str(), Some("/m.crt"));
        let names: Vec<&str> = new["host"].as_table_like().unwrap().iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["http://127.0.0.1:5000", "https://m"]);
        assert!(new["host"]["http://127.0.0.1:5000"].get("ca").is_none());
        // edge is another server.
        let alone = read(&hosts_of(before, "q.io", LastResort::Nobody));
        assert!(alone.get("ca").is_none() && alone.get("header").is_none(), "{alone}");
    }

    #[test]
    fn dockers_certificates_count_where_there_was_no_hosts_toml() {
        let names = ["b.crt", "a.crt", "me.cert", "me.key", "old.cert", "stray.key", "hosts.toml"];
        let beside = Certificates::among(names.map(str::to_owned).to_vec());
        let text = hosts_beside("", &beside, "q.io", LastResort::Registry);
        let says = "server = \"https://q.io\"\nca = [\"a.crt\", \"b.crt\"]\nclient = [[\"me.cert\", \"me.key\"], \"old.cert\"]\n";
        assert_eq!(text, format!("{says}\n{EDGE}"));
        let text = hosts_beside("server = 'https://x'\n", &beside, "q.io", LastResort::Registry);
        assert!(!text.contains("ca = "), "containerd reads none beside a hosts.toml: {text}");
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
        let of = |key: &str| {
            format!(
                "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry.configs.'q.io'.{key}]\nx = 'y'\n"
            )
        };
        assert!(matches!(set(&of("tls")), Err(ContainerdError::Legacy(_))));
        let kept = set(&of("auth")).unwrap().0;
        assert!(kept.contains("configs.'q.io'.auth") && kept.contains(CERTS), "{kept}");
        assert!(matches!(set("root = '/x'"), Err(ContainerdError::Toml { .. })));
    }
}
