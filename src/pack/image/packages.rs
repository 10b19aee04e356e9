//! The packages of an image: chosen and fetched by apt, checked by it against the distribution's keys, and unpacked without
//! any of their scripts.
//!
//! No package manager lies in the image, so what is only for one is left out, and apt's view is thrown away.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use percent_encoding::percent_decode_str;

use super::board::{Archive, Board};
use super::lock::{Lock, Package};
use super::tools::Tools;

/// The release that images are made of.
pub const SUITE: &str = "trixie";

/// What of a package is never of use on a gateway. The licences in `copyright` files stay.
const LEFT_OUT: [&str; 12] = [
    "./usr/share/doc/*/[!c]*",
    "./usr/share/doc/*/c[!o]*",
    "./usr/share/man/*",
    "./usr/share/locale/*",
    "./usr/share/info/*",
    "./usr/share/lintian/*",
    "./usr/share/bug/*",
    "./usr/share/bash-completion/*",
    "./usr/share/zsh/*",
    "./usr/share/initramfs-tools/*",
    "./usr/share/polkit-1/*",
    "./etc/init.d/*",
];

/// A Debian mirror, and the one of its security updates.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Such as `http://HOST/debian`.
    pub main: String,
    /// Such as `http://HOST/debian-security`; `None`: without them.
    pub security: Option<String>,
}

impl Mirror {
    /// A mirror's address, `.../debian`; its security updates lie beside it, as on Debian's own.
    pub fn at(url: &str) -> Self {
        let main = url.trim_end_matches('/').to_owned();
        Self { security: Some(format!("{main}-security")), main }
    }

    /// Where this machine's own apt takes packages from, if it is a Debian.
    ///
    /// # Errors
    /// apt cannot be asked.
    pub fn of_this_machine() -> Result<Option<Self>> {
        let of = |label: &str| -> Result<Option<String>> {
            let output = Command::new("apt-get")
                .args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"])
                .arg(format!("Label: {label}"))
                .output()
                .context("cannot run `apt-get` hint: images are made on Debian")?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok(text.lines().next().map(|uri| uri.trim_end_matches('/').to_owned()))
        };
        let Some(main) = of("Debian")? else { return Ok(None) };
        Ok(Some(Self { main, security: of("Debian-Security")? }))
    }

    fn sources(&self, components: &[String], archives: &[Archive]) -> String {
        let components = std::iter::once("main").chain(components.iter().map(String::as_str));
        let components = components.collect::<Vec<_>>().join(" ");
        let options = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        let mut text = String::new();
        for suite in [SUITE.to_owned(), format!("{SUITE}-updates")] {
            text += &format!("deb {options} {} {suite} {components}\n", self.main);
        }
        if let Some(security) = &self.security {
            text += &format!("deb {options} {security} {SUITE}-security {components}\n");
        }
        for (index, archive) in archives.iter().enumerate() {
            let (key, components) = (key_of(index, archive), archive.components.join(" "));
            text += &format!(
                "deb [signed-by=/work/apt/{key}] {} {} {components}\n",
                archive.address, archive.suite
            );
        }
        text
    }
}

/// The name of an archive's key, beside apt's other files. apt tells its kind by the end of it.
fn key_of(index: usize, archive: &Archive) -> String {
    format!("archive-{index}.{}", archive.key.extension().unwrap_or_default().display())
}

/// Has apt know what there is today for `architecture` in `main`, `components` and the board's own archives, apart from this
/// machine's own apt.
///
/// # Errors
/// The mirror does not answer, or what it answers is not signed.
pub fn update(tools: &Tools, architecture: &str, board: &Board, mirror: &Mirror) -> Result<()> {
    let apt = tools.work().join("apt");
    for folder in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(folder)).with_context(|| format!("cannot make `{}`", apt.display()))?;
    }
    fs::create_dir_all(tools.cache().join("partial"))?;
    for (index, archive) in board.archive.iter().enumerate() {
        let key =
            fs::read(&archive.key).with_context(|| format!("cannot read `{}`", archive.key.display()))?;
        super::put(&apt.join(key_of(index, archive)), &key, 0o644)?;
    }
    let sources = mirror.sources(&board.components, &board.archive);
    super::put(&apt.join("sources.list"), sources.as_bytes(), 0o644)?;
    super::put(&apt.join("status"), b"", 0o644)?;
    let settings = format!(
        r#"#clear APT::Architectures;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::ForceHash "SHA256";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc::sourcelist "/work/apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "/work/apt/state";
Dir::State::status "/work/apt/status";
Dir::Cache "/work/apt/cache";
"#
    );
    super::put(&apt.join("apt.conf"), settings.as_bytes(), 0o644)?;
    tools.run("apt-get", ["-q", "-o", "APT::Update::Error-Mode=any", "update"]).map(drop)
}

/// What apt would take today for these names, with what they need, but for those in `without`.
///
/// # Errors
/// apt knows no such package, or cannot have them together.
pub fn resolve(
    tools: &Tools,
    architecture: &str,
    board: &Board,
    names: &[String],
    without: &[String],
) -> Result<Lock> {
    let fixed = ["-qq", "-y", "--no-install-recommends", "--print-uris", "install"];
    let told = tools.run("apt-get", fixed.into_iter().chain(names.iter().map(String::as_str)))?;
    let read = |line| read_line(line, &board.archive);
    let mut package = told.lines().map(read).collect::<Result<Vec<_>>>()?;
    package.retain(|package| !without.contains(&package.name));
    ensure!(!package.is_empty(), "apt told of no package to take");
    package.sort();
    let (tool, toolchain) = (Vec::new(), Vec::new());
    Ok(Lock { suite: SUITE.into(), architecture: architecture.into(), package, tool, toolchain })
}

/// A line of `--print-uris`: `'URI' FILE SIZE SHA256:HEX`. The distribution's are the same wherever they were fetched.
fn read_line(line: &str, archives: &[Archive]) -> Result<Package> {
    let strange = || format!("apt said `{line}`, not `'URI' FILE SIZE SHA256:HEX`");
    let words: Vec<&str> = line.split(' ').collect();
    let [uri, file, _, sum] = words.as_slice() else { bail!(strange()) };
    let uri = uri.trim_matches('\'');
    let is_of = |archive: &Archive| {
        uri.strip_prefix(archive.address.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
    };
    let sha256 = sum.strip_prefix("SHA256:").with_context(strange)?;
    let stem = file.strip_suffix(".deb").with_context(strange)?;
    let parts: Vec<&str> = stem.split('_').collect();
    let [name, version, architecture] = parts.as_slice() else { bail!(strange()) };
    Ok(Package {
        name: (*name).to_owned(),
        version: percent_decode_str(version).decode_utf8().with_context(strange)?.into_owned(),
        architecture: (*architecture).to_owned(),
        sha256: sha256.to_owned(),
        from: archives.iter().any(is_of).then(|| public(uri)),
    })
}

/// An address without what its archive may ask for: it stands in files that are handed on.
fn public(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    format!("{scheme}://{}/{path}", host.rsplit('@').next().unwrap_or_default())
}

/// The packages that are not in the cache, or not as the lock has them.
///
/// # Errors
/// The cache cannot be read.
pub fn missing<'a>(tools: &Tools, lock: &'a Lock) -> Result<Vec<&'a Package>> {
    let present: Vec<&Package> =
        lock.package.iter().filter(|package| tools.cache().join(package.file()).exists()).collect();
    let sums = super::sums(tools, present.iter().map(|package| format!("/cache/{}", package.file())))?;
    let is_good =
        |package: &&Package| sums.get(&format!("/cache/{}", package.file())) == Some(&package.sha256);
    Ok(lock.package.iter().filter(|package| !is_good(package)).collect())
}

/// Fetches packages into the cache. [`update`] comes before.
///
/// # Errors
/// The mirror has them no longer; what it has is not what the lock names.
pub fn fetch(tools: &Tools, lock: &Lock, wanted: &[&Package]) -> Result<()> {
    for package in wanted {
        let _ = fs::remove_file(tools.cache().join(package.file()));
    }
    let name = |package: &&Package| match package.architecture.as_str() {
        "all" => format!("{}={}", package.name, package.version),
        other => format!("{}:{other}={}", package.name, package.version),
    };
    let names: Vec<String> = wanted.iter().map(name).collect();
    let text = "cd /cache; apt-get -qq download \"$@\"";
    tools.shell(text, &names).context(
        "cannot fetch the packages hint: a mirror keeps only today's; without --lock those are taken",
    )?;
    let still = missing(tools, lock)?;
    let names: Vec<String> = still.iter().map(|package| package.file()).collect();
    ensure!(names.is_empty(), "the mirror has other bytes than the lock for {}", names.join(", "));
    Ok(())
}

/// Unpacks all packages of the lock into `root` of the work folder.
///
/// The kernel, which is as large as all others together, is unpacked beside them.
///
/// # Errors
/// A package cannot be unpacked.
pub fn unpack(tools: &Tools, lock: &Lock, root: &str) -> Result<()> {
    // base-files first: it makes `/bin` and `/lib` the links they are.
    let (first, rest): (Vec<_>, Vec<_>) = lock.package.iter().partition(|p| p.name == "base-files");
    let (large, small): (Vec<_>, Vec<_>) = rest.into_iter().partition(|p| p.name.starts_with("linux-image-"));
    ensure!(first.len() == 1, "the packages have no base-files");
    let mut left_out = String::new();
    for pattern in LEFT_OUT {
        left_out += &format!(" '--exclude={pattern}'");
    }
    let list = |packages: &[&Package]| packages.iter().map(|p| p.file()).collect::<Vec<_>>().join(" ");
    let text = format!(
        r#"root=$1
one() {{ dpkg-deb --fsys-tarfile "/cache/$1" | tar -x -p --numeric-owner --keep-directory-symlink -C "$root" --warning=no-timestamp{left_out}; }}
mkdir -p "$root"
for file in {}; do one "$file"; done
(for file in {}; do one "$file"; done) &
large=$!
for file in {}; do one "$file"; done
wait $large"#,
        list(&first),
        list(&large),
        list(&small)
    );
    tools.shell(&text, [root]).context("cannot unpack the packages").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_prints_is_read() {
        let sum = "ab".repeat(32);
        let line = format!(
            "'http://mirror/debian/pool/c/a_1%3a2.0-1_arm64.deb' a_1%3a2.0-1_arm64.deb 77 SHA256:{sum}"
        );
        let package = read_line(&line, &[]).unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str()), ("a", "1:2.0-1"));
        assert_eq!((package.architecture.as_str(), package.sha256.as_str()), ("arm64", sum.as_str()));
        assert_eq!(package.from, None);
        assert!(read_line("'http://mirror/a.deb' a.deb 77 MD5Sum:00", &[]).is_err());
        // Of an archive of the board's, whose name is not told with the password for it.
        let archive = |address: &str| Archive {
            address: address.into(),
            suite: "trixie".into(),
            components: vec!["main".into()],
            key: "own.asc".into(),
        };
        let line = line.replace("http://mirror/", "https://me:secret@own.test/");
        let own = read_line(&line, &[archive("https://me:secret@own.test/debian/")]).unwrap();
        assert_eq!(own.from.as_deref(), Some("https://own.test/debian/pool/c/a_1%3a2.0-1_arm64.deb"));
        assert_eq!(read_line(&line, &[archive("https://me:secret@own.test/deb")]).unwrap().from, None);
    }

    #[test]
    fn an_archive_of_a_board_is_trusted_by_its_own_key_alone() {
        let archive = Archive {
            address: "https://own.test/debian".into(),
            suite: "trixie".into(),
            components: vec!["main".into(), "extra".into()],
            key: "/somewhere/own.asc".into(),
        };
        let text = Mirror::at("http://mirror.test/debian").sources(&[], &[archive]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[3],
            "deb [signed-by=/work/apt/archive-0.asc] https://own.test/debian trixie main extra"
        );
        let debian =
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.test/debian";
        assert!(lines[..3].iter().all(|line| line.starts_with(debian)) && lines.len() == 4, "{text}");
    }
}
