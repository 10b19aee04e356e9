//! One file out of a bundle: verified, whole or not at all, to where it was asked for and nowhere else.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use edge::bundle::{self, Error, Plan, Selection, keys};
use edge::sys::progress::Progress;
use edge::trust::Chain;

use crate::bundle::Scene;
use crate::bundle_forge::{Attack, flip};
use crate::command::Place;

const CONTENT: &[u8] = &[b'f'; 1500];

/// A scene whose bundle carries `site.conf` in three parts.
fn with_file() -> (Scene, PathBuf) {
    let scene = Scene::new();
    fs::write(scene.path("site.conf"), CONTENT).unwrap();
    let selection = Selection { files: vec![scene.path("site.conf").into()], ..Selection::default() };
    let made = scene.create(&Plan { part_size: 512, selection, ..scene.plan() }).unwrap();
    (scene, made.folder)
}

fn extract(scene: &Scene, name: &str, to: &Path, chain: Option<Chain>) -> Result<PathBuf, Error> {
    let found = bundle::find_one(&scene.stick())?;
    Ok(scene.gateway.extract(found.newest(), name, to, chain, &Progress::silent())?.path)
}

/// Nothing lies in a folder but these.
fn holds(folder: &Path, names: &[&str]) {
    let mut found: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    assert_eq!(found, names);
}

#[test]
fn a_file_comes_out_of_the_stick_or_of_the_store_as_it_was_signed() {
    let (scene, folder) = with_file();
    let out = scene.path("out");
    fs::create_dir(&out).unwrap();
    // To a name, and into a folder.
    assert_eq!(extract(&scene, "site.conf", &out.join("mine"), None).unwrap(), out.join("mine"));
    assert_eq!(extract(&scene, "site.conf", &out, None).unwrap(), out.join("site.conf"));
    for name in ["mine", "site.conf"] {
        assert_eq!(fs::read(out.join(name)).unwrap(), CONTENT);
    }
    // Never over anything, not even a link that leads nowhere.
    symlink("/nowhere", out.join("link")).unwrap();
    for taken in ["mine", "link"] {
        let refused = extract(&scene, "site.conf", &out.join(taken), None).unwrap_err();
        assert!(matches!(refused, Error::Taken(_)), "{refused}");
    }
    holds(&out, &["link", "mine", "site.conf"]);

    // A delta leaves out what the gateway has; there it comes from the store, elsewhere it is said to be missing.
    scene.import().unwrap();
    let selection = Selection { files: vec![scene.path("site.conf").into()], ..Selection::default() };
    let receipts = scene.receipts();
    fs::remove_dir_all(folder).unwrap();
    let delta = scene.create(&Plan { part_size: 512, selection, receipts, ..scene.plan() }).unwrap();
    assert_eq!(delta.carried, 0);
    extract(&scene, "site.conf", &out.join("again"), None).unwrap();
    assert_eq!(fs::read(out.join("again")).unwrap(), CONTENT);
    let elsewhere = Scene::new();
    let believed = keys::read_chain(&scene.path("keys")).unwrap();
    let missing = elsewhere.gateway.extract(
        &delta.folder,
        "site.conf",
        &out.join("none"),
        Some(believed),
        &Progress::silent(),
    );
    assert!(matches!(missing, Err(Error::NotCarried(_))), "{missing:?}");
    holds(&out, &["again", "link", "mine", "site.conf"]);
}

#[test]
fn names_lead_nowhere_but_to_signed_files() {
    let (scene, folder) = with_file();
    let out = scene.path("out");
    fs::create_dir(&out).unwrap();
    let digest = fs::read_dir(folder.join("blobs/sha256")).unwrap().next().unwrap().unwrap().file_name();
    let digest = format!("blobs/sha256/{}", digest.into_string().unwrap());
    for name in [
        "",
        ".",
        "..",
        "/",
        "/etc/passwd",
        "../site.conf",
        "./site.conf",
        "site.conf/",
        "SITE.CONF",
        "site.conf\0",
        "manifest.dsse",
        "FORMAT",
        "trust/1.root.json",
        &digest,
    ] {
        let refused = extract(&scene, name, &out, None).unwrap_err();
        assert!(
            matches!(&refused, Error::NoFile { there, .. } if there == &["site.conf"]),
            "{name:?}: {refused}"
        );
    }
    holds(&out, &[]);
}

#[test]
fn a_name_signed_by_a_stolen_key_is_refused_before_anything_is_written() {
    for name in ["../../evil", "/etc/evil", "..", ".hidden", "a/b", "a\\u0000b", "", "-rf\\n"] {
        let attack = Attack::new();
        let scene = &attack.scene;
        let out = scene.path("out");
        fs::create_dir(&out).unwrap();
        attack.forge_list("refs.list", |text| {
            let blobs = fs::read_to_string(attack.path("blobs.list")).unwrap();
            let (blob, size) = blobs.lines().next().unwrap().split_once(' ').unwrap();
            let size = size.split(' ').next().unwrap();
            format!(
                "{text}{{\"kind\":\"file\",\"name\":\"{name}\",\"purpose\":\"file\",\"size\":{size},\"content\":\"{blob}\",\"digest\":\"{blob}\"}}\n"
            )
        });
        let own = keys::read_chain(&scene.path("keys")).unwrap();
        for chain in [None, Some(own)] {
            let asked = name.replace("\\u0000", "\0").replace("\\n", "\n");
            let refused = extract(scene, &asked, &out, chain).unwrap_err();
            assert!(refused.is_refusal(), "{name:?}: {refused}");
        }
        holds(&out, &[]);
        assert!(!scene.path("evil").exists() && !scene.path("out/../../evil").exists());
    }
}

#[test]
fn bytes_that_were_not_signed_never_bear_the_name() {
    let (scene, folder) = with_file();
    let out = scene.path("out");
    fs::create_dir(&out).unwrap();
    let parts = || fs::read_dir(folder.join("blobs/sha256")).unwrap().map(|e| e.unwrap().path());
    let last = parts().find(|path| path.extension().is_some_and(|e| e == "p0002")).unwrap();
    flip(&last);
    let refused = extract(&scene, "site.conf", &out, None).unwrap_err();
    assert!(refused.is_refusal() && refused.to_string().contains("is not what was signed"), "{refused}");
    holds(&out, &[]);
    flip(&last);
    // A link in the place of a part, even to the same bytes.
    let moved = scene.path("moved");
    fs::rename(&last, &moved).unwrap();
    symlink(&moved, &last).unwrap();
    let refused = extract(&scene, "site.conf", &out, None).unwrap_err();
    assert!(refused.to_string().contains("is not a plain file"), "{refused}");
    fs::remove_file(&last).unwrap();
    let refused = extract(&scene, "site.conf", &out, None).unwrap_err();
    assert!(refused.to_string().contains("is missing"), "{refused}");
    fs::rename(&moved, &last).unwrap();
    // What rots in the store is not handed out either.
    scene.import().unwrap();
    let selection = Selection { files: vec![scene.path("site.conf").into()], ..Selection::default() };
    let receipts = scene.receipts();
    fs::remove_dir_all(folder).unwrap();
    scene.create(&Plan { part_size: 512, selection, receipts, ..scene.plan() }).unwrap();
    let hex = edge::sys::digest::Digest::sha256(CONTENT);
    flip(&scene.path(&format!("gateway/store/blobs/sha256/{}/{}", &hex.hex()[..2], hex.hex())));
    let refused = extract(&scene, "site.conf", &out, None).unwrap_err();
    assert!(refused.to_string().contains("is not what was signed"), "{refused}");
    holds(&out, &[]);
}

#[test]
fn as_a_person_types_it() {
    let (depot, gateway) = (Place::new(), Place::new());
    let snap = depot.write("edge_2.snap", "not really one").display().to_string();
    depot.run(&["bundle", "keygen", "--out", "KEYS"]).good();
    let (stick, root) = (depot.path("stick"), depot.path("KEYS/1.root.json").display().to_string());
    fs::create_dir(&stick).unwrap();
    let stick = stick.display().to_string();
    depot
        .run(&["bundle", "create", "--stream", "main", "--keys", "KEYS", "--to", &stick, "--file", &snap])
        .good();
    let asked = ["bundle", "extract", &stick, "edge_2.snap", "--to", "."];
    gateway.run(&asked).bad(2, "no root is pinned");
    let done = gateway.run(&[&asked[..], &["--root", &root]].concat()).good();
    assert!(done.out.contains("edge_2.snap: sha256:") && done.out.contains("as it was signed"), "{done:?}");
    assert_eq!(gateway.read("edge_2.snap"), "not really one");
    gateway.run(&["trust", "pin", &root]).good();
    gateway.run(&asked).bad(1, "is there already");
    gateway.run(&["bundle", "extract", &stick, "edge_3.snap", "--to", "x"]).bad(1, "it holds `edge_2.snap`");
    gateway.run(&["bundle", "extract", &stick, "edge_2.snap", "--to", "no/folder/x"]).bad(1, "no/folder/x");
    fs::write(Path::new(&stick).join("edge-bundle/main-1/manifest.dsse"), "{}").unwrap();
    gateway.run(&["bundle", "extract", &stick, "edge_2.snap", "--to", "x"]).bad(3, "cannot be read");
    assert!(!gateway.path("x").exists());
}
