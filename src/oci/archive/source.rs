//! Files of an archive by name: in a folder, or in a tar, whose entries are noted once and then read where they lie.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use crate::oci::headers;

/// Entries that a tar may have.
const MOST_ENTRIES: usize = 200_000;
/// Bytes after which the free space is looked at again.
const LOOK: u64 = 8 << 20;
/// Links from one entry to another that are followed.
const MOST_LINKS: usize = 8;

/// Refuses where there is no room for so many bytes more.
pub(super) type Room<'a> = &'a dyn Fn(u64) -> io::Result<()>;

pub(super) enum Source {
    Folder(PathBuf),
    Tar { file: File, entries: HashMap<String, Place> },
}

pub(super) enum Place {
    Bytes { offset: u64, size: u64 },
    Link(String),
}

impl Source {
    pub(super) fn open(path: &Path, scratch: &Path, room: Room<'_>) -> io::Result<Self> {
        if std::fs::metadata(path)?.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        let mut file = File::open(path)?;
        let mut magic = [0; 2];
        let read = file.read(&mut magic)?;
        file.seek(SeekFrom::Start(0))?;
        if read == 2 && magic == [0x1f, 0x8b] {
            file = unpacked(file, scratch, room)?;
        }
        let entries = entries(&file)?;
        Ok(Self::Tar { file, entries })
    }

    /// The file of that name and its length, if it is there.
    pub(super) fn read(&self, name: &str) -> io::Result<Option<super::Piece<'_>>> {
        match self {
            Self::Folder(folder) => {
                let Some(name) = plain(Path::new(name)) else { return Ok(None) };
                let file = match File::open(folder.join(name)) {
                    Ok(file) => file,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(e),
                };
                let meta = file.metadata()?;
                Ok(meta.is_file().then(|| (meta.len(), Box::new(file) as Box<dyn Read + Send>)))
            }
            Self::Tar { file, entries } => {
                let mut at = name;
                for _ in 0..MOST_LINKS {
                    match entries.get(at) {
                        Some(Place::Bytes { offset, size }) => {
                            let part = Part { file, offset: *offset, left: *size };
                            return Ok(Some((*size, Box::new(part))));
                        }
                        Some(Place::Link(to)) => at = to,
                        None => return Ok(None),
                    }
                }
                Ok(None)
            }
        }
    }
}

/// Bytes of a file that others read too.
struct Part<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.offset)?;
        if read == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut short"));
        }
        (self.offset, self.left) = (self.offset + read as u64, self.left - read as u64);
        Ok(read)
    }
}

/// What a tar holds, and where.
fn entries(file: &File) -> io::Result<HashMap<String, Place>> {
    headers::check(tar::Archive::new(file).entries_with_seek()?)?;
    let mut start = file;
    start.seek(SeekFrom::Start(0))?;
    let mut found = HashMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(name) = plain(&path) else { continue };
        let kind = entry.header().entry_type();
        let place = if kind.is_symlink() || kind.is_hard_link() {
            let Some(to) = entry.link_name()? else { continue };
            // A symbolic link is relative to its folder, a hard one to the archive.
            let base = if kind.is_symlink() { path.parent() } else { None };
            match plain(&base.unwrap_or(Path::new("")).join(&to)) {
                Some(to) => Place::Link(to),
                None => continue,
            }
        } else if kind.is_file() || kind.is_contiguous() {
            Place::Bytes { offset: entry.raw_file_position(), size: entry.size() }
        } else {
            continue;
        };
        found.insert(name, place);
        if found.len() > MOST_ENTRIES {
            return Err(io::Error::other(format!("it has more than {MOST_ENTRIES} entries")));
        }
    }
    Ok(found)
}

/// A relative path without `.` and `..`; `None` for one that leaves the archive.
fn plain(path: &Path) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// The same without gzip, in a file that has no name any more. There may be far more of it than there is of the archive.
fn unpacked(file: File, scratch: &Path, room: Room<'_>) -> io::Result<File> {
    let path = scratch.join(uuid::Uuid::new_v4().to_string());
    let mut plain = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    let mut unpacking = flate2::read::MultiGzDecoder::new(io::BufReader::new(file));
    loop {
        room(LOOK)?;
        if io::copy(&mut (&mut unpacking).take(LOOK), &mut plain)? < LOOK {
            break;
        }
    }
    plain.flush()?;
    plain.seek(SeekFrom::Start(0))?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_within_the_archive() {
        for (written, read) in [
            ("./a/b", Some("a/b")),
            ("a/../b", Some("b")),
            ("a/b/../../c", Some("c")),
            ("../a", None),
            ("a/../../b", None),
            ("/etc/passwd", None),
            ("", None),
        ] {
            assert_eq!(plain(Path::new(written)).as_deref(), read, "{written}");
        }
    }

    #[test]
    fn what_is_packed_small_and_is_large_is_unpacked_only_while_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let packed = folder.path().join("bomb.tar.gz");
        let mut gz =
            flate2::write::GzEncoder::new(File::create(&packed).unwrap(), flate2::Compression::fast());
        io::copy(&mut io::repeat(0).take(64 << 20), &mut gz).unwrap();
        gz.finish().unwrap();
        let asked = std::cell::Cell::new(0);
        let room = |bytes| {
            asked.set(asked.get() + bytes);
            if asked.get() > 24 << 20 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        };
        let opened = Source::open(&packed, folder.path(), &room);
        assert_eq!(opened.err().unwrap().kind(), io::ErrorKind::StorageFull);
        assert_eq!(asked.get(), 32 << 20, "it ended where there was no more room");
        assert!(Source::open(&packed, folder.path(), &|_| Ok(())).is_ok());
    }
}
