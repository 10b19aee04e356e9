//! Spans of time on the command line: what kubectl takes, which is what Go's `time.ParseDuration` reads, and days.

use std::time::Duration;

const UNITS: [(&str, u128); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];
/// Digits after the point that can make a difference.
const DIGITS: usize = 18;

/// Reads a span such as `1.5h`, `1h30m`, `250ms` or `0`.
pub fn span(text: &str) -> Result<Duration, String> {
    read(text).ok_or_else(|| "it is no duration, such as 5s, 2m or 1.5h".to_owned())
}

fn read(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u128 = 0;
    loop {
        let (number, after) = rest.split_at(rest.find(|c: char| !is_number(c))?);
        let (unit, next) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(amount(number, *scale)?)?;
        rest = next;
        if rest.is_empty() {
            break;
        }
    }
    // Go counts nanoseconds in 63 bits.
    i64::try_from(total).ok().map(|nanoseconds| Duration::from_nanos(nanoseconds.unsigned_abs()))
}

fn is_number(c: char) -> bool {
    c.is_ascii_digit() || c == '.'
}

/// A number such as `1`, `1.5`, `.5` or `1.`, of a unit of so many nanoseconds.
fn amount(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let parse =
        |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u64>().ok().map(u128::from) };
    let fraction = &fraction[..fraction.len().min(DIGITS)];
    let part = parse(fraction)? * scale / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    (parse(whole)? * scale).checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_go_reads_them() {
        for (text, milliseconds) in [
            ("0", 0),
            ("0s", 0),
            ("5s", 5000),
            ("+5s", 5000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("1.5h1.5m", 5_490_000),
            ("30m1h", 5_400_000),
            (".5s", 500),
            ("1.s", 1000),
            ("250ms", 250),
            ("2000µs", 2),
            ("0.1000000000000000000009s", 100),
            ("2d", 172_800_000),
        ] {
            assert_eq!(read(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for text in [
            "",
            "+",
            "5",
            "s",
            ".s",
            "-5s",
            "5 s",
            "1.2.3s",
            "5S",
            "1h5",
            "99999999h",
            "99999999999999999999s",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
