//! What is about an image comes with it: through pull-through and by `edge image pull`, from registries with the referrers
//! API and from those where a tag stands in for it.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use edge::registry::{Settings, UpstreamRow};
use edge::store::GcSettings;
use edge::sys::digest::Digest;
use serde_json::{Value, json};

use crate::command::Place;
use crate::registry::{INDEX, MANIFEST, Running, client, header, image, serve, writable};
use crate::registry_pull::DockerRegistry;

const REPO: &str = "team/app";
const SIGNED: &[u8] = b"what was signed";

async fn put_blob(url: &str, bytes: &[u8]) -> Digest {
    let digest = Digest::sha256(bytes);
    let begun = client().post(format!("{url}/v2/{REPO}/blobs/uploads/")).send().await.unwrap();
    let location = header(&begun, "location");
    let location = if location.starts_with('/') { format!("{url}{location}") } else { location.to_owned() };
    let between = if location.contains('?') { '&' } else { '?' };
    let put = client().put(format!("{location}{between}digest={digest}")).body(bytes.to_vec());
    assert_eq!(put.send().await.unwrap().status(), 201);
    digest
}

async fn put_manifest(url: &str, name: &str, manifest: &Value) -> Digest {
    let text = manifest.to_string();
    let digest = Digest::sha256(text.as_bytes());
    let name = if name.is_empty() { digest.as_str() } else { name };
    let put = client()
        .put(format!("{url}/v2/{REPO}/manifests/{name}"))
        .header("content-type", manifest["mediaType"].as_str().unwrap())
        .body(text);
    let answer = put.send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    digest
}

/// An image under tag 1 with a bill of materials that has a signature of its own, and one of cosign's tags. Says the
/// image, the bill and the signature.
async fn fill(url: &str, tags_stand_in: bool) -> [Digest; 3] {
    let config = put_blob(url, b"{}").await;
    let layer = put_blob(url, b"layer").await;
    let app = image(&config, &[&layer]);
    let app_digest = put_manifest(url, "1", &app).await;
    let signed = put_blob(url, SIGNED).await;
    let about = |subject: &Digest, text: &Value, kind: &str| {
        let mut manifest = image(&config, &[&signed]);
        manifest["layers"][0]["size"] = SIGNED.len().into();
        manifest["artifactType"] = json!(kind);
        manifest["subject"] =
            json!({"mediaType": MANIFEST, "digest": subject, "size": text.to_string().len()});
        manifest
    };
    let bill = about(&app_digest, &app, "x/bill");
    let bill_digest = put_manifest(url, "", &bill).await;
    let signature = about(&bill_digest, &bill, "x/signature");
    let signature_digest = put_manifest(url, "", &signature).await;
    if tags_stand_in {
        for (subject, text, of) in
            [(&app_digest, &bill, &bill_digest), (&bill_digest, &signature, &signature_digest)]
        {
            let listed = json!({"mediaType": MANIFEST, "digest": of, "size": text.to_string().len(), "artifactType": "x"});
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [listed]});
            put_manifest(url, &format!("sha256-{}", subject.hex()), &index).await;
        }
    }
    put_manifest(url, &format!("sha256-{}.sig", app_digest.hex()), &image(&config, &[])).await;
    [app_digest, bill_digest, signature_digest]
}

fn through(url: &str) -> Settings {
    Settings { upstreams: vec![UpstreamRow::new("registry.far", url)], ..Settings::default() }
}

/// Asks an edge that has nothing yet, then again when the upstream is gone.
async fn pulled_through(
    folder: &Path,
    url: &str,
    [app, bill, signature]: &[Digest; 3],
    gone: impl AsyncFnOnce(),
) {
    let edge = serve(folder, through(url)).await;
    let referrers = async |subject: &Digest| -> Vec<String> {
        let answer = edge.get(&format!("/v2/{REPO}/referrers/{subject}?ns=registry.far")).await;
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, INDEX));
        let found: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let found = found["manifests"].as_array().unwrap().clone();
        found.iter().map(|one| one["digest"].as_str().unwrap().to_owned()).collect()
    };
    // All who ask at once wait for the same look.
    let all = futures_util::future::join_all((0..4).map(|_| referrers(app))).await;
    assert!(all.iter().all(|found| found == &[bill.as_str()]), "{all:?}");
    assert_eq!(referrers(bill).await, [signature.as_str()]);
    assert_eq!(referrers(signature).await, Vec::<String>::new());
    // What is listed comes whole by itself.
    let (blob, signed) =
        (format!("/v2/{REPO}/blobs/{}?ns=registry.far", Digest::sha256(SIGNED)), Digest::sha256(SIGNED));
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while crate::store::open(folder).blob(None, &signed).unwrap().is_none() {
        assert!(std::time::Instant::now() < until, "it does not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    gone().await;
    assert_eq!(edge.get(&blob).await.bytes().await.unwrap(), SIGNED);
    assert_eq!(referrers(app).await, [bill.as_str()]);
    let manifest = edge.get(&format!("/v2/{REPO}/manifests/{bill}?ns=registry.far")).await;
    assert_eq!(
        (manifest.status().as_u16(), header(&manifest, "docker-content-digest")),
        (200, bill.as_str())
    );
    // Of what nobody is known to be about, nothing is known offline either, at once.
    assert_eq!(referrers(&Digest::sha256(b"other")).await, Vec::<String>::new());
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_through_finds_what_is_about_an_image_and_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let docker = DockerRegistry::start(folder.path()).await;
    let url = format!("http://127.0.0.1:{}", docker.port);
    let digests = fill(&url, true).await;
    pulled_through(&folder.path().join("one"), &url, &digests, async move || drop(docker)).await;

    let far = serve(&folder.path().join("far"), writable()).await;
    let url = far.url.clone();
    let digests = fill(&url, false).await;
    pulled_through(&folder.path().join("two"), &url, &digests, async move || far.stop().await).await;
}

/// Every page of the referrers of `subject`: what each lists, and how large it is.
async fn pages(edge: &Running, subject: &Digest, query: &str) -> Vec<(Vec<String>, usize)> {
    let mut all = Vec::new();
    let mut path = format!("/v2/{REPO}/referrers/{subject}{query}");
    loop {
        let answer = edge.get(&path).await;
        let told = (answer.status().as_u16(), header(&answer, "content-type"));
        assert_eq!(told, (200, INDEX), "{path}");
        let filtered = if query.contains("artifactType") { "artifactType" } else { "" };
        assert_eq!(header(&answer, "oci-filters-applied"), filtered, "{path}");
        let next = header(&answer, "link").to_owned();
        let text = answer.text().await.unwrap();
        let found: Value = serde_json::from_str(&text).unwrap();
        let found = found["manifests"].as_array().unwrap().iter();
        all.push((found.map(|one| one["digest"].as_str().unwrap().to_owned()).collect(), text.len()));
        match next.strip_prefix('<').and_then(|next| next.strip_suffix(">; rel=\"next\"")) {
            Some(next) => path = next.to_owned(),
            None => return all,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_larger_than_a_manifest_comes_in_pages_and_is_read_so() {
    let folder = tempfile::tempdir().unwrap();
    let far = serve(&folder.path().join("far"), writable()).await;
    let config = put_blob(&far.url, b"{}").await;
    let app = image(&config, &[]);
    let subject = put_manifest(&far.url, "1", &app).await;
    let mut about = Vec::new();
    for n in 0..7 {
        let mut manifest = image(&config, &[]);
        manifest["artifactType"] = json!(if n == 0 { "x/other" } else { "x/bill" });
        manifest["subject"] =
            json!({"mediaType": MANIFEST, "digest": subject, "size": app.to_string().len()});
        // The last one fills a page alone.
        let size = if n == 6 { (4 << 20) - 1024 } else { 1 << 20 };
        manifest["annotations"] = json!({"n": format!("{n}{}", "x".repeat(size))});
        about.push(put_manifest(&far.url, "", &manifest).await.to_string());
    }
    let mut bills = about[1..].to_vec();
    bills.sort();
    about.sort();
    for (query, expected) in [("", &about), ("?artifactType=x/bill", &bills)] {
        let pages = pages(&far, &subject, query).await;
        assert!(pages.len() > 2, "{query}");
        assert!(pages.iter().all(|(listed, size)| !listed.is_empty() && *size <= 4 << 20), "{query}");
        let listed: Vec<String> = pages.into_iter().flat_map(|(listed, _)| listed).collect();
        assert_eq!(listed, *expected, "{query}");
    }
    // Another edge reads them all, and gives them out so.
    let edge = serve(&folder.path().join("near"), through(&far.url)).await;
    let listed = pages(&edge, &subject, "?ns=registry.far").await.into_iter().flat_map(|(listed, _)| listed);
    assert_eq!(listed.collect::<Vec<_>>(), about);
    edge.stop().await;
    far.stop().await;
}

async fn pulled_by_hand(url: &str, [app, bill, signature]: &[Digest; 3]) {
    let place = Place::new();
    place.write(
        "etc/edge.toml",
        &format!("[[registry.upstreams]]\nhost = \"registry.far\"\nurl = \"{url}\"\n"),
    );
    let arguments = ["image", "pull", "registry.far/team/app:1"];
    let pulled = tokio::task::spawn_blocking(move || (place.run(&arguments).good(), place)).await.unwrap();
    let (done, place) = pulled;
    assert!(done.out.contains("with 3 attached"), "{done:?}");
    let store = crate::store::open(&place.path("state"));
    let (repository, now) =
        ("registry.far/team/app", GcSettings { grace: Duration::ZERO, ..GcSettings::default() });
    let kept = || {
        let of = |subject: &Digest| {
            let found = store.referrers(repository, subject).unwrap();
            found.into_iter().map(|one| one.digest).collect::<Vec<_>>()
        };
        (of(app), of(bill))
    };
    assert_eq!(kept(), (vec![bill.clone()], vec![signature.clone()]));
    // A collection keeps what is about an image for as long as the image, though it has no name of its own.
    store.collect(&now).unwrap();
    assert_eq!(kept(), (vec![bill.clone()], vec![signature.clone()]));
    assert!(store.blob(None, &Digest::sha256(SIGNED)).unwrap().is_some());
    let names: Vec<String> = store.refs(None).unwrap().iter().map(|found| found.name.clone()).collect();
    assert_eq!(names, ["1", &format!("sha256-{}.sig", app.hex())]);
    for name in names {
        store.remove_tag(repository, &name, &edge::store::Owner::Push).unwrap();
    }
    drop(store);
    // In another process, nothing counts as used a moment ago.
    std::thread::sleep(Duration::from_millis(1100));
    let store = crate::store::open(&place.path("state"));
    store.collect(&now).unwrap();
    assert!(store.blob(None, &Digest::sha256(SIGNED)).unwrap().is_none());
    assert_eq!(store.referrers(repository, app).unwrap().len(), 0);
}

/// The files below a folder that hold these bytes.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.flat_map(|path| match path.is_dir() {
        true => files_with(&path, bytes),
        false if std::fs::read(&path).is_ok_and(|read| read == bytes) => vec![path],
        false => Vec::new(),
    });
    found.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_an_image_and_is_broken_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let far = serve(&folder.path().join("far"), writable()).await;
    let [_, bill, _] = fill(&far.url, false).await;
    let lost = files_with(folder.path(), SIGNED);
    assert!(!lost.is_empty());
    lost.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let place = Place::new();
    let table = format!("[[registry.upstreams]]\nhost = \"registry.far\"\nurl = \"{}\"\n", far.url);
    place.write("etc/edge.toml", &table);
    let arguments = ["image", "pull", "registry.far/team/app:1"];
    let done = tokio::task::spawn_blocking(move || place.run(&arguments).good()).await.unwrap();
    assert!(done.out.contains("with 1 attached"), "cosign's tag came: {done:?}");
    let warned = done.err.lines().any(|line| line.contains("warning: ") && line.contains(bill.as_str()));
    assert!(warned, "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_pulled_by_hand_brings_what_is_about_it() {
    let folder = tempfile::tempdir().unwrap();
    let docker = DockerRegistry::start(folder.path()).await;
    let url = format!("http://127.0.0.1:{}", docker.port);
    let digests = fill(&url, true).await;
    pulled_by_hand(&url, &digests).await;

    let far = serve(&folder.path().join("far"), writable()).await;
    let digests = fill(&far.url, false).await;
    pulled_by_hand(&far.url, &digests).await;
    far.stop().await;
}

/// From a registry with the referrers API to docker-registry, which has none.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_mirror_pushes_is_found_where_there_is_no_referrers_api() {
    let folder = tempfile::tempdir().unwrap();
    let far = serve(&folder.path().join("far"), writable()).await;
    let [app, bill, signature] = fill(&far.url, false).await;
    // Some client has kept a list besides, of less.
    let config = put_blob(&far.url, b"{}").await;
    let mut note = image(&config, &[]);
    note["subject"] = json!({"mediaType": MANIFEST, "digest": app, "size": 1});
    let note_digest = put_manifest(&far.url, "", &note).await;
    let listed = json!({"mediaType": MANIFEST, "digest": note_digest, "size": note.to_string().len()});
    let list = format!("sha256-{}", app.hex());
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [listed]});
    put_manifest(&far.url, &list, &index).await;

    let place = std::sync::Arc::new(Place::new());
    let edge = async |arguments: &[&str]| {
        let (place, arguments) =
            (place.clone(), arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        let run = move || place.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(run).await.unwrap().good().out
    };
    let host = format!("127.0.0.1:{}", far.port);
    let rule = format!("[[mirror.images]]\nrepository = \"{host}/{REPO}\"\ntags = {{ exact = [\"1\"] }}\n");
    place.write("etc/edge.toml", &rule);
    edge(&["mirror", "sync"]).await;
    let docker = DockerRegistry::start(folder.path()).await;
    let to = format!("127.0.0.1:{}", docker.port);
    edge(&["mirror", "push", &to]).await;
    let list_at = async |subject: &Digest| {
        let path = host.replace(':', "-");
        let url = format!("http://{to}/v2/{path}/{REPO}/manifests/sha256-{}", subject.hex());
        let answer = client().get(&url).header("accept", INDEX).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), header(&answer, "content-type")), (200, INDEX));
        let there =
            url.replace(&format!("sha256-{}", subject.hex()), header(&answer, "docker-content-digest"));
        let list: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let listed = list["manifests"].as_array().unwrap().iter();
        // What the note is, is said by who lists it first.
        let kind = |one: &Value| {
            if one["digest"] == json!(note_digest) { Value::Null } else { one["artifactType"].clone() }
        };
        let listed: HashMap<String, Value> =
            listed.map(|one| (one["digest"].as_str().unwrap().to_owned(), kind(one))).collect();
        (listed, there)
    };
    let about_app =
        HashMap::from([(bill.to_string(), json!("x/bill")), (note_digest.to_string(), Value::Null)]);
    let (listed, there) = list_at(&app).await;
    assert_eq!(listed, about_app);
    assert_eq!(list_at(&bill).await.0, HashMap::from([(signature.to_string(), json!("x/signature"))]));
    // What is there is neither sent nor listed again; a list that is lost is made anew.
    let again = edge(&["mirror", "push", &to]).await;
    assert!(again.contains("0 B sent"), "{again}");
    assert_eq!(list_at(&app).await, (listed, there.clone()));
    assert_eq!(client().delete(&there).send().await.unwrap().status(), 202);
    edge(&["mirror", "push", &to]).await;
    assert_eq!(list_at(&app).await.0, about_app);
    far.stop().await;
}
