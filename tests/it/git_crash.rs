//! kill -9 at every rename and removal while the packs of a git repository are made one: it can be read afterwards, has all
//! that it had, and the work is done by the next one. As in `store_crash`, the page cache survives this.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use edge::git::Repository;
use edge::sys::failpoint;

use crate::command::Done;
use crate::forge::git;

/// A repository with four packs, each with all of its commit.
fn scattered(folder: &Path) -> PathBuf {
    let (work, made) = (folder.join("work"), folder.join("config.git"));
    git(folder, &["init", "-q", "work"]).good();
    let mut here = Repository::open_or_create(&made).unwrap();
    for number in 0..4 {
        std::fs::write(work.join("app.yaml"), format!("replicas: {number}\n").repeat(100)).unwrap();
        git(&work, &["add", "."]).good();
        git(&work, &["commit", "-q", "-m", "x"]).good();
        let into = made.join("objects/pack/pack");
        let pack = format!("echo HEAD | git pack-objects -q --revs '{}'", into.display());
        Done::of(Command::new("sh").args(["-c", &pack]).current_dir(&work).output().unwrap()).good();
        let head = git(&work, &["rev-parse", "HEAD"]).good().out;
        here = Repository::open(&made).unwrap();
        let refs = [("refs/heads/main".to_owned(), edge::git::oid(head.trim().as_bytes()).unwrap())];
        here.flip(refs.into(), "refs/heads/main").unwrap();
    }
    assert_eq!(here.objects.packs(), 4);
    made
}

#[test]
fn a_repository_can_be_read_wherever_its_repacking_is_killed() {
    let original = tempfile::tempdir().unwrap();
    let original = (scattered(original.path()), original);
    let mut kills = 0;
    for place in ["pack-rename", "pack-unlink"] {
        for nth in 1.. {
            let folder = tempfile::tempdir().unwrap();
            let copied = Command::new("cp").arg("-a").arg(&original.0).arg(folder.path()).output().unwrap();
            Done::of(copied).good();
            let made = folder.path().join("config.git");
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "git_crash::child", "--ignored", "--nocapture"])
                .env("EDGE_TEST_FOLDER", &made)
                .env("EDGE_TEST_KILL", format!("{place} {nth}"))
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let case = format!("{place} {nth}: {}", String::from_utf8_lossy(&child.stderr));
            let here = Repository::open(&made).unwrap_or_else(|error| panic!("{error}: {case}"));
            assert_eq!(here.refs, Repository::open(&original.0).unwrap().refs, "{case}");
            git(&made, &["fsck", "--full", "--strict", "--no-dangling"]).good();
            let mut here = Repository::open_to_change(&made).unwrap();
            here.repack(|_| Ok(())).unwrap();
            assert_eq!((here.objects.packs(), here.is_half_packed()), (1, false), "{case}");
            assert_eq!(std::fs::read_dir(made.join("objects/pack")).unwrap().count(), 2, "{case}");
            git(&made, &["fsck", "--full", "--strict", "--no-dangling"]).good();
            if child.status.success() {
                assert!(nth > 1, "{place} is never passed");
                break;
            }
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.status), Some(9), "{case}");
            kills += 1;
        }
    }
    // Two files come, and the last four packs with their indexes go, but for the one that stays as it was.
    assert!(kills >= 8, "only {kills} kills");
}

#[test]
#[ignore = "run by the test above, which kills it"]
fn child() {
    let (Ok(folder), Ok(kill)) = (std::env::var("EDGE_TEST_FOLDER"), std::env::var("EDGE_TEST_KILL")) else {
        return;
    };
    let (place, nth) = kill.split_once(' ').unwrap();
    let (place, mut left): (String, u32) = (place.to_owned(), nth.parse().unwrap());
    let passed = std::sync::Mutex::new(move |at: &str| {
        left = left.saturating_sub(u32::from(at == place));
        left == 0
    });
    failpoint::arm(move |at| {
        if passed.lock().unwrap()(at) {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    });
    Repository::open_to_change(Path::new(&folder)).unwrap().repack(|_| Ok(())).unwrap();
}
