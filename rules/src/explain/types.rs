//! What is known of a value before there is an event: its type, and whether it may be absent or null.

use muster_core::event::{Column, ColumnType, Event, EventKind};
use muster_core::value::{Map, Value};
use serde::Serialize;

/// A type as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// Text, or bytes that are usually text.
    Text,
    /// A whole number of any size.
    Integer,
    /// A whole number or a fraction.
    Number,
    /// `true` or `false`.
    Boolean,
    /// An integer: milliseconds since 1970.
    Time,
    /// Names to values.
    Map,
    /// A list.
    List,
    /// Nothing is known.
    Any,
}

impl Type {
    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Time => "time",
            Self::Map => "map",
            Self::List => "list",
            Self::Any => "any",
        }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Time, Self::Integer) | (Self::Integer, Self::Time) => Self::Integer,
            (Self::Time | Self::Integer | Self::Number, Self::Time | Self::Integer | Self::Number) => {
                Self::Number
            }
            _ => Self::Any,
        }
    }
}

/// What is known of a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    pub(super) ty: Type,
    pub(super) absent: bool,
    pub(super) null: bool,
    pub(super) constant: Option<Value>,
    /// Whether it is the message's payload as it came.
    pub(super) payload: bool,
}

impl Shape {
    pub(super) const fn of(ty: Type) -> Self {
        Self { ty, absent: false, null: false, constant: None, payload: false }
    }

    /// What stands in a payload: nothing is known, and it need not be there.
    pub(super) fn unknown() -> Self {
        Self { absent: true, null: true, ..Self::of(Type::Any) }
    }

    pub(super) fn maybe(ty: Type) -> Self {
        Self { absent: true, ..Self::of(ty) }
    }

    /// Never there.
    pub(super) fn nothing() -> Self {
        Self::constant(&Value::Undefined)
    }

    pub(super) fn constant(value: &Value) -> Self {
        let ty = match value {
            Value::Undefined | Value::Null => Type::Any,
            Value::Bool(_) => Type::Boolean,
            Value::Int(_) | Value::BigInt(_) => Type::Integer,
            Value::Float(_) => Type::Number,
            Value::Str(_) => Type::Text,
            Value::Array(_) => Type::List,
            Value::Map(_) => Type::Map,
        };
        let (absent, null) = (value.is_undefined(), *value == Value::Null);
        Self { absent, null, constant: Some(value.clone()), ..Self::of(ty) }
    }

    /// One or the other.
    pub(super) fn or(self, other: Self) -> Self {
        // What is never there adds nothing to the type.
        let ty = match (&self.constant, &other.constant) {
            (Some(Value::Undefined | Value::Null), _) => other.ty,
            (_, Some(Value::Undefined | Value::Null)) => self.ty,
            _ => self.ty.or(other.ty),
        };
        Self {
            ty,
            absent: self.absent || other.absent,
            null: self.null || other.null,
            constant: self.constant.filter(|value| Some(value) == other.constant.as_ref()),
            payload: self.payload && other.payload,
        }
    }

    /// `self`, and `other` where `self` is absent.
    pub(super) fn or_else(self, other: Self) -> Self {
        if !self.absent {
            return self;
        }
        let absent = other.absent;
        Self { absent, ..self.or(other) }
    }
}

/// The column of an event of `kind`, if such events have it.
fn column_of(kind: EventKind, column: Column) -> Option<Shape> {
    if !Column::of(kind).contains(&column) {
        return None;
    }
    let ty = match column {
        Column::Timestamp
        | Column::ConnectedAt
        | Column::DisconnectedAt
        | Column::PublishReceivedAt
        | Column::ActivatedAt
        | Column::DeactivatedAt => Type::Time,
        _ => match column.column_type() {
            ColumnType::Integer => Type::Integer,
            ColumnType::Boolean => Type::Boolean,
            ColumnType::String | ColumnType::Bytes => Type::Text,
            ColumnType::Map => Type::Map,
        },
    };
    // An event of which nothing is known shows which columns are there all the same.
    let bare = Event::from_columns(kind, &Map::new());
    let absent = bare.is_ok_and(|bare| bare.get(column).is_undefined());
    let constant = (column == Column::Event).then(|| kind.name().into());
    Some(Shape { absent, constant, payload: column == Column::Payload, ..Shape::of(ty) })
}

/// The column of events of one of these kinds.
pub(super) fn column(kinds: &[EventKind], column: Column) -> Shape {
    let shapes = kinds.iter().map(|kind| column_of(*kind, column).unwrap_or_else(Shape::nothing));
    shapes.reduce(Shape::or).unwrap_or_else(Shape::nothing)
}

/// What a function gives, apart from those whose value has the type of an argument.
pub(super) fn returned(name: &str) -> Option<Shape> {
    Some(match name {
        "lower"
        | "upper"
        | "trim"
        | "ltrim"
        | "rtrim"
        | "reverse"
        | "substr"
        | "concat"
        | "pad"
        | "replace"
        | "regex_replace"
        | "find"
        | "rm_prefix"
        | "join_to_string"
        | "join_to_sql_values_string"
        | "unescape"
        | "str"
        | "str_utf8"
        | "str_utf16_le"
        | "float2str"
        | "bin2hexstr"
        | "hexstr2bin"
        | "sqlserver_bin2hexstr"
        | "md5"
        | "sha"
        | "sha256"
        | "hash"
        | "gzip"
        | "gunzip"
        | "zip"
        | "unzip"
        | "zip_compress"
        | "zip_uncompress"
        | "base64_encode"
        | "base64_decode"
        | "json_encode"
        | "sprintf"
        | "sprintf_s"
        | "now_rfc3339"
        | "unix_ts_to_rfc3339"
        | "format_date"
        | "mongo_date"
        | "uuid_v4"
        | "uuid_v4_no_hyphen" => Shape::of(Type::Text),
        "getenv" => Shape::maybe(Type::Text),
        "strlen"
        | "ascii"
        | "int"
        | "ceil"
        | "floor"
        | "round"
        | "abs"
        | "div"
        | "mod"
        | "bitnot"
        | "bitand"
        | "bitor"
        | "bitxor"
        | "bitsl"
        | "bitsr"
        | "bitsize"
        | "bytesize"
        | "map_size"
        | "length"
        | "now_timestamp"
        | "rfc3339_to_unix_ts"
        | "date_to_unix_ts"
        | "timezone_to_offset_seconds"
        | "timezone_to_second" => Shape::of(Type::Integer),
        "float" | "sqrt" | "power" | "exp" | "log" | "log2" | "log10" | "fmod" | "sin" | "cos" | "tan"
        | "asin" | "acos" | "atan" | "sinh" | "cosh" | "tanh" | "asinh" | "acosh" | "atanh" | "random" => {
            Shape::of(Type::Number)
        }
        "is_null" | "is_not_null" | "is_null_var" | "is_not_null_var" | "is_str" | "is_bool" | "is_int"
        | "is_float" | "is_num" | "is_map" | "is_array" | "is_empty" | "eq" | "bool" | "regex_match"
        | "contains" => Shape::of(Type::Boolean),
        "map" | "map_new" | "map_put" | "mput" | "flags" => Shape::of(Type::Map),
        "map_keys"
        | "map_values"
        | "map_to_entries"
        | "map_to_redis_hset_args"
        | "sublist"
        | "split"
        | "tokens"
        | "regex_extract"
        | "jq" => Shape::of(Type::List),
        "flag" => Shape::maybe(Type::Boolean),
        "null" => Shape::nothing(),
        "json_decode" | "nth" | "first" | "last" => Shape { null: true, ..Shape::of(Type::Any) },
        "payload" | "map_get" | "mget" | "kv_store_put" | "kv_store_get" | "kv_store_del" | "subbits" => {
            Shape::unknown()
        }
        _ => return None,
    })
}

/// The column that a function of the message at hand stands for.
pub(super) fn column_behind(name: &str) -> Option<Column> {
    Some(match name {
        "msgid" => Column::Id,
        "qos" => Column::Qos,
        "topic" => Column::Topic,
        "clientid" => Column::Clientid,
        "username" => Column::Username,
        "payload" => Column::Payload,
        "flags" | "flag" => Column::Flags,
        "peerhost" | "clientip" => Column::Peerhost,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those whose type follows from an argument are named here and handled where arguments are seen.
    #[test]
    fn every_function_gives_something() {
        let by_argument = ["coalesce", "coalesce_ne"];
        let missing: Vec<_> = crate::function_usages()
            .map(|(name, _)| name)
            .filter(|name| {
                returned(name).is_none() && column_behind(name).is_none() && !by_argument.contains(name)
            })
            .collect();
        assert!(missing.is_empty(), "nothing is said of what {missing:?} give");
    }

    #[test]
    fn columns_that_are_always_there() {
        let of = |kind, name| column(&[kind], Column::from_name(name).expect("a column"));
        assert!(!of(EventKind::MessagePublish, "clientid").absent);
        assert!(of(EventKind::MessagePublish, "username").absent);
        assert!(!of(EventKind::ClientDisconnected, "reason").absent);
        assert_eq!(of(EventKind::ClientConnected, "payload").constant, Some(Value::Undefined));
        let both = column(&[EventKind::ClientConnected, EventKind::ClientDisconnected], Column::Reason);
        assert_eq!((both.ty, both.absent), (Type::Text, true));
    }
}
