//! `[[mirror.git]]`: which branches and tags of a repository. Pure.

use regex_lite::Regex;
use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::git::{BRANCHES, TAGS, is_name};
use crate::mirror::filter;
use crate::mirror::settings::Fault;

/// A git repository that is mirrored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GitRule {
    /// `https://git.example.com/team/config.git`.
    pub url: String,
    /// What it is called here: served as `/git/NAME.git`.
    pub name: String,
    /// Branches, `*`, `?` and `{a,b}` allowed; all without.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub branches: Vec<String>,
    /// Tags, in the same way.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub tags: Vec<String>,
    /// Whether it may be asked over plain HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

fn all() -> Vec<String> {
    vec!["*".to_owned()]
}

fn is_all(patterns: &[String]) -> bool {
    patterns == ["*"]
}

impl GitRule {
    /// How it is named to people and in the record.
    pub fn label(&self) -> String {
        format!("git {}", self.name)
    }

    /// Why it wants what it wants.
    pub fn why(&self) -> String {
        let say = |one: &str, many: &str, patterns: &[String]| match patterns {
            [] => format!("no {many}"),
            patterns if is_all(patterns) => format!("every {one}"),
            patterns => format!("{many} {}", patterns.join(" ")),
        };
        format!("{}, {}", say("branch", "branches", &self.branches), say("tag", "tags", &self.tags))
    }

    /// Where it is; what [`GitRule::check`] passed has one.
    pub(in crate::mirror) fn address(&self) -> Option<Url> {
        Url::parse(self.url.trim_end_matches('/')).ok()
    }

    /// # Errors
    /// The first field that makes no sense, below `key`.
    pub(in crate::mirror) fn check(&self, key: &str) -> Result<(), Fault> {
        let fault = |field: &str, why: String| Err(Fault::new(format!("{key}.{field}"), why));
        match self.address() {
            Some(url) if !url.username().is_empty() || url.password().is_some() => {
                let why = "it holds a credential hint: put it in the file that `mirror.docker-config` names";
                return fault("url", why.into());
            }
            Some(url)
                if matches!(url.scheme(), "http" | "https")
                    && url.host().is_some()
                    && url.query().is_none()
                    && url.fragment().is_none() => {}
            _ => {
                return fault(
                    "url",
                    format!("`{}` is no `https://...` hint: git over SSH is not spoken", self.url),
                );
            }
        }
        if !is_name(&self.name) {
            let why = "is no name: small letters, digits, `.`, `_` and `-`, at most 63, without `.git`";
            return fault("name", format!("`{}` {why}", self.name));
        }
        for (field, patterns) in [("branches", &self.branches), ("tags", &self.tags)] {
            for (at, pattern) in patterns.iter().enumerate() {
                if let Err(why) = filter::glob(pattern) {
                    return fault(&format!("{field}[{at}]"), why);
                }
            }
        }
        if self.branches.is_empty() && self.tags.is_empty() {
            return Err(Fault::new(key, "it chooses nothing hint: `branches = [\"main\"]`, or `tags`"));
        }
        Ok(())
    }

    /// Ready to choose; a pattern that is none chooses nothing.
    pub(in crate::mirror) fn chooser(&self) -> Chooser {
        let compile =
            |patterns: &[String]| patterns.iter().filter_map(|text| filter::glob(text).ok()).collect();
        Chooser { branches: compile(&self.branches), tags: compile(&self.tags) }
    }
}

/// Chooses refs.
pub(in crate::mirror) struct Chooser {
    branches: Vec<Regex>,
    tags: Vec<Regex>,
}

impl Chooser {
    /// Whether a ref, by its full name, is wanted.
    pub(in crate::mirror) fn wants(&self, name: &str) -> bool {
        let (patterns, short) = match (name.strip_prefix(BRANCHES), name.strip_prefix(TAGS)) {
            (Some(short), _) => (&self.branches, short),
            (_, Some(short)) => (&self.tags, short),
            _ => return false,
        };
        patterns.iter().any(|pattern| pattern.is_match(short))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(url: &str, name: &str, branches: &[&str], tags: &[&str]) -> GitRule {
        let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
        GitRule {
            url: url.into(),
            name: name.into(),
            branches: owned(branches),
            tags: owned(tags),
            insecure: false,
        }
    }

    #[test]
    fn a_rule_takes_branches_and_tags_by_their_patterns() {
        let chooser = rule("https://a/b", "b", &["main", "release/*"], &["v1.*"]).chooser();
        for (name, wanted) in [
            ("refs/heads/main", true),
            ("refs/heads/mainly", false),
            ("refs/heads/release/1/x", true),
            ("refs/tags/v1.2", true),
            ("refs/tags/main", false),
            ("refs/pull/1/head", false),
            ("HEAD", false),
        ] {
            assert_eq!(chooser.wants(name), wanted, "{name}");
        }
        let whys = [(&["*"][..], &[][..]), (&["main"], &["*"])];
        let said = whys.map(|(branches, tags)| rule("https://a/b", "b", branches, tags).why());
        assert_eq!(said, ["every branch, no tags", "branches main, every tag"]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let key = |rule: GitRule| rule.check("mirror.git[0]").err().map(|fault| fault.key);
        assert_eq!(key(rule("https://a/b.git", "b", &["*"], &["*"])), None);
        for (url, name, branches, wrong) in [
            ("git@a:b", "b", &["*"][..], "mirror.git[0].url"),
            ("ssh://a/b", "b", &["*"], "mirror.git[0].url"),
            ("https://user:secret@a/b", "b", &["*"], "mirror.git[0].url"),
            ("https://a/b?c", "b", &["*"], "mirror.git[0].url"),
            ("https://a/b", "../b", &["*"], "mirror.git[0].name"),
            ("https://a/b", "b", &["["], "mirror.git[0].branches[0]"),
            ("https://a/b", "b", &[], "mirror.git[0]"),
        ] {
            assert_eq!(key(rule(url, name, branches, &[])).as_deref(), Some(wrong), "{url} {name}");
        }
    }
}
