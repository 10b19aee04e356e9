//! Mirrored git repositories where the disk is small, or something of them is damaged.

use std::process::Command;

use crate::command::Done;
use crate::forge::Forge;
use crate::mirror::{noise, size_of};

/// A file system of its own, in memory, in the place of the state folder.
struct Small(std::path::PathBuf);

impl Small {
    fn new(folder: std::path::PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        let small = Self(folder);
        small.mount(&["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "tmpfs"]);
        small
    }

    fn resize(&self, size: &str) {
        self.mount(&["-o", &format!("remount,size={size}")]);
    }

    fn mount(&self, words: &[&str]) {
        Done::of(Command::new("mount").args(words).arg(&self.0).output().unwrap()).good();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn many_packs_become_one_where_there_is_room_for_one_copy_and_a_full_disk_is_not_filled() {
    let forge = Forge::start();
    forge.commit("large", &noise(1, 3 << 20));
    let commits: Vec<String> =
        (0..25).map(|at| forge.commit("app.yaml", format!("replicas: {at}\n").as_bytes())).collect();
    forge.push();
    let small = Small::new(forge.place.path("state"), "16m");
    forge.configure("", "");
    let config =
        forge.place.read("etc/edge.toml").replace("[registry]\n", "[registry]\nreserve = \"1MiB\"\n");
    forge.place.write("etc/edge.toml", &config);
    assert_eq!(forge.sync(&[]).0, 0);
    // As 25 pushes of a little would have left them.
    let folder = forge.place.path("state/git/config.git");
    let packs = folder.join("objects/pack");
    for id in commits {
        // git makes a pack in its own repository and moves it: not from one file system to another.
        let pack = format!(
            "cd '{}' && echo {id}^..{id} | git pack-objects -q --revs ../packed && mv ../packed-* '{}'",
            forge.beside("work").display(),
            packs.display()
        );
        Done::of(Command::new("sh").args(["-c", &pack]).output().unwrap()).good();
    }
    let stat = nix::sys::statvfs::statvfs(&small.0).unwrap();
    let used = (stat.blocks() - stat.blocks_free()) * stat.fragment_size();
    let count = || std::fs::read_dir(&packs).unwrap().count();
    // No room for a copy: what has come has come, and nothing is left of it.
    small.resize(&format!("{}k", (used >> 10) + (3 << 10)));
    let done = forge.place.run(&["mirror", "sync"]);
    assert!(done.code == 0 && done.err.contains("its packs were not made one"), "{done:?}");
    assert!(done.err.contains("is full") && count() > 50, "{done:?}");
    assert_eq!(size_of(&folder.join("objects/incoming")), 0);
    forge.sound();
    // Not tried again before there are twice as many.
    let done = forge.place.run(&["mirror", "sync"]);
    assert!(done.code == 0 && !done.err.contains("not made one"), "{done:?}");
    // Room for one copy, and not for two.
    std::fs::remove_file(folder.join("objects/repack")).unwrap();
    small.resize(&format!("{}k", (used >> 10) + (5 << 10)));
    let done = forge.place.run(&["mirror", "sync"]);
    assert!(done.code == 0 && !done.err.contains("not made one"), "{done:?}");
    assert!(count() < 10, "{} files", count());
    forge.sound();
}

#[test]
fn one_damaged_repository_stops_no_prune_and_what_one_that_was_cut_short_left_goes_too() {
    let forge = Forge::start();
    forge.commit("large", &noise(1, 200_000));
    forge.work(&["branch", "old"]);
    forge.push();
    forge.configure("", "");
    assert_eq!(forge.sync(&[]).0, 0);
    // Before the good one in order, and wanted; one that nobody wants; and a removal that was cut short.
    let state = forge.place.path("state/git");
    let copy = |name: &str| {
        let done = Command::new("cp").arg("-a").arg(state.join("config.git")).arg(state.join(name)).output();
        Done::of(done.unwrap()).good();
    };
    ["bad.git", "gone.git", "half.removed"].into_iter().for_each(copy);
    std::fs::write(state.join("bad.git/packed-refs"), "no refs\n").unwrap();
    let rule = "branches = [\"main\"]\ntags = []\n[[mirror.git]]\nname = \"bad\"\nurl = \"http://127.0.0.1:1/bad.git\"\n";
    forge.configure(rule, "");
    let would = forge.place.run(&["mirror", "prune", "--dry-run"]);
    for line in
        ["half.git", "gone.git", "config.git refs/heads/old", "failed: bad.git: ", "3 would go, 2 stay"]
    {
        assert!(would.out.contains(line), "{line}: {would:?}");
    }
    assert!(would.code == 1 && state.join("half.removed").exists() && state.join("gone.git").exists());
    let done = forge.place.run(&["mirror", "prune", "--yes"]);
    assert!(done.code == 1 && done.out.contains("packed-refs` is damaged"), "{done:?}");
    let mut left: Vec<String> = std::fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["bad.git", "config.git"]);
    assert_eq!(forge.here().len(), 1);
    forge.sound();
}
