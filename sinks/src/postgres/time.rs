//! Times: whole numbers are milliseconds since 1970, texts are RFC 3339. Pure.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use muster_core::value::Value;

/// From 1970 to 2000, where PostgreSQL begins to count.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i64 = 10_957;
const DAY_MICROS: i64 = 86_400_000_000;
/// What PostgreSQL's `timestamp` holds: 4713 BC to the year 294276.
const MICROS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

/// Microseconds since 2000.
pub(super) fn micros(value: &Value) -> Option<i64> {
    let micros = match value {
        Value::Int(ms) => ms.checked_mul(1_000)?,
        Value::Float(ms) if ms.is_finite() && ms.abs() < 9.0e15 =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "the bound is within 64 bits")]
            Some((ms * 1_000.0).round() as i64)?
        }
        Value::Str(_) => parse(value.as_str()?.trim())?,
        _ => return None,
    };
    micros.checked_sub(EPOCH_MICROS).filter(|micros| MICROS.contains(micros))
}

/// Days since 2000.
pub(super) fn days(value: &Value) -> Option<i32> {
    let days = (micros(value)? + EPOCH_MICROS).div_euclid(DAY_MICROS);
    i32::try_from(days - EPOCH_DAYS).ok()
}

/// Microseconds since 1970. A time without a zone is taken for UTC, and a day for its beginning.
fn parse(text: &str) -> Option<i64> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_microsecond());
    }
    let civil: DateTime = match text.parse::<DateTime>() {
        Ok(civil) => civil,
        Err(_) => text.parse::<Date>().ok()?.into(),
    };
    Some(civil.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond())
}
