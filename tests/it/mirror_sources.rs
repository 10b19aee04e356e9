//! Sources and ways to them: charts in registries and what they depend on, referrers, a proxy, an upstream that hangs,
//! windows that close; and how much memory it takes.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use edge::registry::Settings;
use serde_json::{Value, json};

use crate::command::Daemon;
use crate::mirror::{Site, noise, size_of, states};
use crate::registry::{serve, writable};
use crate::registry_clients::{layout, run, tool};

pub fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// nginx with a `location`; it ends with the value.
pub struct Web {
    child: Child,
    pub port: u16,
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Web {
    pub fn start(folder: &Path, location: &str) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!(
            "daemon off; master_process off; pid {0}/nginx.pid; error_log {0}/nginx.log;\nevents {{}}\nhttp {{ access_log {0}/access.log; \
             client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
             server {{ listen 127.0.0.1:{port}; location / {{ {location} }} }} }}\n",
            folder.display()
        );
        let config = folder.join("nginx.conf");
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        let child = command.arg("-c").arg(&config).stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "nginx does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port }
    }
}

/// A chart's package, made of these files by tar: helm asks for the charts that one depends on, which are not in it.
pub async fn package(folder: &Path, chart: &str, values: &str) -> String {
    let name = chart.lines().find_map(|line| line.strip_prefix("name: ")).unwrap();
    let version = chart.lines().find_map(|line| line.strip_prefix("version: ")).unwrap();
    write(&folder.join(name).join("Chart.yaml"), &format!("apiVersion: v2\n{chart}"));
    write(&folder.join(name).join("values.yaml"), values);
    let file = folder.join(format!("{name}-{version}.tgz")).display().to_string();
    run("tar", &["-czf", &file, "-C", &folder.display().to_string(), name]).await;
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn charts_in_a_registry_bring_their_images_and_what_they_depend_on() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let charts = format!("oci://{}/charts", site.host());
    let (root, at) = (folder.path().join("root"), site.host());
    std::fs::create_dir(&root).unwrap();
    let base =
        package(folder.path(), "name: base\nversion: 3.0.0\n", &format!("image: {at}/team/base:3\n")).await;
    std::fs::rename(&base, root.join("base-3.0.0.tgz")).unwrap();
    run(tool("helm"), &["repo", "index", &root.display().to_string()]).await;
    let web = Web::start(folder.path(), &format!("root {};", root.display()));
    let depends = format!(
        "dependencies:\n- {{name: lib, version: '>=1', repository: '{charts}'}}\n\
         - {{name: base, version: 3.x.x, repository: 'http://127.0.0.1:{}'}}\n- {{name: own, version: 1.0.0, repository: ''}}\n",
        web.port
    );
    let app = format!("name: app\nversion: 1.0.0+b1\n{depends}");
    for (chart, values) in [
        (app.as_str(), format!("image: {{repository: {at}/team/app, tag: '7'}}\n")),
        ("name: app\nversion: 0.9.0\n", String::new()),
        ("name: lib\nversion: 1.2.0\n", format!("image: {at}/team/lib:2\n")),
        ("name: lib\nversion: 1.1.0\n", String::new()),
    ] {
        let file = package(folder.path(), chart, &values).await;
        run(tool("helm"), &["push", &file, &charts, "--plain-http"]).await;
    }
    for (name, tag) in [("app", "7"), ("lib", "2"), ("base", "3")] {
        site.upstream.push_image(&format!("team/{name}"), tag, &[&noise(1, 3000)]).await;
    }
    site.configure(&format!(
        "[[mirror.charts]]\nrepository = \"{charts}\"\nname = \"app\"\nversions = \">=1\"\nimages = true\ndependencies = true\n"
    ));
    let expected =
        ["app:1.0.0_b1 new", "lib:1.2.0 new", "app:7 new", "base:3 new", "lib:2 new", "base-3.0.0 new"];
    let (code, dry) = site.sync(&["--dry-run"]).await;
    assert_eq!((code, states(&dry)), (0, expected.map(str::to_owned).to_vec()), "{dry}");
    assert_eq!(size_of(&site.place.path("state/store/uploads")), 0);
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, states(&summary)), (0, expected.map(str::to_owned).to_vec()));
    let told = site.edge(&["mirror", "explain", &format!("{at}/team/app:7")]).await.good().out;
    assert!(told.contains("chart app-1.0.0+b1: values.yaml image"), "{told}");
    let told = site.edge(&["mirror", "explain", &format!("{at}/charts/lib:1.2.0")]).await.good().out;
    assert!(told.contains("dependency of app-1.0.0+b1"), "{told}");
    site.requests();
    let (code, again) = site.sync(&[]).await;
    assert_eq!((code, &again["generation"], &again["bytes"]), (0, &Value::Null, &json!(0)), "{again}");
    assert!(site.requests().iter().all(|line| !line.contains("/blobs/")), "packages are read from the store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_no_chart_is_noted_and_the_others_bring_their_images() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (at, charts) = (site.host(), format!("oci://{}/charts", site.host()));
    let image = format!("image: {{repository: {at}/team/app, tag: '7'}}\n");
    let file = package(folder.path(), "name: app\nversion: 1.0.0\n", &image).await;
    run(tool("helm"), &["push", &file, &charts, "--plain-http"]).await;
    site.upstream.push_image("charts/app", "2.0.0", &[&noise(1, 3000)]).await;
    site.upstream.push_image("team/app", "7", &[&noise(2, 3000)]).await;
    site.configure(&format!("[[mirror.charts]]\nrepository = \"{charts}\"\nname = \"app\"\nimages = true\n"));
    let (code, summary) = site.sync(&[]).await;
    assert!(code == 1 && states(&summary).contains(&"app:7 new".to_owned()), "{summary}");
    let failures = summary["failures"].as_array().unwrap();
    let why = failures[0]["why"].as_str().unwrap();
    assert!(failures.len() == 1 && why.contains("app:2.0.0` is no chart"), "{summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_that_hang_by_the_referrers_api_come_along() {
    let folder = tempfile::tempdir().unwrap();
    let upstream = serve(&folder.path().join("up"), writable()).await;
    let source = folder.path().join("layout");
    layout(&source);
    let name = format!("127.0.0.1:{}/team/app:1", upstream.port);
    run(tool("crane"), &["push", "--insecure", &source.display().to_string(), &name]).await;
    write(&folder.path().join("signature.jws"), "{\"payload\":\"x\"}");
    let oras = crate::support::parts::program("oci-tools/usr/bin/oras").unwrap();
    let attach = |kind: &str, to: &str| {
        let line = format!(
            "cd {} && exec {oras} attach --plain-http --artifact-type {kind} {to} signature.jws:application/jose+json",
            folder.path().display()
        );
        async move { run("sh", &["-c", &line]).await }
    };
    let notation = "application/vnd.cncf.notary.signature";
    attach(notation, &name).await;
    let digest = run(tool("crane"), &["digest", "--insecure", &name]).await.trim().to_owned();
    let listed = |answer: String| -> Vec<Value> {
        let index: Value = serde_json::from_str(&answer).unwrap();
        index["manifests"].as_array().unwrap().clone()
    };
    let first = upstream.get(&format!("/v2/team/app/referrers/{digest}")).await.text().await.unwrap();
    let signature = listed(first)[0]["digest"].as_str().unwrap().to_owned();
    // A bill of materials that is about the signature: what hangs on what hangs.
    attach("application/spdx+json", &format!("127.0.0.1:{}/team/app@{signature}", upstream.port)).await;

    let site = Site::start().await;
    let host = format!("127.0.0.1:{}", upstream.port);
    site.configure(&format!("[[mirror.images]]\nrepository = \"{host}/team/app\"\ntags = {{ exact = [\"1\"] }}\nplatforms = [\"all\"]\n"));
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, summary["images"][0]["attached"].as_array().unwrap().len()), (0, 2), "{summary}");
    upstream.stop().await;
    let here =
        serve(&site.place.path("state"), Settings { pull_through: false, ..Settings::default() }).await;
    let path = format!("/v2/team/app/referrers/{digest}?ns={host}&artifactType={notation}");
    let found = listed(here.get(&path).await.text().await.unwrap());
    assert_eq!((found.len(), found[0]["digest"].as_str()), (1, Some(signature.as_str())));
    let manifest = here.get(&format!("/v2/team/app/manifests/{signature}?ns={host}")).await;
    let manifest: Value = serde_json::from_str(&manifest.text().await.unwrap()).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let blob = here.get(&format!("/v2/team/app/blobs/{layer}?ns={host}")).await.text().await.unwrap();
    assert_eq!(blob, "{\"payload\":\"x\"}");
    here.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_used_but_for_those_who_are_asked_without() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    site.upstream.push_image("team/app", "1", &[&noise(1, 3000)]).await;
    let location = format!("proxy_pass http://{}; proxy_set_header Host $http_host;", site.host());
    let proxy = Web::start(folder.path(), &location);
    let port = proxy.port;
    // Nobody but the proxy knows this name.
    let rules = |more: &str| {
        site.configure(&format!(
            "[mirror]\nproxy = \"http://127.0.0.1:{}\"\n{more}[[mirror.images]]\nrepository = \"registry.invalid/team/app\"\n\
             tags = {{ exact = [\"1\"] }}\ninsecure = true\n[[mirror.images]]\nrepository = \"HOST/team/app\"\ntags = {{ exact = [\"1\"] }}\n",
            port
        ));
    };
    rules("no-proxy = \"registry.invalid\"\n");
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, states(&summary)), (1, vec!["app:1 new".into(), "app:1 failed".into()]), "{summary}");
    let log = folder.path().join("access.log");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "", "nobody was asked through the proxy");
    rules("");
    let (code, summary) = site.sync(&[]).await;
    assert_eq!(
        (code, states(&summary)),
        (0, vec!["app:1 unchanged".into(), "app:1 new".into()]),
        "{summary}"
    );
    let asked = std::fs::read_to_string(&log).unwrap();
    assert!(asked.lines().count() >= 2 && asked.contains("http://registry.invalid/v2/team/app/"), "{asked}");
    assert!(!asked.contains("127.0.0.1:"), "what is on this machine is asked without: {asked}");
    drop(proxy);
    rules("");
    site.upstream.push_image("team/app", "1", &[&noise(2, 3000)]).await;
    let (_, summary) = site.sync(&[]).await;
    assert_eq!(states(&summary), ["app:1 updated", "app:1 failed"], "without the proxy there is no way");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_hangs_in_the_middle_is_asked_again_for_the_rest() {
    let site = Site::start().await;
    let layer = noise(3, 40 << 20);
    site.upstream.push_image("team/big", "1", &[&layer]).await;
    site.configure("[mirror]\nbandwidth-limit = \"8MiB/s\"\n[[mirror.images]]\nrepository = \"HOST/team/big\"\ntags = { exact = [\"1\"] }\n");
    site.requests();
    let mut child = site.place.edge(&["mirror", "sync", "-o", "json"]);
    let child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let uploads = site.place.path("state/store/uploads");
    let until = Instant::now() + Duration::from_secs(30);
    while size_of(&uploads) < 4 << 20 {
        assert!(Instant::now() < until, "nothing came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(site.upstream.pid()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_secs(35)).await;
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).unwrap();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), states(&summary)),
        (Some(0), vec!["big:1 new".to_owned()]),
        "{summary}"
    );
    let requests = site.requests();
    assert!(requests.iter().any(|line| line.ends_with(" 206")), "{requests:#?}");
    let travelled = summary["bytes"].as_u64().unwrap();
    assert!(travelled < (40 << 20) + 10_000, "no byte comes twice: {travelled}");
}

/// Waits until `holds` of `edge status`.
async fn until(site: &Site, what: &str, span: u64, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(span);
    loop {
        let done = site.edge(&["status", "-o", "json"]).await.good();
        let status: Value = serde_json::from_str(&done.out).unwrap();
        if holds(&status["mirror"]) {
            return status;
        }
        assert!(Instant::now() < deadline, "not {what}: {status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_runs_keep_to_their_windows_and_go_on_where_one_closed() {
    let site = Site::start().await;
    site.upstream.push_image("team/big", "1", &[&noise(1, 6 << 20)]).await;
    let clock = |minutes: i64| {
        let at = jiff::Timestamp::now().checked_add(jiff::SignedDuration::from_mins(minutes)).unwrap();
        at.strftime("%H:%M").to_string()
    };
    let rule = |window: &str, limit: &str| {
        site.configure(&format!(
            "[mirror]\nschedule = \"* * * * * *\"\njitter = \"0s\"\n{window}{limit}[[mirror.images]]\nrepository = \"HOST/team/big\"\n\
             tags = {{ exact = [\"1\"] }}\n"
        ));
    };
    // Closed: nothing begins, though it was never run.
    rule(&format!("windows = [\"{}-{}\"]\n", clock(120), clock(180)), "");
    let daemon = Daemon::start(&site.place);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let idle = until(&site, "known", 10, |mirror| mirror["schedule"].is_string()).await;
    assert_eq!(idle["mirror"]["started"], Value::Null, "{idle}");
    drop(daemon);
    // Open until the end of this minute: what did not come by then stays half.
    while jiff::Timestamp::now().as_second() % 60 > 45 {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    rule(&format!("windows = [\"{}-{}\"]\n", clock(0), clock(1)), "bandwidth-limit = \"64KiB/s\"\n");
    let daemon = Daemon::start(&site.place);
    let closed = until(&site, "cut short", 75, |mirror| mirror["ended"].is_string()).await;
    let why = closed["mirror"]["failed"][0]["why"].as_str().unwrap();
    assert!(why.contains("the window for transfers has closed"), "{closed}");
    drop(daemon);
    let half = size_of(&site.place.path("state/store/uploads"));
    assert!(half > 0 && half < 6 << 20, "{half}");
    rule("", "");
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, states(&summary)), (0, vec!["big:1 new".to_owned()]));
    assert!(summary["bytes"].as_u64().unwrap() < (6 << 20) - half + 10_000, "{summary} after {half}");
}

/// The most that a run of `edge mirror sync` held in memory of its own, in MB: what is mapped from files, such as the
/// program's text, is the kernel's to drop.
fn held(site: &Site) -> u64 {
    let _ = std::fs::remove_dir_all(site.place.path("state"));
    let mut child =
        site.place.edge(&["mirror", "sync"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let now = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0);
        most = most.max(now >> 10);
        if let Some(ended) = child.try_wait().unwrap() {
            assert!(ended.success());
            return most;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_images() {
    let site = Site::start().await;
    let rules = |tag: &str| {
        let rule = |at: u32| {
            format!(
                "[[mirror.images]]\nrepository = \"HOST/team/app{at}\"\ntags = {{ exact = [\"{tag}\"] }}\n"
            )
        };
        let all: String = (0..8).map(rule).collect();
        site.configure(&format!("[mirror]\nparallel = 8\n{all}"));
    };
    for at in 0..8_u32 {
        let piece = noise(at + 1, 1 << 20);
        for (tag, pieces) in [("small", 2), ("large", 24_u8)] {
            let layer: Vec<u8> = (0..pieces).flat_map(|n| piece.iter().map(move |byte| byte ^ n)).collect();
            site.upstream.push_image(&format!("team/app{at}"), tag, &[&layer]).await;
        }
    }
    rules("small");
    let small = held(&site);
    rules("large");
    let large = held(&site);
    // Beside these, the program itself is 10 MB.
    assert!(large <= 25, "{large} MB for eight layers of 24 MB at once, {small} MB for eight of 2 MB");
    assert!(large <= small + 6, "{large} MB for eight layers of 24 MB at once, {small} MB for eight of 2 MB");
}
