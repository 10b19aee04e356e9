//! containerd in the snap: its configuration, and what must be there before it starts.

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::{Error, Places, Program, apparmor};
use crate::sys::durable;

/// What a running containerd keeps, and a boot ends. Elsewhere it lies in `/run`, where a snap may not mount. What CNI plugins
/// noted of pods' networks is gone with these, and they do not sync it: an empty note keeps its pod from ever being stopped.
const STATE: [&str; 4] = ["run/containerd", "run/runc", "cni/state/results", "cni/state/networks"];
/// The network of a gateway alone, the same as the appliance's; a network plugin's own file sorts before it.
const NETWORK: &str = "cni/net.d/99-edge.conflist";
const NETWORK_TEXT: &str = include_str!("../../config/appliance/usr/share/edge/cni/99-edge.conflist");
/// Its configuration.
pub(super) const CONFIG: &str = "containerd/config.toml";
/// The owner's settings.
const DROP_INS: &str = "containerd/config.d";
/// Which boot that is of.
const BOOT: &str = "run/boot-id";

/// Lays out the folders, the plugins and the configuration. The thread that calls it becomes the program.
pub fn prepare(places: &Places, boot: &str) -> Result<Program, Error> {
    places.make("run", 0o700)?;
    forget_other_boot(places, boot)?;
    for folder in ["containerd", "containerd/root"] {
        places.make(folder, 0o711)?;
    }
    for folder in [DROP_INS, "containerd/certs.d", "cni", "cni/bin", "cni/net.d", "cni/state"] {
        places.make(folder, 0o755)?;
    }
    link_plugins(places)?;
    lay_out_network(places)?;
    let unconfined = apparmor::prepare(places).err();
    // The owner's settings are in it, with what nobody else may read.
    let file = places.own(CONFIG);
    durable::write(&file, settings(places, unconfined.is_none())?.as_bytes(), 0o600)?;
    let arguments = vec!["--config".to_owned(), file.display().to_string()];
    let lacks = unconfined
        .map(|why| format!("pods run in the snap's AppArmor profile, and have none of their own: {why}"));
    Ok(Program { lacks, ..places.program("usr/bin/containerd", arguments)? })
}

/// What was mounted or ran before a boot is gone with it; what tells of it would only mislead.
fn forget_other_boot(places: &Places, boot: &str) -> io::Result<()> {
    let stamp = places.own(BOOT);
    if std::fs::read_to_string(&stamp).is_ok_and(|before| before == boot) {
        return Ok(());
    }
    for folder in STATE {
        let folder = places.own(folder);
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(durable::named(e, "remove", &folder));
            }
            _ => {}
        }
    }
    durable::write(&stamp, boot.as_bytes(), 0o600)
}

/// Pods of a gateway without a network never start. What the owner made of the file stays; an empty one is none. Where
/// there is another network, that is what pods have.
fn lay_out_network(places: &Places) -> io::Result<()> {
    let is_other = |path: &Path| {
        let ends = path.extension().and_then(|end| end.to_str());
        let is_network = matches!(ends, Some("conf" | "conflist" | "json"));
        is_network && *path != places.own(NETWORK) && path.metadata().is_ok_and(|meta| meta.len() > 0)
    };
    let folder = places.own("cni/net.d");
    let listed = std::fs::read_dir(&folder).map_err(|e| durable::named(e, "list", &folder))?;
    if listed.flatten().any(|entry| is_other(&entry.path())) {
        return Ok(());
    }
    match places.read(NETWORK) {
        Some(_) => Ok(()),
        None => places.write(NETWORK, NETWORK_TEXT).map(drop),
    }
}

/// Network plugins that run as pods put theirs beside these, so they cannot be read from the snap itself.
fn link_plugins(places: &Places) -> io::Result<()> {
    let (source, folder) = (places.snap.join("usr/lib/cni"), places.own("cni/bin"));
    let entries = std::fs::read_dir(&source).map_err(|e| durable::named(e, "read", &source))?;
    for entry in entries {
        let name = entry.map_err(|e| durable::named(e, "read", &source))?.file_name();
        link(&source.join(&name), &folder.join(&name))?;
    }
    Ok(())
}

/// Links `to`, unless somebody has put a file of his own there.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(to) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            symlink(from, to).map_err(|e| durable::named(e, "link", to))
        }
        Err(e) => Err(durable::named(e, "read", to)),
        Ok(_) => Ok(()),
    }
}

/// The configuration, with the owner's files laid over it key by key, in the order of their names. Of files that it imports
/// itself, containerd 1.7 takes the whole section of a plugin in the place of edge's: one setting of the owner's, and pods
/// would have no network, and images would not come from edge.
///
/// Where AppArmor does not know the profile of pods, `is_confined` is false: containerd would fail to load one.
fn settings(places: &Places, is_confined: bool) -> Result<String, Error> {
    let read = |path: &Path, text: &str| -> Result<toml::Table, Error> {
        text.parse().map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            Error::Settings { path: path.to_owned(), line, why: error.message().to_owned() }
        })
    };
    let mut all = read(&places.own(CONFIG), &config(places, is_confined))?;
    let folder = places.own(DROP_INS);
    let entries = std::fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut paths: Vec<_> = entries
        .map_err(|e| durable::named(e, "read", &folder))?
        .iter()
        .map(std::fs::DirEntry::path)
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    paths.sort();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(|e| durable::named(e, "read", &path))?;
        lay_over(&mut all, read(&path, &text)?);
    }
    let drop_ins = folder.display();
    Ok(format!(
        "# Written by `edge node containerd` at each start, with your settings of {drop_ins}/*.toml in it.\n{all}"
    ))
}

/// Tables add up; of all else, `more` counts.
fn lay_over(all: &mut toml::Table, more: toml::Table) {
    for (key, value) in more {
        match (all.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => lay_over(old, new),
            (_, value) => drop(all.insert(key, value)),
        }
    }
}

/// Version 2 is what containerd 1.7 and 2 both read.
fn config(places: &Places, is_confined: bool) -> String {
    let own = |path: &str| places.own(path).display().to_string();
    let runc = places.snap.join("usr/sbin/runc");
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    format!(
        "version = 2
root = \"{root}\"
state = \"{state}\"

[grpc]
address = \"{state}/containerd.sock\"

[{cri}]
# A snap may not mount in /run.
netns_mounts_under_state_dir = true
# An image counts as pulled when its layers are on disk: a power cut leaves no empty files behind.
image_pull_with_sync_fs = true
disable_apparmor = {disable_apparmor}

[{cri}.cni]
bin_dir = \"{bin}\"
conf_dir = \"{net}\"

[{cri}.registry]
config_path = \"{certs}\"

[{cri}.containerd.runtimes.runc]
runtime_type = \"io.containerd.runc.v2\"

[{cri}.containerd.runtimes.runc.options]
BinaryName = \"{runc}\"
Root = \"{runc_state}\"
# The snap does not speak to the host's systemd.
SystemdCgroup = false
",
        disable_apparmor = !is_confined,
        root = own("containerd/root"),
        state = own("run/containerd"),
        bin = own("cni/bin"),
        net = own("cni/net.d"),
        certs = own("containerd/certs.d"),
        runc = runc.display(),
        runc_state = own("run/runc"),
    )
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the files of a test need not be durable")]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn places(folder: &Path) -> Places {
        let snap = folder.join("snap/current");
        for path in ["usr/bin", "usr/sbin", "usr/lib/cni"] {
            std::fs::create_dir_all(snap.join(path)).unwrap();
        }
        for path in ["usr/bin/containerd", "usr/lib/cni/bridge", "usr/lib/cni/loopback"] {
            std::fs::write(snap.join(path), "").unwrap();
        }
        Places { snap, common: folder.join("common") }
    }

    #[test]
    fn a_boot_ends_what_was_running_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        prepare(&places, "one").unwrap();
        let ended = ["run/containerd/tasks", "cni/state/results/pod", "cni/state/networks/edge"];
        for path in ended.iter().chain(&["containerd/root/blobs"]) {
            std::fs::create_dir_all(places.own(path)).unwrap();
        }
        prepare(&places, "one").unwrap();
        assert!(ended.iter().all(|path| places.own(path).exists()), "a restart finds what runs");
        prepare(&places, "two").unwrap();
        assert!(!ended.iter().any(|path| places.own(path).exists()));
        assert!(places.own("containerd/root/blobs").exists() && places.own("cni/state").exists());
    }

    #[test]
    fn plugins_are_found_beside_those_that_pods_bring() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        std::fs::create_dir_all(places.own("cni/bin")).unwrap();
        std::fs::write(places.own("cni/bin/bridge"), "another").unwrap();
        prepare(&places, "one").unwrap();
        prepare(&places, "one").unwrap();
        assert_eq!(std::fs::read_to_string(places.own("cni/bin/bridge")).unwrap(), "another");
        let link = std::fs::read_link(places.own("cni/bin/loopback")).unwrap();
        assert_eq!(link, places.snap.join("usr/lib/cni/loopback"));
    }

    #[test]
    fn pods_have_a_network_unless_the_owner_gave_another() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        let read = || std::fs::read_to_string(places.own(NETWORK)).unwrap();
        prepare(&places, "one").unwrap();
        let network: serde_json::Value = serde_json::from_str(&read()).unwrap();
        // Only what is in the snap: see scripts/parts.d/node.
        let plugins = network["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].clone());
        assert_eq!(plugins.collect::<Vec<_>>(), ["bridge", "portmap"]);
        std::fs::write(places.own(NETWORK), "").unwrap();
        prepare(&places, "one").unwrap();
        assert_eq!(read(), NETWORK_TEXT, "a power cut left it empty");
        std::fs::write(places.own(NETWORK), "{}").unwrap();
        prepare(&places, "one").unwrap();
        assert_eq!(read(), "{}");
    }

    #[test]
    fn the_configuration_names_nothing_outside_the_snap() {
        let places = Places { snap: "/snap/edge/current".into(), common: "/var/snap/edge/common".into() };
        let config: toml::Table = config(&places, true).parse().unwrap();
        let mut paths = Vec::new();
        gather(&toml::Value::Table(config), &mut paths);
        assert!(paths.len() >= 8, "{paths:?}");
        let own = |path: &&String| {
            path.starts_with("/var/snap/edge/common/") || path.starts_with("/snap/edge/current/")
        };
        assert!(paths.iter().all(|path| own(&path)), "{paths:?}");
    }

    #[test]
    fn an_image_counts_as_pulled_when_it_is_on_disk() {
        let places = Places { snap: "/snap/edge/current".into(), common: "/var/snap/edge/common".into() };
        let config: toml::Table = config(&places, true).parse().unwrap();
        assert_eq!(config["plugins"]["io.containerd.grpc.v1.cri"]["image_pull_with_sync_fs"], true.into());
    }

    #[test]
    fn without_a_profile_for_pods_containerd_does_not_look_for_one() {
        let places = Places { snap: "/snap/edge/current".into(), common: "/var/snap/edge/common".into() };
        for is_confined in [true, false] {
            let config: toml::Table = config(&places, is_confined).parse().unwrap();
            let cri = &config["plugins"]["io.containerd.grpc.v1.cri"];
            assert_eq!(cri["disable_apparmor"], (!is_confined).into());
        }
    }

    #[test]
    fn a_setting_of_the_owner_s_leaves_the_others_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        prepare(&places, "one").unwrap();
        let own = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nrestrict_oom_score_adj = true\n";
        std::fs::write(places.own("containerd/config.d/10-own.toml"), own).unwrap();
        let later = "[plugins.\"io.containerd.grpc.v1.cri\"]\nimage_pull_with_sync_fs = false\n";
        std::fs::write(places.own("containerd/config.d/20-own.toml"), later).unwrap();
        std::fs::write(places.own("containerd/config.d/30-own.toml.bak"), "root = 1\n").unwrap();
        prepare(&places, "one").unwrap();
        let text = std::fs::read_to_string(places.own(CONFIG)).unwrap();
        let all: toml::Table = text.parse().unwrap();
        let mut expected: toml::Table = config(&places, true).parse().unwrap();
        let cri = &mut expected["plugins"]["io.containerd.grpc.v1.cri"].as_table_mut().unwrap();
        // This machine's kernel may have AppArmor, and there is no parser here.
        cri.insert("disable_apparmor".into(), Path::new("/sys/kernel/security/apparmor").exists().into());
        cri.insert("restrict_oom_score_adj".into(), true.into());
        cri.insert("image_pull_with_sync_fs".into(), false.into());
        assert_eq!(all, expected);
        let mode = std::fs::metadata(places.own(CONFIG)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "an owner's password may be in it");
        std::fs::write(places.own("containerd/config.d/20-own.toml"), "version = 2\nroot =\n").unwrap();
        let said = prepare(&places, "one").unwrap_err().to_string();
        assert!(said.contains("20-own.toml`, line 2: ") && !said.contains('\n'), "{said}");
    }

    #[test]
    fn pods_that_have_another_network_keep_it() {
        let folder = tempfile::tempdir().unwrap();
        let places = places(folder.path());
        std::fs::create_dir_all(places.own("cni/net.d")).unwrap();
        let other = places.own("cni/net.d/bridge.conflist");
        std::fs::write(&other, "{}").unwrap();
        prepare(&places, "one").unwrap();
        assert!(!places.own(NETWORK).exists());
        // Nor is an empty one a network.
        std::fs::write(&other, "").unwrap();
        prepare(&places, "one").unwrap();
        assert!(places.own(NETWORK).exists());
    }

    fn gather(value: &toml::Value, paths: &mut Vec<String>) {
        match value {
            toml::Value::String(text) if text.starts_with('/') => paths.push(text.clone()),
            toml::Value::Array(all) => all.iter().for_each(|one| gather(one, paths)),
            toml::Value::Table(all) => all.iter().for_each(|(_, one)| gather(one, paths)),
            _ => {}
        }
    }
}
