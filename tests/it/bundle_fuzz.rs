//! Mutates envelopes, roots, manifests, receipts and lists for a while: nothing panics, nothing mutated is believed, and what
//! is read means the same when it is written and read again. What an envelope holds is mutated by itself too: of a changed
//! envelope little is ever decoded.
//!
//! A loop of its own on stable Rust rather than cargo-fuzz, which needs a nightly compiler and a C++ runtime on every
//! machine that runs the tests. `EDGE_FUZZ_SECONDS` says how long; `scripts/test` says a minute. The seeds are in
//! `tests/fixtures/bundle`; `EDGE_WRITE_SAMPLES=1` writes those anew that are made.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge::bundle::{BlobLine, Identity, ListReader, Manifest, PAYLOAD_TYPE, RECEIPT_TYPE, Receipt, keys};
use edge::oci::Platform;
use edge::sys::digest::Digest;
use edge::trust::{Chain, Draft, Envelope, ROOT_TYPE, SecretKey, gateway};
use serde_json::{Value, json};

use crate::bundle::{Scene, THEN, at, put_chart, put_image};

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

/// Everything that reads what an envelope holds. Says how far it came: not to its end, read, or found proper.
fn read_payload(payload: &[u8], chain: &Chain) -> usize {
    let wrapped = |kind: &'static str| Envelope::unsigned(kind, payload).to_bytes();
    let envelope = wrapped(PAYLOAD_TYPE);
    let believed = chain.current().open::<Manifest>(&envelope, "fuzz", PAYLOAD_TYPE, 1 << 20);
    assert!(believed.is_err(), "what nobody signed is believed");
    let _ = Draft::read(&wrapped(ROOT_TYPE), "fuzz");
    if let Ok(receipt) = gateway::peek::<Receipt>(&wrapped(RECEIPT_TYPE), "fuzz", 1 << 20) {
        let again = serde_json::to_vec(&receipt).unwrap();
        assert_eq!(serde_json::from_slice::<Receipt>(&again).unwrap(), receipt);
        return 2;
    }
    let Ok(manifest) = gateway::peek::<Manifest>(&envelope, "fuzz", 1 << 20) else { return 0 };
    let again = serde_json::to_vec(&manifest).unwrap();
    assert_eq!(serde_json::from_slice::<Manifest>(&again).unwrap(), manifest);
    let me = Identity { gateway: Some("ship-7".into()), fleet: Some("north".into()) };
    let platform: Platform = "linux/arm64".parse().unwrap();
    let _ = manifest.check_audience(&me, &platform);
    let _ = manifest.check_time(at(THEN), Some(at(THEN + 1000)));
    let _ = manifest.check_step(at(THEN));
    if manifest.check().is_err() {
        return 1;
    }
    let digests = [&manifest.blobs.digest, &manifest.refs.digest];
    assert!(digests.iter().all(|digest| digest.as_str().starts_with("sha256:")), "{manifest:?}");
    assert!(manifest.snapshot == manifest.refs.digest, "{manifest:?}");
    assert!(manifest.system.is_none() || manifest.importer > 1, "{manifest:?}");
    2
}

/// The same as whoever has the bundle key would send it: signed and claimed are read alike.
fn read_signed(payload: &[u8], chain: &Chain, key: &SecretKey) {
    let mut envelope = Envelope::unsigned(PAYLOAD_TYPE, payload);
    envelope.sign(key).unwrap();
    let bytes = envelope.to_bytes();
    let believed = chain.current().open::<Manifest>(&bytes, "fuzz", PAYLOAD_TYPE, 1 << 20);
    let claimed = gateway::peek::<Manifest>(&bytes, "fuzz", 1 << 20);
    assert_eq!(believed.ok().map(|manifest| (*manifest).clone()), claimed.ok());
}

/// What the envelopes of `good` hold, and two that this scene has none of: a receipt, and a manifest with a system.
fn payloads(good: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let decoded = |envelope: &Vec<u8>| {
        let envelope: Value = serde_json::from_slice(envelope).ok()?;
        STANDARD.decode(envelope["payload"].as_str()?).ok()
    };
    let mut found: Vec<Vec<u8>> = good.iter().filter_map(decoded).collect();
    let mut manifest: Value = serde_json::from_slice(&found[0]).unwrap();
    let file = |name: &str| json!({"digest": Digest::sha256(name.as_bytes()), "size": name.len()});
    let list = manifest["blobs"].clone();
    manifest["importer"] = 2.into();
    manifest["audience"] = json!({"gateways": ["ship-7"], "fleets": ["north"], "platforms": ["linux/arm64"]});
    manifest["system"] = json!({
        "version": "1.5", "arch": "arm64", "board": "generic-efi", "verity-uuid": "a-b",
        "files": {"root": file("root"), "verity": file("verity"), "kernel": file("kernel"), "description": file("system")},
    });
    found.push(serde_json::to_vec(&manifest).unwrap());
    let receipt = json!({
        "gateway": "ship-7", "key": "a", "stream": "main", "seq": 1, "manifest": list["digest"],
        "snapshot": list["digest"], "imported": at(THEN), "have": list,
    });
    found.push(serde_json::to_vec(&receipt).unwrap());
    found
}

/// Changes a value somewhere in a JSON document to another that stands there or might: bytes that are changed at random are
/// seldom JSON any more.
fn replace(document: &mut Value, dice: &mut Dice, others: &[Value]) {
    let mut at = document;
    while dice.below(4) > 0 {
        let count = at.as_object().map_or_else(|| at.as_array().map_or(0, Vec::len), serde_json::Map::len);
        if count == 0 {
            break;
        }
        let nth = dice.below(count);
        at = match at {
            Value::Object(map) => map.values_mut().nth(nth).unwrap(),
            Value::Array(items) => &mut items[nth],
            _ => unreachable!("it has parts"),
        };
    }
    *at = others[dice.below(others.len())].clone();
}

/// A good bundle's own files.
fn made() -> (Chain, SecretKey, Vec<(&'static str, Vec<u8>)>) {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), &[7; 9000], "arm64");
    put_chart(&scene.depot, "web", "1.0.0", b"chart");
    let mut plan = scene.plan();
    plan.part_size = 4096;
    let folder = scene.create(&plan).unwrap().folder;
    let chain = keys::read_chain(&scene.path("keys")).unwrap();
    let key = SecretKey::read(&scene.path("keys/bundle.key"), None).unwrap();
    let files = ["manifest.dsse", "blobs.list", "refs.list", "trust/1.root.json"];
    (chain, key, files.map(|file| (file, std::fs::read(folder.join(file)).unwrap())).to_vec())
}

#[test]
fn whatever_is_changed_is_refused_and_nothing_panics() {
    let (chain, key, files) = made();
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
    let payloads = payloads(&good);
    assert_eq!(payloads.iter().map(|one| read_payload(one, &chain)).collect::<Vec<_>>(), [2, 0, 2, 2]);
    let documents: Vec<Value> = payloads.iter().map(|one| serde_json::from_slice(one).unwrap()).collect();
    let mut values =
        vec![Value::Null, json!([]), json!({}), json!(""), json!(u64::MAX), json!(-1), json!(1e300)];
    documents.iter().filter_map(Value::as_object).for_each(|fields| values.extend(fields.values().cloned()));
    let mut came = [0_u64; 3];
    let seconds = std::env::var("EDGE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut rounds = 0_u64;
    while Instant::now() < until {
        let mut bytes = seeds[dice.below(seeds.len())].clone();
        mutate(&mut bytes, &mut dice, &seeds);
        read(&bytes, &chain, &good);
        let nth = dice.below(payloads.len());
        let payload = if rounds.is_multiple_of(2) {
            let mut bytes = payloads[nth].clone();
            mutate(&mut bytes, &mut dice, &payloads);
            bytes
        } else {
            let mut document = documents[nth].clone();
            replace(&mut document, &mut dice, &values);
            serde_json::to_vec(&document).unwrap()
        };
        came[read_payload(&payload, &chain)] += 1;
        // Signing takes longer than all else.
        if rounds.is_multiple_of(64) {
            read_signed(&payload, &chain, &key);
        }
        rounds += 1;
    }
    assert!(rounds > 100, "only {rounds} rounds");
    let enough = rounds < 5_000 || came.iter().all(|count| *count > 10);
    assert!(enough, "not read, read, found proper: {came:?} of {rounds}");
}
