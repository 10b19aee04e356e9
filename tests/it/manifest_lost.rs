//! A manifest whose file is lost or damaged is not here: whoever wants it has it again from where it came.

use std::path::PathBuf;

use edge::registry::{Settings, UpstreamRow};
use edge::sys::digest::Digest;
use serde_json::Value;

use crate::command::{Done, Place};
use crate::mirror::{noise, states};
use crate::mirror_faults::{Liar, answer};
use crate::registry::{MANIFEST, serve};

const DAMAGES: [fn(&PathBuf); 2] =
    [|file| std::fs::remove_file(file).unwrap(), |file| std::fs::write(file, b"{}").unwrap()];

fn file_of(state: &std::path::Path, digest: &Digest) -> PathBuf {
    state.join(format!("store/blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex()))
}

/// An image, and its manifest's digest.
fn image(liar: &Liar, tag: &str, seed: u32) -> Digest {
    let layer = noise(seed, 5000);
    liar.image(tag, &layer, &[answer(200, &layer)]);
    Digest::sha256(&liar.body(&format!("/v2/a/b/manifests/{tag}")))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_asks_its_upstream_for_a_lost_manifest_wherever_the_tag_points_now() {
    let (liar, folder) = (Liar::start().await, tempfile::tempdir().unwrap());
    let digest = image(&liar, "1", 1);
    let row = UpstreamRow::new("registry.example", &format!("http://127.0.0.1:{}", liar.port));
    let settings = Settings { upstreams: vec![row], ..Settings::default() };
    let path = "/v2/a/b/manifests/1?ns=registry.example";
    let edge = serve(folder.path(), settings.clone()).await;
    assert_eq!(edge.get(path).await.status(), 200);
    edge.stop().await;
    image(&liar, "1", 2);
    for damage in DAMAGES {
        let file = file_of(folder.path(), &digest);
        damage(&file);
        let edge = serve(folder.path(), settings.clone()).await;
        let got = edge.get(path).await;
        assert_eq!(got.status(), 200);
        assert_eq!(Digest::sha256(&got.bytes().await.unwrap()), digest);
        assert_eq!(Digest::sha256(&std::fs::read(file).unwrap()), digest);
        edge.stop().await;
    }
    // Where it is gone there too, what the tag stands for by now is better than nothing.
    liar.say(&format!("/v2/a/b/manifests/{digest}"), &[answer(404, b"")]);
    std::fs::remove_file(file_of(folder.path(), &digest)).unwrap();
    let edge = serve(folder.path(), settings).await;
    let got = edge.get(path).await;
    assert_eq!(got.status(), 200);
    assert_eq!(got.bytes().await.unwrap(), liar.body("/v2/a/b/manifests/1"));
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_and_the_mirror_bring_a_lost_manifest_back_and_no_push_sends_a_damaged_one() {
    let (liar, place) = (Liar::start().await, Place::new());
    let digest = image(&liar, "1", 1);
    let file = file_of(&place.path("state"), &digest);
    let name = format!("127.0.0.1:{}/a/b:1", liar.port);
    let far = format!("127.0.0.1:{}/far", liar.port);
    let work = tokio::task::spawn_blocking(move || {
        let is_back = || assert_eq!(Digest::sha256(&std::fs::read(&file).unwrap()), digest);
        place.run(&["image", "pull", &name]).good();
        for damage in DAMAGES {
            damage(&file);
            place.run(&["image", "pull", &name]).good();
            is_back();
        }
        let rule = format!(
            "[[mirror.images]]\nrepository = \"{}\"\ntags = {{ exact = [\"1\"] }}\n",
            name.trim_end_matches(":1")
        );
        place.write("etc/edge.toml", &rule);
        let sync = || {
            let done: Done = place.run(&["mirror", "sync", "-o", "json"]).good();
            states(&serde_json::from_str::<Value>(&done.out).unwrap())
        };
        assert_eq!(sync(), ["b:1 new"]);
        for damage in DAMAGES {
            damage(&file);
            sync();
            is_back();
        }
        // JSON all the same.
        std::fs::write(&file, format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}"}}"#)).unwrap();
        let pushed = place.run(&["mirror", "push", &far, "--insecure"]);
        assert!(pushed.code == 1 && pushed.out.contains(&format!("`{digest}` is not here")), "{pushed:?}");
    });
    work.await.unwrap();
    assert!(liar.heard(&format!("far/127.0.0.1-{}/a/b/blobs/uploads/", liar.port)).is_empty());
}
