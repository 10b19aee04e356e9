//! A virtual machine that boots an appliance image: real firmware, a real disk that outlives a killed machine, its serial
//! console as text, and SSH by the key that the image was built with. There is no other way in, as on a gateway.
//!
//! QEMU is of the tree that `scripts/parts.d/image-tools` makes. It emulates, so that figures and races are the same on
//! any host; `EDGE_VM_ACCEL=kvm` is quicker where there is KVM.
//!
//! A machine may be slow, and slower still beside others: what is waited for has all the time it wants as long as the
//! console goes on.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::{parts, power};

/// The folder of the tests as programs of the tree see it, and what it takes to get there.
const ENTER: &str = r#"root=$1 place=$2; shift 2
mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"; mount -t tmpfs tmpfs "$root/tmp"; mount -t tmpfs tmpfs "$root/run"
mkdir -p "$root/work"; mount --bind "$place" "$root/work"
exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8 MTOOLS_SKIP_CHECK=1 "$@""#;

/// The kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arch {
    Amd64,
    Arm64,
}

/// What the machine's network card is plugged into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// No card at all.
    None,
    /// A card, an address, and nobody else there: only the tests reach in.
    Lonely,
    /// The same in the network of another process, whose neighbours it reaches.
    Beside(i32),
}

/// What the machine's disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Built in.
    Virtio,
    /// Plugged in: the machine starts from USB.
    Usb,
    /// Built in, with a cache that a power cut empties: see [`Vm::cut`].
    Cached,
    /// Built in, with a sector that cannot be read, by its number.
    Worn(u64),
}

/// Two at a time would each be half as quick, and run into what the other's tests allow it.
static ONE: Mutex<()> = Mutex::new(());

/// One machine: its disk, its firmware's variables and its log lie in `place`.
pub struct Vm {
    arch: Arch,
    place: PathBuf,
    cable: Cable,
    /// What it starts from.
    pub kind: Disk,
    port: u16,
    child: Option<Child>,
    /// Where in the log this start begins.
    mark: u64,
    begun: Instant,
    /// More of QEMU's arguments, such as a stick.
    pub more: Vec<String>,
    /// Memory in MiB.
    pub memory: u32,
    /// That it is the only one.
    _one: MutexGuard<'static, ()>,
}

/// Runs a program of the tree, which sees `place` as `/work`.
pub fn tool(place: &Path, arguments: &[&str]) -> Result<Command> {
    let tree = parts::program("image-tools")?;
    ensure!(Path::new(&tree).join("usr/bin/qemu-img").exists(), "no QEMU hint: run scripts/parts as root");
    let tree = fs::canonicalize(tree)?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", ENTER, "sh"]).arg(tree).arg(place);
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

impl Vm {
    /// A machine whose disk begins as a copy of `image`, and is of `size` GiB. The file `key` in `place` is the private key
    /// whose other half the image knows.
    pub fn new(arch: Arch, place: &Path, image: &Path, size: u32, cable: Cable) -> Result<Self> {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(place)?;
        let place = place.canonicalize()?;
        let disk = place.join("disk.img");
        // Sparse on both sides.
        let copied =
            Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(image).arg(&disk).status()?;
        ensure!(copied.success(), "cannot copy `{}`", image.display());
        File::options().write(true).open(&disk)?.set_len(u64::from(size) << 30)?;
        let vars = match arch {
            Arch::Amd64 => "usr/share/OVMF/OVMF_VARS_4M.fd",
            Arch::Arm64 => "usr/share/AAVMF/AAVMF_VARS.fd",
        };
        let tree = PathBuf::from(parts::program("image-tools")?);
        fs::copy(tree.join(vars), place.join("vars.fd")).with_context(|| format!("no `{vars}`"))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (more, memory) = (Vec::new(), 2048);
        let vm = Self {
            arch,
            place,
            cable,
            kind: Disk::Virtio,
            port,
            child: None,
            mark: 0,
            begun: Instant::now(),
            more,
            memory,
            _one: one,
        };
        Ok(vm)
    }

    /// The disk, for whoever spoils it while the machine is off.
    pub fn disk(&self) -> PathBuf {
        self.place.join("disk.img")
    }

    /// A program of the tree, in the network that the machine is in.
    fn tool(&self, arguments: &[&str]) -> Result<Command> {
        let command = tool(&self.place, arguments)?;
        let Cable::Beside(process) = self.cable else { return Ok(command) };
        let mut there = Command::new("nsenter");
        there.args(["-t", &process.to_string(), "-n", "--"]).arg(command.get_program());
        there.args(command.get_args()).stdin(Stdio::null());
        Ok(there)
    }

    /// The disk as QEMU is told of it.
    fn backend(&self) -> Result<String> {
        if let Disk::Worn(sector) = self.kind {
            return Ok(format!(
                "node-name=disk,driver=raw,discard=unmap,file.driver=blkdebug,\
                 file.image.driver=file,file.image.filename=/work/disk.img,\
                 file.inject-error.0.event=read_aio,file.inject-error.0.iotype=read,\
                 file.inject-error.0.errno=5,file.inject-error.0.sector={sector}"
            ));
        }
        if self.kind != Disk::Cached {
            return Ok(
                "node-name=disk,driver=raw,discard=unmap,file.driver=file,file.filename=/work/disk.img"
                    .into(),
            );
        }
        power::prepare(&self.place)?;
        Ok("node-name=disk,driver=blklogwrites,discard=unmap,file.driver=qcow2,file.file.driver=file,\
            file.file.filename=/work/cache.qcow2,log.driver=file,log.filename=/work/writes"
            .into())
    }

    /// Switches it on.
    pub fn start(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "it runs already");
        let log = self.place.join("serial.log");
        self.mark = fs::metadata(&log).map_or(0, |data| data.len());
        self.begun = Instant::now();
        let accel = std::env::var("EDGE_VM_ACCEL").unwrap_or_else(|_| "tcg".into());
        let (program, firmware, machine) = match self.arch {
            Arch::Amd64 => ("qemu-system-x86_64", "/usr/share/OVMF/OVMF_CODE_4M.fd", "q35,smm=off"),
            Arch::Arm64 => {
                ("qemu-system-aarch64", "/usr/share/AAVMF/AAVMF_CODE.no-secboot.fd", "virt,gic-version=3")
            }
        };
        let cpu = match self.arch {
            // Where the host is itself a guest, KVM may not take this one.
            Arch::Amd64 => "max,arch-capabilities=off",
            Arch::Arm64 => "max,pauth-impdef=on",
        };
        let mut all: Vec<String> =
            [program, "-M", machine, "-cpu", cpu, "-accel", &accel].into_iter().map(String::from).collect();
        let memory = self.memory.to_string();
        all.extend(
            ["-smp", "2", "-m", &memory, "-display", "none", "-nodefaults", "-no-user-config"]
                .map(String::from),
        );
        for drive in [
            format!("if=pflash,format=raw,readonly=on,file={firmware}"),
            "if=pflash,format=raw,file=/work/vars.fd".into(),
        ] {
            all.extend(["-drive".into(), drive]);
        }
        all.extend(["-blockdev".into(), self.backend()?]);
        let is_usb = self.kind == Disk::Usb;
        // Firmware looks for disks behind it, which takes its time.
        if is_usb || self.more.iter().any(|word| word.contains("usb-storage")) {
            // In a slot of its own: firmware starts its shell before a disk that has moved since it was last on.
            all.extend(["-device", "qemu-xhci,id=usb,addr=0x10"].map(String::from));
        }
        let disk = if is_usb {
            "usb-storage,drive=disk,bus=usb.0,removable=on"
        } else {
            "virtio-blk-pci,drive=disk"
        };
        all.extend(["-device", disk, "-device", "virtio-rng-pci"].map(String::from));
        match self.cable {
            Cable::None => all.extend(["-nic".into(), "none".into()]),
            Cable::Lonely | Cable::Beside(_) => {
                let restrict = if self.cable == Cable::Lonely { "on" } else { "off" };
                let net = format!("user,id=net,restrict={restrict},hostfwd=tcp:127.0.0.1:{}-:22", self.port);
                all.extend([
                    "-netdev".into(),
                    net,
                    "-device".into(),
                    "virtio-net-pci,netdev=net,romfile=".into(),
                ]);
            }
        }
        all.extend(
            ["-chardev", "file,id=log,append=on,path=/work/serial.log", "-serial", "chardev:log"]
                .map(String::from),
        );
        all.extend(self.more.iter().cloned());
        let arguments: Vec<&str> = all.iter().map(String::as_str).collect();
        let said = File::create(self.place.join("qemu.log"))?;
        let mut command = self.tool(&arguments)?;
        command.stdout(said.try_clone()?).stderr(said).process_group(0);
        self.child = Some(command.spawn().context("cannot run `unshare`")?);
        Ok(())
    }

    /// What the console showed since it was switched on, or since [`Vm::again`].
    pub fn console(&self) -> Result<String> {
        let bytes = fs::read(self.place.join("serial.log")).unwrap_or_default();
        let from = usize::try_from(self.mark)?.min(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[from..]).into_owned())
    }

    /// Forgets what the console showed: for a machine that restarts by itself.
    pub fn again(&mut self) -> Result<()> {
        self.mark = fs::metadata(self.place.join("serial.log"))?.len();
        self.begun = Instant::now();
        Ok(())
    }

    /// Waits until the console shows `text`; how long after the start it was seen. The limit is of the time in which the
    /// console shows nothing new, and four of it of all.
    pub fn wait(&mut self, text: &str, limit: Duration) -> Result<Duration> {
        let end = Instant::now() + 4 * limit;
        let (mut until, mut length) = (Instant::now() + limit, 0);
        loop {
            let console = self.console()?;
            if console.contains(text) {
                return Ok(self.begun.elapsed());
            }
            if console.len() != length {
                (until, length) = (end.min(Instant::now() + limit), console.len());
            }
            if let Some(status) = self.child.as_mut().context("it is off")?.try_wait()? {
                let said = fs::read_to_string(self.place.join("qemu.log")).unwrap_or_default();
                bail!("QEMU ended with {status}: {said}\n{}", self.end());
            }
            if Instant::now() > until {
                bail!("the console did not show `{text}` within {limit:?}:\n{}", self.end());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn end(&self) -> String {
        let console = self.console().unwrap_or_default();
        let lines: Vec<&str> = console.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Runs a command of the machine's shell as root; what it wrote to standard output. Waits for the machine to let one in.
    pub fn run(&mut self, text: &str) -> Result<String> {
        // Beside other tests an emulated machine took three minutes to let anybody in.
        let output = self.try_run(text, Duration::from_secs(600))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{text}` ended with {}: {said}\n{}", output.status, self.end());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same, whatever the command's end is.
    pub fn try_run(&mut self, text: &str, limit: Duration) -> Result<Output> {
        let until = Instant::now() + limit;
        let port = self.port.to_string();
        loop {
            let output = self
                .tool(&[
                    "ssh",
                    "-i",
                    "/work/key",
                    "-p",
                    &port,
                    "-oBatchMode=yes",
                    "-oStrictHostKeyChecking=no",
                    "-oUserKnownHostsFile=/dev/null",
                    "-oLogLevel=ERROR",
                    "-oConnectTimeout=30",
                    // A machine that was cut off says nothing any more.
                    "-oServerAliveInterval=60",
                    "root@127.0.0.1",
                    text,
                ])?
                .output()?;
            // 255: ssh itself did not come through.
            if output.status.code() != Some(255) {
                return Ok(output);
            }
            if let Some(status) = self.child.as_mut().context("it is off")?.try_wait()? {
                bail!("QEMU ended with {status}\n{}", self.end());
            }
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(Instant::now() < until, "nobody let in by SSH within {limit:?}: {said}\n{}", self.end());
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Waits until it has switched itself off.
    pub fn wait_off(&mut self, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        let mut child = self.child.take().context("it is off")?;
        while child.try_wait()?.is_none() {
            if Instant::now() > until {
                child.kill()?;
                child.wait()?;
                bail!("it did not switch itself off within {limit:?}:\n{}", self.end());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Pulls the plug.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Pulls the plug of a machine whose disk is [`Disk::Cached`]: of what it wrote after its last flush, nothing is on the
    /// medium, or with `scattered` some of it, as that number falls.
    pub fn cut(&mut self, scattered: Option<u64>) -> Result<power::Lost> {
        ensure!(self.kind == Disk::Cached, "this machine's disk has no cache");
        // Not in a moment in which the record says less than the disk was told: those are QEMU's, and no disk's.
        for _ in 0..500 {
            self.signal(Signal::SIGSTOP)?;
            std::thread::sleep(Duration::from_millis(20));
            if power::is_whole(&self.place)? {
                self.kill()?;
                return power::lose(&self.place, scattered);
            }
            self.signal(Signal::SIGCONT)?;
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("QEMU's record has gaps for ten seconds");
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("it is off")?;
        Ok(killpg(Pid::from_raw(child.id().try_into()?), signal)?)
    }

    /// Bytes that a machine whose disk is [`Disk::Cached`] wrote since it was switched on.
    pub fn written(&self) -> Result<u64> {
        power::written(&self.place)
    }

    /// Makes the key pair of this machine's owner in `place`; the path of the public half.
    pub fn key(place: &Path) -> Result<PathBuf> {
        fs::create_dir_all(place)?;
        let arguments = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "owner", "-f", "/work/key"];
        let output = tool(&place.canonicalize()?, &arguments)?.output()?;
        ensure!(output.status.success(), "ssh-keygen: {}", String::from_utf8_lossy(&output.stderr));
        Ok(place.join("key.pub"))
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
