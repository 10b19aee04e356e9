//! The AppArmor profile of pods' containers in the snap, by the name that containerd knows it by.
//!
//! Where it is not loaded, containerd loads one itself: with whatever parser the snap's base has, and the settings of that on
//! the host, which may name files that the base lacks. Then no container starts. So it is loaded before, with the snap's own.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::Places;

/// containerd's name for it, `cri-containerd.apparmor.d`, stands in it.
const PROFILE: &str = include_str!("pods.apparmor");
/// Which profiles the kernel has; there where AppArmor is.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
const PARSER: &str = "usr/sbin/apparmor_parser";
/// What is confined: what Debian's kernel knows to confine. On one that confines more, such as Ubuntu's, the rest is free.
const FEATURES: &str = "usr/share/edge/apparmor-features";

/// Has the kernel know the profile as it is here, in the place of one of this name. Without AppArmor there is nothing to do.
///
/// # Errors
/// What the parser says, in one line.
pub fn load(places: &Places) -> Result<(), String> {
    if !Path::new(LOADED).exists() {
        return Ok(());
    }
    give(&places.snap)
}

fn give(snap: &Path) -> Result<(), String> {
    let parser = snap.join(PARSER);
    let failed = |error: std::io::Error| format!("cannot run `{}`: {error}", parser.display());
    let mut child = Command::new(&parser)
        // The host's settings are not for this parser, which takes the word only with `=`.
        .args(["--replace", "--skip-cache", "--quiet", "--config-file=/dev/null", "--policy-features"])
        .arg(snap.join(FEATURES))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who did not read it says better why.
        let _ = stdin.write_all(PROFILE.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(if why.is_empty() { output.status.to_string() } else { why })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A real one, on a kernel with AppArmor: `tests/snapd/node.sh`, in a virtual machine.
    #[test]
    fn the_parser_is_given_the_profile_and_its_word_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let parser = folder.path().join(PARSER);
        std::fs::create_dir_all(parser.parent().unwrap()).unwrap();
        assert!(give(folder.path()).unwrap_err().starts_with("cannot run `"), "there is none");
        let script = |code: u8| {
            let given = folder.path().join("given");
            let text = format!("#!/bin/sh\ncat >{}\necho 'no\nroom' >&2\nexit {code}\n", given.display());
            std::fs::write(&parser, text).unwrap();
            std::fs::set_permissions(&parser, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        script(0);
        assert_eq!(give(folder.path()), Ok(()));
        assert_eq!(std::fs::read_to_string(folder.path().join("given")).unwrap(), PROFILE);
        script(1);
        assert_eq!(give(folder.path()), Err("no room".into()));
    }
}
