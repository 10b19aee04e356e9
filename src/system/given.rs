//! The files of a first boot's configuration: their names, where each goes, and when one is good.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::data::RESET;
use super::{Places, network};
use crate::sys::yaml;
use crate::trust::Chain;
use crate::trust::certificate::authorities;

/// The largest file that is taken, in bytes.
const LARGEST: u64 = 1 << 20;
/// Files that are taken of each folder.
const MOST: usize = 200;

/// Entries of a folder that are looked at for wrong names, and wrong names that are told.
const MOST_LISTED: usize = 1000;
const MOST_TOLD: usize = 10;

/// A file that may be given: its name, the place where it is looked for, and its permissions there.
#[derive(Clone, Copy, Debug)]
pub struct One {
    /// Below the source.
    pub name: &'static str,
    /// A path of the appliance.
    pub to: &'static str,
    /// Its permissions there.
    pub mode: u32,
}

/// The one that is put in place last: where it is, all of this was done.
pub const FIRST: One = One { name: "edge.toml", to: "/var/etc/edge/edge.toml", mode: 0o600 };
/// The cloud's credentials.
pub const KUBECONFIG: &str = "cloud.kubeconfig";
/// The authority of the cloud's clients, by which kubelet knows the API server when that asks it something.
const CLIENT_CA: One = One { name: "client-ca.crt", to: "/var/etc/edge/client-ca.crt", mode: 0o644 };
const FILES: [One; 5] = [
    FIRST,
    One { name: KUBECONFIG, to: "/var/etc/edge/given.kubeconfig", mode: 0o600 },
    CLIENT_CA,
    One { name: "1.root.json", to: "/var/etc/edge/1.root.json", mode: 0o644 },
    One { name: "authorized_keys", to: "/var/etc/edge/authorized_keys", mode: 0o600 },
];
/// Folders of which all files are taken that end in one of these ways.
pub const FOLDERS: [One; 3] = [
    One { name: "static-pods", to: "/var/lib/kubelet/static-pods", mode: 0o600 },
    // systemd-networkd reads them as a user of its own.
    One { name: "network", to: "/var/etc/systemd/network", mode: 0o644 },
    KUBELET,
];
const KUBELET: One = One { name: "kubelet.d", to: "/var/etc/edge/kubelet.d", mode: 0o600 };
const ENDS: [&[&str]; 3] = [&[".yaml", ".yml"], &[".network"], &[".conf"]];

/// A file that a source may hold.
#[derive(Clone, Debug)]
pub struct Given {
    /// Below the source, such as `static-pods/web.yaml`.
    pub name: String,
    /// A path of the appliance.
    pub to: String,
    /// Its permissions there.
    pub mode: u32,
}

/// What only the whole of edge can judge.
pub trait Checks {
    /// Whether a text can be `edge.toml`.
    ///
    /// # Errors
    /// One line.
    fn configuration(&self, text: &str) -> Result<(), String>;

    /// Whether bytes are a kubeconfig with credentials.
    ///
    /// # Errors
    /// One line.
    fn kubeconfig(&self, bytes: &[u8]) -> Result<(), String>;
}

/// All that a source may hold: the files of fixed names, whether they are there or not, and those in its folders.
pub fn all(folder: &Path) -> Vec<Given> {
    let given = |name: String, to: String, mode| Given { name, to, mode };
    let mut all: Vec<Given> =
        FILES.iter().map(|one| given(one.name.to_owned(), one.to.to_owned(), one.mode)).collect();
    for (inner, ends) in FOLDERS.iter().zip(ENDS) {
        for name in within(&folder.join(inner.name), ends) {
            all.push(given(format!("{}/{name}", inner.name), format!("{}/{name}", inner.to), inner.mode));
        }
    }
    all
}

/// One line for all in a source that bears no name of ours, with the nearest that would be one; `shown` is the source. A file
/// that is named a little wrong is one that its owner waits for.
pub fn strangers(folder: &Path, shown: &str) -> Option<String> {
    let mut told: Vec<String> = Vec::new();
    for name in listed(folder) {
        let one = FOLDERS.iter().zip(ENDS).find(|(one, _)| one.name == name);
        if let Some((one, ends)) = one {
            let wrong = listed(&folder.join(&name)).into_iter().filter(|name| !is_taken(name, ends));
            told.extend(
                wrong.map(|name| format!("`{}/{name}` (they end in `{}`)", one.name, ends.join("` or `"))),
            );
        } else if name != RESET && FILES.iter().all(|one| one.name != name) {
            told.push(match nearest(&name) {
                Some(nearest) => format!("`{name}` (`{nearest}`?)"),
                None => format!("`{name}`"),
            });
        }
    }
    let more = told.len().saturating_sub(MOST_TOLD);
    told.truncate(MOST_TOLD);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!told.is_empty())
        .then(|| format!("not taken from {shown}, no file of a configuration: {}{more}", told.join(", ")))
}

/// The name that a file is probably meant to bear: editors add an end, and people leave a word out.
fn nearest(name: &str) -> Option<&'static str> {
    let given = name.to_lowercase().replace(['_', ' '], "-");
    let likeness = |one: &One| strsim::normalized_damerau_levenshtein(&one.name.replace('_', "-"), &given);
    let known = FILES.iter().chain(&FOLDERS).map(|one| (likeness(one), one.name));
    known.filter(|(likeness, _)| *likeness > 0.6).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// The names in a folder in order, but for hidden ones, which systems leave on sticks.
fn listed(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().take(MOST_LISTED);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().escape_debug().to_string());
    let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

fn is_taken(name: &str, ends: &[&str]) -> bool {
    !name.starts_with('.') && ends.iter().any(|end| name.ends_with(end))
}

/// Their names.
pub fn names(folder: &Path) -> Vec<String> {
    all(folder).into_iter().map(|given| given.name).collect()
}

/// Whether there is anything that would be taken.
pub fn has_something(folder: &Path) -> bool {
    names(folder).iter().any(|name| folder.join(name).symlink_metadata().is_ok())
}

fn within(folder: &Path, ends: &[&str]) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().to_str().map(str::to_owned));
    let mut names: Vec<String> = names.filter(|name| is_taken(name, ends)).collect();
    names.sort();
    names.truncate(MOST);
    names
}

/// Whether a file is what its name says; else why not, in one line.
///
/// # Errors
/// One line.
pub fn check(name: &str, bytes: &[u8], checks: &dyn Checks) -> Result<(), String> {
    let text = || std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned());
    match name {
        "edge.toml" => checks.configuration(text()?),
        KUBECONFIG => checks.kubeconfig(bytes),
        "client-ca.crt" => authorities(bytes).map(drop),
        "1.root.json" => Chain::begin(bytes.to_vec(), name).map(drop).map_err(|e| e.to_string()),
        "authorized_keys" => check_keys(bytes),
        _ if name.ends_with(".network") => network::check(text()?),
        _ if name.ends_with(".conf") => check_kubelet(text()?),
        _ => check_pod(text()?),
    }
}

/// Whether a file holds public keys for SSH, one a line, and nothing else; else why not, in one line.
///
/// # Errors
/// One line.
pub fn check_keys(bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_key = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let kind =
            |word: &&str| word.starts_with("ssh-") || word.starts_with("ecdsa-") || word.starts_with("sk-");
        words
            .iter()
            .position(kind)
            .is_some_and(|at| words.get(at + 1).is_some_and(|key| key.starts_with("AAAA")))
    };
    match lines.clone().find(|line| !is_key(line)) {
        Some(line) => Err(format!("`{}` is no public key", line.chars().take(40).collect::<String>())),
        None if lines.next().is_none() => Err("it holds no public key".into()),
        None => Ok(()),
    }
}

/// Whether a first boot would take every file of a folder of static pods; else which it would not, and why, in one
/// line.
///
/// # Errors
/// One line.
pub fn check_pods(folder: &Path) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("`{}`: {e}", folder.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in &paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let wrong = |why: String| Err(format!("`{}`: {why}", path.display()));
        if name.starts_with('.') || !ENDS[0].iter().any(|end| name.ends_with(end)) {
            return wrong(format!("its name does not end in {}", ENDS[0].join(" or ")));
        }
        let checked = small(path).and_then(|bytes| {
            let text =
                String::from_utf8(bytes.unwrap_or_default()).map_err(|_| "it is no text".to_owned())?;
            check_pod(&text)
        });
        if let Err(why) = checked {
            return wrong(why);
        }
    }
    match paths.len() {
        0 => Err(format!("`{}` is empty", folder.display())),
        many if many > MOST => Err(format!("`{}` holds more than {MOST} files", folder.display())),
        _ => Ok(()),
    }
}

fn check_pod(text: &str) -> Result<(), String> {
    let pod: serde_json::Value = serde_saphyr::from_str(text).map_err(|e| format!("it is no YAML: {e}"))?;
    let is_pod = pod["kind"] == "Pod" && pod["apiVersion"] == "v1";
    let named = pod["metadata"]["name"].as_str().is_some_and(|name| !name.is_empty());
    let runs = pod["spec"]["containers"].as_array().is_some_and(|all| !all.is_empty());
    if is_pod && named && runs {
        Ok(())
    } else {
        Err("it is no Pod of `v1` with a name and containers".into())
    }
}

/// Whether a text is a piece of kubelet's configuration, in the words that kubelet asks of each file. What its settings are
/// worth only kubelet knows.
fn check_kubelet(text: &str) -> Result<(), String> {
    let config: serde_json::Value = yaml::read(text).map_err(|e| format!("it is no YAML: {e}"))?;
    let is_ours =
        config["kind"] == "KubeletConfiguration" && config["apiVersion"] == "kubelet.config.k8s.io/v1beta1";
    if is_ours {
        Ok(())
    } else {
        Err("it is no KubeletConfiguration of `kubelet.config.k8s.io/v1beta1`".into())
    }
}

/// The owner's settings for kubelet that it can be given, by name and in order, and one line for each file that it would not
/// start with.
pub fn own_kubelet(places: &Places) -> (Vec<(String, Vec<u8>)>, Vec<String>) {
    let (folder, mut good, mut wrong) = (places.at(KUBELET.to), Vec::new(), Vec::new());
    for name in within(&folder, ENDS[2]) {
        let found = small(&folder.join(&name)).and_then(|bytes| {
            let bytes = bytes.ok_or("it is gone")?;
            check_kubelet(std::str::from_utf8(&bytes).map_err(|_| "it is no text")?)?;
            Ok(bytes)
        });
        match found {
            Ok(bytes) => good.push((name, bytes)),
            Err(why) => wrong.push(format!("`/etc/edge/{}/{name}` is not in force: {why}", KUBELET.name)),
        }
    }
    (good, wrong)
}

/// Where the owner's word lies on whom kubelet knows as the cloud; `None` where there is none.
///
/// # Errors
/// One line, where it holds no authority: kubelet would not start with it.
pub fn client_ca(places: &Places) -> Result<Option<PathBuf>, String> {
    let path = places.at(CLIENT_CA.to);
    let held = small(&path).and_then(|bytes| bytes.map(|bytes| authorities(&bytes).map(drop)).transpose());
    held.map(|held| held.map(|()| path)).map_err(|why| format!("`/etc/edge/{}`: {why}", CLIENT_CA.name))
}

/// A small plain file; never through a link, which on a stick could lead anywhere.
///
/// # Errors
/// One line, where it is there and cannot be taken.
pub fn small(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let opened = File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e.to_string()),
    };
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("it is not a plain file".into());
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > LARGEST {
        return Err("it has more than 1 MiB".into());
    }
    Ok(Some(bytes))
}
