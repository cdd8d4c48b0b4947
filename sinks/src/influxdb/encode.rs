//! A row as a line of line protocol, and the nanosecond that it belongs to. It must never know HTTP; nothing is read
//! but the row, so that a second attempt writes the same line.

use std::borrow::Cow;
use std::fmt::Write as _;

use jiff::Timestamp;
use muster_core::value::Value;

use super::shape::{Field, Shape, check_label, escape, label};
use crate::sink::BatchRow;

/// Nanoseconds in a millisecond: the places that rows of one millisecond share.
const PLACES: u64 = 1_000_000;
/// How far the rows of one event are apart: about the golden section, and prime to [`PLACES`]. Rows whose numbers
/// differ by `d` (up to 1,000) are more than 330,000 / d places apart, so no event of the next thousands comes upon
/// them.
const ROW_STEP: u64 = 613_393;
/// The longest key of a series and one of its fields, in bytes as written.
const KEY_BYTES_MAX: usize = 65_535;
/// What the server adds between the two.
const KEY_SEPARATOR_BYTES: usize = 4;

/// Appends `row` as a line that ends in a newline, and answers with its time in nanoseconds since 1970; why it cannot
/// be a line, in words, and then `out` is as it was.
pub(super) fn line(shape: &Shape, rule: &str, row: &BatchRow, out: &mut String) -> Result<i64, String> {
    let start = out.len();
    let written = point(shape, rule, row, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn point(shape: &Shape, rule: &str, row: &BatchRow, out: &mut String) -> Result<i64, String> {
    let start = out.len();
    let at = nanoseconds(shape, row)?;
    shape.measurement.write(&row.row, out)?;
    tags(shape, rule, row, out)?;
    let key_bytes = out.len() - start;
    let mut separator = ' ';
    shape.fields(&row.row, |key, field| {
        out.push(std::mem::replace(&mut separator, ','));
        let from = out.len();
        escape(key, &[',', '=', ' '], out);
        if key_bytes + KEY_SEPARATOR_BYTES + (out.len() - from) > KEY_BYTES_MAX {
            return Err(format!("measurement, tags and a field's name have more than {KEY_BYTES_MAX} bytes"));
        }
        out.push('=');
        value(&field, out);
        Ok(())
    })?;
    if separator == ' ' {
        return Err("the row has no field: all its columns are tags or empty".into());
    }
    let _ = writeln!(out, " {at}");
    Ok(at)
}

fn tags(shape: &Shape, rule: &str, row: &BatchRow, out: &mut String) -> Result<(), String> {
    for tag in &shape.tags {
        let column = row.row.get(&tag.name);
        let text = match column {
            // The row has a column of that name, and then that is what the name means.
            Some(_) if tag.is_rule => continue,
            None if tag.is_rule => Some(Cow::Borrowed(rule)),
            Some(value) => label(&tag.name, value)?,
            None => None,
        };
        let Some(text) = text else { continue };
        check_label(&text).map_err(|reason| format!("`{}` cannot be a tag: it {reason}", tag.name))?;
        out.push(',');
        out.push_str(&tag.key);
        out.push('=');
        escape(&text, &[',', '=', ' '], out);
    }
    Ok(())
}

fn value(field: &Field<'_>, out: &mut String) {
    match field {
        // Always with a point or an exponent, e.g. `4.0`.
        Field::Float(float) => drop(write!(out, "{float:?}")),
        Field::Integer(int) => drop(write!(out, "{int}i")),
        Field::Boolean(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Field::Text(text) => {
            out.push('"');
            escape(text, &['"', '\\'], out);
            out.push('"');
        }
    }
}

/// The row's nanosecond: its millisecond, and within it a place that follows from the event's offset and the row's
/// number. The same row has the same on every attempt; which others have it is told in `docs/influxdb.md`.
fn nanoseconds(shape: &Shape, row: &BatchRow) -> Result<i64, String> {
    let ms = milliseconds(shape, row)?;
    let nanoseconds = i64::try_from(PLACES).ok().and_then(|places| ms.checked_mul(places));
    let place = i64::try_from(place(row.offset(), row.index)).ok();
    let sum = nanoseconds.zip(place).and_then(|(start, place)| start.checked_add(place));
    // The server keeps the outermost numbers for itself.
    let sum = sum.filter(|at| (i64::MIN + 2..i64::MAX).contains(at));
    sum.ok_or_else(|| "the time is outside of the years 1678 to 2262, which InfluxDB has".into())
}

/// The place within its millisecond.
pub(super) fn place(offset: u64, row: u32) -> u64 {
    (offset % PLACES + u64::from(row) % PLACES * ROW_STEP) % PLACES
}

fn milliseconds(shape: &Shape, row: &BatchRow) -> Result<i64, String> {
    let Some(column) = &shape.timestamp else { return Ok(row.event.timestamp_ms) };
    let wrong = |what: &str| format!("`{column}`, which says when, {what}");
    match row.row.get(column) {
        None | Some(Value::Undefined | Value::Null) => Err(wrong("is missing")),
        Some(Value::Int(ms)) => Ok(*ms),
        #[expect(clippy::cast_possible_truncation, reason = "a whole number that was compared before")]
        Some(Value::Float(ms)) if ms.fract() == 0.0 && ms.abs() < 9e15 => Ok(*ms as i64),
        Some(value) => {
            let time = value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
            // Down to the millisecond, also before 1970.
            let ms = time.map(|time| time.as_nanosecond().div_euclid(i128::from(PLACES)));
            let ms = ms.and_then(|ms| i64::try_from(ms).ok());
            ms.ok_or_else(|| wrong("is neither milliseconds since 1970 nor a time as RFC 3339 has it"))
        }
    }
}
