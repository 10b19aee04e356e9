//! Mutates envelopes, roots, manifests and lists for a while: nothing panics, nothing mutated is believed, and what is
//! read means the same when it is written and read again.
//!
//! A loop of its own on stable Rust rather than cargo-fuzz, which needs a nightly compiler and a C++ runtime on every
//! machine that runs the tests. `EDGE_FUZZ_SECONDS` says how long; `scripts/test` says a minute. The seeds are in
//! `tests/fixtures/bundle`; `EDGE_WRITE_SAMPLES=1` writes those anew that are made.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use edge::bundle::{BlobLine, ListReader, Manifest, PAYLOAD_TYPE, keys};
use edge::trust::{Chain, Draft, Envelope, gateway};

use crate::bundle::{Scene, put_chart, put_image};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bundle")
}

/// xorshift64*: the same numbers each time for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % most.max(1) as u64).unwrap()
    }
}

const TOKENS: [&[u8]; 16] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b":",
    b",",
    b"null",
    b"-1",
    b"1e9",
    b"18446744073709551616",
    b"\\u0000",
    b"\n",
    b" ",
    b"\xff\xfe",
    b"sha256:",
];

fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice, others: &[Vec<u8>]) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << dice.below(8),
            1 => bytes.truncate(at),
            2 => {
                let token = TOKENS[dice.below(TOKENS.len())];
                bytes.splice(at..at, token.iter().copied());
            }
            3 => {
                let end = (at + dice.below(40)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + dice.below(200)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                let other = &others[dice.below(others.len())];
                let from = dice.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let piece = b"[".repeat(dice.below(300));
                bytes.splice(at..at, piece);
            }
        }
    }
    bytes.truncate(1 << 16);
}

/// Everything that reads what a stick holds.
fn read(bytes: &[u8], chain: &Chain, good: &[Vec<u8>]) {
    if let Ok(envelope) = Envelope::parse(bytes, "fuzz", 1 << 20) {
        let again = Envelope::parse(&envelope.to_bytes(), "fuzz", 1 << 20).unwrap();
        assert_eq!(again.to_bytes(), envelope.to_bytes());
    }
    if let Ok(opened) = chain.current().open::<Manifest>(bytes, "fuzz", PAYLOAD_TYPE, 1 << 20) {
        // Only what lies around the payload may differ from what was signed.
        let same =
            |one: &Vec<u8>| gateway::peek::<Manifest>(one, "good", 1 << 20).is_ok_and(|good| good == *opened);
        assert!(good.iter().any(same), "a changed manifest is believed");
    }
    if let Ok(manifest) = gateway::peek::<Manifest>(bytes, "fuzz", 1 << 20) {
        let _ = manifest.check();
    }
    let mut follow = chain.clone();
    if follow.push(bytes.to_vec(), "fuzz").is_ok() {
        panic!("a changed root is believed");
    }
    if let Ok(draft) = Draft::read(bytes, "fuzz") {
        assert_eq!(Draft::read(&draft.to_bytes(), "fuzz").unwrap().root, draft.root);
    }
    let mut blobs = ListReader::blobs(bytes);
    while let Ok(Some(line)) = blobs.next_blob(4096) {
        assert_eq!(BlobLine::parse(&line.to_text(), 4096).unwrap(), line);
    }
    let mut refs = ListReader::refs(bytes);
    while let Ok(Some(line)) = refs.next_ref() {
        let _ = (line.shown(), line.digests());
    }
}

/// A good bundle's own files.
fn made() -> (Chain, Vec<(&'static str, Vec<u8>)>) {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), &[7; 9000], "arm64");
    put_chart(&scene.depot, "web", "1.0.0", b"chart");
    let mut plan = scene.plan();
    plan.part_size = 4096;
    let folder = scene.create(&plan).unwrap().folder;
    let chain = keys::read_chain(&scene.path("keys")).unwrap();
    let files = ["manifest.dsse", "blobs.list", "refs.list", "trust/1.root.json"];
    (chain, files.map(|file| (file, std::fs::read(folder.join(file)).unwrap())).to_vec())
}

#[test]
fn whatever_is_changed_is_refused_and_nothing_panics() {
    let (chain, files) = made();
    if std::env::var_os("EDGE_WRITE_SAMPLES").is_some() {
        std::fs::create_dir_all(corpus()).unwrap();
        for (name, bytes) in &files {
            std::fs::write(corpus().join(name.replace('/', "-")), bytes).unwrap();
        }
    }
    let good: Vec<Vec<u8>> = files.into_iter().map(|(_, bytes)| bytes).collect();
    let kept = std::fs::read_dir(corpus()).unwrap().flatten();
    let mut seeds: Vec<Vec<u8>> = kept.map(|entry| std::fs::read(entry.path()).unwrap()).collect();
    assert!(seeds.len() >= 8, "the seeds are missing");
    seeds.sort();
    seeds.extend(good.iter().cloned());
    for seed in &seeds {
        read(seed, &chain, &good);
    }
    let seconds = std::env::var("EDGE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut rounds = 0_u64;
    while Instant::now() < until {
        let mut bytes = seeds[dice.below(seeds.len())].clone();
        mutate(&mut bytes, &mut dice, &seeds);
        read(&bytes, &chain, &good);
        rounds += 1;
    }
    assert!(rounds > 100, "only {rounds} rounds");
}
