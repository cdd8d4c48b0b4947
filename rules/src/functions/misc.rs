//! Identifiers, the environment, and a small store.

use muster_core::value::Value;

use super::{Args, Effect, Function, Run, volatile};
use crate::program::Fault;

pub(super) const TABLE: &[Function] = &[
    volatile("uuid_v4", 0, 0, "uuid_v4()", |args| Ok(uuid(args, true).into())),
    volatile("uuid_v4_no_hyphen", 0, 0, "uuid_v4_no_hyphen()", |args| Ok(uuid(args, false).into())),
    volatile("getenv", 1, 1, "getenv(name)", |args| {
        Ok(args.ctx.env(args.text(0)?).map(Value::from).unwrap_or_default())
    }),
    remembers("kv_store_put", 2, 2, "kv_store_put(key, value)", put),
    remembers("kv_store_get", 1, 2, "kv_store_get(key) or kv_store_get(key, default)", |args| {
        let key = args.bytes(0)?;
        Ok(args.ctx.kv.get(&key).cloned().unwrap_or_else(|| args.get(1).clone()))
    }),
    remembers("kv_store_del", 1, 1, "kv_store_del(key)", |args| {
        let key = args.bytes(0)?;
        args.ctx.kv.remove(&key);
        Ok(true.into())
    }),
];

/// A function of the store.
const fn remembers(name: &'static str, min: usize, max: usize, usage: &'static str, run: Run) -> Function {
    Function { effect: Effect::Remembers, ..volatile(name, min, max, usage, run) }
}

fn uuid(args: Args, hyphens: bool) -> String {
    let bits = u128::from(args.ctx.random()) << 64 | u128::from(args.ctx.random());
    let bits = bits & !(0xf << 76) | 4 << 76;
    let bits = bits & !(0b11 << 62) | 0b10 << 62;
    let digits = format!("{bits:032x}");
    if !hyphens {
        return digits;
    }
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

fn put(args: Args) -> Result<Value, Fault> {
    args.ctx.kv.put(&args.bytes(0)?, args.get(1))?;
    Ok(true.into())
}
