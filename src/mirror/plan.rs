//! What is wanted and why: rules and what is listed upstream, turned into one set. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::oci::Platform;

/// Why something is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Reason {
    /// The rule, as it is named to people: `images docker.io/library/nginx`.
    pub rule: String,
    /// What of it: `semver >=1.25`, `chart app-1.0.0: values.yaml image`.
    pub by: String,
}

/// What an image is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageName {
    /// `<host>/<path>`.
    pub repository: String,
    /// A tag or a digest.
    pub name: String,
}

impl ImageName {
    /// The host and the path upstream.
    pub fn parts(&self) -> (&str, &str) {
        self.repository.split_once('/').unwrap_or((&self.repository, ""))
    }

    /// Whether a person means it by `text`: the whole, the repository, or the end of either.
    pub fn is_meant_by(&self, text: &str) -> bool {
        let whole = self.to_string();
        let ends =
            |full: &str| full == text || full.strip_suffix(text).is_some_and(|rest| rest.ends_with('/'));
        ends(&whole) || ends(&self.repository)
    }
}

impl std::fmt::Display for ImageName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let between = if self.name.contains(':') { '@' } else { ':' };
        write!(f, "{}{between}{}", self.repository, self.name)
    }
}

/// How an image is to be fetched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Which of an index's images; none for all.
    pub platforms: Vec<Platform>,
    /// Plain HTTP is allowed.
    pub insecure: bool,
    /// Keys that must each have signed it.
    pub keys: Vec<PathBuf>,
    /// Found where it may not be an image at all: that it is not there upstream is no failure.
    pub guessed: bool,
}

/// A wanted image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedImage {
    /// Which.
    pub image: ImageName,
    /// Why.
    pub reasons: Vec<Reason>,
    /// How.
    pub terms: Terms,
}

/// A source that could not be read: what it wanted before is wanted still.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFailure {
    /// The rule.
    pub rule: String,
    /// Why.
    pub why: String,
    /// Whether another time may be better: nothing answered.
    pub unreachable: bool,
}

impl std::fmt::Display for SourceFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.rule, self.why)
    }
}

/// Everything that is wanted.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    images: BTreeMap<ImageName, WantedImage>,
    /// Rules whose source could not be read.
    pub failures: Vec<SourceFailure>,
    /// Rules whose source was read to its end.
    pub read: Vec<String>,
}

impl Plan {
    /// Wants an image, for one more reason if it is wanted already: then for the platforms of both, under the
    /// stricter terms of both.
    pub fn want(&mut self, image: ImageName, reason: Reason, terms: Terms) {
        let Some(wanted) = self.images.get_mut(&image) else {
            self.images.insert(image.clone(), WantedImage { image, reasons: vec![reason], terms });
            return;
        };
        if !wanted.reasons.contains(&reason) {
            wanted.reasons.push(reason);
        }
        let all = wanted.terms.platforms.is_empty() || terms.platforms.is_empty();
        let more: Vec<Platform> =
            terms.platforms.into_iter().filter(|p| !wanted.terms.platforms.contains(p)).collect();
        wanted.terms.platforms.extend(more);
        if all {
            wanted.terms.platforms.clear();
        }
        wanted.terms.insecure &= terms.insecure;
        wanted.terms.guessed &= terms.guessed;
        for key in terms.keys {
            if !wanted.terms.keys.contains(&key) {
                wanted.terms.keys.push(key);
            }
        }
    }

    /// The images, in order.
    pub fn images(&self) -> impl Iterator<Item = &WantedImage> {
        self.images.values()
    }

    /// Leaves out the images that `keep` does not hold for.
    pub fn retain(&mut self, keep: impl Fn(&WantedImage) -> bool) {
        self.images.retain(|_, wanted| keep(wanted));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_rules_want_is_fetched_once_under_the_stricter_terms() {
        let name = ImageName { repository: "q.io/a".into(), name: "1".into() };
        let reason = |rule: &str| Reason { rule: rule.into(), by: "exact".into() };
        let terms = |platform: &str, key: &str, guessed| Terms {
            platforms: vec![platform.parse().unwrap()],
            keys: vec![key.into()],
            guessed,
            ..Terms::default()
        };
        let mut plan = Plan::default();
        plan.want(name.clone(), reason("one"), terms("linux/arm64", "/a.pub", true));
        plan.want(name.clone(), reason("two"), terms("linux/amd64", "/b.pub", false));
        plan.want(name.clone(), reason("two"), terms("linux/amd64", "/b.pub", false));
        let wanted: Vec<_> = plan.images().collect();
        assert_eq!((wanted.len(), wanted[0].reasons.len(), wanted[0].terms.platforms.len()), (1, 2, 2));
        assert_eq!((wanted[0].terms.keys.len(), wanted[0].terms.guessed), (2, false));
        plan.want(name, reason("all"), Terms::default());
        assert!(plan.images().all(|wanted| wanted.terms.platforms.is_empty()), "no platform means every one");
    }

    #[test]
    fn people_name_images_by_their_end() {
        let name = ImageName { repository: "docker.io/library/nginx".into(), name: "1.27".into() };
        for (text, meant) in [
            ("nginx", true),
            ("nginx:1.27", true),
            ("library/nginx:1.27", true),
            ("docker.io/library/nginx", true),
            ("inx", false),
            ("nginx:1.2", false),
        ] {
            assert_eq!(name.is_meant_by(text), meant, "{text}");
        }
    }
}
