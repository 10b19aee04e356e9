//! Git's clients of a mirrored repository, where they ask for something odd.

use crate::command::Daemon;
use crate::forge::{Forge, git};

#[test]
fn shallow_fetches_that_reach_too_far_or_know_of_others_go_as_with_git() {
    let mut forge = Forge::start();
    for at in 0..6 {
        forge.commit("app.yaml", format!("replicas: {at}\n").as_bytes());
    }
    forge.push();
    forge.configure("", "");
    assert_eq!(forge.sync(&[]).0, 0);
    let _daemon = Daemon::start(&forge.place);
    let (theirs, ours) = (format!("file://{}", forge.root().join("config.git").display()), forge.mirrored());
    let beside = forge.beside("");
    let words = "no commits selected for shallow requests";
    for version in ["protocol.version=0", "protocol.version=2"] {
        // All commits are of 2026.
        for (at, url) in [&theirs, &ours].into_iter().enumerate() {
            let into = format!("{version}-{at}");
            let clone = |since: &str| {
                git(&beside, &["-c", version, "clone", "-q", &format!("--shallow-since={since}"), url, &into])
            };
            let none = clone("2027-01-01");
            assert!(none.code != 0 && none.err.contains(words), "{url}: {none:?}");
            clone("2025-01-01").good();
            assert_eq!(git(&beside.join(&into), &["rev-list", "--count", "HEAD"]).good().out.trim(), "6");
        }
        // A second remote, of whose commits nobody here knows.
        let other = beside.join(format!("{version}-other"));
        git(&beside, &["init", "-q", other.to_str().unwrap()]).good();
        for at in 0..3 {
            git(&other, &["commit", "-q", "--allow-empty", "-m", &format!("other {at}")]).good();
        }
        let shallow = beside.join(format!("{version}-shallow"));
        git(&beside, &["-c", version, "clone", "-q", "--depth", "2", &ours, shallow.to_str().unwrap()])
            .good();
        let from = format!("file://{}", other.display());
        git(&shallow, &["-c", version, "fetch", "-q", "--depth", "1", &from, "main:refs/heads/other"]).good();
        git(&shallow, &["-c", version, "fetch", "-q", "--deepen=2", "origin"]).good();
        let count = |name: &str| git(&shallow, &["rev-list", "--count", name]).good().out.trim().to_owned();
        assert_eq!((count("origin/main"), count("other")), ("4".to_owned(), "1".to_owned()), "{version}");
        git(&shallow, &["fsck", "--full", "--strict"]).good();
    }
    forge.stop();
}
