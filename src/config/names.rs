//! Names of keys: which there are, what a misspelt one is probably meant to be, which wait for a start.

use super::table::{KEYS, Key};

/// Sections and keys that take effect when edge is started, and not by a reload.
pub const AT_START: [&str; 4] = ["state-dir", "cloud", "proxy", "runtime.endpoint"];

/// Whether a key is one of [`AT_START`].
pub fn is_at_start(path: &str) -> bool {
    let begins =
        |name: &&str| path.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    AT_START.iter().any(begins)
}

/// The key of that name.
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether keys lie below that name.
pub fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The known name that `path` is probably meant to be.
pub fn nearest(path: &str) -> Option<&'static str> {
    KEYS.iter()
        .map(|key| (likeness(key.path, path), key.path))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, path)| path)
}

/// A key written without its section is as near as one with a letter missing.
fn likeness(known: &str, given: &str) -> f64 {
    let bare = known.rsplit_once('.').map_or(known, |(_, name)| name);
    let given = given.replace('_', "-").to_lowercase();
    let given_bare = given.rsplit_once('.').map_or(given.as_str(), |(_, name)| name);
    let whole = strsim::normalized_damerau_levenshtein(known, &given);
    whole.max(strsim::normalized_damerau_levenshtein(bare, given_bare) * 0.95)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_ones_that_snapd_takes() {
        for (index, key) in KEYS.iter().enumerate() {
            for word in key.path.split('.') {
                assert!(!word.is_empty() && !word.starts_with('-') && !word.ends_with('-'), "{}", key.path);
                assert!(
                    word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
                    "{}",
                    key.path
                );
            }
            assert!(KEYS[..index].iter().all(|other| other.path != key.path), "{} twice", key.path);
        }
    }

    #[test]
    fn a_misspelt_name_finds_its_neighbour() {
        for (given, expected) in [
            ("cloud.probe-intervall", Some("cloud.probe-interval")),
            ("cloud.probe_interval", Some("cloud.probe-interval")),
            ("probe-interval", Some("cloud.probe-interval")),
            ("Offline-Mode", Some("offline-mode")),
            ("cloud.offline-mode", Some("offline-mode")),
            ("colour", None),
        ] {
            assert_eq!(nearest(given), expected, "{given}");
        }
    }
}
