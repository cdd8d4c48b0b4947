//! Functions of the message at hand.

use muster_core::event::Column;
use muster_core::value::{Map, Value};

use super::{Args, Function, of_event};
use crate::program::path::{self, Way};
use crate::program::{Bound, Fault, Slot, Track};

pub(super) const TABLE: &[Function] = &[
    of_event("msgid", 0, 0, "msgid()", |args| column(args, Column::Id)),
    of_event("qos", 0, 0, "qos()", |args| column(args, Column::Qos)),
    of_event("topic", 0, 1, "topic() or topic(level)", topic),
    of_event("clientid", 0, 0, "clientid()", |args| column(args, Column::Clientid)),
    of_event("username", 0, 0, "username()", |args| column(args, Column::Username)),
    of_event("payload", 0, 1, "payload() or payload('path')", payload),
    of_event("flags", 0, 0, "flags()", flags),
    of_event("flag", 1, 1, "flag(name)", flag),
    of_event("peerhost", 0, 0, "peerhost()", |args| column(args, Column::Peerhost)),
    of_event("clientip", 0, 0, "clientip()", |args| column(args, Column::Peerhost)),
    of_event("null", 0, 0, "null()", |_| Ok(Value::Undefined)),
];

fn track(column: Column, ways: Vec<Way>) -> Track {
    let slot = Slot { name: column.name().into(), column: Some(column), shadowed: false };
    let steps = ways.iter().cloned().map(Bound::Way).collect();
    Track { slot, steps, fixed: Some(ways.into()) }
}

fn column(args: Args, column: Column) -> Result<Value, Fault> {
    args.env.get(&track(column, Vec::new()), args.ctx)
}

fn topic(args: Args) -> Result<Value, Fault> {
    if args.len() == 0 {
        return column(args, Column::Topic);
    }
    let level = args.int(0)?;
    let topic = args.env.get(&track(Column::Topic, Vec::new()), args.ctx)?;
    let Some(topic) = topic.as_str() else { return Ok(Value::Undefined) };
    let levels: Vec<_> = topic.split('/').collect();
    let at = usize::try_from(level.saturating_sub(1)).map_err(|_| Fault::new("topic levels count from 1"))?;
    levels.get(at).map(|level| (*level).into()).ok_or_else(|| Fault::new("the topic has fewer levels"))
}

fn payload(args: Args) -> Result<Value, Fault> {
    if args.len() == 0 {
        return column(args, Column::Payload);
    }
    let ways = path::dotted(args.text(0)?)?;
    args.env.get(&track(Column::Payload, ways), args.ctx)
}

fn flags(args: Args) -> Result<Value, Fault> {
    match column(args, Column::Flags)? {
        Value::Undefined => Ok(Map::new().into()),
        flags => Ok(flags),
    }
}

fn flag(args: Args) -> Result<Value, Fault> {
    let way = Way::Key(args.text(0)?.into());
    args.env.get(&track(Column::Flags, vec![way]), args.ctx)
}
