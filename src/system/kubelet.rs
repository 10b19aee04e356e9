//! This machine's kubelet, as far as it is asked something: it alone knows which settings it takes.

use std::path::Path;

use super::{Error, Places, run};

const PROGRAM: &str = "/usr/bin/kubelet";
/// Seconds until a kubelet that reads its settings is ended. On a slow machine it needs five.
const PATIENCE: &str = "30";
/// A folder that nobody can make: a kubelet that has taken its settings ends there, before it does anything.
const NOWHERE: &str = "/dev/null/none";
/// How it begins to say that its settings are wrong: those that it cannot read, cannot lay over one another, or that are out
/// of bounds (cmd/kubelet/app/server.go, the same since 1.30).
const REFUSALS: [&str; 3] = [
    "failed to load kubelet config",
    "failed to merge kubelet configs",
    "failed to validate kubelet configuration",
];
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
/// `None` where it would, and where it does not say.
pub fn refused_settings(places: &Places, config: &Path, folder: &Path) -> Option<String> {
    let program = places.at(PROGRAM).display().to_string();
    let [config, folder] = [("config", config), ("config-dir", folder)]
        .map(|(name, path)| format!("--{name}={}", path.display()));
    let [root, certificates] = ["root-dir", "cert-dir"].map(|name| format!("--{name}={NOWHERE}"));
    let words = ["-k", "1", PATIENCE, &program, &config, &folder, &root, &certificates];
    match run::run("timeout", &words) {
        Err(Error::Run { why, .. }) => refusal(&why),
        _ => None,
    }
}

/// What is wrong with the settings, in what kubelet logged.
fn refusal(said: &str) -> Option<String> {
    let from = REFUSALS.iter().find_map(|begin| said.find(&format!("err=\"{begin}")))?;
    let words = said[from..].trim_start_matches("err=\"failed to ");
    let (words, _) = words.rsplit_once('"')?;
    // Behind it stands where, of which kubelet knows a type alone.
    let words = words.split(", path: &TypeMeta").next().unwrap_or(words).replace("\\\"", "`");
    Some(words.chars().take(WORDS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubelet_says_of_its_settings_is_told_apart_from_all_else() {
        let said = |err: &str| {
            format!(
                "Flag --x is deprecated E1123 07:34:42.7 32490 run.go:72] \"command failed\" err=\"{err}\""
            )
        };
        let refused = |err: &str| refusal(&said(err));
        assert_eq!(
            refused("failed to merge kubelet configs: failed to unmarshal: json: cannot unmarshal string"),
            Some("merge kubelet configs: failed to unmarshal: json: cannot unmarshal string".into())
        );
        assert_eq!(
            refused(
                "failed to validate kubelet configuration, error: maxPods -5, path: &TypeMeta{Kind:,APIVersion:,}"
            ),
            Some("validate kubelet configuration, error: maxPods -5".into())
        );
        assert_eq!(
            refused("failed to load kubelet config file, unknown field \\\"a\\\""),
            Some("load kubelet config file, unknown field `a`".into())
        );
        assert_eq!(
            refused("failed to construct kubelet dependencies: mkdir /dev/null: not a directory"),
            None
        );
        assert_eq!(refusal("exit status: 124"), None);
    }
}
