//! Durations as people write them: `10ms`, `1.5s`, `2m`.

/// A duration in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nanoseconds(pub u64);

/// Reads one. The unit is part of it: `10` alone could be anything.
pub(super) fn parse(text: &str) -> Result<Nanoseconds, String> {
    const UNITS: [(&str, u64); 9] = [
        ("ns", 1),
        ("us", 1_000),
        ("µs", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("min", 60_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
        ("d", 86_400_000_000_000),
    ];
    let wrong = || "must be a number with a unit, like 10ms, 1.5s, 2m, 1h".to_owned();
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim();
    let &(_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || part.contains('.') {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    // More digits than nanoseconds of a day have add nothing.
    let digits: String = part.chars().take(14).collect();
    let scale = 10_u128.pow(digits.len() as u32);
    let fraction: u128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| wrong())? };
    let ns = u128::from(whole) * u128::from(size) + fraction * u128::from(size) / scale;
    u64::try_from(ns).map(Nanoseconds).map_err(|_| "is longer than 584 years".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units() {
        let cases = [
            ("10ms", 10_000_000),
            ("1.5s", 1_500_000_000),
            ("2m", 120_000_000_000),
            ("2min", 120_000_000_000),
            ("1h", 3_600_000_000_000),
            ("1d", 86_400_000_000_000),
            ("0.5us", 500),
            ("7 µs", 7_000),
            ("1.s", 1_000_000_000),
            ("0ns", 0),
            ("1.00000000000000000000000000001s", 1_000_000_000),
        ];
        for (text, ns) in cases {
            assert_eq!(parse(text), Ok(Nanoseconds(ns)), "{text}");
        }
        for wrong in ["", "10", "ms", ".5s", "-1s", "1.2.3s", "10 parsecs", "99999999999d", "١s"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
