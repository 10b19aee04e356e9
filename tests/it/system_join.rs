//! An appliance joins the cloud, at its first boot and by hand, and leaves it: kubelet is told each time.

use std::time::{Duration, Instant};

use crate::bundle_disk::run;
use crate::command::{Daemon, Done};
use crate::system::Machine;
use crate::system_provision::{provision, provision_at};

/// A kubeconfig with a node's certificate, and the same with a token.
pub fn kubeconfigs(machine: &Machine) -> [String; 2] {
    let at = |name: &str| machine.place.path(name).display().to_string();
    let (ca, key, certificate) = (at("ca.crt"), at("node.key"), at("node.crt"));
    let days = ["-days", "30", "-nodes"];
    let make = |words: &[&str]| run("openssl", &[words, &days].concat());
    make(&[
        "req",
        "-x509",
        "-newkey",
        "ed25519",
        "-keyout",
        &at("ca.key"),
        "-out",
        &ca,
        "-subj",
        "/CN=cloud",
    ]);
    let subject = "/O=system:nodes/CN=system:node:ship-7";
    let signed_by = ["-CA", &ca, "-CAkey", &at("ca.key")];
    let usage = ["-addext", "extendedKeyUsage=clientAuth", "-subj", subject];
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-keyout", &key];
    make(&[&new[..], &["-out", &certificate], &signed_by, &usage].concat());
    let base64 = |path: &str| run("base64", &["-w0", path]);
    let with = |user: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'https://192.0.2.1:6443', certificate-authority-data: {}}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n",
            base64(&ca)
        )
    };
    let certificate =
        format!("client-certificate-data: {}, client-key-data: {}", base64(&certificate), base64(&key));
    [with(&certificate), with("token: abcdef.0123456789abcdef")]
}

#[test]
fn a_certificate_joins_at_once_and_a_token_waits_for_the_cloud() {
    let machine = Machine::new();
    let [certificate, token] = kubeconfigs(&machine);
    let put = |below: &str, text: &str| machine.place.write(&format!("machine/{below}"), text);
    let read = |below: &str| std::fs::read_to_string(machine.root(below)).unwrap();
    // The configuration names what joining has yet to write.
    put("efi/edge-config/edge.toml", "[cloud]\nkubeconfig = \"/etc/edge/cloud.kubeconfig\"\n");
    put("efi/edge-config/cloud.kubeconfig", &token);
    let said = provision(&machine);
    assert!(
        said.contains("the cloud is not joined: a bootstrap token needs the cloud to sign: edge asks for it"),
        "{said}"
    );
    assert!(!read("var/etc/edge/edge.toml").contains("kubeconfig ="), "the daemon starts without it");
    assert_eq!(read("run/edge/kubelet.env"), "KUBELET_ARGS=\n");

    let machine = Machine::new();
    machine.place.write("machine/efi/edge-config/cloud.kubeconfig", &certificate);
    let said = provision(&machine);
    assert!(!said.contains("not joined"), "{said}");
    let environment = std::fs::read_to_string(machine.root("run/edge/kubelet.env")).unwrap();
    assert!(
        environment.starts_with("KUBELET_ARGS=--kubeconfig=") && environment.contains("Webhook"),
        "{environment}"
    );
    let path = environment.split(['=', ' ']).nth(2).unwrap();
    assert!(std::fs::read_to_string(path).unwrap().contains("system:node:ship-7"), "{path}");
    assert!(
        std::fs::read_to_string(machine.root("var/etc/edge/edge.toml")).unwrap().contains("cloud.kubeconfig")
    );
    assert!(!machine.root("efi/edge-config").exists(), "credentials do not stay on FAT");
    // The node has the name that the cloud signed for; the machine calls itself otherwise.
    assert!(environment.contains(" --hostname-override=ship-7 "), "{environment}");
    // And a second boot keeps it so.
    assert_eq!(provision(&machine), "");
    assert_eq!(std::fs::read_to_string(machine.root("run/edge/kubelet.env")).unwrap(), environment);
}

/// kube-apiserver comes to kubelet with a certificate, which kubelet asks for only where it knows an authority of clients.
#[test]
fn kubelet_knows_the_cloud_by_the_authority_that_signed_its_node() {
    let machine = Machine::new();
    let [certificate, _] = kubeconfigs(&machine);
    machine.place.write("machine/efi/edge-config/cloud.kubeconfig", &certificate);
    let environment = || std::fs::read_to_string(machine.root("run/edge/kubelet.env")).unwrap();
    let taken = machine.root("run/edge/kubelet-client-ca.crt");
    let flag = |path: &std::path::Path| format!(" --client-ca-file={}\n", path.display());
    provision(&machine);
    assert!(environment().ends_with(&flag(&taken)), "{}", environment());
    // Another boot, with nobody to ask: what the boot before had in `/run` is gone.
    std::fs::remove_dir_all(machine.root("run/edge")).unwrap();
    assert_eq!(provision(&machine), "");
    assert!(environment().ends_with(&flag(&taken)), "{}", environment());
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), machine.place.read("ca.crt"));

    // The owner's word goes before it. kubelet would not start with a file that holds no authority, and the kubeconfig's is not
    // what the owner meant.
    let given = machine.place.write("machine/var/etc/edge/client-ca.crt", &machine.place.read("ca.crt"));
    assert_eq!(provision(&machine), "");
    assert!(environment().ends_with(&flag(&given)), "{}", environment());
    std::fs::write(&given, "").unwrap();
    let said = provision(&machine);
    let refuses = "kubelet refuses `kubectl logs` and `exec` of the cloud: ";
    let line = format!("edge: {refuses}`/etc/edge/client-ca.crt`: it holds no certificate\n");
    assert_eq!(said, line);
    assert!(environment().ends_with(" --authorization-mode=Webhook\n"), "{}", environment());
    std::fs::remove_file(&given).unwrap();

    // Where servers and clients have authorities of their own, that of the server vouches for no client.
    let at = |name: &str| machine.place.path(name).display().to_string();
    let (own, other) = (run("base64", &["-w0", &at("ca.crt")]), at("other.crt"));
    let words = ["req", "-x509", "-newkey", "ed25519", "-nodes", "-subj", "/CN=cloud"];
    run("openssl", &[&words[..], &["-keyout", &at("other.key"), "-out", &other]].concat());
    let machine = Machine::new();
    let split = certificate.replace(&own, &run("base64", &["-w0", &other]));
    machine.place.write("machine/efi/edge-config/cloud.kubeconfig", &split);
    let said = provision(&machine);
    assert!(said.contains(refuses) && said.contains("lay that of its clients at"), "{said}");
    let environment = std::fs::read_to_string(machine.root("run/edge/kubelet.env")).unwrap();
    assert!(environment.ends_with(" --authorization-mode=Webhook\n"), "{environment}");

    // While the authority is renewed, the API server may come with a certificate of the old one or of the new one.
    let both = format!(
        "{}{}",
        std::fs::read_to_string(at("ca.crt")).unwrap(),
        std::fs::read_to_string(&other).unwrap()
    );
    let renewed = machine.place.write("both.crt", &both).display().to_string();
    let machine = Machine::new();
    let renewed = certificate.replace(&own, &run("base64", &["-w0", &renewed]));
    machine.place.write("machine/efi/edge-config/cloud.kubeconfig", &renewed);
    provision(&machine);
    assert_eq!(std::fs::read_to_string(machine.root("run/edge/kubelet-client-ca.crt")).unwrap(), both);
}

#[test]
fn the_owner_gives_the_authority_of_the_clouds_clients_at_the_first_boot() {
    let machine = Machine::new();
    let [certificate, _] = kubeconfigs(&machine);
    let put = |name: &str, text: &str| {
        machine.place.write(&format!("machine/efi/edge-config/{name}"), text);
    };
    put("edge.toml", "offline-mode = true\n");
    put("cloud.kubeconfig", &certificate);
    put("client-ca.crt", "");
    let said = provision(&machine);
    let line = "`client-ca.crt` on the EFI system partition is not taken: it holds no certificate\n";
    assert!(said.contains(line), "{said}");
    put("client-ca.crt", &machine.place.read("ca.crt"));
    let said = provision(&machine);
    assert!(said.contains("taken from the EFI system partition: client-ca.crt\n"), "{said}");
    let given = machine.root("var/etc/edge/client-ca.crt");
    let environment = std::fs::read_to_string(machine.root("run/edge/kubelet.env")).unwrap();
    assert!(environment.ends_with(&format!(" --client-ca-file={}\n", given.display())), "{environment}");
    // A reset brings it back.
    assert_eq!(
        std::fs::read(machine.root("identity/config/client-ca.crt")).unwrap(),
        std::fs::read(&given).unwrap()
    );
}

/// A board without a clock boots at the date of its image; the certificate is younger.
#[test]
fn a_certificate_from_after_the_clock_joins_at_the_first_boot() {
    let machine = Machine::new();
    let [certificate, _] = kubeconfigs(&machine);
    machine.place.write("machine/efi/edge-config/cloud.kubeconfig", &certificate);
    let said = provision_at(&machine, "@2024-01-01 00:00:00");
    assert!(said.contains(", since when the cloud's certificate is good, and cannot be set: "), "{said}");
    assert!(!said.contains("not joined"), "{said}");
    let environment = std::fs::read_to_string(machine.root("run/edge/kubelet.env")).unwrap();
    assert!(environment.contains(" --hostname-override=ship-7 "), "{environment}");
}

/// A key of a newer system's, or a slip of the pen: no reason for kubelet to forget its cloud, and the pods that it has of it.
#[test]
fn a_configuration_that_is_refused_leaves_kubelet_with_its_cloud() {
    let machine = Machine::new();
    let [certificate, _] = kubeconfigs(&machine);
    machine.place.write("machine/efi/edge-config/cloud.kubeconfig", &certificate);
    provision(&machine);
    let environment = || std::fs::read_to_string(machine.root("run/edge/kubelet.env")).unwrap();
    let before = environment();
    assert!(before.contains("--kubeconfig="), "{before}");
    let file = machine.root("var/etc/edge/edge.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    machine.place.write("machine/var/etc/edge/edge.toml", &format!("of-a-newer-edge = true\n{good}"));
    std::fs::remove_dir_all(machine.root("run/edge")).unwrap();
    let said = provision(&machine);
    assert!(said.contains("unknown key `of-a-newer-edge`"), "{said}");
    assert_eq!(environment(), before);
}

/// The daemon goes on with what its own system took last, and with the cloud that was joined since.
#[test]
fn where_todays_configuration_is_refused_the_last_one_holds() {
    let machine = Machine::new();
    let ports = "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n";
    let good = format!("{ports}[bundle]\ngateway = \"ship-7\"\n");
    machine.place.write("etc/edge.toml", &good);
    let start = || Daemon::start_by(&machine.place, machine.edge(&["daemon"]));
    drop(start());
    machine.place.write("etc/edge.toml", &good.replace("gateway", "gatewai"));
    let daemon = start();
    let errors = || {
        let status = machine.run(&["status", "-o", "json"]).good().out;
        serde_json::from_str::<serde_json::Value>(&status).unwrap()["errors"].clone()
    };
    let refused = errors();
    let line = refused[0].as_str().unwrap_or_default();
    assert!(
        line.starts_with("the configuration is refused, and the last one that this system took holds: ")
            && line.contains("unknown key `bundle.gatewai`"),
        "{refused}"
    );
    machine.place.write("etc/edge.toml", &good);
    run("kill", &["-HUP", &daemon.0.id().to_string()]);
    until("it is taken", &machine, || errors().as_array().is_some_and(Vec::is_empty));
    drop(daemon);

    // Another system in the same slot never took any: it may be new, and the one before it is better.
    machine.place.write("etc/edge.toml", "of-a-newer-edge = true\n");
    let mut tree = std::fs::OpenOptions::new().write(true).open(machine.partition("verity_a")).unwrap();
    std::io::Seek::seek(&mut tree, std::io::SeekFrom::Start(31)).unwrap();
    std::io::Write::write_all(&mut tree, &[9]).unwrap();
    machine.run(&["daemon"]).bad(2, "of-a-newer-edge");
}

fn until(what: &str, machine: &Machine, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        let log = machine.place.read("daemon.log");
        assert!(began.elapsed() < Duration::from_secs(60), "not so in time: {what}\n{log}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Where the boot could not: for a token, or for a file that was wrong then. The daemon needs nobody for it. And what the
/// cloud renewed is what a reset comes back with.
#[test]
fn the_daemon_joins_with_what_was_given_and_a_reset_keeps_the_renewed_certificate() {
    let machine = Machine::new();
    let config = "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n";
    machine.place.write("etc/edge.toml", config);
    let [certificate, _] = kubeconfigs(&machine);
    let calls = machine.root("systemctl.calls");
    // The first time systemd does not do it.
    let script = format!("#!/bin/sh\necho \"$@\" >> {0}\n[ $(wc -l < {0}) -gt 1 ]\n", calls.display());
    machine.place.write("machine/bin/systemctl", &script);
    run("chmod", &["755", &machine.root("bin/systemctl").display().to_string()]);
    machine.place.write("machine/var/etc/edge/given.kubeconfig", &certificate);
    machine.place.write("machine/identity/config/cloud.kubeconfig", &certificate);
    let daemon = Daemon::start_by(&machine.place, machine.edge(&["daemon"]));
    let given = machine.root("var/etc/edge/given.kubeconfig");
    until("the cloud is joined", &machine, || !given.exists());
    let environment = std::fs::read_to_string(machine.root("run/edge/kubelet.env")).unwrap();
    assert!(environment.contains(" --hostname-override=ship-7 "), "{environment}");
    assert_eq!(std::fs::read_to_string(&calls).unwrap(), "restart kubelet.service\n".repeat(2));
    drop(daemon);

    // The cloud renews it: as `rotate` leaves it behind.
    let at = |name: &str| machine.place.path(name).display().to_string();
    let subject = "/O=system:nodes/CN=system:node:ship-7";
    let words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let more = ["-keyout", &at("new.key"), "-out", &at("new.crt"), "-days", "90", "-subj", subject];
    let signed = ["-CA", &at("ca.crt"), "-CAkey", &at("ca.key"), "-addext", "extendedKeyUsage=clientAuth"];
    run("openssl", &[&words[..], &more, &signed].concat());
    let pair = machine.place.read("new.crt") + &machine.place.read("new.key");
    machine.place.secret("state/cloud/client-current.pem", &pair);
    let kept = machine.root("identity/config/cloud.kubeconfig");
    let before = std::fs::File::open(&kept).unwrap();
    let daemon = Daemon::start_by(&machine.place, machine.edge(&["daemon"]));
    until("it is kept", &machine, || std::fs::read_to_string(&kept).unwrap() != certificate);
    // The key that it replaced.
    until("the old one is overwritten", &machine, || {
        let mut byte = [1];
        std::os::unix::fs::FileExt::read_exact_at(&before, &mut byte, 0).unwrap();
        byte == [0]
    });
    drop(daemon);
    std::fs::remove_dir_all(machine.root("var")).unwrap();
    std::fs::remove_dir_all(machine.place.path("state")).unwrap();
    let said = provision(&machine);
    assert!(said.contains("configuration taken from identity: cloud.kubeconfig"), "{said}");
    assert!(!said.contains("not joined"), "{said}");
    let taken = machine.place.read("state/cloud/client-current.pem");
    assert!(taken.starts_with(&machine.place.read("new.crt")), "{taken}");
}

/// For its next place, or for sale: a reset brings back the rest of what was given, and not the cloud.
#[test]
fn who_leaves_has_left_after_a_reset_too() {
    let machine = Machine::new();
    let [certificate, _] = kubeconfigs(&machine);
    machine.place.write("machine/efi/edge-config/cloud.kubeconfig", &certificate);
    machine.place.write("machine/efi/edge-config/edge.toml", "offline-mode = true\n");
    machine.place.write("machine/bin/systemctl", "#!/bin/sh\n");
    run("chmod", &["755", &machine.root("bin/systemctl").display().to_string()]);
    provision(&machine);
    let environment = || std::fs::read_to_string(machine.root("run/edge/kubelet.env")).unwrap();
    assert!(environment().contains(" --hostname-override=ship-7 "), "{}", environment());
    let mut kept = std::fs::File::open(machine.root("identity/config/cloud.kubeconfig")).unwrap();
    let mut leave = machine.edge(&["leave"]);
    leave.env("EDGE_CONFIG", machine.root("var/etc/edge/edge.toml"));
    let said = Done::of(leave.output().unwrap()).good().out;
    assert!(said.ends_with("restarted without it; a reset does not join it again\n"), "{said}");
    // Identity is not encrypted: whoever buys the card reads what only has no name any more.
    let mut left = Vec::new();
    std::io::Read::read_to_end(&mut kept, &mut left).unwrap();
    assert!(
        left.len() == certificate.len() && left.iter().all(|byte| *byte == 0),
        "the key is on the medium"
    );
    std::fs::remove_dir_all(machine.root("var")).unwrap();
    std::fs::remove_dir_all(machine.place.path("state")).unwrap();
    let said = provision(&machine);
    assert!(said.contains("configuration taken from identity: edge.toml\n"), "{said}");
    assert_eq!(environment(), "KUBELET_ARGS=\n");
}

/// By hand, long after the first boot: kubelet has it at once, and so it has when the cloud is left.
#[test]
fn joining_and_leaving_by_hand_restart_kubelet() {
    let machine = Machine::new();
    let [certificate, token] = kubeconfigs(&machine);
    let given = machine.place.write("given.kubeconfig", &certificate).display().to_string();
    let calls = machine.root("systemctl.calls");
    let script = format!("#!/bin/sh\necho \"$@\" >> {}\n", calls.display());
    machine.place.write("machine/bin/systemctl", &script);
    run("chmod", &["755", &machine.root("bin/systemctl").display().to_string()]);
    machine.place.write("machine/run/edge/kubelet.env", "KUBELET_ARGS=\n");
    let environment = || std::fs::read_to_string(machine.root("run/edge/kubelet.env")).unwrap();
    let pki = machine.place.path("pki").display().to_string();
    // What the boot was given and could not join with: whoever joins or leaves by hand has decided otherwise.
    let waiting = machine.place.write("machine/var/etc/edge/given.kubeconfig", &token);
    let joined = machine.run(&["join", "--from", &given, "--kubelet-cert-dir", &pki]).good().out;
    assert!(!waiting.exists());
    assert!(joined.starts_with("node `ship-7` is joined, and kubelet was restarted with it; "), "{joined}");
    assert!(!joined.contains("left to do"), "{joined}");
    assert!(environment().contains(" --hostname-override=ship-7 "), "{}", environment());
    assert_eq!(std::fs::read_to_string(&calls).unwrap(), "restart kubelet.service\n");
    machine.place.write("machine/var/etc/edge/given.kubeconfig", &token);
    let left = machine.run(&["leave"]).good().out;
    assert!(!waiting.exists());
    assert_eq!(left, "node `ship-7` is given back, and kubelet was restarted without it\n");
    assert_eq!(environment(), "KUBELET_ARGS=\n");
    assert_eq!(
        std::fs::read_to_string(&calls).unwrap(),
        "restart kubelet.service\nrestart kubelet.service\n"
    );
    // Where systemd does not do it, that is told, and what to do.
    machine.place.write("machine/bin/systemctl", "#!/bin/sh\necho no bus >&2\nexit 1\n");
    let done = machine.run(&["join", "--from", &given, "--kubelet-cert-dir", &pki]);
    let last = done.err.lines().last().unwrap_or_default();
    assert!(done.code == 1 && last.contains("kubelet does not know of it yet: "), "{done:?}");
    assert!(last.ends_with("hint: restart the machine"), "{done:?}");
}
