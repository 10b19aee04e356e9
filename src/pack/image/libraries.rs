//! What a program of the root is linked with: its loader and its libraries, found where Debian's loader looks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::root::ROOT;
use super::tools::Tools;

/// The loader that a program of the root names, and the libraries that it needs, by name.
///
/// # Errors
/// It names no loader; the root has not one of the libraries.
pub fn of(tools: &Tools, program: &str) -> Result<(String, BTreeMap<String, PathBuf>)> {
    // readelf reads the programs of any machine.
    let told = tools.run("readelf", ["-l", &format!("{ROOT}/{program}")])?;
    let loader = told.split("interpreter: ").nth(1).and_then(|rest| rest.split(']').next());
    let loader = loader.with_context(|| format!("`{program}` names no loader"))?.to_owned();
    let mut found = BTreeMap::new();
    let mut to_read = vec![format!("{ROOT}/{program}")];
    while let Some(path) = to_read.pop() {
        for line in tools.run("readelf", ["-d", &path])?.lines().filter(|line| line.contains("(NEEDED)")) {
            let name = line.split('[').nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
            if loader.ends_with(name) || found.contains_key(name) {
                continue;
            }
            let here = find(tools, name)?;
            to_read.push(format!("/work/{}", here.strip_prefix(tools.work())?.display()));
            found.insert(name.to_owned(), here);
        }
    }
    Ok((loader, found))
}

/// A library of the root by its name, as the loader of Debian finds it.
///
/// # Errors
/// The root has none of this name.
pub fn find(tools: &Tools, name: &str) -> Result<PathBuf> {
    let lib = tools.work().join("root/usr/lib");
    let triplets = fs::read_dir(&lib)?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut folders: Vec<_> =
        triplets.filter(|path| path.to_string_lossy().ends_with("-linux-gnu")).collect();
    folders.sort();
    folders.push(lib);
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
    found.with_context(|| format!("no package has the library `{name}`"))
}

/// Checks that a program that was not built with the root finds its loader and its libraries there, and in them what it
/// was linked with: a gateway would be the first to tell, when nothing starts.
///
/// # Errors
/// What is not there.
pub fn check(tools: &Tools, program: &str) -> Result<()> {
    let (loader, libraries) = of(tools, program)?;
    // Its folders are links within the root.
    let there = fs::symlink_metadata(tools.work().join("root").join(loader.trim_start_matches('/'))).is_ok();
    ensure!(there, "no package has the loader `{loader}`");
    let path = format!("{ROOT}/{program}");
    for (library, version) in versions(&tools.run("readelf", ["-V", &path])?, Version::Needed) {
        let Some(here) = libraries.get(&library) else { continue };
        let here = format!("/work/{}", here.strip_prefix(tools.work())?.display());
        let mut has = versions(&tools.run("readelf", ["-V", &here])?, Version::Defined).into_iter();
        ensure!(
            has.any(|(_, defined)| defined == version),
            "the image's library `{library}` has no `{version}`"
        );
    }
    Ok(())
}

/// Which versions of symbols `readelf -V` tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Needed,
    Defined,
}

/// The versions of symbols, each with its library where it is needed of one.
fn versions(told: &str, which: Version) -> BTreeSet<(String, String)> {
    let section = match which {
        Version::Needed => "Version needs section",
        Version::Defined => "Version definition section",
    };
    let word = |line: &str, key: &str| {
        line.split(key).nth(1).and_then(|rest| rest.split_whitespace().next()).map(str::to_owned)
    };
    let (mut is_it, mut library, mut found) = (false, String::new(), BTreeSet::new());
    for line in told.lines() {
        if line.starts_with("Version ") {
            is_it = line.starts_with(section);
        }
        library = word(line, "File: ").unwrap_or(library);
        // A weak one may be missing.
        if let Some(version) = word(line, "Name: ").filter(|_| is_it && !line.contains("Flags: WEAK")) {
            found.insert((library.clone(), version));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_that_a_program_needs_are_read() {
        let told = "\
Version symbols section '.gnu.version' contains 2 entries:
  000:   0 (*local*)       2 (GLIBC_2.34)

Version definition section '.gnu.version_d' contains 2 entries:
 Addr: 0x0000000000001234  Offset: 0x00001234  Link: 6 (.dynstr)
  000000: Rev: 1  Flags: BASE  Index: 1  Cnt: 1  Name: libown.so.1
  0x001c: Rev: 1  Flags: none  Index: 2  Cnt: 1  Name: OWN_1

Version needs section '.gnu.version_r' contains 1 entry:
 Addr: 0x0000000000001234  Offset: 0x00001234  Link: 6 (.dynstr)
  000000: Version: 1  File: libc.so.6  Cnt: 2
  0x0010:   Name: GLIBC_2.34  Flags: none  Version: 3
  0x0020:   Name: GLIBC_2.36  Flags: WEAK  Version: 2
  0x0030: Version: 1  File: libresolv.so.2  Cnt: 1
  0x0040:   Name: GLIBC_2.2.5  Flags: none  Version: 4
";
        let needed: Vec<_> = versions(told, Version::Needed).into_iter().collect();
        let pair = |library: &str, version: &str| (library.to_owned(), version.to_owned());
        assert_eq!(needed, [pair("libc.so.6", "GLIBC_2.34"), pair("libresolv.so.2", "GLIBC_2.2.5")]);
        assert!(versions(told, Version::Defined).contains(&pair("", "OWN_1")));
    }
}
