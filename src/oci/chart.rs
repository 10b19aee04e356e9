//! Chart packages as Helm makes them: what is in `Chart.yaml`, the index's entry, the order of versions.
//!
//! A package is read only as far as its `Chart.yaml`, with caps, and never unpacked.

mod metadata;

use std::cmp::Ordering;
use std::io::{self, Read};

use serde_json::{Map, Value};

use super::headers;
use crate::sys::digest::Digest;

pub use metadata::sound;

/// The largest package that is taken, in bytes; Helm's own servers take as much.
pub const LARGEST: usize = 20 << 20;
/// Bytes of a package that are looked through, unpacked, for its `Chart.yaml`.
const LOOKED_THROUGH: u64 = 200 << 20;
/// The largest `Chart.yaml`.
const LARGEST_YAML: u64 = 1 << 20;

/// What a package says of itself.
#[derive(Clone, Debug)]
pub struct ChartPackage {
    /// The chart's name.
    pub name: String,
    /// Its version; not always a semantic one.
    pub version: String,
    metadata: Map<String, Value>,
}

/// Why bytes are no chart.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// Larger than is taken.
    #[error("the chart has {0} bytes hint: the most is {LARGEST}")]
    TooLarge(usize),
    /// Not a packed chart.
    #[error("this is no packed chart: {0} hint: make one with `helm package`")]
    Package(String),
    /// A provenance file of something else.
    #[error("the provenance file is of {of}, not of `{file}` hint: make it with `helm package --sign`")]
    Provenance {
        /// What it vouches for.
        of: String,
        /// What it came with.
        file: String,
    },
    /// A name or version that cannot stand in a path.
    #[error("`{0}` cannot be the name or version of a chart")]
    Name(String),
}

impl ChartPackage {
    /// Reads the `Chart.yaml` of a `.tgz`.
    ///
    /// # Errors
    /// Where it is no packed chart.
    pub fn read(bytes: &[u8]) -> Result<Self, ChartError> {
        if bytes.len() > LARGEST {
            return Err(ChartError::TooLarge(bytes.len()));
        }
        let package = |e: &dyn std::fmt::Display| ChartError::Package(e.to_string());
        let mut archive = unpacked(bytes, LOOKED_THROUGH).map_err(|e| package(&e))?;
        for entry in archive.entries().map_err(|e| package(&e))? {
            let entry = entry.map_err(|e| package(&e))?;
            let path = entry.path_bytes().into_owned();
            let path = path.strip_prefix(b"./").unwrap_or(&path);
            let mut parts = path.split(|b| *b == b'/').skip(1);
            if parts.next() == Some(b"Chart.yaml") && parts.next().is_none() {
                let mut text = String::new();
                entry.take(LARGEST_YAML).read_to_string(&mut text).map_err(|e| package(&e))?;
                return Self::parse(&text);
            }
        }
        Err(ChartError::Package("it has no `Chart.yaml`".into()))
    }

    fn parse(text: &str) -> Result<Self, ChartError> {
        let metadata =
            metadata::read(text).map_err(|e| ChartError::Package(format!("its `Chart.yaml`: {e}")))?;
        let field = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (name, version) = (field("name"), field("version"));
        for text in [&name, &version] {
            if !is_path_part(text) {
                return Err(ChartError::Name(text.clone()));
            }
        }
        Ok(Self { name, version, metadata })
    }

    /// The file name that Helm gives it.
    pub fn file_name(&self) -> String {
        format!("{}-{}.tgz", self.name, self.version)
    }

    /// Its entry in the index of its repository: what `Chart.yaml` says that Helm reads, where it lies relative to the
    /// index, its digest, and when it came (seconds since 1970). One line of JSON, which is YAML too.
    pub fn entry(&self, digest: &Digest, created: i64) -> String {
        let mut entry = self.metadata.clone();
        entry.insert("urls".into(), vec![Value::String(format!("charts/{}", self.file_name()))].into());
        entry.insert("digest".into(), digest.hex().into());
        let created = jiff::Timestamp::from_second(created).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        entry.insert("created".into(), created.to_string().into());
        Value::Object(entry).to_string()
    }
}

/// The files of a `.tgz`, of which `most` unpacked bytes are looked through.
///
/// # Errors
/// Where it cannot be read, or a name or an attribute in it would fill the memory.
pub fn unpacked(package: &[u8], most: u64) -> io::Result<tar::Archive<impl Read>> {
    let unpacked = || flate2::read::MultiGzDecoder::new(package).take(most);
    headers::check(tar::Archive::new(unpacked()).entries()?)?;
    Ok(tar::Archive::new(unpacked()))
}

/// Whether a text can stand in a path and a file name.
pub fn is_path_part(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 200
        && !text.starts_with('.')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
}

/// The package that a provenance file vouches for: its file name without `.tgz`, and the digest, where that is one.
pub fn vouched_for(provenance: &str) -> Option<(&str, Option<Digest>)> {
    // What the chart says of itself stands before.
    let files = provenance.rsplit_once("\nfiles:")?.1;
    files.lines().find_map(|line| {
        let (stem, digest) = line.trim().split_once(".tgz:")?;
        Some((stem, digest.trim().parse().ok()))
    })
}

/// Refuses a provenance file that vouches for another package, by its name or its digest: no client would take the two
/// for a pair. Who signed it is for clients to judge. `stem` is `<name>-<version>`.
///
/// # Errors
/// [`ChartError::Provenance`].
pub fn check_provenance(provenance: &str, stem: &str, digest: &Digest) -> Result<(), ChartError> {
    let of = match vouched_for(provenance) {
        None => "nothing".to_owned(),
        Some((named, _)) if named != stem => format!("`{named}.tgz`"),
        Some((named, Some(other))) if other.algorithm() == digest.algorithm() && other != *digest => {
            format!("a `{named}.tgz` that is `{other}`")
        }
        Some(_) => return Ok(()),
    };
    Err(ChartError::Provenance { of, file: format!("{stem}.tgz") })
}

/// The order in which versions are listed: semantic ones first, the newest first; then the others.
pub fn newest_first(a: &str, b: &str) -> Ordering {
    let parse = |text: &str| semver::Version::parse(text.strip_prefix('v').unwrap_or(text)).ok();
    match (parse(a), parse(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => b.cmp(a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packed chart with this `Chart.yaml`.
    fn pack(yaml: &str) -> Vec<u8> {
        let mut tar =
            tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        for (path, text) in [("app/charts/sub/Chart.yaml", "name: sub\nversion: 9"), ("app/Chart.yaml", yaml)]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn reads_its_own_chart_yaml_and_not_that_of_a_dependency() {
        let package = ChartPackage::read(&pack("name: app\nversion: 1.0.0+b1\nkeywords: [a, b]\n")).unwrap();
        assert_eq!(package.file_name(), "app-1.0.0+b1.tgz");
        let entry: Value = serde_json::from_str(&package.entry(&Digest::sha256(b""), 0)).unwrap();
        assert_eq!(entry["urls"][0], "charts/app-1.0.0+b1.tgz");
        assert_eq!(entry["keywords"][1], "b");
        assert_eq!(entry["created"], "1970-01-01T00:00:00Z");
        assert_eq!(ChartPackage::read(&pack("name: app\nversion: 2\n")).unwrap().version, "2");
    }

    #[test]
    fn refuses_what_could_leave_its_folder() {
        for yaml in [
            "name: ../x\nversion: 1",
            "name: a\nversion: ../1",
            "name: a/b\nversion: 1",
            "name: a",
            "[]",
            ": :",
        ] {
            assert!(ChartPackage::read(&pack(yaml)).is_err(), "{yaml}");
        }
        assert!(ChartPackage::read(b"no gzip").is_err());
    }

    #[test]
    fn refuses_a_name_that_fills_the_memory() {
        let mut tar =
            tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(100 << 20);
        header.set_cksum();
        tar.append(&header, std::io::repeat(b'a').take(100 << 20)).unwrap();
        let chart = tar.into_inner().unwrap().finish().unwrap();
        assert!(chart.len() < LARGEST);
        let refused = ChartPackage::read(&chart).unwrap_err().to_string();
        assert!(refused.contains("has 104857600 bytes"), "{refused}");
    }

    #[test]
    fn versions_have_an_order_even_if_they_are_none() {
        let mut versions = ["1.0", "1.2.0", "latest", "1.10.0", "1.10.0-rc1", "v2.0.0"];
        versions.sort_by(|a, b| newest_first(a, b));
        assert_eq!(versions, ["v2.0.0", "1.10.0", "1.10.0-rc1", "1.2.0", "latest", "1.0"]);
    }

    #[test]
    fn a_provenance_names_its_package() {
        let text =
            "-----BEGIN PGP SIGNED MESSAGE-----\n\nname: app\n\n...\nfiles:\n  app-1.0.0.tgz: sha256:12\n";
        assert_eq!(vouched_for(text), Some(("app-1.0.0", None)), "not a whole digest");
        assert_eq!(vouched_for("nothing"), None);
        let digest = Digest::sha256(b"package");
        let of = |name: &str, digest: &str| format!("...\nfiles:\n  {name}.tgz: {digest}\n");
        assert_eq!(
            vouched_for(&of("app-1", digest.as_str())).map(|(_, named)| named),
            Some(Some(digest.clone()))
        );
        let other = Digest::sha256(b"other");
        for (text, good) in [
            (of("app-1", digest.as_str()), true),
            (of("app-1", "sha256:12"), true),
            (of("app-1", other.as_str()), false),
            (of("app-2", digest.as_str()), false),
            ("nothing".to_owned(), false),
        ] {
            assert_eq!(check_provenance(&text, "app-1", &digest).is_ok(), good, "{text}");
        }
    }
}
