//! Whom plain HTTP may be spoken to: the servers that a rule names and allows it for, by host and port, and nobody that
//! an index, a chart or a manifest leads to besides. Credentials for those would else cross the network in the clear. Pure.

use reqwest::Url;

use super::settings::{Settings, repository_of};

impl Settings {
    /// Whether a rule that names this server allows plain HTTP to it. `at` is an address, or the host of an image's name.
    pub(super) fn is_plain(&self, at: &str) -> bool {
        let Some(wanted) = server(at) else { return false };
        let is_it = |text: &str| server(text).as_ref() == Some(&wanted);
        let images = self.images.iter().filter(|rule| rule.insecure);
        let charts = self.charts.iter().filter(|rule| rule.insecure);
        let manifests = self.manifests.iter().filter(|rule| rule.insecure);
        images.filter_map(|rule| repository_of(&rule.repository).ok()).any(|name| is_it(&name.host))
            || charts.into_iter().any(|rule| is_it(&rule.repository))
            || manifests.filter_map(|rule| rule.url.as_deref()).any(is_it)
    }
}

/// Host and port of an address; of a registry without a port, the one that it is asked at over plain HTTP.
fn server(at: &str) -> Option<(String, u16)> {
    let address = match at.split_once("://") {
        Some(("http" | "https", _)) => at.to_owned(),
        Some(("oci", rest)) => format!("http://{rest}"),
        Some(_) => return None,
        None => format!("http://{at}"),
    };
    let url = Url::parse(&address).ok()?;
    Some((url.host_str()?.to_ascii_lowercase(), url.port_or_known_default()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::charts::{self, WantedChart};
    use crate::mirror::depends::Wish;
    use crate::mirror::found::Found;
    use crate::mirror::gather::Gathered;
    use crate::mirror::plan::{ImageName, Plan, Reason, Terms};
    use crate::mirror::settings::{ChartRule, ImageRule, ManifestRule, TagFilter};

    fn chart(repository: &str) -> ChartRule {
        ChartRule {
            repository: repository.into(),
            name: None,
            versions: None,
            latest: None,
            images: true,
            dependencies: true,
            path: String::new(),
            insecure: true,
        }
    }

    fn image(repository: &str, insecure: bool) -> ImageRule {
        let (tags, cosign_key) = (TagFilter { exact: vec!["1".into()], ..TagFilter::default() }, None);
        ImageRule {
            repository: repository.into(),
            tags,
            digests: vec![],
            platforms: vec![],
            insecure,
            cosign_key,
        }
    }

    fn settings() -> Settings {
        Settings {
            images: vec![image("lan:5000/app", true), image("own.lan/app", true), image("far.io/app", false)],
            charts: vec![chart("http://charts.lan:8080/stable"), chart("oci://oci.lan:5001/charts")],
            manifests: vec![ManifestRule {
                path: None,
                url: Some("http://web.lan/all.yaml".into()),
                custom: vec![],
                insecure: true,
            }],
            ..Settings::default()
        }
    }

    #[test]
    fn plain_http_is_for_whom_a_rule_names_by_host_and_port() {
        let settings = settings();
        for (at, plain) in [
            ("lan:5000", true),
            ("LAN:5000", true),
            ("lan", false),
            ("lan:5001", false),
            ("own.lan", true),
            ("own.lan:80", true),
            ("http://own.lan/x", true),
            ("https://own.lan/x", false),
            ("far.io", false),
            ("http://charts.lan:8080/other", true),
            ("charts.lan:8080", true),
            ("http://charts.lan/stable", false),
            ("oci://oci.lan:5001/others", true),
            ("oci.lan:5001", true),
            ("oci://oci.lan/charts", false),
            ("http://web.lan/other.yaml", true),
            ("http://web.lan:81/all.yaml", false),
            ("docker.io", false),
            ("", false),
        ] {
            assert_eq!(settings.is_plain(at), plain, "{at}");
        }
    }

    /// A chart, a manifest and an index that plain HTTP is allowed for name another registry, for which there is a
    /// credential perhaps.
    #[test]
    fn what_a_plain_source_leads_to_is_asked_over_tls() {
        let settings = settings();
        let mut gathered = Gathered::default();
        let found = |image: &str| Found { image: image.into(), at: "x".into(), guessed: false };
        let named = vec![found("far.io/app:1"), found("oci.lan:5001/app:1"), found("charts.lan/app:1")];
        gathered.want_found(&settings, named, "charts oci://oci.lan:5001/charts", "chart app-1.0.0");
        let plain: Vec<(String, bool)> =
            gathered.plan.images().map(|one| (one.image.repository.clone(), one.terms.insecure)).collect();
        let expected = [("charts.lan/app", false), ("far.io/app", false), ("oci.lan:5001/app", true)];
        assert_eq!(plain, expected.map(|(name, plain)| (name.to_owned(), plain)));

        let urls = [
            "app.tgz",
            "http://charts.lan:8080/other/app.tgz",
            "http://far.io/app.tgz",
            "http://charts.lan/app.tgz",
            "oci://far.io/charts/app",
            "oci://charts.lan:5000/charts/app",
        ];
        let entries: Vec<_> = (1..)
            .zip(urls)
            .map(|(n, url)| serde_json::json!({"name": "app", "version": format!("{n}.0.0"), "urls": [url]}))
            .collect();
        let index: charts::Index = serde_json::from_value(serde_json::json!({ "app": entries })).unwrap();
        let wish = Wish::of(&settings.charts[0]).unwrap();
        for (wanted, _) in charts::choose(&index, &wish, "x").unwrap() {
            gathered.want_chart(&settings, wanted);
        }
        gathered.charts.reverse();
        let plain: Vec<bool> = gathered.charts.iter().map(WantedChart::is_plain).collect();
        assert_eq!(plain, [true, true, false, false, false, false]);
    }

    #[test]
    fn what_one_of_two_rules_wants_over_tls_comes_over_tls() {
        let name = ImageName { repository: "lan:5000/app".into(), name: "1".into() };
        for order in [[true, false], [false, true]] {
            let mut plan = Plan::default();
            for insecure in order {
                let reason = Reason { rule: insecure.to_string(), by: String::new() };
                plan.want(name.clone(), reason, Terms { insecure, ..Terms::default() });
            }
            assert!(plan.images().all(|wanted| !wanted.terms.insecure), "{order:?}");
        }
    }
}
