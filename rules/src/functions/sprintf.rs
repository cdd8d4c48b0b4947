//! `sprintf` with Erlang's formats: `~s ~ts ~p ~w ~b ~c ~f ~e ~g ~n ~~`, with field width, precision and padding.

use bytes::Bytes;
use muster_core::value::Value;

use super::{Function, pure, wrong};
use crate::program::{Fault, ops, text};

/// Widest field.
const WIDTH_MAX: usize = 4_096;

pub(super) const TABLE: &[Function] = &[
    pure("sprintf", 1, 64, "sprintf(format, value, ...)", |args| {
        format(args.text(0)?, args.values.get(1..).unwrap_or_default())
    }),
    pure("sprintf_s", 2, 2, "sprintf_s(format, [value, ...])", |args| format(args.text(0)?, args.list(1)?)),
];

/// One `~F.P.PadModC`.
#[derive(Default)]
struct Spec {
    width: Option<i64>,
    precision: Option<usize>,
    pad: Option<char>,
    kind: char,
}

fn format(format: &str, values: &[Value]) -> Result<Value, Fault> {
    let mut out = Vec::new();
    let mut values = values.iter();
    let mut rest = format;
    while let Some((plain, tail)) = rest.split_once('~') {
        out.extend_from_slice(plain.as_bytes());
        let (spec, tail) = spec(tail, &mut values)?;
        rest = tail;
        match spec.kind {
            'n' => out.push(b'\n'),
            '~' => out.push(b'~'),
            _ => {
                let value = values.next().ok_or_else(|| Fault::new("the format wants more values"))?;
                if spec.kind != 'i' {
                    out.extend_from_slice(&field(&spec, one(&spec, value)?));
                }
            }
        }
        text::bounded(out.len())?;
    }
    out.extend_from_slice(rest.as_bytes());
    if values.next().is_some() {
        return Err(Fault::new("the format wants fewer values"));
    }
    Ok(Bytes::from(out).into())
}

fn spec<'a, 'v>(
    text: &'a str,
    values: &mut impl Iterator<Item = &'v Value>,
) -> Result<(Spec, &'a str), Fault> {
    let mut spec = Spec::default();
    let mut rest = text;
    let mut number = |rest: &mut &'a str| -> Result<Option<i64>, Fault> {
        if let Some(tail) = rest.strip_prefix('*') {
            *rest = tail;
            return match values.next() {
                Some(Value::Int(int)) => Ok(Some(*int)),
                _ => Err(Fault::new("`*` wants an integer")),
            };
        }
        let len = rest
            .bytes()
            .enumerate()
            .take_while(|(n, b)| b.is_ascii_digit() || (*n == 0 && *b == b'-'))
            .count();
        let (digits, tail) = rest.split_at(len);
        *rest = tail;
        Ok(digits.parse().ok())
    };
    spec.width = number(&mut rest)?;
    if let Some(tail) = rest.strip_prefix('.') {
        rest = tail;
        spec.precision = number(&mut rest)?.and_then(|n| usize::try_from(n).ok());
        if let Some(tail) = rest.strip_prefix('.') {
            spec.pad = tail.chars().next();
            rest = tail.get(spec.pad.map_or(0, char::len_utf8)..).unwrap_or_default();
        }
    }
    rest = rest.trim_start_matches(['t', 'l', 'k', 'K']);
    spec.kind = rest.chars().next().ok_or_else(|| Fault::new("the format ends in `~`"))?;
    let too_wide = |n: i64| n.unsigned_abs() > WIDTH_MAX as u64;
    if spec.width.is_some_and(too_wide) || spec.precision.is_some_and(|n| n > WIDTH_MAX) {
        return Err(Fault::new("the field is too wide"));
    }
    let tail = rest.get(spec.kind.len_utf8()..).unwrap_or_default();
    Ok((spec, tail))
}

fn one(spec: &Spec, value: &Value) -> Result<Vec<u8>, Fault> {
    let precision = spec.precision;
    let text = match spec.kind {
        's' => {
            let bytes = match value {
                Value::Str(bytes) => bytes.to_vec(),
                Value::Bool(_) | Value::Null | Value::Undefined => text::atom(value).as_bytes().to_vec(),
                Value::Array(_) => text::bytes_of(value)?.into_owned(),
                other => return Err(wrong("a string", other)),
            };
            return Ok(match precision {
                Some(len) => {
                    String::from_utf8_lossy(&bytes).chars().take(len).collect::<String>().into_bytes()
                }
                None => bytes,
            });
        }
        'p' | 'w' => term(value),
        'f' => format!("{:.*}", precision.unwrap_or(6), ops::float(value)?),
        'e' | 'g' => {
            let text = format!("{:.*e}", precision.unwrap_or(6).saturating_sub(1), ops::float(value)?);
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or_default();
            format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        'b' | 'B' if ops::is_integer(value) => {
            let base = u32::try_from(precision.unwrap_or(10)).unwrap_or(10);
            if !(2..=36).contains(&base) {
                return Err(Fault::new("a base is between 2 and 36"));
            }
            let digits = ops::big(value).to_str_radix(base);
            if spec.kind == 'B' { digits.to_uppercase() } else { digits }
        }
        'c' => match value {
            Value::Int(code) => {
                let code = u32::try_from(*code).ok().and_then(char::from_u32);
                code.ok_or_else(|| Fault::new("this is no character's number"))?.to_string()
            }
            other => return Err(wrong("a character's number", other)),
        },
        other => return Err(Fault(format!("there is no format ~{other} for {}", value.type_name()).into())),
    };
    Ok(text.into_bytes())
}

/// A value as an Erlang term.
fn term(value: &Value) -> String {
    match value {
        Value::Str(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) if text.chars().all(|c| !c.is_control() || c.is_ascii_whitespace()) => {
                let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                let encoding = if text.is_ascii() { "" } else { "/utf8" };
                format!("<<\"{escaped}\"{encoding}>>")
            }
            _ => format!("<<{}>>", bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(",")),
        },
        Value::Array(items) => format!("[{}]", items.iter().map(term).collect::<Vec<_>>().join(",")),
        Value::Map(map) => {
            let pair = |(key, value): (&str, &Value)| format!("{} => {}", term(&key.into()), term(value));
            format!("#{{{}}}", text::sorted(map).into_iter().map(pair).collect::<Vec<_>>().join(","))
        }
        Value::Float(float) => text::shortest(*float),
        Value::Bool(_) | Value::Null | Value::Undefined => text::atom(value).to_owned(),
        int => int.to_json(),
    }
}

/// Puts the text into its field; a text that does not fit becomes stars.
fn field(spec: &Spec, text: Vec<u8>) -> Vec<u8> {
    let Some(width) = spec.width else { return text };
    let wanted = usize::try_from(width.unsigned_abs()).unwrap_or(0);
    let shown = String::from_utf8_lossy(&text).chars().count();
    if shown > wanted {
        return if spec.kind == 's' { text } else { "*".repeat(wanted).into_bytes() };
    }
    let filler = spec.pad.unwrap_or(' ').to_string().repeat(wanted - shown).into_bytes();
    if width < 0 { [text, filler].concat() } else { [filler, text].concat() }
}
