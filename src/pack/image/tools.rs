//! The programs that make an image, run in a Debian tree of their own: their versions decide its bytes, so the build
//! host's are not used. `scripts/parts.d/image-tools` makes the tree.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

use super::lock::Tool;

/// Mounts that end with the program: nothing of them is seen outside. The resolver's and apt's view of the network is
/// this machine's.
const ENTER: &str = r#"root=$1 work=$2 cache=$3; shift 3
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root/work" "$root/cache"
mount --bind "$work" "$root/work"
mount --bind "$cache" "$root/cache"
[ ! -e /etc/resolv.conf ] || mount --bind "$(readlink -f /etc/resolv.conf)" "$root/etc/resolv.conf"
exec chroot "$root" "$@""#;

/// The packages of the tree whose programs and libraries write what is in an image.
const WRITERS: [&str; 14] = [
    "binutils",
    "cryptsetup-bin",
    "dosfstools",
    "e2fsprogs",
    "erofs-utils",
    "fdisk",
    "kmod",
    "libc-bin",
    "libext2fs2t64",
    "liblz4-1",
    "mtools",
    "systemd",
    "systemd-ukify",
    "zstd",
];

/// The tools tree and the two folders that its programs see.
#[derive(Debug)]
pub struct Tools {
    root: PathBuf,
    work: PathBuf,
    cache: PathBuf,
    epoch: i64,
}

/// Whether there is a tools tree, and this is root, who alone may enter it.
///
/// # Errors
/// What to do about it.
pub fn check(root: &Path) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "not root hint: an image is made by root, of root's files");
    ensure!(
        root.join("ready").exists(),
        "no tools tree in `{}` hint: scripts/image makes it, or scripts/parts.d/image-tools",
        root.display()
    );
    Ok(())
}

impl Tools {
    /// Programs see `work` as `/work` and `cache` as `/cache`, whatever their names here; the time they put in files is
    /// `epoch`, in seconds since 1970.
    ///
    /// # Errors
    /// One of the folders cannot be found.
    pub fn new(root: &Path, work: &Path, cache: &Path, epoch: i64) -> Result<Self> {
        let real =
            |path: &Path| path.canonicalize().with_context(|| format!("cannot find `{}`", path.display()));
        Ok(Self { root: real(root)?, work: real(work)?, cache: real(cache)?, epoch })
    }

    /// The work folder, on this side.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// The folder of packages, on this side.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The time of every file, in seconds since 1970.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// The packages that write what is in an image, and their versions.
    ///
    /// # Errors
    /// The tree lacks one.
    pub fn versions(&self) -> Result<Vec<Tool>> {
        let told = self.run("dpkg-query", ["-W", "-f", "${Package} ${Version}\\n"].iter().chain(&WRITERS))?;
        let pair = |line: &str| {
            let (name, version) = line.split_once(' ')?;
            Some(Tool { name: name.to_owned(), version: version.to_owned() })
        };
        let mut tools: Vec<Tool> = told.lines().filter_map(pair).collect();
        tools.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(tools)
    }

    /// Runs a program to its end; what it wrote to standard output.
    ///
    /// # Errors
    /// It cannot be run, or fails: its last lines.
    pub fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, program: &str, arguments: I) -> Result<String> {
        let output = self.output(program, arguments)?;
        ensure!(output.status.success(), "`{program}` failed: {}", last_words(&output));
        String::from_utf8(output.stdout).with_context(|| format!("`{program}` did not write text"))
    }

    /// The same for a text of bash, which ends at the first failure; `$1` and on are `arguments`.
    ///
    /// # Errors
    /// As of [`Tools::run`].
    pub fn shell<I: IntoIterator<Item: AsRef<OsStr>>>(&self, text: &str, arguments: I) -> Result<String> {
        let mut all: Vec<OsString> =
            ["-e", "-o", "pipefail", "-c", text, "bash"].into_iter().map(OsString::from).collect();
        all.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        let output = self.output("bash", all)?;
        ensure!(output.status.success(), "{}", last_words(&output));
        String::from_utf8(output.stdout).context("bash did not write text")
    }

    fn output<I: IntoIterator<Item: AsRef<OsStr>>>(&self, program: &str, arguments: I) -> Result<Output> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", ENTER, "sh"]);
        command.args([&self.root, &self.work, &self.cache]);
        command.args(["env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin", "LANG=C.UTF-8", "TZ=UTC"]);
        command.args([
            "APT_CONFIG=/work/apt/apt.conf".to_owned(),
            format!("SOURCE_DATE_EPOCH={}", self.epoch),
            format!("E2FSPROGS_FAKE_TIME={}", self.epoch),
            "MTOOLS_SKIP_CHECK=1".to_owned(),
        ]);
        command.arg(program).args(arguments);
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `unshare` for `{program}`"))
    }
}

/// The end of what a program said, in one line.
fn last_words(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let mut lines: Vec<&str> =
        said.lines().map(str::trim).filter(|line| !line.is_empty()).rev().take(5).collect();
    lines.reverse();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ") }
}
