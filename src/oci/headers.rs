//! What stands before the entries of a tar: long names and attributes, which are read into memory whole.

use std::io::{self, Read};

/// The most bytes of one; names are of some hundreds.
const LARGEST: u64 = 1 << 20;

/// Refuses a tar in which one is larger. To be called before its entries are read as such.
///
/// # Errors
/// Names the size; also where the tar cannot be read.
pub(super) fn check<R: Read>(entries: tar::Entries<'_, R>) -> io::Result<()> {
    for entry in entries.raw(true) {
        let entry = entry?;
        let kind = entry.header().entry_type();
        let is_read_whole = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        let size = entry.header().entry_size()?;
        if is_read_whole && size > LARGEST {
            let why = format!("a name or an attribute in it has {size} bytes: the most is {LARGEST}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(kind: tar::EntryType, size: u64) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_path("././@LongLink").unwrap();
        header.set_cksum();
        tar.append(&header, io::repeat(b'n').take(size)).unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn long_names_are_read_and_huge_ones_refused() {
        use tar::EntryType as E;
        for kind in [E::GNULongName, E::GNULongLink, E::XHeader, E::XGlobalHeader] {
            let good = tar(kind, 300);
            assert!(check(tar::Archive::new(&good[..]).entries().unwrap()).is_ok(), "{kind:?}");
            let huge = tar(kind, LARGEST + 1);
            let refused = check(tar::Archive::new(&huge[..]).entries().unwrap()).unwrap_err();
            assert!(refused.to_string().contains("1048577 bytes"), "{kind:?} {refused}");
        }
        let file = tar(E::Regular, LARGEST + 1);
        assert!(check(tar::Archive::new(&file[..]).entries().unwrap()).is_ok(), "files may be large");
    }
}
