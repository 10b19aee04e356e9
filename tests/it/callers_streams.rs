//! Connections that become something else: exec, port-forward and followed logs through edge, each by WebSockets and by
//! SPDY, which is all that kubectl spoke until 1.30 and many programs speak still.

use anyhow::{Context, Result, ensure};

use crate::callers::Caller;
use crate::support::{Scene, seconds};

/// Bytes that go each way: more than any buffer on the way holds.
const MANY: usize = 2_000_000;

/// All of them, for somebody who may do everything; `talker` runs.
pub fn streams_work(scene: &Scene, admin: &Caller) -> Result<()> {
    for protocol in [Protocol::WebSocket, Protocol::Spdy] {
        exec_works(scene, admin, protocol).with_context(|| format!("exec by {protocol:?}"))?;
        a_port_is_forwarded(scene, admin, protocol)
            .with_context(|| format!("port-forward by {protocol:?}"))?;
    }
    let follow = admin.spawn(scene, "admin-logs", &["logs", "-f", "--tail=1", "talker"])?;
    let lines = || follow.log().lines().filter(|line| line.starts_with("line ")).count();
    scene.cluster.wait_for("lines of a log that is followed", seconds(20), || {
        ensure!(lines() >= 4, "{}", follow.log());
        Ok(())
    });
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    WebSocket,
    Spdy,
}

impl Protocol {
    /// kubectl that speaks this one, and says what it asks for.
    fn kubectl(self, admin: &Caller, args: &[&str]) -> Result<Vec<String>> {
        let value = matches!(self, Self::WebSocket);
        let names = ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"];
        let mut argv = vec!["env".to_owned()];
        argv.extend(names.map(|name| format!("{name}={value}")));
        argv.extend(admin.argv(&[&["-v=6"][..], args].concat())?);
        Ok(argv)
    }

    /// Fails unless kubectl spoke it and nothing else: it falls back to SPDY where WebSockets are refused.
    fn was_spoken(self, said: &str) -> Result<()> {
        let verb = if matches!(self, Self::WebSocket) { "verb=\"GET\"" } else { "verb=\"POST\"" };
        let upgrades: Vec<_> = said.lines().filter(|line| line.contains("101 Switching Protocols")).collect();
        ensure!(!upgrades.is_empty() && upgrades.iter().all(|line| line.contains(verb)), "{said}");
        Ok(())
    }
}

fn exec_works(scene: &Scene, admin: &Caller, protocol: Protocol) -> Result<()> {
    let there = format!("wc -c; head -c {MANY} /dev/zero; echo gone >&2; exit 7");
    let kubectl = protocol.kubectl(admin, &["exec", "-i", "talker", "--", "sh", "-c", &there])?;
    let input = format!("head -c {MANY} /dev/zero | \"$@\"");
    let mut argv = vec!["timeout", "60", "sh", "-c", &*input, "sh"];
    argv.extend(kubectl.iter().map(String::as_str));
    let output = scene.node.machine()?.output(&argv)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(7), "it ended with {}: {said}", output.status);
    let count = format!("{MANY}\n");
    ensure!(output.stdout.starts_with(count.as_bytes()), "not all of the input came");
    assert_eq!(output.stdout.len(), count.len() + MANY, "not all of the output came");
    ensure!(said.lines().any(|line| line == "gone"), "{said}");
    protocol.was_spoken(&said)
}

fn a_port_is_forwarded(scene: &Scene, admin: &Caller, protocol: Protocol) -> Result<()> {
    let argv = protocol.kubectl(admin, &["port-forward", "talker", ":8080"])?;
    let argv: Vec<_> = argv.iter().map(String::as_str).collect();
    let mut forward = scene.node.spawn(&format!("forward-{protocol:?}"), &argv, &[])?;
    let address = scene.cluster.wait_for("a port that is forwarded", seconds(30), || {
        let log = forward.log();
        let address = log.lines().find_map(|line| line.strip_prefix("Forwarding from ")?.split(' ').next());
        address.map(str::to_owned).with_context(|| log.clone())
    });
    for _ in 0..3 {
        let page = scene.node.http(&address, "/").with_context(|| forward.log())?;
        assert_eq!(page.trim(), "hello");
    }
    protocol.was_spoken(&forward.log())?;
    forward.kill();
    Ok(())
}
