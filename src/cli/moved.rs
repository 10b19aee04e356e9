//! Whether `state-dir` can be what somebody asks for. A daemon that cannot write there does not start, and one that finds
//! another folder there has forgotten what it joined, what it replaced for containerd and what it stores.

use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use super::leave::backup;
use crate::config::{Config, Error, Overrides, Problem, Snap};
use crate::proxy::join::Record;
use crate::registry::containerd;
use crate::store::{Door, Settings as StoreSettings};

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
    let old = plain(&before.state_dir);
    if let Some(record) = Record::read(&old)?
        && Record::read(&asked)?.is_none()
    {
        // No folder can be copied into itself.
        let hint = if asked.starts_with(&old) {
            "`edge leave` first, and join again from there"
        } else {
            "stop edge and copy that folder there first, or `edge leave` first"
        };
        let (node, old) = (record.node_name, old.display());
        return refused(format!("but node `{node}` is joined, and `{old}` says how hint: {hint}"));
    }
    let noted = backup(&old);
    if containerd::is_noted(&noted)? && !containerd::is_noted(&backup(&asked))? {
        let noted = noted.display();
        return refused(format!(
            "but `{noted}` holds what containerd had before edge hint: copy that folder there first, or `edge registry configure-containerd --undo`"
        ));
    }
    let (kept, new) = (StoreSettings::below(&old).folder, StoreSettings::below(&asked).folder);
    if Door::new(StoreSettings::below(&old)).is_used() && !new.exists() {
        let (kept, new) = (kept.display(), new.display());
        return refused(format!(
            "but `{kept}` holds images, charts and whom bundles are trusted by hint: stop edge and copy it to `{new}` first, or make an empty folder there to begin anew"
        ));
    }
    Ok(())
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
    use crate::sys::durable;

    #[test]
    fn a_strict_snap_keeps_what_is_in_force_and_moves_only_below_its_folder() {
        let common = PathBuf::from("/var/snap/edge/common");
        let snap = Snap {
            common: common.clone(),
            memory: "/run/snap.edge".into(),
            revision: None,
            snapctl: "snapctl".into(),
            is_strict: true,
            node: None,
            root: None,
        };
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
    #[test]
    fn what_containerd_had_and_the_store_are_not_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (folder.path().join("old"), folder.path().join("old/disk"));
        let before = Config { state_dir: old.clone(), ..Config::default() };
        let checked = || check(&Overrides::default(), Some(&before), &new).map_err(|e| e.to_string());
        let refused = |words: &str| {
            let told = checked().unwrap_err();
            assert!(told.contains(words) && told.contains(" hint: "), "{told}");
        };
        let put = |path: PathBuf, text: &str| {
            durable::folder(path.parent().unwrap(), 0o700).unwrap();
            durable::write(&path, text.as_bytes(), 0o600).unwrap();
        };
        put(backup(&old).join("replaced.json"), "{}");
        checked().unwrap();
        let noted = r#"{"/etc/containerd/config.toml": {"before": null, "wrote": []}}"#;
        put(backup(&old).join("replaced.json"), noted);
        refused("/old/containerd` holds what containerd had before edge");
        put(backup(&new).join("replaced.json"), noted);
        checked().unwrap();
        put(old.join("store/store.db"), "");
        refused("/old/store` holds images, charts and whom bundles are trusted by");
        std::fs::create_dir(new.join("store")).unwrap();
        checked().unwrap();
    }
}
