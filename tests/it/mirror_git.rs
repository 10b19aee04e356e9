//! Git repositories mirrored from git's own server, and served to git when that is gone.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::command::{Daemon, Done};
use crate::forge::{Forge, git, turns};
use crate::mirror::noise;

#[test]
fn what_a_git_server_had_is_cloned_from_here_when_it_is_gone() {
    let mut forge = Forge::start();
    forge.commit("first", b"1\n");
    forge.work(&["tag", "-a", "v1", "-m", "one"]);
    for seed in 2..40_u32 {
        forge.commit("app.yaml", format!("replicas: {seed}\n").repeat(40).as_bytes());
    }
    forge.work(&["tag", "light"]);
    for branch in ["release/1", "topic"] {
        forge.work(&["checkout", "-q", "-b", branch]);
        forge.commit(&branch.replace('/', "-"), branch.as_bytes());
        forge.work(&["checkout", "-q", "main"]);
    }
    forge.push();
    forge.configure("branches = [\"main\", \"release/*\"]", "");

    let (code, dry) = forge.sync(&["--dry-run"]);
    assert_eq!((code, &dry["git"][0]["state"]), (0, &json!("new")), "{dry}");
    assert!(!forge.place.path("state/git").exists(), "nothing is made");
    let (code, summary) = forge.sync(&[]);
    assert_eq!((code, &summary["git"][0]["state"]), (0, &json!("new")), "{summary}");
    assert_eq!(turns(&summary).len(), 4, "{summary}");
    forge.sound();
    forge.requests();
    let (code, again) = forge.sync(&["config"]);
    assert_eq!((code, &again["git"][0]["state"], &again["bytes"]), (0, &json!("unchanged"), &json!(0)));
    assert_eq!(forge.requests().len(), 2, "what is unchanged costs two small requests, and no pack");

    forge.stop();
    let _daemon = Daemon::start(&forge.place);
    let url = forge.mirrored();
    let head = forge.work(&["rev-parse", "main"]).out;
    for version in ["0", "2"] {
        let version = format!("protocol.version={version}");
        let listed =
            git(forge.beside("").as_path(), &["-c", &version, "ls-remote", "--symref", &url]).good().out;
        for line in
            ["ref: refs/heads/main\tHEAD", "refs/heads/release/1", "refs/tags/v1^{}", "refs/tags/light"]
        {
            assert!(listed.contains(line), "{version}: {line}: {listed}");
        }
        assert!(!listed.contains("topic"), "{listed}");
        let into = forge.beside(&version);
        let into = into.to_str().unwrap();
        git(forge.beside("").as_path(), &["-c", &version, "clone", "-q", &url, into]).good();
        let clone = Path::new(into);
        git(clone, &["fsck", "--full", "--strict"]).good();
        assert_eq!(git(clone, &["rev-parse", "HEAD"]).good().out, head);
        assert_eq!(git(clone, &["rev-list", "--count", "HEAD"]).good().out.trim(), "39");
        assert_eq!(git(clone, &["cat-file", "-t", "v1"]).good().out.trim(), "tag");

        let shallow = format!("{into}-shallow");
        git(forge.beside("").as_path(), &["-c", &version, "clone", "-q", "--depth", "3", &url, &shallow])
            .good();
        let shallow = Path::new(&shallow);
        let count = || git(shallow, &["rev-list", "--count", "HEAD"]).good().out.trim().to_owned();
        assert_eq!(count(), "3", "{version}");
        git(shallow, &["-c", &version, "fetch", "-q", "--depth", "10"]).good();
        assert_eq!(count(), "10", "{version}");
        git(shallow, &["-c", &version, "fetch", "-q", "--deepen", "5"]).good();
        assert_eq!(count(), "15", "{version}");
        git(shallow, &["-c", &version, "fetch", "-q", "--unshallow"]).good();
        assert_eq!(count(), "39", "{version}");
        git(shallow, &["fsck", "--full", "--strict"]).good();

        let bare = format!("{into}-blobless");
        git(
            forge.beside("").as_path(),
            &["-c", &version, "clone", "-q", "--bare", "--filter=blob:none", &url, &bare],
        )
        .good();
        let push = git(clone, &["-c", &version, "push", "origin", "main:refs/heads/mine"]);
        assert!(push.code != 0 && push.err.contains("403"), "{push:?}");
    }
    let missing = git(forge.beside("").as_path(), &["ls-remote", &url.replace("config", "other")]);
    assert!(missing.code != 0 && missing.err.contains("not found"), "{missing:?}");
}

#[test]
fn what_upstream_drops_or_replaces_stays_and_only_news_travel() {
    let forge = Forge::start();
    forge.commit("large", &noise(1, 400_000));
    forge.work(&["tag", "v1"]);
    forge.work(&["tag", "v2"]);
    forge.work(&["branch", "old"]);
    forge.push();
    forge.configure("", "");
    assert_eq!(forge.sync(&[]).0, 0);
    let daemon = Daemon::start(&forge.place);
    let clone = forge.beside("clone");
    git(forge.beside("").as_path(), &["clone", "-q", &forge.mirrored(), clone.to_str().unwrap()]).good();

    // News, through the daemon.
    let second = forge.commit("second", b"2\n");
    forge.push();
    let (code, summary) = forge.sync(&[]);
    assert_eq!((code, turns(&summary)), (0, vec!["refs/heads/main moved".to_owned()]), "{summary}");
    assert!(summary["bytes"].as_u64().unwrap() < 5000, "{summary}");
    git(&clone, &["pull", "-q", "--ff-only"]).good();
    assert_eq!(git(&clone, &["rev-parse", "HEAD"]).good().out.trim(), second);

    // A branch is replaced, a tag moves, a branch and a tag go.
    forge.work(&["reset", "-q", "--hard", "HEAD~1"]);
    let third = forge.commit("third", b"3\n");
    forge.work(&["tag", "-f", "v2"]);
    forge.work(&["tag", "-d", "v1"]);
    forge.work(&["branch", "-D", "old"]);
    forge.push();
    let done = forge.place.run(&["mirror", "sync"]).good().out;
    let kept = format!("refs/kept/heads-main/{}", &second[..12]);
    assert!(
        done.contains(&format!(
            "kept: config.git refs/heads/main: upstream has replaced it; what it was is {kept}"
        )),
        "{done}"
    );
    assert!(done.contains("kept: config.git refs/tags/v1: upstream has it no more"), "{done}");
    let here = forge.here();
    for line in [format!("{third} refs/heads/main"), format!("{second} {kept}")] {
        assert!(here.contains(&line), "{here:?}");
    }
    for name in ["refs/heads/old", "refs/tags/v1", "refs/tags/v2", "refs/kept/tags-v2/"] {
        assert!(here.iter().any(|line| line.contains(name)), "{name}: {here:?}");
    }
    forge.sound();
    git(&clone, &["fetch", "-q", "origin", &kept]).good();
    let listed = forge.place.run(&["mirror", "list"]).good().out;
    assert!(
        listed.contains("config.git") && listed.contains("git config: every branch, every tag"),
        "{listed}"
    );
    let told = forge.place.run(&["mirror", "explain", "config"]).good().out;
    assert!(told.contains(&kept) && told.contains("in   git config"), "{told}");

    // What no rule wants goes when somebody says so, and what is wanted stays sound.
    drop(daemon);
    forge.configure("branches = [\"main\"]\ntags = []", "");
    let would = forge.place.run(&["mirror", "prune", "--dry-run"]).good().out;
    assert!(would.contains("config.git refs/heads/old") && would.contains(&kept), "{would}");
    assert_eq!(forge.here().len(), here.len());
    forge.place.run(&["mirror", "prune", "--yes"]).good();
    assert_eq!(forge.here(), [format!("{third} refs/heads/main")]);
    forge.sound();
    let gone = git(&forge.place.path("state/git/config.git"), &["cat-file", "-e", &second]);
    assert_ne!(gone.code, 0, "its commits are gone too");
    let daemon = Daemon::start(&forge.place);
    git(&clone, &["fetch", "-q", "--prune", "origin"]).good();
    drop(daemon);

    forge.place.write("etc/edge.toml", &forge.place.read("etc/edge.toml").replace("\"config\"", "\"other\""));
    forge.place.run(&["mirror", "prune", "--yes"]).good();
    assert!(!forge.place.path("state/git/config.git").exists());
}

#[test]
fn a_pack_that_is_cut_damaged_or_too_large_changes_nothing() {
    let forge = Forge::start();
    let first = forge.commit("first", b"1\n");
    forge.push();
    forge.configure("", "[mirror]\ngit-size-limit = \"1MiB\"\n");
    assert_eq!(forge.sync(&[]).0, 0);
    forge.commit("second", &noise(2, 600_000));
    forge.push();
    for (fault, why) in [("cut 300000", "cannot read"), ("damage", "")] {
        forge.fault(fault);
        let (code, summary) = forge.sync(&[]);
        let error = summary["git"][0]["error"].as_str().unwrap();
        assert!(code == 1 && error.contains(why), "{fault}: {summary}");
        assert_eq!(forge.here(), [format!("{first} refs/heads/main")], "{fault}");
        forge.sound();
    }
    // No room but what is left free for others.
    forge.fault("");
    let config = forge.place.read("etc/edge.toml");
    forge.place.write("etc/edge.toml", &config.replace("[registry]\n", "[registry]\nreserve = \"1TiB\"\n"));
    let (code, summary) = forge.sync(&[]);
    let error = summary["git"][0]["error"].as_str().unwrap();
    assert!(code == 1 && error.contains("is full"), "{summary}");
    forge.place.write("etc/edge.toml", &config);
    // Killed in the middle.
    forge.fault("slow 100000");
    let mut child =
        forge.place.edge(&["mirror", "sync"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let incoming = forge.place.path("state/git/config.git/objects/incoming");
    let until = Instant::now() + Duration::from_secs(20);
    while crate::mirror::size_of(&incoming) < 100_000 {
        assert!(Instant::now() < until, "nothing comes");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    forge.sound();
    assert_eq!(forge.here(), [format!("{first} refs/heads/main")]);
    forge.fault("");
    assert_eq!(forge.sync(&[]).0, 0);
    forge.sound();
    assert_eq!(crate::mirror::size_of(&incoming), 0, "what the killed one left is gone");
    let third = forge.commit("third", &noise(3, 600_000));
    forge.push();
    let (code, summary) = forge.sync(&[]);
    let error = summary["git"][0]["error"].as_str().unwrap();
    assert!(code == 1 && error.contains("hint: `mirror.git-size-limit`"), "{summary}");
    assert!(!forge.here().iter().any(|line| line.contains(&third)));
    forge.sound();
}

#[test]
fn what_would_harm_a_checkout_is_refused_and_named() {
    let forge = Forge::start();
    let first = forge.commit("first", b"1\n");
    forge.push();
    forge.configure("", "");
    assert_eq!(forge.sync(&[]).0, 0);
    let blob = forge.work(&["rev-parse", "HEAD:first"]).out.trim().to_owned();
    let repository = forge.root().join("config.git");
    for name in [".git", "..", "a/b", ".GIT", "git~1"] {
        // git's own commands make no such tree: its bytes are written as they are.
        let mut bytes = format!("100644 {name}\0").into_bytes();
        bytes.extend((0..20).map(|at| u8::from_str_radix(&blob[2 * at..2 * at + 2], 16).unwrap()));
        let file = forge.beside("tree");
        std::fs::write(&file, bytes).unwrap();
        let tree =
            git(&repository, &["hash-object", "-t", "tree", "-w", "--literally", file.to_str().unwrap()])
                .good();
        let commit = git(&repository, &["commit-tree", "-m", "x", "-p", &first, tree.out.trim()]).good();
        git(&repository, &["update-ref", "refs/heads/main", commit.out.trim()]).good();
        let (code, summary) = forge.sync(&[]);
        let error = summary["git"][0]["error"].as_str().unwrap();
        assert!(code == 1 && error.contains(&format!("it has the file name `{name}`")), "{summary}");
        assert_eq!(forge.here(), [format!("{first} refs/heads/main")]);
    }
    // Something that is no git server.
    forge.configure("", "");
    let config = forge.place.read("etc/edge.toml").replace("config.git\"", "first\"");
    forge.place.write("etc/edge.toml", &config);
    let (code, summary) = forge.sync(&[]);
    assert_eq!((code, &summary["failed"]), (1, &json!(1)), "{summary}");
    let status = forge.place.run(&["mirror", "list"]).good().out;
    assert!(status.contains("config.git") && status.contains("old"), "{status}");
}

#[test]
fn old_servers_and_those_that_want_a_password_are_mirrored_too() {
    let forge = Forge::start();
    forge.commit("first", &noise(1, 50_000));
    forge.work(&["tag", "-a", "v1", "-m", "one"]);
    forge.push();
    std::fs::write(forge.root().join(".old"), "yes").unwrap();
    std::fs::write(forge.root().join(".user"), "edge:secret").unwrap();
    forge.configure("", "");
    let (code, summary) = forge.sync(&[]);
    let error = summary["git"][0]["error"].as_str().unwrap();
    assert!(code == 1 && error.contains("is refused hint: give a credential"), "{summary}");
    let auths = json!({"auths": {format!("127.0.0.1:{}", forge.port): {"auth": "ZWRnZTpzZWNyZXQ="}}});
    let file = forge.place.secret("docker.json", &auths.to_string());
    forge.configure("", &format!("[mirror]\ndocker-config = \"{}\"\n", file.display()));
    assert_eq!(forge.sync(&[]).0, 0);
    let second = forge.commit("second", b"2\n");
    forge.push();
    let (code, summary) = forge.sync(&[]);
    assert!(code == 0 && summary["bytes"].as_u64().unwrap() < 5000, "{summary}");
    assert!(forge.here().contains(&format!("{second} refs/heads/main")));
    forge.sound();
}

#[test]
fn many_small_packs_become_one() {
    let forge = Forge::start();
    forge.configure("", "");
    for at in 0..27 {
        forge.commit("app.yaml", format!("replicas: {at}\n").as_bytes());
        forge.push();
        let (code, summary) = forge.sync(&[]);
        assert_eq!(code, 0, "{summary}");
    }
    let packs = std::fs::read_dir(forge.place.path("state/git/config.git/objects/pack")).unwrap().count();
    assert!(packs < 10, "{packs} files");
    forge.sound();
    let clone = forge.beside("clone");
    let from = forge.place.path("state/git/config.git");
    git(forge.beside("").as_path(), &["clone", "-q", from.to_str().unwrap(), clone.to_str().unwrap()]).good();
    assert_eq!(git(&clone, &["rev-list", "--count", "HEAD"]).good().out.trim(), "27");
}

/// What go-git, by which Argo CD reads repositories, says.
fn go_git(arguments: &[&str]) -> Vec<String> {
    let program = crate::support::parts::program("go-git/go-git-client").unwrap();
    let done = Done::of(Command::new(program).args(arguments).output().unwrap()).good();
    done.out.lines().map(str::to_owned).collect()
}

#[test]
fn go_git_reads_as_argo_cd_does() {
    let mut forge = Forge::start();
    forge.commit("large", &noise(1, 300_000));
    for at in 0..20 {
        forge.commit("app.yaml", format!("replicas: {at}\n").repeat(50).as_bytes());
    }
    forge.work(&["tag", "-a", "v1", "-m", "one"]);
    forge.push();
    forge.configure("", "");
    assert_eq!(forge.sync(&[]).0, 0);
    let _daemon = Daemon::start(&forge.place);
    let url = forge.mirrored();
    let head = forge.work(&["rev-parse", "HEAD"]).out.trim().to_owned();
    let listed = go_git(&["list", &url]);
    for line in [
        "ref: refs/heads/main HEAD".to_owned(),
        format!("{head} refs/heads/main"),
        format!("{head} refs/tags/v1^{{}}"),
    ] {
        assert!(listed.contains(&line), "{line}: {listed:?}");
    }
    let cloned = go_git(&["clone", &url]);
    let commits = |cloned: &[String]| cloned.iter().filter(|line| line.starts_with("commit ")).count();
    assert_eq!((commits(&cloned), cloned.len()), (21, 23), "{cloned:?}");
    assert_eq!(commits(&go_git(&["clone", &url, "1"])), 1);

    let folder = forge.beside("argo");
    let folder = folder.to_str().unwrap();
    assert_eq!(go_git(&["fetch", folder, &url]), [head]);
    let next = forge.commit("app.yaml", b"replicas: 99\n");
    forge.push();
    assert_eq!(forge.sync(&[]).0, 0);
    forge.stop();
    assert_eq!(go_git(&["fetch", folder, &url]), [next]);
    git(Path::new(folder), &["fsck", "--full", "--strict"]).good();
}

#[test]
fn what_came_beside_what_was_asked_for_is_checked_before_a_ref_names_it() {
    let forge = Forge::start();
    let first = forge.commit("first", b"1\n");
    let second = forge.commit("second", b"2\n");
    forge.push();
    forge.configure("", "");
    assert_eq!(forge.sync(&[]).0, 0);
    let repository = forge.root().join("config.git");
    let blob = forge.work(&["rev-parse", "HEAD:first"]).out.trim().to_owned();
    let mut bytes = b"100644 .git\0".to_vec();
    bytes.extend((0..20).map(|at| u8::from_str_radix(&blob[2 * at..2 * at + 2], 16).unwrap()));
    let file = forge.beside("tree");
    std::fs::write(&file, bytes).unwrap();
    let file = file.to_str().unwrap();
    let tree = git(&repository, &["hash-object", "-t", "tree", "-w", "--literally", file]).good();
    let bad = git(&repository, &["commit-tree", "-m", "x", "-p", &second, tree.out.trim()]).good();
    // An upstream put it into an earlier pack, where no ref named it.
    let pack = forge.place.path("state/git/config.git/objects/pack/pack");
    let all = "git cat-file --batch-all-objects --batch-check='%(objectname)' | git pack-objects -q \"$0\"";
    let packed = Command::new("sh").args(["-c", all]).arg(&pack).current_dir(&repository).output().unwrap();
    Done::of(packed).good();
    git(&repository, &["update-ref", "refs/heads/main", bad.out.trim()]).good();
    let (code, summary) = forge.sync(&[]);
    let error = summary["git"][0]["error"].as_str().unwrap_or_default();
    assert!(code == 1 && error.contains("it has the file name `.git`"), "{summary}");
    assert_eq!(forge.here(), [format!("{second} refs/heads/main")]);
    // What is here and was checked comes again as an empty pack.
    git(&repository, &["update-ref", "refs/heads/main", &second]).good();
    git(&repository, &["update-ref", "refs/heads/older", &first]).good();
    let (code, summary) = forge.sync(&[]);
    assert_eq!((code, turns(&summary)), (0, vec!["refs/heads/older new".to_owned()]), "{summary}");
}
