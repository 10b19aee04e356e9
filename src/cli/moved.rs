//! Whether `state-dir` can be what somebody asks for. A daemon that cannot write there does not start, and one that finds
//! another folder there has forgotten what it joined.

use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use crate::config::{Config, Error, Overrides, Problem, Snap};
use crate::proxy::join::Record;

const KEY: &str = "state-dir";

/// Checks `asked` against what was in force. What is in force already is never refused: it was taken once, and a refusal
/// now would end every change of another key, and every refresh.
///
/// # Errors
/// One line with the remedy.
pub fn check(overrides: &Overrides, before: Option<&Config>, asked: &Path) -> Result<()> {
    let asked = plain(asked);
    if before.is_some_and(|before| plain(&before.state_dir) == asked) {
        return Ok(());
    }
    let refused = |why: String| {
        let value = asked.display().to_string();
        Err(Error::Given(Problem::Conflict { key: KEY, value, why }).into())
    };
    if let Some(Snap { common, is_strict: true, .. }) = &overrides.snap
        && !asked.starts_with(plain(common))
    {
        let common = common.display();
        return refused(format!(
            "but a strict snap keeps its state below `{common}` hint: mount the other disk there"
        ));
    }
    let Some(before) = before else { return Ok(()) };
    let Some(record) = Record::read(&before.state_dir)? else { return Ok(()) };
    if Record::read(&asked)?.is_some() {
        return Ok(());
    }
    let (node, old) = (record.node_name, plain(&before.state_dir));
    // No folder can be copied into itself.
    let hint = if asked.starts_with(&old) {
        "`edge leave` first, and join again from there"
    } else {
        "stop edge and copy that folder there first, or `edge leave` first"
    };
    refused(format!("but node `{node}` is joined, and `{}` says how hint: {hint}", old.display()))
}

/// The path without `..`, so that it is what its beginning says. No disk is asked: it need not be there.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_snap_keeps_what_is_in_force_and_moves_only_below_its_folder() {
        let common = PathBuf::from("/var/snap/edge/common");
        let snap = Snap { common: common.clone(), snapctl: "snapctl".into(), is_strict: true, node: None };
        let overrides = Overrides { snap: Some(snap), ..Overrides::default() };
        let in_force = |state_dir: &str| Config { state_dir: state_dir.into(), ..Config::default() };
        let media = in_force("/media/disk/edge");
        for (before, asked, is_taken) in [
            (Some(&media), "/media/disk/edge", true),
            (Some(&media), "/media/disk/edge/", true),
            (Some(&media), "/media/disk/other", false),
            (Some(&media), "/var/snap/edge/common/disk", true),
            (Some(&in_force("/var/snap/edge/common")), "/media/disk/edge", false),
            (Some(&media), "/var/snap/edge/common/../../other", false),
            (Some(&media), "/var/snap/edge/common/disk/../state", true),
            (None, "/media/disk/edge", false),
            (None, "/var/snap/edge/common", true),
        ] {
            let done = check(&overrides, before, Path::new(asked));
            assert_eq!(done.is_ok(), is_taken, "{asked}: {done:?}");
        }
    }
}
