//! The initrd: busybox, veritysetup, dmsetup and e2fsck with their libraries, the modules of the board, config/appliance.init and
//! config/appliance.tries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::board::{Board, Kernel};
use super::files::{INIT, TRIES};
use super::libraries;
use super::root::ROOT;
use super::tools::Tools;

/// What every initrd needs, whatever its board lists: the hashes, the root and identity.
const ALWAYS: [&str; 3] = ["dm_verity", "erofs", "ext4"];

/// What lies at a path.
enum Entry {
    Folder,
    File {
        bytes: Vec<u8>,
        mode: u32,
    },
    /// The kernel opens it as the first program's input and output.
    Console,
}

/// Writes `initrd` into the work folder, for the kernel of release `release`.
///
/// # Errors
/// The packages lack a program or a library; the kernel lacks a module of the board; a tool fails.
pub fn make(tools: &Tools, board: &Board, kernel: &Kernel, release: &str) -> Result<()> {
    let root = tools.work().join("root");
    let mut entries = BTreeMap::new();
    for folder in ["bin", "dev", "identity", "lib", "modules", "proc", "run", "sys", "sysroot"] {
        entries.insert(folder.to_owned(), Entry::Folder);
    }
    entries.insert("dev/console".to_owned(), Entry::Console);
    let mut file =
        |path: &str, bytes: Vec<u8>, mode| entries.insert(path.to_owned(), Entry::File { bytes, mode });
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read `{}`", path.display()));
    file("init", INIT.as_bytes().to_vec(), 0o755);
    file("tries", TRIES.as_bytes().to_vec(), 0o644);
    file("bin/busybox", read(&root.join("usr/bin/busybox"))?, 0o755);
    let mut loader = String::new();
    for name in ["veritysetup", "dmsetup", "e2fsck"] {
        let program = format!("usr/sbin/{name}");
        file(&format!("bin/{name}"), read(&root.join(&program))?, 0o755);
        let (its_loader, libraries) = libraries::of(tools, &program)?;
        for (name, path) in libraries {
            file(&format!("lib/{name}"), read(&path)?, 0o755);
        }
        loader = its_loader;
    }
    let loader_name = Path::new(&loader).file_name().unwrap_or_default();
    let folder = loader.trim_start_matches('/').rsplit_once('/').map_or("lib", |(folder, _)| folder);
    file(
        &format!("{folder}/{}", loader_name.to_string_lossy()),
        read(&libraries::find(tools, &loader_name.to_string_lossy())?)?,
        0o755,
    );
    let mut order = String::new();
    for module in modules(tools, board, kernel, release)? {
        file(&format!("modules/{module}"), read(&tools.work().join("modules").join(&module))?, 0o644);
        order += &format!("{module}\n");
    }
    file("modules/order", order.into_bytes(), 0o644);
    entries.insert(folder.to_owned(), Entry::Folder);
    let archive = cpio(&entries, u32::try_from(tools.epoch()).unwrap_or_default())?;
    super::put(&tools.work().join("initrd.cpio"), &archive, 0o644)?;
    tools.run("zstd", ["-q", "-f", "-15", "-T1", "/work/initrd.cpio", "-o", "/work/initrd"]).map(drop)
}

/// Unpacks the board's modules, and what they need, into the folder `modules`; their files in the order to load them.
///
/// A module that the kernel has built in needs no file. One that it has not at all is an error: the disk or the hashes
/// that it was for would be missing on the gateway alone, where nobody sees why it does not boot.
fn modules(tools: &Tools, board: &Board, kernel: &Kernel, release: &str) -> Result<Vec<String>> {
    let text = r#"root=$1 release=$2; shift 2
mkdir -p /work/modules
for name; do
    if ! told=$(modprobe -d "$root" -S "$release" --show-depends "$name" 2>/dev/null); then
        echo "missing $name"
        continue
    fi
    while read -r kind path _; do
        # The other kind is `builtin`.
        [ "$kind" = insmod ] || continue
        file=${path##*/} file=${file%%.ko*}.ko
        [ -e "/work/modules/$file" ] || case $path in
        *.xz) xz -dc "$path" >"/work/modules/$file" ;;
        *.zst) zstd -qdc "$path" >"/work/modules/$file" ;;
        *) cp "$path" "/work/modules/$file" ;;
        esac
        echo "file $file"
    done <<<"$told"
done"#;
    let names = kernel.modules.iter().map(String::as_str).chain(ALWAYS);
    let arguments = [ROOT, release].into_iter().chain(names);
    let told = tools.shell(text, arguments).context("cannot take the modules of the initrd")?;
    let missing: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("missing ")).collect();
    ensure!(
        missing.is_empty(),
        "board `{}`: its kernel {release} has no module `{}` hint: mend `modules` of the board",
        board.name,
        missing.join("`, `")
    );
    let mut seen = BTreeSet::new();
    let files = told.lines().filter_map(|line| line.strip_prefix("file "));
    Ok(files.filter(|file| seen.insert((*file).to_owned())).map(str::to_owned).collect())
}

/// The archive that the kernel unpacks, of the format `newc`: of root, all of one time, by name.
fn cpio(entries: &BTreeMap<String, Entry>, time: u32) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut one = |inode: u32, path: &str, mode: u32, device: (u32, u32), bytes: &[u8]| -> Result<()> {
        let size = u32::try_from(bytes.len()).with_context(|| format!("`{path}` is too large"))?;
        let name = u32::try_from(path.len() + 1)?;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        out.extend_from_slice(b"070701");
        for field in [inode, mode, 0, 0, links, time, size, 0, 0, device.0, device.1, name, 0] {
            out.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        out.extend_from_slice(path.as_bytes());
        out.push(0);
        out.resize(out.len().next_multiple_of(4), 0);
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(4), 0);
        Ok(())
    };
    for (inode, (path, entry)) in (1..).zip(entries) {
        match entry {
            Entry::Folder => one(inode, path, 0o040_755, (0, 0), b"")?,
            Entry::File { bytes, mode } => one(inode, path, 0o100_000 | mode, (0, 0), bytes)?,
            Entry::Console => one(inode, path, 0o020_600, (5, 1), b"")?,
        }
    }
    one(0, "TRAILER!!!", 0, (0, 0), b"")?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    #[test]
    fn the_archive_is_one_that_cpio_reads() {
        let mut entries =
            BTreeMap::from([("a".to_owned(), Entry::Folder), ("console".to_owned(), Entry::Console)]);
        entries.insert("a/b".to_owned(), Entry::File { bytes: b"hello".to_vec(), mode: 0o755 });
        let bytes = cpio(&entries, 1).unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let mut child = Command::new("busybox")
            .args(["cpio", "-tv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        for (start, end) in [("drwxr-xr-x", " a"), ("-rwxr-xr-x", " a/b"), ("crw-------", " console")] {
            assert!(text.lines().any(|line| line.starts_with(start) && line.ends_with(end)), "{text}");
        }
    }
}
