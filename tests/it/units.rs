//! The systemd units in `config/`: systemd itself reads them, and the order that pods depend on holds.

use std::path::Path;
use std::process::Command;

use crate::command::Place;

fn unit(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)).unwrap()
}

/// The words of all lines `KEY=...`.
fn words(unit: &str, key: &str) -> Vec<String> {
    let values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[test]
fn systemd_reads_the_service() {
    let place = Place::new();
    // Verified with the binary that is here; manual pages are not installed in a build tree.
    let text: String = unit("edge.service")
        .replace("/usr/bin/edge", env!("CARGO_BIN_EXE_edge"))
        .lines()
        .filter(|line| !line.starts_with("Documentation="))
        .map(|line| format!("{line}\n"))
        .collect();
    let path = place.write("edge.service", &text);
    place.write("kubelet.service", "[Service]\nExecStart=/bin/true\n");
    place.write("kubelet.service.d/10-edge.conf", &unit("10-edge.conf"));
    place.write("edge.service.d/20-auto-import.conf", &unit("20-auto-import.conf"));
    place.write(
        "edge.service.d/10-appliance.conf",
        &unit("appliance/usr/lib/systemd/system/edge.service.d/10-appliance.conf"),
    );
    let kubelet = place.path("kubelet.service");
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args([&path, &kubelet])
        .output()
        .expect("systemd-analyze (Debian's package systemd) must be there");
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<_> =
        said.lines().filter(|line| line.contains("edge") || line.contains("kubelet")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}

/// Nothing that hangs may hold back what ends the hanging: the timer waits for no other unit.
#[test]
fn a_boot_that_hangs_is_ended_by_a_timer() {
    let place = Place::new();
    let folder = "appliance/usr/lib/systemd/system/";
    for name in ["edge-fallback.timer", "edge-fallback.service", "efi.mount"] {
        place.write(name, &unit(&format!("{folder}{name}")));
    }
    let verified = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args([place.path("edge-fallback.timer"), place.path("edge-fallback.service")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(!said.contains("edge-fallback"), "{said}");
    let timer = unit(&format!("{folder}edge-fallback.timer"));
    assert_eq!(words(&timer, "DefaultDependencies"), ["no"]);
    assert_eq!(words(&timer, "WantedBy"), ["sysinit.target"]);
    assert!(words(&timer, "After").is_empty() && words(&timer, "OnBootSec") == ["30min"]);
    let preset = unit("appliance/usr/lib/systemd/system-preset/00-appliance.preset");
    assert!(preset.lines().any(|line| line == "enable edge-fallback.timer"));
}

/// systemd's own way is to stop for ever, which only a watchdog device would end.
#[test]
fn a_systemd_that_crashes_restarts_the_machine() {
    let text = unit("appliance/usr/lib/systemd/system.conf.d/10-edge.conf");
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, ["[Manager]", "CrashAction=reboot"]);
}

/// A BREAK on the serial console is what a peer that is switched off sends, and the next byte would be a command.
#[test]
fn a_break_on_the_console_is_no_command_from_the_initrd_on() {
    let settings = unit("appliance/usr/lib/sysctl.d/90-edge.conf");
    let lines: Vec<&str> = settings.lines().collect();
    for line in ["kernel.sysrq = 0", "net.ipv4.conf.default.rp_filter = 2", "-net.ipv4.conf.all.rp_filter"] {
        assert!(lines.contains(&line), "{line}");
    }
    let init = unit("appliance.init");
    let [proc, none, slot] = ["mount -t proc", "echo 0 >/proc/sys/kernel/sysrq", "until look"]
        .map(|part| init.find(part).unwrap());
    assert!(proc < none && none < slot);
}

/// Units of mounts have no check of their own, as lines of fstab do; ext4 goes on with what is damaged.
#[test]
fn file_systems_are_checked_before_they_are_mounted() {
    let folder = "appliance/usr/lib/systemd/system/";
    for (mount, device) in [("var", "dev-mapper-data"), ("efi", "dev-disk-edge-ESP")] {
        let (text, check) =
            (unit(&format!("{folder}{mount}.mount")), format!("systemd-fsck@{device}.service"));
        for key in ["Wants", "After"] {
            assert!(words(&text, key).contains(&check), "{mount}.mount: {key}");
        }
        let what = words(&text, "What").pop().unwrap();
        let output = Command::new("systemd-escape").args(["--path", &what]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), device);
    }
    // What all boots hang on is written while edge writes there, and at no boot or stop.
    for mount in ["efi", "identity"] {
        let options = words(&unit(&format!("{folder}{mount}.mount")), "Options").pop().unwrap();
        assert!(options.starts_with("ro,"), "{mount}.mount: {options}");
    }
    // Not before it is made, and not for longer than what ends a boot that hangs can wait.
    let added = |device: &str| unit(&format!("{folder}systemd-fsck@{device}.service.d/10-appliance.conf"));
    assert_eq!(words(&added("dev-mapper-data"), "After"), ["edge-data.service"]);
    assert_eq!(words(&added("dev-disk-edge-ESP"), "TimeoutSec"), ["60"]);
}

/// Mounts discard nothing by themselves, and `disable *` would leave out what Debian enables.
#[test]
fn a_card_is_told_what_is_free() {
    let preset = unit("appliance/usr/lib/systemd/system-preset/00-appliance.preset");
    let [timer, rest] =
        ["enable fstrim.timer", "disable *"].map(|wanted| preset.lines().position(|line| line == wanted));
    assert!(timer.is_some() && timer < rest, "{preset}");
}

/// Only the owner's key opens a door: without one nothing listens on port 22, and with one no password is asked for.
#[test]
fn the_secure_shell_waits_for_the_owners_key() {
    let place = Place::new();
    let ssh = unit("appliance/usr/lib/systemd/system/edge-ssh.service");
    let conditions: Vec<&str> = ssh.lines().filter(|line| line.starts_with("Condition")).collect();
    assert_eq!(conditions, ["ConditionPathExists=/etc/edge/authorized_keys"]);
    let key = place.path("etc/edge/authorized_keys");
    let condition = conditions[0].replace("/etc/edge/authorized_keys", &key.display().to_string());
    let holds =
        || Command::new("systemd-analyze").args(["condition", &condition]).status().unwrap().success();
    assert!(!holds());
    place.write("etc/edge/authorized_keys", "ssh-ed25519 AAAA owner\n");
    assert!(holds());
    // `-s`: by key alone.
    let words = words(&ssh, "ExecStart");
    assert!(words[0] == "/usr/sbin/dropbear" && words.contains(&"-s".to_owned()), "{words:?}");
    // No other unit starts it, and no other server is there.
    let preset = unit("appliance/usr/lib/systemd/system-preset/00-appliance.preset");
    let doors: Vec<&str> =
        preset.lines().filter(|line| line.contains("ssh") || line.contains("dropbear")).collect();
    assert_eq!(doors, ["enable edge-ssh.service"]);
    let content: toml_edit::DocumentMut = unit("appliance.toml").parse().unwrap();
    let packages: Vec<&str> =
        content["packages"].as_array().unwrap().iter().filter_map(|p| p.as_str()).collect();
    assert!(
        packages.contains(&"dropbear-bin") && !packages.iter().any(|p| p.contains("openssh")),
        "{packages:?}"
    );
}

/// networkd is told of time servers by DHCP, and chrony keeps the time.
#[test]
fn chrony_hears_of_the_time_servers_that_the_network_names() {
    let place = Place::new();
    for name in ["edge-ntp.path", "edge-ntp.service"] {
        place.write(name, &unit(&format!("appliance/usr/lib/systemd/system/{name}")));
    }
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).args([place.path("edge-ntp.path"), place.path("edge-ntp.service")]);
    let said = String::from_utf8_lossy(&verify.output().unwrap().stderr).into_owned();
    assert!(!said.contains("edge-ntp"), "{said}");

    let calls = place.path("calls");
    let chronyc = place.write("bin/chronyc", &format!("#!/bin/sh\necho \"$@\" >> {}\n", calls.display()));
    assert!(Command::new("chmod").arg("755").arg(&chronyc).status().unwrap().success());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/appliance/usr/share/edge/ntp");
    let run = || {
        let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap());
        let done =
            Command::new("sh").arg(&script).arg(place.path("root")).env("PATH", path).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
        let sources = place.path("root/run/chrony-dhcp/networkd.sources");
        (
            std::fs::read_to_string(sources).unwrap_or_default(),
            std::fs::read_to_string(&calls).unwrap_or_default(),
        )
    };
    assert_eq!(run(), (String::new(), String::new()), "nothing is known yet");
    place.write(
        "root/run/systemd/netif/links/2",
        "ADMIN_STATE=configured\nNTP=192.0.2.9 time.test 192.0.2.9\n",
    );
    place.write("root/run/systemd/netif/links/3", "NTP=2001:db8::1 ../x;y -x * a\"b\n");
    let sources = "server 192.0.2.9 iburst\nserver 2001:db8::1 iburst\nserver time.test iburst\n".to_owned();
    let reload = "reload sources\n".to_owned();
    assert_eq!(run(), (sources.clone(), reload.clone()));
    assert_eq!(run(), (sources, reload.clone()), "nothing has changed");
    std::fs::remove_dir_all(place.path("root/run/systemd")).unwrap();
    assert_eq!(run(), (String::new(), reload.repeat(2)));
    // Debian's own configuration of chrony reads that folder, and the image has it.
    let preset = unit("appliance/usr/lib/systemd/system-preset/00-appliance.preset");
    assert!(preset.lines().any(|line| line == "enable edge-ntp.path"));
}

/// systemd takes what a file of the environment says over what the unit does.
#[test]
fn kubelet_has_the_images_configuration_unless_edge_names_another() {
    let kubelet = unit("appliance/usr/lib/systemd/system/kubelet.service");
    let image = "KUBELET_CONFIG=/usr/share/edge/kubelet.yaml";
    assert_eq!(words(&kubelet, "Environment"), [image]);
    assert_eq!(words(&kubelet, "EnvironmentFile"), ["-/run/edge/kubelet.env"]);
    assert!(words(&kubelet, "ExecStart").contains(&"--config=${KUBELET_CONFIG}".to_owned()), "{kubelet}");
}

/// `nft` takes all of a file or nothing: a slip in one of the owner's costs neither edge's own rules nor his others.
#[test]
fn a_wrong_file_of_the_owners_firewall_costs_itself_alone() {
    assert!(!unit("appliance/etc/nftables.conf").contains("include"), "the owner's are no part of it");
    let added = unit("appliance/usr/lib/systemd/system/nftables.service.d/10-appliance.conf");
    for key in ["ExecStartPost", "ExecReload"] {
        assert!(
            added.lines().any(|line| line == format!("{key}=-/bin/sh /usr/share/edge/firewall")),
            "{added}"
        );
    }
    assert!(words(&added, "StandardOutput") == ["journal+console"], "{added}");

    let place = with_nft();
    let told = || place.read("root/run/edge-firewall");
    assert_eq!((firewall(&place, &[]), told()), (String::new(), String::new()), "there are none");
    let folder = "root/var/etc/edge/nftables.d";
    for (name, text) in [("1.nft", "table inet one\n"), ("2.nft", "slip\n"), ("3.nft", "table inet three\n")]
    {
        place.write(&format!("{folder}/{name}"), text);
    }
    let line = "`/etc/edge/nftables.d/2.nft` is not in force: 1:1-4: Error: syntax error, unexpected \\n\n";
    assert_eq!((firewall(&place, &[]), told()), (format!("edge: firewall: {line}"), line.to_owned()));
    assert_eq!(place.read("rules"), "table inet one\ntable inet three\n");
    place.write(&format!("{folder}/2.nft"), "table inet two\n");
    assert_eq!((firewall(&place, &[]), told()), (String::new(), String::new()), "it was mended");
    assert!(place.read("rules").contains("table inet two\n"));
    // One that becomes wrong leaves in force what it brought.
    place.write(&format!("{folder}/2.nft"), "slip\n");
    assert_eq!((firewall(&place, &[]), told()), (format!("edge: firewall: {line}"), line.to_owned()));
    assert!(place.read("rules").contains("table inet two\n"));
}

/// A limit of all together would let anybody on the cable keep the owner out.
#[test]
fn who_opens_many_connections_to_ssh_uses_up_a_limit_of_their_own() {
    let rules = unit("appliance/etc/nftables.conf");
    let limits: Vec<&str> =
        rules.lines().map(str::trim).filter(|line| line.contains(" limit rate ")).collect();
    assert_eq!(limits.len(), 2, "{limits:?}");
    for (line, set) in limits.iter().zip(["@ssh { ip saddr ", "@ssh6 { ip6 saddr & ffff:ffff:ffff:ffff:: "]) {
        assert!(line.contains(&format!("update {set}limit rate over ")), "{line}");
    }
}

/// What `nft` says goes by the file `rules`: all of a file or nothing, added to what is there.
fn with_nft() -> Place {
    let place = Place::new();
    let script = r#"#!/bin/sh
rules=@RULES@
[ -e $rules ] || : >$rules
[ "$1" = list ] && { grep ^table $rules; exit 0; }
take() {
    while read -r line; do
        case $line in
        'include "'*) line=${line#include \"} && take "${line%\"}" || return 1 ;;
        'delete table '*) grep -vF "${line#delete table }" $rules.new >$rules.old; mv $rules.old $rules.new ;;
        'table '*) grep -qxF "$line" $rules.new || echo "$line" >>$rules.new ;;
        'add rule '*) echo "$line" >>$rules.new ;;
        *) printf '%s:1:1-4: Error: syntax error, unexpected \\n\n%s\n^^^^\n' "$1" "$line" >&2; return 1 ;;
        esac
    done <"$1"
}
file=$2
[ "$file" != - ] || { cat >$rules.in; file=$rules.in; }
cp $rules $rules.new
said=$(take "$file" 2>&1) && mv $rules.new $rules && exit
[ "$2" != - ] || echo 'In file included from /dev/stdin:3:1-45:' >&2
printf '%s\n' "$said" >&2
exit 1
"#;
    let script = script.replace("@RULES@", &place.path("rules").display().to_string());
    let nft = place.write("bin/nft", &script);
    assert!(Command::new("chmod").arg("755").arg(&nft).status().unwrap().success());
    std::fs::create_dir_all(place.path("root/run")).unwrap();
    place
}

/// What the script of the firewall says on the console.
fn firewall(place: &Place, more: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/appliance/usr/share/edge/firewall");
    let path = format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.arg(&script).arg(place.path("root")).args(more).env("PATH", path);
    let done = command.output().unwrap();
    assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// `nft` adds to what is there, and what is there is not the owner's alone: pods' ports are in the same kernel.
#[test]
fn a_reload_of_the_firewall_replaces_the_owners_rules_and_a_stop_takes_no_others() {
    let added = unit("appliance/usr/lib/systemd/system/nftables.service.d/10-appliance.conf");
    let stop: Vec<&str> = added.lines().filter(|line| line.starts_with("ExecStop=")).collect();
    assert_eq!(stop, ["ExecStop=", "ExecStop=-/bin/sh /usr/share/edge/firewall \"\" stop"]);

    let place = with_nft();
    place.write("rules", "table inet edge\nadd rule inet edge mine\n");
    let folder = "root/var/etc/edge/nftables.d";
    place.write(&format!("{folder}/1.nft"), "table inet own\nadd rule inet own accept\n");
    // Before there are pods: what they and the owner share is not the owner's.
    place.write(&format!("{folder}/2.nft"), "table ip nat\nadd rule ip nat owners\n");
    assert_eq!(firewall(&place, &[]), "");
    let pods = "add rule ip nat CNI-HOSTPORT-DNAT\n";
    place.write("rules", &(place.read("rules") + pods));
    for _ in 0..2 {
        assert_eq!(firewall(&place, &[]), "");
        assert_eq!(place.read("rules").matches("own accept").count(), 1);
    }
    place.write(&format!("{folder}/1.nft"), "table inet own\nadd rule inet own drop\n");
    assert_eq!(firewall(&place, &[]), "");
    let now = place.read("rules");
    assert!(now.contains("own drop") && !now.contains("own accept"), "{now}");
    std::fs::remove_file(place.path(&format!("{folder}/1.nft"))).unwrap();
    place.write(&format!("{folder}/3.nft"), "table inet more\n");
    assert_eq!(firewall(&place, &[]), "");
    let now = place.read("rules");
    assert!(!now.contains("inet own") && now.contains("inet edge mine") && now.contains(pods), "{now}");
    // Two files add to one table: a slip in the second one takes nothing of it.
    place.write(&format!("{folder}/4.nft"), "table inet both\nadd rule inet both four\n");
    place.write(&format!("{folder}/5.nft"), "table inet both\nadd rule inet both five\n");
    assert_eq!(firewall(&place, &[]), "");
    place.write(&format!("{folder}/5.nft"), "table inet both\nslip\n");
    assert!(firewall(&place, &[]).contains("5.nft` is not in force"));
    let now = place.read("rules");
    assert!(now.contains("both four") && now.contains("both five"), "{now}");
    for file in ["4.nft", "5.nft"] {
        std::fs::remove_file(place.path(&format!("{folder}/{file}"))).unwrap();
    }
    assert_eq!(firewall(&place, &[]), "");
    assert!(!place.read("rules").contains("both"), "both are gone");
    assert_eq!(firewall(&place, &["stop"]), "");
    let now = place.read("rules");
    assert!(now.contains(pods) && !now.contains("inet edge") && !now.contains("inet more"), "{now}");
}

/// `ProtectClock=` allows a device, which closes all that are not allowed: sticks and slots are block devices.
#[test]
fn where_edge_mounts_and_writes_disks_it_may_open_them() {
    assert_eq!(words(&unit("edge.service"), "ProtectClock"), ["yes"]);
    for name in ["20-auto-import.conf", "appliance/usr/lib/systemd/system/edge.service.d/10-appliance.conf"] {
        let lines: Vec<String> = unit(name).lines().map(str::to_owned).collect();
        assert!(lines.contains(&"DeviceAllow=block-* rw".to_owned()), "{name}");
    }
}

#[test]
fn edge_is_ready_before_kubelet_and_waits_for_no_network() {
    let service = unit("edge.service");
    assert!(words(&service, "Before").contains(&"kubelet.service".to_owned()));
    assert!(words(&service, "After").contains(&"containerd.service".to_owned()));
    // Only a notifying service holds back those that come after it until it listens.
    assert_eq!(words(&service, "Type"), ["notify"]);
    assert_eq!(words(&service, "Restart"), ["always"]);
    for key in ["After", "Wants", "Requires", "Requisite", "BindsTo"] {
        let waits = words(&service, key).into_iter().find(|word| word.starts_with("network"));
        assert_eq!(waits, None, "a gateway that boots during an outage has no network");
    }
    let kubelet = unit("10-edge.conf");
    for key in ["After", "Wants"] {
        assert_eq!(words(&kubelet, key), ["edge.service"], "{key}");
    }
}

#[test]
fn connections_of_pods_do_not_use_up_the_descriptors() {
    let files: Vec<u32> =
        words(&unit("edge.service"), "LimitNOFILE").iter().map(|n| n.parse().unwrap()).collect();
    // What pods may have at once, and as many to the cloud, leave most to kubelet, the registry and the store.
    assert!(matches!(files[..], [n] if n >= 16 * 2 * 1024), "{files:?}");
}

/// What the figures for memory are measured with is what a gateway runs with, however edge came to it.
#[test]
fn the_unit_and_the_snap_set_the_same_environment() {
    let snap =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("snap/snapcraft.yaml")).unwrap();
    let snap: serde_json::Value = serde_saphyr::from_str(&snap).unwrap();
    let set = snap["environment"].as_object().unwrap();
    let mut snap: Vec<String> =
        set.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap())).collect();
    let mut unit = words(&unit("edge.service"), "Environment");
    snap.sort();
    unit.sort();
    assert_eq!(snap, unit);
}
