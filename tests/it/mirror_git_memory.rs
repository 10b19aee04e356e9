//! How much memory a git repository takes whose objects hang on one another in the worst way: a long chain of deltas, each
//! of which has a second one hanging on it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::forge::{Forge, git};
use crate::mirror::noise;

/// Deltas in the chain; git makes none that is longer than 4095.
const LEVELS: u32 = 240;
/// Bytes of each object.
const SIZE: usize = 256 << 10;

fn number(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 127 {
        bytes.push((value & 127) as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// An entry's head: its kind, and how large its data are.
fn head(kind: u8, size: usize) -> Vec<u8> {
    let rest = size >> 4;
    let first = kind << 4 | (size & 15) as u8;
    if rest == 0 { vec![first] } else { [vec![first | 128], number(rest)].concat() }
}

fn packed(data: &[u8]) -> Vec<u8> {
    let mut zip = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zip.write_all(data).unwrap();
    zip.finish().unwrap()
}

/// The distance to the base, as such entries have it.
fn distance(mut value: u64) -> Vec<u8> {
    let mut bytes = vec![(value & 127) as u8];
    while value > 127 {
        value = (value >> 7) - 1;
        bytes.insert(0, (value & 127) as u8 | 128);
    }
    bytes
}

/// A delta that keeps the base but for its first bytes, which become `mark`.
fn delta(mark: u32) -> Vec<u8> {
    let mark = mark.to_be_bytes();
    let copy = SIZE - 4;
    let mut bytes = [number(SIZE), number(SIZE), vec![4], mark.to_vec()].concat();
    // Copy from 4 on: one byte of offset, three of length.
    bytes.extend([0x80 | 1 | 0x70, 4, copy as u8, (copy >> 8) as u8, (copy >> 16) as u8]);
    bytes
}

/// The pack. Each level has a leaf, and behind it the delta that the next level is made of.
fn pack() -> Vec<u8> {
    let mut bytes = b"PACK\0\0\0\x02".to_vec();
    bytes.extend((1 + 2 * LEVELS).to_be_bytes());
    let mut base = bytes.len();
    bytes.extend(head(3, SIZE));
    bytes.extend(packed(&noise(1, SIZE)));
    for level in 0..LEVELS {
        for side in 0..2 {
            let at = bytes.len();
            let delta = delta(2 * level + side);
            bytes.extend(head(6, delta.len()));
            bytes.extend(distance((at - base) as u64));
            bytes.extend(packed(&delta));
            if side == 1 {
                base = at;
            }
        }
    }
    bytes.extend(sha1(&bytes));
    bytes
}

fn sha1(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("sha1sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    (0..20).map(|at| u8::from_str_radix(&out[2 * at..2 * at + 2], 16).unwrap()).collect()
}

/// Puts the pack into the server's repository, with a commit that has all of it.
fn plant(repository: &Path) {
    let file = repository.join("planted");
    std::fs::write(&file, pack()).unwrap();
    let text = |done: crate::command::Done| done.good().out.trim().to_owned();
    let indexed = Command::new("sh")
        .args([
            "-c",
            "git index-pack --stdin <planted && rm planted && git show-index <$(ls objects/pack/*.idx)",
        ])
        .current_dir(repository)
        .output()
        .unwrap();
    let listed = String::from_utf8(indexed.stdout).unwrap();
    let ids: Vec<&str> = listed.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(ids.len() as u32, 1 + 2 * LEVELS, "{}", String::from_utf8_lossy(&indexed.stderr));
    let tree: String = ids.iter().enumerate().map(|(at, id)| format!("100644 blob {id}\tf{at}\n")).collect();
    std::fs::write(repository.join("tree"), tree).unwrap();
    let made = Command::new("sh")
        .args(["-c", "git mktree <tree; rm tree"])
        .current_dir(repository)
        .output()
        .unwrap();
    let tree = String::from_utf8(made.stdout).unwrap();
    let commit = text(git(repository, &["commit-tree", "-m", "x", tree.trim()]));
    git(repository, &["update-ref", "refs/heads/main", &commit]).good();
    // What is there is sent as it is, however deep it hangs.
    git(repository, &["config", "pack.depth", "4095"]).good();
}

#[test]
fn deltas_that_hang_on_one_another_cost_no_more_memory_the_longer_their_chain_is() {
    let forge = Forge::start();
    plant(&forge.root().join("config.git"));
    forge.configure("", "");
    let mut child = forge
        .place
        .edge(&["mirror", "sync", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (status, mut most) = (format!("/proc/{}/status", child.id()), 0);
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0);
        most = most.max(now >> 10);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let done = crate::command::Done::of(child.wait_with_output().unwrap()).good();
    assert!(done.out.contains("\"new\""), "{}", done.out);
    forge.sound();
    // Held all at once they are 60 MB.
    assert!(most <= 30, "{most} MB for a chain of {LEVELS} objects of {SIZE} bytes");
    let pack = std::fs::read_dir(forge.place.path("state/git/config.git/objects/pack")).unwrap();
    let size: u64 = pack.flatten().map(|entry| entry.metadata().unwrap().len()).sum();
    assert!(size < 1 << 20, "what was small upstream is small here: {size}");
}
