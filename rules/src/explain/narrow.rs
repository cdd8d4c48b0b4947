//! What a condition that held says of the values that it looked at.

use muster_core::value::Value;

use super::types::Type;
use super::walk::Out;
use crate::ast::BinaryOp;
use crate::program::{Node, Track};

/// Narrows the columns of rows for which `condition` held. `hidden` says which names mean the row's column inside of
/// the condition and not the event's.
pub(super) fn rows(rows: &mut [Out], condition: &Node, hidden: &dyn Fn(&str) -> bool) {
    match condition {
        Node::And(left, right) => {
            self::rows(rows, left, hidden);
            self::rows(rows, right, hidden);
        }
        Node::Compare(op, left, right) => {
            // The absent equals only the absent.
            for (item, other) in [(left, right), (right, left)] {
                if let (Node::Track(track), Node::Const(value)) = (&**item, &**other)
                    && !value.is_undefined()
                {
                    let equals = *op == BinaryOp::Eq && *value != Value::Null && is_number(value);
                    narrow(rows, track, hidden, |out| {
                        out.shape.absent = false;
                        out.shape.null &= !equals;
                    });
                }
            }
        }
        Node::Between { item, negated: false, .. } | Node::Matches(item, _) => {
            present(rows, item, hidden, false);
        }
        Node::Like { item, .. } | Node::IsNull { item, negated: true } => present(rows, item, hidden, true),
        Node::In { item, list, negated: false } if list.iter().all(is_solid) => {
            present(rows, item, hidden, true);
        }
        Node::Call(call) => {
            let [Node::Track(track)] = call.args.as_slice() else { return };
            let (ty, solid) = match call.function.name {
                "is_not_null" => (None, false),
                "is_not_null_var" => (None, true),
                "is_str" => (Some(Type::Text), true),
                "is_bool" => (Some(Type::Boolean), true),
                "is_int" => (Some(Type::Integer), true),
                "is_float" | "is_num" => (Some(Type::Number), true),
                "is_map" => (Some(Type::Map), true),
                "is_array" => (Some(Type::List), true),
                _ => return,
            };
            narrow(rows, track, hidden, |out| {
                out.shape.absent = false;
                out.shape.null &= !solid;
                if let (Some(ty), Type::Any) = (ty, out.shape.ty) {
                    out.shape.ty = ty;
                }
            });
        }
        _ => {}
    }
}

fn is_number(value: &Value) -> bool {
    matches!(value, Value::Int(_) | Value::BigInt(_) | Value::Float(_))
}

fn is_solid(node: &Node) -> bool {
    matches!(node, Node::Const(value) if !matches!(value, Value::Undefined | Value::Null))
}

fn present(rows: &mut [Out], item: &Node, hidden: &dyn Fn(&str) -> bool, solid: bool) {
    if let Node::Track(track) = item {
        narrow(rows, track, hidden, |out| {
            out.shape.absent = false;
            out.shape.null &= !solid;
        });
    }
}

fn narrow(rows: &mut [Out], track: &Track, hidden: &dyn Fn(&str) -> bool, change: impl Fn(&mut Out)) {
    let is_alias = hidden(&track.slot.name);
    for out in rows {
        let same = if is_alias {
            track.steps.is_empty() && out.name == *track.slot.name
        } else {
            out.track.as_ref().is_some_and(|it| it.slot.name == track.slot.name && it.steps == track.steps)
        };
        // What never is there makes no row.
        if same && out.shape.constant.is_none() {
            change(out);
        }
    }
}
