//! What `edge bundle inspect` says of how large the things in a bundle are.

use std::collections::BTreeMap;
use std::path::Path;

use edge::bundle::{Gateway, Identity, Plan};
use edge::store::{Child, Kind};
use edge::sys::digest::Digest;
use serde_json::json;

use crate::bundle::{
    IMAGE, INDEX, Scene, gateway, import, pin, put_chart, put_image, put_manifest, receipts,
};
use crate::bundle_forge::flip;
use crate::command::Place;
use crate::mirror::noise;

/// The sizes that a gateway is told, by name.
fn sizes(gateway: &Gateway, bundle: &Path) -> BTreeMap<String, Option<u64>> {
    let said = gateway.inspect(bundle, None).unwrap();
    assert!(said.verified, "{said:?}");
    assert_eq!(said.refs.len(), said.sizes.len());
    said.refs.into_iter().zip(said.sizes).collect()
}

#[test]
fn each_name_has_the_size_of_all_that_it_needs() {
    let scene = Scene::new();
    let store = &scene.depot;
    let arm = put_image(store, "q.io/app", None, &noise(1, 5000), "arm64");
    let amd = put_image(store, "q.io/app", None, &noise(2, 7000), "amd64");
    let entry = |digest: &Digest, architecture: &str| json!({"mediaType": IMAGE, "digest": digest, "size": 1, "platform": {"os": "linux", "architecture": architecture}});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(&arm, "arm64"), entry(&amd, "amd64")]});
    let children = [&arm, &amd].map(|digest| Child { digest: digest.clone(), size: 1, kind: Kind::Manifest });
    let top = put_manifest(store, "q.io/app", Some("1"), &index.to_string(), INDEX, children.to_vec());
    // Its configuration is that of the other one.
    let one = put_image(store, "q.io/one", Some("1"), &noise(5, 6000), "arm64");
    put_chart(store, "web", "1.0.0", &noise(3, 3000));
    let file = scene.path("note.txt");
    std::fs::write(&file, "for the crew").unwrap();
    let plan = || {
        let mut plan = Plan { part_size: 512, ..scene.plan() };
        plan.selection.images = vec!["q.io/app:1".into(), "q.io/one:1".into()];
        plan.selection.charts = vec!["web:1.0.0".into()];
        plan.selection.files = vec![file.clone().into()];
        plan.selection.platforms = vec!["linux/arm64".parse().unwrap()];
        plan
    };
    let first = scene.create(&plan()).unwrap().folder;
    let bytes = |digest: &Digest| scene.depot.blob(None, digest).unwrap().unwrap().size;
    let config = br#"{"architecture":"arm64","os":"linux"}"#.len() as u64;
    let mut wanted = BTreeMap::from([
        ("q.io/app:1".to_owned(), Some(bytes(&top) + bytes(&arm) + config + 5000)),
        ("q.io/one:1".to_owned(), Some(bytes(&one) + config + 6000)),
        ("chart web-1.0.0".to_owned(), Some(3000)),
        ("file note.txt".to_owned(), Some("for the crew".len() as u64)),
    ]);
    assert_eq!(sizes(&scene.gateway, &first), wanted);
    scene.import().unwrap();

    // A delta leaves manifests out: what is here counts as what comes.
    let new = put_image(&scene.depot, "q.io/one", Some("1"), &noise(4, 9000), "arm64");
    let delta = Plan { receipts: receipts(&scene.path("")), ..plan() };
    let delta = scene.create(&delta).unwrap().folder;
    wanted.insert("q.io/one:1".into(), Some(bytes(&new) + config + 9000));
    assert_eq!(sizes(&scene.gateway, &delta), wanted);
    // So does what lies in an older bundle beside it. Where it is nowhere it is not known, and the rest is.
    let fresh = gateway(&scene.path("fresh"), Identity::default());
    pin(&fresh, &scene.path("keys/1.root.json"));
    assert_eq!(sizes(&fresh, &delta), wanted);
    std::fs::rename(&first, scene.path("away")).unwrap();
    wanted.insert("q.io/app:1".into(), None);
    assert_eq!(sizes(&fresh, &delta), wanted);
    // Nothing is made of a manifest that is not what was signed.
    let lies = |part: &str| delta.join(format!("blobs/sha256/{}{part}", new.hex()));
    flip(&if lies("").exists() { lies("") } else { lies(".p0000") });
    wanted.insert("q.io/one:1".into(), None);
    assert_eq!(sizes(&fresh, &delta), wanted);

    let place = Place::new();
    let root = scene.path("keys/1.root.json").display().to_string();
    let inspect = ["bundle", "inspect", &delta.display().to_string(), "--root", &root];
    let shown = place.run(&inspect).good().out;
    assert!(shown.contains("\n       3000 B  chart web-1.0.0\n         12 B  file note.txt\n"), "{shown}");
    assert!(shown.contains("\n            ?  q.io/one:1\n"), "{shown}");
    let told: serde_json::Value =
        serde_json::from_str(&place.run(&[&inspect[..], &["-o", "json"]].concat()).good().out).unwrap();
    let of = |name: &str| {
        let at = told["refs"].as_array().unwrap().iter().position(|shown| shown == name).unwrap();
        &told["sizes"][at]
    };
    assert_eq!((of("chart web-1.0.0"), of("q.io/one:1")), (&3000.into(), &serde_json::Value::Null));
    // As any import that goes by what is on the stick says.
    assert!(import(&fresh, &delta).unwrap_err().is_refusal());
}
