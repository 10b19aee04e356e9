//! Amounts as people write them: `1h30m`, `2MiB/s`.
//!
//! Strict on purpose: one spelling each, whole numbers, units in falling order.

use std::time::Duration;

const SPANS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const SIZES: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a span such as `500ms`, `5s` or `1h30m`. `None` if it is not one.
pub fn span(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = SPANS.iter();
    while !rest.is_empty() {
        let (number, after) = number(rest)?;
        let word = &after[..after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len())];
        let (_, milliseconds) = units.find(|(unit, _)| *unit == word)?;
        total = total.checked_add(number.checked_mul(*milliseconds)?)?;
        rest = &after[word.len()..];
    }
    (!text.is_empty()).then_some(Duration::from_millis(total))
}

/// Writes a span so that [`span`] reads the same; whole milliseconds.
pub fn span_text(span: Duration) -> String {
    let mut left = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, milliseconds) in SPANS {
        if left >= milliseconds {
            text.push_str(&format!("{}{unit}", left / milliseconds));
            left %= milliseconds;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// Reads a size such as `512KiB` or `2MiB`, in bytes.
pub fn size(text: &str) -> Option<u64> {
    let (number, unit) = number(text)?;
    let (_, bytes) = SIZES.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*bytes)
}

/// Writes a size so that [`size`] reads the same: in the largest unit that leaves a whole number.
pub fn size_text(bytes: u64) -> String {
    let fits = SIZES.iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    let (name, unit) = fits.unwrap_or(&("B", 1));
    format!("{}{name}", bytes / unit)
}

/// Reads a rate such as `2MiB/s`, in bytes a second.
pub fn rate(text: &str) -> Option<u64> {
    size(text.strip_suffix("/s")?)
}

fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_and_write_back() {
        for (text, seconds) in [("5s", 5), ("2m", 120), ("1h30m", 5400), ("1d", 86_400), ("0s", 0)] {
            assert_eq!(span(text), Some(Duration::from_secs(seconds)), "{text}");
            assert_eq!(span_text(Duration::from_secs(seconds)), text);
        }
        assert_eq!(span("1m500ms"), Some(Duration::from_millis(60_500)));
        assert_eq!(span_text(Duration::from_millis(60_500)), "1m500ms");
    }

    #[test]
    fn what_is_no_span_is_none() {
        for text in [
            "",
            "5",
            "s",
            "5x",
            "-5s",
            "5 s",
            "1.5h",
            "30m1h",
            "1m1m",
            "5S",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert_eq!(span(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_and_rates() {
        assert_eq!(size("2MiB"), Some(2 << 20));
        assert_eq!(size("0B"), Some(0));
        for bytes in [0, 1, 1023, 1024, 1536, 3 << 20, (1 << 40) + 1, 5 << 40] {
            assert_eq!(size(&size_text(bytes)), Some(bytes));
        }
        assert_eq!(rate("512KiB/s"), Some(512 << 10));
        for text in ["2MB", "2", "MiB", "-1B", "1.5MiB", "99999999999TiB"] {
            assert_eq!(size(text), None, "{text}");
        }
        assert_eq!(rate("2MiB"), None);
    }
}
