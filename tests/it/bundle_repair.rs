//! What was damaged since an import comes again from the same bundle, or from one that is made by the gateway's receipt. And
//! a gateway that gets no bundles any more.

use edge::bundle::{self, Plan};
use edge::store::{Owner, Store, VerifySettings};
use edge::sys::digest::Digest;

use crate::bundle::{Scene, everything, put_chart, put_image};
use crate::command::{Daemon, Place};
use crate::store_damage::rot;

/// Damages these, and has that noticed.
pub fn lose(gateway: &bundle::Gateway, digests: &[&Digest]) {
    for digest in digests {
        rot(&gateway.state_dir, digest);
    }
    let report = gateway.store.verify(&VerifySettings::default(), |_| true).unwrap();
    assert_eq!(report.damaged.len(), digests.len(), "{report:?}");
}

fn pins(store: &Store) -> Vec<Digest> {
    store.state_of(&Owner::Bundle("main".into())).unwrap().pins
}

#[test]
fn the_same_bundle_again_brings_what_was_damaged_since() {
    let scene = Scene::new();
    let image = put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    let chart = put_chart(&scene.depot, "web", "1.0.0", b"a chart");
    scene.make();
    scene.import().unwrap();
    let store = &scene.gateway.store;
    let (sound, epochs) = (everything(&scene.gateway), (store.epoch(), store.chart_epoch()));
    let layer = Digest::sha256(b"a layer");
    let list = pins(store)[0].clone();
    lose(&scene.gateway, &[&image, &layer, &chart, &list]);
    assert!(store.manifest("q.io/app", "1").unwrap().is_none());
    let shown = scene.gateway.inspect(&scene.stick().join("edge-bundle/main-1"), None).unwrap();
    assert_eq!((shown.in_force, shown.missing, shown.refused), (true, 3, None));

    let again = scene.import().unwrap();
    assert_eq!((again.generation, again.blobs, again.repaired), (None, 3, 4), "{again:?}");
    assert_eq!(again.remarks[0], "it is in force already; 4 damaged blobs were repaired");
    assert_eq!(store.manifest("q.io/app", "1").unwrap().unwrap().blob.digest, image);
    assert_eq!(store.blob(Some("q.io/app"), &layer).unwrap().unwrap().read().unwrap(), b"a layer");
    assert_eq!(store.chart("", "web", "1.0.0").unwrap().unwrap().digest, chart);
    assert_eq!(pins(store).len(), 3);
    assert_eq!(everything(&scene.gateway), sound, "all of it, and nothing else");
    assert!(store.epoch() > epochs.0 && store.chart_epoch() > epochs.1, "nobody goes by what is in memory");
    assert_eq!(store.verify(&VerifySettings::default(), |_| true).unwrap().damaged, []);
    assert_eq!(scene.import().unwrap().remarks[0], "it is in force already; nothing changed");
    // What was rolled back is left as it is.
    put_image(&scene.depot, "q.io/app", Some("2"), b"another layer", "arm64");
    scene.make();
    scene.import().unwrap();
    scene.gateway.roll_back(None, None).unwrap();
    lose(&scene.gateway, &[&layer]);
    let rolled = scene.import().unwrap();
    assert_eq!((rolled.blobs, rolled.bytes, rolled.repaired), (0, 0, 0), "{rolled:?}");
    assert!(rolled.remarks[0].contains("hint: `edge bundle rollback main --to 2`"), "{rolled:?}");
    // The one that is in force again is repaired as before, and the number stays.
    let first = scene.path("first");
    std::fs::create_dir_all(first.join("edge-bundle")).unwrap();
    std::fs::rename(scene.stick().join("edge-bundle/main-1"), first.join("edge-bundle/main-1")).unwrap();
    let repaired = crate::bundle::import(&scene.gateway, &first).unwrap();
    assert_eq!((repaired.generation, repaired.repaired), (None, 1), "{repaired:?}");
    assert_eq!(store.blob(Some("q.io/app"), &layer).unwrap().unwrap().read().unwrap(), b"a layer");
    assert_eq!(store.trust_value("seq:main").unwrap(), Some(2));
    let current = bundle::history(store, None).unwrap().into_iter().find(|entry| entry.current).unwrap();
    assert_eq!(current.generation, 1);
    let taken = crate::bundle_auto::take(&scene.gateway, &first);
    assert_eq!(taken, bundle::auto::Outcome::Known);
    // Not so where another is in force.
    scene.gateway.roll_back(None, Some(2)).unwrap();
    let old = crate::bundle::import(&scene.gateway, &first).unwrap_err();
    assert!(old.to_string().contains("sequence 1 of stream `main` is not above 2"), "{old}");
}

#[test]
fn the_way_back_leads_to_what_was_in_force_before_and_not_to_what_was_refused() {
    let scene = Scene::new();
    let import = |n: u64| {
        put_image(&scene.depot, "q.io/app", Some(&n.to_string()), format!("layer {n}").as_bytes(), "arm64");
        scene.make();
        assert_eq!(scene.import().unwrap().generation, Some(n));
    };
    let back = |to| scene.gateway.roll_back(None, to).map(|entry| entry.generation);
    let kept = || -> Vec<(u64, bool)> {
        bundle::history(&scene.gateway.store, None)
            .unwrap()
            .iter()
            .map(|e| (e.generation, e.current))
            .collect()
    };
    (1..=3).for_each(import);
    // 2 and 3 are bad, and so is 4.
    back(Some(1)).unwrap();
    import(4);
    assert_eq!(kept(), [(4, true), (3, false), (2, false), (1, false)], "1 was in force until now");
    assert_eq!(back(None).unwrap(), 1);
    assert!(scene.gateway.store.manifest("q.io/app", "1").unwrap().is_some());
    assert!(scene.gateway.store.manifest("q.io/app", "2").unwrap().is_none());
    assert!(matches!(back(None), Err(bundle::Error::NoEarlier(_))), "3 and 2 were refused");
    import(5);
    assert_eq!(kept(), [(5, true), (4, false), (3, false), (1, false)]);
    import(6);
    assert_eq!(kept(), [(6, true), (5, false), (4, false)], "three are enough, where the last is among them");
    assert_eq!((back(None).unwrap(), back(None).map_err(|e| e.to_string()).is_err()), (5, true), "1 is gone");
}

#[test]
fn a_receipt_names_only_what_is_here_so_that_the_next_bundle_brings_the_rest() {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"base layer", "arm64");
    scene.make();
    scene.import().unwrap();
    put_image(&scene.depot, "q.io/app", Some("2"), b"second layer", "arm64");
    scene.create(&Plan { receipts: scene.receipts(), ..scene.plan() }).unwrap();
    scene.import().unwrap();
    // Else it would be taken from there.
    std::fs::remove_dir_all(scene.stick().join("edge-bundle/main-1")).unwrap();
    // Of two damaged layers the bundle in force carries one.
    let (base, second) = (Digest::sha256(b"base layer"), Digest::sha256(b"second layer"));
    lose(&scene.gateway, &[&base, &second]);
    let shown = scene.gateway.inspect(&scene.stick().join("edge-bundle/main-2"), None).unwrap();
    assert!(shown.verified && shown.refused.unwrap().contains("1 blobs are missing"));
    let refused = scene.import().unwrap_err();
    assert!(refused.is_refusal() && refused.to_string().contains("1 blobs are missing"), "{refused}");
    let store = &scene.gateway.store;
    assert!(store.blob(None, &second).unwrap().is_some() && store.blob(None, &base).unwrap().is_none());
    // The receipt that it left leads to one that carries the other, and with nothing new besides.
    let made = scene.create(&Plan { receipts: scene.receipts(), ..scene.plan() }).unwrap();
    assert_eq!((made.seq, made.carried), (3, 1));
    assert_eq!(scene.import().unwrap().generation, Some(3));
    assert_eq!(store.blob(Some("q.io/app"), &base).unwrap().unwrap().read().unwrap(), b"base layer");
}

#[test]
fn a_bundle_of_long_ago_is_told_of_by_all_who_speak_of_it() {
    let scene = Scene::new();
    put_image(&scene.depot, "q.io/app", Some("1"), b"a layer", "arm64");
    scene.make();
    let place = Place::new();
    place.write("etc/edge.toml", "[proxy]\nlisten = \"127.0.0.1:0\"\n[registry]\nlisten = \"127.0.0.1:0\"\n");
    let stick = scene.stick().display().to_string();
    place.run(&["trust", "pin", &scene.path("keys/1.root.json").display().to_string()]).good();
    let days = (jiff::Timestamp::now().as_second() - crate::bundle::THEN) / 86_400;
    let told = format!("the bundle was made {days} days ago hint: ");
    let shown = place.run(&["bundle", "inspect", &stick]).good().out;
    assert!(shown.contains(&format!("Warning     {told}")), "{shown}");
    let said = place.run(&["bundle", "import", &stick]).good().out;
    assert!(said.contains(&format!("\n{told}")), "{said}");
    let daemon = Daemon::start(&place);
    let status = || -> (String, serde_json::Value) {
        let json = place.run(&["status", "-o", "json"]).good().out;
        (place.run(&["status"]).good().out, serde_json::from_str(&json).unwrap())
    };
    let (text, json) = status();
    assert!(text.contains(&format!("\nBundle        main-1: {told}")), "{text}");
    let newest = &json["bundles"][0];
    assert_eq!(
        (&newest["stream"], &newest["seq"], &newest["old"]),
        (&"main".into(), &1.into(), &true.into())
    );
    assert_eq!(json["errors"], serde_json::json!([]), "it is no error");
    scene
        .create(&Plan { created: crate::bundle::at(jiff::Timestamp::now().as_second()), ..scene.plan() })
        .unwrap();
    let said = place.run(&["bundle", "import", &stick]).good().out;
    assert!(said.starts_with("main-2 is in force") && !said.contains("days ago"), "{said}");
    let (text, json) = status();
    assert!(!text.contains("days ago"), "{text}");
    assert_eq!((&json["bundles"][0]["days"], &json["bundles"][0]["old"]), (&0.into(), &false.into()));
    drop(daemon);
}
