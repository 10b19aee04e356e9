//! What is different between machines: `config/boards/*.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::pack::Usage;
use crate::pack::elf::Machine;

/// The boards that edge-pack knows by name.
const KNOWN: [(&str, &str); 2] = [
    ("generic-efi", include_str!("../../../config/boards/generic-efi.toml")),
    ("raspberry-pi", include_str!("../../../config/boards/raspberry-pi.toml")),
];

/// A kind of machine, as one file describes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Board {
    /// Its name: the file's.
    #[serde(skip)]
    pub name: String,
    /// How it finds what to boot.
    pub boot: Boot,
    /// More of Debian's components than `main`.
    #[serde(default)]
    pub components: Vec<String>,
    /// Archives of packages beside Debian's.
    #[serde(default)]
    pub archive: Vec<Archive>,
    /// How large the partitions are.
    pub partitions: Partitions,
    /// Whether a device reboots it when it hangs.
    pub watchdog: Option<Watchdog>,
    /// By architecture, as Debian names it.
    machine: BTreeMap<String, Kernel>,
}

/// An archive of packages, as apt takes one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Archive {
    /// Such as `https://HOST/debian`.
    pub address: String,
    /// Such as `trixie`.
    pub suite: String,
    /// Such as `main`.
    pub components: Vec<String>,
    /// The keys that sign it, `.gpg` or `.asc`; below the folder of the board's file.
    pub key: PathBuf,
}

impl Archive {
    /// Whether it can stand in a line of apt's.
    fn check(&self) -> Result<()> {
        let words = [&self.address, &self.suite].into_iter().chain(&self.components);
        for word in words.clone() {
            let is_word = !word.is_empty()
                && word.bytes().all(|byte| byte.is_ascii_graphic() && !b"[]#".contains(&byte));
            ensure!(is_word, "`{word}` is no word of an archive");
        }
        ensure!(
            !self.components.is_empty(),
            "archive `{}` has no components hint: such as `main`",
            self.address
        );
        let end = self.key.extension().and_then(|end| end.to_str());
        ensure!(
            matches!(end, Some("gpg" | "asc")),
            "`{}` is no key hint: `.gpg` or `.asc`",
            self.key.display()
        );
        Ok(())
    }
}

/// How a machine finds what to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// UEFI starts systemd-boot, which counts tries.
    SystemdBoot,
    /// The Raspberry Pi's own boot loader, which tries one of two boot partitions once.
    RaspberryPi,
}

/// Sizes in MiB.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Partitions {
    /// The FAT that the firmware reads.
    pub esp: u64,
    /// Each of two boot partitions; 0 where the ESP is the one.
    #[serde(default)]
    pub boot: u64,
    /// Each root.
    pub root: u64,
    /// Each tree of hashes.
    pub verity: u64,
    /// Who the machine is.
    pub identity: u64,
    /// Data, before it grows to the end of the disk.
    pub data: u64,
}

/// Times as systemd writes them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Watchdog {
    /// How long systemd may say nothing.
    pub runtime: String,
    /// How long a reboot may take.
    pub reboot: String,
}

/// The kernel of one architecture.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Kernel {
    /// Packages: the kernel, and firmware if there is any.
    pub packages: Vec<String>,
    /// The kernel's consoles; the last is where edge and systemd write.
    pub console: Vec<String>,
    /// Modules that the initrd loads, with what they need, in this order. One that the kernel has built in is left out; one
    /// that it does not have is an error.
    pub modules: Vec<String>,
    /// More words of the kernel's command line.
    #[serde(default)]
    pub command_line: Vec<String>,
    /// Device trees, below the folder of them in the kernel's package.
    #[serde(default)]
    pub device_trees: Vec<String>,
    /// Files of the root that the boot loader wants beside the kernel.
    #[serde(default)]
    pub firmware: Vec<String>,
}

impl Boot {
    /// As a board's file writes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::SystemdBoot => "systemd-boot",
            Self::RaspberryPi => "raspberry-pi",
        }
    }
}

impl Board {
    /// The board of this name, or of the file at this path.
    ///
    /// # Errors
    /// There is none; the file says something that no board has.
    pub fn find(name: &str) -> Result<Self> {
        let known = KNOWN.iter().find(|(known, _)| *known == name);
        let path = known.is_none().then(|| PathBuf::from(name));
        let (name, text) = match known {
            Some((name, text)) => ((*name).to_owned(), (*text).to_owned()),
            None if name.ends_with(".toml") => {
                let stem = Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
                (stem, std::fs::read_to_string(name).with_context(|| format!("cannot read board `{name}`"))?)
            }
            None => {
                let names: Vec<&str> = KNOWN.iter().map(|(name, _)| *name).collect();
                let why =
                    format!("no board `{name}` hint: {}, or a path that ends in .toml", names.join(", "));
                return Err(Usage(why).into());
            }
        };
        let mut board: Self = toml::from_str(&text).with_context(|| format!("board `{name}`"))?;
        ensure!(!board.machine.is_empty(), "board `{name}` has no machine");
        let folder = path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        for archive in &mut board.archive {
            archive.check().with_context(|| format!("board `{name}`"))?;
            archive.key = folder.join(&archive.key);
        }
        let has_two = board.partitions.boot > 0;
        ensure!(
            has_two == (board.boot == Boot::RaspberryPi),
            "board `{name}`: partitions.boot is for boot = \"raspberry-pi\", and needed there"
        );
        board.name = name;
        Ok(board)
    }

    /// What it has for a machine.
    ///
    /// # Errors
    /// Nothing: it is not made with such.
    pub fn kernel(&self, machine: Machine) -> Result<&Kernel> {
        let names = || self.machine.keys().cloned().collect::<Vec<_>>().join(", ");
        self.machine.get(machine.name()).with_context(|| {
            format!("board `{}` is no {} hint: it is {}", self.name, machine.name(), names())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_board_of_the_repository_is_known_and_says_what_a_board_says() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/boards");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let by_path = Board::find(path.to_str().unwrap()).unwrap();
            let is_known = KNOWN.iter().any(|(name, _)| *name == by_path.name);
            assert!(is_known || by_path.name == "template", "{}", by_path.name);
            count += 1;
        }
        assert!(count >= KNOWN.len());
        let board = Board::find("generic-efi").unwrap();
        assert_eq!(board.kernel(Machine::Arm64).unwrap().packages, ["linux-image-arm64"]);
        assert!(board.kernel(Machine::Armhf).unwrap_err().to_string().contains("hint: it is amd64, arm64"));
        assert!(board.archive.is_empty());
        assert!(Board::find("toaster").unwrap_err().to_string().contains("no board `toaster`"));
    }

    #[test]
    fn an_archive_is_signed_by_a_key_beside_the_board() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine.toml");
        let text = include_str!("../../../config/boards/generic-efi.toml");
        let find = |archive: &str| {
            crate::pack::image::put(&path, format!("{text}\n[[archive]]\n{archive}").as_bytes(), 0o644)
                .unwrap();
            Board::find(path.to_str().unwrap())
        };
        let rest = "suite = \"trixie\"\nkey = \"keys/own.gpg\"\n";
        let board =
            find(&format!("address = \"https://own.test/debian\"\ncomponents = [\"main\"]\n{rest}")).unwrap();
        assert_eq!(board.archive[0].key, folder.path().join("keys/own.gpg"));
        for (wrong, words) in [
            (
                "address = \"https://own.test/ [trusted=yes]\"\ncomponents = [\"main\"]\n",
                "is no word of an archive",
            ),
            ("address = \"https://own.test/\"\ncomponents = []\n", "has no components hint: "),
        ] {
            let said = format!("{:#}", find(&format!("{wrong}{rest}")).unwrap_err());
            assert!(said.contains("board `mine`: ") && said.contains(words), "{said}");
        }
        let no_key = "address = \"https://own.test/\"\nsuite = \"trixie\"\ncomponents = [\"main\"]\nkey = \"own.txt\"\n";
        assert!(format!("{:#}", find(no_key).unwrap_err()).contains("own.txt` is no key hint: "));
    }
}
