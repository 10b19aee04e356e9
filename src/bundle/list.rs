//! The two lists: every blob, and every ref. Written and read line by line, so that their length costs no memory.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};

use super::manifest::List;
use super::{Fault, name};
use crate::store::{StateChart, StateItem, StateRef};
use crate::sys::digest::{Algorithm, Digest, Hasher};
use crate::trust::strict;

/// The longest line of `blobs.list`: a blob of 1,000 parts.
const LONGEST_BLOB: u64 = 72 << 10;
/// The longest line of `refs.list`: a chart's whole `Chart.yaml` is in it.
const LONGEST_REF: u64 = 2 << 20;

/// One line of `blobs.list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobLine {
    /// Which.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: Content,
    /// Whether it lies in this bundle, and how.
    pub carried: Carried,
}

/// What a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A layer, a configuration, a chart, a file.
    Blob,
    /// A manifest, which links to others.
    Manifest,
    /// A part of an appliance's system; it goes to a slot, and never into the store.
    System,
}

/// How a blob lies in the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carried {
    /// It does not; the receiver has it.
    No,
    /// As one file that hashes to the blob's own digest.
    Whole,
    /// As files of these hashes (SHA-256).
    Parts(Vec<Digest>),
}

impl BlobLine {
    /// As it is written, without line end.
    pub fn to_text(&self) -> String {
        let kind = match self.kind {
            Content::Blob => 'b',
            Content::Manifest => 'm',
            Content::System => 's',
        };
        let carried = match &self.carried {
            Carried::No => "-".to_owned(),
            Carried::Whole => "=".to_owned(),
            Carried::Parts(parts) => parts.iter().map(Digest::hex).collect::<Vec<_>>().join(","),
        };
        format!("{} {} {kind} {carried}", self.digest, self.size)
    }

    /// Reads a line; `part_size` says how many parts there must be.
    pub fn parse(text: &str, part_size: u64) -> Result<Self, String> {
        let fields: Vec<&str> = text.split(' ').collect();
        let [digest, size, kind, carried] = fields[..] else { return Err("not four fields".into()) };
        let digest: Digest = digest.parse().map_err(|_| "the first field is no digest".to_owned())?;
        let number: u64 = size.parse().map_err(|_| "the second field is no size".to_owned())?;
        if number.to_string() != size {
            return Err("the second field is no size".into());
        }
        let kind = match kind {
            "m" => Content::Manifest,
            "b" => Content::Blob,
            "s" => Content::System,
            _ => return Err("the third field is none of `b`, `m` and `s`".into()),
        };
        let parts = name::parts(number, part_size);
        let whole = parts == 1 && digest.algorithm() == Algorithm::Sha256;
        let carried = match carried {
            "-" => Carried::No,
            "=" if whole => Carried::Whole,
            hexes if !whole => {
                let read = |hex: &str| format!("sha256:{hex}").parse::<Digest>();
                let hashes: Result<Vec<Digest>, _> = hexes.split(',').map(read).collect();
                let hashes = hashes.map_err(|_| "the fourth field holds no hashes".to_owned())?;
                if hashes.len() as u64 != parts {
                    return Err(format!("{} hashes for {parts} parts", hashes.len()));
                }
                Carried::Parts(hashes)
            }
            _ => return Err("the fourth field says nothing of where it is".into()),
        };
        Ok(Self { digest, size: number, kind, carried })
    }

    /// How many files it lies in here.
    pub fn files(&self) -> u64 {
        match &self.carried {
            Carried::No => 0,
            Carried::Whole => 1,
            Carried::Parts(parts) => parts.len() as u64,
        }
    }
}

/// One line of `refs.list`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum RefLine {
    /// A name of an image, or of whatever else has a manifest.
    Image {
        /// `<host>/<path>`.
        repository: String,
        /// A tag or a digest.
        name: String,
        /// The manifest.
        digest: Digest,
    },
    /// A chart.
    Chart {
        /// The path of its repository.
        repository: String,
        /// Its name.
        name: String,
        /// Its version.
        version: String,
        /// The package.
        digest: Digest,
        /// Its provenance.
        provenance: Option<Digest>,
        /// When it came to the depot, in seconds since 1970.
        created: i64,
        /// Its entry in the index.
        entry: String,
    },
    /// A file that rides along; an artifact of one layer, under a name of the stream's own.
    File {
        /// Its name.
        name: String,
        /// What it is for.
        purpose: Purpose,
        /// Bytes.
        size: u64,
        /// Its content.
        content: Digest,
        /// The artifact's manifest.
        digest: Digest,
    },
}

/// What a file is for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// edge's own snap.
    Snap,
    /// An appliance image.
    Image,
    /// Whatever the operator wants there.
    File,
}

/// Where files that ride along are found in the registry.
pub const FILES: &str = "edge.local/files";

impl RefLine {
    /// What people call it.
    pub fn shown(&self) -> String {
        match self {
            Self::Image { repository, name, .. } => {
                format!("{repository}{}{name}", if name.contains(':') { '@' } else { ':' })
            }
            Self::Chart { repository, name, version, .. } if repository.is_empty() => {
                format!("chart {name}-{version}")
            }
            Self::Chart { repository, name, version, .. } => format!("chart {repository}/{name}-{version}"),
            Self::File { name, .. } => format!("file {name}"),
        }
    }

    /// What tells it from every other line of a list, without a digest.
    pub fn own_name(&self) -> String {
        match self {
            Self::Image { repository, name, .. } => format!("image\n{repository}\n{name}"),
            Self::Chart { repository, name, version, .. } => {
                format!("chart\n{repository}\n{name}\n{version}")
            }
            Self::File { name, .. } => format!("file\n{name}"),
        }
    }

    /// Blobs that must be listed for it.
    pub fn digests(&self) -> Vec<&Digest> {
        match self {
            Self::Image { digest, .. } => vec![digest],
            Self::Chart { digest, provenance, .. } => std::iter::once(digest).chain(provenance).collect(),
            Self::File { digest, content, .. } => vec![digest, content],
        }
    }

    /// What the store is told: a ref or a chart.
    pub fn into_state(self, stream: &str) -> StateItem {
        match self {
            Self::Image { repository, name, digest } => StateItem::Ref(StateRef { repository, name, digest }),
            Self::File { name, digest, .. } => {
                StateItem::Ref(StateRef { repository: format!("{FILES}/{stream}"), name, digest })
            }
            Self::Chart { repository, name, version, digest, provenance, created, entry } => {
                let chart = StateChart { repository, name, version, digest, provenance, created, entry };
                StateItem::Chart(Box::new(chart))
            }
        }
    }
}

/// Writes a list and says at the end what to sign of it.
pub struct ListWriter<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
    lines: u64,
}

impl<W: Write> ListWriter<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::new(Algorithm::Sha256), size: 0, lines: 0 }
    }

    /// Writes a line.
    ///
    /// # Errors
    /// Those of writing.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        for bytes in [text.as_bytes(), b"\n"] {
            self.inner.write_all(bytes)?;
            self.hasher.update(bytes);
            self.size += bytes.len() as u64;
        }
        self.lines += 1;
        Ok(())
    }

    /// What was written.
    ///
    /// # Errors
    /// Those of writing.
    pub fn end(mut self) -> io::Result<(List, W)> {
        self.inner.flush()?;
        Ok((List { digest: self.hasher.finish(), size: self.size, lines: self.lines }, self.inner))
    }
}

/// Reads lines of bounded length.
pub struct ListReader<R> {
    inner: R,
    file: &'static str,
    most: u64,
    line: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> ListReader<R> {
    /// Reads `blobs.list`.
    pub fn blobs(inner: R) -> Self {
        Self { inner, file: name::BLOBS_LIST, most: LONGEST_BLOB, line: 0, buffer: Vec::new() }
    }

    /// Reads `refs.list`.
    pub fn refs(inner: R) -> Self {
        Self { inner, file: name::REFS_LIST, most: LONGEST_REF, line: 0, buffer: Vec::new() }
    }

    /// The line that was read last, from 1.
    pub fn number(&self) -> u64 {
        self.line
    }

    /// Names what is wrong with the line that was read last.
    pub fn fault(&self, why: impl Into<String>) -> Fault {
        Fault::List { name: self.file, line: self.line, why: why.into() }
    }

    /// The next line without its end.
    ///
    /// # Errors
    /// [`Fault::List`] for one that is too long or does not end.
    pub fn next_line(&mut self) -> Result<Option<&str>, Fault> {
        use io::Read as _;
        self.buffer.clear();
        self.line += 1;
        let read = (&mut self.inner).take(self.most + 1).read_until(b'\n', &mut self.buffer);
        match read {
            Ok(0) => {
                self.line -= 1;
                return Ok(None);
            }
            Ok(_) => {}
            Err(e) => return Err(self.fault(format!("it cannot be read: {e}"))),
        }
        if self.buffer.pop() != Some(b'\n') {
            return Err(self.fault("it does not end, or is too long"));
        }
        match std::str::from_utf8(&self.buffer) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(Fault::List { name: self.file, line: self.line, why: "it is no text".into() }),
        }
    }

    /// The next blob.
    ///
    /// # Errors
    /// [`Fault::List`].
    pub fn next_blob(&mut self, part_size: u64) -> Result<Option<BlobLine>, Fault> {
        let parsed = match self.next_line()? {
            None => return Ok(None),
            Some(text) => BlobLine::parse(text, part_size),
        };
        parsed.map(Some).map_err(|why| self.fault(why))
    }

    /// The next ref.
    ///
    /// # Errors
    /// [`Fault::List`].
    pub fn next_ref(&mut self) -> Result<Option<RefLine>, Fault> {
        let most = self.most;
        let parsed: Result<RefLine, _> = match self.next_line()? {
            None => return Ok(None),
            Some(text) => strict::parse(text.as_bytes(), "it", most),
        };
        parsed.map(Some).map_err(|e| self.fault(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_blobs_come_back_as_they_were() {
        let (a, b) = (Digest::sha256(b"a"), Digest::of(Algorithm::Sha512, b"b"));
        for line in [
            BlobLine { digest: a.clone(), size: 5, kind: Content::Manifest, carried: Carried::Whole },
            BlobLine { digest: a.clone(), size: 5, kind: Content::Blob, carried: Carried::No },
            BlobLine {
                digest: a.clone(),
                size: 15,
                kind: Content::System,
                carried: Carried::Parts(vec![a.clone(), a.clone()]),
            },
            BlobLine { digest: b, size: 5, kind: Content::Blob, carried: Carried::Parts(vec![a.clone()]) },
        ] {
            assert_eq!(BlobLine::parse(&line.to_text(), 10).unwrap(), line);
        }
        for bad in [
            "",
            "sha256:zz 1 b =",
            &format!("{a} 1 b"),
            &format!("{a} 01 b ="),
            &format!("{a} -1 b ="),
            &format!("{a} 1 x ="),
            &format!("{a} 1 b +"),
            &format!("{a} 1 b {}", a.hex()),
            &format!("{a} 11 b ="),
            &format!("{a} 11 b {}", a.hex()),
            &format!("{a} 1 b = x"),
        ] {
            assert!(BlobLine::parse(bad, 10).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reader_stops_at_what_does_not_end() {
        let mut reader = ListReader::blobs(&b"one\ntwo"[..]);
        assert_eq!(reader.next_line().unwrap(), Some("one"));
        assert!(matches!(reader.next_line(), Err(Fault::List { line: 2, .. })));
        let endless = vec![b'x'; 200 << 10];
        let mut reader = ListReader::blobs(&endless[..]);
        assert!(reader.next_line().is_err());
        assert!(reader.buffer.len() <= 73 << 10);
    }
}
