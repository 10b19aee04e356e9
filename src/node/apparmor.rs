//! AppArmor in the snap: the profile of pods' containers, by the name that containerd knows it by, and containerd's own.
//!
//! Where it is not loaded, containerd loads one itself: with whatever parser the snap's base has, and the settings of that on
//! the host, which may name files that the base lacks. Then no container starts. So it is loaded before, with the snap's own.
//!
//! containerd itself leaves the snap's profile, as `docker-support` allows for privileged containers: the kernel lets nobody
//! change from one profile to another who has given up new privileges, as each restricted pod does
//! (`allowPrivilegeEscalation: false`).

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use super::Places;
use crate::sys::program;

/// containerd's name for it, `cri-containerd.apparmor.d`, stands in it.
const PROFILE: &str = include_str!("pods.apparmor");
/// Which profiles the kernel has; there where AppArmor is.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// Where a thread says under which profile its next program runs: of AppArmor alone, and before Linux 5.8.
const NEXT: [&str; 2] = ["/proc/thread-self/attr/apparmor/exec", "/proc/thread-self/attr/exec"];
const PARSER: &str = "usr/sbin/apparmor_parser";
/// What is confined: what Debian's kernel knows to confine. On one that confines more, such as Ubuntu's, the rest is free.
const FEATURES: &str = "usr/share/edge/apparmor-features";

/// Has the kernel know the profile as it is here, in the place of one of this name, and this thread leave its own with the next
/// program that it becomes. Without AppArmor there is nothing to do.
///
/// # Errors
/// What the parser or the kernel says, in one line.
pub fn prepare(places: &Places) -> Result<(), String> {
    if !Path::new(LOADED).exists() {
        return Ok(());
    }
    give(&places.snap)?;
    let place = NEXT.iter().find(|place| Path::new(place).exists()).ok_or("`/proc` has no `attr/exec`")?;
    let mut next = File::options().write(true).open(place).map_err(|e| format!("`{place}`: {e}"))?;
    // One write is one word to the kernel.
    next.write_all(b"exec unconfined").map_err(|e| format!("containerd cannot leave the snap's profile: {e}"))
}

fn give(snap: &Path) -> Result<(), String> {
    let parser = snap.join(PARSER);
    let mut command = Command::new(&parser);
    command
        // The host's settings are not for this parser, which takes the word only with `=`.
        .args(["--replace", "--skip-cache", "--quiet", "--config-file=/dev/null", "--policy-features"])
        .arg(snap.join(FEATURES));
    program::run(&mut command, PROFILE.as_bytes())
        .map(drop)
        .map_err(|why| format!("`{}`: {why}", parser.display()))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
mod tests {
    use super::*;

    /// A real one, on a kernel with AppArmor: `tests/snapd/node.sh`, in a virtual machine.
    #[test]
    fn the_parser_is_given_the_profile_and_its_word_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let parser = folder.path().join(PARSER);
        std::fs::create_dir_all(parser.parent().unwrap()).unwrap();
        assert!(give(folder.path()).unwrap_err().contains("`: cannot be run: "), "there is none");
        let below = |name: &str| folder.path().join(name);
        let script = format!(
            "#!/bin/sh\ncat >{}\necho 'no\nroom' >&2\nexit $(cat {})\n",
            below("given").display(),
            below("code").display()
        );
        std::fs::write(below("script"), script).unwrap();
        // By another process: a program that this one has open for writing, and thus each child of it, is busy.
        let install = Command::new("install").args(["-m", "755"]).arg(below("script")).arg(&parser).status();
        assert!(install.unwrap().success());
        std::fs::write(below("code"), "0").unwrap();
        assert_eq!(give(folder.path()), Ok(()));
        assert_eq!(std::fs::read_to_string(below("given")).unwrap(), PROFILE);
        std::fs::write(below("code"), "1").unwrap();
        assert!(give(folder.path()).unwrap_err().ends_with("`: no room"));
    }
}
