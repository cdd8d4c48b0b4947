//! What names mean while a rule runs: the event's columns, in front of them what FOREACH and SELECT have put there.

use muster_core::event::{Column, Event};
use muster_core::value::{Map, Value};

use super::context::EvalContext;
use super::path::{self, Way};
use super::{Bound, Fault, Slot, Track};

/// Where columns come from.
#[derive(Clone, Copy)]
pub(crate) enum Base<'a> {
    /// An event of the log, and the rule's name for `metadata`.
    Event(&'a Event, &'a str),
    /// Columns by name: tests, and whoever tries a rule.
    Map(&'a Map),
}

/// The names in view.
#[derive(Clone, Copy)]
pub(crate) struct Env<'a> {
    pub(crate) base: Base<'a>,
    /// Stands in front of the columns, even where it says "undefined".
    pub(crate) over: Option<&'a Map>,
    /// What SELECT has made so far: stands in front of all, but what is undefined in it is looked up behind it.
    pub(crate) out: Option<&'a Map>,
}

const PAYLOAD: &str = "payload";

impl Base<'_> {
    pub(crate) fn get(&self, slot: &Slot) -> Value {
        match self {
            Self::Event(event, rule) => match slot.column {
                Some(column) => event.get(column),
                None if slot.name.as_ref() == "metadata" => metadata(rule),
                None => Value::Undefined,
            },
            Self::Map(map) => map.get(&slot.name).cloned().unwrap_or_default(),
        }
    }

    pub(crate) fn columns(&self) -> Map {
        match self {
            Self::Event(event, rule) => {
                let mut columns = event.columns();
                columns.insert("metadata", metadata(rule));
                columns
            }
            Self::Map(map) => (*map).clone(),
        }
    }
}

fn metadata(rule: &str) -> Value {
    [("rule_id", rule)].into_iter().collect::<Map>().into()
}

impl<'a> Env<'a> {
    /// Columns with what stands in front of them.
    pub(crate) fn columns(&self) -> Map {
        let mut columns = self.base.columns();
        if let Some(over) = self.over {
            for (key, value) in over.iter() {
                columns.insert(key, value.clone());
            }
        }
        columns
    }

    /// The value of a path. A payload on the way must be JSON; any other string need not.
    pub(crate) fn get(&self, track: &Track, ctx: &mut EvalContext) -> Result<Value, Fault> {
        if track.slot.shadowed {
            if let Some(value) = self.out.and_then(|out| out.get(&track.slot.name)) {
                let behind = Env { base: self.base, over: None, out: self.out };
                let found = behind.follow(value, track, ctx, true)?;
                if !found.is_undefined() {
                    return Ok(found);
                }
            }
            if let Some(value) = self.over.and_then(|over| over.get(&track.slot.name)) {
                return self.follow(value, track, ctx, false);
            }
        }
        if let (Base::Event(event, _), Some(Column::Payload), Some(ways)) =
            (self.base, track.slot.column, &track.fixed)
            && !ways.is_empty()
            && event.kind.is_message()
        {
            return match &event.body.message {
                Some(message) => payload(&message.payload, ways, ctx),
                None => Ok(Value::Undefined),
            };
        }
        let value = self.base.get(&track.slot);
        self.follow(&value, track, ctx, false)
    }

    fn follow(
        &self,
        value: &Value,
        track: &Track,
        ctx: &mut EvalContext,
        in_out: bool,
    ) -> Result<Value, Fault> {
        if track.steps.is_empty() {
            return Ok(value.clone());
        }
        let is_payload = track.slot.name.as_ref() == PAYLOAD;
        if let (Some(ways), Value::Str(text), true) = (&track.fixed, value, is_payload) {
            return payload(text, ways, ctx);
        }
        if let Some(ways) = &track.fixed {
            return Ok(path::get(value, ways));
        }
        // An index is looked up where the path begins: inside of a payload, else among the names in view.
        let root = match value {
            Value::Str(text) if is_payload => {
                ctx.payload(text)?;
                Some(super::json::decode(text)?)
            }
            other if is_payload => Some(other.clone()),
            _ => None,
        };
        let mut ways = Vec::with_capacity(track.steps.len());
        for step in &track.steps {
            ways.push(match step {
                Bound::Way(way) => way.clone(),
                Bound::By(index) => match &root {
                    Some(root) => path::by(&inside(root, index)),
                    None => path::by(&self.plain(index, in_out)),
                },
            });
        }
        Ok(path::get(root.as_ref().unwrap_or(value), &ways))
    }

    /// An index by name, without payloads decoded strictly.
    fn plain(&self, track: &Track, in_out: bool) -> Value {
        let name = &track.slot.name;
        let start = if in_out {
            self.out.and_then(|out| out.get(name)).cloned().unwrap_or_default()
        } else {
            let over = self.over.and_then(|over| over.get(name)).cloned();
            over.unwrap_or_else(|| self.base.get(&track.slot))
        };
        path::get(&start, &resolved(&track.steps, &|inner| self.plain(inner, in_out)))
    }
}

/// The path looked up inside of `root`.
pub(crate) fn inside(root: &Value, track: &Track) -> Value {
    let mut ways = vec![Way::Key(track.slot.name.clone())];
    ways.extend(resolved(&track.steps, &|inner| inside(root, inner)));
    path::get(root, &ways)
}

/// Steps with every index known.
pub(crate) fn resolved(steps: &[Bound], look: &dyn Fn(&Track) -> Value) -> Vec<Way> {
    let way = |step: &Bound| match step {
        Bound::Way(way) => way.clone(),
        Bound::By(track) => path::by(&look(track)),
    };
    steps.iter().map(way).collect()
}

/// What stands at the end of `ways` in a payload.
fn payload(text: &bytes::Bytes, ways: &[Way], ctx: &mut EvalContext) -> Result<Value, Fault> {
    let tape = ctx.payload(text)?;
    let mut here = 0;
    for (n, way) in ways.iter().enumerate() {
        let next = match way {
            Way::Key(key) => tape.key_of(text, here, key),
            Way::Index(index) => tape.index_of(here, *index),
            _ => None,
        };
        match next {
            Some(next) => here = next,
            None if tape.is_string(here) => {
                let rest = ways.get(n..).unwrap_or_default();
                return Ok(path::get(&tape.value(text, here), rest));
            }
            None => return Ok(Value::Undefined),
        }
    }
    Ok(tape.value(text, here))
}
