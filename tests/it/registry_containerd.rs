//! What `configure-containerd` writes, on real files; and a way back that gives everything back.

use std::path::Path;

use edge::oci::Upstream;
use edge::registry::containerd::{
    ContainerdError, ContainerdSettings, LastResort, check, configure, pointed_here, undo,
};

fn settings(folder: &Path) -> ContainerdSettings {
    ContainerdSettings {
        config: folder.join("config.toml"),
        backup: folder.join("state"),
        edge: "http://127.0.0.1:5000".into(),
        authority: None,
        hosts: vec![Upstream::of_host("docker.io"), Upstream::of_host("quay.io")],
        last_resort: LastResort::Registry,
    }
}

/// containerd's configuration with hosts below the folder.
fn with_config_path(folder: &Path) -> String {
    let certs = folder.join("certs.d");
    let text = format!(
        "version = 2 # mine\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"{}\"\n",
        certs.display()
    );
    std::fs::write(folder.join("config.toml"), &text).unwrap();
    text
}

/// A registry's password may be in there, and in what edge makes of it.
#[test]
fn who_may_read_a_file_stays_as_it_was() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    with_config_path(folder.path());
    let quay = folder.path().join("certs.d/quay.io/hosts.toml");
    let docker = folder.path().join("certs.d/docker.io/hosts.toml");
    std::fs::create_dir_all(quay.parent().unwrap()).unwrap();
    let mine =
        "server = \"https://quay.io\"\n[host.\"https://m.example\"]\nheader.authorization = \"Basic x\"\n";
    std::fs::write(&quay, mine).unwrap();
    std::fs::set_permissions(&quay, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let settings = settings(folder.path());

    configure(&settings).unwrap();
    assert!(std::fs::read_to_string(&quay).unwrap().contains("Basic x"));
    assert_eq!((mode(&quay), mode(&docker)), (0o600, 0o644));
    undo(&settings).unwrap();
    assert_eq!((std::fs::read_to_string(&quay).unwrap().as_str(), mode(&quay)), (mine, 0o600));
}

#[test]
fn what_was_there_goes_behind_edge_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = with_config_path(folder.path());
    let quay = folder.path().join("certs.d/quay.io/hosts.toml");
    let docker = folder.path().join("certs.d/docker.io/hosts.toml");
    std::fs::create_dir_all(quay.parent().unwrap()).unwrap();
    let mine =
        "# mine\nserver = \"https://quay.io\"\n\n[host.\"https://mirror.example\"]\nskip_verify = true\n";
    std::fs::write(&quay, mine).unwrap();
    let mut settings = settings(folder.path());

    let would = check(&settings).unwrap();
    assert_eq!((would.changed.len(), would.restart), (2, false));
    assert!(!docker.exists(), "a check writes nothing");
    assert_eq!(configure(&settings).unwrap(), would);
    assert!(check(&settings).unwrap().changed.is_empty());
    assert!(configure(&settings).unwrap().changed.is_empty(), "a second time does nothing");
    let text = std::fs::read_to_string(&quay).unwrap();
    let (edge, mirror) = (text.find("127.0.0.1:5000").unwrap(), text.find("mirror.example").unwrap());
    assert!(edge < mirror && text.contains("skip_verify = true"), "{text}");

    settings.last_resort = LastResort::Nobody;
    configure(&settings).unwrap();
    assert!(!std::fs::read_to_string(&quay).unwrap().contains("mirror.example"));
    settings.last_resort = LastResort::Registry;
    configure(&settings).unwrap();
    assert_eq!(std::fs::read_to_string(&quay).unwrap(), text, "the mirror was not forgotten");

    let undone = undo(&settings).unwrap();
    assert_eq!((undone.changed.len(), undone.left_alone.len()), (2, 0));
    assert_eq!(std::fs::read_to_string(&quay).unwrap(), mine);
    assert!(!docker.parent().unwrap().exists());
    assert_eq!(std::fs::read_to_string(&settings.config).unwrap(), config, "never touched");
    assert!(undo(&settings).unwrap().changed.is_empty());
}

#[test]
fn what_somebody_changed_since_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    with_config_path(folder.path());
    let settings = settings(folder.path());
    configure(&settings).unwrap();
    let quay = folder.path().join("certs.d/quay.io/hosts.toml");
    std::fs::write(&quay, "server = \"https://other\"\n").unwrap();
    let undone = undo(&settings).unwrap();
    assert_eq!(undone.left_alone, std::slice::from_ref(&quay));
    assert_eq!(std::fs::read_to_string(&quay).unwrap(), "server = \"https://other\"\n");
}

#[test]
fn a_missing_config_path_is_set_and_needs_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let settings = ContainerdSettings { hosts: Vec::new(), ..settings(folder.path()) };
    let done = configure(&settings).unwrap();
    assert_eq!((done.changed, done.restart), (vec![settings.config.clone()], true));
    assert!(
        std::fs::read_to_string(&settings.config)
            .unwrap()
            .contains("config_path = \"/etc/containerd/certs.d\"")
    );
    assert!(undo(&settings).unwrap().restart);
    assert!(!settings.config.exists());
}

#[test]
fn the_folder_is_the_one_that_containerd_reads() {
    let folder = tempfile::tempdir().unwrap();
    with_config_path(folder.path());
    let hosts = ["q.io:5000", "p.io:5000"].map(Upstream::of_host).to_vec();
    let settings = ContainerdSettings { hosts, ..settings(folder.path()) };
    let at = |below: &str| folder.path().join("certs.d").join(below);
    std::fs::create_dir_all(at("q.io_5000_")).unwrap();
    std::fs::write(at("q.io_5000_/hosts.toml"), "server = 'https://q.io:5000'\nca = '/ca.crt'\n").unwrap();
    std::fs::create_dir_all(at("p.io:5000")).unwrap();
    std::fs::write(at("p.io:5000/p.crt"), "").unwrap();
    let done = configure(&settings).unwrap();
    assert_eq!(done.changed, [at("q.io_5000_/hosts.toml"), at("p.io:5000/hosts.toml")]);
    assert!(!at("q.io:5000").exists());
    let text = |below: &str| std::fs::read_to_string(at(below)).unwrap();
    assert!(text("q.io_5000_/hosts.toml").contains("ca = '/ca.crt'"), "{}", text("q.io_5000_/hosts.toml"));
    assert!(text("p.io:5000/hosts.toml").contains("ca = [\"p.crt\"]"), "{}", text("p.io:5000/hosts.toml"));
    assert!(configure(&settings).unwrap().changed.is_empty(), "a second time does nothing");
    undo(&settings).unwrap();
    assert_eq!(text("q.io_5000_/hosts.toml"), "server = 'https://q.io:5000'\nca = '/ca.crt'\n");
    assert!(at("p.io:5000/p.crt").exists() && !at("p.io:5000/hosts.toml").exists());
}

#[test]
fn legacy_mirrors_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(folder.path());
    let legacy = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = [\"https://x\"]\n";
    std::fs::write(&settings.config, legacy).unwrap();
    assert!(matches!(configure(&settings), Err(ContainerdError::Legacy(_))));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn whom_containerd_asks_first_is_known_as_long_as_nobody_changes_it() {
    let folder = tempfile::tempdir().unwrap();
    with_config_path(folder.path());
    let mut settings = settings(folder.path());
    let has = |host: &str| pointed_here(&folder.path().join("state")).unwrap().has(host);
    assert!(!has("quay.io"), "nothing is written yet");
    configure(&settings).unwrap();
    assert!(has("quay.io") && has("docker.io") && !has("gcr.io") && !has("quay.io:443"));

    settings.hosts = vec![Upstream { host: "_default".into(), url: String::new(), insecure: false }];
    configure(&settings).unwrap();
    let certs = folder.path().join("certs.d");
    for own in ["own.example", "own.example_5000_"] {
        std::fs::create_dir_all(certs.join(own)).unwrap();
    }
    assert!(has("gcr.io") && has("gcr.io:443") && has("quay.io"));
    assert!(!has("own.example") && !has("own.example:5000"), "somebody has said where these are");

    std::fs::write(certs.join("quay.io/hosts.toml"), "server = \"https://quay.io\"\n").unwrap();
    assert!(!has("quay.io") && has("docker.io"), "it is somebody else's now");
    undo(&settings).unwrap();
    assert!(!has("docker.io") && !has("gcr.io"));
}

/// What containerd reads when it starts is its own configuration, whatever that is called.
#[test]
fn a_way_back_says_that_containerd_must_be_restarted_wherever_its_configuration_lies() {
    let folder = tempfile::tempdir().unwrap();
    let before = "version = 2\n";
    std::fs::write(folder.path().join("config.toml"), before).unwrap();
    let settings = ContainerdSettings { hosts: Vec::new(), ..settings(folder.path()) };
    assert!(configure(&settings).unwrap().restart);
    // As `edge leave` has it, which knows of no other place.
    let elsewhere = ContainerdSettings { config: "/etc/containerd/config.toml".into(), ..settings };
    assert!(undo(&elsewhere).unwrap().restart);
    assert_eq!(std::fs::read_to_string(folder.path().join("config.toml")).unwrap(), before);
}

#[test]
fn a_certificate_of_the_site_s_is_for_a_name_and_of_an_authority_that_containerd_is_told() {
    let place = crate::command::Place::new();
    let path = |name: &str| place.path(name).display().to_string();
    let key = || rcgen::KeyPair::generate().unwrap();
    let (ca_key, mut ca) = (key(), rcgen::CertificateParams::new(Vec::new()).unwrap());
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    place.write("etc/site.crt", &ca.self_signed(&ca_key).unwrap().pem());
    let leaf = rcgen::CertificateParams::new(vec!["depot.example".to_owned()]).unwrap();
    place.write("etc/tls.crt", &leaf.signed_by(&key(), &rcgen::Issuer::new(ca, ca_key)).unwrap().pem());
    let registry = format!(
        "[registry]\nlisten = \"0.0.0.0:5000\"\ntls-certificate = \"{}\"\ntls-key = \"{}\"\n",
        path("etc/tls.crt"),
        path("etc/tls.key")
    );
    with_config_path(&place.path("etc"));
    let (containerd, ca) = (path("etc/config.toml"), path("etc/site.crt"));
    let configure =
        ["registry", "configure-containerd", "--containerd-config", &containerd, "--host", "quay.io"];
    let with_ca: Vec<&str> = configure.into_iter().chain(["--ca", &ca]).collect();
    place.write("etc/edge.toml", &registry);
    place.run(&with_ca).bad(1, "is for none of `127.0.0.1:5000`, `localhost:5000` hint: ");
    place.write("etc/edge.toml", &format!("{registry}own-hosts = [\"depot.example:5000\"]\n"));
    place.run(&configure).bad(1, "hint: name the file of its authority with --ca");
    assert!(!place.path("etc/certs.d/quay.io").exists(), "nothing was written");
    place.run(&with_ca).good();
    let hosts = place.read("etc/certs.d/quay.io/hosts.toml");
    assert!(hosts.contains("[host.\"https://depot.example:5000\"]\n"), "{hosts}");
    assert!(hosts.contains(&format!("ca = \"{ca}\"")), "{hosts}");
    // A name alone is where edge listens.
    place.write("etc/edge.toml", &format!("{registry}own-hosts = [\"depot.example\"]\n"));
    assert!(place.run(&with_ca).good().out.contains("nothing to do"));
    // The way back needs neither.
    std::fs::remove_file(place.path("etc/tls.crt")).unwrap();
    place.run(&[&configure[..4], &["--undo"]].concat()).good();
}
