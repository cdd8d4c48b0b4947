//! ClickHouse's types, read from the text that `system.columns` has of them. It must never know a value.

/// Types within types that are looked into; deeper ones are left to the server.
const DEPTH_MAX: u32 = 32;

/// What a column holds, as far as it matters for writing a value down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Int {
        bits: u16,
        signed: bool,
    },
    Float {
        bits: u16,
    },
    Decimal {
        precision: u8,
        scale: u8,
    },
    Text,
    /// Text of so many bytes at most.
    Fixed(usize),
    /// `Date`, or `Date32`, which reaches further.
    Date {
        wide: bool,
    },
    DateTime,
    DateTime64 {
        scale: u8,
    },
    Uuid,
    Ipv4,
    Ipv6,
    Enum(Vec<(String, i64)>),
    Array(Box<Type>),
    Map(Box<Type>, Box<Type>),
    /// Its elements, by name or without.
    Tuple(Vec<(Option<String>, Type)>),
    Nullable(Box<Type>),
    Json,
    /// Anything else: the value goes as JSON has it, and the server judges.
    Other,
}

impl Type {
    pub(super) fn parse(text: &str) -> Self {
        Self::parse_within(text, DEPTH_MAX)
    }

    fn parse_within(text: &str, depth: u32) -> Self {
        let Some(depth) = depth.checked_sub(1) else { return Self::Other };
        let text = text.trim();
        let (name, inside) = match text.split_once('(') {
            Some((name, rest)) => (name.trim(), rest.strip_suffix(')').unwrap_or(rest)),
            None => (text, ""),
        };
        let arguments = split(inside);
        let inner = |at: usize| arguments.get(at).map_or(Self::Other, |text| Self::parse_within(text, depth));
        let number = |at: usize| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(0_u8);
        match name {
            "Bool" | "Boolean" => Self::Bool,
            "String" => Self::Text,
            "FixedString" => Self::Fixed(inside.trim().parse().unwrap_or(0)),
            "Date" | "Date32" => Self::Date { wide: name == "Date32" },
            "DateTime" | "DateTime32" => Self::DateTime,
            "DateTime64" => Self::DateTime64 { scale: if arguments.is_empty() { 3 } else { number(0) } },
            "UUID" => Self::Uuid,
            "IPv4" => Self::Ipv4,
            "IPv6" => Self::Ipv6,
            "Enum" | "Enum8" | "Enum16" => {
                Self::Enum(arguments.iter().filter_map(|text| element(text)).collect())
            }
            "Decimal" => Self::Decimal { precision: number(0), scale: number(1) },
            "Decimal32" => Self::Decimal { precision: 9, scale: number(0) },
            "Decimal64" => Self::Decimal { precision: 18, scale: number(0) },
            "Decimal128" => Self::Decimal { precision: 38, scale: number(0) },
            "Decimal256" => Self::Decimal { precision: 76, scale: number(0) },
            "BFloat16" => Self::Float { bits: 32 },
            "Float32" | "Float64" => Self::Float { bits: if name == "Float32" { 32 } else { 64 } },
            "JSON" | "Object" => Self::Json,
            "LowCardinality" => inner(0),
            // Its first argument is a function.
            "SimpleAggregateFunction" => inner(1),
            "Nullable" => Self::Nullable(inner(0).into()),
            "Array" => Self::Array(inner(0).into()),
            "Map" => Self::Map(inner(0).into(), inner(1).into()),
            "Tuple" => Self::Tuple(arguments.iter().map(|text| named(text, depth)).collect()),
            "Nested" => {
                Self::Array(Self::Tuple(arguments.iter().map(|text| named(text, depth)).collect()).into())
            }
            _ => integer(name).unwrap_or(Self::Other),
        }
    }

    /// Whether a `null` is a value of it.
    pub(super) fn takes_null(&self) -> bool {
        matches!(self, Self::Nullable(_))
    }
}

/// `Int8` to `UInt256`.
fn integer(name: &str) -> Option<Type> {
    let (signed, bits) = match name.strip_prefix('U') {
        Some(rest) => (false, rest.strip_prefix("Int")?),
        None => (true, name.strip_prefix("Int")?),
    };
    let bits = bits.parse().ok().filter(|bits| matches!(bits, 8 | 16 | 32 | 64 | 128 | 256))?;
    Some(Type::Int { bits, signed })
}

/// The arguments between brackets: commas within brackets and quotes part nothing.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut quote, mut escaped, mut from) = (0_u32, None, false, 0);
    for (at, byte) in text.bytes().enumerate() {
        match (quote, byte) {
            _ if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(open), _) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'`') => quote = Some(byte),
            (None, b'(') => depth += 1,
            (None, b')') => depth = depth.saturating_sub(1),
            (None, b',') if depth == 0 => {
                parts.push(text.get(from..at).unwrap_or_default().trim());
                from = at + 1;
            }
            (None, _) => {}
        }
    }
    let last = text.get(from..).unwrap_or_default().trim();
    if !last.is_empty() {
        parts.push(last);
    }
    parts
}

/// `'name' = 1` of an enum.
fn element(text: &str) -> Option<(String, i64)> {
    let (name, number) = text.rsplit_once('=')?;
    let name = name.trim().strip_prefix('\'')?.strip_suffix('\'')?;
    Some((unescaped(name), number.trim().parse().ok()?))
}

/// `name Type` or `Type` of a tuple.
fn named(text: &str, depth: u32) -> (Option<String>, Type) {
    if let Some((name, rest)) = text.strip_prefix('`').and_then(|text| text.split_once('`')) {
        return (Some(unescaped(name)), Type::parse_within(rest, depth));
    }
    match text.split_once(char::is_whitespace) {
        Some((name, rest)) if !name.contains('(') => (Some(name.to_owned()), Type::parse_within(rest, depth)),
        _ => (None, Type::parse_within(text, depth)),
    }
}

/// Without the backslashes that shield quotes, backslashes and a few others.
fn unescaped(text: &str) -> String {
    let (mut out, mut letters) = (String::with_capacity(text.len()), text.chars());
    while let Some(letter) = letters.next() {
        out.push(match letter {
            '\\' => match letters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some('0') => '\0',
                Some(other) => other,
                None => '\\',
            },
            other => other,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read() {
        let int = |bits, signed| Type::Int { bits, signed };
        let cases = [
            ("UInt256", int(256, false)),
            ("Int7", Type::Other),
            ("LowCardinality(Nullable(String))", Type::Nullable(Type::Text.into())),
            ("DateTime64(9, 'Asia/Tokyo')", Type::DateTime64 { scale: 9 }),
            ("DateTime('UTC')", Type::DateTime),
            ("Decimal(38, 10)", Type::Decimal { precision: 38, scale: 10 }),
            ("FixedString(4)", Type::Fixed(4)),
            (r"Enum8('a,(' = -1, 'b\'c' = 2)", Type::Enum(vec![("a,(".into(), -1), ("b'c".into(), 2)])),
            (
                "Map(String, Array(UInt8))",
                Type::Map(Type::Text.into(), Type::Array(int(8, false).into()).into()),
            ),
            (
                "Tuple(\n    a Int8,\n    `b c` DateTime64(3, 'UTC'))",
                Type::Tuple(vec![
                    (Some("a".into()), int(8, true)),
                    (Some("b c".into()), Type::DateTime64 { scale: 3 }),
                ]),
            ),
            (
                "Tuple(Int8, Decimal(9, 2))",
                Type::Tuple(vec![(None, int(8, true)), (None, Type::Decimal { precision: 9, scale: 2 })]),
            ),
            ("SimpleAggregateFunction(max, Int64)", int(64, true)),
            ("AggregateFunction(sum, Int64)", Type::Other),
            ("JSON(max_dynamic_paths=8, a Int8)", Type::Json),
            ("Nested(x Int8)", Type::Array(Type::Tuple(vec![(Some("x".into()), int(8, true))]).into())),
        ];
        for (text, expected) in cases {
            assert_eq!(Type::parse(text), expected, "{text}");
        }
        let mut depth = 0;
        let mut within = &Type::parse(&"Array(".repeat(10_000));
        while let Type::Array(inner) = within {
            (within, depth) = (inner, depth + 1);
        }
        assert_eq!(depth, DEPTH_MAX);
    }
}
