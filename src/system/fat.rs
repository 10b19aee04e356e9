//! A small file in the top folder of a FAT32, read from its partition: boot partitions are mounted nowhere, and one that is
//! half written must not be. The format is that of Microsoft's "FAT32 File System Specification"; what is not as the
//! image's builder makes it holds nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What a sector has, in bytes. The image's builder makes no others.
pub const SECTOR: usize = 512;
/// The largest file that is read, in bytes.
const LARGEST: usize = 8 << 10;
/// Clusters of a folder or a file that are followed.
const MOST_CLUSTERS: usize = 1024;
/// The first number that ends a chain of clusters.
const END: u32 = 0x0fff_fff8;

/// A FAT32.
struct Fat<'a> {
    file: &'a File,
    /// In the place of its first bytes, where the medium does not have those yet.
    head: &'a [u8],
    /// In bytes.
    cluster: usize,
    /// Where its table is, in bytes.
    table: u64,
    /// Where its second cluster is, which is the first, in bytes.
    data: u64,
}

/// The file whose short name is `name`, such as `CMDLINE TXT`; `None` where there is none, or no FAT32. `head` counts in the
/// place of the first bytes, if it has any.
///
/// # Errors
/// Those of reading.
pub fn read(file: &File, head: &[u8], name: &[u8; 11]) -> io::Result<Option<Vec<u8>>> {
    let read = Fat::open(file, head).and_then(|fat| match fat {
        Some((fat, top)) => fat.find(top, name),
        None => Ok(None),
    });
    match read {
        // It is cut off.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        read => read,
    }
}

impl<'a> Fat<'a> {
    /// With the cluster of its top folder.
    fn open(file: &'a File, head: &'a [u8]) -> io::Result<Option<(Self, u32)>> {
        let mut fat = Self { file, head, cluster: 0, table: 0, data: 0 };
        let mut boot = [0; SECTOR];
        fat.at(&mut boot, 0)?;
        let short = |at: usize| u16::from_le_bytes([boot[at], boot[at + 1]]);
        let long = |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        let (per_cluster, tables) = (usize::from(boot[13]), u64::from(boot[16]));
        let is_fat32 = boot[510..] == [0x55, 0xaa] && boot[82..90] == *b"FAT32   " && short(17) == 0;
        if !is_fat32 || usize::from(short(11)) != SECTOR || per_cluster == 0 || tables == 0 {
            return Ok(None);
        }
        fat.cluster = per_cluster * SECTOR;
        fat.table = u64::from(short(14)) * SECTOR as u64;
        fat.data = fat.table + tables * u64::from(long(36)) * SECTOR as u64;
        Ok(Some((fat, long(44))))
    }

    fn find(&self, top: u32, name: &[u8; 11]) -> io::Result<Option<Vec<u8>>> {
        let folder = self.chain(top, MOST_CLUSTERS * self.cluster)?;
        // The first byte of an entry is 0 after the last one; a volume's label and parts of long names have the bit 8.
        let mut entries = folder.chunks_exact(32).take_while(|entry| entry[0] != 0);
        let Some(entry) = entries.find(|entry| entry[..11] == *name && entry[11] & 8 == 0) else {
            return Ok(None);
        };
        let first = u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]]);
        let size = u32::from_le_bytes([entry[28], entry[29], entry[30], entry[31]]);
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= LARGEST) else { return Ok(None) };
        let mut bytes = self.chain(first, size)?;
        bytes.truncate(size);
        Ok((bytes.len() == size).then_some(bytes))
    }

    /// What lies in a cluster and those that follow it, until there is enough.
    fn chain(&self, first: u32, enough: usize) -> io::Result<Vec<u8>> {
        let (mut bytes, mut cluster) = (Vec::new(), first);
        for _ in 0..MOST_CLUSTERS {
            if bytes.len() >= enough || !(2..END).contains(&cluster) {
                break;
            }
            let from = bytes.len();
            bytes.resize(from + self.cluster, 0);
            self.at(&mut bytes[from..], self.data + u64::from(cluster - 2) * self.cluster as u64)?;
            let mut next = [0; 4];
            self.at(&mut next, self.table + u64::from(cluster) * 4)?;
            cluster = u32::from_le_bytes(next) & 0x0fff_ffff;
        }
        Ok(bytes)
    }

    fn at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        match usize::try_from(at).ok().and_then(|at| self.head.get(at..at + bytes.len())) {
            Some(held) => bytes.copy_from_slice(held),
            None => self.file.read_exact_at(bytes, at)?,
        }
        Ok(())
    }
}

/// The least FAT32 that carries `cmdline.txt`, for tests.
#[cfg(test)]
pub fn sample(command_line: &str) -> Vec<u8> {
    sample_of(b"CMDLINE TXT", command_line)
}

/// The same of a file of another short name: a table of one sector, the top folder, the file.
#[cfg(test)]
pub fn sample_of(name: &[u8; 11], text: &str) -> Vec<u8> {
    let mut image = vec![0; 8 * SECTOR];
    image[11..13].copy_from_slice(&512_u16.to_le_bytes());
    (image[13], image[14], image[16], image[36], image[44]) = (1, 2, 1, 1, 2);
    image[82..90].copy_from_slice(b"FAT32   ");
    image[510..512].copy_from_slice(&[0x55, 0xaa]);
    let chain = [0x0fff_fff8, u32::MAX, u32::MAX, 4, u32::MAX];
    for (at, next) in chain.iter().enumerate() {
        image[2 * SECTOR + at * 4..][..4].copy_from_slice(&next.to_le_bytes());
    }
    let folder = 3 * SECTOR;
    image[folder..folder + 12].copy_from_slice(b"EDGE       \x08");
    image[folder + 32..folder + 44].copy_from_slice(b"\xe5MDLINE TXT\x20");
    image[folder + 64..folder + 75].copy_from_slice(name);
    image[folder + 75] = 0x20;
    image[folder + 64 + 26] = 3;
    let size = u32::try_from(text.len()).unwrap().to_le_bytes();
    image[folder + 64 + 28..][..4].copy_from_slice(&size);
    image[4 * SECTOR..][..text.len()].copy_from_slice(text.as_bytes());
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_and_what_is_damaged_holds_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("boot.img");
        let line = format!("ro {}", "word ".repeat(120));
        let good = sample(&line);
        let read_of = |bytes: &[u8], head: &[u8]| {
            std::fs::File::create(&path).and_then(|mut f| io::Write::write_all(&mut f, bytes)).unwrap();
            read(&File::open(&path).unwrap(), head, b"CMDLINE TXT").unwrap()
        };
        assert_eq!(read_of(&good, &[]).as_deref(), Some(line.as_bytes()));
        assert_eq!(read(&File::open(&path).unwrap(), &[], b"CONFIG  TXT").unwrap(), None);
        // What is half written: its first sector is still to come.
        let (head, mut half) = (good[..SECTOR].to_vec(), good.clone());
        half[..SECTOR].fill(0);
        assert_eq!(read_of(&half, &[]), None);
        assert_eq!(read_of(&half, &head).as_deref(), Some(line.as_bytes()));
        for length in [0, 100, SECTOR, 3 * SECTOR, 4 * SECTOR] {
            assert_eq!(read_of(&good[..length], &[]), None, "cut off at {length}");
        }
        // A chain that leads nowhere, one that is a ring, a file that is too large.
        for (at, byte) in [(2 * SECTOR + 12, 0), (3 * SECTOR + 64 + 30, 1)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(read_of(&bad, &[]), None, "{at}");
        }
        let mut ring = good.clone();
        ring[2 * SECTOR + 8..][..4].copy_from_slice(&2_u32.to_le_bytes());
        ring[3 * SECTOR + 64] = b'X';
        assert_eq!(read_of(&ring, &[]), None);
    }
}
