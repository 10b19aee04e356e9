#![allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]

use super::*;

fn put(folder: &Path, path: &str, text: &[u8]) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn what_a_power_cut_left_of_a_network_goes_and_the_rest_stays() {
    let folder = tempfile::tempdir().unwrap();
    let broken: [(&str, &[u8]); 6] = [
        ("results/cbr0-5bae-eth0", b""),
        ("cache/results/cbr0-5bae-eth0", b""),
        // XFS gives a file its length before its bytes.
        ("flannel/5bae", &[0; 400]),
        ("multus/5bae", b"[{\"cniVersion\":\"0.3"),
        ("networks/cbr0/10.42.0.7", b""),
        ("networks/cbr0/fd00::7", &[0; 70]),
    ];
    let whole: [(&str, &[u8]); 7] = [
        ("results/cbr0-61f6-eth0", b"{\"kind\":\"cniCacheV1\"}"),
        ("flannel/61f6", b"{\"type\":\"bridge\"}"),
        ("multus/61f6", b"[{\"cniVersion\":\"0.3.1\"}]"),
        ("networks/cbr0/10.42.0.8", b"61f6\r\neth0"),
        ("networks/cbr0/lock", b""),
        ("networks/cbr0/last_reserved_ip.0", b""),
        ("bin/flannel", b"\x7fELF"),
    ];
    for (path, text) in broken.iter().chain(&whole) {
        put(folder.path(), path, text);
    }
    // Nobody follows a link out of the folder, or reads a pipe.
    std::os::unix::fs::symlink("/dev/null", folder.path().join("results/link")).unwrap();
    nix::unistd::mkfifo(&folder.path().join("results/pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();

    let (mut gone, failed) = clear(folder.path());
    gone.sort();
    let mut all: Vec<_> = broken.iter().map(|(path, _)| folder.path().join(path)).collect();
    all.sort();
    assert_eq!(gone, all);
    assert!(failed.is_empty(), "{failed:?}");
    for (path, text) in whole {
        assert_eq!(fs::read(folder.path().join(path)).unwrap(), text, "{path}");
    }
    assert_eq!(clear(folder.path()).0, Vec::<PathBuf>::new());
}

#[test]
fn a_note_that_is_being_written_stays() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "results/cbr0-5bae-eth0", b"");
    let path = folder.path().join("results/cbr0-5bae-eth0");
    let writer = std::thread::spawn({
        let path = path.clone();
        move || {
            std::thread::sleep(WRITTEN_BY_THEN / 3);
            fs::write(path, b"{\"kind\":\"cniCacheV1\"}").unwrap();
        }
    });
    assert_eq!(clear(folder.path()).0, Vec::<PathBuf>::new());
    writer.join().unwrap();
    assert!(path.exists());
}

#[test]
fn a_machine_without_plugins_has_none() {
    assert_eq!(clear(Path::new("/nowhere/cni")).0, Vec::<PathBuf>::new());
}
