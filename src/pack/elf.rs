//! What a built program is for, read from its ELF header.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// A kind of machine, by Debian's and snapd's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// x86-64.
    Amd64,
    /// ARM, 64 bits.
    Arm64,
    /// ARMv7 with hard floats.
    Armhf,
}

impl Machine {
    /// As snapd writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Armhf => "armhf",
        }
    }

    /// `e_machine`, and whether words are of 64 bits.
    fn header(self) -> (u16, bool) {
        match self {
            Self::Amd64 => (62, true),
            Self::Arm64 => (183, true),
            Self::Armhf => (40, false),
        }
    }
}

/// Checks that the program at `path` runs on `machine` by itself: the base of the snap has no loader and no library.
///
/// # Errors
/// What else it is.
pub fn check(path: &Path, machine: Machine) -> Result<()> {
    let bytes = std::fs::read(path).with_context(|| {
        format!("cannot read `{}` hint: scripts/snap --arch {} builds it", path.display(), machine.name())
    })?;
    check_bytes(&bytes, machine)
        .with_context(|| format!("`{}` is no static program for {}", path.display(), machine.name()))
}

/// The loader that the program at `path` needs, if it needs one.
///
/// # Errors
/// It cannot be read, or is no program for `machine`.
pub fn loader_of(path: &Path, machine: Machine) -> Result<Option<String>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    loader(&bytes, machine)
        .with_context(|| format!("`{}` is no program for {}", path.display(), machine.name()))
}

/// The machine that the program at `path` is for.
///
/// # Errors
/// It cannot be read, or is for none of ours.
pub fn machine_of(path: &Path) -> Result<Machine> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let number = number_at(&bytes, 18, 2);
    let all = [Machine::Amd64, Machine::Arm64, Machine::Armhf];
    let found = all.into_iter().find(|machine| number == Some(machine.header().0.into()));
    found.with_context(|| format!("`{}` is a program for no machine that edge runs on", path.display()))
}

fn check_bytes(bytes: &[u8], machine: Machine) -> Result<()> {
    ensure!(loader(bytes, machine)?.is_none(), "it needs a loader");
    Ok(())
}

/// The path of the loader that a program for `machine` needs, if it needs one.
///
/// # Errors
/// It is no program for that machine.
pub fn loader(bytes: &[u8], machine: Machine) -> Result<Option<String>> {
    let (number, wide) = machine.header();
    ensure!(bytes.get(..4) == Some(b"\x7fELF"), "it is no ELF file");
    ensure!(bytes.get(4) == Some(if wide { &2 } else { &1 }), "its words are of another size");
    ensure!(number_at(bytes, 18, 2) == Some(number.into()), "it is for another machine");
    let (table, size, count) = if wide { ((32, 8), 54, 56) } else { ((28, 4), 42, 44) };
    // Of a program header: where its bytes are in the file, and how many.
    let (offset, length) = if wide { ((8, 8), (32, 8)) } else { ((4, 4), (16, 4)) };
    let header = || {
        let (table, size, count) =
            (number_at(bytes, table.0, table.1)?, number_at(bytes, size, 2)?, number_at(bytes, count, 2)?);
        let mut path = Some(None);
        for entry in 0..count {
            let at = table.checked_add(entry * size)?;
            // PT_INTERP: the path of a loader.
            if number_at(bytes, at, 4)? == 3 {
                let begin = number_at(bytes, at.checked_add(offset.0)?, offset.1)?;
                let length = number_at(bytes, at.checked_add(length.0)?, length.1)?;
                path = Some(Some(bytes.get(begin..begin.checked_add(length)?)?));
            }
        }
        path
    };
    let path = header().context("its header is cut short")?;
    Ok(path.map(|path| String::from_utf8_lossy(path).trim_end_matches('\0').to_owned()))
}

/// The compilers that a program of 64 bits names in its section `.comment`, each with its version: `rustc`, `gcc`.
pub fn compilers(bytes: &[u8]) -> Vec<(String, String)> {
    let text = section(bytes, b".comment").unwrap_or_default();
    let mut found = Vec::new();
    for line in text.split(|byte| *byte == 0).map(String::from_utf8_lossy) {
        let names = [("rustc", "rustc version "), ("gcc", "GCC: ")];
        let named = names.iter().find_map(|(name, begin)| Some((*name, line.strip_prefix(begin)?)));
        found.extend(named.map(|(name, version)| (name.to_owned(), version.trim().to_owned())));
    }
    found.sort();
    found.dedup();
    found
}

/// The bytes of a section, by its name.
fn section<'a>(bytes: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (table, size, count) = (number_at(bytes, 40, 8)?, number_at(bytes, 58, 2)?, number_at(bytes, 60, 2)?);
    let header = |index: usize| bytes.get(table.checked_add(index * size)?..)?.get(..size);
    let content = |header: &[u8]| {
        let (begin, length) = (number_at(header, 24, 8)?, number_at(header, 32, 8)?);
        bytes.get(begin..begin.checked_add(length)?)
    };
    let names = content(header(number_at(bytes, 62, 2)?)?)?;
    (0..count).filter_map(header).find_map(|header| {
        let found = names.get(number_at(header, 0, 4)?..)?.strip_prefix(name)?;
        (found.first() == Some(&0)).then(|| content(header))?
    })
}

/// A number of `size` bytes, the lowest first.
fn number_at(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(size)?)?;
    bytes
        .iter()
        .rev()
        .try_fold(0_usize, |number, byte| number.checked_mul(256)?.checked_add(usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with one program header of this type.
    fn program(machine: u16, kind: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56_u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&1_u16.to_le_bytes());
        bytes[64..68].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    #[test]
    fn a_program_names_its_compilers() {
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let found = compilers(&me);
        let rustc = found.iter().find(|(name, _)| name == "rustc").map(|(_, version)| version.as_str());
        assert!(rustc.is_some_and(|version| version.starts_with("1.")), "{found:?}");
        // What is cut short or names none names none.
        for length in [0, 40, 64, me.len() / 2] {
            assert_eq!(compilers(&me[..length]), []);
        }
        assert_eq!(compilers(&program(62, 1)), []);
    }

    #[test]
    fn only_a_static_program_for_the_machine_passes() {
        let told = |bytes: &[u8], machine| check_bytes(bytes, machine).map_err(|e| e.to_string());
        assert_eq!(told(&program(183, 1), Machine::Arm64), Ok(()));
        assert_eq!(told(&program(62, 1), Machine::Arm64), Err("it is for another machine".into()));
        assert_eq!(told(&program(183, 3), Machine::Arm64), Err("it needs a loader".into()));
        assert_eq!(told(&program(40, 1), Machine::Armhf), Err("its words are of another size".into()));
        assert_eq!(told(b"#!/bin/sh\n", Machine::Amd64), Err("it is no ELF file".into()));
        assert_eq!(told(&program(183, 1)[..60], Machine::Arm64), Err("its header is cut short".into()));
    }
}
