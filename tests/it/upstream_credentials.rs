//! What is shown to upstreams, and to whom: several credentials for one registry, programs that have them, redirects.

use std::os::unix::fs::PermissionsExt as _;

use edge::oci::{Client, ClientSettings, Credentials, Error, Upstream};
use edge::sys::digest::Digest;

use crate::command::{Done, Place};
use crate::mirror::noise;
use crate::mirror_faults::{Liar, answer};

fn client(credentials: Credentials) -> Client {
    Client::new(ClientSettings { credentials, ..ClientSettings::default() }).unwrap()
}

/// A docker `config.json` with users whose passwords are like their names.
fn config(entries: &[(String, &str)]) -> Credentials {
    let entry =
        |(key, user): &(String, &str)| (key.clone(), serde_json::json!({"username": user, "password": user}));
    let auths: serde_json::Map<_, _> = entries.iter().map(entry).collect();
    Credentials::parse(serde_json::json!({ "auths": auths }).to_string().as_bytes()).unwrap()
}

/// A registry where each of three teams has a user of its own; a stranger to `c` is told 403.
async fn teams() -> (Liar, Upstream) {
    let liar = Liar::start().await;
    for (team, status) in [("a", 401), ("b", 401), ("c", 403)] {
        liar.lock(&format!("/v2/{team}/"), team, team, status);
        liar.say(&format!("/v2/{team}/x/tags/list"), &[answer(200, br#"{"tags":["1"]}"#)]);
    }
    let upstream = Upstream::of_host(&format!("127.0.0.1:{}", liar.port));
    (liar, upstream)
}

#[tokio::test]
async fn each_part_of_a_registry_is_shown_its_own_credential() {
    let (liar, upstream) = teams().await;
    let host = &upstream.host;
    let client =
        client(config(&[(format!("{host}/a"), "a"), (format!("{host}/b/x"), "b"), (host.clone(), "c")]));
    for team in ["a", "b", "c", "a", "b", "c"] {
        let path = format!("{team}/x");
        assert_eq!(client.tags(&upstream, &path).await.unwrap(), ["1"], "{path}");
        let last = liar.heard("/tags/list").pop().unwrap();
        assert_eq!(last["authorization"], crate::mirror_faults::basic(team, team));
    }
    // Once in the open, once with the one that is meant; then the latter alone.
    assert_eq!(liar.heard("/tags/list").len(), 3 * 2 + 3);
}

#[tokio::test]
async fn of_several_pull_secrets_for_a_registry_each_is_tried() {
    let (liar, upstream) = teams().await;
    let mut secrets = config(&[(upstream.host.clone(), "a")]);
    for team in ["b", "c"] {
        secrets.add(config(&[(upstream.host.clone(), team)]));
    }
    let client = client(secrets);
    for team in ["a", "b", "c"] {
        assert_eq!(client.tags(&upstream, &format!("{team}/x")).await.unwrap(), ["1"], "{team}");
    }
    let before = liar.heard("/tags/list").len();
    assert_eq!(client.tags(&upstream, "c/x").await.unwrap(), ["1"]);
    assert_eq!(liar.heard("/tags/list").len(), before + 1, "what was good is known");
    liar.lock("/v2/d/", "d", "d", 403);
    liar.say("/v2/d/x/tags/list", &[answer(200, br#"{"tags":["1"]}"#)]);
    assert!(matches!(client.tags(&upstream, "d/x").await, Err(Error::Unauthorized(_))));
}

/// The password of a helper ends in the middle of a run, while two blobs are fetched with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_helper_is_asked_anew_when_its_password_is_refused() {
    let (liar, place) = (Liar::start().await, Place::new());
    let layer = noise(1, 5000);
    liar.image("1", &layer, &[answer(200, &layer)]);
    for name in ["1", "sha256:"] {
        liar.lock(&format!("/v2/a/b/manifests/{name}"), "robot", "p1", 401);
    }
    liar.lock("/v2/a/b/blobs/", "robot", "p2", 403);
    let helpers = tempfile::tempdir().unwrap();
    let (program, counted) = (helpers.path().join("docker-credential-vault"), helpers.path().join("asked"));
    let counted = counted.display();
    let script = format!(
        "#!/bin/sh\ncat >/dev/null\necho >>{counted}\nn=$(wc -l <{counted})\n\
         [ $n -le 1 ] || n=2\necho \"{{\\\"Username\\\":\\\"robot\\\",\\\"Secret\\\":\\\"p$n\\\"}}\"\n"
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let docker = place.secret("docker.json", r#"{"credsStore":"vault"}"#);
    let host = format!("127.0.0.1:{}", liar.port);
    let rule = format!("[[mirror.images]]\nrepository = \"{host}/a/b\"\ntags = {{ exact = [\"1\"] }}\n");
    place.write("etc/edge.toml", &format!("[mirror]\ndocker-config = \"{}\"\n{rule}", docker.display()));
    let mut sync = place.edge(&["mirror", "sync"]);
    sync.env("PATH", format!("{}:{}", helpers.path().display(), std::env::var("PATH").unwrap()));
    let done = Done::of(tokio::task::spawn_blocking(move || sync.output().unwrap()).await.unwrap());
    assert_eq!(done.code, 0, "{done:?}");
    let asked = std::fs::read_to_string(helpers.path().join("asked")).unwrap().lines().count();
    assert!((2..=3).contains(&asked), "{asked}");
}

/// A redirect leads to a server that says who may give tokens: it is none of its business.
#[tokio::test]
async fn whom_a_redirect_leads_to_learns_no_credential_by_a_challenge() {
    let (liar, elsewhere, third) = (Liar::start().await, Liar::start().await, Liar::start().await);
    let digest = Digest::sha256(b"layer");
    let to = format!("http://127.0.0.1:{}/signed", elsewhere.port);
    liar.say(&format!("/v2/a/b/blobs/{digest}"), &[answer(307, b"").with("location", to)]);
    let challenge = format!("Bearer realm=\"http://127.0.0.1:{}/token\",service=\"x\"", third.port);
    elsewhere.say("/signed", &[answer(401, b"").with("www-authenticate", challenge)]);
    third.say("/token", &[answer(200, br#"{"token":"t"}"#)]);
    let upstream = Upstream::of_host(&format!("127.0.0.1:{}", liar.port));
    let client = client(config(&[(upstream.host.clone(), "ann")]));
    let asked = client.blob(&upstream, "a/b", &digest, 0).await;
    assert!(matches!(asked, Err(Error::Unauthorized(_))), "{asked:?}");
    assert_eq!(third.heard("/token").len(), 0);
    assert_eq!(elsewhere.heard("/signed").len(), 1);
}
