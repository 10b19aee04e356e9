//! An appliance with a TPM and a watchdog, as QEMU and swtpm emulate them. A real boot, and a second one that the watchdog
//! asks for; long, and of `scripts/test --long`.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::image::{BOOT, HEALTHY, made};
use crate::support::vm::Cable;

/// A TPM of software; gone when dropped.
struct Tpm(Child);

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "boots a machine of its own"]
fn a_tpm_keeps_the_key_and_a_watchdog_restarts_what_hangs() -> Result<()> {
    let (workshop, image) = made();
    let mut machine = workshop.machine("devices", image, Cable::Lonely)?;
    let place = machine.disk().parent().context("no folder")?.to_owned();
    std::fs::create_dir_all(place.join("tpm"))?;
    let started = Command::new("swtpm")
        .args(["socket", "--tpm2", "--tpmstate"])
        .arg(format!("dir={}", place.join("tpm").display()))
        .args(["--ctrl", &format!("type=unixio,path={}", place.join("tpm.ctrl").display())])
        .stdout(Stdio::null())
        .spawn();
    let mut tpm = Tpm(started.context("cannot run `swtpm` hint: run scripts/parts as root")?);
    while !place.join("tpm.ctrl").exists() {
        ensure!(tpm.0.try_wait()?.is_none(), "swtpm ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    machine.more = [
        "-chardev",
        "socket,id=tpm,path=/work/tpm.ctrl",
        "-tpmdev",
        "emulator,id=tpm,chardev=tpm",
        "-device",
        "tpm-crb,tpmdev=tpm",
        "-device",
        "i6300esb",
        "-action",
        "watchdog=reset",
    ]
    .map(String::from)
    .to_vec();
    machine.start()?;
    machine.wait(HEALTHY, BOOT)?;
    let told = machine.run("ls /identity; cat /sys/class/watchdog/watchdog0/{identity,state,timeout}")?;
    assert!(told.contains("data.key.tpm\n") && !told.contains("data.key\n"), "{told}");
    assert!(told.ends_with("i6300ESB timer\nactive\n30\n"), "{told}");
    machine.run("touch /var/lib/edge/kept; sync")?;
    // systemd catches its own death and does nothing any more: nobody tells the watchdog that all is well.
    machine.again()?;
    machine.run("(sleep 1; kill -SEGV 1) >/dev/null 2>&1 &")?;
    machine.wait(HEALTHY, BOOT)?;
    machine.run("test -e /var/lib/edge/kept")?;
    Ok(())
}
