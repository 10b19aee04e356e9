//! What a worn card damages of a file system is mended at the next boot, where it can be.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::image::made;
use crate::support::vm;

/// The initrd's own program, on the identity partition of the image: neither slot boots without it.
#[test]
fn a_damaged_identity_is_mended_by_the_initrd() -> Result<()> {
    let (workshop, _) = made();
    let place = workshop.place.path("mended");
    std::fs::create_dir_all(place.join("initrd"))?;
    for name in ["edge.img", "edge.img.system/edge.efi"] {
        let to = place.join(name.rsplit('/').next().unwrap_or_default());
        std::fs::hard_link(workshop.place.path(name), to)?;
    }
    let run = |command: &mut Command| -> Result<(Option<i32>, String)> {
        let output = command.output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    };
    let unpack = r#"cd /work
objcopy -O binary --only-section=.initrd edge.efi initrd.zst
objcopy -O binary --only-section=.cmdline edge.efi cmdline
zstd -dqc initrd.zst >initrd.cpio || [ -s initrd.cpio ]
set -- $(sfdisk -d edge.img | sed -n 's/.*start= *\([0-9]*\), size= *\([0-9]*\),.*name="identity".*/\1 \2/p')
dd if=edge.img of=initrd/identity.img skip=$1 count=$2 status=none
echo 0123456789abcdef0123456789abcdef >machine-id
debugfs -w -R "write machine-id machine-id" initrd/identity.img
size=$(dumpe2fs -h initrd/identity.img | sed -n 's/^Block size: *//p')
set -- $(debugfs -R 'blocks <8>' initrd/identity.img)
dd if=/dev/urandom of=initrd/identity.img bs=$size seek=$1 count=1 conv=notrunc status=none
"#;
    let (code, said) = run(&mut vm::tool(&place, &["bash", "-ec", unpack])?)?;
    ensure!(code == Some(0), "{said}");
    let words = std::fs::read_to_string(place.join("cmdline"))?;
    // For the others systemd asks for it.
    assert!(words.split_ascii_whitespace().any(|word| word == "fsck.repair=yes"), "{words}");
    let initrd = place.join("initrd");
    let text = "cd \"$1\" && busybox cpio -idm <../initrd.cpio";
    let (code, said) = run(Command::new("sh").args(["-ec", text, "sh"]).arg(&initrd))?;
    ensure!(code == Some(0), "{said}");
    let script = std::fs::read_to_string(initrd.join("init"))?;
    let (before, _) = script.split_once("mount -t ext4 \"$(part identity)\"").context("no identity")?;
    assert!(before.contains("e2fsck -y \"$(part identity)\""), "{before}");
    let mend = |code: i32| -> Result<()> {
        let mut command = Command::new("chroot");
        command.arg(&initrd).args(["/bin/e2fsck", "-y", "/identity.img"]).env("PATH", "/usr/sbin:/usr/bin");
        let (ended, said) = run(&mut command)?;
        ensure!(ended == Some(code), "{ended:?}: {said}");
        Ok(())
    };
    // Without its journal, it does not mount.
    mend(1).context("damaged")?;
    mend(0).context("mended")?;
    let look = ["debugfs", "-R", "cat machine-id", "/work/initrd/identity.img"];
    let (_, said) = run(&mut vm::tool(&place, &look)?)?;
    assert!(said.contains("0123456789abcdef0123456789abcdef"), "{said}");
    // What tells the kernel that a sector which cannot be read is rot has its libraries there too.
    let mut version = Command::new("chroot");
    version.arg(&initrd).args(["/bin/dmsetup", "version"]).env("PATH", "/usr/sbin:/usr/bin");
    let (_, said) = run(&mut version)?;
    assert!(said.contains("Library version:"), "{said}");
    Ok(())
}
