//! The appliance image: a disk of Debian's packages, edge and kubelet, made on any x86 machine without running anything of
//! the image.
//!
//! ```text
//! board, config/appliance.toml -> packages (apt, lock) -> root (configure) -> initrd -> slot (erofs, verity, boot entry)
//!                                                                                       -> disk, bundle's system, SBOM
//! ```
//!
//! The same lock, programs, version and SOURCE_DATE_EPOCH give the same bytes, wherever it is made: see the rules in
//! ARCHITECTURE.md.

mod board;
mod disk;
mod fetch;
mod files;
mod initrd;
mod libraries;
mod lock;
mod modules;
mod packages;
mod pause;
mod raspberry;
mod root;
mod sbom;
mod slot;
mod tools;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

use super::elf::{self, Machine};
use super::work::Work;
pub use fetch::kubelet;
pub use lock::{Lock, Package, Tool};
pub use packages::Mirror;

/// What to make.
#[derive(Clone, Debug)]
pub struct ImagePlan {
    /// The machine it is for.
    pub machine: Machine,
    /// The name of a board, or the path of its file.
    pub board: String,
    /// The static edge.
    pub edge: PathBuf,
    /// The kubelet: static, or linked with libraries that the image has.
    pub kubelet: PathBuf,
    /// The version that people see.
    pub version: String,
    /// Configuration that the first boot takes where nobody gives another.
    pub config: Option<PathBuf>,
    /// The trust root that it pins then.
    pub trust: Option<PathBuf>,
    /// The key that may log in by SSH then.
    pub authorized_key: Option<PathBuf>,
    /// A folder of static pods.
    pub static_pods: Option<PathBuf>,
    /// Folders with bundles that come with the image.
    pub bundles: Vec<PathBuf>,
    /// A folder that is laid over the root.
    pub overlay: Option<PathBuf>,
    /// The time of everything in it, in seconds since 1970.
    pub epoch: i64,
    /// Where packages come from, if not from where this machine has its own; not asked when the cache has all that a
    /// lock names.
    pub mirror: Option<Mirror>,
    /// Which packages to take.
    pub packages: Choice,
    /// The tools tree.
    pub tools: PathBuf,
    /// The folder where packages are kept.
    pub cache: PathBuf,
    /// The image's file; what belongs to it lies beside it, with more at the end of its name.
    pub out: PathBuf,
}

/// Which packages an image is made of.
#[derive(Clone, Debug)]
pub enum Choice {
    /// Those that the mirror has today.
    Today,
    /// Those of a lock, whatever the mirror has today.
    Locked(Lock),
    /// Those that the mirror has today, if they are those of a lock.
    Verified(Lock),
}

/// Something else than the lock names.
#[derive(Debug, thiserror::Error)]
pub enum LockDiffers {
    /// The mirror's packages.
    #[error("the packages are not those of the lock: {}", .0.join(", "))]
    Packages(Vec<String>),
    /// What edge and kubelet were built with.
    #[error("edge and kubelet were not built with the compilers of the lock: {}", .0.join(", "))]
    Compilers(Vec<String>),
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Image {
    /// The disk, as it is written to a card.
    pub disk: PathBuf,
    /// The same, compressed.
    pub compressed: PathBuf,
    /// Bytes of the compressed disk.
    pub compressed_size: u64,
    /// Bytes of the root, in its slot.
    pub root_size: u64,
    /// The hash that all of the system hangs on.
    pub root_hash: String,
    /// Which tools are others than those of the lock that was given: the bytes may be, too.
    pub other_tools: Vec<String>,
}

/// The lock in the root of a system, and beside what a bundle takes of it.
const LOCK: &str = "packages.lock";

/// Makes it. `step` hears of each step as it begins.
///
/// # Errors
/// [`LockDiffers`]; a file of the plan is missing or for another machine; a tool fails. `out` is as it was
/// then: it comes last, and what lies beside it may be newer.
pub fn pack(plan: &ImagePlan, step: &mut dyn FnMut(&str)) -> Result<Image> {
    // What others may read of the image is not the builder's own habit.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let board = board::Board::find(&plan.board)?;
    let kernel = board.kernel(plan.machine)?.clone();
    check(plan)?;
    tools::check(&plan.tools)?;
    let name = plan.out.file_name().context("--out is no file")?.to_string_lossy().into_owned();
    let folder = plan.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    fs::create_dir_all(&plan.cache).with_context(|| format!("cannot make `{}`", plan.cache.display()))?;
    let work = Work::new(folder, &name)?;
    let tools = tools::Tools::new(&plan.tools, work.path(), &plan.cache, plan.epoch)?;
    make(plan, &board, &kernel, &tools, step)
}

fn make(
    plan: &ImagePlan,
    board: &board::Board,
    kernel: &board::Kernel,
    tools: &tools::Tools,
    step: &mut dyn FnMut(&str),
) -> Result<Image> {
    let content = root::Content::read()?;
    step("choosing packages");
    let mut lock = choose(plan, board, kernel, &content, tools)?;
    let (now, toolchains) = (tools.versions()?, toolchains(plan)?);
    let mut other_tools = lock.other_tools(&now);
    let others = lock.other_toolchains(&toolchains);
    if matches!(plan.packages, Choice::Verified(_)) && !others.is_empty() {
        return Err(LockDiffers::Compilers(others).into());
    }
    other_tools.extend(others);
    (lock.tool, lock.toolchain) = (now, toolchains);
    step("fetching packages");
    fetch(plan, board, &lock, tools)?;
    step(&format!("unpacking {} packages", lock.package.len()));
    packages::unpack(tools, &lock, root::ROOT)?;
    step("configuring the root");
    let release = root::configure(plan, board, kernel, &content, tools)?;
    check_kubelet(plan, tools)?;
    // Who has a gateway, or a bundle with its system, can tell what it was made of.
    let locked = lock.text()?;
    put(&tools.work().join("root/usr/share/edge").join(LOCK), locked.as_bytes(), 0o644)?;
    step("making the initrd");
    initrd::make(tools, board, kernel, &release)?;
    step("making the root and its hashes");
    let system = slot::make(plan, board, kernel, &release, tools)?;
    put(&tools.work().join("system").join(LOCK), locked.as_bytes(), 0o644)?;
    step("making the disk");
    disk::make(plan, board, tools)?;
    step("compressing the disk");
    tools.run("zstd", ["-q", "-f", "-3", "-T0", "/work/disk.img", "-o", "/work/disk.img.zst"])?;
    let sbom = bill(plan, &lock, &system, tools)?;
    let beside = |end: &str| {
        let mut path = plan.out.clone().into_os_string();
        path.push(end);
        PathBuf::from(path)
    };
    put(&beside(".lock"), locked.as_bytes(), 0o644)?;
    put(&beside(".spdx.json"), sbom.as_bytes(), 0o644)?;
    let _ = fs::remove_dir_all(beside(".system"));
    for (from, end) in [("system", ".system"), ("disk.img.zst", ".zst"), ("disk.img", "")] {
        let to = beside(end);
        fs::rename(tools.work().join(from), &to)
            .with_context(|| format!("cannot make `{}`", to.display()))?;
    }
    let compressed = beside(".zst");
    Ok(Image {
        disk: plan.out.clone(),
        compressed_size: fs::metadata(&compressed)?.len(),
        compressed,
        root_size: system.root_size,
        root_hash: system.root_hash,
        other_tools,
    })
}

/// What can be known to be wrong before the work begins.
fn check(plan: &ImagePlan) -> Result<()> {
    elf::check(&plan.edge, plan.machine).context("--edge")?;
    elf::loader_of(&plan.kubelet, plan.machine).context("--kubelet")?;
    slot::efi(plan.machine)?;
    let is_good = |c: char| c.is_ascii_alphanumeric() || ".+~_-".contains(c);
    let version_is_good =
        !plan.version.is_empty() && plan.version.len() <= 64 && plan.version.chars().all(is_good);
    ensure!(version_is_good, "version `{}` is not of 1 to 64 letters, digits and .+~_-", plan.version);
    let folders = plan.bundles.iter().chain(&plan.static_pods).chain(&plan.overlay);
    for folder in folders {
        ensure!(folder.is_dir(), "`{}` is no folder", folder.display());
    }
    for bundle in &plan.bundles {
        let holds = bundle.join(disk::BUNDLES).is_dir();
        ensure!(holds, "`{}` holds no bundle hint: `edge bundle create --to` made it", bundle.display());
    }
    for file in plan.config.iter().chain(&plan.trust).chain(&plan.authorized_key) {
        ensure!(file.is_file(), "`{}` is no file", file.display());
    }
    Ok(())
}

/// Whether the kubelet, if it is linked with libraries, will find them: upstream's was until Kubernetes 1.36.
fn check_kubelet(plan: &ImagePlan, tools: &tools::Tools) -> Result<()> {
    if elf::loader_of(&plan.kubelet, plan.machine)?.is_none() {
        return Ok(());
    }
    libraries::check(tools, "usr/bin/kubelet").map_err(|why| {
        let hint = "hint: another kubelet, static or for Debian, or `--overlay` with what it needs";
        anyhow::anyhow!("--kubelet: `{}` would not run: {why} {hint}", plan.kubelet.display())
    })
}

/// What edge and kubelet were built with, as far as they say.
fn toolchains(plan: &ImagePlan) -> Result<Vec<Tool>> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read `{}`", path.display()));
    let mut found = elf::compilers(&read(&plan.edge)?);
    let go = modules::go_program(&read(&plan.kubelet)?).and_then(|program| program.go);
    found.extend(go.map(|version| ("go".to_owned(), version)));
    found.sort();
    Ok(found.into_iter().map(|(name, version)| Tool { name, version }).collect())
}

/// The packages to take.
fn choose(
    plan: &ImagePlan,
    board: &board::Board,
    kernel: &board::Kernel,
    content: &root::Content,
    tools: &tools::Tools,
) -> Result<Lock> {
    let today = || -> Result<Lock> {
        packages::update(tools, plan.machine.name(), board, &mirror(plan)?)?;
        let names: Vec<String> = content.packages.iter().chain(&kernel.packages).cloned().collect();
        packages::resolve(tools, plan.machine.name(), board, &names, &content.without)
    };
    match &plan.packages {
        Choice::Today => today(),
        Choice::Locked(lock) => {
            let (arch, suite) = (plan.machine.name(), packages::SUITE);
            let is_ours = lock.architecture == arch && lock.suite == suite;
            ensure!(is_ours, "the lock is of {} {}, not {suite} {arch}", lock.suite, lock.architecture);
            Ok(lock.clone())
        }
        Choice::Verified(lock) => {
            let today = today()?;
            let differences = lock.differences(&today);
            if differences.is_empty() {
                Ok(Lock { package: today.package, ..lock.clone() })
            } else {
                Err(LockDiffers::Packages(differences).into())
            }
        }
    }
}

fn mirror(plan: &ImagePlan) -> Result<Mirror> {
    let found = plan.mirror.clone().map_or_else(Mirror::of_this_machine, |mirror| Ok(Some(mirror)))?;
    found.context("no Debian mirror is known hint: --mirror URL")
}

/// Has all packages in the cache.
fn fetch(plan: &ImagePlan, board: &board::Board, lock: &Lock, tools: &tools::Tools) -> Result<()> {
    let missing = packages::missing(tools, lock)?;
    if missing.is_empty() {
        return Ok(());
    }
    if matches!(plan.packages, Choice::Locked(_)) {
        packages::update(tools, plan.machine.name(), board, &mirror(plan)?)?;
    }
    packages::fetch(tools, lock, &missing)
}

fn bill(plan: &ImagePlan, lock: &Lock, system: &slot::System, tools: &tools::Tools) -> Result<String> {
    let edge = sum(tools, &format!("{}/usr/bin/edge", root::ROOT))?;
    let kubelet = sum(tools, &format!("{}/usr/bin/kubelet", root::ROOT))?;
    let bytes =
        fs::read(&plan.kubelet).with_context(|| format!("cannot read `{}`", plan.kubelet.display()))?;
    // One that was built otherwise says nothing of itself.
    let go = modules::go_program(&bytes);
    let program = |name: &str, version: &str, sha256, purl, linked| sbom::Part {
        id: name.into(),
        name: name.into(),
        version: version.into(),
        licence: "Apache-2.0",
        sha256: Some(sha256),
        purl,
        supplier: None,
        from: None,
        linked,
    };
    let crates = modules::crates()?.iter().map(|module| sbom::Part::library("cargo", module)).collect();
    let of_go = go.iter().flat_map(|go| &go.dependencies);
    let linked = of_go.map(|module| sbom::Part::library("golang", module)).collect();
    let purl = go.as_ref().map(|go| format!("pkg:golang/{}@{}", go.module, go.version));
    let version = go.as_ref().map_or("NOASSERTION", |go| &go.version);
    let parts = [
        program("edge", &plan.version, edge, None, crates),
        program("kubelet", version, kubelet, purl, linked),
    ];
    let laid =
        plan.overlay.as_deref().map_or_else(|| Ok(Vec::new()), |overlay| laid(overlay, Path::new("")))?;
    let created = jiff::Timestamp::from_second(plan.epoch).context("the epoch is no time")?;
    sbom::text(lock, &parts, &laid, &plan.version, &system.verity, &created.to_string())
}

/// The files of the overlay below `folder`, in the order of their names.
fn laid(overlay: &Path, folder: &Path) -> Result<Vec<sbom::Laid>> {
    let at = overlay.join(folder);
    let mut names = fs::read_dir(&at)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>())
        .with_context(|| format!("cannot read `{}`", at.display()))?;
    names.sort();
    let mut all = Vec::new();
    for name in names {
        let (path, below) = (at.join(&name), folder.join(&name));
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            all.extend(laid(overlay, &below)?);
        } else if kind.is_file() {
            let bytes = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
            let (sha1, sha256) = (sbom::sha1(&bytes), sha256(&bytes));
            all.push(sbom::Laid { path: below.to_string_lossy().into_owned(), sha1, sha256 });
        }
    }
    Ok(all)
}

/// Writes a file and the folders above it. A link that lies there is replaced, not followed.
pub(super) fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let written = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
    };
    written().with_context(|| format!("cannot write `{}`", path.display()))
}

/// In hexadecimal. For what is small: [`sum`] is quicker where this program was built to be debugged.
fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sha256 of a file, by its path in the tools tree.
fn sum(tools: &tools::Tools, path: &str) -> Result<String> {
    sums(tools, std::iter::once(path.to_owned()))?.remove(path).with_context(|| format!("no sum of `{path}`"))
}

/// Those of many, by path.
fn sums(tools: &tools::Tools, paths: impl Iterator<Item = String>) -> Result<HashMap<String, String>> {
    let paths: Vec<String> = paths.collect();
    if paths.is_empty() {
        return Ok(HashMap::new());
    }
    let told = tools.run("sha256sum", &paths)?;
    let pairs = told.lines().filter_map(|line| line.split_once("  "));
    Ok(pairs.map(|(sum, path)| (path.to_owned(), sum.to_owned())).collect())
}
