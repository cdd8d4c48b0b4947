//! A pass over a program in the order in which it runs: which columns and payload paths it looks at, what is made
//! ready before there is an event and what is not, and what is known of each value.

use std::collections::{BTreeSet, HashMap};

use muster_core::event::{Column, EventKind};
use muster_core::value::Value;

use super::types::{self, Shape, Type};
use crate::ast::BinaryOp;
use crate::functions::{Effect, JQ_TIME_DEFAULT_MS, Prepared};
use crate::program::path::Way;
use crate::program::{Bound, Call, Node, Program, Step, Track};

/// What a pass has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) columns: BTreeSet<Column>,
    pub(super) metadata: bool,
    pub(super) star: bool,
    /// The payload as it came.
    pub(super) payload_raw: bool,
    /// Ways into the payload, in the order in which they are first looked at.
    pub(super) payload_paths: Vec<String>,
    /// What reads JSON once more, on its own.
    pub(super) decodes: Vec<String>,
    /// Time limits of jq programs in milliseconds; none where only the event knows.
    pub(super) jq: Vec<Option<u64>>,
    pub(super) jq_dynamic: usize,
    pub(super) regexes: usize,
    pub(super) regexes_dynamic: usize,
    pub(super) dates: usize,
    pub(super) dates_dynamic: usize,
    /// Functions of the clock and of chance.
    pub(super) volatile: BTreeSet<&'static str>,
    /// Functions of a store.
    pub(super) remembers: BTreeSet<&'static str>,
    /// What fails on every event.
    pub(super) raises: Vec<String>,
}

/// One column of the row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Out {
    pub(super) name: String,
    pub(super) shape: Shape,
    /// The path that the value is, if it is nothing but that.
    pub(super) track: Option<Track>,
}

pub(super) struct Walk {
    pub(super) seen: Seen,
    kinds: Vec<EventKind>,
    /// What SELECT and FOREACH have put in front of the columns so far.
    names: HashMap<Box<str>, Shape>,
}

/// Whether what is absent in front of a column lets the column through: while items are computed it does, in
/// conditions it does not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Front {
    Open,
    Closed,
}

impl Walk {
    pub(super) fn new(kinds: Vec<EventKind>) -> Self {
        Self { seen: Seen::default(), kinds, names: HashMap::new() }
    }

    /// Walks a rule and gives its row's columns in order.
    pub(super) fn program(&mut self, program: &Program) -> Vec<Out> {
        let Some(each) = &program.foreach else {
            let mut rows = self.items(&program.items, &[]);
            if let Some(condition) = &program.condition {
                self.node(condition, Front::Closed);
                let hidden: Vec<_> = rows.iter().map(|out| out.name.clone()).collect();
                super::narrow::rows(&mut rows, condition, &|name| hidden.iter().any(|it| it == name));
            }
            return rows;
        };
        let mut selected = self.items(&program.items, &[]);
        // The last item is the list; a payload that is a JSON list counts as one.
        if let Some(Step::Put(Node::Track(track), _)) = program.items.last()
            && selected.last().is_some_and(|out| out.shape.payload)
        {
            self.seen.decodes.push(format!("FOREACH {}", track.slot.name));
        }
        if let Some(condition) = &program.condition {
            self.node(condition, Front::Closed);
        }
        let element = Out {
            name: each.item.to_string(),
            shape: Shape { null: true, ..Shape::of(Type::Any) },
            track: None,
        };
        self.names.insert(each.item.clone(), element.shape.clone());
        selected.retain(|out| out.name != element.name);
        selected.push(element);
        if let Some(condition) = &each.condition {
            self.node(condition, Front::Closed);
        }
        if each.items.is_empty() {
            let mut rows = Vec::new();
            self.star(&mut rows, &selected);
            return rows;
        }
        let mut rows = self.items(&each.items, &selected);
        if let Some(condition) = &each.condition {
            super::narrow::rows(&mut rows, condition, &|_| false);
        }
        rows
    }

    /// Walks a condition on its own.
    pub(super) fn condition(&mut self, node: &Node) {
        self.node(node, Front::Closed);
    }

    fn star(&mut self, rows: &mut Vec<Out>, front: &[Out]) {
        self.seen.star = true;
        let of_kinds = |column: &&Column| self.kinds.iter().any(|kind| Column::of(*kind).contains(column));
        // In the order of the first kind that has it.
        let mut columns: Vec<Column> = Vec::new();
        for kind in &self.kinds {
            for column in Column::of(*kind) {
                if !columns.contains(&column) {
                    columns.push(column);
                }
            }
        }
        for column in Column::all().iter().filter(of_kinds) {
            self.seen.columns.insert(*column);
            self.seen.payload_raw |= *column == Column::Payload;
        }
        self.seen.metadata = true;
        for column in columns {
            let shape = types::column(&self.kinds, column);
            put(rows, Out { name: column.name().to_owned(), shape, track: None });
        }
        put(rows, Out { name: "metadata".to_owned(), shape: Shape::of(Type::Map), track: None });
        for out in front {
            put(rows, out.clone());
        }
    }

    fn items(&mut self, items: &[Step], front: &[Out]) -> Vec<Out> {
        let mut rows = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Step::Star => self.star(&mut rows, front),
                Step::Put(node, target) => {
                    let value = self.node(node, Front::Open);
                    let name = &target.track.slot.name;
                    let track = match node {
                        Node::Track(track) => Some(track.clone()),
                        _ => None,
                    };
                    let (shape, track) = match target.track.steps.first() {
                        None => (value, track),
                        Some(step) => (self.container(name, step, &rows), None),
                    };
                    self.names.insert(name.clone(), shape.clone());
                    put(&mut rows, Out { name: name.to_string(), shape, track });
                }
            }
        }
        rows
    }

    /// What stands under a name after something was put inside of it.
    fn container(&mut self, name: &str, step: &Bound, rows: &[Out]) -> Shape {
        let before = rows.iter().find(|out| out.name == name);
        if before.is_some_and(|out| out.shape.payload) {
            self.seen.decodes.push(format!("AS {name}..."));
        }
        match step {
            Bound::Way(Way::Key(_)) => Shape::of(Type::Map),
            _ => Shape::of(Type::List),
        }
    }

    fn track(&mut self, track: &Track, front: Front) -> Shape {
        let name = &track.slot.name;
        let is_payload = track.slot.column == Some(Column::Payload);
        for step in &track.steps {
            // An index of a payload is looked up in the payload.
            if let (Bound::By(index), false) = (step, is_payload) {
                self.track(index, front);
            }
        }
        if track.slot.shadowed
            && let Some(known) = self.names.get(name).cloned()
        {
            if known.payload && !track.steps.is_empty() && !is_payload {
                self.note_decode(shown(track));
            }
            let value = if track.steps.is_empty() { known } else { Shape::unknown() };
            if front == Front::Closed || !value.absent {
                return value;
            }
            return value.or_else(self.column(track));
        }
        self.column(track)
    }

    fn column(&mut self, track: &Track) -> Shape {
        let Some(column) = track.slot.column else {
            if track.slot.name.as_ref() == "metadata" {
                self.seen.metadata = true;
                return if track.steps.is_empty() { Shape::of(Type::Map) } else { Shape::maybe(Type::Text) };
            }
            return Shape::nothing();
        };
        let shape = types::column(&self.kinds, column);
        if shape.constant == Some(Value::Undefined) {
            return shape;
        }
        self.seen.columns.insert(column);
        if column != Column::Payload {
            return if track.steps.is_empty() { shape } else { Shape::unknown() };
        }
        if track.steps.is_empty() {
            self.seen.payload_raw = true;
            return shape;
        }
        if track.fixed.is_none() {
            self.note_decode(shown(track));
        }
        self.note_path(shown(track).trim_start_matches("payload").trim_start_matches('.').to_owned());
        Shape::unknown()
    }

    fn note_path(&mut self, path: String) {
        if !self.seen.payload_paths.contains(&path) {
            self.seen.payload_paths.push(path);
        }
    }

    fn note_decode(&mut self, what: String) {
        if !self.seen.decodes.contains(&what) {
            self.seen.decodes.push(what);
        }
    }

    fn node(&mut self, node: &Node, front: Front) -> Shape {
        match node {
            Node::Const(value) => Shape::constant(value),
            Node::Raise(why) => {
                self.seen.raises.push(why.to_string());
                Shape::of(Type::Any)
            }
            Node::Track(track) => self.track(track, front),
            Node::Slice(track, ..) => {
                self.track(track, front);
                Shape::of(Type::List)
            }
            Node::List(items) => {
                self.all(items, front);
                Shape::of(Type::List)
            }
            Node::Call(call) => self.call(call, front),
            Node::Negate(inner) => number(&self.node(inner, front)),
            Node::Plus(inner) => self.node(inner, front),
            Node::Arithmetic(op, left, right) => {
                let (left, right) = (self.node(left, front), self.node(right, front));
                arithmetic(*op, &left, &right)
            }
            Node::Case { branches, otherwise } => self.branches(branches, otherwise.as_deref(), front),
            Node::Switch { operand, branches, otherwise } => {
                self.node(operand, front);
                self.branches(branches, otherwise.as_deref(), front)
            }
            _ => {
                self.operands(node, front);
                Shape::of(Type::Boolean)
            }
        }
    }

    fn operands(&mut self, node: &Node, front: Front) {
        match node {
            Node::Not(a) | Node::IsNull { item: a, .. } => {
                self.node(a, front);
            }
            Node::And(a, b) | Node::Or(a, b) | Node::Compare(_, a, b) | Node::Matches(a, b) => {
                self.node(a, front);
                self.node(b, front);
            }
            Node::In { item, list, .. } => {
                self.node(item, front);
                self.all(list, front);
            }
            Node::Between { item, low, high, .. } => {
                self.node(item, front);
                self.node(low, front);
                self.node(high, front);
            }
            Node::Like { item, pattern, .. } => {
                self.node(item, front);
                self.node(pattern, front);
            }
            _ => {}
        }
    }

    fn branches(&mut self, branches: &[(Node, Node)], otherwise: Option<&Node>, front: Front) -> Shape {
        let mut shape: Option<Shape> = None;
        for (when, then) in branches {
            self.node(when, front);
            let then = self.node(then, front);
            shape = Some(match shape {
                Some(shape) => shape.or(then),
                None => then,
            });
        }
        let last = otherwise.map_or_else(Shape::nothing, |node| self.node(node, front));
        shape.map_or(last.clone(), |shape| shape.or(last))
    }

    fn all(&mut self, nodes: &[Node], front: Front) -> Vec<Shape> {
        nodes.iter().map(|node| self.node(node, front)).collect()
    }

    fn call(&mut self, call: &Call, front: Front) -> Shape {
        let name = call.function.name;
        let args = self.all(&call.args, front);
        self.prepared(call);
        if call.function.effect == Effect::Volatile && name != "jq" && name != "unix_ts_to_rfc3339" {
            // With a timestamp of the event these give the same each time.
            let of_event = matches!((name, args.len()), ("format_date", 4) | ("mongo_date", 1..));
            if !of_event {
                self.seen.volatile.insert(name);
            }
        }
        if call.function.effect == Effect::Remembers {
            self.seen.remembers.insert(name);
        }
        let decoded = match name {
            "json_decode" | "map" | "is_empty" | "map_keys" | "map_values" | "map_size"
            | "map_to_entries" => args.first(),
            "jq" | "map_get" | "mget" => args.get(1),
            "map_put" | "mput" => args.get(2),
            _ => None,
        };
        if decoded.is_some_and(|arg| arg.payload) {
            self.note_decode(format!("{name}()"));
        }
        if let Some(column) = types::column_behind(name) {
            return self.of_message(name, column, call);
        }
        match name {
            "coalesce" | "coalesce_ne" => {
                let inner = match call.args.as_slice() {
                    [Node::List(items)] => self.all(items, front),
                    [_] => return Shape::unknown(),
                    _ => args,
                };
                inner.into_iter().reduce(Shape::or_else).unwrap_or_else(Shape::nothing)
            }
            "abs" | "round" | "ceil" | "floor" => Shape::of(Type::Integer),
            _ => types::returned(name).unwrap_or_else(Shape::unknown),
        }
    }

    fn prepared(&mut self, call: &Call) {
        let seen = &mut self.seen;
        match (&call.prepared, call.function.name) {
            (prepared, "jq") => {
                let limit = match call.args.get(2) {
                    None => Some(JQ_TIME_DEFAULT_MS),
                    Some(Node::Const(Value::Int(ms))) => u64::try_from(*ms).ok(),
                    Some(_) => None,
                };
                seen.jq.push(limit);
                seen.jq_dynamic += usize::from(prepared.is_none());
            }
            (Some(Prepared::Regex(_)), _) => seen.regexes += 1,
            (Some(Prepared::Date(_)), _) => seen.dates += 1,
            (None, "regex_match" | "regex_replace" | "regex_extract") => seen.regexes_dynamic += 1,
            (None, "format_date" | "date_to_unix_ts") => seen.dates_dynamic += 1,
            _ => {}
        }
    }

    fn of_message(&mut self, name: &str, column: Column, call: &Call) -> Shape {
        let shape = types::column(&self.kinds, column);
        if shape.constant == Some(Value::Undefined) {
            return shape;
        }
        self.seen.columns.insert(column);
        match (name, call.args.first()) {
            ("payload", None) => self.seen.payload_raw = true,
            ("payload", Some(Node::Const(path))) => self.note_path(path.as_str().unwrap_or("?").to_owned()),
            ("payload", Some(_)) => self.note_path("(a path that the event names)".to_owned()),
            ("topic", Some(_)) => return Shape::of(Type::Text),
            _ => {}
        }
        if call.args.is_empty() { shape } else { types::returned(name).unwrap_or(shape) }
    }
}

fn put(rows: &mut Vec<Out>, out: Out) {
    match rows.iter_mut().find(|other| other.name == out.name) {
        Some(place) => *place = out,
        None => rows.push(out),
    }
}

fn number(inner: &Shape) -> Shape {
    Shape::of(if inner.ty == Type::Integer || inner.ty == Type::Time { Type::Integer } else { Type::Number })
}

fn arithmetic(op: BinaryOp, left: &Shape, right: &Shape) -> Shape {
    let whole = |shape: &Shape| matches!(shape.ty, Type::Integer | Type::Time);
    let is_text = |shape: &Shape| shape.ty == Type::Text;
    let is_any = |shape: &Shape| shape.ty == Type::Any;
    Shape::of(match op {
        BinaryOp::Concat => Type::Text,
        BinaryOp::Add if is_text(left) || is_text(right) => Type::Text,
        BinaryOp::Add if is_any(left) || is_any(right) => Type::Any,
        BinaryOp::IntDiv | BinaryOp::Mod => Type::Integer,
        BinaryOp::Div => Type::Number,
        _ if whole(left) && whole(right) => Type::Integer,
        _ => Type::Number,
    })
}

/// A path as it is written.
pub(super) fn shown(track: &Track) -> String {
    let mut text = track.slot.name.to_string();
    for step in &track.steps {
        match step {
            Bound::Way(Way::Key(key)) if crate::syntax::is_bare_name(key) => {
                text.push('.');
                text.push_str(key);
            }
            Bound::Way(Way::Key(key)) => text.push_str(&format!(".\"{key}\"")),
            Bound::Way(Way::Index(index)) => text.push_str(&format!("[{index}]")),
            Bound::Way(Way::Head) => text.push_str("[0]"),
            Bound::Way(_) => text.push_str("[-0]"),
            Bound::By(inner) => text.push_str(&format!("[{}]", shown(inner))),
        }
    }
    text
}
