//! Functions on maps and lists.

use muster_core::value::{Map, Value};

use super::{Args, Function, convert, pure, wrong};
use crate::program::path::{self, Way};
use crate::program::{Fault, json, ops, size, text};

pub(super) const TABLE: &[Function] = &[
    pure("map_new", 0, 0, "map_new()", |_| Ok(Map::new().into())),
    pure("map_get", 2, 3, "map_get('path', map) or map_get('path', map, default)", |args| {
        let ways = dotted(args.get(0))?;
        get(&args, &ways)
    }),
    pure("mget", 2, 3, "mget('key', map) or mget('key', map, default)", |args| {
        let ways = literal(args.get(0))?;
        get(&args, &ways)
    }),
    pure("map_put", 3, 3, "map_put('path', value, map)", |args| {
        let ways = dotted(args.get(0))?;
        put(&args, &ways)
    }),
    pure("mput", 3, 3, "mput('key', value, map)", |args| {
        let ways = literal(args.get(0))?;
        put(&args, &ways)
    }),
    pure("map_keys", 1, 1, "map_keys(map)", |args| pairs(args, |key, _| key.into())),
    pure("map_values", 1, 1, "map_values(map)", |args| pairs(args, |_, value| value.clone())),
    pure("map_size", 1, 1, "map_size(map)", map_size),
    pure("map_to_entries", 1, 1, "map_to_entries(map)", |args| {
        pairs(args, |key, value| {
            [("key", Value::from(key)), ("value", value.clone())].into_iter().collect::<Map>().into()
        })
    }),
    pure("map_to_redis_hset_args", 1, 1, "map_to_redis_hset_args(map)", redis),
    pure("nth", 2, 2, "nth(n, list)", nth),
    pure("length", 1, 1, "length(list)", |args| Ok(length(args.list(0)?).into())),
    pure("first", 1, 1, "first(list)", |args| end(args.list(0)?.first())),
    pure("last", 1, 1, "last(list)", |args| end(args.list(0)?.last())),
    pure("sublist", 2, 3, "sublist(len, list) or sublist(start, len, list)", sublist),
    pure("contains", 2, 2, "contains(x, list)", |args| {
        let wanted = args.get(0);
        Ok(args.list(1)?.iter().any(|item| ops::same(wanted, item)).into())
    }),
];

fn length(items: &[Value]) -> i64 {
    i64::try_from(items.len()).unwrap_or(i64::MAX)
}

/// `'a.b'`: keys between dots.
fn dotted(path: &Value) -> Result<Vec<Way>, Fault> {
    let Value::Str(_) = path else { return literal(path) };
    let text = path.as_str().ok_or_else(|| wrong("a path", path))?;
    path::dotted(text)
}

/// One key as it is; lists of keys are known only to each other.
fn literal(key: &Value) -> Result<Vec<Way>, Fault> {
    match key {
        Value::Str(_) => Ok(vec![Way::Key(key.as_str().ok_or_else(|| wrong("a key", key))?.into())]),
        Value::Array(_) => Ok(vec![Way::Key(text::json(key)?.into())]),
        other => Err(wrong("a key", other)),
    }
}

fn get(args: &Args, ways: &[Way]) -> Result<Value, Fault> {
    let map = convert::map(args.get(1))?;
    Ok(match path::get(&map, ways) {
        Value::Undefined => args.get(2).clone(),
        value => value,
    })
}

fn put(args: &Args, ways: &[Way]) -> Result<Value, Fault> {
    let mut map = match args.get(2) {
        Value::Undefined | Value::Null => Value::Map(Map::new()),
        other => convert::map(other)?,
    };
    size::add(args.get(1), ways.len(), &mut 0)?;
    path::put(&mut map, ways, args.get(1).clone());
    Ok(map)
}

fn pairs(args: Args, make: fn(&str, &Value) -> Value) -> Result<Value, Fault> {
    let Value::Map(map) = convert::map(args.get(0))? else { return Ok(Value::Undefined) };
    Ok(text::sorted(&map).into_iter().map(|(key, value)| make(key, value)).collect::<Vec<_>>().into())
}

fn map_size(args: Args) -> Result<Value, Fault> {
    if let Value::Array(items) = args.get(0) {
        return Ok(length(items).into());
    }
    let Value::Map(map) = convert::map(args.get(0))? else { return Ok(Value::Undefined) };
    Ok(i64::try_from(map.len()).unwrap_or(i64::MAX).into())
}

/// Field and value in turn behind a mark that the Redis sink of the reference looks for; the last field comes first,
/// and what Redis cannot hold is left out.
fn redis(args: Args) -> Result<Value, Fault> {
    let value = match args.get(0) {
        Value::Str(text) => match json::decode(text) {
            Ok(value) => value,
            Err(_) => return Ok(Vec::new().into()),
        },
        other => other.clone(),
    };
    let Value::Map(map) = value else { return Ok(Vec::new().into()) };
    let mut out = vec![Value::str("map_to_redis_hset_args")];
    for (key, value) in text::sorted(&map).into_iter().rev() {
        if matches!(value, Value::Str(_) | Value::Bool(_)) || ops::is_number(value) {
            out.push(key.into());
            out.push(text::str_of(value)?);
        }
    }
    Ok(out.into())
}

fn nth(args: Args) -> Result<Value, Fault> {
    let items = args.list(1)?;
    let at = usize::try_from(args.int(0)?.saturating_sub(1)).map_err(|_| Fault::new("lists count from 1"))?;
    items.get(at).cloned().ok_or_else(|| Fault::new("the list is shorter"))
}

fn end(item: Option<&Value>) -> Result<Value, Fault> {
    item.cloned().ok_or_else(|| Fault::new("the list is empty"))
}

fn sublist(args: Args) -> Result<Value, Fault> {
    let (start, len, list) = if args.len() == 2 {
        (1, args.int(0)?, args.list(1)?)
    } else {
        (args.int(0)?, args.int(1)?, args.list(2)?)
    };
    let skip = usize::try_from(start.saturating_sub(1)).map_err(|_| Fault::new("lists count from 1"))?;
    let take = usize::try_from(len).map_err(|_| Fault::new("a length is not negative"))?;
    Ok(list.iter().skip(skip).take(take).cloned().collect::<Vec<_>>().into())
}
