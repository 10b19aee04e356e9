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
    commit_on(tree, &[])
}

fn commit_on(tree: Oid, parents: &[Oid]) -> (Kind, Vec<u8>) {
    let by = "t <t@example.com> 1700000000 +0000";
    let parents: String = parents.iter().map(|id| format!("parent {id}\n")).collect();
    (Kind::Commit, format!("tree {tree}\n{parents}author {by}\ncommitter {by}\n\nx\n").into_bytes())
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

#[test]
fn one_walk_says_whether_all_have_something_behind_them_and_ends_when_nobody_waits() {
    let empty = tree(&[]);
    let root = commit_of(id(&empty));
    let mid = commit_on(id(&empty), &[id(&root)]);
    let (one, two) = (commit_on(id(&empty), &[id(&mid)]), commit_on(id(&empty), &[id(&mid), id(&root)]));
    let (_folder, objects) = packed(&[empty.clone(), root.clone(), mid.clone(), one.clone(), two.clone()]);
    let mut reader = objects.reader();
    let mut ask = |tips: &[Oid], goal: Oid| all_reach(&mut reader, tips, &[goal].into()).unwrap();
    assert!(ask(&[id(&one), id(&two), id(&one)], id(&root)));
    assert!(ask(&[id(&one), id(&two)], id(&mid)));
    assert!(!ask(&[id(&one), id(&two)], id(&one)));
    assert!(!ask(&[id(&root)], id(&mid)));
    assert!(!ask(&[id(&empty)], id(&root)));
    // Each commit is read once, however often it is wanted.
    let (count, counted) = (std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)), 10_000);
    let reads = count.clone();
    let mut reader =
        objects.reader().unless(move || reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > counted);
    all_reach(&mut reader, &[id(&one), id(&two), id(&mid)], &[id(&root)].into()).unwrap();
    assert!(count.load(std::sync::atomic::Ordering::Relaxed) <= 6);
    let mut gone = objects.reader().unless(|| true);
    assert!(super::objects(&mut gone, &Ask { wants: vec![id(&one)], ..Ask::default() }).is_err());
}
