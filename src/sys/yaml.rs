//! YAML of others: charts and their indexes, manifests. As large as its size allows, and with keys that stand twice, as
//! Helm and kubectl take it; with bounds on what aliases multiply and how deep it goes.

use serde::de::{DeserializeOwned, DeserializeSeed};
use serde_saphyr::Options;
use serde_saphyr::options::DuplicateKeyPolicy;

/// The one document of a text; of a key that stands twice in a mapping the last.
///
/// # Errors
/// What is wrong and where, on one line.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let options = options(text.len(), DuplicateKeyPolicy::LastWins);
    serde_saphyr::from_str_with_options(text, options).map_err(|e| first_line(&e))
}

/// The same, kept as `seed` keeps it.
///
/// # Errors
/// As for [`read`].
pub fn read_with<'de, S: DeserializeSeed<'de>>(text: &'de str, seed: S) -> Result<S::Value, String> {
    let options = options(text.len(), DuplicateKeyPolicy::LastWins);
    let read = |yaml: serde_saphyr::Deserializer<'de, '_>| seed.deserialize(yaml);
    serde_saphyr::with_deserializer_from_str_with_options(text, options, read).map_err(|e| first_line(&e))
}

/// The same of a text that may be large: nothing of it is kept but what `seed` keeps, and so the first of a key that
/// stands twice is taken.
///
/// # Errors
/// As for [`read`].
pub fn read_large<'de, S: DeserializeSeed<'de>>(text: &'de str, seed: S) -> Result<S::Value, String> {
    let options = options(text.len(), DuplicateKeyPolicy::FirstWins);
    let read = |yaml: serde_saphyr::Deserializer<'de, '_>| seed.deserialize(yaml);
    serde_saphyr::with_deserializer_from_str_with_options(text, options, read).map_err(|e| first_line(&e))
}

/// All documents of a text, as [`read`] has them.
///
/// # Errors
/// As for [`read`].
pub fn read_all<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, String> {
    let options = options(text.len(), DuplicateKeyPolicy::LastWins);
    serde_saphyr::from_multiple_with_options(text, options).map_err(|e| first_line(&e))
}

/// No text has more nodes than bytes, and each has a beginning and an end: whoever bounds its size has bounded these.
fn options(size: usize, duplicate_keys: DuplicateKeyPolicy) -> Options {
    let most = size.max(1000);
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: most,
            max_events: 4 * most,
            max_documents: most,
            max_total_scalar_bytes: most,
        },
        duplicate_keys: duplicate_keys,
        emit_comments: false,
    }
}

fn first_line(error: &serde_saphyr::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::marker::PhantomData;

    use serde_json::Value;

    use super::*;

    #[test]
    fn large_texts_and_keys_that_stand_twice_are_taken() {
        let text = "a: 1\nb: {x: 1, x: 2}\na: 3\n";
        assert_eq!(read::<Value>(text).unwrap(), serde_json::json!({"a": 3, "b": {"x": 2}}));
        let first = read_large(text, PhantomData::<BTreeMap<String, Value>>).unwrap();
        assert_eq!(first["a"], 1);
        let many: String = (0..200_000).map(|n| format!("k{n}: [{n}]\n")).collect();
        assert_eq!(read_large(&many, PhantomData::<BTreeMap<String, Vec<u32>>>).unwrap().len(), 200_000);
        assert_eq!(read_all::<Value>(&"---\na: 1\n".repeat(2000)).unwrap().len(), 2000);
    }

    #[test]
    fn what_multiplies_itself_is_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for n in 1..9 {
            let of = vec![format!("*a{}", n - 1); 9].join(", ");
            bomb.push_str(&format!("a{n}: &a{n} [{of}]\n"));
        }
        assert!(!read::<Value>(&bomb).unwrap_err().contains('\n'));
        assert!(read_large(&bomb, PhantomData::<Value>).is_err());
        assert!(read::<Value>(&"[".repeat(10_000)).is_err());
    }
}
