use std::io::Write as _;

use super::*;
use crate::git::{Objects, pack};

const SHA1: gix_hash::Kind = gix_hash::Kind::Sha1;

fn name(kind: Kind, data: &[u8]) -> Oid {
    gix_object::compute_hash(SHA1, kind, data).unwrap()
}

/// A pack of these objects, as an upstream would send it.
fn packed(all: &[(Kind, Vec<u8>)]) -> (tempfile::TempDir, Objects) {
    let mut bytes = b"PACK\0\0\0\x02".to_vec();
    bytes.extend(u32::try_from(all.len()).unwrap().to_be_bytes());
    for (kind, data) in all {
        let number =
            [Kind::Commit, Kind::Tree, Kind::Blob, Kind::Tag].iter().position(|k| k == kind).unwrap();
        let (mut size, mut byte) = (data.len() >> 4, ((number as u8 + 1) << 4) | (data.len() & 15) as u8);
        while size > 0 {
            bytes.push(byte | 128);
            (byte, size) = ((size & 127) as u8, size >> 7);
        }
        bytes.push(byte);
        let mut zip = flate2::write::ZlibEncoder::new(&mut bytes, flate2::Compression::fast());
        zip.write_all(data).unwrap();
        zip.finish().unwrap();
    }
    let mut hasher = gix_hash::hasher(SHA1);
    hasher.update(&bytes);
    bytes.extend_from_slice(hasher.try_finalize().unwrap().as_slice());
    let folder = tempfile::tempdir().unwrap();
    let (none, taken) = (folder.path().join("none"), folder.path().join("taken"));
    std::fs::create_dir(&none).unwrap();
    std::fs::create_dir(&taken).unwrap();
    pack::take(&mut &bytes[..], &taken, &Objects::open(&none).unwrap()).unwrap();
    let objects = Objects::open(&taken).unwrap();
    (folder, objects)
}

fn tree(entries: &[(&str, &str, Oid)]) -> (Kind, Vec<u8>) {
    let mut bytes = Vec::new();
    for (mode, name, id) in entries {
        bytes.extend(format!("{mode} {name}\0").as_bytes());
        bytes.extend_from_slice(id.as_slice());
    }
    (Kind::Tree, bytes)
}

fn commit_of(tree: Oid) -> (Kind, Vec<u8>) {
    let by = "t <t@example.com> 1700000000 +0000";
    (Kind::Commit, format!("tree {tree}\nauthor {by}\ncommitter {by}\n\nx\n").into_bytes())
}

fn id(object: &(Kind, Vec<u8>)) -> Oid {
    name(object.0, &object.1)
}

#[test]
fn a_folder_that_is_called_a_file_is_refused_and_hides_nothing() {
    let blob = (Kind::Blob, b"1\n".to_vec());
    let bad = tree(&[("100644", ".git", id(&blob))]);
    let as_file = tree(&[("100644", "a", id(&bad))]);
    let both = tree(&[("100644", "a", id(&bad)), ("40000", "b", id(&bad))]);
    let (one, two) = (commit_of(id(&as_file)), commit_of(id(&both)));
    let (_folder, objects) = packed(&[blob, bad.clone(), as_file.clone(), both, one.clone(), two.clone()]);
    for tip in [&one, &two] {
        let said = check(&mut objects.reader(), &[id(tip)], &[]).unwrap_err().to_string();
        assert!(said.contains(&format!("{} is a tree, where a file should be", id(&bad))), "{said}");
    }
    // One that was taken as a file before is looked at all the same.
    let mut seen = Seen::default();
    let mut reader = objects.reader();
    trees(&mut reader, id(&as_file), (Blobs::Listed, Names::Taken), &mut seen, |_| {}).unwrap();
    let how = (Blobs::Listed, Names::Checked);
    let said = trees(&mut reader, id(&bad), how, &mut seen, |_| {}).unwrap_err().to_string();
    assert!(said.contains("`.git`"), "{said}");
    // What answers a client has each object once.
    let ask = Ask { wants: vec![id(&two)], ..Ask::default() };
    let mut found = super::objects(&mut objects.reader(), &ask).unwrap();
    let all = found.len();
    found.sort();
    found.dedup();
    assert_eq!((all, found.len()), (4, 4));
}

#[test]
fn what_is_listed_many_times_waits_once() {
    let empty = tree(&[]);
    let names: Vec<String> = (0..10_000).map(|at| format!("{at:05}")).collect();
    let many: Vec<(&str, &str, Oid)> = names.iter().map(|n| ("40000", n.as_str(), id(&empty))).collect();
    let many = tree(&many);
    let top = tree(&[("40000", "a", id(&many)), ("40000", "b", id(&many)), ("40000", "c", id(&empty))]);
    let tip = commit_of(id(&top));
    let (_folder, objects) = packed(&[empty, many.clone(), top, tip.clone()]);
    assert_eq!(check(&mut objects.reader(), &[id(&tip), id(&tip)], &[]).unwrap(), 4);
    let how = (Blobs::Listed, Names::Checked);
    let (below, _) = listed(&many.1, how, &mut Seen::default(), &mut |_| {}).unwrap();
    assert_eq!(below.len(), 1);
}
