//! What the two programs of an image are linked of: edge's crates, by the lock of this tree; kubelet's Go modules, as its
//! linker wrote them into it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, Result};
use serde::Deserialize;

/// The lock and the manifest that this program was built by, and with it the edge beside it.
const LOCK: &str = include_str!("../../../Cargo.lock");
const MANIFEST: &str = include_str!("../../../Cargo.toml");

/// A library.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module {
    /// As its package manager names it, such as `serde` or `k8s.io/api`.
    pub name: String,
    /// Such as `1.0.200` or `v0.36.3`.
    pub version: String,
    /// Of what was downloaded, in hexadecimal, where it is known.
    pub sha256: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

#[derive(Deserialize)]
struct Manifest {
    dependencies: BTreeMap<String, toml::Value>,
}

/// The crates that edge depends on, those of other platforms and of build scripts among them; not those of its tests alone.
///
/// # Errors
/// The lock and the manifest do not agree.
pub fn crates() -> Result<Vec<Module>> {
    crates_of(LOCK, MANIFEST)
}

fn crates_of(lock: &str, manifest: &str) -> Result<Vec<Module>> {
    let lock: Lock = toml::from_str(lock).context("Cargo.lock")?;
    let manifest: Manifest = toml::from_str(manifest).context("Cargo.toml")?;
    let named = |(name, value): (&String, &toml::Value)| {
        value.get("package").and_then(toml::Value::as_str).unwrap_or(name).to_owned()
    };
    let own: BTreeSet<String> = manifest.dependencies.iter().map(named).collect();
    let edge =
        lock.package.iter().find(|package| package.name == "edge").context("Cargo.lock has no edge")?;
    let is_own = |word: &&String| word.split(' ').next().is_some_and(|name| own.contains(name));
    let mut waiting: VecDeque<&String> = edge.dependencies.iter().filter(is_own).collect();
    let mut found = BTreeSet::new();
    while let Some(word) = waiting.pop_front() {
        // `name`, and `name version` where there are several.
        let (name, version) = word.split_once(' ').unwrap_or((word, ""));
        let fits =
            |package: &&Locked| package.name == name && (version.is_empty() || package.version == version);
        let package =
            lock.package.iter().find(fits).with_context(|| format!("Cargo.lock has no crate `{word}`"))?;
        let module = Module {
            name: package.name.clone(),
            version: package.version.clone(),
            sha256: package.checksum.clone(),
        };
        if found.insert(module) {
            waiting.extend(&package.dependencies);
        }
    }
    Ok(found.into_iter().collect())
}

/// What a Go program says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoProgram {
    /// The version of the module that it was built of, such as `v1.36.3`.
    pub version: String,
    /// Its module, such as `k8s.io/kubernetes`.
    pub module: String,
    /// The modules that it is linked of.
    pub dependencies: Vec<Module>,
    /// The Go that it was built with, such as `go1.26.1`, where it says so.
    pub go: Option<String>,
}

/// Reads it out of a program, as `go version -m` does. `None` for a program of another language, or one that hides it.
pub fn go_program(bytes: &[u8]) -> Option<GoProgram> {
    // Both begin and end with a mark of 16 bytes (cmd/go/internal/modload/build.go).
    const BEGIN: [u8; 16] =
        [0x30, 0x77, 0xaf, 0x0c, 0x92, 0x74, 0x08, 0x02, 0x41, 0xe1, 0xc1, 0x07, 0xe6, 0xd6, 0x18, 0xe6];
    const END: [u8; 16] =
        [0xf9, 0x32, 0x43, 0x31, 0x86, 0x18, 0x20, 0x72, 0x00, 0x82, 0x42, 0x10, 0x41, 0x16, 0xd8, 0xf2];
    let text = &bytes[find(bytes, &BEGIN)? + BEGIN.len()..];
    let text = std::str::from_utf8(&text[..find(text, &END)?]).ok()?;
    let (mut program, mut module) = (String::new(), None);
    let mut dependencies: Vec<Module> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let named =
            |name: &str, version: &str| Module { name: name.into(), version: version.into(), sha256: None };
        match words[..] {
            ["path", path] => program = path.to_owned(),
            ["mod", name, version, ..] => module = Some(named(name, version)),
            ["dep", name, version, ..] => dependencies.push(named(name, version)),
            // It stands in for the one before it.
            ["=>", name, version, ..] => {
                dependencies.pop();
                dependencies.push(named(name, version));
            }
            _ => {}
        }
    }
    // Built as a dependency of another module, its own is the one that its path begins with.
    let is_its_own = |of: &&Module| {
        program.strip_prefix(of.name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let own = module.iter().chain(&dependencies).filter(is_its_own).max_by_key(|of| of.name.len())?.clone();
    dependencies.retain(|of| of.name != own.name);
    dependencies.sort();
    dependencies.dedup();
    Some(GoProgram { version: own.version, module: own.name, dependencies, go: go_version(bytes) })
}

/// By the header of what a Go program tells of itself (debug/buildinfo): 14 bytes, the size of an address, flags; the second
/// flag says that the version follows at 32, after its length.
fn go_version(bytes: &[u8]) -> Option<String> {
    const HEADER: &[u8] = b"\xff Go buildinf:";
    let mut rest = bytes;
    loop {
        rest = &rest[find(rest, HEADER)?..];
        let length = rest.get(32).copied().filter(|length| *length < 0x80).map(usize::from);
        if rest.get(15).is_some_and(|flags| flags & 2 != 0)
            && let Some(text) = length.and_then(|length| rest.get(33..33 + length))
            && text.starts_with(b"go")
        {
            return std::str::from_utf8(text).ok().map(str::to_owned);
        }
        rest = &rest[HEADER.len()..];
    }
}

fn find(bytes: &[u8], words: &[u8]) -> Option<usize> {
    // The first byte is rare enough to make this quick.
    let first = words[0];
    let mut at = 0;
    while let Some(next) = bytes.get(at..)?.iter().position(|byte| *byte == first) {
        at += next;
        if bytes.get(at..at + words.len())? == words {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_those_that_edge_is_linked_of() {
        let all = crates().unwrap();
        let has = |name: &str| all.iter().any(|module| module.name == name);
        assert!(has("serde") && has("ring") && has("libsqlite3-sys") && all.len() > 150, "{}", all.len());
        assert!(all.iter().all(|module| module.sha256.as_ref().is_some_and(|sum| sum.len() == 64)));
        assert!(!has("tempfile") && !has("edge"), "a crate of the tests alone");
        let lock = "[[package]]\nname = 'edge'\nversion = '1'\ndependencies = ['a 2', 'c', 'd']\n\
            [[package]]\nname = 'a'\nversion = '1'\n[[package]]\nname = 'a'\nversion = '2'\ndependencies = ['b']\n\
            [[package]]\nname = 'b'\nversion = '3'\ndependencies = ['a 2']\n\
            [[package]]\nname = 'c'\nversion = '4'\n[[package]]\nname = 'd'\nversion = '5'\n";
        let found = crates_of(lock, "[dependencies]\na = '2'\nother = { package = 'd' }\n").unwrap();
        let found: Vec<String> = found.into_iter().map(|module| module.name + &module.version).collect();
        assert_eq!(found, ["a2", "b3", "d5"]);
    }

    #[test]
    fn a_go_program_says_what_it_is_linked_of() {
        let mark = |hex: &str| {
            (0..16).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect::<Vec<_>>()
        };
        let (begin, end) =
            (mark("3077af0c9274080241e1c107e6d618e6"), mark("f932433186182072008242104116d8f2"));
        let program =
            |text: &str| [&[0x7f, 0x30, 0x77, 0x30][..], &begin, text.as_bytes(), &end, b"rest"].concat();
        let text = "path\tk8s.io/kubernetes/cmd/kubelet\nmod\tk8s.io/kubernetes\tv1.36.3\th1:a=\n\
            dep\tk8s.io/api\tv0.0.0\n=>\t./staging/api\t(devel)\t\ndep\tcel.dev/expr\tv0.25.1\th1:b=\nbuild\t-compiler=gc\n";
        let found = go_program(&program(text)).unwrap();
        assert_eq!((found.module.as_str(), found.version.as_str()), ("k8s.io/kubernetes", "v1.36.3"));
        let names: Vec<&str> = found.dependencies.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["./staging/api", "cel.dev/expr"]);
        let inside = "path\tk8s.io/kubernetes/cmd/kubelet\nmod\tparts\t(devel)\ndep\tk8s.io/kubernetes\tv1.36.4\th1:a=\n";
        assert_eq!(go_program(&program(inside)).unwrap().version, "v1.36.4");
        assert_eq!(go_program(b"\x7fELF of another language"), None);
        assert_eq!(go_program(&program(text)).unwrap().go, None);
        // The words alone stand in whatever reads such headers.
        let told = [b"\xff Go buildinf:".as_slice(), &[8, 2], &[0; 16], b"\x08go1.26.1\x09path"].concat();
        let whole = [b"\xff Go buildinf: is none".as_slice(), &program(text), &told].concat();
        assert_eq!(go_program(&whole).unwrap().go.as_deref(), Some("go1.26.1"));
        assert_eq!(go_version(&told[..35]), None);
    }
}
