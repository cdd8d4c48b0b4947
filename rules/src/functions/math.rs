//! Functions on numbers.

use muster_core::value::Value;

use super::{Args, Function, pure, volatile, wrong};
use crate::ast::BinaryOp;
use crate::program::{Fault, ops};

pub(super) const TABLE: &[Function] = &[
    pure("abs", 1, 1, "abs(integer)", |args| ops::magnitude(args.get(0))),
    pure("ceil", 1, 1, "ceil(number)", |args| rounded(args, f64::ceil)),
    pure("floor", 1, 1, "floor(number)", |args| rounded(args, f64::floor)),
    pure("round", 1, 1, "round(number)", |args| rounded(args, f64::round)),
    pure("sqrt", 1, 1, "sqrt(number)", |args| plain(args, f64::sqrt)),
    pure("power", 2, 2, "power(base, exponent)", power),
    pure("exp", 1, 1, "exp(number)", |args| plain(args, f64::exp)),
    pure("log", 1, 1, "log(number)", |args| positive(args, f64::ln)),
    pure("log2", 1, 1, "log2(number)", |args| positive(args, f64::log2)),
    pure("log10", 1, 1, "log10(number)", |args| positive(args, f64::log10)),
    pure("fmod", 2, 2, "fmod(x, y)", fmod),
    pure("sin", 1, 1, "sin(x)", |args| plain(args, f64::sin)),
    pure("cos", 1, 1, "cos(x)", |args| plain(args, f64::cos)),
    pure("tan", 1, 1, "tan(x)", |args| plain(args, f64::tan)),
    pure("asin", 1, 1, "asin(x)", |args| plain(args, f64::asin)),
    pure("acos", 1, 1, "acos(x)", |args| plain(args, f64::acos)),
    pure("atan", 1, 1, "atan(x)", |args| plain(args, f64::atan)),
    pure("sinh", 1, 1, "sinh(x)", |args| plain(args, f64::sinh)),
    pure("cosh", 1, 1, "cosh(x)", |args| plain(args, f64::cosh)),
    pure("tanh", 1, 1, "tanh(x)", |args| plain(args, f64::tanh)),
    pure("asinh", 1, 1, "asinh(x)", |args| plain(args, f64::asinh)),
    pure("acosh", 1, 1, "acosh(x)", |args| plain(args, f64::acosh)),
    pure("atanh", 1, 1, "atanh(x)", |args| plain(args, f64::atanh)),
    pure("div", 2, 2, "div(a, b)", |args| ops::whole(BinaryOp::IntDiv, args.get(0), args.get(1))),
    pure("mod", 2, 2, "mod(a, b)", |args| ops::whole(BinaryOp::Mod, args.get(0), args.get(1))),
    volatile("random", 0, 0, "random()", random),
];

fn rounded(args: Args, round: fn(f64) -> f64) -> Result<Value, Fault> {
    match args.get(0) {
        int if ops::is_integer(int) => Ok(int.clone()),
        Value::Float(float) => ops::integral(round(*float)),
        other => Err(wrong("a number", other)),
    }
}

fn plain(args: Args, compute: fn(f64) -> f64) -> Result<Value, Fault> {
    ops::finite(compute(ops::float(args.get(0))?))
}

fn positive(args: Args, compute: fn(f64) -> f64) -> Result<Value, Fault> {
    let x = ops::float(args.get(0))?;
    if x <= 0.0 {
        return Err(Fault::new("a logarithm needs a number above 0"));
    }
    ops::finite(compute(x))
}

fn power(args: Args) -> Result<Value, Fault> {
    ops::finite(ops::float(args.get(0))?.powf(ops::float(args.get(1))?))
}

fn fmod(args: Args) -> Result<Value, Fault> {
    let (x, y) = (ops::float(args.get(0))?, ops::float(args.get(1))?);
    if y == 0.0 {
        return Err(Fault::new("division by zero"));
    }
    ops::finite(x % y)
}

/// Between 0 and 1, neither of them.
#[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds")]
fn random(args: Args) -> Result<Value, Fault> {
    let bits = (args.ctx.random() >> 12) as f64 + 0.5;
    Ok(Value::Float(bits / (1u64 << 52) as f64))
}
