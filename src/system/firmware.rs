//! What the boot loader told through EFI variables.

use super::Places;
use super::entry::Entry;

/// systemd-boot's own vendor.
const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// The entry that was started, by the file name that it has had since. `None` without EFI variables.
pub fn started(places: &Places) -> Option<Entry> {
    // What it was renamed to, where tries are counted; else the id, which has no counter in it.
    let path = variable(places, "LoaderBootCountPath").or_else(|| variable(places, "LoaderEntrySelected"))?;
    Entry::parse(path.rsplit(['\\', '/']).next()?)
}

/// A text: four bytes of attributes, then UTF-16.
fn variable(places: &Places, name: &str) -> Option<String> {
    let path = places.at(&format!("/sys/firmware/efi/efivars/{name}-{LOADER}"));
    let bytes = std::fs::read(path).ok()?;
    let units: Vec<u16> = bytes.get(4..)?.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    let text = String::from_utf16(&units).ok()?;
    Some(text.trim_end_matches('\0').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_says_what_it_started() {
        let root = tempfile::tempdir().unwrap();
        let places = Places::below(root.path());
        assert_eq!(started(&places), None);
        let folder = places.at("/sys/firmware/efi/efivars");
        std::fs::create_dir_all(&folder).unwrap();
        let put = |name: &str, text: &str| {
            let mut bytes = vec![6, 0, 0, 0];
            bytes.extend(text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
            std::fs::File::create(folder.join(format!("{name}-{LOADER}")))
                .and_then(|mut f| std::io::Write::write_all(&mut f, &bytes))
                .unwrap();
        };
        put("LoaderEntrySelected", "edge-4.efi");
        assert_eq!(started(&places).unwrap().number, 4);
        put("LoaderBootCountPath", "\\EFI\\Linux\\edge-4+2-1.efi");
        assert_eq!(started(&places), Some(Entry { number: 4, left: Some(2), done: 1 }));
    }
}
