//! The command line within a unified kernel image, which names the root file system that it boots.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::entry::VerityId;

/// The longest command line that is read, in bytes.
const LONGEST: usize = 8 << 10;
/// Sections that are looked at.
const MOST_SECTIONS: u16 = 96;

/// The id of the root file system that the image at `path` boots; `None` where it names none, or is cut off.
///
/// # Errors
/// Those of reading.
pub fn verity_of(path: &Path) -> io::Result<Option<VerityId>> {
    let file = File::open(path)?;
    match command_line(&file) {
        Ok(line) => Ok(line.as_deref().and_then(VerityId::of_command_line)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

/// PE: the offset of the header at 0x3c; in it the number of sections and the size of what is optional; then sections
/// of 40 bytes, each with its name, size and place in the file.
fn command_line(file: &File) -> io::Result<Option<String>> {
    let header = u64::from(u32::from_le_bytes(read::<4>(file, 0x3c)?));
    if &read::<2>(file, 0)? != b"MZ" || &read::<4>(file, header)? != b"PE\0\0" {
        return Ok(None);
    }
    let sections = u16::from_le_bytes(read::<2>(file, header + 6)?);
    let optional = u16::from_le_bytes(read::<2>(file, header + 20)?);
    for index in 0..u64::from(sections.min(MOST_SECTIONS)) {
        let at = header + 24 + u64::from(optional) + index * 40;
        let section = read::<40>(file, at)?;
        let number = |from: usize| {
            let bytes: [u8; 4] = section[from..from + 4].try_into().unwrap_or_default();
            u32::from_le_bytes(bytes)
        };
        if &section[..8] != b".cmdline" {
            continue;
        }
        // The size in memory is the text's; that on disk is padded.
        let length = usize::try_from(number(8).min(number(16))).unwrap_or(LONGEST).min(LONGEST);
        let mut text = vec![0; length];
        file.read_exact_at(&mut text, u64::from(number(20)))?;
        return Ok(Some(String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned()));
    }
    Ok(None)
}

fn read<const N: usize>(file: &File, at: u64) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

/// The least image that carries a command line, for tests.
#[cfg(test)]
pub fn sample(command_line: &str) -> Vec<u8> {
    let mut image = vec![0; 0x200];
    image[..2].copy_from_slice(b"MZ");
    image[0x3c] = 0x40;
    image[0x40..0x44].copy_from_slice(b"PE\0\0");
    image[0x46] = 2;
    for (index, name) in [b".text\0\0\0", b".cmdline"].into_iter().enumerate() {
        let at = 0x40 + 24 + index * 40;
        image[at..at + 8].copy_from_slice(name);
        let length = u32::try_from(command_line.len()).unwrap().to_le_bytes();
        image[at + 8..at + 12].copy_from_slice(&length);
        image[at + 16..at + 20].copy_from_slice(&0x200_u32.to_le_bytes());
        image[at + 20..at + 24].copy_from_slice(&0x200_u32.to_le_bytes());
    }
    image.extend_from_slice(command_line.as_bytes());
    image.resize(0x400, 0);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.efi");
        let put =
            |bytes: &[u8]| std::fs::File::create(&path).and_then(|mut f| io::Write::write_all(&mut f, bytes));
        let id = "00112233445566778899aabbccddeeff";
        let image = sample(&format!("ro edge.verity={id} quiet"));
        put(&image).unwrap();
        assert_eq!(verity_of(&path).unwrap(), VerityId::parse(id));
        for length in [0, 2, 0x41, 0x60, 0x80, 0x210] {
            put(&image[..length]).unwrap();
            assert_eq!(verity_of(&path).unwrap(), None, "cut off at {length}");
        }
        put(b"no image at all, but long enough to be looked at: it has no magic number, and so no sections")
            .unwrap();
        assert_eq!(verity_of(&path).unwrap(), None);
    }
}
