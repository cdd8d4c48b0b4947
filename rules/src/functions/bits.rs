//! Functions on bits: of integers of any size, and of bytes.

use bytes::Bytes;
use muster_core::value::Value;
use num_bigint::{BigInt, BigUint, Sign};
use num_traits::{One, Zero};

use super::{Args, Function, pure, wrong};
use crate::program::Fault;
use crate::program::ops::{self, INTEGER_BITS_MAX};

pub(super) const TABLE: &[Function] = &[
    pure("bitnot", 1, 1, "bitnot(x)", |args| Ok(Value::big(!int(&args, 0)?))),
    pure("bitand", 2, 2, "bitand(x, y)", |args| Ok(Value::big(int(&args, 0)? & int(&args, 1)?))),
    pure("bitor", 2, 2, "bitor(x, y)", |args| Ok(Value::big(int(&args, 0)? | int(&args, 1)?))),
    pure("bitxor", 2, 2, "bitxor(x, y)", |args| Ok(Value::big(int(&args, 0)? ^ int(&args, 1)?))),
    pure("bitsl", 2, 2, "bitsl(x, n)", |args| shift(&int(&args, 0)?, args.int(1)?)),
    pure("bitsr", 2, 2, "bitsr(x, n)", |args| shift(&int(&args, 0)?, args.int(1)?.saturating_neg())),
    pure("bitsize", 1, 1, "bitsize(bytes)", |args| size(&args, 8)),
    pure("bytesize", 1, 1, "bytesize(bytes)", |args| size(&args, 1)),
    pure(
        "subbits",
        2,
        6,
        "subbits(bytes, len) or subbits(bytes, start, len[, type[, sign[, endian]]])",
        subbits,
    ),
];

fn int(args: &Args, n: usize) -> Result<BigInt, Fault> {
    match args.get(n) {
        value if ops::is_integer(value) => Ok(ops::big(value)),
        other => Err(wrong("an integer", other)),
    }
}

fn shift(x: &BigInt, by: i64) -> Result<Value, Fault> {
    if by > 0 && !x.is_zero() && x.bits().saturating_add(by.unsigned_abs()) > INTEGER_BITS_MAX {
        return Err(Fault::new("the result is too large an integer"));
    }
    let places = usize::try_from(by.unsigned_abs()).unwrap_or(usize::MAX);
    Ok(Value::big(if by >= 0 {
        if x.is_zero() { BigInt::zero() } else { x << places }
    } else if places as u64 > INTEGER_BITS_MAX {
        if x.sign() == Sign::Minus { -BigInt::one() } else { BigInt::zero() }
    } else {
        x >> places
    }))
}

fn raw(args: &Args) -> Result<Bytes, Fault> {
    match args.get(0) {
        Value::Str(bytes) => Ok(bytes.clone()),
        other => Err(wrong("bytes", other)),
    }
}

fn size(args: &Args, factor: i64) -> Result<Value, Fault> {
    Ok((i64::try_from(raw(args)?.len()).unwrap_or(i64::MAX / 8) * factor).into())
}

fn subbits(args: Args) -> Result<Value, Fault> {
    let bytes = raw(&args)?;
    let (start, len) = if args.len() == 2 { (1, args.int(1)?) } else { (args.int(1)?, args.int(2)?) };
    let option = |n: usize, default: &'static str| if args.len() > n { args.text(n) } else { Ok(default) };
    let (kind, sign, endian) = (option(3, "integer")?, option(4, "unsigned")?, option(5, "big")?);
    let total = bytes.len().saturating_mul(8);
    let skip = usize::try_from(start.saturating_sub(1)).map_err(|_| Fault::new("bits count from 1"))?;
    let len = usize::try_from(len).map_err(|_| Fault::new("a length is not negative"))?;
    if !matches!(sign, "unsigned" | "signed") || !matches!(endian, "big" | "little") {
        return Err(Fault::new("a sign is 'signed' or 'unsigned', an endian 'big' or 'little'"));
    }
    if skip >= total {
        return Ok(Value::Undefined);
    }
    let len = len.min(total - skip);
    if len as u64 > INTEGER_BITS_MAX && kind != "bits" {
        return Err(Fault::new("these are too many bits"));
    }
    let bits = cut(&bytes, skip, len);
    match kind {
        "integer" => Ok(Value::big(integer(&bits, len, sign == "signed", endian == "little"))),
        "float" => float(&bits, len, endian == "little"),
        // Whole bytes are what a value can hold; a rest of bits is filled up with zeros at its end.
        "bits" => {
            let mut out = bits.to_bytes_be();
            let wanted = len.div_ceil(8);
            let shifted = &bits << (wanted * 8 - len);
            out.clear();
            let raw = shifted.to_bytes_be();
            out.resize(wanted.saturating_sub(raw.len()), 0);
            if !shifted.is_zero() {
                out.extend_from_slice(&raw);
            }
            out.resize(wanted, 0);
            Ok(Bytes::from(out).into())
        }
        _ => Err(Fault::new("a type is 'integer', 'float' or 'bits'")),
    }
}

/// `len` bits from bit `skip` on, as a number.
fn cut(bytes: &[u8], skip: usize, len: usize) -> BigUint {
    let first = skip / 8;
    let last = (skip + len).div_ceil(8);
    let number = BigUint::from_bytes_be(bytes.get(first..last).unwrap_or_default());
    let number = number >> (last * 8 - skip - len);
    number & ((BigUint::one() << len) - BigUint::one())
}

fn integer(bits: &BigUint, len: usize, signed: bool, little: bool) -> BigInt {
    let number = if little { reversed(bits, len) } else { bits.clone() };
    let number = BigInt::from(number);
    if signed && len > 0 && number.bit(len as u64 - 1) { number - (BigInt::one() << len) } else { number }
}

/// Bytes in the other order; a last part of less than a byte stays in front.
fn reversed(bits: &BigUint, len: usize) -> BigUint {
    let whole = len / 8;
    let rest = len % 8;
    let mut out = BigUint::zero();
    // Read as a little endian number: the first eight bits weigh least.
    for n in 0..whole {
        let byte = (bits >> (len - (n + 1) * 8)) & BigUint::from(0xffu32);
        out |= byte << (n * 8);
    }
    if rest > 0 {
        out |= (bits & ((BigUint::one() << rest) - BigUint::one())) << (whole * 8);
    }
    out
}

fn float(bits: &BigUint, len: usize, little: bool) -> Result<Value, Fault> {
    let number = if little { reversed(bits, len) } else { bits.clone() };
    let raw = number.iter_u64_digits().next().unwrap_or(0);
    let float = match len {
        #[expect(clippy::cast_possible_truncation, reason = "as many bits as were cut")]
        16 => half(raw as u16),
        #[expect(clippy::cast_possible_truncation, reason = "as many bits as were cut")]
        32 => f64::from(f32::from_bits(raw as u32)),
        64 => f64::from_bits(raw),
        _ => return Err(Fault::new("a float has 16, 32 or 64 bits")),
    };
    ops::finite(float)
}

/// A float of 16 bits.
fn half(bits: u16) -> f64 {
    let exponent = i32::from(bits >> 10 & 0x1f);
    let fraction = f64::from(bits & 0x3ff) / 1024.0;
    let size = match exponent {
        0 => fraction * 2f64.powi(-14),
        31 => f64::NAN,
        _ => (1.0 + fraction) * 2f64.powi(exponent - 15),
    };
    if bits >> 15 == 1 { -size } else { size }
}
