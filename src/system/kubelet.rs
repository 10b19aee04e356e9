//! This machine's kubelet, as far as it is asked something: it alone knows which settings it takes.

use std::path::Path;
use std::process::Command;

use super::{Error, Places, run};

const PROGRAM: &str = "/usr/bin/kubelet";
/// Seconds until a kubelet that reads its settings is ended. On a slow machine it needs five.
const PATIENCE: &str = "30";
/// A folder that nobody can make: a kubelet that has taken its settings ends there, before it does anything.
const NOWHERE: &str = "/dev/null/none";
/// The most characters of what it says.
const WORDS: usize = 300;

/// The version of this machine's kubelet: major and minor.
///
/// # Errors
/// Where it cannot be run, or says none.
pub fn kubelet_version(places: &Places) -> Result<(u32, u32), Error> {
    let program = places.at(PROGRAM).display().to_string();
    let said = run::run(&program, &["--version"])?;
    let mut numbers = said.trim().rsplit(" v").next().unwrap_or_default().split('.').map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => Err(Error::Unfit(format!("`{program} --version` says `{}`", said.trim()))),
    }
}

/// Has kubelet start anew, with the arguments that it is given now.
///
/// # Errors
/// Where systemd does not do it.
pub fn restart_kubelet() -> Result<(), Error> {
    run::run("systemctl", &["restart", "kubelet.service"]).map(drop)
}

/// Why kubelet would not start with its configuration `config` and the settings in `folder` over it, in its own words.
/// `None` where it takes them, and where it does not end in time. It ends before it looks at reserved resources and thresholds.
pub fn refused_settings(places: &Places, config: &Path, folder: &Path) -> Option<String> {
    let [config, folder] = [("config", config), ("config-dir", folder)]
        .map(|(name, path)| format!("--{name}={}", path.display()));
    let [root, certificates] = ["root-dir", "cert-dir"].map(|name| format!("--{name}={NOWHERE}"));
    let mut command = Command::new("timeout");
    command.args(["-k", "1", PATIENCE]).arg(places.at(PROGRAM));
    let ended = command.args([config, folder, root, certificates]).output().ok()?;
    // What `timeout` says of one that it has ended, or that it cannot run.
    if ended.status.code().is_none_or(|code| code > 123) {
        return None;
    }
    refusal(&String::from_utf8_lossy(&ended.stderr))
}

/// What is wrong with the settings, in what kubelet said before it ended.
fn refusal(said: &str) -> Option<String> {
    // A gate that is unknown has it panic.
    let panic = said.lines().find_map(|line| line.strip_prefix("panic: "));
    let last = panic.or_else(|| said.lines().rfind(|line| !line.trim().is_empty()))?;
    if last.contains("/dev/null") {
        return None;
    }
    // As text, and as JSON where a setting says so.
    let words =
        ["err=\"", "\"err\":\""].iter().find_map(|begin| last.split_once(begin)).map_or(last, |(_, err)| err);
    // Behind it stands where, of which kubelet knows a type alone.
    let words = words.split(", path: &TypeMeta").next().unwrap_or(words).replace("\\\"", "`");
    Some(words.split('"').next().unwrap_or_default().chars().take(WORDS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubelet_says_of_its_settings_is_told_apart_from_all_else() {
        let refused = |err: &str| {
            refusal(&format!(
                "Flag --x is deprecated\nE1123 07:34:42.7 run.go:72] \"command failed\" err=\"{err}\"\n"
            ))
        };
        assert_eq!(refused("failed to merge: maxPods"), Some("failed to merge: maxPods".into()));
        assert_eq!(
            refused("failed to validate, error: maxPods -5, path: &TypeMeta{Kind:,APIVersion:,}"),
            Some("failed to validate, error: maxPods -5".into())
        );
        assert_eq!(refused("unknown field \\\"a\\\" in b"), Some("unknown field `a` in b".into()));
        assert_eq!(
            refused("failed to construct kubelet dependencies: mkdir /dev/null: not a directory"),
            None
        );
        let json = "{\"ts\":1.0,\"msg\":\"command failed\",\"err\":\"unrecognized feature gate: None\"}";
        assert_eq!(refusal(json), Some("unrecognized feature gate: None".into()));
        let panic = "panic: failed to merge: unrecognized feature gate: None\n\ngoroutine 1 [running]:\n\tmain.go:1\n";
        assert_eq!(refusal(panic), Some("failed to merge: unrecognized feature gate: None".into()));
        assert_eq!(refusal(""), None);
    }
}
