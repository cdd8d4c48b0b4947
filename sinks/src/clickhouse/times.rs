//! Moments as ClickHouse's date and time types take them. What does not fit is refused here: the server would write the
//! nearest moment that fits, and say nothing.

use std::borrow::Cow;
use std::io::Write as _;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;
use muster_core::value::Value;

/// Why a value is refused, in words.
pub(super) type Reason = Cow<'static, str>;

const SECONDS_A_DAY: i64 = 86_400;
/// The first day of `Date32` and the first second of `DateTime64`: 1900-01-01.
const WIDE_FROM_S: i64 = -2_208_988_800;
/// The last second of 2299, where both end.
const WIDE_TO_S: i64 = 10_413_791_999;
/// Where nanoseconds since 1970 end in 64 bits, in 2262.
const NANOS_TO_S: i64 = 9_223_372_035;
/// The last day of `Date`: 2149-06-06.
const DAYS_MAX: i64 = 65_535;

const NO_TIME: &str = "what is no time (whole milliseconds since 1970, or text as 2024-05-06T07:08:09Z)";
const OUT_OF_RANGE: &str = "a time beyond what the type holds";

/// Integers are milliseconds since 1970, text is RFC 3339.
fn moment(value: &Value) -> Result<Timestamp, Reason> {
    let of_ms = |ms| Timestamp::from_millisecond(ms).map_err(|_| Reason::from(OUT_OF_RANGE));
    match value {
        Value::Int(ms) => of_ms(*ms),
        // Of a payload such as `1700000000000.0`; beyond 2^53 a float is not exact.
        Value::Float(ms) if ms.fract() == 0.0 && ms.abs() <= 9.0e15 => of_ms(*ms as i64),
        Value::BigInt(_) => Err(OUT_OF_RANGE.into()),
        Value::Str(_) => value.as_str().and_then(|text| text.parse().ok()).ok_or(Reason::from(NO_TIME)),
        _ => Err(NO_TIME.into()),
    }
}

pub(super) fn date_time(value: &Value, out: &mut Vec<u8>) -> Result<(), Reason> {
    let at = moment(value)?;
    let seconds = at.as_nanosecond().div_euclid(1_000_000_000);
    let whole = u32::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds.into()).ok());
    drop(write!(out, "\"{:.0}\"", whole.ok_or(OUT_OF_RANGE)?));
    Ok(())
}

pub(super) fn date_time64(value: &Value, scale: u8, out: &mut Vec<u8>) -> Result<(), Reason> {
    let at = moment(value)?;
    let to = if scale >= 9 { NANOS_TO_S } else { WIDE_TO_S };
    if !(WIDE_FROM_S..=to).contains(&at.as_second()) {
        return Err(OUT_OF_RANGE.into());
    }
    drop(write!(out, "\"{at:.*}\"", usize::from(scale.min(9))));
    Ok(())
}

/// The day in UTC; text may also be a date alone.
pub(super) fn date(value: &Value, wide: bool, out: &mut Vec<u8>) -> Result<(), Reason> {
    let alone =
        value.as_str().and_then(|text| text.parse::<Date>().ok().filter(|_| !text.contains(['T', ' '])));
    let date = match alone {
        Some(date) => date,
        None => Offset::UTC.to_datetime(moment(value)?).date(),
    };
    let midnight = Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).map_err(|_| OUT_OF_RANGE)?;
    let second = midnight.as_second();
    let range = if wide { WIDE_FROM_S..=WIDE_TO_S } else { 0..=DAYS_MAX * SECONDS_A_DAY };
    if !range.contains(&second) {
        return Err(OUT_OF_RANGE.into());
    }
    drop(write!(out, "\"{date}\""));
    Ok(())
}
