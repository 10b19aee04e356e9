use std::process::Command;

use super::*;
use crate::git::{Objects, Refs, folder, oid};

/// Runs git with nobody's configuration; what it said.
fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("/usr/bin/git");
    command.args(["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "gc.auto=0"]).args(arguments);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").current_dir(folder);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// A repository of edge's with `count` commits, each in a pack of its own that has all it needs.
fn scattered(state: &Path, count: usize) -> Repository {
    let work = state.join("work");
    std::fs::create_dir(&work).unwrap();
    git(&work, &["init", "-q", "-b", "main"]);
    let made = Repository::open_or_create(&folder(state, "config")).unwrap();
    let mut at = Oid::null(gix_hash::Kind::Sha1);
    for number in 0..count {
        std::fs::write(work.join("app.yaml"), format!("replicas: {number}\n").repeat(100)).unwrap();
        git(&work, &["add", "."]);
        git(&work, &["commit", "-q", "-m", "x"]);
        at = oid(git(&work, &["rev-parse", "HEAD"]).as_bytes()).unwrap();
        let into = made.folder.join("objects/pack/pack");
        let pack = format!("echo HEAD | git pack-objects -q --revs '{}'", into.display());
        assert!(Command::new("sh").args(["-c", &pack]).current_dir(&work).output().unwrap().status.success());
    }
    let mut made = Repository::open(&made.folder).unwrap();
    made.flip(Refs::from([("refs/heads/main".to_owned(), at)]), "refs/heads/main").unwrap();
    made
}

fn sound(folder: &Path) {
    git(folder, &["fsck", "--full", "--strict", "--no-dangling"]);
}

#[test]
fn an_index_that_lost_its_pack_is_passed_over_where_nothing_needs_it() {
    let state = tempfile::tempdir().unwrap();
    let made = scattered(state.path(), 4);
    let packs = packs(&made.folder);
    // The last pack has all; which of them that is, git's names do not say.
    let all: Vec<PathBuf> =
        files(&packs).unwrap().into_iter().filter(|path| path.extension().unwrap() == "pack").collect();
    let whole = all.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    for other in all.iter().filter(|path| *path != whole) {
        std::fs::remove_file(other).unwrap();
    }
    // Readers go on, whoever changes it clears up.
    assert_eq!(Repository::open(&made.folder).unwrap().objects.packs(), 1);
    let opened = Repository::open_to_change(&made.folder).unwrap();
    assert_eq!((opened.objects.packs(), opened.refs), (1, made.refs.clone()));
    let left: Vec<PathBuf> =
        files(&packs).unwrap().into_iter().filter(|path| path.extension().unwrap() == "idx").collect();
    assert_eq!(left, [whole.with_extension("idx")]);
    sound(&made.folder);
    // A pack that a ref needs is missed.
    std::fs::rename(whole, whole.with_extension("gone")).unwrap();
    let error = Repository::open(&made.folder).unwrap_err().to_string();
    assert!(error.contains("is damaged: object") && error.contains("hint: remove this"), "{error}");
}

#[test]
fn what_only_a_lost_pack_had_is_found_before_anything_is_changed() {
    let state = tempfile::tempdir().unwrap();
    let made = scattered(state.path(), 1);
    let work = state.path().join("work");
    // The tip comes in a pack of its own, and then the one below it is gone.
    git(&work, &["commit", "-q", "--allow-empty", "-m", "y"]);
    let tip = oid(git(&work, &["rev-parse", "HEAD"]).as_bytes()).unwrap();
    let below = files(&packs(&made.folder)).unwrap();
    let below = below.iter().find(|path| path.extension().unwrap() == "pack").unwrap();
    let into = made.folder.join("objects/pack/pack");
    let pack = format!("echo {tip} | git pack-objects -q '{}'", into.display());
    assert!(Command::new("sh").args(["-c", &pack]).current_dir(&work).output().unwrap().status.success());
    let mut made = Repository::open(&made.folder).unwrap();
    made.flip(Refs::from([("refs/heads/main".to_owned(), tip)]), "refs/heads/main").unwrap();
    std::fs::remove_file(below).unwrap();
    let error = Repository::open_to_change(&made.folder).unwrap_err().to_string();
    assert!(error.contains("it is gone, and so is what only it had"), "{error}");
    assert!(below.with_extension("idx").exists(), "nothing is cleared up");
}

#[test]
fn a_failed_repack_leaves_nothing_and_waits_for_twice_as_many_packs() {
    let state = tempfile::tempdir().unwrap();
    let mut made = scattered(state.path(), 5);
    assert!(made.is_scattered(4) && !made.is_scattered(5) && !made.is_half_packed());
    let full = || Error::File(std::io::ErrorKind::StorageFull.into());
    let mut asked = 0;
    let refused = made.repack(|bytes| {
        asked = bytes;
        Err(full())
    });
    assert!(refused.unwrap_err().is_full() && asked > 500, "{asked}");
    assert!(!made.is_scattered(4) && made.is_half_packed());
    // One that fails on its way leaves nothing either: the pack is there, and cannot be put beside the others.
    let blocked = packs(&made.folder);
    let aside = blocked.with_extension("aside");
    std::fs::rename(&blocked, &aside).unwrap();
    std::fs::write(&blocked, "").unwrap();
    assert!(made.repack(|_| Ok(())).is_err());
    std::fs::remove_file(&blocked).unwrap();
    std::fs::rename(&aside, &blocked).unwrap();
    let incoming = made.folder.join("objects/incoming");
    assert_eq!(std::fs::read_dir(&incoming).unwrap().count(), 0);
    for name in ["c", "d", "e", "f", "g"] {
        let first = files(&blocked).unwrap().into_iter().find(|path| path.extension().unwrap() == "idx");
        let first = first.unwrap();
        for end in ["pack", "idx"] {
            let copy = blocked.join(format!("pack-{name}.{end}"));
            std::fs::copy(first.with_extension(end), copy).unwrap();
        }
    }
    made.objects = Objects::open(&blocked).unwrap();
    assert_eq!((made.objects.packs(), made.is_scattered(4)), (10, true));
    made.repack(|_| Ok(())).unwrap();
    assert_eq!((made.objects.packs(), made.is_half_packed()), (1, false));
    sound(&made.folder);
}
