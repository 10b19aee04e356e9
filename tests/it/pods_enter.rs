//! `edge pod exec` on a real gateway: both streams, the exit code, the end of standard input, and the terminal.

use anyhow::{Result, ensure};

use crate::pods::Gateway;
use crate::support::{Edge, seconds};

pub(crate) fn runs_commands(gateway: &Gateway) -> Result<()> {
    let script = "echo out; echo err >&2; exit 7";
    let (out, words, code) =
        gateway.edge(&["pod", "exec", "plain", "-c", "side", "--", "sh", "-c", script])?;
    assert_eq!((out.as_str(), words.as_str(), code), ("out\n", "err\n", 7));
    let (_, words, code) = gateway.edge(&["pod", "exec", "plain", "--", "/nosuch"])?;
    assert!(code == 1 && words.contains("no such file"), "{words}");
    let (_, words, code) = gateway.edge(&["pod", "exec", "crash", "--", "true"])?;
    assert!(code == 1 && words.contains("does not run"), "{words}");
    Ok(())
}

/// Bytes through `cat` in a container and back, over the end of standard input.
pub(crate) fn ends_standard_input(gateway: &Gateway) -> Result<()> {
    let machine = gateway.node.machine()?;
    let through = |input: &str, count: &str| {
        let exec = format!("timeout 60 {} pod exec -i plain -c side -- cat", Edge::PROGRAM);
        machine.shell(&format!("{input} | {exec} | {count}"))
    };
    assert_eq!(through("echo hi", "cat")?, "hi\n");
    // More than any buffer in between holds: neither way may wait for the other.
    assert_eq!(through("head -c 20000000 /dev/zero", "wc -c")?.trim(), "20000000");
    let script = format!(
        "echo x | {} pod exec -i plain -c side -- sh -c 'cat >&2; exit 4' 2>&1 || echo $?",
        Edge::PROGRAM
    );
    assert_eq!(machine.shell(&script)?, "x\n4\n");
    Ok(())
}

/// The command has a terminal of the size of the caller's, also after that has changed.
pub(crate) fn lends_a_terminal(gateway: &Gateway) -> Result<()> {
    let machine = gateway.node.machine()?;
    // The size comes a moment after the command has begun, as with kubectl.
    let inside = "for size in \"33 77\" \"44 99\"; do \
                  until busybox stty size 2>&1 | grep \"$size\"; do sleep 0.1; done; done; exit 5";
    let script = format!(
        "tty >/run/tty; stty rows 33 cols 77; exec {} pod exec plain -c side -it -- sh -c '{inside}'",
        Edge::PROGRAM
    );
    machine.write("/run/inside.sh", &script)?;
    machine.shell(
        "(tail -f /dev/null | (script -qec 'sh /run/inside.sh' /dev/null >/run/screen 2>&1 || \
         echo code $? >>/run/screen)) >/dev/null 2>&1 &",
    )?;
    let wait = |what: &str| {
        gateway.cluster.wait_for(what, seconds(20), || {
            let screen = machine.read("/run/screen")?;
            ensure!(screen.contains(what), "{screen}");
            Ok(screen)
        })
    };
    wait("33 77");
    machine.shell("stty -F \"$(cat /run/tty)\" rows 44 cols 99")?;
    wait("44 99");
    wait("code 5");

    // Without standard input there is no terminal, and the caller's own stays as it is. One that is ended gives it back.
    let edge = Edge::PROGRAM;
    let script = format!(
        "{edge} pod exec plain -c side -t -- sh -c 'test -t 1 || echo no terminal'; \
         tty >/run/tty; exec 3<&0; {edge} pod exec plain -c side -it -- sh -c 'echo within; sleep 1000' <&3 & \
         echo $! >/run/pid; wait $!; echo ended $?; stty -a | grep -o '.icanon\\|.echo '; echo done"
    );
    machine.write("/run/inside.sh", &script)?;
    machine.shell(
        "rm -f /run/screen /run/pid; \
         (tail -f /dev/null | script -qec 'sh /run/inside.sh' /dev/null >/run/screen 2>&1) >/dev/null 2>&1 &",
    )?;
    wait("no terminal");
    wait("within");
    machine.shell("stty -a -F \"$(cat /run/tty)\" | grep -e -icanon")?;
    machine.shell("kill -TERM $(cat /run/pid)")?;
    wait("ended 143");
    let screen = wait("done");
    let after = screen.split_once("ended 143").map_or("", |(_, after)| after);
    assert!(after.contains(" icanon") && after.contains(" echo "), "{screen}");
    Ok(())
}
