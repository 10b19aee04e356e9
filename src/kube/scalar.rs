//! The Kubernetes types whose JSON is a text of its own: Time, MicroTime and Duration.
//!
//! As apimachinery and Go print and parse them; the zero time is `null` in JSON and an empty message.

use jiff::Timestamp;

use super::wire::{Fault, Reader, Wire, Writer};

/// 0001-01-01T00:00:00Z, Go's zero time, in seconds of the Unix epoch.
const GO_ZERO: i64 = -62_135_596_800;
/// 0000-01-01, before which Go's RFC 3339 has a form of its own.
const YEAR_ZERO: i64 = -62_167_219_200;

/// To what a time is told.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Precision {
    Seconds,
    Micros,
}

/// A Timestamp message as RFC 3339; `None` for the zero time.
pub(super) fn read_time(message: &[u8], precision: Precision) -> Result<Option<String>, Fault> {
    if message.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(message);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Varint(n)) => seconds = n as i64,
            (2, Wire::Varint(n)) => nanos = n as i32,
            _ => return Err("a time has a field that is not known"),
        }
    }
    if precision == Precision::Seconds {
        nanos = 0;
    }
    nanos -= nanos % 1000;
    if (seconds, nanos) == (GO_ZERO, 0) {
        return Ok(None);
    }
    let time = Timestamp::new(seconds, nanos).ok().filter(|t| t.as_second() >= YEAR_ZERO);
    let time = time.ok_or("a time is out of range")?;
    Ok(Some(match precision {
        Precision::Seconds => time.to_string(),
        Precision::Micros => format!("{time:.6}"),
    }))
}

/// RFC 3339 as the fields of a Timestamp message; nothing for the zero time.
pub(super) fn write_time(text: &str, precision: Precision, to: &mut Writer) -> Result<(), Fault> {
    let time: Timestamp = text.parse().map_err(|_| "it is no RFC 3339 time")?;
    let nanos = time.as_nanosecond();
    let (seconds, nanos) = (nanos.div_euclid(1_000_000_000) as i64, nanos.rem_euclid(1_000_000_000) as u64);
    if (seconds, nanos) == (GO_ZERO, 0) {
        return Ok(());
    }
    to.varint_field(2, if precision == Precision::Micros { nanos - nanos % 1000 } else { 0 });
    to.varint_field(1, seconds as u64);
    Ok(())
}

/// Nanoseconds as Go prints a duration: `1h2m3.5s`, `1.5ms`, `0s`.
pub(super) fn show_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let part = |unit: u64| {
        let (whole, rest) = (n / unit, n % unit);
        if rest == 0 {
            return whole.to_string();
        }
        let width = unit.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        format!("{whole}.{}", digits.trim_end_matches('0'))
    };
    match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{n}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", part(1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", part(1_000_000)),
        _ => {
            let minutes = n / 60_000_000_000;
            let seconds = show_seconds(n % 60_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, m) => format!("{sign}{m}m{seconds}s"),
                (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
            }
        }
    }
}

fn show_seconds(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The nanoseconds of a text that Go's `time.ParseDuration` accepts.
pub(super) fn parse_duration(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0i128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 38 {
            return None;
        }
        let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i128>().ok() };
        nanos = nanos.checked_add(digits(whole)?.checked_mul(unit)?)?;
        let fraction = &fraction[..fraction.len().min(18)];
        nanos += digits(fraction)? * unit / 10i128.pow(fraction.len() as u32);
        rest = tail;
    }
    i64::try_from(sign * nanos).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_prints_them() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
            (i64::MAX, "2562047h47m16.854775807s"),
            (-30_000_000_000, "-30s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(show_duration(nanos), text);
            assert_eq!(parse_duration(text), Some(nanos), "{text}");
        }
        assert_eq!(parse_duration("1.5h30m"), Some(7_200_000_000_000));
        for text in ["", "1", "s", "1x", ".s", "1h.", "-", "9999999999h"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn times() {
        let there = |text: &str, precision| {
            let mut w = Writer::default();
            write_time(text, precision, &mut w).unwrap();
            read_time(&w.finish(), precision).unwrap()
        };
        use Precision::*;
        assert_eq!(there("2024-02-29T12:00:01Z", Seconds).as_deref(), Some("2024-02-29T12:00:01Z"));
        assert_eq!(there("2024-02-29T13:00:01.9+01:00", Seconds).as_deref(), Some("2024-02-29T12:00:01Z"));
        assert_eq!(there("2024-02-29T12:00:01Z", Micros).as_deref(), Some("2024-02-29T12:00:01.000000Z"));
        assert_eq!(
            there("1969-12-31T23:59:59.1234567Z", Micros).as_deref(),
            Some("1969-12-31T23:59:59.123456Z")
        );
        assert_eq!(there("0001-01-01T00:00:00Z", Seconds), None);
        assert!(read_time(&[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], Seconds).is_err());
        assert_eq!(read_time(&[8, 0], Seconds).unwrap().as_deref(), Some("1970-01-01T00:00:00Z"));
    }
}
