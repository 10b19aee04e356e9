//! The charts that charts depend on: from other repositories, the newest version that fits. Pure.

use super::address::shown;
use super::charts::Dependency;
use super::error::Failure;
use super::filter;
use super::ranges::{Range, Versions};
use super::settings::{ChartRule, Settings};

/// How far dependencies of charts are followed.
const DEPTH: u32 = 3;

/// Charts that are wanted, by a rule of the settings or because another depends on them.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) rule: ChartRule,
    pub(super) range: Option<Versions>,
    /// Why, if not by the rule itself.
    pub(super) by: Option<String>,
    depth: u32,
}

impl Wish {
    /// What a rule of the settings wants.
    ///
    /// # Errors
    /// A range that is none, which settings were checked for.
    pub(super) fn of(rule: &ChartRule) -> Result<Self, String> {
        let range = rule.versions.as_deref().map(filter::range).transpose()?;
        Ok(Self { rule: rule.clone(), range: range.map(Versions::Own), by: None, depth: 0 })
    }

    /// What is wanted since the chart `title` depends on `listed`; and what of it is not known where to look for.
    pub(super) fn dependencies(
        &self,
        settings: &Settings,
        listed: &[Dependency],
        title: &str,
    ) -> (Vec<Self>, Vec<Failure>) {
        let (mut wishes, mut failures) = (Vec::new(), Vec::new());
        // What is in the package is not fetched.
        let elsewhere = listed.iter().filter(|one| !matches!(scheme(&one.repository), "" | "file"));
        for one in elsewhere.filter(|_| self.rule.dependencies && self.depth < DEPTH) {
            match self.dependency(settings, one, title) {
                Ok(wish) => wishes.push(wish),
                Err(why) => {
                    let why = format!("chart {title} depends on `{}`: {why}", one.name);
                    failures.push(Failure::Chart(why));
                }
            }
        }
        (wishes, failures)
    }

    fn dependency(&self, settings: &Settings, one: &Dependency, title: &str) -> Result<Self, String> {
        if !matches!(scheme(&one.repository), "http" | "https" | "oci") {
            return Err(format!(
                "`{}` is a name of the machine that packed it hint: give this chart a rule of its own",
                shown(&one.repository)
            ));
        }
        let version = Some(one.version.trim()).filter(|version| !version.is_empty());
        let range = version.map(Range::parse).transpose()?;
        let rule = ChartRule {
            repository: one.repository.clone(),
            name: Some(one.name.clone()),
            versions: version.map(str::to_owned),
            latest: Some(1),
            insecure: settings.is_plain(&one.repository),
            ..self.rule.clone()
        };
        let by = Some(format!("dependency of {title}"));
        Ok(Self { rule, range: range.map(Versions::Helm), by, depth: self.depth + 1 })
    }
}

/// `https`, or nothing where it is no address; `@` and `alias` are Helm's words for its own list of repositories.
fn scheme(repository: &str) -> &str {
    match repository.split_once(':') {
        Some((scheme, _)) => scheme,
        None if repository.is_empty() => "",
        None => "@",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_is_wanted_as_helm_means_it_or_named_as_a_failure() {
        let rule = ChartRule {
            repository: "http://charts.lan:8080/a".into(),
            name: None,
            versions: Some(">=1".into()),
            latest: None,
            images: true,
            dependencies: true,
            path: "x".into(),
            insecure: true,
        };
        let wish = Wish::of(&rule).unwrap();
        let settings = Settings { charts: vec![rule], ..Settings::default() };
        let ask = |version: &str, repository: &str| {
            let one =
                Dependency { name: "db".into(), version: version.into(), repository: repository.into() };
            let (mut wishes, failures) = wish.dependencies(&settings, &[one], "app-1.0.0");
            (wishes.pop(), failures.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        for (repository, insecure) in [
            ("http://charts.lan:8080/b", true),
            ("http://other.lan/c", false),
            ("oci://charts.lan:5000/b", false),
        ] {
            let (wish, failures) = ask("1.2.3", repository);
            let wish = wish.unwrap();
            assert_eq!((wish.rule.insecure, failures), (insecure, vec![]), "{repository}");
            let fits = |version: &str| wish.range.as_ref().unwrap().matches(&version.parse().unwrap());
            assert!(fits("1.2.3") && !fits("1.9.0"));
            assert_eq!((wish.rule.path.as_str(), wish.rule.latest), ("x", Some(1)));
            assert_eq!(wish.by.as_deref(), Some("dependency of app-1.0.0"));
        }
        for within in ["", "file://../db"] {
            let (wish, failures) = ask("1.2.3", within);
            assert!(wish.is_none() && failures.is_empty(), "{within}");
        }
        for (version, repository, expected) in [
            ("1.2.3", "@stable", "chart app-1.0.0 depends on `db`: `@stable` is a name"),
            ("1.2.3", "alias:stable", "`alias:stable` is a name"),
            ("newest", "https://charts.lan/a", "chart app-1.0.0 depends on `db`: `newest` is no range"),
        ] {
            let (wish, failures) = ask(version, repository);
            assert!(wish.is_none() && failures[0].contains(expected), "{failures:?}");
        }
        assert!(ask("", "https://charts.lan/a").0.unwrap().range.is_none(), "the newest of all");
    }
}
