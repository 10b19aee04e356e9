//! The daemon's own runs: by the schedule, one at a time, and what `edge status` says of them.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::Daemon;
use crate::mirror::{Site, noise};

async fn status(site: &Site) -> Value {
    let done = site.edge(&["status", "-o", "json"]).await.good();
    serde_json::from_str(&done.out).unwrap()
}

async fn until(site: &Site, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let now = status(site).await;
        if holds(&now) {
            return now;
        }
        assert!(Instant::now() < deadline, "not {what}: {now}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_mirrors_by_its_schedule_and_says_what_is_missing() {
    let site = Site::start().await;
    site.upstream.push_image("team/app", "1", &[&noise(1, 1000)]).await;
    site.configure("[mirror]\nschedule = \"* * * * * *\"\njitter = \"0s\"\n[[mirror.images]]\nrepository = \"HOST/team/app\"\ntags = { exact = [\"1\", \"2\"] }\n");
    let daemon = Daemon::start(&site.place);
    let first =
        until(&site, "one missing", |now| now["mirror"]["missing"].as_array().is_some_and(|m| m.len() == 1))
            .await;
    assert!(first["mirror"]["missing"][0].as_str().unwrap().ends_with("team/app:2"), "{first}");
    // A moment after its record is there.
    let state = |now: &Value, state: &str| {
        let mut parts = now["parts"].as_array().unwrap().iter();
        parts.any(|part| part["part"] == "mirror" && part["state"] == state)
    };
    until(&site, "in trouble", |now| state(now, "trouble")).await;
    let text = site.edge(&["status"]).await.good().out;
    assert!(text.contains("Mirror        2 wanted, last run") && text.contains("Missing"), "{text}");
    // The next run brings what was pushed meanwhile.
    site.upstream.push_image("team/app", "2", &[&noise(2, 1000)]).await;
    let next =
        until(&site, "nothing missing", |now| now["mirror"]["missing"].as_array().is_some_and(Vec::is_empty))
            .await;
    assert!(next["mirror"]["started"].as_str() > first["mirror"]["started"].as_str(), "{next}");
    until(&site, "well", |now| state(now, "good")).await;
    drop(daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_are_one_too_many() {
    let site = Site::start().await;
    site.upstream.push_image("team/big", "1", &[&noise(1, 3_000_000)]).await;
    site.configure("[mirror]\nbandwidth-limit = \"512KiB/s\"\n[[mirror.images]]\nrepository = \"HOST/team/big\"\ntags = { exact = [\"1\"] }\n");
    let daemon = Daemon::start(&site.place);
    let mut first = site.place.edge(&["mirror", "sync"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while crate::mirror::size_of(&site.place.path("state/store/uploads")) == 0 {
        assert!(Instant::now() < deadline, "nothing came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // `edge mirror list` answers meanwhile, and a second run does not begin.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let second = site.edge(&["mirror", "sync"]).await;
        if second.code == 1 && second.err.contains("a mirror run is under way since") {
            break;
        }
        assert!(Instant::now() < deadline, "{second:?}");
    }
    site.edge(&["mirror", "list"]).await.good();
    first.kill().unwrap();
    first.wait().unwrap();
    // Whoever hangs up calls it off.
    let deadline = Instant::now() + Duration::from_secs(10);
    while site.edge(&["mirror", "sync", "--dry-run"]).await.code != 0 {
        assert!(Instant::now() < deadline, "the run goes on though nobody waits for it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(daemon);
}

/// So that the snap is not refreshed while it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_by_the_schedule_is_at_work() {
    let site = Site::start().await;
    site.upstream.push_image("team/big", "1", &[&noise(1, 2_000_000)]).await;
    site.configure("[mirror]\nschedule = \"* * * * * *\"\njitter = \"0s\"\nbandwidth-limit = \"512KiB/s\"\n[[mirror.images]]\nrepository = \"HOST/team/big\"\ntags = { exact = [\"1\"] }\n");
    let daemon = Daemon::start(&site.place);
    let socket = site.place.path("edge.sock");
    let deadline = Instant::now() + Duration::from_secs(20);
    while crate::mirror::size_of(&site.place.path("state/store/uploads")) == 0 {
        assert!(Instant::now() < deadline, "nothing came");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(edge::daemon::ask_busy(&socket).await.unwrap(), ["mirror.schedule"]);
    drop(daemon);
}
