//! Ranges of versions as Helm has them (Go's `Masterminds/semver`), in which charts say what they depend on. Pure.
//!
//! They are not Cargo's, in which the settings are written: `1.2.3` is that version and no later one, spaces part
//! bounds as commas do, `||` parts ranges, and there are `1.x`, `1.0 - 2.0` and `!=`. Versions before a release fit
//! only where a bound names one.

use std::cmp::Ordering;

use semver::{Prerelease, Version, VersionReq};

/// A range, by whoever's rules it is written.
#[derive(Clone, Debug)]
pub(super) enum Versions {
    /// Of the settings.
    Own(VersionReq),
    /// Of a chart.
    Helm(Range),
}

impl Versions {
    pub(super) fn matches(&self, version: &Version) -> bool {
        match self {
            Self::Own(range) => range.matches(version),
            Self::Helm(range) => range.matches(version),
        }
    }
}

/// One of its parts must hold.
#[derive(Clone, Debug)]
pub(super) struct Range(Vec<Part>);

/// All bounds must hold.
#[derive(Clone, Debug, Default)]
struct Part(Vec<(Bound, Partial)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Equal,
    Unequal,
    Above,
    From,
    Below,
    UpTo,
    Tilde,
    Caret,
}

/// The longer ones first, of those that begin alike.
const BOUNDS: [(&str, Bound); 11] = [
    ("!=", Bound::Unequal),
    (">=", Bound::From),
    ("=>", Bound::From),
    ("<=", Bound::UpTo),
    ("=<", Bound::UpTo),
    ("~>", Bound::Tilde),
    ("=", Bound::Equal),
    (">", Bound::Above),
    ("<", Bound::Below),
    ("~", Bound::Tilde),
    ("^", Bound::Caret),
];

/// A version of which the end may be left out, or be `x`.
#[derive(Clone, Debug, Default)]
struct Partial {
    major: Option<u64>,
    minor: Option<u64>,
    patch: Option<u64>,
    pre: Prerelease,
}

impl Range {
    /// # Errors
    /// Where it is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parts: Option<Vec<Part>> = text.split("||").map(Part::parse).collect();
        let parts = parts.ok_or_else(|| format!("`{text}` is no range of versions as Helm has them"))?;
        Ok(Self(parts))
    }

    pub(super) fn matches(&self, version: &Version) -> bool {
        self.0.iter().any(|part| part.matches(version))
    }
}

impl Part {
    fn parse(text: &str) -> Option<Self> {
        let (mut part, mut rest) = (Self::default(), text.trim());
        while !rest.is_empty() {
            let named = BOUNDS.iter().find_map(|(sign, bound)| Some((*bound, rest.strip_prefix(sign)?)));
            let (bound, after) = named.unwrap_or((Bound::Equal, rest));
            let (version, after) = word(after)?;
            // `1.0 - 2.0`
            match after.strip_prefix("- ").filter(|_| named.is_none()) {
                Some(after) => {
                    let (last, after) = word(after)?;
                    part.0.extend([(Bound::From, version), (Bound::UpTo, last)]);
                    rest = after;
                }
                None => {
                    part.0.push((bound, version));
                    rest = after;
                }
            }
            // One comma, and no more, may stand between two bounds.
            rest = match rest.strip_prefix(',').map(str::trim_start) {
                Some("") => return None,
                Some(after) => after,
                None => rest,
            };
        }
        (!part.0.is_empty()).then_some(part)
    }

    fn matches(&self, version: &Version) -> bool {
        let named = self.0.iter().any(|(_, bound)| !bound.pre.is_empty());
        (version.pre.is_empty() || named) && self.0.iter().all(|(bound, of)| of.holds(*bound, version))
    }
}

/// The version that a text begins with, and what comes after it and the space behind it.
fn word(text: &str) -> Option<(Partial, &str)> {
    let text = text.trim_start();
    let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
    Some((Partial::parse(&text[..end])?, text[end..].trim_start()))
}

impl Partial {
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split_once('+').map_or(text, |(before, _)| before);
        let (numbers, pre) = match text.split_once('-') {
            Some((_, "")) => return None,
            Some(both) => both,
            None => (text, ""),
        };
        let mut parts = [None; 3];
        let mut open = false;
        for (at, number) in numbers.split('.').enumerate() {
            open |= matches!(number, "x" | "X" | "*");
            let read = if open { None } else { Some(number.parse().ok()?) };
            *parts.get_mut(at)? = read;
        }
        let [major, minor, patch] = parts;
        Some(Self { major, minor, patch, pre: Prerelease::new(pre).ok()? })
    }

    /// The first version that it may mean.
    fn first(&self) -> Version {
        let number = |part: Option<u64>| part.unwrap_or(0);
        let mut first = Version::new(number(self.major), number(self.minor), number(self.patch));
        first.pre = self.pre.clone();
        first
    }

    fn holds(&self, bound: Bound, version: &Version) -> bool {
        let first = self.first();
        let order = version.cmp_precedence(&first);
        let whole = self.patch.is_some();
        let (major, minor) = (version.major.cmp(&first.major), version.minor.cmp(&first.minor));
        match bound {
            Bound::Equal if whole => order.is_eq(),
            Bound::Unequal if whole => order.is_ne(),
            Bound::Unequal => !self.holds(Bound::Tilde, version),
            // Above `1.2` is what is above all of 1.2.
            Bound::Above if whole || self.major.is_none() => order.is_gt(),
            Bound::Above => major.is_gt() || (self.minor.is_some() && major.is_eq() && minor.is_gt()),
            Bound::From => order.is_ge(),
            Bound::Below => order.is_lt(),
            Bound::UpTo if whole => order.is_le(),
            Bound::UpTo => {
                let within = major.then(if self.minor.is_some() { minor } else { Ordering::Equal });
                self.major.is_none() || within.is_le()
            }
            Bound::Equal | Bound::Tilde => {
                let any = self.major.is_none() || first == Version::new(0, 0, 0) && whole;
                order.is_ge() && (any || (major.is_eq() && (self.minor.is_none() || minor.is_eq())))
            }
            Bound::Caret => order.is_ge() && self.is_compatible(version),
        }
    }

    /// Whether the first number that is not zero is the same.
    fn is_compatible(&self, version: &Version) -> bool {
        match (self.major, self.minor, self.patch) {
            (None, ..) => true,
            (Some(major), minor, _) if major > 0 || minor.is_none() => version.major == major,
            (_, Some(minor), patch) if minor > 0 || patch.is_none() => {
                version.major == 0 && version.minor == minor
            }
            (.., patch) => version.major == 0 && version.minor == 0 && Some(version.patch) == patch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is what Helm does.
    #[test]
    fn ranges_are_those_of_helm() {
        for (range, inside, outside) in [
            ("1.2.3", &["1.2.3", "1.2.3+b1"][..], &["1.2.4", "1.9.0", "2.0.0", "1.2.3-rc1"][..]),
            ("v1.2.3", &["1.2.3"], &["1.2.4"]),
            ("1.2", &["1.2.0", "1.2.9"], &["1.3.0", "1.1.9"]),
            ("1", &["1.0.0", "1.9.0"], &["2.0.0", "0.9.0"]),
            ("1.x", &["1.0.0", "1.9.0"], &["2.0.0"]),
            ("1.2.x", &["1.2.0", "1.2.9"], &["1.3.0"]),
            ("*", &["0.0.1", "9.0.0"], &["1.0.0-rc1"]),
            (">=1.0.0 <2.0.0", &["1.0.0", "1.9.9"], &["2.0.0", "0.9.0", "1.5.0-rc1"]),
            (">=1.0.0, <2.0.0", &["1.0.0", "1.9.9"], &["2.0.0", "0.9.0"]),
            (">= 1.0.0 , < 2.0.0", &["1.0.0"], &["2.0.0"]),
            ("^1 || ^2", &["1.9.0", "2.1.0"], &["3.0.0", "0.9.0"]),
            ("1.0 - 2.0", &["1.0.0", "1.5.0", "2.0.0", "2.0.9"], &["2.1.0", "0.9.0"]),
            ("1.0.0 - 2.0.0", &["1.0.0", "2.0.0"], &["2.0.1"]),
            ("~1", &["1.0.0", "1.9.0"], &["2.0.0"]),
            ("~1.2", &["1.2.0", "1.2.9"], &["1.3.0"]),
            ("~1.2.3", &["1.2.3", "1.2.9"], &["1.2.2", "1.3.0"]),
            ("~>1.2.3", &["1.2.9"], &["1.3.0"]),
            ("^1.2.3", &["1.2.3", "1.9.0"], &["1.2.2", "2.0.0"]),
            ("^0.2.3", &["0.2.3", "0.2.9"], &["0.3.0", "1.0.0"]),
            ("^0.0.3", &["0.0.3"], &["0.0.4", "0.1.0"]),
            ("^0.0", &["0.0.0", "0.0.9"], &["0.1.0"]),
            ("^0", &["0.0.0", "0.9.0"], &["1.0.0"]),
            (">=1.0.0-0", &["1.0.0", "1.0.0-rc1", "2.0.0-alpha.1"], &["0.9.0"]),
            (">=1.0.0-0 <2.0.0", &["1.5.0-rc1", "1.0.0-alpha"], &["2.0.0"]),
            ("~1.2.0-0", &["1.2.0-rc1", "1.2.5"], &["1.3.0", "1.1.0"]),
            (">1", &["2.0.0"], &["1.9.0", "1.0.0"]),
            (">1.2", &["1.3.0", "2.0.0"], &["1.2.9"]),
            (">1.2.3", &["1.2.4"], &["1.2.3"]),
            ("<=1", &["1.9.0", "0.1.0"], &["2.0.0"]),
            ("<=1.2", &["1.2.9"], &["1.3.0", "2.0.0"]),
            ("=<1.2.3", &["1.2.3"], &["1.2.4"]),
            ("=>1.2", &["1.2.0"], &["1.1.9"]),
            ("!=1.2.3", &["1.2.4", "1.0.0"], &["1.2.3"]),
            ("!=1.2.x", &["1.3.0", "1.1.0"], &["1.2.0", "1.2.9"]),
            (">=1, !=1.5.0", &["1.4.0", "1.6.0"], &["1.5.0", "0.9.0"]),
        ] {
            let read = Range::parse(range).unwrap();
            for (versions, fits) in [(inside, true), (outside, false)] {
                for version in versions {
                    assert_eq!(read.matches(&Version::parse(version).unwrap()), fits, "{range}: {version}");
                }
            }
        }
        for none in
            ["", "latest", ">=1.0<2.0", "1.2.3.4", ">=", "1 ||", "1,", "1,,2", "1 - ", "^^1", "1.2.3-", "@x"]
        {
            assert!(Range::parse(none).is_err(), "{none}");
        }
    }
}
