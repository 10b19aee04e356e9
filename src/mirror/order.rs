//! The order of tags and versions, as people mean it: numbers by their value, however many there are and with or without
//! zeros before them, and what is before a release below it. One order for all of them, since a list may hold
//! `2024.12.20` beside `2025.01.05`, of which only the first is a semantic version. Pure.

use std::cmp::Reverse;

/// What a tag or a version is compared by; the greater is the newer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// The numbers at its beginning, less the zeros at their end: `1.10` and `1.10.0` are one version.
    numbers: Option<Vec<Number>>,
    /// What is before a release is below it.
    is_release: bool,
    suffix: Vec<Part>,
    /// Of one version the fuller name goes before.
    written: usize,
    build: Vec<Part>,
}

/// A number of any length: its digits without zeros before them, the longer being the greater.
type Number = (usize, String);

/// What dots part behind the numbers, as semantic versions have it; but digits within a word count too: `rc10` is newer
/// than `rc9`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(Number),
    Word(Vec<(Number, String)>),
}

/// Sorts the newest first and leaves so many, where a number is given. Without a pattern or a range, that number counts
/// releases: what has a suffix (`-rc1`, `-alpine`) is one more way to have a release, and is counted only where there is
/// no release at all.
pub(super) fn newest<T>(all: &mut Vec<T>, name: impl Fn(&T) -> &str, latest: Option<usize>, any: bool) {
    if let Some(most) = latest {
        if !any && all.iter().any(|one| is_release(name(one))) {
            all.retain(|one| is_release(name(one)));
        }
        sort(all, &name);
        all.truncate(most);
    }
}

/// Sorts the newest first.
pub(super) fn sort<T>(all: &mut [T], name: impl Fn(&T) -> &str) {
    all.sort_by_cached_key(|one| (Reverse(key(name(one))), name(one).to_owned()));
}

/// Whether a tag begins with three numbers or more, as versions and dates do. Fewer may be a name that moves: `1.27`.
pub(super) fn is_version(text: &str) -> bool {
    split(text).0.len() >= 3
}

fn is_release(text: &str) -> bool {
    let (numbers, suffix, _) = split(text);
    !numbers.is_empty() && suffix.is_empty()
}

fn key(text: &str) -> Key {
    let (numbers, suffix, build) = split(text);
    let written = numbers.len();
    let mut read: Vec<Number> = numbers.into_iter().map(number).collect();
    while read.last().is_some_and(|last| last.0 == 0) {
        read.pop();
    }
    Key {
        numbers: (written > 0).then_some(read),
        is_release: written > 0 && suffix.is_empty(),
        suffix: parts(suffix),
        written,
        build: parts(build),
    }
}

/// The numbers at the beginning, with or without a `v`; what follows, and what is noted of how it was built.
fn split(text: &str) -> (Vec<&str>, &str, &str) {
    let mut rest = text.strip_prefix(['v', 'V']).unwrap_or(text);
    let mut numbers = Vec::new();
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if digits == 0 {
            break;
        }
        numbers.push(&rest[..digits]);
        rest = &rest[digits..];
        match rest.strip_prefix('.') {
            Some(after) if after.starts_with(|c: char| c.is_ascii_digit()) => rest = after,
            _ => break,
        }
    }
    if numbers.is_empty() {
        return (numbers, text, "");
    }
    let (suffix, build) = rest.split_once('+').unwrap_or((rest, ""));
    (numbers, suffix.trim_start_matches(['-', '.', '_']), build)
}

fn parts(text: &str) -> Vec<Part> {
    if text.is_empty() {
        return Vec::new();
    }
    let part = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        true => Part::Number(number(text)),
        false => Part::Word(runs(text)),
    };
    text.split('.').map(part).collect()
}

/// A word as runs of digits, each with what follows it.
fn runs(text: &str) -> Vec<(Number, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let after = &rest[digits..];
        let word = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        found.push((number(&rest[..digits]), after[..word].to_owned()));
        rest = &after[word..];
    }
    found
}

fn number(digits: &str) -> Number {
    let digits = digits.trim_start_matches('0');
    (digits.len(), digits.to_owned())
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;

    fn newest_first(a: &str, b: &str) -> Ordering {
        key(b).cmp(&key(a)).then_with(|| a.cmp(b))
    }

    /// Each is newer than the next.
    const ORDERS: [&[&str]; 12] = [
        &["v2.0.0", "1.10.0", "1.10.0-rc1", "1.9.0"],
        &["2025.01.05", "2024.12.20", "2024.02.01"],
        &["10.5.0.1", "10.5.0", "9.0.0.9", "9.0.0", "9.0.0-rc.1"],
        &["2025.01.05", "2024.12.20.1", "2024.12.20", "2024.12.20-beta", "2024.12.9"],
        &["1.0.0", "1.0.0-rc.10", "1.0.0-rc.9", "1.0.0-rc", "1.0.0-beta.2", "1.0.0-beta", "1.0.0-2"],
        &["1.0.0-rc10", "1.0.0-rc9", "1.0.0-alpha3.20", "1.0.0-alpha3.9"],
        &["1.30.0", "1.30", "1.29.8", "1.29"],
        &["1.10.0+b2", "1.10.0+b1", "1.10.0", "1.10.0-rc1+b9"],
        &["2025-02-01", "2025-01-05", "2024-12-20"],
        &["20250201", "20250105", "9"],
        &["1.0", "latest2", "latest", "edge"],
        &["99999999999999999999999.0.0", "18446744073709551616.0.0", "18446744073709551615.0.0", "1.0.0"],
    ];

    #[test]
    fn the_newer_goes_before() {
        for order in ORDERS {
            for (at, newer) in order.iter().enumerate() {
                assert_eq!(newest_first(newer, newer), Ordering::Equal);
                for older in &order[at + 1..] {
                    assert_eq!(newest_first(newer, older), Ordering::Less, "{newer} {older}");
                    assert_eq!(newest_first(older, newer), Ordering::Greater, "{older} {newer}");
                }
            }
            let mut turned: Vec<&str> = order.iter().rev().copied().collect();
            sort(&mut turned, |one| one);
            assert_eq!(turned, order);
        }
        // Semantic versions have the order of that specification.
        for text in [
            "1.0.0-alpha < 1.0.0-alpha.1 < 1.0.0-alpha.beta < 1.0.0-beta < 1.0.0-beta.2 < 1.0.0-beta.11 < 1.0.0-rc.1 < 1.0.0",
        ] {
            let order: Vec<&str> = text.split(" < ").collect();
            for pair in order.windows(2) {
                assert_eq!(newest_first(pair[1], pair[0]), Ordering::Less, "{pair:?}");
            }
        }
    }

    #[test]
    fn a_number_of_the_newest_counts_releases_unless_there_is_none_or_a_pattern_says_which() {
        let newest = |listed: &[&'static str], most, any| {
            let mut all = listed.to_vec();
            newest(&mut all, |one| one, Some(most), any);
            all
        };
        let flavours = ["1.27.4-perl", "1.27.4", "1.28.0-rc1", "1.27.3-alpine", "1.27.3", "v1.26.0+b1"];
        assert_eq!(newest(&flavours, 3, false), ["1.27.4", "1.27.3", "v1.26.0+b1"]);
        assert_eq!(newest(&flavours, 2, true), ["1.28.0-rc1", "1.27.4"]);
        assert_eq!(newest(&["2.0.0-rc1", "2.0.0-rc2", "nightly"], 1, false), ["2.0.0-rc2"]);
    }

    #[test]
    fn three_numbers_are_a_version_and_fewer_may_be_a_name_that_moves() {
        for version in ["1.27.4", "v1.27.4", "2025.01.05", "10.5.0.1", "1.27.4-perl", "1.2.3rc1"] {
            assert!(is_version(version), "{version}");
        }
        for none in ["1.27", "1", "latest", "", "v", "2024-02", "1..2.3", ".1.2.3", "sha-1.2.3"] {
            assert!(!is_version(none), "{none}");
        }
    }
}
