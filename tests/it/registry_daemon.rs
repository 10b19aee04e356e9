//! The registry as a part of the real daemon, and the commands with and without it.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::{Done, Place};
use crate::registry_clients::layout;

/// A daemon without a cloud, whose registry is on a free port.
pub struct Daemon {
    pub place: Place,
    child: Option<Child>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Daemon {
    /// With these keys below `[registry]`, or none to start later.
    pub fn start(registry: &str) -> Self {
        let mut daemon = Self { place: Place::new(), child: None };
        daemon.configure(registry);
        daemon.run();
        daemon.wait_up();
        daemon
    }

    /// Waits until the daemon answers.
    fn wait_up(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.status().is_none() {
            assert!(Instant::now() < until, "the daemon does not answer: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn configure(&self, registry: &str) {
        let listen = if registry.contains("listen =") { "" } else { "listen = \"127.0.0.1:0\"\n" };
        self.place.write("etc/edge.toml", &format!("[registry]\n{listen}{registry}"));
    }

    pub fn run(&mut self) {
        let log = std::fs::File::create(self.place.path("daemon.log")).unwrap();
        let mut command = self.place.edge(&["daemon"]);
        self.child = Some(command.stdout(Stdio::null()).stderr(log).env("RUST_LOG", "info").spawn().unwrap());
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn log(&self) -> String {
        self.place.read("daemon.log")
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn status(&self) -> Option<Value> {
        let done = self.place.run(&["status", "-o", "json"]);
        (done.code == 0).then(|| serde_json::from_str(&done.out).unwrap())
    }

    /// What the board says of the registry, as soon as it says `wanted`.
    pub fn wait_part(&self, name: &str, wanted: &str) -> String {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let status = self.status().unwrap_or_default();
            let part =
                status["parts"].as_array().into_iter().flatten().find(|part| part["part"] == name).cloned();
            if let Some(part) = part.filter(|part| part["state"] == wanted) {
                return part["message"].as_str().unwrap_or_default().to_owned();
            }
            assert!(Instant::now() < until, "{name} is not {wanted}: {status} {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Where the registry is.
    pub fn url(&self) -> String {
        let message = self.wait_part("registry", "good");
        format!("http://{}", message.strip_prefix("on ").unwrap())
    }

    pub fn reload(&self) {
        let pid = nix::unistd::Pid::from_raw(self.pid().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    }
}

pub const OPEN: &str = "push = true\ninsecure-loopback-push = true\n";

fn curl(arguments: &[&str]) -> String {
    let done = std::process::Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}"])
        .args(arguments)
        .output();
    String::from_utf8(done.unwrap().stdout).unwrap()
}

fn skopeo(arguments: &[&str]) -> Done {
    Done::of(std::process::Command::new("skopeo").args(arguments).output().unwrap())
}

fn layout_at(folder: &Path) -> String {
    let source = folder.join("layout");
    layout(&source);
    source.display().to_string()
}

#[test]
fn a_taken_port_is_told_and_tried_again_and_settings_change_at_once() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let listen = format!("listen = \"127.0.0.1:{port}\"\n");
    let daemon = Daemon::start(&listen);
    let why = daemon.wait_part("registry", "trouble");
    assert!(why.contains(&format!("127.0.0.1:{port}")) && why.contains("in use"), "{why}");
    drop(taken);
    let url = daemon.url();
    assert_eq!(url, format!("http://127.0.0.1:{port}"));
    let begin = format!("{url}/v2/a/blobs/uploads/");
    assert_eq!(curl(&["-X", "POST", &begin]), "403", "writing is off");
    assert_eq!(curl(&[&format!("{url}/v2/")]), "200");

    daemon.configure(&format!("{listen}{OPEN}"));
    daemon.reload();
    let until = Instant::now() + Duration::from_secs(10);
    while curl(&["-X", "POST", &begin]) != "202" {
        assert!(Instant::now() < until, "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(50));
    }

    // A file of credentials that others can read is refused, and the daemon goes on.
    let htpasswd =
        daemon.place.write("etc/htpasswd", &format!("ann:{}\n", bcrypt::hash("secret", 4).unwrap()));
    std::fs::set_permissions(&htpasswd, PermissionsExt::from_mode(0o644)).unwrap();
    daemon.configure(&format!("{listen}push = true\nhtpasswd = \"{}\"\n", htpasswd.display()));
    daemon.reload();
    let why = daemon.wait_part("registry", "trouble");
    assert!(why.contains("chmod 0600"), "{why}");
    std::fs::set_permissions(&htpasswd, PermissionsExt::from_mode(0o600)).unwrap();
    daemon.url();
    assert_eq!(curl(&["-X", "POST", &begin]), "401");
    assert_eq!(curl(&["-u", "ann:secret", "-X", "POST", &begin]), "202");
}

/// A slip in the name of a file is no outage of all pulls; and nobody may write meanwhile who is to be asked for a password.
#[test]
fn a_file_that_is_not_there_closes_no_registry_that_serves() {
    let daemon = Daemon::start(OPEN);
    let url = daemon.url();
    let (all, begin) = (format!("{url}/v2/"), format!("{url}/v2/a/blobs/uploads/"));
    assert_eq!((curl(&[&all]), curl(&["-X", "POST", &begin])), ("200".into(), "202".into()));
    let docker = daemon.place.path("etc/docker.json");
    daemon.configure(&format!("{OPEN}docker-config = \"{}\"\n", docker.display()));
    daemon.reload();
    let why = daemon.wait_part("registry", "trouble");
    assert!(why.contains("as it was set before, on ") && why.contains("docker.json"), "{why}");
    assert_eq!((curl(&[&all]), curl(&["-X", "POST", &begin])), ("200".into(), "202".into()));
    daemon.place.write("etc/docker.json", "{\"auths\": {}}");
    std::fs::set_permissions(&docker, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(daemon.url(), url, "it is put right");
    daemon.configure("push = true\nhtpasswd = \"/no/such/htpasswd\"\n");
    daemon.reload();
    let why = daemon.wait_part("registry", "trouble");
    assert!(why.contains("/no/such/htpasswd"), "{why}");
    assert_eq!((curl(&[&all]), curl(&["-X", "POST", &begin])), ("200".into(), "403".into()));
}

#[test]
fn a_store_that_cannot_be_opened_takes_nothing_else_down() {
    let mut daemon = Daemon { place: Place::new(), child: None };
    daemon.configure(OPEN);
    daemon.place.write("state/store/store.db", &"not a database ".repeat(500));
    daemon.run();
    let why = daemon.wait_part("registry", "trouble");
    assert!(why.contains("store.db"), "{why}");
    assert_eq!(daemon.status().unwrap()["link"]["state"], "none");
    std::fs::remove_file(daemon.place.path("state/store/store.db")).unwrap();
    assert_eq!(curl(&[&format!("{}/v2/", daemon.url())]), "200");
}

#[test]
fn images_come_from_archives_and_go_to_them_with_and_without_a_daemon() {
    let mut daemon = Daemon::start(OPEN);
    let folder = daemon.place.folder.path().to_owned();
    let place = &daemon.place;
    let source = layout_at(&folder);
    place.run(&["image", "import", &source]).bad(2, "--name");
    let listed = place.run(&["image", "list", "-o", "json"]).good();
    assert_eq!(listed.out.trim(), "[]");
    let imported =
        place.run(&["image", "import", &source, "--name", "quay.io/team/app:1", "-o", "json"]).good();
    let digest =
        serde_json::from_str::<Value>(&imported.out).unwrap()[0]["digest"].as_str().unwrap().to_owned();
    let at = daemon.url().replace("http://", "docker://");

    // What docker save and skopeo write, plain and compressed.
    let archive = folder.join("docker.tar").display().to_string();
    let from = format!("{at}/quay.io/team/app:1");
    skopeo(&[
        "copy",
        "--src-tls-verify=false",
        &from,
        &format!("docker-archive:{archive}:quay.io/saved/app:2"),
    ])
    .good();
    std::process::Command::new("gzip").arg("-k").arg(&archive).status().unwrap();
    for path in [archive.clone(), format!("{archive}.gz")] {
        let imported = place.run(&["image", "import", &path]).good();
        assert!(imported.out.contains("quay.io/saved/app:2 sha256:"), "{imported:?}");
    }
    let inspected = skopeo(&["inspect", "--tls-verify=false", &format!("{at}/quay.io/saved/app:2")]).good();
    assert!(inspected.out.contains("arm64"), "{inspected:?}");

    // Written as a tar and as a folder, read by skopeo in both of its forms.
    let tar = folder.join("out.tar").display().to_string();
    place.run(&["image", "export", "quay.io/team/app:1", "quay.io/saved/app:2", "--to", &tar]).good();
    place.run(&["image", "export", "quay.io/team/app:1", "--to", &tar]).bad(1, "is there already");
    place.run(&["image", "export", "quay.io/team/app:1", "--to", "out/"]).good();
    let copied = folder.join("copied").display().to_string();
    let layout = format!("oci:{}:1", folder.join("out").display());
    skopeo(&["copy", &layout, &format!("dir:{copied}")]).good();
    let loaded = skopeo(&["inspect", &format!("docker-archive:{tar}:quay.io/saved/app:2")]).good();
    assert!(loaded.out.contains("arm64"), "{loaded:?}");

    // Pushed without a host, it goes by that name, and by no other that means an image of docker.io.
    let own = format!("{at}/own/app:1");
    skopeo(&["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &from, &own]).good();
    let shown: Value =
        serde_json::from_str(&place.run(&["image", "inspect", "own/app:1", "-o", "json"]).good().out)
            .unwrap();
    assert_eq!((&shown["repository"], &shown["names"][0]["tag"]), (&json!("own/app"), &json!("1")));
    let pinned = format!("own/app@{}", shown["digest"].as_str().unwrap());
    place.run(&["image", "inspect", &pinned]).good();
    place.run(&["image", "inspect", "docker.io/own/app:1"]).bad(1, "`docker.io/own/app:1` is not here");
    place.run(&["image", "export", "own/app:1", "--to", "own.tar"]).good();
    assert_eq!(place.run(&["image", "remove", "own/app:1"]).good().out, "removed own/app:1\n");
    place.run(&["image", "remove", "own/app:1"]).bad(1, "is not here");

    daemon.kill();
    let place = &daemon.place;
    let listed = place.run(&["image", "list", "-o", "json"]).good();
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    let one = listed.as_array().unwrap().iter().find(|one| one["repository"] == "quay.io/team/app").unwrap();
    assert_eq!((&one["tag"], &one["digest"]), (&json!("1"), &json!(digest)));
    assert_eq!(
        (&one["platforms"], &one["from"], &one["missing"]),
        (&json!(["linux/arm64"]), &json!("push"), &json!(0))
    );
    assert_eq!(one["neededBy"], json!([]));
    let table = place.run(&["image", "list", "team"]).good().out;
    assert!(table.starts_with("REPOSITORY") && table.lines().count() == 2, "{table}");
    let told = place.run(&["image", "inspect", "quay.io/team/app:1"]).good().out;
    assert!(told.contains(&digest) && told.contains("linux/arm64") && told.contains("Layer"), "{told}");
    place.run(&["image", "inspect", "quay.io/none:1"]).bad(1, "is not here");

    place.run(&["image", "remove", "quay.io/saved/app:2"]).good();
    place.run(&["image", "remove", "quay.io/saved/app:2"]).bad(1, "is not here");
    let freed = place.run(&["gc"]).good().out;
    assert!(freed.starts_with("0 of ") && freed.contains("are not needed either and stay"), "{freed}");
    let again = place.run(&["image", "import", &tar, "-o", "json"]).good();
    assert_eq!(serde_json::from_str::<Value>(&again.out).unwrap().as_array().unwrap().len(), 2);

    // An archive whose bytes are not what their digests say is refused.
    let bad = folder.join("layout/blobs/sha256");
    for blob in std::fs::read_dir(&bad).unwrap().map(|entry| entry.unwrap().path()) {
        let mut bytes = std::fs::read(&blob).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&blob, bytes).unwrap();
    }
    let refused = place.run(&["image", "import", &source, "--name", "quay.io/bad:1"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(!place.run(&["image", "list"]).out.contains("quay.io/bad"));
}

#[test]
fn what_pods_need_stays_and_what_nobody_needs_goes() {
    let daemon = Daemon::start(OPEN);
    let place = &daemon.place;
    let source = layout_at(place.folder.path());
    place.run(&["image", "import", &source, "--name", "quay.io/team/app:1"]).good();
    let plan: Value =
        serde_json::from_str(&place.run(&["gc", "--dry-run", "-o", "json"]).good().out).unwrap();
    assert_eq!(
        (plan["dryRun"].clone(), plan["blobs"].clone(), plan["remove"].clone()),
        (json!(true), json!(3), json!([]))
    );
    let verified: Value =
        serde_json::from_str(&place.run(&["store", "verify", "-o", "json"]).good().out).unwrap();
    assert_eq!((verified["blobs"].clone(), verified["damaged"].clone()), (json!(3), json!([])));

    // A damaged blob is set aside, served to nobody, and back with the next push.
    let layer = std::fs::read_dir(place.path("state/store/blobs/sha256")).unwrap();
    let files = layer.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
    let largest =
        files.map(|file| file.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let hex = largest.file_name().unwrap().to_str().unwrap().to_owned();
    std::fs::write(&largest, b"rotten").unwrap();
    let found = place.run(&["store", "verify", "-o", "json"]);
    let verified: Value = serde_json::from_str(&found.out).unwrap();
    assert_eq!((found.code, verified["damaged"][0].clone()), (1, json!(format!("sha256:{hex}"))));
    assert!(verified["left"][0]["why"].as_str().unwrap().contains("push it again"), "{verified}");
    let listed = place.run(&["image", "list", "-o", "json"]).good().out;
    assert!(listed.contains("\"missing\": 1"), "{listed}");
    place.run(&["image", "import", &source, "--name", "quay.io/team/app:1"]).good();
    place.run(&["store", "verify"]).good();
}

#[test]
fn charts_are_added_listed_and_removed() {
    let daemon = Daemon::start("");
    let place = &daemon.place;
    let source = place.path("chart/app");
    std::fs::create_dir_all(&source).unwrap();
    std::fs::write(source.join("Chart.yaml"), "apiVersion: v2\nname: app\nversion: 1.2.0\nappVersion: '9'\n")
        .unwrap();
    let helm = crate::registry_clients::tool("helm");
    let packed = std::process::Command::new(helm)
        .arg("package")
        .arg(&source)
        .current_dir(place.folder.path())
        .output();
    assert!(packed.unwrap().status.success());
    place.run(&["chart", "add", "app-1.2.0.tgz", "--repository", "team"]).good();
    place.run(&["chart", "add", "app-1.2.0.tgz", "--repository", "team"]).bad(1, "--force");
    place.run(&["chart", "add", "app-1.2.0.tgz", "--repository", "team", "--force"]).good();
    place.run(&["chart", "add", "etc/edge.toml"]).bad(1, "helm package");
    let listed = place.run(&["chart", "list", "-o", "json"]).good().out;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed[0]["repository"], "team");
    assert_eq!((&listed[0]["version"], &listed[0]["appVersion"]), (&json!("1.2.0"), &json!("9")));
    let told = place.run(&["chart", "inspect", "app", "--repository", "team"]).good().out;
    assert!(told.contains("charts/app-1.2.0.tgz"), "{told}");
    assert_eq!(curl(&[&format!("{}/team/charts/app-1.2.0.tgz", daemon.url())]), "200");
    place.run(&["chart", "remove", "app", "1.2.0", "--repository", "team"]).good();
    assert_eq!(curl(&[&format!("{}/team/charts/app-1.2.0.tgz", daemon.url())]), "404");
    place.run(&["chart", "remove", "app", "1.2.0", "--repository", "team"]).bad(1, "there is no chart");
}

#[test]
fn names_that_nobody_could_ask_for_are_refused() {
    let place = Place::new();
    for host in ["../../evil", "a/b", ""] {
        place
            .run(&["registry", "configure-containerd", "--check", "--host", host])
            .bad(2, "cannot be the host");
    }
    let chart = place.write("web-1.0.0.tgz", "not looked at").display().to_string();
    for repository in ["../x", "a//b", "api"] {
        place
            .run(&["chart", "add", &chart, "--repository", repository])
            .bad(2, &format!("`{repository}` cannot be a chart repository"));
    }
    place.run(&["chart", "add", &chart, "--repository", "team"]).bad(1, "web-1.0.0.tgz");
}

#[test]
fn a_daemon_is_asked_for_its_status_whatever_the_file_says() {
    let daemon = Daemon::start("");
    daemon.place.write("etc/edge.toml", "colour = 1\n");
    daemon
        .place
        .run(&["config", "get"])
        .bad(2, "unknown key `colour` hint: `edge config sample` lists all keys");
    let status = daemon.status().unwrap();
    assert_eq!((&status["offlineMode"], &status["cloud"]), (&json!(true), &Value::Null));
    let told = daemon.place.run(&["status"]).good().out;
    assert!(told.contains("Offline mode  - (no cloud)\n"), "{told}");
    daemon.place.run(&["config", "sample"]).good();
}
