use super::*;

#[test]
fn a_rule_takes_names_and_versions_of_an_index() {
    let yaml = "entries:\n  app:\n  - {name: app, version: 1.0.0, urls: [charts/app-1.0.0.tgz]}\n  - {name: app, version: 2.0.0, urls: ['https://cdn.example/app-2.0.0.tgz'], digest: abc}\n  - {name: app, version: 1.5, urls: [x.tgz]}\n  other:\n  - {name: other, version: 3.0.0, urls: [other.tgz]}\n";
    let entries = parse(yaml.as_bytes(), None).unwrap();
    let rule = |name: Option<&str>, versions: Option<&str>, latest| ChartRule {
        repository: "https://charts.example.com/stable".into(),
        name: name.map(str::to_owned),
        versions: versions.map(str::to_owned),
        latest,
        images: false,
        dependencies: false,
        path: String::new(),
        insecure: false,
    };
    let chosen = |rule: &ChartRule| -> Vec<String> {
        let wanted = choose(&entries, &Wish::of(rule).unwrap(), "x").unwrap();
        wanted.into_iter().map(|(chart, _)| chart.url.to_string()).collect()
    };
    assert_eq!(
        chosen(&rule(Some("app"), Some(">=1, <2"), None)),
        ["https://charts.example.com/stable/charts/app-1.0.0.tgz"]
    );
    assert_eq!(
        chosen(&rule(None, None, Some(1))),
        ["https://cdn.example/app-2.0.0.tgz", "https://charts.example.com/stable/other.tgz"]
    );
    assert_eq!(chosen(&rule(Some("*"), None, None)).len(), 4);
}

/// As Helm does without `--devel`.
#[test]
fn the_newest_version_is_a_release_where_there_is_one() {
    let chosen = |versions: &[&str], range: Option<&str>, latest| -> Vec<String> {
        let of = |version: &&str| serde_json::json!({"version": version, "urls": ["x.tgz"]});
        let entries: Vec<_> = versions.iter().map(of).collect();
        let index: Index = serde_json::from_value(serde_json::json!({ "app": entries })).unwrap();
        let rule = ChartRule {
            repository: "https://charts.example.com".into(),
            name: Some("app".into()),
            versions: range.map(str::to_owned),
            latest,
            images: false,
            dependencies: false,
            path: String::new(),
            insecure: false,
        };
        let chosen = choose(&index, &Wish::of(&rule).unwrap(), "x").unwrap();
        chosen.into_iter().map(|(chart, _)| chart.version).collect()
    };
    let all = ["1.9.0", "2.0.0-rc1", "1.10.0"];
    assert_eq!(chosen(&all, None, Some(2)), ["1.10.0", "1.9.0"]);
    assert_eq!(chosen(&all, None, None), ["2.0.0-rc1", "1.10.0", "1.9.0"]);
    assert_eq!(chosen(&all, Some(">=2.0.0-0"), Some(2)), ["2.0.0-rc1"]);
    assert_eq!(chosen(&["2.0.0-rc1", "2.0.0-rc2"], None, Some(1)), ["2.0.0-rc2"]);
}

/// 10,000 versions with all that `helm repo index` writes of each: about as Bitnami's was.
#[test]
fn a_large_index_is_read_as_yaml_and_as_json() {
    let entry = |n: usize| {
        serde_json::json!({"apiVersion": "v2", "appVersion": "1.0", "created": "2026-01-01T00:00:00Z",
            "dependencies": [{"name": "lib", "repository": "oci://q.io/charts", "version": "2.x.x"}],
            "description": "one of many", "digest": "ab".repeat(32), "home": "https://example.com",
            "icon": "https://example.com/icon.png", "keywords": ["a", "b"],
            "maintainers": [{"name": "ann"}], "name": "app", "sources": ["https://example.com/src"],
            "type": "application", "urls": [format!("app-1.0.{n}.tgz")], "version": format!("1.0.{n}")})
    };
    let entries: Vec<_> = (0..10_000).map(entry).collect();
    let index = serde_json::json!({"apiVersion": "v1", "entries": {"app": entries}, "generated": "x"});
    let yaml = serde_saphyr::to_string(&index).unwrap();
    assert!(!yaml.starts_with('{'));
    for text in [yaml, index.to_string()] {
        let none = parse(text.as_bytes(), Some(&filter::glob("ap").unwrap())).unwrap();
        assert!(none.is_empty());
        let read = parse(text.as_bytes(), Some(&filter::glob("a*").unwrap())).unwrap();
        assert_eq!(read["app"].len(), 10_000);
        assert_eq!(read["app"][9_999].version, "1.0.9999");
        assert_eq!(read["app"][0].dependencies[0].version, "2.x.x");
    }
}
