//! The snap: one static binary, its description, and a link to it for each hook; in the node flavour the parts of a node
//! too.
//!
//! `snap/snapcraft.yaml` is the one place for names, plugs and hooks; what only snapcraft needs of it is left out.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::image::put;
use super::work::Work;
use super::{elf, parts, squashfs};

/// What `snap/snapcraft.yaml` says.
const SOURCE: &str = include_str!("../../snap/snapcraft.yaml");
/// What the node flavour has besides.
const NODE: &str = include_str!("../../snap/node.yaml");
/// What snapd leaves out of a snapshot.
const SNAPSHOTS: &str = include_str!("../../snap/snapshots.yaml");
/// Its words that are snapd's own too.
const SHARED: [&str; 9] =
    ["name", "title", "license", "summary", "description", "grade", "base", "environment", "apps"];
/// The most characters of a version that snapd takes.
const VERSION: usize = 32;

/// How far the snap is kept from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// It reaches what was connected.
    Strict,
    /// It reaches all that root does.
    Classic,
}

/// What is in the snap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flavour {
    /// edge, for a gateway that has kubelet and containerd.
    Edge,
    /// kubelet, containerd, runc and CNI plugins too, from this folder (`scripts/parts.d/node` fills it).
    Node(PathBuf),
}

/// What to make.
#[derive(Debug)]
pub struct SnapPlan {
    /// The machine it is for.
    pub machine: elf::Machine,
    /// The built program.
    pub binary: PathBuf,
    /// The version that snapd shows.
    pub version: String,
    /// How far it is kept from the host.
    pub confinement: Confinement,
    /// What is in it.
    pub flavour: Flavour,
    /// The trust root that its daemon pins where none is.
    pub trust: Option<PathBuf>,
    /// The time of every file in it, in seconds since 1970.
    pub epoch: i64,
    /// The folder to put it in.
    pub out: PathBuf,
}

/// Makes it; the path of the snap.
///
/// # Errors
/// The binary is not for that machine; a file cannot be written; mksquashfs fails.
pub fn pack(plan: &SnapPlan) -> Result<PathBuf> {
    elf::check(&plan.binary, plan.machine)?;
    ensure!(
        is_version(&plan.version),
        "version `{}` is none that snapd takes: 1 to {VERSION} characters of letters, digits and `:.+~-`, a letter or digit first, none of `:.-` last",
        plan.version
    );
    if let Flavour::Node(folder) = &plan.flavour {
        // Its programs find their libraries in the snap; a classic one would mix them with the host's.
        ensure!(
            plan.confinement == Confinement::Strict,
            "the node flavour is strict, there is no classic one"
        );
        parts::check(folder, plan.machine)?;
    }
    fs::create_dir_all(&plan.out).with_context(|| format!("cannot make `{}`", plan.out.display()))?;
    let work = Work::new(&plan.out, &format!("tree-{}", plan.machine.name()))?;
    let tree = work.path();
    let classic = if plan.confinement == Confinement::Classic { "-classic" } else { "" };
    let node = if plan.flavour == Flavour::Edge { "" } else { "-node" };
    let name = format!("edge_{}_{}{classic}{node}.snap", plan.version, plan.machine.name());
    let (image, beside) = (plan.out.join(&name), plan.out.join(format!(".{name}.new")));
    lay_out(plan, tree)?;
    squashfs::pack(tree, &beside, plan.epoch)?;
    fs::rename(&beside, &image).with_context(|| format!("cannot make `{}`", image.display()))?;
    Ok(image)
}

/// Whether snapd takes it as a version: by its own rule, `snap/naming` of its sources.
fn is_version(text: &str) -> bool {
    let is_within = |c: char| c.is_ascii_alphanumeric() || ":.+~-".contains(c);
    text.len() <= VERSION
        && text.chars().all(is_within)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !text.ends_with([':', '.', '-'])
}

/// The content of the snap, with the permissions that snapd expects.
fn lay_out(plan: &SnapPlan, tree: &Path) -> Result<()> {
    let source = source(&plan.flavour)?;
    for folder in ["", "bin", "meta", "meta/hooks"] {
        let folder = tree.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        fs::set_permissions(&folder, Permissions::from_mode(0o755))?;
    }
    let binary = tree.join("bin/edge");
    fs::copy(&plan.binary, &binary).with_context(|| format!("cannot copy `{}`", plan.binary.display()))?;
    fs::set_permissions(&binary, Permissions::from_mode(0o755))?;
    if let Flavour::Node(parts) = &plan.flavour {
        parts::copy(parts, tree)?;
    }
    for hook in hooks(&source) {
        // Relative: snapd refuses links that lead out of the snap, and the path of a revision is not known yet.
        symlink("../../bin/edge", tree.join("meta/hooks").join(&hook))
            .with_context(|| format!("cannot link hook `{hook}`"))?;
    }
    let described = description(plan, &source)?;
    put(&tree.join("meta/snap.yaml"), described.as_bytes(), 0o444)?;
    put(&tree.join("meta/snapshots.yaml"), SNAPSHOTS.as_bytes(), 0o444)?;
    if let Some(root) = &plan.trust {
        let bytes = fs::read(root).with_context(|| format!("cannot read `{}`", root.display()))?;
        put(&tree.join("1.root.json"), &bytes, 0o444)?;
    }
    Ok(())
}

fn source(flavour: &Flavour) -> Result<Map<String, Value>> {
    let mut source = serde_saphyr::from_str(SOURCE).context("snap/snapcraft.yaml is no YAML mapping")?;
    if *flavour != Flavour::Edge {
        let more = serde_saphyr::from_str(NODE).context("snap/node.yaml is no YAML mapping")?;
        lay_over(&mut source, more);
    }
    Ok(source)
}

/// Mappings add up; of all else, `more` counts.
fn lay_over(source: &mut Map<String, Value>, more: Map<String, Value>) {
    for (key, value) in more {
        match (source.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => lay_over(old, new),
            (_, value) => drop(source.insert(key, value)),
        }
    }
}

fn hooks(source: &Map<String, Value>) -> Vec<String> {
    let hooks = source.get("hooks").and_then(Value::as_object);
    let mut names: Vec<String> = hooks.into_iter().flat_map(Map::keys).cloned().collect();
    names.sort();
    names
}

/// meta/snap.yaml. It is written as JSON, which is YAML, and has only one way to be written.
fn description(plan: &SnapPlan, source: &Map<String, Value>) -> Result<String> {
    let mut words = Map::new();
    for name in SHARED {
        let word = source.get(name).with_context(|| format!("no `{name}` in snapcraft.yaml"))?;
        words.insert(name.into(), word.clone());
    }
    if let Some(layout) = source.get("layout") {
        words.insert("layout".into(), layout.clone());
    }
    words.insert("version".into(), plan.version.clone().into());
    words.insert("architectures".into(), json!([plan.machine.name()]));
    match plan.confinement {
        Confinement::Strict => {
            words.insert("confinement".into(), "strict".into());
            for name in ["plugs", "hooks"] {
                words.insert(name.into(), source.get(name).cloned().unwrap_or_default());
            }
        }
        // A classic snap reaches everything without plugs, and snapd connects none.
        Confinement::Classic => {
            words.insert("confinement".into(), "classic".into());
            let apps = words.get_mut("apps").and_then(Value::as_object_mut);
            for app in apps.into_iter().flat_map(Map::values_mut) {
                app.as_object_mut().map(|app| app.remove("plugs"));
            }
        }
    }
    let mut text = serde_json::to_string_pretty(&words)?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(confinement: Confinement) -> SnapPlan {
        SnapPlan {
            machine: elf::Machine::Arm64,
            binary: "/nowhere".into(),
            version: "1.2.3".into(),
            confinement,
            flavour: Flavour::Edge,
            trust: None,
            epoch: 0,
            out: "/nowhere".into(),
        }
    }

    #[test]
    fn the_description_is_snapcraft_s_without_what_only_snapcraft_knows() {
        let source = source(&Flavour::Edge).unwrap();
        let read = |confinement| -> Value {
            serde_saphyr::from_str(&description(&plan(confinement), &source).unwrap()).unwrap()
        };
        let strict = read(Confinement::Strict);
        assert_eq!(strict["name"], "edge");
        assert_eq!(strict["architectures"], json!(["arm64"]));
        assert_eq!((&strict["apps"], &strict["hooks"]), (&source["apps"], &source["hooks"]));
        assert_eq!(strict["plugs"]["containerd"]["interface"], "system-files");
        assert!(strict.get("parts").is_none() && strict.get("build-base").is_none());
        let classic = read(Confinement::Classic);
        assert_eq!(classic["confinement"], "classic");
        assert!(classic.get("plugs").is_none() && classic["apps"]["daemon"].get("plugs").is_none());
    }

    #[test]
    fn the_node_flavour_has_the_same_and_two_services_more() {
        let (edge, node) =
            (source(&Flavour::Edge).unwrap(), source(&Flavour::Node("/nowhere".into())).unwrap());
        assert_eq!(node["apps"]["daemon"], edge["apps"]["daemon"]);
        assert_eq!(node["plugs"]["kubelet"], edge["plugs"]["kubelet"]);
        let plan = SnapPlan { flavour: Flavour::Node("/nowhere".into()), ..plan(Confinement::Strict) };
        let yaml: Value = serde_saphyr::from_str(&description(&plan, &node).unwrap()).unwrap();
        assert_eq!(yaml["layout"]["/var/lib/kubelet"]["bind"], "$SNAP_COMMON/kubelet/root");
        assert!(edge.get("layout").is_none());
        assert_eq!((&edge["base"], &yaml["base"]), (&json!("bare"), &json!("core24")));
        let remove =
            |source: &Map<String, Value>| source["hooks"]["remove"]["plugs"].as_array().unwrap().clone();
        assert!(remove(&edge).iter().all(|plug| remove(&node).contains(plug)));
        let known = |plug: &Value| {
            let own = node["plugs"].as_object().unwrap().contains_key(plug.as_str().unwrap());
            own || !["containers", "kubernetes"].contains(&plug.as_str().unwrap())
        };
        for service in ["containerd", "kubelet"] {
            assert_eq!(node["apps"][service]["command"], format!("bin/edge node {service}"));
            assert!(node["apps"][service]["plugs"].as_array().unwrap().iter().all(known));
        }
    }

    #[test]
    fn a_version_is_one_that_snapd_takes() {
        let longest = "1".repeat(VERSION);
        for good in ["1", "0.1.0", "1.2.3-rc1+git~7", "1:2", "v1+", "1~", &longest] {
            assert!(is_version(good), "{good}");
        }
        let long = "1".repeat(VERSION + 1);
        for bad in ["", "1 2", "1_2", "ä", "1/2", "../1", "1.", "1-", "1:", "-1", "+1", ".1", "1\n", &long] {
            assert!(!is_version(bad), "{bad:?}");
        }
    }

    /// systemd's own limit, five starts in ten seconds, which a snap cannot lift.
    #[test]
    fn no_number_of_failures_makes_systemd_give_up() {
        for flavour in [Flavour::Edge, Flavour::Node("/nowhere".into())] {
            let source = source(&flavour).unwrap();
            let yaml: Value = serde_saphyr::from_str(
                &description(&SnapPlan { flavour, ..plan(Confinement::Strict) }, &source).unwrap(),
            )
            .unwrap();
            let apps = yaml["apps"].as_object().unwrap().iter();
            let services: Vec<_> = apps.filter(|(_, app)| app.get("daemon").is_some()).collect();
            assert!(!services.is_empty());
            for (name, service) in services {
                assert_eq!(service["restart-condition"], "always", "{name}");
                let delay = service["restart-delay"].as_str().and_then(|text| text.strip_suffix('s'));
                let delay: u32 = delay.and_then(|text| text.parse().ok()).unwrap();
                assert!(delay * 4 > 10, "{name}: {delay} s");
            }
        }
    }

    #[test]
    fn snapcraft_links_the_same_hooks() {
        let source = source(&Flavour::Edge).unwrap();
        let script = source["parts"]["edge"]["override-prime"].as_str().unwrap();
        let listed =
            script.split("for hook in").nth(1).unwrap().split(';').next().unwrap().replace('\\', " ");
        let mut listed: Vec<&str> = listed.split_whitespace().collect();
        listed.sort_unstable();
        assert_eq!(listed, hooks(&source));
        assert!(script.contains("snap/snapshots.yaml\" meta/snapshots.yaml"), "{script}");
    }

    /// snapd's own rules, by which it would refuse the whole snap.
    #[test]
    fn what_a_snapshot_leaves_out_is_written_as_snapd_takes_it() {
        let left_out: Map<String, Value> = serde_saphyr::from_str(SNAPSHOTS).unwrap();
        let left_out: Vec<&str> =
            left_out["exclude"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
        for large in ["store/blobs", "store/uploads", "store/quarantine", "git", "cache.db*"] {
            for below in ["", "*/", "*/*/"] {
                let path = format!("$SNAP_COMMON/{below}{large}");
                assert!(left_out.contains(&path.as_str()), "{path}: {left_out:?}");
            }
        }
        for path in left_out {
            let below = path.strip_prefix("$SNAP_COMMON/").unwrap();
            assert!(!below.contains(['[', ']', '{', '}', '?']) && !below.contains("**"), "{path}");
            assert!(below.split('/').all(|part| !["", ".", ".."].contains(&part)), "{path}");
            assert!(
                !["store", "containerd", "kubelet", "*"].contains(&below),
                "{path} holds what cannot be had again"
            );
        }
    }
}
