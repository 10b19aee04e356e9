use super::*;

fn rule(repository: &str, tags: TagFilter) -> ImageRule {
    let repository = repository.to_owned();
    ImageRule { repository, tags, digests: vec![], platforms: vec![], insecure: false, cosign_key: None }
}

#[test]
fn the_first_senseless_setting_is_named_by_its_place() {
    let exact = TagFilter { exact: vec!["1".into()], ..TagFilter::default() };
    let fault = |change: &dyn Fn(&mut Settings)| {
        let mut settings = Settings { images: vec![rule("nginx", exact.clone())], ..Settings::default() };
        assert_eq!(settings.check(), Ok(()));
        change(&mut settings);
        settings.check().unwrap_err().key
    };
    assert_eq!(fault(&|s| s.schedule = Some("61 * * * *".into())), "mirror.schedule");
    assert_eq!(fault(&|s| s.windows = vec!["25:00-1:00".into()]), "mirror.windows[0]");
    assert_eq!(fault(&|s| s.platforms = vec!["arm64".into()]), "mirror.platforms[0]");
    assert_eq!(fault(&|s| s.images[0].repository = "nginx:1".into()), "mirror.images[0].repository");
    assert_eq!(fault(&|s| s.images[0].tags = TagFilter::default()), "mirror.images[0]");
    let tags = TagFilter { semver: Some(">=x".into()), ..TagFilter::default() };
    assert_eq!(fault(&|s| s.images.push(rule("a", tags.clone()))), "mirror.images[1].tags.semver");
    assert_eq!(fault(&|s| s.kubernetes_version = Some("one".into())), "mirror.kubernetes.version");
}

/// What is in an address of a rule is in labels, and those are in `edge status`, the record and the log.
#[test]
fn a_secret_in_an_address_is_left_out_of_what_is_told() {
    const SECRET: &str = "s3cr3t";
    let chart = |repository: String| ChartRule {
        repository,
        name: Some("app".into()),
        versions: None,
        latest: None,
        images: false,
        dependencies: false,
        path: String::new(),
        insecure: false,
    };
    let manifest = |url: String| ManifestRule { path: None, url: Some(url), custom: vec![], insecure: false };
    for scheme in ["https", "http", "oci", "gopher", "no scheme"] {
        let address = format!("{scheme}://ann:{SECRET}@x.example/all.yaml?token={SECRET}#{SECRET}");
        let charts = Settings { charts: vec![chart(address.clone())], ..Settings::default() };
        let manifests = Settings { manifests: vec![manifest(address.clone())], ..Settings::default() };
        for (settings, key) in
            [(charts, "mirror.charts[0].repository"), (manifests, "mirror.manifests[0].url")]
        {
            // On the web nobody is sent it, as ever; elsewhere it was never taken.
            let faults = match scheme {
                "https" | "http" => settings.check().map(|()| settings.ignored()).unwrap(),
                _ => vec![settings.check().unwrap_err()],
            };
            assert!(!faults.is_empty(), "{scheme}: {key}");
            for fault in faults {
                assert!(fault.key == key && !fault.why.contains(SECRET), "{scheme}: {fault:?}");
            }
        }
        for label in [chart(address.clone()).label(), manifest(address.clone()).label()] {
            assert!(label.contains("x.example/all.yaml") && !label.contains(SECRET), "{label}");
        }
    }
    // A signed address is what some manifests have; of a chart repository it is of no use.
    let signed = format!("https://x.example/all.yaml?X-Amz-Signature={SECRET}");
    let manifests = Settings { manifests: vec![manifest(signed.clone())], ..Settings::default() };
    assert_eq!((manifests.check(), manifests.ignored()), (Ok(()), vec![]));
    let charts = Settings { charts: vec![chart(signed)], ..Settings::default() };
    assert_eq!(charts.check(), Ok(()));
    assert!(charts.ignored()[0].why.contains("`https://x.example/all.yaml`"));
}

#[test]
fn plain_http_for_manifests_is_for_the_server_that_has_them() {
    let rule = |path: Option<&str>, url: Option<&str>| ManifestRule {
        path: path.map(Into::into),
        url: url.map(str::to_owned),
        custom: vec![],
        insecure: true,
    };
    let ignored = |rule| {
        let settings = Settings { manifests: vec![rule], ..Settings::default() };
        // An edge of before took both, and one that is updated must start.
        settings.check().unwrap();
        settings.ignored().into_iter().map(|fault| fault.key).collect::<Vec<_>>()
    };
    assert!(ignored(rule(None, Some("http://web.lan/all.yaml"))).is_empty());
    assert_eq!(ignored(rule(Some("/etc/all.yaml"), None)), ["mirror.manifests[0].insecure"]);
}
