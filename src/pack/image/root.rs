//! The root file system: what the packages' own scripts would have done, what an appliance adds, and what it does without.
//!
//! Nothing of the image runs here: all is done from outside, by this program and the tools on a folder.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::board::{Board, Boot, Kernel};
use super::files::{CONTENT, EDGE_UNIT, FILES};
use super::tools::Tools;
use super::{ImagePlan, put, raspberry};

/// Where programs of the tools tree find the root.
pub const ROOT: &str = "/work/root";

/// config/appliance.toml.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Content {
    /// Packages of every board.
    pub packages: Vec<String>,
    /// What they depend on, but is not taken.
    pub without: Vec<String>,
    remove: Vec<String>,
    folders: Vec<String>,
    links: BTreeMap<String, String>,
}

impl Content {
    /// What the program has.
    ///
    /// # Errors
    /// None, once its tests passed.
    pub fn read() -> Result<Self> {
        toml::from_str(CONTENT).context("config/appliance.toml")
    }
}

/// Makes of the unpacked packages the root of an appliance. Returns the release of its kernel.
///
/// # Errors
/// A file of the plan cannot be read; a tool fails.
pub fn configure(
    plan: &ImagePlan,
    board: &Board,
    kernel: &Kernel,
    content: &Content,
    tools: &Tools,
) -> Result<String> {
    let root = &tools.work().join("root");
    let release = take_out(kernel, tools, root)?;
    if board.boot == Boot::SystemdBoot {
        super::disk::lay_firmware(plan.machine, tools, root)?;
    }
    remove(content, tools)?;
    lay(plan, board, content, root)?;
    let mut facts = super::slot::facts(plan, board);
    facts["tryboot"] = (board.boot == Boot::RaspberryPi && raspberry::knows_tryboot(&release, tools)?).into();
    let facts = serde_json::to_string_pretty(&facts)? + "\n";
    put(&root.join("usr/share/edge/system.json"), facts.as_bytes(), 0o644)?;
    // The same that their packages' scripts call, each with the root as its argument.
    tools.run("systemd-sysusers", ["--root", ROOT])?;
    tools.shell(
        &format!("rm -rf {ROOT}/etc/systemd/system/*.wants {ROOT}/etc/systemd/system/*.requires"),
        NONE,
    )?;
    tools.run("systemctl", ["--root", ROOT, "preset-all"])?;
    tools.run("ldconfig", ["-r", ROOT])?;
    tools.run("depmod", ["-b", ROOT, &release])?;
    tools.shell(
        &format!("cd {ROOT}; rm -rf var/* etc/passwd- etc/group- etc/shadow- etc/gshadow- etc/.pwd.lock"),
        NONE,
    )?;
    if let Some(overlay) = &plan.overlay {
        copy_folder(overlay, root, Modes::Kept)
            .with_context(|| format!("cannot lay `{}` over", overlay.display()))?;
    }
    Ok(release)
}

const NONE: [&str; 0] = [];

/// Takes out what is booted beside the root: the kernel and the programs of the firmware. Returns the kernel's release.
fn take_out(kernel: &Kernel, tools: &Tools, root: &Path) -> Result<String> {
    let modules = root.join("usr/lib/modules");
    let names: Vec<_> = fs::read_dir(&modules)?.collect::<std::io::Result<Vec<_>>>()?;
    ensure!(names.len() == 1, "the packages have {} kernels, not one", names.len());
    let release =
        names.first().map(|entry| entry.file_name().to_string_lossy().into_owned()).unwrap_or_default();
    fs::rename(root.join("boot"), tools.work().join("boot")).context("the packages have no /boot")?;
    // Of the Raspberry Pi: device trees, and what its boot loader reads.
    let trees = root.join(format!("usr/lib/linux-image-{release}"));
    if trees.exists() {
        fs::rename(trees, tools.work().join("device-trees"))?;
    }
    for file in &kernel.firmware {
        let name = Path::new(file).file_name().unwrap_or_default();
        fs::create_dir_all(tools.work().join("firmware"))?;
        fs::copy(root.join(file), tools.work().join("firmware").join(name))
            .with_context(|| format!("the packages have no `{file}`"))?;
    }
    fs::rename(root.join("usr/lib/systemd/boot/efi"), tools.work().join("efi"))
        .context("the packages have no systemd-boot")?;
    let pause = super::pause::archive(&root.join("usr/bin/catatonit"))?;
    put(&root.join("usr/share/edge/images/pause.tar"), &pause, 0o644)?;
    Ok(release)
}

fn remove(content: &Content, tools: &Tools) -> Result<()> {
    // Patterns, for the shell; none has a space.
    let patterns = content.remove.join(" ");
    tools.shell(&format!("cd {ROOT}; shopt -s nullglob; rm -rf -- {patterns}"), NONE).map(drop)
}

/// Files, folders and links.
fn lay(plan: &ImagePlan, board: &Board, content: &Content, root: &Path) -> Result<()> {
    for folder in &content.folders {
        fs::create_dir_all(root.join(folder)).with_context(|| format!("cannot make `/{folder}`"))?;
    }
    for (path, text) in FILES {
        put(&root.join(path), text.as_bytes(), 0o644)?;
    }
    for (path, to) in &content.links {
        let path = root.join(path);
        let _ = fs::remove_file(&path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        symlink(to, &path).with_context(|| format!("cannot link `{}`", path.display()))?;
    }
    let copy = |from: &Path, to: &str, mode| -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read `{}`", from.display()))?;
        put(&root.join(to), &bytes, mode)
    };
    put(&root.join("usr/lib/systemd/system/edge.service"), EDGE_UNIT.as_bytes(), 0o644)?;
    copy(&plan.edge, "usr/bin/edge", 0o755)?;
    copy(&plan.kubelet, "usr/bin/kubelet", 0o755)?;
    for (from, to) in [("passwd.master", "etc/passwd"), ("group.master", "etc/group")] {
        copy(&root.join("usr/share/base-passwd").join(from), to, 0o644)?;
    }
    copy(&root.join("usr/share/libc-bin/nsswitch.conf"), "etc/nsswitch.conf", 0o644)?;
    copy(&root.join("usr/share/chrony/chrony.conf"), "etc/chrony/chrony.conf", 0o644)?;
    put(&root.join("etc/chrony/chrony.keys"), b"", 0o640)?;
    put(&root.join("etc/machine-id"), b"", 0o444)?;
    put(&root.join("etc/ssl/certs/ca-certificates.crt"), &authorities(root)?, 0o644)?;
    put(&root.join("usr/lib/os-release"), os_release(plan, board).as_bytes(), 0o644)?;
    // systemd's least time is of this file, whose own is SOURCE_DATE_EPOCH as every file's: a machine without a clock starts no
    // earlier than that.
    put(&root.join("usr/lib/clock-epoch"), b"", 0o644)?;
    if let Some(watchdog) = &board.watchdog {
        let text = format!(
            "[Manager]\nRuntimeWatchdogSec={}\nRebootWatchdogSec={}\n",
            watchdog.runtime, watchdog.reboot
        );
        put(&root.join("usr/lib/systemd/system.conf.d/10-watchdog.conf"), text.as_bytes(), 0o644)?;
    }
    seed(plan, root)
}

/// What the first boot takes where nothing else is given: /usr/share/edge/config.
fn seed(plan: &ImagePlan, root: &Path) -> Result<()> {
    let folder = root.join("usr/share/edge/config");
    let given = [
        (&plan.config, "edge.toml"),
        (&plan.trust, "1.root.json"),
        (&plan.authorized_key, "authorized_keys"),
    ];
    for (from, name) in given {
        let Some(from) = from else { continue };
        let bytes = fs::read(from).with_context(|| format!("cannot read `{}`", from.display()))?;
        put(&folder.join(name), &bytes, 0o600)?;
    }
    if let Some(pods) = &plan.static_pods {
        copy_folder(pods, &folder.join("static-pods"), Modes::Plain)
            .with_context(|| format!("cannot copy `{}`", pods.display()))?;
    }
    Ok(())
}

/// As `update-ca-certificates` does: all that Mozilla trusts, in the order of their names.
fn authorities(root: &Path) -> Result<Vec<u8>> {
    let folder = root.join("usr/share/ca-certificates/mozilla");
    let mut paths: Vec<_> =
        fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    let mut bytes = Vec::new();
    for path in paths {
        bytes.extend(fs::read(path)?);
    }
    ensure!(!bytes.is_empty(), "`{}` has no certificate", folder.display());
    Ok(bytes)
}

fn os_release(plan: &ImagePlan, board: &Board) -> String {
    let version = &plan.version;
    format!(
        "NAME=\"Edge Appliance\"\nID=edge\nID_LIKE=debian\nVERSION_ID={version}\nIMAGE_ID=edge\nIMAGE_VERSION={version}\n\
         VARIANT_ID={}\nPRETTY_NAME=\"Edge Appliance {version}\"\n",
        board.name
    )
}

/// Who may read what is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modes {
    /// As the source has it: what is to run is marked so there.
    Kept,
    /// 0644, whatever the umask of whoever wrote the source.
    Plain,
}

/// Copies what is in a folder: files, links as they are, folders of 0755; all of root.
///
/// # Errors
/// A folder's place is taken by a link: what it leads to may be another machine's, or this one's own.
pub fn copy_folder(from: &Path, to: &Path, modes: Modes) -> Result<()> {
    if !to.exists() {
        fs::create_dir_all(to)
            .and_then(|()| fs::set_permissions(to, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot make `{}`", to.display()))?;
    }
    for entry in fs::read_dir(from).with_context(|| format!("cannot read `{}`", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if let Ok(link) = fs::read_link(&target) {
                let (source, link) = (source.display(), link.display());
                anyhow::bail!(
                    "`{source}` would lie below a link to `{link}` hint: lay it there, or by --config if it is in /var"
                );
            }
            copy_folder(&source, &target, modes)?;
        } else if kind.is_symlink() {
            let _ = fs::remove_file(&target);
            symlink(fs::read_link(&source)?, &target)?;
        } else {
            let _ = fs::remove_file(&target);
            fs::copy(&source, &target).with_context(|| format!("cannot copy `{}`", source.display()))?;
            if modes == Modes::Plain {
                fs::set_permissions(&target, fs::Permissions::from_mode(0o644))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_laid_below_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for made in ["outside", "over/etc/edge", "over/usr/bin", "root/etc"] {
            fs::create_dir_all(at(made)).unwrap();
        }
        put(&at("over/usr/bin/tool"), b"tool", 0o755).unwrap();
        put(&at("over/etc/edge/edge.toml"), b"", 0o600).unwrap();
        symlink(at("outside"), at("root/etc/edge")).unwrap();
        let said = copy_folder(&at("over"), &at("root"), Modes::Kept).unwrap_err().to_string();
        assert!(
            said.contains("over/etc/edge` would lie below a link to `") && said.contains(" hint: "),
            "{said}"
        );
        assert_eq!(fs::read_dir(at("outside")).unwrap().count(), 0);
        fs::remove_dir_all(at("over/etc/edge")).unwrap();
        copy_folder(&at("over"), &at("root"), Modes::Kept).unwrap();
        assert_eq!(fs::read(at("root/usr/bin/tool")).unwrap(), b"tool");
    }

    /// The bytes of an image are those of its parts, and not of the umask under which they were written or are copied.
    #[test]
    fn pods_and_bundles_have_the_modes_that_they_always_have() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        put(&at("pods/web.yaml"), b"pod", 0o664).unwrap();
        put(&at("pods/more/own.yaml"), b"pod", 0o600).unwrap();
        fs::set_permissions(at("pods/more"), fs::Permissions::from_mode(0o700)).unwrap();
        copy_folder(&at("pods"), &at("root/pods"), Modes::Plain).unwrap();
        let mode = |path: &str| fs::metadata(at(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            ["web.yaml", "more", "more/own.yaml"].map(|path| mode(&format!("root/pods/{path}"))),
            [0o644, 0o755, 0o644]
        );
        assert_eq!(mode("root/pods"), 0o755);
    }
}
