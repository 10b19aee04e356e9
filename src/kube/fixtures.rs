//! Reads the fixtures that `scripts/schema` makes with Kubernetes' own Go code.

use std::io::Read;

/// Records of `N` parts, from a gzip of parts that each stand behind their length.
pub(super) fn records<const N: usize>(zipped: &[u8]) -> Vec<[Vec<u8>; N]> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(zipped).read_to_end(&mut bytes).unwrap();
    let mut rest = bytes.as_slice();
    let mut part = || {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let (part, tail) = tail.split_at(u32::from_be_bytes(*len) as usize);
        rest = tail;
        Some(part.to_vec())
    };
    let mut out = Vec::new();
    while let Some(first) = part() {
        let mut record = [const { Vec::new() }; N];
        record[0] = first;
        for slot in &mut record[1..] {
            *slot = part().unwrap();
        }
        out.push(record);
    }
    out
}
