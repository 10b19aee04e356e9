//! Signatures and what else hangs on images; and policies that ask for them. openssl makes keys and signs, or cosign does.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edge::sys::digest::Digest;
use serde_json::{Value, json};

use crate::command::{Done, Place};
use crate::mirror::{Site, noise, states};
use crate::mirror_faults::{Liar, answer};
use crate::registry::{INDEX, MANIFEST};
use crate::registry_clients::run;
use crate::registry_pull::DockerRegistry;

fn openssl(arguments: &[&str]) {
    let done = Command::new("openssl").args(arguments).output().unwrap();
    assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A key pair as cosign has it: the paths of the private and the public key.
fn keys(folder: &Path, name: &str) -> (String, String) {
    let path = |end: &str| folder.join(format!("{name}.{end}")).display().to_string();
    let (private, public) = (path("key"), path("pub"));
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &private]);
    openssl(&["ec", "-in", &private, "-pubout", "-out", &public]);
    (private, public)
}

fn sign(folder: &Path, key: &str, payload: &[u8]) -> String {
    let (text, signature) = (folder.join("payload"), folder.join("signature"));
    std::fs::write(&text, payload).unwrap();
    openssl(&[
        "dgst",
        "-sha256",
        "-sign",
        key,
        "-out",
        &signature.display().to_string(),
        &text.display().to_string(),
    ]);
    STANDARD.encode(std::fs::read(signature).unwrap())
}

/// What cosign signs of an image.
fn payload(repository: &str, image: &Digest) -> String {
    let payload = json!({"critical": {"identity": {"docker-reference": repository},
        "image": {"docker-manifest-digest": image}, "type": "cosign container image signature"}, "optional": null});
    payload.to_string()
}

/// What `cosign sign --key` leaves in a registry.
async fn put_signature(
    up: &DockerRegistry,
    repository: &str,
    image: &Digest,
    folder: &Path,
    key: &str,
) -> Digest {
    let payload = payload(repository, image);
    let layer = up.push_blob(repository, payload.as_bytes()).await;
    let config = up.push_blob(repository, b"{}").await;
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": layer, "size": payload.len(),
            "annotations": {"dev.cosignproject.cosign/signature": sign(folder, key, payload.as_bytes())}}]});
    up.push_manifest(repository, &format!("sha256-{}.sig", image.hex()), &manifest).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_policy_s_key_has_not_signed_is_refused_and_signatures_come_along() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (private, public) = keys(folder.path(), "ours");
    let (stranger, _) = keys(folder.path(), "stranger");
    let (up, repository) = (&site.upstream, "team/app");
    let good = up.push_image(repository, "good", &[&noise(1, 20_000)]).await;
    up.push_image(repository, "bare", &[&noise(2, 20_000)]).await;
    let other = up.push_image(repository, "other", &[&noise(3, 20_000)]).await;
    let signature = put_signature(up, repository, &good, folder.path(), &private).await;
    put_signature(up, repository, &other, folder.path(), &stranger).await;
    let sbom = up.push_image(repository, &format!("sha256-{}.sbom", good.hex()), &[b"packages"]).await;
    let rule = format!(
        "[[mirror.images]]\nrepository = \"HOST/team/app\"\ntags = {{ exact = [\"good\", \"bare\", \"other\"] }}\ncosign-key = \"{public}\"\n"
    );
    site.configure(&rule);
    let (code, dry) = site.sync(&["--dry-run"]).await;
    assert_eq!((code, states(&dry)[1].as_str()), (3, "app:good new"), "{dry}");
    let signed = payload(repository, &good);
    let held = site.store().blob(None, &Digest::sha256(signed.as_bytes())).unwrap();
    assert!(held.is_none(), "nothing is kept of what is only looked at");
    let hangs = dry["images"][1]["attached"].as_array().map(Vec::len);
    let bytes = dry["images"][1]["bytes"].as_u64().unwrap();
    let (code, summary) = site.sync(&[]).await;
    assert_eq!(code, 3, "verification refused: {summary}");
    // The signature had come by then, to be looked at.
    let came = summary["images"][1]["bytes"].as_u64().unwrap();
    assert_eq!((hangs, bytes), (Some(2), came + signed.len() as u64), "{dry}");
    assert_eq!(states(&summary), ["app:bare refused", "app:good new", "app:other refused"]);
    let why = |at: usize| summary["images"][at]["error"].as_str().unwrap().to_owned();
    assert!(why(0).contains("it has no signature"), "{}", why(0));
    assert!(why(2).contains("the signature is not of this key"), "{}", why(2));
    let store = site.store();
    let name = format!("{}/team/app", site.host());
    let expected =
        vec!["good".to_owned(), format!("sha256-{}.sbom", good.hex()), format!("sha256-{}.sig", good.hex())];
    assert_eq!(store.tags(&name, "", 10).unwrap().unwrap(), expected);
    for digest in [&good, &signature, &sbom] {
        assert!(store.manifest_of(digest).unwrap().is_some());
    }
    assert!(
        store.blob(None, &Digest::sha256(&noise(2, 20_000))).unwrap().is_none(),
        "nothing of it was fetched"
    );
    drop(store);
    // A tag that moves to something unsigned stays what it was.
    up.push_image(repository, "good", &[&noise(4, 20_000)]).await;
    let (code, summary) = site.sync(&["app:good"]).await;
    assert_eq!((code, states(&summary)), (3, vec!["app:good refused".to_owned()]));
    let kept = site.store().manifest(&name, "good").unwrap().unwrap().blob.digest;
    assert_eq!(kept, good);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_attached_goes_when_its_image_is_wanted_no_more() {
    let site = Site::start().await;
    let (up, repository) = (&site.upstream, "team/app");
    let old = up.push_image(repository, "1.0.0", &[&noise(1, 20_000)]).await;
    up.push_image(repository, "2.0.0", &[&noise(2, 30_000)]).await;
    up.push_image(repository, &format!("sha256-{}.att", old.hex()), &[b"attestation"]).await;
    let rule = |tags: &str| {
        site.configure(&format!("[[mirror.images]]\nrepository = \"HOST/team/app\"\ntags = {{ {tags} }}\n"))
    };
    rule("semver = \"*\"");
    assert_eq!(site.sync(&[]).await.0, 0);
    let nothing: Value =
        serde_json::from_str(&site.edge(&["mirror", "prune", "-o", "json"]).await.good().out).unwrap();
    assert_eq!((&nothing["remove"], &nothing["kept"]), (&json!([]), &json!(3)));
    rule("semver = \">=2\"");
    site.edge(&["mirror", "prune"]).await.bad(2, "nobody can be asked hint: `--yes`");
    assert_eq!(site.sync(&[]).await.0, 0, "a run removes nothing");
    let name = format!("{}/team/app", site.host());
    assert_eq!(site.store().tags(&name, "", 10).unwrap().unwrap().len(), 3);
    let shown = site.edge(&["mirror", "prune", "--dry-run"]).await.good().out;
    assert!(
        shown.contains("app:1.0.0") && shown.contains(".att") && shown.contains("2 would go, 1 stay"),
        "{shown}"
    );
    let done = site.edge(&["mirror", "prune", "--yes"]).await.good().out;
    assert!(done.contains("2 removed, 1 stay"), "{done}");
    assert_eq!(site.store().tags(&name, "", 10).unwrap().unwrap(), ["2.0.0"]);
}

/// cosign itself, from Debian: a signature as it always made them, and a bundle as its version 3 makes them. An attestation
/// by the same key is no signature.
#[tokio::test(flavor = "multi_thread")]
async fn what_cosign_signs_or_bundles_satisfies_the_policy() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let cosign = crate::support::parts::program("oci-tools/usr/bin/cosign").unwrap();
    let at = folder.path().display().to_string();
    let in_folder = |arguments: String| {
        let line = format!("cd {at} && HOME={at} COSIGN_PASSWORD=x exec timeout 60 {cosign} {arguments}");
        async move { run("sh", &["-c", &line]).await }
    };
    in_folder("generate-key-pair".into()).await;
    std::fs::write(folder.path().join("nothing.json"), "{}").unwrap();
    let mut digests = std::collections::BTreeMap::new();
    for (seed, tag) in [(1, "signed"), (2, "bundled"), (3, "attested"), (4, "bare")] {
        digests.insert(tag, site.upstream.push_image("team/app", tag, &[&noise(seed, 3000)]).await);
    }
    let name = |tag: &str| format!("{}/team/app@{}", site.host(), digests[tag]);
    let flags = "--yes --tlog-upload=false --key cosign.key --allow-insecure-registry --allow-http-registry";
    in_folder(format!("sign {flags} {}", name("signed"))).await;
    for (tag, kind) in
        [("bundled", "https://sigstore.dev/cosign/sign/v1"), ("attested", "https://spdx.dev/Document")]
    {
        let bundle = format!("--new-bundle-format --predicate nothing.json --type {kind}");
        in_folder(format!("attest {flags} {bundle} {}", name(tag))).await;
    }
    site.configure(&format!(
        "[[mirror.images]]\nrepository = \"HOST/team/app\"\ntags = {{ exact = [\"signed\", \"bundled\", \"attested\", \"bare\"] }}\n\
         cosign-key = \"{at}/cosign.pub\"\n"
    ));
    let (code, summary) = site.sync(&[]).await;
    let expected = ["app:attested refused", "app:bare refused", "app:bundled new", "app:signed new"];
    assert_eq!((code, states(&summary)), (3, expected.map(str::to_owned).to_vec()), "{summary}");
    let why = |at: usize| summary["images"][at]["error"].as_str().unwrap().to_owned();
    assert!(why(0).contains("what is signed is a `https://spdx.dev/Document`"), "{}", why(0));
    assert!(why(1).contains("it has no signature"), "{}", why(1));
    for at in [2, 3] {
        assert!(
            !summary["images"][at]["attached"].as_array().unwrap().is_empty(),
            "it comes along: {summary}"
        );
    }
}

/// Anybody may hang something on an image. What of it cannot be had says nothing of the signature that can.
#[tokio::test(flavor = "multi_thread")]
async fn what_else_is_about_an_image_and_cannot_be_had_does_not_keep_it_out() {
    let (liar, place, folder) = (Liar::start().await, Place::new(), tempfile::tempdir().unwrap());
    let (private, public) = keys(folder.path(), "ours");
    let layer = noise(1, 5000);
    liar.image("1", &layer, &[answer(200, &layer)]);
    let image = Digest::sha256(&liar.body("/v2/a/b/manifests/1"));
    let payload = payload("a/b", &image);
    let blob = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        liar.say(&format!("/v2/a/b/blobs/{digest}"), &[answer(200, bytes)]);
        digest
    };
    let (config, signed) = (blob(b"{}"), blob(payload.as_bytes()));
    let kind = "application/vnd.dev.cosign.artifact.sig.v1+json";
    let signature = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "digest": signed,
            "size": payload.len(), "annotations": {"dev.cosignproject.cosign/signature":
                sign(folder.path(), &private, payload.as_bytes())}}],
        "subject": {"mediaType": MANIFEST, "digest": image, "size": 1}})
    .to_string();
    let digest = Digest::sha256(signature.as_bytes());
    let manifest = |digest: &Digest| format!("/v2/a/b/manifests/{digest}");
    liar.say(&manifest(&digest), &[answer(200, signature.as_bytes()).with("content-type", MANIFEST)]);
    let listed = |digest: &Digest, kind: Option<&str>| json!({"mediaType": MANIFEST, "digest": digest, "size": 10, "artifactType": kind});
    let list = |entries: &[Value]| {
        let text = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
        answer(200, text.as_bytes()).with("content-type", INDEX)
    };
    // One that says what it is, and one that does not; both are listed first, and neither is there.
    let (sbom, unknown) = (Digest::sha256(b"sbom"), Digest::sha256(b"unknown"));
    let foreign = [listed(&sbom, Some("application/spdx+json")), listed(&unknown, None)];
    let all = [foreign.to_vec(), vec![listed(&digest, Some(kind))]].concat();
    for (about, entries) in [(&image, &all[..]), (&sbom, &[]), (&unknown, &[]), (&digest, &[])] {
        liar.say(&format!("/v2/a/b/referrers/{about}"), &[list(entries)]);
    }
    let sync = async || {
        place.write(
            "etc/edge.toml",
            &format!(
                "[[mirror.images]]\nrepository = \"127.0.0.1:{}/a/b\"\ntags = {{ exact = [\"1\"] }}\ncosign-key = \"{public}\"\n",
                liar.port
            ),
        );
        let mut command = place.edge(&["mirror", "sync", "-o", "json"]);
        let done = Done::of(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap());
        (done.code, serde_json::from_str::<Value>(&done.out).unwrap_or_else(|_| panic!("{done:?}")))
    };
    // Without the signature it is refused; where one could not be looked at, that is not known.
    liar.say(&format!("/v2/a/b/referrers/{image}"), &[list(&foreign)]);
    let (code, summary) = sync().await;
    assert_eq!((code, states(&summary)), (3, vec!["b:1 refused".to_owned()]), "{summary}");
    assert_eq!(liar.heard(&manifest(&sbom)).len(), 0, "what is no signature is not asked for");
    liar.say(&manifest(&unknown), &[answer(503, b"")]);
    let (code, summary) = sync().await;
    assert_eq!((code, states(&summary)), (1, vec!["b:1 failed".to_owned()]), "{summary}");
    liar.say(&manifest(&unknown), &[answer(404, b"")]);
    liar.say(&format!("/v2/a/b/referrers/{image}"), &[list(&all)]);
    let (code, summary) = sync().await;
    assert_eq!((code, states(&summary)), (0, vec!["b:1 new".to_owned()]), "{summary}");
    let one = &summary["images"][0];
    assert_eq!(one["attached"], json!([digest]));
    assert_eq!(one["warnings"].as_array().unwrap().len(), 2, "{one}");
    assert!(one["warnings"][0].as_str().unwrap().contains("did not come with it"), "{one}");
}
