//! What an appliance's kubelet is started with, beside its cloud: the DNS of its pods, and its owner's settings.

use std::os::unix::fs::symlink;

use crate::bundle_disk::run;
use crate::command::Done;
use crate::support::parts;
use crate::system::Machine;
use crate::system_join::kubeconfigs;
use crate::system_provision::provision;

/// It is kept, and holds at each boot, whether the cloud is there or not.
#[test]
fn pods_ask_the_dns_that_the_cloud_named() {
    let machine = Machine::new();
    let [certificate, _] = kubeconfigs(&machine);
    machine.place.write("machine/efi/edge-config/cloud.kubeconfig", &certificate);
    let image = include_str!("../../config/appliance/usr/share/edge/kubelet.yaml");
    machine.place.write("machine/usr/share/edge/kubelet.yaml", image);
    let dns = |servers: &str| {
        let text = format!("{{\"servers\": [\"{servers}\"], \"domain\": \"cluster.local\"}}\n");
        machine.place.write("state/cluster-dns.json", &text);
    };
    let environment = || std::fs::read_to_string(machine.root("run/edge/kubelet.env")).unwrap();
    provision(&machine);
    assert!(environment().starts_with("KUBELET_ARGS=--kubeconfig="), "the cloud has not said it yet");
    dns("10.96.0.10");
    assert_eq!(provision(&machine), "");
    let told = machine.root("run/edge/kubelet.yaml");
    let first = format!("KUBELET_CONFIG={}\nKUBELET_ARGS=--kubeconfig=", told.display());
    assert!(environment().starts_with(&first), "{}", environment());
    let read =
        || -> serde_json::Value { serde_json::from_str(&std::fs::read_to_string(&told).unwrap()).unwrap() };
    assert_eq!(
        (&read()["clusterDNS"], &read()["clusterDomain"]),
        (&serde_json::json!(["10.96.0.10"]), &"cluster.local".into())
    );
    assert_eq!(read()["staticPodPath"], "/var/lib/kubelet/static-pods", "the rest is the image's");
    // An image that names one has its owner's word.
    machine
        .place
        .write("machine/usr/share/edge/kubelet.yaml", &format!("{image}clusterDNS: [169.254.20.10]\n"));
    provision(&machine);
    assert_eq!(read()["clusterDNS"], serde_json::json!(["169.254.20.10"]));
    // What is damaged is told, and asked for anew.
    machine.place.write("state/cluster-dns.json", "half");
    let said = provision(&machine);
    assert!(
        said.starts_with("edge: pods find no names of the cluster until the cloud answers: cannot read `"),
        "{said}"
    );
    assert!(environment().starts_with("KUBELET_ARGS=--kubeconfig="), "{}", environment());
    dns("10.96.0.10");

    // Who leaves the cloud has left its DNS.
    machine.place.write("machine/bin/systemctl", "#!/bin/sh\n");
    run("chmod", &["755", &machine.root("bin/systemctl").display().to_string()]);
    let mut leave = machine.edge(&["leave"]);
    leave.env("EDGE_CONFIG", machine.root("var/etc/edge/edge.toml"));
    Done::of(leave.output().unwrap()).good();
    assert!(!machine.place.path("state/cluster-dns.json").exists());
    assert_eq!(environment(), "KUBELET_ARGS=\n");
}

/// Each file for itself: kubelet takes all of a folder, or does not start.
#[test]
fn kubelet_takes_the_owners_settings_where_it_can() {
    let machine = Machine::new();
    let kubelet = |version: &str| {
        let script = format!("#!/bin/sh\n[ $1 = --version ] && echo Kubernetes v{version}\n");
        machine.place.write("machine/usr/bin/kubelet", &script);
        run("chmod", &["755", &machine.root("usr/bin/kubelet").display().to_string()]);
    };
    let environment = || std::fs::read_to_string(machine.root("run/edge/kubelet.env")).unwrap();
    let own = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 40\n";
    kubelet("1.36.3");
    machine.place.write("machine/efi/edge-config/edge.toml", "offline-mode = true\n");
    machine.place.write("machine/efi/edge-config/kubelet.d/10-pods.conf", own);
    machine.place.write("machine/efi/edge-config/kubelet.d/20-wrong.conf", "maxPods: 40\n");
    let said = provision(&machine);
    let line =
        "`kubelet.d/20-wrong.conf` on the EFI system partition is not taken: it is no KubeletConfiguration";
    assert!(said.contains(line), "{said}");
    let folder = machine.root("run/edge/kubelet.d");
    assert_eq!(environment(), format!("KUBELET_ARGS=--config-dir={}\n", folder.display()));
    let held = || {
        let mut names: Vec<_> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|one| one.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    assert_eq!(held(), ["10-pods.conf"]);
    assert_eq!(std::fs::read_to_string(folder.join("10-pods.conf")).unwrap(), own);
    // Laid there by hand later.
    machine.place.write("machine/var/etc/edge/kubelet.d/30-more.conf", own);
    machine.place.write("machine/var/etc/edge/kubelet.d/40-half.conf", "kind: [");
    machine.place.write("machine/var/etc/edge/kubelet.d/notes.txt", "mine");
    let said = provision(&machine);
    assert!(
        said.contains("edge: `/etc/edge/kubelet.d/40-half.conf` is not in force: it is no YAML: "),
        "{said}"
    );
    assert_eq!(held(), ["10-pods.conf", "30-more.conf"]);

    // What only kubelet itself knows to be wrong. This one runs where cgroups may be older than it wants.
    std::fs::remove_file(machine.root("usr/bin/kubelet")).unwrap();
    symlink(parts::kubernetes("kubelet").unwrap(), machine.root("usr/bin/kubelet")).unwrap();
    let image = include_str!("../../config/appliance/usr/share/edge/kubelet.yaml");
    let image = format!("{image}failCgroupV1: false\n");
    machine.place.write("machine/usr/share/edge/kubelet.yaml", &image);
    assert!(!provision(&machine).contains("kubelet does not take"), "it takes them all");
    for (name, pods) in [("50-forty", "forty"), ("60-minus", "-5")] {
        let file = format!("machine/var/etc/edge/kubelet.d/{name}.conf");
        machine.place.write(&file, &own.replace("40", pods));
    }
    let said = provision(&machine);
    for (name, why) in
        [("50-forty", "cannot unmarshal string into"), ("60-minus", "-5 must not be a negative")]
    {
        let line =
            format!("edge: `/etc/edge/kubelet.d/{name}.conf` is not in force: kubelet does not take it: ");
        let words = said.lines().find_map(|said| said.strip_prefix(&line));
        assert!(words.is_some_and(|words| words.contains(why)), "{name}: {said}");
    }
    assert_eq!(held(), ["10-pods.conf", "30-more.conf"]);
    // One alone is wrong, and another is good with a later one only.
    std::fs::remove_file(machine.root("var/etc/edge/kubelet.d/60-minus.conf")).unwrap();
    let gate = own.replace("maxPods: 40", "featureGates: {None: true}");
    machine.place.write("machine/var/etc/edge/kubelet.d/50-forty.conf", &gate);
    machine.place.write("machine/var/etc/edge/kubelet.d/10-pods.conf", &own.replace("40", "-5"));
    let said = provision(&machine);
    let line = "`/etc/edge/kubelet.d/50-forty.conf` is not in force: kubelet does not take it: ";
    assert!(said.contains(line) && said.contains("unrecognized feature gate: None"), "{said}");
    assert_eq!(held(), ["10-pods.conf", "30-more.conf"]);
    // Where it would not start without them either, it is none of them.
    machine.place.write("machine/usr/share/edge/kubelet.yaml", &format!("{image}maxPods: forty\n"));
    assert!(!provision(&machine).contains("kubelet does not take"), "they are blamed");
    assert_eq!(held().len(), 3);
    assert!(!machine.root("run/edge/kubelet.d.asked").exists());

    std::fs::remove_file(machine.root("usr/bin/kubelet")).unwrap();
    kubelet("1.29.4");
    let said = provision(&machine);
    let line = "edge: the settings of `/etc/edge/kubelet.d` are not in force: kubelet 1.29 takes none, 1.30 and newer ones do\n";
    assert!(said.contains(line), "{said}");
    assert_eq!((environment().as_str(), folder.exists()), ("KUBELET_ARGS=\n", false));
}
