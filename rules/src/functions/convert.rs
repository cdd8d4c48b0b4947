//! Conversions between types, and bytes as hexadecimal digits.

use bytes::Bytes;
use muster_core::value::Value;
use num_traits::ToPrimitive;

use super::{Args, Function, pure, wrong};
use crate::program::{Fault, json, ops, text};

/// Most decimals of `float()` and `float2str()`.
pub const DECIMALS_MAX: usize = 253;

pub(super) const TABLE: &[Function] = &[
    pure("str", 1, 1, "str(x)", |args| text::str_of(args.get(0))),
    pure("str_utf8", 1, 1, "str_utf8(x)", |args| text::str_of(args.get(0))),
    pure("str_utf16_le", 1, 1, "str_utf16_le(x)", str_utf16_le),
    pure("int", 1, 1, "int(x)", |args| int(args.get(0))),
    pure("float", 1, 2, "float(x) or float(x, decimals)", float),
    pure("float2str", 2, 2, "float2str(x, decimals)", float2str),
    pure("bool", 1, 1, "bool(x)", |args| bool(args.get(0))),
    pure("map", 1, 1, "map(x)", |args| map(args.get(0))),
    pure("bin2hexstr", 1, 2, "bin2hexstr(bytes) or bin2hexstr(bytes, prefix)", bin2hexstr),
    pure("hexstr2bin", 1, 2, "hexstr2bin(digits) or hexstr2bin(digits, prefix)", hexstr2bin),
    pure("sqlserver_bin2hexstr", 1, 1, "sqlserver_bin2hexstr(bytes)", |args| {
        Ok(format!("0x{}", hex_upper(&args.bytes(0)?)).into())
    }),
];

fn str_utf16_le(args: Args) -> Result<Value, Fault> {
    let bytes = text::bytes_of(args.get(0))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Fault::new("the string is not UTF-8"))?;
    Ok(Bytes::from(text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()).into())
}

fn int(value: &Value) -> Result<Value, Fault> {
    match value {
        Value::Int(_) | Value::BigInt(_) => Ok(value.clone()),
        Value::Bool(flag) => Ok(i64::from(*flag).into()),
        Value::Float(float) => ops::integral(float.floor()),
        Value::Str(bytes) => match text::number(bytes)? {
            Value::Float(float) => ops::integral(float.floor()),
            int => Ok(int),
        },
        other => Err(wrong("a number or a string", other)),
    }
}

fn to_float(value: &Value) -> Result<f64, Fault> {
    match value {
        Value::Str(bytes) => ops::float(&text::number(bytes)?),
        other => ops::float(other),
    }
}

fn decimals(args: &Args) -> Result<usize, Fault> {
    let count = usize::try_from(args.int(1)?).unwrap_or(0);
    if !(1..=DECIMALS_MAX).contains(&count) {
        return Err(Fault(format!("decimals are between 1 and {DECIMALS_MAX}").into()));
    }
    Ok(count)
}

fn float(args: Args) -> Result<Value, Fault> {
    let float = to_float(args.get(0))?;
    if args.len() == 1 {
        return Ok(Value::Float(float));
    }
    let rounded = format!("{float:.*}", decimals(&args)?);
    ops::finite(rounded.parse().unwrap_or(float))
}

fn float2str(args: Args) -> Result<Value, Fault> {
    match args.get(0) {
        Value::Float(float) => Ok(text::float(*float, decimals(&args)?).into()),
        other => Err(wrong("a float", other)),
    }
}

fn bool(value: &Value) -> Result<Value, Fault> {
    let flag = match value {
        Value::Bool(flag) => *flag,
        Value::Str(text) if text.as_ref() == b"true" => true,
        Value::Str(text) if text.as_ref() == b"false" => false,
        number if ops::is_number(number) && number_is(number, 1.0) => true,
        number if ops::is_number(number) && number_is(number, 0.0) => false,
        other => return Err(Fault(format!("{} cannot be made true or false", other.type_name()).into())),
    };
    Ok(flag.into())
}

fn number_is(number: &Value, wanted: f64) -> bool {
    ops::order(number, &Value::Float(wanted)).is_eq()
}

pub(super) fn map(value: &Value) -> Result<Value, Fault> {
    match value {
        Value::Map(_) => Ok(value.clone()),
        Value::Str(text) => match json::decode(text)? {
            map @ Value::Map(_) => Ok(map),
            other => Err(wrong("an object", &other)),
        },
        other => Err(wrong("a map", other)),
    }
}

pub(super) fn hex_upper(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02X}");
        out
    })
}

fn bin2hexstr(args: Args) -> Result<Value, Fault> {
    let digits = hex_upper(&args.bytes(0)?);
    Ok(if args.len() == 2 { format!("{}{digits}", args.text(1)?) } else { digits }.into())
}

fn hexstr2bin(args: Args) -> Result<Value, Fault> {
    let mut digits = args.bytes(0)?;
    if args.len() == 2 {
        let prefix = args.bytes(1)?;
        if !digits.starts_with(&prefix) {
            return Err(Fault::new("the text does not begin with the prefix"));
        }
        digits = digits.slice(prefix.len()..);
    }
    let nibble = |byte: &u8| (*byte as char).to_digit(16).and_then(|digit| digit.to_u8());
    let mut nibbles = Vec::with_capacity(digits.len() + 1);
    if digits.len() % 2 == 1 {
        nibbles.push(0);
    }
    for byte in &digits {
        nibbles.push(nibble(byte).ok_or_else(|| Fault::new("these are no hexadecimal digits"))?);
    }
    let bytes = nibbles.chunks(2).map(|pair| match pair {
        [high, low] => high << 4 | low,
        _ => 0,
    });
    Ok(Bytes::from(bytes.collect::<Vec<u8>>()).into())
}
