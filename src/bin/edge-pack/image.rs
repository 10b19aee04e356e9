//! `edge-pack image`

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use edge::config::Config;
use edge::pack::Usage;
use edge::pack::image::{self, Choice, ImagePlan, Lock, Mirror};
use edge::system::{check_keys, check_pods};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{Arch, check_root, machine};

/// The steps of [`image::pack`], for the bar.
const STEPS: u64 = 8;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The machine it is for: amd64 or arm64
    #[arg(long, value_parser = arch)]
    arch: Arch,
    /// The kind of machine: generic-efi, raspberry-pi, or the path of a file as of config/boards
    #[arg(long, value_name = "NAME", default_value = "generic-efi")]
    board: String,
    /// The static edge [default: target/snap/edge-ARCH]
    #[arg(long, value_name = "PATH")]
    edge: Option<PathBuf>,
    /// The kubelet, static or for Debian; an address needs --kubelet-sha256
    #[arg(long, value_name = "PATH|URL")]
    kubelet: String,
    /// What the kubelet's sha256 must be
    #[arg(long, value_name = "HEX")]
    kubelet_sha256: Option<String>,
    /// The configuration that the first boot takes where nobody gives another
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The trust root that it pins then, 1.root.json
    #[arg(long, value_name = "FILE")]
    trust: Option<PathBuf>,
    /// A folder that holds a bundle, as a stick does; may be given several times
    #[arg(long, value_name = "DIR")]
    image_bundle: Vec<PathBuf>,
    /// A folder of static pods
    #[arg(long, value_name = "DIR")]
    static_pods: Option<PathBuf>,
    /// A public key that may log in as root by SSH; without one nobody may
    #[arg(long, value_name = "FILE")]
    authorized_key: Option<PathBuf>,
    /// A folder that is laid over the root: firmware, network settings, units
    #[arg(long, value_name = "DIR")]
    overlay: Option<PathBuf>,
    /// The version that people see
    #[arg(long = "image-version", visible_alias = "version-text", value_name = "V", default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// A Debian mirror, .../debian [default: the one of this machine's apt]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Take the packages of this lock
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Take today's packages, and refuse if they are not those of --lock
    #[arg(long, requires = "lock")]
    verify_lock: bool,
    /// The folder where packages are kept [default: image-cache, beside the tools]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// The folder of the parts, in which scripts/parts.d/image-tools made the tools tree
    #[arg(long, value_name = "DIR", env = "EDGE_PARTS", default_value = "/var/cache/edge-parts")]
    parts: PathBuf,
    /// The time of every file in it, in seconds since 1970
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", default_value_t = 0)]
    epoch: i64,
    /// The image's file
    #[arg(long, value_name = "FILE", default_value = "edge.img")]
    out: PathBuf,
}

/// No image is made for other machines than these.
fn arch(text: &str) -> Result<Arch, String> {
    match text {
        "amd64" => Ok(Arch::Amd64),
        "arm64" => Ok(Arch::Arm64),
        _ => Err("expected `amd64` or `arm64`".into()),
    }
}

impl Arguments {
    /// Makes the image; what to tell of it.
    pub fn run(self) -> Result<String> {
        let begun = Instant::now();
        let plan = self.plan()?;
        let mut steps = Steps::new();
        let made = image::pack(&plan, &mut |step| steps.begin(step));
        steps.end();
        let made = made?;
        if !made.other_tools.is_empty() {
            let others = made.other_tools.join(", ");
            say(&format!("the tools are not those of the lock, so the bytes may be others: {others}"));
        }
        Ok(format!(
            "{}: root {}, hash {}\n{}: {}, in {} s",
            made.disk.display(),
            HumanBytes(made.root_size),
            made.root_hash,
            made.compressed.display(),
            HumanBytes(made.compressed_size),
            begun.elapsed().as_secs()
        ))
    }

    fn plan(self) -> Result<ImagePlan> {
        let machine = machine(self.arch);
        let cache = self.cache.unwrap_or_else(|| self.parts.join("image-cache"));
        if let Some(file) = &self.config {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
            Config::parse(file, &text)?;
        }
        if let Some(file) = &self.trust {
            check_root(file)?;
        }
        // What the first boot would not take must not be found out there.
        if let Some(file) = &self.authorized_key {
            let bytes = std::fs::read(file).with_context(|| format!("cannot read `{}`", file.display()))?;
            let hint = "hint: it takes the public key, whose file mostly ends in .pub";
            check_keys(&bytes)
                .map_err(|why| Usage(format!("--authorized-key `{}`: {why} {hint}", file.display())))?;
        }
        if let Some(folder) = self.static_pods.as_ref().filter(|folder| folder.is_dir()) {
            check_pods(folder).map_err(|why| Usage(format!("--static-pods {why}")))?;
        }
        let packages = match &self.lock {
            None => Choice::Today,
            Some(path) if self.verify_lock => Choice::Verified(Lock::read(path)?),
            Some(path) => Choice::Locked(Lock::read(path)?),
        };
        let kubelet = image::kubelet(&self.kubelet, self.kubelet_sha256.as_deref(), &cache)?;
        Ok(ImagePlan {
            machine,
            board: self.board,
            edge: self.edge.unwrap_or_else(|| format!("target/snap/edge-{}", machine.name()).into()),
            kubelet,
            version: self.version,
            config: self.config,
            trust: self.trust,
            authorized_key: self.authorized_key,
            static_pods: self.static_pods,
            bundles: self.image_bundle,
            overlay: self.overlay,
            epoch: self.epoch,
            mirror: self.mirror.as_deref().map(Mirror::at),
            packages,
            tools: self.parts.join("image-tools"),
            cache,
            out: self.out,
        })
    }
}

/// A bar on a terminal; else a line for each step that ends.
struct Steps {
    bar: Option<ProgressBar>,
    now: Option<(String, Instant)>,
}

impl Steps {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(STEPS);
            if let Ok(style) = ProgressStyle::with_template("{msg:40!} {bar:24} {pos}/{len} {elapsed}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { bar, now: None }
    }

    fn begin(&mut self, step: &str) {
        self.told();
        if let Some(bar) = &self.bar {
            bar.set_message(step.to_owned());
        }
        self.now = Some((step.to_owned(), Instant::now()));
    }

    /// The step that was under way is over.
    fn told(&mut self) {
        let Some((step, begun)) = self.now.take() else { return };
        let line = format!("{step}: {:.1} s", begun.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => {
                bar.inc(1);
                bar.suspend(|| say(&line));
            }
            None => say(&line),
        }
    }

    fn end(&mut self) {
        self.told();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Nobody may be listening any more; the work goes on.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
