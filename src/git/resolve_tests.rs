use std::io::Write as _;

use crate::git::{Kind, Objects, Oid, pack};

/// A pack under construction, and what its objects are.
struct Made {
    bytes: Vec<u8>,
    /// Where each entry begins, and the object that comes out of it.
    all: Vec<(u64, Vec<u8>)>,
}

fn name(data: &[u8]) -> Oid {
    gix_object::compute_hash(gix_hash::Kind::Sha1, Kind::Blob, data).unwrap()
}

fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push((value & 127) as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A delta that makes `base` with `mark` at its end.
fn delta(base: &[u8], mark: &[u8]) -> Vec<u8> {
    let copy = [0x80 | 0x70, base.len() as u8, (base.len() >> 8) as u8, (base.len() >> 16) as u8];
    [
        number(base.len()),
        number(base.len() + mark.len()),
        copy.to_vec(),
        vec![mark.len() as u8],
        mark.to_vec(),
    ]
    .concat()
}

impl Made {
    fn new() -> Self {
        Self { bytes: b"PACK\0\0\0\x02\0\0\0\0".to_vec(), all: Vec::new() }
    }

    fn entry(&mut self, kind: u8, base: &[u8], data: &[u8], object: Vec<u8>) {
        let begin = self.bytes.len() as u64;
        let rest = data.len() >> 4;
        let first = kind << 4 | (data.len() & 15) as u8;
        match rest {
            0 => self.bytes.push(first),
            rest => self.bytes.extend([vec![first | 128], number(rest)].concat()),
        }
        self.bytes.extend_from_slice(base);
        let mut zip = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zip.write_all(data).unwrap();
        self.bytes.extend(zip.finish().unwrap());
        self.all.push((begin, object));
    }

    fn whole(&mut self, object: Vec<u8>) {
        self.entry(3, &[], &object.clone(), object);
    }

    /// On the entry of this number.
    fn on(&mut self, base: usize, mark: &[u8]) {
        let (at, object) = self.all[base].clone();
        let mut value = self.bytes.len() as u64 - at;
        let mut distance = vec![(value & 127) as u8];
        while value > 127 {
            value = (value >> 7) - 1;
            distance.insert(0, (value & 127) as u8 | 128);
        }
        self.entry(6, &distance, &delta(&object, mark), [&object[..], mark].concat());
    }

    /// On the object of this name, wherever it is.
    fn on_named(&mut self, base: &[u8], mark: &[u8]) {
        self.entry(7, name(base).as_slice(), &delta(base, mark), [base, mark].concat());
    }

    fn end(mut self) -> (Vec<u8>, Vec<Vec<u8>>) {
        let count = u32::try_from(self.all.len()).unwrap();
        self.bytes[8..12].copy_from_slice(&count.to_be_bytes());
        let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
        hasher.update(&self.bytes);
        self.bytes.extend_from_slice(hasher.try_finalize().unwrap().as_slice());
        (self.bytes, self.all.into_iter().map(|(_, object)| object).collect())
    }
}

/// The objects of a pack once it was taken.
fn taken(bytes: &[u8], bases: &Objects) -> Result<(tempfile::TempDir, Objects, u32), crate::git::Error> {
    let folder = tempfile::tempdir().unwrap();
    let taken = pack::take(&mut &*bytes, folder.path(), bases)?;
    let objects = Objects::open(folder.path())?;
    Ok((folder, objects, taken.objects))
}

fn nothing() -> Objects {
    Objects::open(tempfile::tempdir().unwrap().path()).unwrap()
}

fn all_there(objects: &Objects, expected: &[Vec<u8>]) {
    let mut reader = objects.reader();
    for object in expected {
        let (kind, data) = reader.read(&name(object)).unwrap();
        assert_eq!((kind, data), (Kind::Blob, &object[..]));
    }
}

#[test]
fn trees_of_deltas_of_any_shape_are_named_and_read_back() {
    // More than is held in tests, so that bases are let go and made again.
    let mut made = Made::new();
    made.whole((0..3000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect());
    made.whole(b"another root".to_vec());
    let mut state = 7_usize;
    for at in 2..400_usize {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // A long chain with leaves, and some that hang anywhere.
        let base = if at % 3 == 0 { (state >> 33) % at } else { at - 1 };
        made.on(base, format!(" {at}").as_bytes());
    }
    // By name: of one that comes later, and of one before.
    let later = b"what comes later".to_vec();
    made.on_named(&later, b" and more");
    made.on_named(&[&later[..], b" and more"].concat(), b" still");
    made.whole(later);
    let (bytes, expected) = made.end();
    let (_folder, objects, count) = taken(&bytes, &nothing()).unwrap();
    assert_eq!(count as usize, expected.len());
    all_there(&objects, &expected);
}

#[test]
fn a_thin_pack_gets_its_bases_and_is_whole() {
    let mut base = Made::new();
    base.whole(b"a base that is here".to_vec());
    let (bytes, before) = base.end();
    let (_here, bases, _) = taken(&bytes, &nothing()).unwrap();
    let mut thin = Made::new();
    thin.on_named(&before[0], b", and news");
    thin.on(0, b" of it");
    let (bytes, expected) = thin.end();
    let (folder, objects, count) = taken(&bytes, &bases).unwrap();
    assert_eq!(count, 3, "the base is in it now");
    all_there(&objects, &[&expected[..], &before[..]].concat());
    let pack = std::fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.path());
    let pack = pack.into_iter().find(|path| path.extension().is_some_and(|end| end == "pack")).unwrap();
    let bytes_now = std::fs::read(pack).unwrap();
    let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
    hasher.update(&bytes_now[..bytes_now.len() - 20]);
    assert_eq!(&bytes_now[bytes_now.len() - 20..], hasher.try_finalize().unwrap().as_slice());
    let said = taken(&bytes, &nothing()).unwrap_err().to_string();
    assert!(said.contains("the base") && said.contains("is not there"), "{said}");
}

#[test]
fn what_is_damaged_too_deep_or_lies_about_its_size_is_refused() {
    let mut good = Made::new();
    good.whole(b"something to hold on to".to_vec());
    good.on(0, b" more");
    let (bytes, _) = good.end();
    assert!(taken(&bytes, &nothing()).is_ok());
    for end in [0, 8, 12, 20, bytes.len() - 21, bytes.len() - 1] {
        assert!(taken(&bytes[..end], &nothing()).is_err(), "cut at {end}");
    }
    for at in 12..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(taken(&bad, &nothing()).is_err(), "a bit at {at}");
    }
    let mut lies = Made::new();
    lies.entry(3, &[], b"12345", b"12345".to_vec());
    let (mut bytes, _) = lies.end();
    bytes[12] = 3 << 4 | 4;
    let said = taken(&bytes, &nothing()).unwrap_err().to_string();
    assert!(said.contains("not as large as it says"), "{said}");
    let mut deep = Made::new();
    deep.whole(b"x".to_vec());
    for at in 0..=super::LONGEST {
        deep.on(at, b"y");
    }
    let (bytes, _) = deep.end();
    let said = taken(&bytes, &nothing()).unwrap_err().to_string();
    assert!(said.contains("longer than 4095"), "{said}");
    // 33 MiB of nothing, in a few kilobytes.
    let mut large = Made::new();
    large.whole(vec![0; 33 << 20]);
    let said = taken(&large.end().0, &nothing()).unwrap_err().to_string();
    assert!(said.contains("an object of 34603008 bytes, and the most are 32 MiB"), "{said}");
}
