//! Numbers as PostgreSQL's binary format has them, exactly. Pure.

use muster_core::value::Value;

/// Decimal digits in a group of `numeric`.
const GROUP_DIGITS: usize = 4;
/// Digits before and after the point that `numeric` holds.
const DIGITS_MAX: (usize, usize) = (131_072, 16_383);

/// The value as an integer, if it is one.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(int) => Some(*int),
        Value::Bool(flag) => Some((*flag).into()),
        Value::Float(float) if float.fract() == 0.0 && float.abs() < 9.0e15 =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "whole, and within 53 bits")]
            Some(*float as i64)
        }
        Value::Str(_) => value.as_str()?.trim().parse().ok(),
        _ => None,
    }
}

/// The value as a double.
pub(super) fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(float) => Some(*float),
        #[expect(clippy::cast_precision_loss, reason = "what a column of doubles means")]
        Value::Int(int) => Some(*int as f64),
        Value::BigInt(int) => int.to_string().parse().ok().filter(|float: &f64| float.is_finite()),
        Value::Str(_) => value.as_str()?.trim().parse().ok(),
        _ => None,
    }
}

/// Appends a `numeric` of the value's own digits.
pub(super) fn numeric(value: &Value, out: &mut Vec<u8>) -> Option<()> {
    let text = match value {
        Value::Int(int) => int.to_string(),
        Value::BigInt(int) => int.to_string(),
        Value::Float(float) if float.is_nan() => {
            out.extend([0, 0, 0, 0, 0xc0, 0, 0, 0]);
            return Some(());
        }
        // The shortest digits that are this double, without an exponent.
        Value::Float(float) if float.is_finite() => float.to_string(),
        Value::Str(_) => value.as_str()?.trim().to_owned(),
        _ => return None,
    };
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(fraction) {
        return None;
    }
    let whole = whole.trim_start_matches('0');
    if whole.len() > DIGITS_MAX.0 || fraction.len() > DIGITS_MAX.1 {
        return None;
    }
    write(negative, whole, fraction, out)
}

fn write(negative: bool, whole: &str, fraction: &str, out: &mut Vec<u8>) -> Option<()> {
    let lead = (GROUP_DIGITS - whole.len() % GROUP_DIGITS) % GROUP_DIGITS;
    let mut digits = vec![0; lead];
    digits.extend(whole.bytes().chain(fraction.bytes()).map(|digit| digit - b'0'));
    digits.resize(digits.len().next_multiple_of(GROUP_DIGITS), 0);
    let groups = digits.chunks(GROUP_DIGITS);
    let mut groups: Vec<i16> =
        groups.map(|group| group.iter().fold(0, |sum, digit| sum * 10 + i16::from(*digit))).collect();
    // The weight of the first group, in powers of 10,000.
    let mut weight = i16::try_from((lead + whole.len()) / GROUP_DIGITS).ok()? - 1;
    let zeros = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..zeros);
    weight -= i16::try_from(zeros).ok()?;
    while groups.last() == Some(&0) {
        groups.pop();
    }
    if groups.is_empty() {
        weight = 0;
    }
    let negative = negative && !groups.is_empty();
    out.extend(i16::try_from(groups.len()).ok()?.to_be_bytes());
    out.extend(weight.to_be_bytes());
    out.extend(if negative { [0x40, 0] } else { [0, 0] });
    out.extend(i16::try_from(fraction.len()).ok()?.to_be_bytes());
    groups.iter().for_each(|group| out.extend(group.to_be_bytes()));
    Some(())
}
