//! What snapd may hand over, and what becomes of it.

use serde_json::json;

use super::*;

fn taken(values: Json, before: Option<&Config>) -> Result<Taken, String> {
    read(values.as_object().unwrap(), &Config::default(), before).map_err(|e| e.to_string())
}

fn with_mode(offline_mode: bool) -> Config {
    Config { offline_mode, ..Config::default() }
}

#[test]
fn nothing_set_is_the_defaults_and_all_of_them_are_told() {
    let taken = taken(json!({}), None).unwrap();
    assert_eq!(taken.config, Config::default());
    assert_eq!(taken.missing, values(&Config::default()));
    assert!(taken.missing.contains(&("offline-mode", json!(true))));
    assert!(!taken.missing.iter().any(|(key, _)| *key == "cloud.kubeconfig"), "it has no default");
}

#[test]
fn values_are_those_of_the_file_and_read_back() {
    let mut config = Config { offline_mode: false, ..Config::default() };
    config.cloud.probe_interval = std::time::Duration::from_secs(7);
    config.registry.pull_through = false;
    let mut tree = json!({});
    for (key, value) in values(&config) {
        let mut place = &mut tree;
        for word in key.split('.') {
            place = &mut place[word];
        }
        *place = value;
    }
    let taken = taken(tree, None).unwrap();
    assert_eq!((taken.config, taken.missing, taken.gone), (config, vec![], vec![]));
}

#[test]
fn texts_of_switches_count_and_other_types_do_not() {
    let read =
        |value: Json| taken(json!({"offline-mode": value}), None).map(|taken| taken.config.offline_mode);
    assert_eq!(read(json!("false")), Ok(false));
    assert_eq!(read(json!(false)), Ok(false));
    assert_eq!(read(json!(null)), Ok(true), "snapd's null is not set");
    for (value, told) in [(json!("False"), "False"), (json!(0), "0"), (json!([]), "[]")] {
        assert_eq!(read(value), Err(format!("key `offline-mode` is `{told}`, expected `true` or `false`")));
    }
}

/// `snap set system proxy.http=` empties a key of snapd's own.
#[test]
fn an_empty_text_is_told_how_to_take_the_key_out() {
    for (values, key) in [
        (json!({"mirror": {"schedule": ""}}), "mirror.schedule"),
        (json!({"mirror": {"images": ""}}), "mirror.images"),
        (json!({"mirror": {"bandwidth-limit": ""}}), "mirror.bandwidth-limit"),
        (json!({"offline-mode": ""}), "offline-mode"),
    ] {
        let told = taken(values, None).unwrap_err();
        assert!(told.starts_with(&format!("key `{key}` is ``, expected ")), "{told}");
        assert!(told.ends_with(&format!(" hint: `snap unset edge {key}` takes it out")), "{told}");
    }
}

/// snapd takes `snap set edge bundle.gateway=42` for a number.
#[test]
fn a_text_may_look_like_something_else() {
    let plain = json!({"bundle": {"gateway": 42, "fleet": true}, "mirror": {"kubernetes": {"images": [7, "8"]}},
        "registry": {"own-hosts": 9}});
    let config = taken(plain, None).unwrap().config;
    assert_eq!(
        (config.bundle.gateway.as_deref(), config.bundle.fleet.as_deref()),
        (Some("42"), Some("true"))
    );
    assert_eq!(config.mirror.kubernetes_images, ["7", "8"]);
    assert_eq!(config.registry.own_hosts, ["9"]);
    // 1.10, as it comes from snapd.
    for value in [json!(1.1), json!(["7"]), json!({"a": 1})] {
        let told = taken(json!({"bundle": {"gateway": value}}), None).unwrap_err();
        assert!(told.ends_with("expected a text on one line"), "{told}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (values, told) in [
        (json!({"colour": "red"}), "unknown key `colour` hint: `edge config sample` lists all keys"),
        (
            json!({"cloud": {"probe-intervall": "5s"}}),
            "unknown key `cloud.probe-intervall` hint: did you mean",
        ),
        (json!({"cloud": 3}), "key `cloud` is `3`, expected a section"),
        (json!({"kubelet": true}), "key `kubelet` is `true`, expected a section"),
        (json!({"kubelet": {"offline": true}}), "unknown key `kubelet.offline`"),
        (
            json!({"kubelet": {"offline-mode": 1}}),
            "key `kubelet.offline-mode` is `1`, expected `true` or `false`",
        ),
        (json!({"proxy": {"listen": "0.0.0.0:1"}}), "key `proxy.listen` is `0.0.0.0:1`, expected a loopback"),
        (
            json!({"registry": {"listen": {"a": 1}}}),
            "key `registry.listen` is `{ a = 1 }`, expected an address",
        ),
        (json!({"registry": {"push": true}}), "key `registry.push` is `true`, which needs"),
        (
            json!({"state-dir": 18446744073709551615_u64}),
            "key `state-dir` is `18446744073709551615`, expected",
        ),
    ] {
        let told_now = taken(values, None).unwrap_err();
        assert!(told_now.starts_with(told), "{told_now}");
        assert_eq!(told_now.lines().count(), 1);
    }
}

#[test]
fn the_older_name_is_taken_as_the_key_and_is_not_kept() {
    // As it stands once defaults are set: the key is there, and the user typed the older name.
    let both = |mode: bool, alias: bool| json!({"offline-mode": mode, "kubelet": {"offline-mode": alias}});
    for (values, before, after) in [
        (json!({"kubelet": {"offline-mode": "false"}}), None, false),
        (both(true, false), Some(with_mode(true)), false),
        (both(false, true), Some(with_mode(false)), true),
        (both(false, false), Some(with_mode(true)), false),
    ] {
        let taken = taken(values, before.as_ref()).unwrap();
        assert_eq!(taken.config.offline_mode, after);
        assert!(
            taken.gone == [SECTION] && taken.missing.contains(&("offline-mode", json!(after))),
            "{taken:?}"
        );
    }
    for (values, before) in [(both(false, true), Some(with_mode(true))), (both(true, false), None)] {
        let told = taken(values, before.as_ref()).unwrap_err();
        assert!(
            told.contains("`kubelet.offline-mode` is") && told.contains("two names of one key"),
            "{told}"
        );
    }
    assert!(
        taken(json!({"kubelet": {}}), None).is_ok_and(|taken| taken.gone.is_empty()),
        "snapd leaves an empty one behind"
    );
}

#[test]
fn sections_are_asked_for_once_each() {
    let sections = sections();
    assert!(
        sections.contains(&"offline-mode") && sections.contains(&"cloud") && sections.contains(&"kubelet")
    );
    let mut sorted = sections.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), sections.len());
}
