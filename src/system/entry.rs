//! Names of boot entries, as systemd-boot counts by them, and the ids of verity hash trees.

use std::fmt;

/// A boot entry: `edge-<number>+<left>-<done>.efi`.
///
/// systemd-boot puts entries without tries left last, and orders the others by name, the highest number first. It
/// lowers `left` and raises `done` each time that it starts one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Rises with each system that is staged.
    pub number: u64,
    /// Tries left; `None` where they are not counted.
    pub left: Option<u32>,
    /// Tries done since it was last found good.
    pub done: u32,
}

impl Entry {
    /// One that has `tries`.
    pub fn fresh(number: u64, tries: u32) -> Self {
        Self { number, left: Some(tries), done: 0 }
    }

    /// Reads a file's name; `None` where it is none of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let bare = name.strip_suffix(".efi")?.strip_prefix("edge-")?;
        let (number, count) = match bare.split_once('+') {
            None => (bare, None),
            Some((number, count)) => (number, Some(count.split_once('-').unwrap_or((count, "0")))),
        };
        let (left, done) = match count {
            None => (None, 0),
            Some((left, done)) => (Some(digits(left)?), digits(done)?),
        };
        Some(Self { number: digits(number)?, left, done })
    }

    /// Its file's name.
    pub fn name(&self) -> String {
        match (self.left, self.done) {
            (None, _) => format!("edge-{}.efi", self.number),
            (Some(left), 0) => format!("edge-{}+{left}.efi", self.number),
            (Some(left), done) => format!("edge-{}+{left}-{done}.efi", self.number),
        }
    }

    /// Whether systemd-boot starts it before entries that it has given up.
    pub fn is_tried(&self) -> bool {
        self.left != Some(0)
    }
}

fn digits<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The UUID of a verity hash tree: what a kernel's command line names its root file system by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerityId(pub [u8; 16]);

impl VerityId {
    /// Reads 32 hex digits, with or without dashes.
    pub fn parse(text: &str) -> Option<Self> {
        let hex: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
        if hex.len() != 32 || !hex.is_ascii() {
            return None;
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(hex.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(id))
    }

    /// The id that a kernel's command line names.
    pub fn of_command_line(text: &str) -> Option<Self> {
        text.split_ascii_whitespace().find_map(|word| word.strip_prefix("edge.verity=")).and_then(Self::parse)
    }
}

impl fmt::Display for VerityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for VerityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_systemd_boot() {
        for (name, number, left, done) in [
            ("edge-1+3.efi", 1, Some(3), 0),
            ("edge-12+2-1.efi", 12, Some(2), 1),
            ("edge-7+0-3.efi", 7, Some(0), 3),
            ("edge-7.efi", 7, None, 0),
        ] {
            let entry = Entry::parse(name).unwrap();
            assert_eq!(entry, Entry { number, left, done });
            assert_eq!(entry.name(), name);
            assert_eq!(entry.is_tried(), left != Some(0));
        }
        assert_eq!(Entry::parse("EDGE-1+3.EFI"), Some(Entry::fresh(1, 3)));
        for bad in
            ["edge-.efi", "edge-1", "edge-1+.efi", "edge-1+-1.efi", "edge-1+3-.efi", "edge--1.efi", "a.efi"]
        {
            assert_eq!(Entry::parse(bad), None, "{bad}");
        }
        assert_eq!(Entry::parse("edge-1+3.efi.part"), None);
        assert_eq!(Entry::parse("edge-99999999999999999999+3.efi"), None);
    }

    #[test]
    fn ids_are_read_with_dashes_and_without() {
        let id = VerityId::parse("00112233445566778899aabbccddeeff").unwrap();
        assert_eq!(id.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(VerityId::parse(&id.to_string()), Some(id));
        let line = format!("console=ttyAMA0 ro edge.verity={id} roothash=ab\0");
        assert_eq!(VerityId::of_command_line(&line), Some(id));
        for bad in ["", "0011", "zz112233445566778899aabbccddeeff", "+0112233445566778899aabbccddeeff+"] {
            assert_eq!(VerityId::parse(bad), None, "{bad}");
        }
    }
}
