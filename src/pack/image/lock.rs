//! Which packages an image is made of: the lock file, and what differs between two.
//!
//! A mirror keeps only today's versions. The lock file, with the packages kept beside, is what makes an image again.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// The first lines of the file.
const HEAD: &str =
    "# The packages of an appliance image, written by edge-pack. With `--lock` the same are taken again.\n\n";

/// A package of the distribution, or of an archive that the board names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, as Debian writes it.
    pub version: String,
    /// `all`, or the machine it is for.
    pub architecture: String,
    /// Of its `.deb`, in hexadecimal.
    pub sha256: String,
    /// Where a package lies that is not the distribution's: the address of its `.deb` in an archive that the board names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl Package {
    /// The name of its file, as apt has it: a colon is `%3a`.
    pub fn file(&self) -> String {
        format!("{}_{}_{}.deb", self.name, self.version.replace(':', "%3a"), self.architecture)
    }
}

/// A package of the tools tree, or a compiler: it is not in the image, and decides its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Its version, as Debian or the compiler writes it.
    pub version: String,
}

/// All packages of an image, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Lock {
    /// The release they are of.
    pub suite: String,
    /// The machine they are for.
    pub architecture: String,
    /// The packages.
    pub package: Vec<Package>,
    /// What it was made with; nothing is said of it in the lock of an older edge-pack.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool: Vec<Tool>,
    /// What edge and kubelet were built with, as they say themselves; neither is a package, and both are in the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub toolchain: Vec<Tool>,
}

impl Lock {
    /// Reads a lock file.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read lock `{}`", path.display()))?;
        let mut lock: Self =
            toml::from_str(&text).with_context(|| format!("`{}` is no lock", path.display()))?;
        for package in &lock.package {
            let is_hex = package.sha256.len() == 64 && package.sha256.bytes().all(|b| b.is_ascii_hexdigit());
            ensure!(is_hex, "`{}`: the sha256 of `{}` is none", path.display(), package.name);
            let is_plain = !package.file().contains('/');
            ensure!(is_plain, "`{}`: `{}` is no name of a package", path.display(), package.name);
        }
        lock.package.sort();
        Ok(lock)
    }

    /// The text of the file.
    ///
    /// # Errors
    /// None that is known.
    pub fn text(&self) -> Result<String> {
        Ok(HEAD.to_owned() + &toml::to_string(self)?)
    }

    /// Which of the tools that the lock names are of other versions in `now`, a line for each.
    pub fn other_tools(&self, now: &[Tool]) -> Vec<String> {
        others(&self.tool, now)
    }

    /// The same of the compilers.
    pub fn other_toolchains(&self, now: &[Tool]) -> Vec<String> {
        others(&self.toolchain, now)
    }

    /// What differs in `other`, a line for each package: empty if nothing does.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let by_name = |lock: &Self| -> BTreeMap<String, Package> {
            lock.package.iter().map(|package| (package.name.clone(), package.clone())).collect()
        };
        let (ours, theirs) = (by_name(self), by_name(other));
        let mut lines = Vec::new();
        if (&self.suite, &self.architecture) != (&other.suite, &other.architecture) {
            lines.push(format!(
                "{} {} is now {} {}",
                self.suite, self.architecture, other.suite, other.architecture
            ));
        }
        for (name, package) in &ours {
            match theirs.get(name) {
                None => lines.push(format!("{name} {} is gone", package.version)),
                Some(now) if now.version != package.version => {
                    lines.push(format!("{name} {} is now {}", package.version, now.version));
                }
                Some(now) if now.sha256 != package.sha256 => {
                    lines.push(format!("{name} {} has another sha256", package.version))
                }
                Some(now) if now.architecture != package.architecture => {
                    lines.push(format!("{name} {} is now for {}", package.version, now.architecture));
                }
                // The same bytes, wherever they lie.
                Some(_) => {}
            }
        }
        let added = theirs.iter().filter(|(name, _)| !ours.contains_key(*name));
        lines.extend(added.map(|(name, package)| format!("{name} {} is new", package.version)));
        lines
    }
}

fn others(then: &[Tool], now: &[Tool]) -> Vec<String> {
    // One name may have several: C of two compilers is linked into one program.
    let line = |tool: &Tool| match now.iter().find(|now| now.name == tool.name) {
        _ if now.contains(tool) => None,
        Some(now) => Some(format!("{} {} is now {}", tool.name, tool.version, now.version)),
        None => Some(format!("{} {} is gone", tool.name, tool.version)),
    };
    then.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, sha256: &str) -> Package {
        Package {
            name: name.into(),
            version: version.into(),
            architecture: "arm64".into(),
            sha256: sha256.repeat(64),
            from: None,
        }
    }

    fn lock(package: Vec<Package>) -> Lock {
        let tool = |name: &str| Tool { name: name.into(), version: "1".into() };
        let tool = vec![tool("erofs-utils"), tool("mtools"), tool("zstd")];
        let toolchain = vec![Tool { name: "rustc".into(), version: "1.90.0 (1159e78c4 2025-09-14)".into() }];
        Lock { suite: "trixie".into(), architecture: "arm64".into(), package, tool, toolchain }
    }

    #[test]
    fn a_lock_is_read_as_it_was_written_and_tells_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let before = lock(vec![package("a", "1:2", "0"), package("b", "1", "0"), package("c", "1", "0")]);
        super::super::put(&path, before.text().unwrap().as_bytes(), 0o644).unwrap();
        assert_eq!(Lock::read(&path).unwrap(), before);
        assert_eq!(before.package[0].file(), "a_1%3a2_arm64.deb");
        assert_eq!(before.differences(&before), [""; 0]);
        let after = lock(vec![package("a", "1:3", "0"), package("b", "1", "f"), package("d", "4", "0")]);
        assert_eq!(
            before.differences(&after),
            ["a 1:2 is now 1:3", "b 1 has another sha256", "c 1 is gone", "d 4 is new"]
        );
        let mut tools = before.tool.clone();
        assert_eq!(before.other_tools(&tools), [""; 0]);
        tools[0].version = "2".into();
        tools.pop();
        assert_eq!(before.other_tools(&tools), ["erofs-utils 1 is now 2", "zstd 1 is gone"]);
        assert_eq!(before.other_toolchains(&before.toolchain), [""; 0]);
        assert_eq!(before.other_toolchains(&[]), ["rustc 1.90.0 (1159e78c4 2025-09-14) is gone"]);
        let gcc = |version: &str| Tool { name: "gcc".into(), version: version.into() };
        let two = Lock { toolchain: vec![gcc("14.2.0"), gcc("12.2.0")], ..before.clone() };
        assert_eq!(two.other_toolchains(&two.toolchain), [""; 0]);
        assert_eq!(two.other_toolchains(&[gcc("14.2.0")]), ["gcc 12.2.0 is now 14.2.0"]);
        // Another archive that has the same bytes is no other package.
        let mut moved = before.clone();
        moved.package[1].from = Some("https://own.test/b_1_arm64.deb".into());
        super::super::put(&path, moved.text().unwrap().as_bytes(), 0o644).unwrap();
        assert_eq!((Lock::read(&path).unwrap(), before.differences(&moved)), (moved, vec![]));
        // Of an older edge-pack.
        let older = before.text().unwrap();
        let (older, _) = older.split_once("[[tool]]").unwrap();
        super::super::put(&path, older.as_bytes(), 0o644).unwrap();
        assert_eq!(
            Lock::read(&path).unwrap(),
            Lock { tool: Vec::new(), toolchain: Vec::new(), ..before.clone() }
        );
        let spoilt = before.text().unwrap().replace(&"0".repeat(64), "0");
        super::super::put(&path, spoilt.as_bytes(), 0o644).unwrap();
        assert!(Lock::read(&path).unwrap_err().to_string().contains("the sha256 of `a` is none"));
    }
}
