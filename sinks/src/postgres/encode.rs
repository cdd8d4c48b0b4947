//! Values as PostgreSQL's binary format has them, by the column's type. Pure. A value that the column cannot hold as
//! it is, is refused in words that name the type; it is never bent.

use std::net::IpAddr;

use muster_core::value::Value;
use tokio_postgres::types::Type;

use super::number;
use super::time;

/// How values of a column are written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Text,
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    Timestamp,
    Date,
    Json,
    Jsonb,
    Uuid,
    Bytea,
    Inet {
        cidr: bool,
    },
    Array {
        element: u32,
        kind: Box<Kind>,
    },
    /// A type without a case of its own: written as text, and PostgreSQL makes of it what it can.
    AsText,
}

impl Kind {
    pub(super) fn of(known: &Type) -> Self {
        match *known {
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => Self::Text,
            Type::BOOL => Self::Bool,
            Type::INT2 => Self::Int2,
            Type::INT4 => Self::Int4,
            Type::INT8 => Self::Int8,
            Type::FLOAT4 => Self::Float4,
            Type::FLOAT8 => Self::Float8,
            Type::NUMERIC => Self::Numeric,
            Type::TIMESTAMP | Type::TIMESTAMPTZ => Self::Timestamp,
            Type::DATE => Self::Date,
            Type::JSON => Self::Json,
            Type::JSONB => Self::Jsonb,
            Type::UUID => Self::Uuid,
            Type::BYTEA => Self::Bytea,
            Type::INET => Self::Inet { cidr: false },
            Type::CIDR => Self::Inet { cidr: true },
            _ => Self::AsText,
        }
    }
}

/// Appends the field: its length and its bytes.
///
/// # Errors
/// Why the column cannot hold the value.
pub(super) fn field(kind: &Kind, value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
    if matches!(value, Value::Undefined | Value::Null) {
        null(out);
        return Ok(());
    }
    let start = out.len();
    out.extend([0; 4]);
    body(kind, value, out)?;
    let length = i32::try_from(out.len() - start - 4).map_err(|_| "it is too long".to_owned())?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Appends a NULL.
pub(super) fn null(out: &mut Vec<u8>) {
    out.extend((-1_i32).to_be_bytes());
}

fn body(kind: &Kind, value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
    match kind {
        Kind::Text | Kind::AsText => text(value, out)?,
        Kind::Bool => out.push(boolean(value)?.into()),
        Kind::Int2 => out.extend(integer::<i16>(value)?.to_be_bytes()),
        Kind::Int4 => out.extend(integer::<i32>(value)?.to_be_bytes()),
        Kind::Int8 => out.extend(integer::<i64>(value)?.to_be_bytes()),
        Kind::Float4 => {
            let float = number::float(value).ok_or_else(|| is(value))?;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "beyond its range it is infinite, and refused"
            )]
            let single = float as f32;
            if single.is_infinite() && float.is_finite() {
                return Err("it is out of range".into());
            }
            out.extend(single.to_be_bytes());
        }
        Kind::Float8 => out.extend(number::float(value).ok_or_else(|| is(value))?.to_be_bytes()),
        Kind::Numeric => number::numeric(value, out).ok_or_else(|| is(value))?,
        Kind::Timestamp => out.extend(time::micros(value).ok_or_else(|| no_time(value))?.to_be_bytes()),
        Kind::Date => out.extend(time::days(value).ok_or_else(|| no_time(value))?.to_be_bytes()),
        Kind::Json => json(value, false, out)?,
        Kind::Jsonb => {
            out.push(1);
            json(value, true, out)?;
        }
        Kind::Uuid => out.extend(uuid(value).ok_or_else(|| is(value))?),
        Kind::Bytea => match value {
            Value::Str(bytes) => out.extend_from_slice(bytes),
            _ => return Err(is(value)),
        },
        Kind::Inet { cidr } => inet(value, *cidr, out).ok_or_else(|| is(value))?,
        Kind::Array { element, kind } => array(*element, kind, value, out)?,
    }
    Ok(())
}

fn is(value: &Value) -> String {
    match value {
        Value::Str(_) => "it is a text of another form".into(),
        Value::BigInt(_) => "it is an integer out of range".into(),
        other => format!("it is of type {}", other.type_name()),
    }
}

fn no_time(value: &Value) -> String {
    match value {
        Value::Int(_) | Value::Float(_) => "it is no time in milliseconds since 1970".into(),
        Value::Str(_) => "it is no time as RFC 3339 has it".into(),
        other => is(other),
    }
}

const NUL: &str = "it holds a NUL character, which PostgreSQL's texts cannot; a column of type bytea can";
const NO_UTF8: &str = "it holds bytes that are no UTF-8; a column of type bytea takes them";

fn text(value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
    let start = out.len();
    match value {
        Value::Str(bytes) => {
            std::str::from_utf8(bytes).map_err(|_| NO_UTF8)?;
            out.extend_from_slice(bytes);
            // JSON escapes it, so that only a text can have one.
            if out[start..].contains(&0) {
                return Err(NUL.into());
            }
        }
        Value::Array(_) | Value::Map(_) => json(value, false, out)?,
        other => out.extend(other.to_json().into_bytes()),
    }
    Ok(())
}

fn boolean(value: &Value) -> Result<bool, String> {
    let word = match value {
        Value::Bool(flag) => return Ok(*flag),
        Value::Int(0) => return Ok(false),
        Value::Int(1) => return Ok(true),
        other => other.as_str().unwrap_or_default().to_ascii_lowercase(),
    };
    match &*word {
        "true" | "t" | "yes" | "y" | "on" | "1" => Ok(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Ok(false),
        _ => Err(is(value)),
    }
}

fn integer<T: TryFrom<i64>>(value: &Value) -> Result<T, String> {
    let int = number::integer(value).ok_or_else(|| is(value))?;
    T::try_from(int).map_err(|_| "it is out of range".into())
}

/// A text that is a JSON object or list is taken for that, since it is what a payload usually is; any other is a JSON
/// string.
fn json(value: &Value, binary: bool, out: &mut Vec<u8>) -> Result<(), String> {
    exact(value, binary)?;
    match value.as_str() {
        Some(text) if text.trim_start().starts_with(['{', '[']) && is_json(text) => {
            out.extend_from_slice(text.as_bytes());
        }
        _ => out.extend(value.to_json().into_bytes()),
    }
    Ok(())
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// Whether JSON holds the value as it is.
fn exact(value: &Value, binary: bool) -> Result<(), String> {
    match value {
        Value::Str(bytes) if std::str::from_utf8(bytes).is_err() => Err(NO_UTF8.into()),
        Value::Str(bytes) if binary && bytes.contains(&0) => Err(NUL.into()),
        Value::Array(items) => items.iter().try_for_each(|item| exact(item, binary)),
        Value::Map(map) if binary && map.keys().any(|key| key.contains('\0')) => Err(NUL.into()),
        Value::Map(map) => map.values().try_for_each(|item| exact(item, binary)),
        _ => Ok(()),
    }
}

fn uuid(value: &Value) -> Option<[u8; 16]> {
    let text = value.as_str()?;
    let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    let (mut id, mut digits) = (0_u128, 0);
    for byte in text.bytes().filter(|byte| *byte != b'-') {
        id = (id << 4) | u128::from(char::from(byte).to_digit(16)?);
        digits += 1;
        if digits > 32 {
            return None;
        }
    }
    (digits == 32).then(|| id.to_be_bytes())
}

fn inet(value: &Value, cidr: bool, out: &mut Vec<u8>) -> Option<()> {
    let text = value.as_str()?;
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    // The families are numbers of PostgreSQL's own.
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (2_u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (3_u8, v6.octets().to_vec()),
    };
    let length = u8::try_from(bytes.len()).ok()?;
    let bits = bits.unwrap_or(length * 8);
    if bits > length * 8 {
        return None;
    }
    out.extend([family, bits, cidr.into(), length]);
    out.extend(bytes);
    Some(())
}

fn array(element: u32, kind: &Kind, value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
    let Value::Array(items) = value else { return Err(is(value)) };
    let many = i32::try_from(items.len()).map_err(|_| "it is too long".to_owned())?;
    let nulls = items.iter().any(|item| matches!(item, Value::Undefined | Value::Null));
    let dimensions = i32::from(many > 0);
    out.extend(dimensions.to_be_bytes());
    out.extend(i32::from(nulls).to_be_bytes());
    out.extend(element.to_be_bytes());
    if many > 0 {
        out.extend(many.to_be_bytes());
        out.extend(1_i32.to_be_bytes());
    }
    for (at, item) in items.iter().enumerate() {
        field(kind, item, out).map_err(|why| format!("of its element {}: {why}", at + 1))?;
    }
    Ok(())
}
