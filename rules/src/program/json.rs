//! Our reader of JSON. It makes one pass, checks everything, and leaves a flat list of nodes (a tape) that refers into
//! the text: nothing is copied or converted until somebody asks for a value. The tape's memory is used again for the
//! next payload. Integers are exact at any size, of equal keys the last wins.
//!
//! Why no crate. Rules need all of: an error for whatever is no JSON, also behind the fields that are read; integers of
//! any size; the last of equal keys; no copy of the payload; no `unsafe` of ours on bytes from the network. Of the fast
//! readers, sonic-rs and simd-json take the first of equal keys, simd-json refuses integers beyond 64 bits and wants a
//! copy that it can write to, sonic-rs makes a double of them, and its lazy `get` takes texts that are broken behind
//! the field. Nor are they faster where rules are: see `bench/json` and ARCHITECTURE.md, "JSON payloads".

use bytes::Bytes;
use muster_core::value::{Map, Value};
use num_bigint::BigInt;

use super::Fault;

/// Deepest nesting of a JSON text.
pub const JSON_DEPTH_MAX: usize = 256;

/// Longest JSON text.
pub const JSON_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Longest number in a JSON text; arithmetic on longer ones would cost more than it is worth.
pub const JSON_NUMBER_BYTES_MAX: usize = 4_096;

/// Most values and keys in a JSON text: in memory each is many times as large as the two bytes of `0,`.
pub const JSON_VALUES_MAX: usize = 4_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    True,
    False,
    Int,
    Float,
    Str,
    Escaped,
    Array,
    Object,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    start: u32,
    end: u32,
    /// The node after this one and everything in it.
    next: u32,
    kind: Kind,
}

/// A parsed JSON text, without the text.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    nodes: Vec<Node>,
    open: Vec<u32>,
}

/// A node of a tape.
pub(crate) type Id = usize;

impl Tape {
    /// Reads `text` in place of what was read before.
    pub(crate) fn parse(&mut self, text: &[u8]) -> Result<(), Fault> {
        self.nodes.clear();
        self.open.clear();
        if text.len() > JSON_BYTES_MAX {
            return Err(Fault::new("JSON text is too long"));
        }
        if std::str::from_utf8(text).is_err() {
            return Err(Fault::new("not JSON: not UTF-8"));
        }
        let mut reader = Reader { text, at: 0 };
        self.read(&mut reader).ok_or_else(|| match self.nodes.len() {
            ..JSON_VALUES_MAX => Fault(format!("not JSON, at byte {}", reader.at).into()),
            _ => Fault::new("JSON text has too many values"),
        })
    }

    fn read(&mut self, reader: &mut Reader) -> Option<()> {
        loop {
            // A value stands here.
            let byte = reader.peek_solid()?;
            if byte == b'{' || byte == b'[' {
                let kind = if byte == b'{' { Kind::Object } else { Kind::Array };
                if self.open.len() >= JSON_DEPTH_MAX {
                    return None;
                }
                self.open.push(u32::try_from(self.nodes.len()).ok()?);
                self.push(reader.place(), 0, kind)?;
                reader.at += 1;
                let first = reader.peek_solid()?;
                if first == byte + 2 {
                    reader.at += 1;
                    self.close(reader)?;
                } else {
                    if kind == Kind::Object {
                        self.key(reader)?;
                    }
                    continue;
                }
            } else {
                self.scalar(reader, byte)?;
            }
            // A value ended here.
            loop {
                let Some(&open) = self.open.last() else {
                    return if reader.peek_solid().is_none() { Some(()) } else { None };
                };
                let kind = self.nodes.get(open as usize)?.kind;
                match (reader.peek_solid()?, kind) {
                    (b',', Kind::Array) => reader.at += 1,
                    (b',', _) => {
                        reader.at += 1;
                        self.key(reader)?;
                    }
                    (b']', Kind::Array) | (b'}', Kind::Object) => {
                        reader.at += 1;
                        self.close(reader)?;
                        continue;
                    }
                    _ => return None,
                }
                break;
            }
        }
    }

    fn close(&mut self, reader: &Reader) -> Option<()> {
        let open = self.open.pop()?;
        let next = u32::try_from(self.nodes.len()).ok()?;
        let node = self.nodes.get_mut(open as usize)?;
        node.end = reader.place();
        node.next = next;
        Some(())
    }

    fn key(&mut self, reader: &mut Reader) -> Option<()> {
        if reader.peek_solid()? != b'"' {
            return None;
        }
        self.string(reader)?;
        if reader.peek_solid()? != b':' {
            return None;
        }
        reader.at += 1;
        Some(())
    }

    fn string(&mut self, reader: &mut Reader) -> Option<()> {
        reader.at += 1;
        let start = reader.place();
        let escaped = reader.string()?;
        let kind = if escaped { Kind::Escaped } else { Kind::Str };
        self.push(start, reader.place() - 1, kind)
    }

    fn push(&mut self, start: u32, end: u32, kind: Kind) -> Option<()> {
        if self.nodes.len() >= JSON_VALUES_MAX {
            return None;
        }
        let next = u32::try_from(self.nodes.len()).ok()? + 1;
        self.nodes.push(Node { start, end, next, kind });
        Some(())
    }

    fn scalar(&mut self, reader: &mut Reader, byte: u8) -> Option<()> {
        let start = reader.place();
        let kind = match byte {
            b'"' => return self.string(reader),
            b't' => reader.word(b"true", Kind::True)?,
            b'f' => reader.word(b"false", Kind::False)?,
            b'n' => reader.word(b"null", Kind::Null)?,
            b'-' | b'0'..=b'9' => reader.number()?,
            _ => return None,
        };
        self.push(start, reader.place(), kind)
    }

    fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(id)
    }

    /// The node of `key` in an object; none in anything else.
    pub(crate) fn key_of(&self, text: &[u8], id: Id, key: &str) -> Option<Id> {
        let node = self.node(id)?;
        if node.kind != Kind::Object {
            return None;
        }
        let (mut at, mut found) = (id + 1, None);
        while at < node.next as usize {
            let name = self.node(at)?;
            let bytes = text.get(name.start as usize..name.end as usize)?;
            let same = match name.kind {
                Kind::Escaped => unescape(bytes) == key,
                _ => bytes == key.as_bytes(),
            };
            if same {
                found = Some(at + 1);
            }
            at = self.node(at + 1)?.next as usize;
        }
        found
    }

    /// The `index`-th node of a list, from 1 or from the end; none in anything else.
    pub(crate) fn index_of(&self, id: Id, index: i64) -> Option<Id> {
        let node = self.node(id)?;
        if node.kind != Kind::Array || index == 0 {
            return None;
        }
        let skip = if index > 0 {
            usize::try_from(index - 1).ok()?
        } else {
            let len = self.items(id).count();
            len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?
        };
        self.items(id).nth(skip)
    }

    fn items(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        let end = self.node(id).map_or(0, |node| node.next as usize);
        let mut at = id + 1;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let here = at;
            at = self.node(at)?.next as usize;
            Some(here)
        })
    }

    /// Whether the node is a string, whose text may be JSON in turn.
    pub(crate) fn is_string(&self, id: Id) -> bool {
        self.node(id).is_some_and(|node| matches!(node.kind, Kind::Str | Kind::Escaped))
    }

    /// The text of a string.
    fn text(&self, text: &[u8], id: Id) -> Box<str> {
        let Some(node) = self.node(id) else { return Box::default() };
        let bytes = text.get(node.start as usize..node.end as usize).unwrap_or_default();
        match node.kind {
            Kind::Escaped => unescape(bytes).into(),
            _ => std::str::from_utf8(bytes).unwrap_or_default().into(),
        }
    }

    /// The node as a value. Strings without escapes share the text's memory.
    pub(crate) fn value(&self, text: &Bytes, id: Id) -> Value {
        let Some(node) = self.node(id) else { return Value::Undefined };
        let (start, end) = (node.start as usize, node.end as usize);
        let bytes = || text.get(start..end).unwrap_or_default();
        match node.kind {
            Kind::Null => Value::Null,
            Kind::True => true.into(),
            Kind::False => false.into(),
            Kind::Int => integer(bytes()),
            Kind::Float => Value::Float(float(bytes()).unwrap_or_default()),
            Kind::Str if start <= end && end <= text.len() => text.slice(start..end).into(),
            Kind::Str => Value::Undefined,
            Kind::Escaped => unescape(bytes()).into(),
            Kind::Array => {
                let mut items = Vec::with_capacity(self.items(id).count());
                items.extend(self.items(id).map(|item| self.value(text, item)));
                items.into()
            }
            Kind::Object => {
                let mut map = Map::with_capacity(self.items(id).count() / 2);
                let mut names = self.items(id);
                while let Some(name) = names.next() {
                    let Some(value) = names.next() else { break };
                    map.insert(self.text(text, name), self.value(text, value));
                }
                map.into()
            }
        }
    }
}

/// A whole JSON text as a value.
pub(crate) fn decode(text: &Bytes) -> Result<Value, Fault> {
    let mut tape = Tape::default();
    tape.parse(text)?;
    Ok(tape.value(text, 0))
}

fn integer(text: &[u8]) -> Value {
    let text = std::str::from_utf8(text).unwrap_or_default();
    match text.parse::<i64>() {
        Ok(int) => int.into(),
        Err(_) => text.parse::<BigInt>().map_or(Value::Undefined, Value::big),
    }
}

fn float(text: &[u8]) -> Option<f64> {
    let float: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    float.is_finite().then_some(float)
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// Texts are shorter than [`JSON_BYTES_MAX`], so places fit.
    #[expect(clippy::cast_possible_truncation, reason = "bounded by JSON_BYTES_MAX")]
    fn place(&self) -> u32 {
        self.at as u32
    }

    fn peek_solid(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    fn word(&mut self, word: &[u8], kind: Kind) -> Option<Kind> {
        self.text.get(self.at..)?.starts_with(word).then(|| {
            self.at += word.len();
            kind
        })
    }

    /// From after the opening quote to after the closing one; whether there were escapes.
    fn string(&mut self) -> Option<bool> {
        let mut escaped = false;
        loop {
            match *self.text.get(self.at)? {
                b'"' => {
                    self.at += 1;
                    return Some(escaped);
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                0..=0x1f => return None,
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Option<()> {
        let kind = *self.text.get(self.at + 1)?;
        self.at += 2;
        match kind {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => match self.hex()? {
                0xd800..=0xdbff => {
                    if self.text.get(self.at..self.at + 2)? != b"\\u" {
                        return None;
                    }
                    self.at += 2;
                    (0xdc00..=0xdfff).contains(&self.hex()?).then_some(())
                }
                0xdc00..=0xdfff => None,
                _ => Some(()),
            },
            _ => None,
        }
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        hex4(digits)
    }

    fn digits(&mut self) -> usize {
        let from = self.at;
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        self.at - from
    }

    fn number(&mut self) -> Option<Kind> {
        let start = self.at;
        if self.text.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        let first = self.text.get(self.at).copied();
        let whole = self.digits();
        if whole == 0 || (whole > 1 && first == Some(b'0')) {
            return None;
        }
        let mut kind = Kind::Int;
        if self.text.get(self.at) == Some(&b'.') {
            kind = Kind::Float;
            self.at += 1;
            if self.digits() == 0 {
                return None;
            }
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            kind = Kind::Float;
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return None;
            }
            float(self.text.get(start..self.at)?)?;
        }
        if self.at - start > JSON_NUMBER_BYTES_MAX {
            return None;
        }
        // A long run of digits before a point may be beyond what a double holds, too.
        if kind == Kind::Float && whole > 300 {
            float(self.text.get(start..self.at)?)?;
        }
        Some(kind)
    }
}

fn hex4(digits: &[u8]) -> Option<u32> {
    if digits.len() != 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The text of a string that was checked.
fn unescape(text: &[u8]) -> String {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, tail)) = rest.split_once('\\') {
        out.push_str(plain);
        let kind = tail.chars().next().unwrap_or('\\');
        rest = tail.get(kind.len_utf8()..).unwrap_or_default();
        match kind {
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'u' => {
                let unit = |text: &str| text.as_bytes().get(..4).and_then(hex4).unwrap_or(0xfffd);
                let mut code = unit(rest);
                rest = rest.get(4..).unwrap_or_default();
                if (0xd800..=0xdbff).contains(&code) {
                    let low = unit(rest.get(2..).unwrap_or_default());
                    rest = rest.get(6..).unwrap_or_default();
                    code = 0x10000 + ((code - 0xd800) << 10) + low.wrapping_sub(0xdc00);
                }
                out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
            }
            other => out.push(other),
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        decode(&Bytes::copy_from_slice(text.as_bytes())).map_or_else(|f| f.to_string(), |v| v.to_json())
    }

    #[test]
    fn values_come_out_as_they_went_in() {
        for text in [
            "null",
            "[1,-2,3.5,true,false,null,\"a\"]",
            "{\"a\":{\"b\":[]},\"c\":{}}",
            "123456789012345678901234567890",
        ] {
            assert_eq!(check(text), text);
        }
        assert_eq!(check(" { \"a\" : 1 , \"a\" : [ 2 ] } "), r#"{"a":[2]}"#);
        assert_eq!(check(r#""\u00e9\ud83d\ude00\n\/""#), "\"é😀\\n/\"");
        assert_eq!(check("1e3"), "1000.0");
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            " ",
            "{",
            "[1,]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "01",
            "1.",
            ".5",
            "-",
            "1e",
            "+1",
            "nul",
            "\"\u{1}\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"a",
            "1 1",
            "1e999",
            "]",
            "[}",
            "{]",
        ] {
            assert!(check(text).starts_with("not JSON"), "{text:?} was taken");
        }
        let deep = "[".repeat(JSON_DEPTH_MAX + 1);
        assert!(check(&deep).starts_with("not JSON"));
    }
}
