//! Tests of what the sources want.

use super::*;
use crate::mirror::fetch::Wire;
use crate::oci::{Client, ClientSettings};
use crate::sys::progress::Progress;

fn rule<T: serde::de::DeserializeOwned>(rule: serde_json::Value) -> T {
    serde_json::from_value(rule).unwrap()
}

/// A repository's key is for all that is taken of it, also by sources that have no key of their own.
#[tokio::test]
async fn a_key_binds_whoever_wants_images_of_its_repository() {
    let folder = tempfile::tempdir().unwrap();
    let store = crate::store::Store::open(crate::store::Settings::below(folder.path())).unwrap();
    let client = Arc::new(Client::new(ClientSettings::default()).unwrap());
    let wire = Wire::new(client, store, Progress::silent(), (None, 4), None);
    let signed = |repository: &str| {
        rule::<ImageRule>(serde_json::json!({"repository": repository, "tags": {"exact": ["other"]},
            "cosign-key": "/etc/edge/shop.pub"}))
    };
    let (pause, chart) = ("registry.k8s.io/pause", "q.io/charts/app");
    let mut settings = Settings {
        images: vec![signed(pause), signed(chart)],
        kubernetes_version: Some("1.33.1".into()),
        kubernetes_images: vec!["pause".into(), "coredns".into()],
        ..Settings::default()
    };
    let mut gathered = gather(&wire, &settings, &Scope::All, None, true).await;
    settings.charts = vec![rule(serde_json::json!({"repository": "oci://q.io/charts", "name": "app"}))];
    // As it was read from the registry.
    gathered.tags.insert(chart.into(), vec!["1.0.0".into()]);
    chart_rule(&wire, &settings, &settings.charts[0], "charts", true, &mut gathered).await.unwrap();
    let mut keys = BTreeMap::new();
    for wanted in gathered.plan.images() {
        keys.insert(wanted.image.to_string(), wanted.terms.keys.len());
    }
    let expected = [
        ("q.io/charts/app:1.0.0", 1),
        ("q.io/charts/app:other", 1),
        ("registry.k8s.io/coredns/coredns:v1.12.0", 0),
        ("registry.k8s.io/pause:3.10", 1),
        ("registry.k8s.io/pause:other", 1),
    ];
    assert_eq!(keys, expected.map(|(name, count)| (name.to_owned(), count)).into());
}
