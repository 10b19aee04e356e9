//! `edge config` and the command line itself, through the built binary.

use std::io::Read;
use std::process::Stdio;

use crate::command::{Done, Place};

#[test]
fn get_shows_the_defaults_and_one_key() {
    let place = Place::new();
    let all = place.run(&["config", "get"]).good().out;
    assert!(all.starts_with("offline-mode = true\n"), "{all}");
    assert!(all.contains("[proxy]\nlisten = \"127.0.0.1:6445\"\n"), "{all}");
    assert_eq!(place.run(&["config", "get", "cloud.probe-interval"]).good().out, "5s\n");
    assert_eq!(place.run(&["config", "get", "registry.push", "-o", "json"]).good().out, "false\n");
    let json: serde_json::Value =
        serde_json::from_str(&place.run(&["config", "get", "-o", "json"]).good().out).unwrap();
    assert_eq!(json["registry.listen"], "127.0.0.1:5000");
    assert_eq!(json["cloud.kubeconfig"], serde_json::Value::Null);
    place.run(&["config", "get", "cloud.kubeconfig"]).bad(1, "`cloud.kubeconfig` is not set");
    place.run(&["config", "get", "proxy.listn"]).bad(2, "did you mean `proxy.listen`?");
}

#[test]
fn get_shows_what_was_given_and_nobody_s_environment() {
    let place = Place::new();
    place.write("etc/edge.toml", "[registry]\nno-proxy = \"near\"\ndocker-config = \"/etc/docker.json\"\n");
    let get = |more: &[&str]| {
        let mut command = place.edge(&[&["config", "get"], more].concat());
        command.env("HTTPS_PROXY", "http://ann:secret@proxy").env("NO_PROXY", "far");
        Done::of(command.output().unwrap())
    };
    for all in [get(&[]).good().out, get(&["-o", "json"]).good().out] {
        assert!(!all.contains("secret") && !all.contains("far"), "{all}");
        assert_eq!((all.matches("near").count(), all.matches("/etc/docker.json").count()), (1, 1), "{all}");
    }
    get(&["registry.proxy"]).bad(1, "`registry.proxy` is not set and has no default");
    get(&["mirror.docker-config"]).bad(1, "`mirror.docker-config` is not set and has no default");
}

#[test]
fn a_variable_that_is_empty_says_nothing() {
    let place = Place::new();
    for variable in ["EDGE_CONFIG", "EDGE_STATE_DIR", "EDGE_SOCKET", "EDGE_SYSTEM_ROOT", "EDGE_LOG"] {
        let mut command = place.edge(&["config", "get", "registry.listen"]);
        let done = Done::of(command.env(variable, "").output().unwrap()).good();
        assert_eq!((&*done.out, &*done.err), ("127.0.0.1:5000\n", ""), "{variable}");
    }
    let state =
        Done::of(place.edge(&["config", "get", "state-dir"]).env("EDGE_STATE_DIR", "").output().unwrap());
    assert_eq!(state.good().out, "/var/lib/edge\n");
    place
        .run(&["config", "get", "state-dir", "--state-dir", ""])
        .bad(2, "a value is required for '--state-dir");
}

#[test]
fn set_edits_and_get_sees_it() {
    let place = Place::new();
    place.write("etc/edge.toml", "# keep me\noffline-mode = true\n");
    place.run(&["config", "set", "offline-mode=false", "cloud.probe-interval=1m"]).good();
    assert!(place.read("etc/edge.toml").starts_with("# keep me\noffline-mode = false\n"));
    assert_eq!(place.run(&["config", "get", "cloud.probe-interval"]).good().out, "1m\n");
    for (changes, advice) in [
        (&["offline-mode=true"][..], "; `systemctl reload edge` makes a running daemon read it\n"),
        (&["proxy.listen=127.0.0.1:7"], "; `systemctl restart edge` makes a running daemon use it\n"),
        (
            &["offline-mode=false", "state-dir=/s"],
            "; `state-dir`: `systemctl restart edge`\nedge: under systemd it can write there only with `ReadWritePaths=/s` below `[Service]` hint: `systemctl edit edge`\n",
        ),
        (&["state-dir=/var/lib/edge/s"], "; `systemctl restart edge` makes a running daemon use it\n"),
    ] {
        let done = place.run(&[&["config", "set"], changes].concat()).good();
        assert!(done.err.ends_with(advice), "{done:?}");
    }
    let before = place.read("etc/edge.toml");
    place.run(&["config", "set", "offline-mode=true", "proxy.listen=8080"]).bad(
        2,
        "key `proxy.listen` is `8080`, expected a loopback address and port such as `127.0.0.1:6445`",
    );
    place.run(&["config", "set", "offline-mode"]).bad(2, "`offline-mode` is not of the form KEY=VALUE");
    assert_eq!(place.read("etc/edge.toml"), before);
}

#[test]
fn validate_names_file_key_value_and_expectation() {
    let place = Place::new();
    let good = place.write("good.toml", "offline-mode = false\n");
    place.run(&["config", "validate", good.to_str().unwrap()]).good();
    place.run(&["config", "validate"]).good();
    let bad = place.write("bad.toml", "[cloud]\nprobe-interval = \"soon\"\n");
    let expected = format!("`{}`: key `cloud.probe-interval` is `soon`, expected a duration", bad.display());
    place.run(&["config", "validate", "bad.toml"]).bad(2, &expected);
    place
        .run(&["config", "validate", "none.toml"])
        .bad(2, "none.toml` does not exist hint: without a file the one");
    place.write("etc/edge.toml", "colour = 1\n");
    place.run(&["config", "get"]).bad(2, "unknown key `colour`");
    place.run(&["daemon"]).bad(2, "unknown key `colour`");
}

#[test]
fn flag_wins_over_environment_over_file_over_default() {
    let place = Place::new();
    place.write("etc/edge.toml", "state-dir = \"/from/file\"\n");
    let get = ["config", "get", "state-dir"];
    let state = |command: &mut std::process::Command| Done::of(command.output().unwrap()).good().out;
    assert_eq!(state(place.edge(&get).env_remove("EDGE_STATE_DIR")), "/from/file\n");
    assert_eq!(state(place.edge(&get).env("EDGE_STATE_DIR", "/from/env")), "/from/env\n");
    let flag = ["--state-dir", "/from/flag", "config", "get", "state-dir"];
    assert_eq!(state(place.edge(&flag).env("EDGE_STATE_DIR", "/from/env")), "/from/flag\n");
    let late = ["config", "get", "state-dir", "--state-dir", "relative"];
    let expected = place.folder.path().canonicalize().unwrap().join("relative");
    assert_eq!(state(&mut place.edge(&late)), format!("{}\n", expected.display()));
    place.run(&["--config", "/no/such.toml", "config", "get"]).bad(2, "`/no/such.toml` does not exist");
}

#[test]
fn without_a_file_the_defaults_hold() {
    // Whatever this machine has in /etc.
    let hidden = "mount -t tmpfs none /etc && exec \"$0\" config get state-dir";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", hidden, env!("CARGO_BIN_EXE_edge")]);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    assert_eq!(Done::of(command.output().unwrap()).good().out, "/var/lib/edge\n");
}

#[test]
fn a_wrong_command_line_is_one_line_and_2() {
    let place = Place::new();
    place.run(&["config", "sett", "a=b"]).bad(2, "unrecognized subcommand 'sett' hint: ");
    place.run(&["config", "set"]).bad(2, "required arguments were not provided: <KEY=VALUE>...");
    place.run(&["config", "get", "-o", "xml"]).bad(2, "invalid value 'xml'");
    let mut filter = place.edge(&["config", "get"]);
    Done::of(filter.env("EDGE_LOG", "edge=noise=x").output().unwrap()).bad(2, "EDGE_LOG is `edge=noise=x`");
}

#[test]
fn help_has_examples_and_goes_to_standard_output() {
    let place = Place::new();
    for command in [&["--help"][..], &["config", "set", "--help"], &["completion", "--help"]] {
        let done = place.run(command).good();
        assert!(done.out.contains("Example") && done.err.is_empty(), "{done:?}");
    }
    assert_eq!(place.run(&[]).code, 2);
    assert!(place.run(&["--version"]).good().out.starts_with("edge "));
}

#[test]
fn completions_and_manual_pages_are_written() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&["completion", shell]).good().out;
        assert!(script.contains("validate"), "{shell}");
    }
    std::fs::create_dir(place.path("man")).unwrap();
    place.run(&["man", "man"]).good();
    assert!(place.read("man/edge.1").contains("gateway"));
    assert!(place.read("man/edge-config-set.1").contains("probe\\-interval"));
    place.run(&["man", "none"]).bad(1, "cannot write the manual pages into `none`");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let place = Place::new();
    let mut child =
        place.edge(&["completion", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(err, "");
}
