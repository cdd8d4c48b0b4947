//! Durations and sizes as people write them.

use std::time::Duration;

/// `250ms`, `15s`, `1m 30s`, `2h`, `7d`; a bare number is milliseconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let ms = sum(text, &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)])
        .ok_or_else(|| format!("`{text}` is no duration; write for example 250ms, 15s or 1h"))?;
    Ok(Duration::from_millis(ms))
}

/// `512`, `64KiB`, `64MiB`, `1GiB` (powers of 1024), `64KB`, `64MB`, `1GB` (powers of 1000); a bare number is bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let units = [
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
    ];
    sum(text, &units).ok_or_else(|| format!("`{text}` is no size; write for example 512B, 64KiB or 1GiB"))
}

/// `never`, which is none, or what `read` reads, which must be above 0.
pub(super) fn or_never<T: Default + PartialEq>(
    text: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if text.trim() == "never" {
        return Ok(None);
    }
    match read(text).map_err(|why| format!("{why}, or never"))? {
        nothing if nothing == T::default() => {
            Err("0 would keep nothing; write never for no limit".to_owned())
        }
        limit => Ok(Some(limit)),
    }
}

/// Adds up `number unit` pairs; the first unit in the table is the one that a bare number has.
fn sum(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    let mut total = 0u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(digits)?;
        let after = after.trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(letters)?;
        let factor = if unit.is_empty() {
            units.first()?.1
        } else {
            units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(factor)?)?;
        rest = after.trim_start();
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("15s", 15_000),
            ("100ms", 100),
            ("1h", 3_600_000),
            ("1m 30s", 90_000),
            ("1m30s", 90_000),
            ("250", 250),
            ("7d", 604_800_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "15 parsecs", "-1s", "1.5s", "99999999999999999999s", "9999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("64MiB", 64 << 20), ("64 mib", 64 << 20), ("1GB", 1_000_000_000), ("17", 17)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        assert!(size("64 potatoes").is_err());
        assert!(size("99999999TiB").is_err());
    }
}
