//! Dates: Unix times in four units, RFC 3339, and formats such as `%Y-%m-%d %H:%M:%S.%3N%:z`.

use std::fmt::Write as _;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};
use muster_core::value::Value;
use num_bigint::BigInt;
use num_traits::ToPrimitive;

use super::{Args, Function, Prepared, pure, volatile, wrong};
use crate::program::context::EvalContext;
use crate::program::{Fault, ops};

/// Longest format.
pub const FORMAT_BYTES_MAX: usize = 1_024;

pub(super) const TABLE: &[Function] = &[
    volatile("now_timestamp", 0, 1, "now_timestamp() or now_timestamp(unit)", |args| {
        let unit = Unit::of(&args, 0)?;
        Ok(Value::big(unit.count(now_nanos(args.ctx))))
    }),
    volatile("now_rfc3339", 0, 1, "now_rfc3339() or now_rfc3339(unit)", |args| {
        let unit = Unit::of(&args, 0)?;
        rfc3339(now_nanos(args.ctx), unit, args.ctx.local_offset_seconds)
    }),
    volatile(
        "unix_ts_to_rfc3339",
        1,
        2,
        "unix_ts_to_rfc3339(timestamp) or unix_ts_to_rfc3339(timestamp, unit)",
        |args| {
            let unit = Unit::of(&args, 1)?;
            rfc3339(unit.nanos(args.get(0))?, unit, args.ctx.local_offset_seconds)
        },
    ),
    pure("rfc3339_to_unix_ts", 1, 2, "rfc3339_to_unix_ts(text) or rfc3339_to_unix_ts(text, unit)", |args| {
        let unit = Unit::of(&args, 1)?;
        let moment: Timestamp =
            args.text(0)?.parse().map_err(|_| Fault::new("this is no date in RFC 3339"))?;
        Ok(Value::big(unit.count(moment.as_nanosecond())))
    }),
    Function {
        prepare: Some(|args| prepare(args, 2)),
        ..volatile(
            "format_date",
            3,
            4,
            "format_date(unit, offset, format) or format_date(unit, offset, format, timestamp)",
            format_date,
        )
    },
    Function {
        prepare: Some(|args| prepare(args, args.len().saturating_sub(2))),
        ..pure("date_to_unix_ts", 3, 4, "date_to_unix_ts(unit[, offset], format, text)", date_to_unix_ts)
    },
    pure("timezone_to_offset_seconds", 1, 1, "timezone_to_offset_seconds(zone)", |args| {
        Ok(offset(args.get(0), args.ctx)?.into())
    }),
    pure("timezone_to_second", 1, 1, "timezone_to_second(zone)", |args| {
        Ok(offset(args.get(0), args.ctx)?.into())
    }),
    volatile(
        "mongo_date",
        0,
        2,
        "mongo_date(), mongo_date(timestamp) or mongo_date(timestamp, unit)",
        mongo_date,
    ),
];

#[derive(Clone, Copy)]
enum Unit {
    Second,
    Millisecond,
    Microsecond,
    Nanosecond,
}

impl Unit {
    /// The unit that an argument names; seconds where there is none.
    fn of(args: &Args, n: usize) -> Result<Self, Fault> {
        match if args.len() > n { args.text(n)? } else { "second" } {
            "second" => Ok(Self::Second),
            "millisecond" => Ok(Self::Millisecond),
            "microsecond" => Ok(Self::Microsecond),
            "nanosecond" => Ok(Self::Nanosecond),
            other => Err(Fault(
                format!("there is no unit '{other}': second, millisecond, microsecond, nanosecond").into(),
            )),
        }
    }

    const fn digits(self) -> usize {
        match self {
            Self::Second => 0,
            Self::Millisecond => 3,
            Self::Microsecond => 6,
            Self::Nanosecond => 9,
        }
    }

    const fn in_nanos(self) -> i128 {
        match self {
            Self::Second => 1_000_000_000,
            Self::Millisecond => 1_000_000,
            Self::Microsecond => 1_000,
            Self::Nanosecond => 1,
        }
    }

    fn count(self, nanos: i128) -> BigInt {
        nanos.div_euclid(self.in_nanos()).into()
    }

    fn nanos(self, value: &Value) -> Result<i128, Fault> {
        if !ops::is_integer(value) {
            return Err(wrong("a timestamp", value));
        }
        let count = ops::big(value).to_i128();
        count
            .and_then(|count| count.checked_mul(self.in_nanos()))
            .ok_or_else(|| Fault::new("the time is out of range"))
    }
}

fn now_nanos(ctx: &EvalContext) -> i128 {
    i128::from(ctx.now_ms()) * 1_000_000
}

/// Seconds east of Greenwich: a number, `Z`, `local`, `+08:00`, `+0800`, `+08:00:00`; nothing counts as 0.
fn offset(value: &Value, ctx: &EvalContext) -> Result<i64, Fault> {
    let no_offset = || Fault::new("an offset is a number of seconds, 'Z', 'local', '+08:00' or '+0800'");
    let text = match value {
        Value::Undefined => return Ok(0),
        Value::Int(seconds) => return Ok(*seconds),
        other => other.as_str().ok_or_else(no_offset)?,
    };
    match text {
        "Z" | "z" => return Ok(0),
        "local" => return Ok(ctx.local_offset_seconds),
        _ => {}
    }
    let (sign, digits) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(digits), _) => (1, digits),
        (_, Some(digits)) => (-1, digits),
        _ => return Err(no_offset()),
    };
    let part = |from: usize| -> Option<i64> {
        let digits = digits.get(from..from + 2)?;
        if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
    };
    let colon = |at: usize| digits.as_bytes().get(at) == Some(&b':');
    let parts = match digits.len() {
        4 => part(0).zip(part(2)).map(|(h, m)| (h, m, 0)),
        5 if colon(2) => part(0).zip(part(3)).map(|(h, m)| (h, m, 0)),
        8 if colon(2) && colon(5) => part(0).zip(part(3)).zip(part(6)).map(|((h, m), s)| (h, m, s)),
        _ => None,
    };
    let (hours, minutes, seconds) = parts.ok_or_else(no_offset)?;
    if hours > 23 || minutes > 59 || seconds > 59 {
        return Err(no_offset());
    }
    Ok(sign * (hours * 3600 + minutes * 60 + seconds))
}

/// A moment as the clocks at `offset` show it, with the rest in nanoseconds.
fn civil(nanos: i128, offset: i64) -> Result<(jiff::civil::DateTime, u32), Fault> {
    let out = |_| Fault::new("the time is out of range");
    let shifted = nanos.saturating_add(i128::from(offset) * 1_000_000_000);
    let moment = Timestamp::from_nanosecond(shifted).map_err(out)?;
    let rest = u32::try_from(shifted.rem_euclid(1_000_000_000)).unwrap_or(0);
    Ok((Offset::UTC.to_datetime(moment), rest))
}

fn zone(offset: i64, colons: usize) -> String {
    let sign = if offset < 0 { '-' } else { '+' };
    let seconds = offset.unsigned_abs();
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match colons {
        0 => format!("{sign}{h:02}{m:02}"),
        1 => format!("{sign}{h:02}:{m:02}"),
        _ => format!("{sign}{h:02}:{m:02}:{s:02}"),
    }
}

fn rfc3339(nanos: i128, unit: Unit, offset: i64) -> Result<Value, Fault> {
    let (date, rest) = civil(nanos, offset)?;
    let mut text = date.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    if unit.digits() > 0 {
        let fraction = format!("{rest:09}");
        let _ = write!(text, ".{}", fraction.get(..unit.digits()).unwrap_or_default());
    }
    text.push_str(&zone(offset, 1));
    Ok(text.into())
}

fn mongo_date(args: Args) -> Result<Value, Fault> {
    let nanos = match args.len() {
        0 => now_nanos(args.ctx),
        1 => Unit::Millisecond.nanos(args.get(0))?,
        _ => Unit::of(&args, 1)?.nanos(args.get(0))?,
    };
    let (date, rest) = civil(nanos, 0)?;
    Ok(format!("ISODate({}.{:03}Z)", date.strftime("%Y-%m-%dT%H:%M:%S"), rest / 1_000_000).into())
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    /// So many digits of the second's fraction.
    Fraction(usize),
    /// An offset with so many colons.
    Zone(usize),
}

/// A date format, taken apart.
#[derive(Debug)]
pub(crate) struct Format(Vec<Part>);

const DIRECTIVES: &[(&str, Part)] = &[
    ("%Y", Part::Year),
    ("%m", Part::Month),
    ("%d", Part::Day),
    ("%H", Part::Hour),
    ("%M", Part::Minute),
    ("%S", Part::Second),
    ("%N", Part::Fraction(9)),
    ("%3N", Part::Fraction(3)),
    ("%6N", Part::Fraction(6)),
    ("%z", Part::Zone(0)),
    ("%:z", Part::Zone(1)),
    ("%::z", Part::Zone(2)),
];

impl Format {
    /// What is no directive stands for itself.
    fn new(text: &str) -> Result<Self, Fault> {
        if text.len() > FORMAT_BYTES_MAX {
            return Err(Fault::new("the format is too long"));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some((directive, part)) =
                DIRECTIVES.iter().find(|(directive, _)| rest.starts_with(directive))
            {
                parts.push(part.clone());
                rest = rest.get(directive.len()..).unwrap_or_default();
                continue;
            }
            match parts.last_mut() {
                Some(Part::Text(text)) => text.push(c),
                _ => parts.push(Part::Text(c.to_string())),
            }
            rest = rest.get(c.len_utf8()..).unwrap_or_default();
        }
        Ok(Self(parts))
    }

    fn write(&self, nanos: i128, offset: i64) -> Result<String, Fault> {
        let (date, rest) = civil(nanos, offset)?;
        let mut out = String::new();
        for part in &self.0 {
            let _ = match part {
                Part::Text(text) => out.write_str(text),
                Part::Year => write!(out, "{:04}", date.year()),
                Part::Month => write!(out, "{:02}", date.month()),
                Part::Day => write!(out, "{:02}", date.day()),
                Part::Hour => write!(out, "{:02}", date.hour()),
                Part::Minute => write!(out, "{:02}", date.minute()),
                Part::Second => write!(out, "{:02}", date.second()),
                Part::Fraction(digits) => {
                    let fraction = format!("{rest:09}");
                    out.write_str(fraction.get(..*digits).unwrap_or_default())
                }
                Part::Zone(colons) => out.write_str(&zone(offset, *colons)),
            };
        }
        Ok(out)
    }

    /// The moment in nanoseconds. Parts have fixed widths; a text that ends early leaves the rest of the format
    /// unused, as the reference has it.
    fn read(&self, text: &str, ctx: &EvalContext) -> Result<i128, Fault> {
        let bad = || Fault::new("the date does not fit the format");
        let (mut year, mut month, mut day) = (None, None, None);
        let (mut hour, mut minute, mut second, mut nanos, mut shift) = (0, 0, 0, 0i128, 0);
        let mut rest = text;
        for part in &self.0 {
            if rest.is_empty() {
                break;
            }
            let width = match part {
                Part::Text(text) => text.chars().count(),
                Part::Year => 4,
                Part::Fraction(digits) => *digits,
                Part::Zone(colons) => [5, 6, 9].get(*colons).copied().unwrap_or(9),
                _ => 2,
            };
            let end = rest.char_indices().nth(width).map_or(rest.len(), |(at, _)| at);
            let (piece, tail) = rest.split_at(end);
            if piece.chars().count() < width {
                return Err(bad());
            }
            rest = tail;
            let number = || -> Result<i64, Fault> {
                let digits = !piece.is_empty() && piece.bytes().all(|b| b.is_ascii_digit());
                if digits { piece.parse().map_err(|_| bad()) } else { Err(bad()) }
            };
            match part {
                Part::Text(_) => {}
                Part::Year => year = Some(number()?),
                Part::Month => month = Some(number()?),
                Part::Day => day = Some(number()?),
                Part::Hour => hour = number()?,
                Part::Minute => minute = number()?,
                Part::Second => second = number()?,
                Part::Fraction(digits) => {
                    let scale = 9u32.saturating_sub(u32::try_from(*digits).unwrap_or(9));
                    nanos = i128::from(number()?) * 10i128.pow(scale);
                }
                Part::Zone(_) => shift = offset(&piece.into(), ctx)?,
            }
        }
        let small = |part: Option<i64>| part.and_then(|part| i8::try_from(part).ok()).ok_or_else(bad);
        let year = year.and_then(|year| i16::try_from(year).ok()).ok_or_else(bad)?;
        let date = Date::new(year, small(month)?, small(day)?).map_err(|_| bad())?;
        if hour > 24 || minute > 59 || second > 60 {
            return Err(bad());
        }
        let midnight = Offset::UTC.to_timestamp(date.at(0, 0, 0, 0)).map_err(|_| bad())?;
        let since = SignedDuration::from_secs(hour * 3600 + minute * 60 + second - shift);
        Ok(midnight.as_nanosecond() + since.as_nanos() + nanos)
    }
}

fn prepare(args: &[Option<&Value>], at: usize) -> Result<Option<Prepared>, Fault> {
    let text = args.get(at).copied().flatten().and_then(Value::as_str);
    text.map(|text| Format::new(text).map(|format| Prepared::Date(Arc::new(format)))).transpose()
}

fn format_of(args: &mut Args, n: usize) -> Result<Arc<Format>, Fault> {
    if let Some(Prepared::Date(format)) = args.prepared {
        return Ok(format.clone());
    }
    let text = args.bytes(n)?;
    let made = args.ctx.prepared("date", &text, |text| {
        let text = std::str::from_utf8(text).map_err(|_| Fault::new("the format is not UTF-8"))?;
        Ok(Prepared::Date(Arc::new(Format::new(text)?)))
    })?;
    match made {
        Prepared::Date(format) => Ok(format),
        _ => Err(Fault::new("this is no date format")),
    }
}

fn format_date(mut args: Args) -> Result<Value, Fault> {
    let unit = Unit::of(&args, 0)?;
    let offset = offset(args.get(1), args.ctx)?;
    let format = format_of(&mut args, 2)?;
    let nanos = if args.len() == 4 { unit.nanos(args.get(3))? } else { now_nanos(args.ctx) };
    Ok(format.write(nanos, offset)?.into())
}

fn date_to_unix_ts(mut args: Args) -> Result<Value, Fault> {
    let unit = Unit::of(&args, 0)?;
    let last = args.len() - 1;
    let shift = if last == 3 { offset(args.get(1), args.ctx)? } else { 0 };
    let format = format_of(&mut args, last - 1)?;
    let nanos = format.read(args.text(last)?, args.ctx)?;
    Ok(Value::big(unit.count(nanos - i128::from(shift) * 1_000_000_000)))
}
