//! A daemon that loses its power in the middle of a transfer goes on by itself after it starts again, with what is good of
//! what it has; and the bandwidth limit, which holds for all that comes.

use std::time::{Duration, Instant};

use edge::store::{Settings, Store};
use edge::sys::digest::Digest;
use serde_json::Value;

use crate::command::{Daemon, Place};
use crate::mirror::{Site, noise, size_of, states};
use crate::mirror_faults::{Liar, answer, sync};
use crate::mirror_sources::{Web, package};
use crate::registry_clients::{run, tool};

async fn wait(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "not {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether a tag is here and well, as the last run found it.
async fn complete(site: &Site, tag: &str) -> bool {
    let listed = site.edge(&["mirror", "list", "-o", "json"]).await.good().out;
    let all: Value = serde_json::from_str(&listed).unwrap();
    let is = |one: &Value| {
        one["name"].as_str().is_some_and(|name| name.ends_with(&format!(":{tag}")))
            && one["here"] == true
            && one["error"].is_null()
    };
    all.as_array().unwrap().iter().any(is)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_was_cut_off_goes_on_by_itself_where_it_was() {
    const SIZE: usize = 6_000_000;
    let site = Site::start().await;
    let rule = |tag: &str, limit: &str| {
        site.configure(&format!(
            "[mirror]\nschedule = \"* * * * * *\"\njitter = \"0s\"\n{limit}[[mirror.images]]\nrepository = \"HOST/team/big\"\n\
             tags = {{ exact = [\"{tag}\"] }}\n"
        ));
    };
    for (tag, damaged) in [("good", false), ("damaged", true)] {
        let layer = noise(if damaged { 8 } else { 9 }, SIZE);
        site.upstream.push_image("team/big", tag, &[&layer]).await;
        rule(tag, "bandwidth-limit = \"1MiB/s\"\n");
        let daemon = Daemon::start(&site.place);
        let uploads = site.place.path("state/store/uploads");
        wait("a third of the blob", async || size_of(&uploads) > 2_000_000).await;
        // SIGKILL: nothing is put in order.
        drop(daemon);
        let half = size_of(&uploads);
        assert!(half < SIZE as u64, "{half}");
        if damaged {
            // As after a power cut: the file is as long as it was, and not all of it was on the disk.
            let file = std::fs::read_dir(&uploads)
                .unwrap()
                .flatten()
                .max_by_key(|entry| entry.metadata().unwrap().len());
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[500_000..600_000].fill(0);
            std::fs::write(&path, bytes).unwrap();
        }
        site.requests();
        rule(tag, "");
        let daemon = Daemon::start(&site.place);
        wait("complete", async || complete(&site, tag).await).await;
        drop(daemon);
        let all = site.requests();
        let of_blobs: Vec<&String> =
            all.iter().filter(|line| line.contains(&format!("/blobs/{}", Digest::sha256(&layer)))).collect();
        assert!(of_blobs[0].ends_with(" 206"), "{all:#?}");
        assert_eq!(of_blobs.len(), if damaged { 2 } else { 1 }, "what was damaged comes once more: {all:#?}");
        let here = site.store().blob(None, &Digest::sha256(&layer)).unwrap().unwrap();
        assert_eq!(here.read().unwrap(), layer);
    }
}

/// An upstream that does not go on where a blob broke off, or goes on elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_blob_that_cannot_be_gone_on_with_comes_from_its_start() {
    let (liar, place) = (Liar::start().await, Place::new());
    for (seed, tag, no) in [
        (1, "416", answer(416, b"")),
        (2, "206", answer(206, b"0123456789").with("content-range", "bytes 0-9/10000")),
    ] {
        let layer = noise(seed, 10_000);
        let digest = Digest::sha256(&layer);
        let store = Store::open(Settings::below(&place.path("state"))).unwrap();
        let mut half = store.fetch_upload(&digest, 10_000).unwrap();
        half.write(&layer[..5000]).unwrap();
        drop((half, store));
        liar.image(tag, &layer, &[no, answer(200, &layer)]);
        let (code, summary) = sync(&place, liar.port, tag, "").await;
        assert_eq!((code, states(&summary)), (0, vec![format!("b:{tag} new")]), "{summary}");
        let heard = liar.heard(digest.as_str());
        let ranges: Vec<_> = heard.iter().map(|headers| headers.get("range")).collect();
        assert_eq!(ranges, [Some(&"bytes=5000-".parse().unwrap()), None]);
    }
}

/// Two images at once, and charts from a web server: together no faster than the limit.
#[tokio::test(flavor = "multi_thread")]
async fn the_bandwidth_limit_holds_for_all_that_comes() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(folder.path().join("app")).unwrap();
    // What does not compress.
    std::fs::write(folder.path().join("app/noise.bin"), noise(7, 700_000)).unwrap();
    let file = package(folder.path(), "name: app\nversion: 1.0.0\n", "a: 1\n").await;
    std::fs::rename(&file, root.join("app-1.0.0.tgz")).unwrap();
    run(tool("helm"), &["repo", "index", &root.display().to_string()]).await;
    let web = Web::start(folder.path(), &format!("root {};", root.display()));
    for at in 1..3 {
        site.upstream.push_image(&format!("team/app{at}"), "1", &[&noise(at, 700_000)]).await;
    }
    let image = |at: u32| {
        format!("[[mirror.images]]\nrepository = \"HOST/team/app{at}\"\ntags = {{ exact = [\"1\"] }}\n")
    };
    site.configure(&format!(
        "[mirror]\nbandwidth-limit = \"512KiB/s\"\n{}{}[[mirror.charts]]\nrepository = \"http://127.0.0.1:{}\"\n",
        image(1),
        image(2),
        web.port
    ));
    let begun = Instant::now();
    let (code, summary) = site.sync(&[]).await;
    let taken = begun.elapsed().as_secs_f64();
    assert_eq!((code, states(&summary).len()), (0, 3), "{summary}");
    // 2.1 MB at half a mebibyte a second.
    assert!(taken >= 3.9, "{taken} s");
    assert!(taken < 12.0, "{taken} s");
}
