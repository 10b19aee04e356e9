//! `edge mirror sync NAME` asks those alone that can want the name, and goes on while others are gone.

use std::path::Path;
use std::time::Instant;

use serde_json::json;

use crate::mirror::{Site, noise, states};
use crate::mirror_sources::{Web, package};
use crate::registry_clients::{run, tool};

/// What nginx was asked for since the last call.
fn asked(folder: &Path) -> usize {
    let log = folder.join("access.log");
    let lines = std::fs::read_to_string(&log).unwrap_or_default().lines().count();
    std::fs::write(&log, "").unwrap();
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_asks_only_those_who_can_want_it() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (root, at) = (folder.path().join("root"), site.host());
    std::fs::create_dir(&root).unwrap();
    let values = format!("image: {at}/team/side:1\n");
    let file = package(folder.path(), "name: app-chart\nversion: 1.0.0\n", &values).await;
    std::fs::rename(&file, root.join("app-chart-1.0.0.tgz")).unwrap();
    run(tool("helm"), &["repo", "index", &root.display().to_string()]).await;
    let web = Web::start(folder.path(), &format!("root {};", root.display()));
    for (name, seed) in [("app", 1), ("other", 2), ("side", 3)] {
        site.upstream.push_image(&format!("team/{name}"), "1", &[&noise(seed, 3000)]).await;
    }
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    site.configure(&format!(
        "[[mirror.images]]\nrepository = \"HOST/team/app\"\ntags = {{ glob = \"*\" }}\n\
         [[mirror.images]]\nrepository = \"HOST/team/other\"\ntags = {{ glob = \"*\" }}\n\
         [[mirror.images]]\nrepository = \"127.0.0.1:{gone}/team/gone\"\ntags = {{ glob = \"*\" }}\n\
         [[mirror.charts]]\nrepository = \"http://127.0.0.1:{}\"\nimages = true\n",
        web.port
    ));
    site.requests();
    asked(folder.path());
    let (code, summary) = site.sync(&["app:1"]).await;
    assert_eq!(
        (code, states(&summary)),
        (0, vec!["app:1 new".to_owned()]),
        "who is gone is not asked: {summary}"
    );
    let requests = site.requests();
    assert!(requests.iter().all(|line| line.contains("/team/app/")), "{requests:#?}");
    assert_eq!(asked(folder.path()), 0, "no index of charts was read");

    // Nobody knows the name but a chart, whose own name nobody asked for.
    let (code, summary) = site.sync(&["side:1"]).await;
    assert_eq!(
        (code, states(&summary)),
        (0, vec!["side:1 new".to_owned(), "app-chart-1.0.0 new".to_owned()])
    );
    assert!(asked(folder.path()) > 0);
    assert!(site.requests().iter().all(|line| line.contains("/team/side/")));
    // What is known of it from then on is enough; what another rule wants of it is not forgotten.
    site.upstream.push_image("team/side", "1", &[&noise(4, 3000)]).await;
    let (code, summary) = site.sync(&["team/side"]).await;
    assert_eq!(
        (code, states(&summary)),
        (0, vec!["side:1 updated".to_owned(), "app-chart-1.0.0 unchanged".to_owned()])
    );
    let told = site.edge(&["mirror", "explain", &format!("{at}/team/side:1")]).await.good().out;
    assert!(told.contains("chart app-chart-1.0.0: values.yaml image"), "{told}");

    drop(web);
    let begun = Instant::now();
    let (code, summary) = site.sync(&["team/other"]).await;
    assert_eq!(
        (code, states(&summary), &summary["failures"]),
        (0, vec!["other:1 new".to_owned()], &json!([]))
    );
    assert!(begun.elapsed().as_secs() < 10);
    let unknown = site.edge(&["mirror", "sync", "nobody"]).await;
    assert!(
        unknown.code == 1
            && unknown.err.contains("it is not known whether a rule wants `nobody`: charts http"),
        "{unknown:?}"
    );
}

/// What each kind of filter chooses of one repository; and manifests from a web server.
#[tokio::test(flavor = "multi_thread")]
async fn rules_choose_by_glob_pattern_range_newest_and_digest() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let mut last = None;
    for (seed, tag) in
        [(1, "1.0.0"), (2, "1.1.0"), (3, "v2.0.0"), (4, "2.1.0-rc.1"), (5, "nightly-7"), (6, "3.0.0")]
    {
        last = Some(site.upstream.push_image("team/app", tag, &[&noise(seed, 2000)]).await);
    }
    let digest = last.unwrap();
    for (filter, expected) in [
        ("tags = { glob = \"1.*\" }".to_owned(), vec!["1.0.0", "1.1.0"]),
        ("tags = { regex = \"^n.*[0-9]$\" }".to_owned(), vec!["nightly-7"]),
        ("tags = { semver = \">=1.1, <3\" }".to_owned(), vec!["1.1.0", "v2.0.0"]),
        ("tags = { semver = \"<3\", latest = 1 }".to_owned(), vec!["v2.0.0"]),
        ("tags = { latest = 2 }".to_owned(), vec!["3.0.0", "v2.0.0"]),
        ("tags = { glob = \"*.*\", latest = 2 }".to_owned(), vec!["2.1.0-rc.1", "3.0.0"]),
        (format!("digests = [\"{digest}\"]"), vec![digest.as_str()]),
    ] {
        site.configure(&format!("[[mirror.images]]\nrepository = \"HOST/team/app\"\n{filter}\n"));
        let (code, summary) = site.sync(&["--dry-run"]).await;
        let mut names: Vec<String> = states(&summary);
        names.iter_mut().for_each(|name| *name = name["app:".len()..].replace(" new", ""));
        names.sort();
        assert_eq!((code, names.iter().map(String::as_str).collect::<Vec<_>>()), (0, expected), "{filter}");
    }
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nspec: {{containers: [{{name: a, image: '{}/team/app:1.0.0'}}]}}\n",
        site.host()
    );
    std::fs::create_dir(folder.path().join("root")).unwrap();
    std::fs::write(folder.path().join("root/all.yaml"), pod).unwrap();
    let web = Web::start(folder.path(), &format!("root {};", folder.path().join("root").display()));
    site.configure(&format!("[[mirror.manifests]]\nurl = \"http://127.0.0.1:{}/all.yaml\"\n", web.port));
    let (code, summary) = site.sync(&[]).await;
    assert_eq!((code, states(&summary)), (0, vec!["app:1.0.0 new".to_owned()]), "{summary}");
}
