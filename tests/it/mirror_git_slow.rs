//! Clients of a mirrored repository that take nothing of their packs, beside one that waits.

use std::time::{Duration, Instant};

use crate::command::Daemon;
use crate::forge::{Forge, git};
use crate::mirror::noise;

/// Asks for all of a repository and takes none of it.
fn stalled(port: u16, head: &str) -> std::net::TcpStream {
    use std::io::Write as _;
    let line = |text: &str| format!("{:04x}{text}", text.len() + 4);
    let body = ["command=fetch", "object-format=sha1"].map(line).concat()
        + "0001"
        + &[format!("want {head}\n"), "done\n".to_owned()].map(|text| line(&text)).concat()
        + "0000";
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let small = nix::sys::socket::sockopt::RcvBuf;
    nix::sys::socket::setsockopt(&stream, small, &4096).unwrap();
    let head = format!(
        "POST /git/config.git/git-upload-pack HTTP/1.1\r\nHost: edge\r\nGit-Protocol: version=2\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).unwrap();
    stream
}

#[test]
fn clients_that_take_nothing_give_their_places_to_one_that_waits() {
    let mut forge = Forge::start();
    for at in 0..48 {
        std::fs::write(forge.beside("work").join(format!("f{at}")), noise(at + 1, 256 << 10)).unwrap();
    }
    let head = forge.commit("last", b"1\n");
    forge.push();
    forge.configure("", "");
    assert_eq!(forge.sync(&[]).0, 0);
    forge.stop();
    let _daemon = Daemon::start(&forge.place);
    let url = forge.mirrored();
    let listed = git(forge.beside("").as_path(), &["ls-remote", &url]).good().out;
    assert!(listed.contains(&head), "{listed}");
    let port = url.split([':', '/']).nth(4).unwrap().parse().unwrap();
    let slow: Vec<_> = (0..4).map(|_| stalled(port, &head)).collect();
    // All four are being served.
    for stream in &slow {
        let mut byte = [0];
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(stream.peek(&mut byte).unwrap(), 1);
    }
    let begun = Instant::now();
    let clone = forge.beside("clone");
    git(
        forge.beside("").as_path(),
        &[
            "-c",
            "http.lowSpeedLimit=1",
            "-c",
            "http.lowSpeedTime=40",
            "clone",
            "-q",
            &url,
            clone.to_str().unwrap(),
        ],
    )
    .good();
    assert!(begun.elapsed() > Duration::from_secs(5), "they held all places");
    drop(slow);
}
