//! Names on the stick. All of them are computed from numbers and digests; none is ever taken from there.

use super::manifest::Layout;
use crate::sys::digest::Digest;
use crate::trust::is_name;

/// The folder of all bundles, at the top of the stick.
pub const BUNDLES: &str = "edge-bundle";
/// The folder of receipts, beside it.
pub const RECEIPTS: &str = "edge-receipts";
/// Says which format this is.
pub const FORMAT: &str = "FORMAT";
/// The folder of roots.
pub const TRUST: &str = "trust";
/// The only way in.
pub const MANIFEST: &str = "manifest.dsse";
/// Every blob of the state, one a line.
pub const BLOBS_LIST: &str = "blobs.list";
/// The whole state of refs, one a line.
pub const REFS_LIST: &str = "refs.list";
/// The folder of blobs.
pub const BLOBS: &str = "blobs";
/// Written last; a hint for people.
pub const COMPLETE: &str = "COMPLETE";
/// For other tools; never read here.
pub const FOR_OTHERS: [&str; 2] = ["oci-layout", "index.json"];

/// The folder of one bundle.
pub fn folder(stream: &str, seq: u64) -> String {
    format!("{stream}-{seq}")
}

/// Stream and number of a folder's name.
pub fn parse_folder(name: &str) -> Option<(&str, u64)> {
    let (stream, seq) = name.rsplit_once('-')?;
    let number: u64 = seq.parse().ok()?;
    (is_name(stream) && folder(stream, number) == name).then_some((stream, number))
}

/// The steps from the bundle's folder to a part of a blob of `size` bytes.
pub fn part(layout: Layout, digest: &Digest, parts: u64, index: u64) -> Vec<String> {
    let hex = digest.hex();
    let mut steps = vec![BLOBS.to_owned(), digest.algorithm().name().to_owned()];
    if layout == Layout::Sharded {
        steps.push(hex[..2].to_owned());
    }
    steps.push(if parts > 1 { format!("{hex}.p{index:04}") } else { hex.to_owned() });
    steps
}

/// How many parts a blob lies in.
pub fn parts(size: u64, part_size: u64) -> u64 {
    size.div_ceil(part_size.max(1)).max(1)
}

/// Bytes of one part.
pub fn part_length(size: u64, part_size: u64, index: u64) -> u64 {
    size.saturating_sub(index.saturating_mul(part_size)).min(part_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_parts_are_named_one_way() {
        assert_eq!(parse_folder("north-main-12"), Some(("north-main", 12)));
        for bad in ["main", "main-", "main-01", "main-+1", "-1", "../a-1", "Main-1", "a-99999999999999999999"]
        {
            assert_eq!(parse_folder(bad), None, "{bad}");
        }
        let digest = Digest::sha256(b"");
        assert_eq!(part(Layout::Flat, &digest, 1, 0).join("/"), format!("blobs/sha256/{}", digest.hex()));
        assert_eq!(
            part(Layout::Sharded, &digest, 3, 2).join("/"),
            format!("blobs/sha256/e3/{}.p0002", digest.hex())
        );
        for (size, count, last) in [(0, 1, 0), (1, 1, 1), (10, 1, 10), (11, 2, 1), (20, 2, 10)] {
            assert_eq!((parts(size, 10), part_length(size, 10, count - 1)), (count, last), "{size}");
        }
    }
}
