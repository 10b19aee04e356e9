//! An appliance gives its data up: by hand, and by a stick where nobody can log in any more. Real boots; long, and of
//! `scripts/test --long`.

use anyhow::{Context, Result, ensure};

use crate::image::{BOOT, HEALTHY, NETWORK, made};
use crate::image_update::reboot;
use crate::support::vm::{self, Cable};

/// A reset gives all up but who the machine is, and takes the first boot's configuration again.
#[test]
#[ignore = "boots a machine of its own"]
fn a_reset_leaves_who_the_machine_is_and_nothing_else() -> Result<()> {
    let (workshop, image) = made();
    let mut machine = workshop.machine("reset", image, Cable::Lonely)?;
    machine.start()?;
    machine.wait("edge: slot a is good", BOOT)?;
    let identity = machine.run("cat /etc/machine-id")?;
    machine.run("touch /var/lib/edge/kept && edge system reset --yes")?;
    reboot(&mut machine)?;
    machine.wait("edge: factory reset", BOOT)?;
    machine.wait("edge: slot a is good", BOOT)?;
    let told = machine.run("cat /etc/machine-id; test -e /var/lib/edge/kept || echo gone")?;
    assert_eq!(told, format!("{identity}gone\n"));
    // Its image is in the bundle that came with the machine's own.
    machine.wait("GREETING from greeter", BOOT)?;
    Ok(())
}

/// A header that is damaged: nothing is formatted until the owner's stick says so. Then the machine is as new, and the same.
#[test]
#[ignore = "boots a machine of its own"]
fn data_that_does_not_open_is_given_up_by_a_stick() -> Result<()> {
    let (workshop, image) = made();
    let mut machine = workshop.machine("reset-stick", image, Cable::Lonely)?;
    let place = machine.disk().parent().context("no folder")?.to_owned();
    std::fs::create_dir_all(place.join("edge-config"))?;
    std::fs::write(place.join("edge-config/factory-reset"), "")?;
    // The same stick has a configuration: a first boot takes it, before that of the image, and no later one does.
    std::fs::create_dir_all(place.join("edge-config/network"))?;
    std::fs::write(place.join("edge-config/network/10-lan.network"), NETWORK)?;
    std::fs::write(place.join("edge-config/edge.toml"), "[bundle]\ngateway = \"ship-8\"\n")?;
    let make = "truncate -s 64M /work/reset.img && mkfs.vfat -F 32 /work/reset.img >/dev/null && mcopy -s -i /work/reset.img /work/edge-config ::";
    let output = vm::tool(&place, &["sh", "-ec", make])?.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stick = [
        "-blockdev",
        "node-name=stick,driver=raw,file.driver=file,file.filename=/work/reset.img",
        "-device",
        "usb-storage,drive=stick,bus=usb.0,removable=on",
    ];
    // A stick that is forgotten in a healthy machine resets nothing.
    machine.more = stick.map(String::from).to_vec();
    machine.start()?;
    machine.wait("configuration taken from stick `/dev/sda`: edge.toml, network/10-lan.network", BOOT)?;
    machine.wait("configuration taken from the image: 1.root.json, authorized_keys, ", BOOT)?;
    machine.wait(HEALTHY, BOOT)?;
    let told = machine.run("cat /etc/edge/edge.toml; ls /etc/systemd/network")?;
    assert_eq!(told, "[bundle]\ngateway = \"ship-8\"\n10-lan.network\n");
    let identity = machine.run("cat /etc/machine-id; touch /var/lib/edge/kept; sync")?;
    // What the kernel notes of a damaged file system is looked at in the next boot, whose check goes over all of it.
    machine.run(
        "echo test >\"/sys/fs/ext4/$(basename \"$(readlink -f /dev/mapper/data)\")/trigger_fs_error\"; sync",
    )?;
    machine.kill()?;
    machine.start()?;
    machine.wait("stick `/dev/sda`: `edge-config` is ignored, this machine has its configuration", BOOT)?;
    machine.wait(HEALTHY, BOOT)?;
    let told = machine.run(
        "test -e /var/lib/edge/kept; journalctl -b -o cat --no-pager -u systemd-fsck@dev-mapper-data.service",
    )?;
    // One that is whole is `clean` once its journal is read.
    assert!(told.contains("Pass 5: ") && !told.contains("data: clean"), "{told}");

    machine.run("dd if=/dev/zero of=/dev/disk/edge/data bs=1M count=16 conv=fsync status=none")?;
    machine.kill()?;
    machine.more.clear();
    machine.start()?;
    machine.wait("the data partition cannot be opened: ", BOOT)?;
    machine.wait("this system did not come up", BOOT)?;
    machine.kill()?;
    machine.more = stick.map(String::from).to_vec();
    machine.start()?;
    machine.wait("edge: factory reset", BOOT)?;
    machine.wait(HEALTHY, BOOT)?;
    let told = machine.run("cat /etc/machine-id; test -e /var/lib/edge/kept || echo gone")?;
    assert_eq!(told, format!("{identity}gone\n"));
    machine.wait("GREETING from greeter", BOOT)?;
    Ok(())
}
