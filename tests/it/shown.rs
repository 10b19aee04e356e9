//! What strangers say, on a stick or on a wire, as a person reads it: it steers no terminal and looks like nothing that edge
//! says.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use edge::bundle::PAYLOAD_TYPE;
use serde_json::Value;

use crate::bundle_forge::Attack;
use crate::command::{Done, Place};

/// Clears the screen, goes up a line, both in the way of 7 bits and of 8; and turns the direction.
const EVIL: &str = "\u{1b}[2J\u{9b}A\u{202e}\u{7f}\r";

fn harmless(done: &Done, case: &str) {
    for text in [&done.out, &done.err] {
        assert!(text.chars().all(|c| c == '\n' || !(c.is_control() || c == '\u{202e}')), "{case}: {text:?}");
    }
}

type Spoil = fn(&Attack);

#[test]
fn what_an_unsigned_stick_says_steers_no_terminal_and_is_only_claimed() {
    let place = Place::new();
    let attacks: [(&str, Spoil); 5] = [
        ("format", |attack| std::fs::write(attack.path("FORMAT"), format!("edge{EVIL}\n")).unwrap()),
        ("kind", |attack| attack.edit_envelope(|e| e["payloadType"] = format!("x{EVIL}").into())),
        ("notes", |attack| unsigned(attack, |m| m["notes"] = format!("x{EVIL}\nSignatures  hold").into())),
        ("stream", |attack| unsigned(attack, |m| m["stream"] = format!("x{EVIL}").into())),
        ("audience", |attack| {
            unsigned(attack, |m| m["audience"]["gateways"] = vec![format!("x{EVIL}")].into())
        }),
    ];
    for (name, spoil) in attacks {
        let attack = Attack::new();
        spoil(&attack);
        let stick = attack.scene.stick().display().to_string();
        let root = attack.scene.path("keys/1.root.json").display().to_string();
        let _ = std::fs::remove_dir_all(place.path("state"));
        place.run(&["trust", "pin", &root]).good();
        for words in [&["inspect"][..], &["inspect", "-o", "json"], &["verify"], &["import"]] {
            let done = place.run(&[&["bundle"], words, &[&stick]].concat());
            assert_eq!(done.code, 3, "{name}: {done:?}");
            harmless(&done, name);
            if words.contains(&"json") && done.out.contains("manifest") {
                // What is written out is the same text to a program.
                let told: Value = serde_json::from_str(&done.out).unwrap();
                let whole = told.to_string();
                assert!(name == "format" || name == "kind" || whole.contains('\u{9b}'), "{name}: {whole}");
            }
        }
        let shown = place.run(&["bundle", "inspect", &stick]).out;
        if name == "notes" {
            let claimed = |line: &&str| line.ends_with(" (claimed)");
            let said = |line: &&str| ["Signatures", "Warning"].iter().any(|word| line.starts_with(word));
            assert!(shown.lines().all(|line| claimed(&line) || said(&line)), "{shown}");
            assert_eq!(shown.lines().filter(|line| line.starts_with("Signatures")).count(), 1, "{shown}");
            assert!(shown.contains("Signatures  NOT VERIFIED: "), "{shown}");
            assert!(shown.contains("\nNotes       x\\u{1b}[2J\\u{9b}A"), "{shown}");
        }
    }
}

/// Changes the manifest, which nobody signs.
fn unsigned(attack: &Attack, change: impl FnOnce(&mut Value)) {
    let mut manifest = serde_json::to_value(attack.manifest()).unwrap();
    change(&mut manifest);
    attack.sign_with(&serde_json::to_vec(&manifest).unwrap(), PAYLOAD_TYPE, &[]);
}

#[test]
fn what_a_git_server_says_in_an_error_steers_no_terminal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked);
            let line = format!("ERR {EVIL}\nfailed: all is well");
            let body = format!("{:04x}{line}", line.len() + 4);
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    let place = Place::new();
    let rule = format!("[[mirror.git]]\nname = \"config\"\nurl = \"http://127.0.0.1:{port}/config.git\"\n");
    place.write("etc/edge.toml", &rule);
    let done = place.run(&["mirror", "sync"]);
    harmless(&done, "sync");
    assert!(done.code == 1 && done.out.contains("\\u{1b}[2J"), "{done:?}");
    assert!(!done.out.lines().any(|line| line == "failed: all is well"), "{done:?}");
    for words in
        [&["mirror", "sync", "-o", "json"][..], &["mirror", "list"], &["mirror", "explain", "config"]]
    {
        harmless(&place.run(words), words[1]);
    }
}
