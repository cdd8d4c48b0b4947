//! Functions on strings. Characters are grapheme clusters, as the reference counts them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fancy_regex::{Regex, RegexBuilder};
use memchr::memmem;
use muster_core::value::Value;
use unicode_segmentation::UnicodeSegmentation;

use super::{Args, Function, Prepared, pure, wrong};
use crate::program::{Fault, text};

/// Most steps back that a regular expression may take on one text.
pub const REGEX_BACKTRACKS_MAX: usize = 100_000;

/// How long `regex_replace()` may look for further matches in one text, in milliseconds.
pub const REGEX_TIME_MAX_MS: u64 = 2_000;

/// Largest compiled regular expression, in bytes.
pub const REGEX_BYTES_MAX: usize = 1024 * 1024;

const fn regex(name: &'static str, args: usize, usage: &'static str, run: super::Run) -> Function {
    Function { prepare: Some(prepare_regex), ..pure(name, args, args, usage, run) }
}

pub(super) const TABLE: &[Function] = &[
    pure("lower", 1, 1, "lower(text)", |args| Ok(args.text(0)?.to_lowercase().into())),
    pure("upper", 1, 1, "upper(text)", |args| Ok(args.text(0)?.to_uppercase().into())),
    pure("trim", 1, 2, "trim(text) or trim(text, characters)", |args| trim(args, true, true)),
    pure("ltrim", 1, 2, "ltrim(text) or ltrim(text, characters)", |args| trim(args, true, false)),
    pure("rtrim", 1, 2, "rtrim(text) or rtrim(text, characters)", |args| trim(args, false, true)),
    pure("reverse", 1, 1, "reverse(text)", |args| {
        Ok(args.text(0)?.graphemes(true).rev().collect::<String>().into())
    }),
    pure("strlen", 1, 1, "strlen(text)", |args| Ok(count(args.text(0)?.graphemes(true).count()))),
    pure("substr", 2, 3, "substr(text, start) or substr(text, start, length)", substr),
    pure("split", 2, 3, "split(text, separator) or split(text, separator, option)", split),
    pure("tokens", 2, 3, "tokens(text, separators) or tokens(text, separators, 'nocrlf')", tokens),
    pure("concat", 1, 2, "concat(a, b) or concat([a, b, c])", |args| {
        join(&[], if args.len() == 1 { args.list(0)? } else { args.values })
    }),
    pure("pad", 2, 4, "pad(text, length[, 'leading' | 'trailing' | 'both'[, character]])", pad),
    pure("replace", 3, 4, "replace(text, pattern, by[, 'all' | 'leading' | 'trailing'])", replace),
    regex("regex_match", 2, "regex_match(text, regex)", regex_match),
    regex("regex_replace", 3, "regex_replace(text, regex, by)", regex_replace),
    regex("regex_extract", 2, "regex_extract(text, regex)", regex_extract),
    pure("ascii", 1, 1, "ascii(character)", |args| {
        let bytes = args.bytes(0)?;
        bytes.first().map(|b| i64::from(*b).into()).ok_or_else(|| Fault::new("the string is empty"))
    }),
    pure("find", 2, 3, "find(text, pattern[, 'leading' | 'trailing'])", find),
    pure("rm_prefix", 2, 2, "rm_prefix(text, prefix)", |args| {
        let (text, prefix) = (args.bytes(0)?, args.bytes(1)?);
        Ok(if text.starts_with(&prefix) { text.slice(prefix.len()..) } else { text }.into())
    }),
    pure("join_to_string", 1, 2, "join_to_string(list) or join_to_string(separator, list)", |args| {
        if args.len() == 1 { join(b", ", args.list(0)?) } else { join(&args.bytes(0)?, args.list(1)?) }
    }),
    pure("join_to_sql_values_string", 1, 1, "join_to_sql_values_string(list)", sql_values),
    pure("unescape", 1, 1, "unescape(text)", |args| unescape(args.text(0)?)),
];

fn count(n: usize) -> Value {
    i64::try_from(n).unwrap_or(i64::MAX).into()
}

fn slice_of(whole: &Value, part: &str) -> Value {
    match whole {
        Value::Str(bytes) => bytes.slice_ref(part.as_bytes()).into(),
        _ => part.into(),
    }
}

/// What is cut off when nothing else is said: white space as Unicode's pattern syntax knows it.
fn is_blank(c: char) -> bool {
    matches!(c, '\t'..='\r' | ' ' | '\u{85}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
}

fn trim(args: Args, left: bool, right: bool) -> Result<Value, Fault> {
    let text = args.text(0)?;
    let chars = if args.len() == 2 { Some(args.text(1)?) } else { None };
    let chars: Option<HashSet<char>> = chars.map(|chars| chars.chars().collect());
    let cut = |c: char| chars.as_ref().map_or_else(|| is_blank(c), |chars| chars.contains(&c));
    let mut rest = text;
    if left {
        rest = rest.trim_start_matches(cut);
    }
    if right {
        rest = rest.trim_end_matches(cut);
    }
    Ok(slice_of(args.get(0), rest))
}

fn substr(args: Args) -> Result<Value, Fault> {
    let text = args.text(0)?;
    let natural = |n: usize| usize::try_from(args.int(n)?).map_err(|_| Fault::new("substr counts from 0"));
    let start = natural(1)?;
    let len = if args.len() == 3 { natural(2)? } else { usize::MAX };
    let mut starts = text.grapheme_indices(true).map(|(at, _)| at);
    let from = starts.nth(start).unwrap_or(text.len());
    let to = match len {
        0 => from,
        _ => starts.nth(len - 1).unwrap_or(text.len()),
    };
    Ok(slice_of(args.get(0), text.get(from..to).unwrap_or_default()))
}

fn split(args: Args) -> Result<Value, Fault> {
    let (text, separator) = (args.bytes(0)?, args.bytes(1)?);
    let option = if args.len() == 3 { args.text(2)? } else { "" };
    let (way, keep_empty) = match option {
        "" => ("all", false),
        "notrim" => ("all", true),
        "leading" | "trailing" => (option, false),
        "leading_notrim" => ("leading", true),
        "trailing_notrim" => ("trailing", true),
        other => return Err(Fault(format!("split has no option '{other}'").into())),
    };
    let parts = match way {
        "leading" => at(&text, position(&text, &separator), separator.len()),
        "trailing" => at(&text, last_position(&text, &separator), separator.len()),
        _ => pieces(&text, &separator),
    };
    Ok(parts
        .into_iter()
        .filter(|part| keep_empty || !part.is_empty())
        .map(Value::from)
        .collect::<Vec<_>>()
        .into())
}

fn at(text: &Bytes, place: Option<usize>, len: usize) -> Vec<Bytes> {
    match place {
        Some(place) => vec![text.slice(..place), text.slice(place + len..)],
        None => vec![text.clone()],
    }
}

fn pieces(text: &Bytes, separator: &[u8]) -> Vec<Bytes> {
    let (mut parts, mut from) = (Vec::new(), 0);
    let places = if separator.is_empty() { None } else { Some(memmem::find_iter(text, separator)) };
    for place in places.into_iter().flatten() {
        parts.push(text.slice(from..place));
        from = place + separator.len();
    }
    parts.push(text.slice(from..));
    parts
}

/// Where `needle` begins; nowhere if it is empty.
fn position(text: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() { None } else { memmem::find(text, needle) }
}

fn last_position(text: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() { None } else { memmem::rfind(text, needle) }
}

fn tokens(args: Args) -> Result<Value, Fault> {
    let (text, separators) = (args.bytes(0)?, args.bytes(1)?);
    let no_crlf = args.len() == 3;
    if no_crlf && args.text(2)? != "nocrlf" {
        return Err(Fault::new("tokens has one option only: 'nocrlf'"));
    }
    let mut cuts = [false; 256];
    let crlf: &[u8] = if no_crlf { b"\r\n" } else { b"" };
    for byte in separators.iter().chain(crlf) {
        if let Some(cut) = cuts.get_mut(usize::from(*byte)) {
            *cut = true;
        }
    }
    let is_separator = |b: &u8| cuts.get(usize::from(*b)).copied().unwrap_or_default();
    let parts = text.split(is_separator).filter(|part| !part.is_empty());
    Ok(parts.map(|part| Value::Str(text.slice_ref(part))).collect::<Vec<_>>().into())
}

pub(super) fn join(separator: &[u8], items: &[Value]) -> Result<Value, Fault> {
    let mut out = Vec::new();
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.extend_from_slice(separator);
        }
        out.extend_from_slice(&text::bytes_of(item)?);
        text::bounded(out.len())?;
    }
    Ok(Bytes::from(out).into())
}

fn pad(args: Args) -> Result<Value, Fault> {
    let text = args.text(0)?;
    let wanted = usize::try_from(args.int(1)?).unwrap_or(0);
    let option = if args.len() > 2 { args.text(2)? } else { "trailing" };
    let filler = if args.len() > 3 { args.text(3)? } else { " " };
    let missing = wanted.saturating_sub(text.graphemes(true).count());
    let (left, right) = match option {
        "leading" => (missing, 0),
        "trailing" => (0, missing),
        "both" => (missing / 2, missing - missing / 2),
        other => return Err(Fault(format!("pad has no option '{other}'").into())),
    };
    text::bounded(missing.saturating_mul(filler.len()).saturating_add(text.len()))?;
    Ok(format!("{}{text}{}", filler.repeat(left), filler.repeat(right)).into())
}

fn replace(args: Args) -> Result<Value, Fault> {
    let (text, pattern, by) = (args.bytes(0)?, args.bytes(1)?, args.bytes(2)?);
    let option = if args.len() == 4 { args.text(3)? } else { "all" };
    let parts = match option {
        "all" => pieces(&text, &pattern),
        "leading" => at(&text, position(&text, &pattern), pattern.len()),
        "trailing" => at(&text, last_position(&text, &pattern), pattern.len()),
        other => return Err(Fault(format!("replace has no option '{other}'").into())),
    };
    let parts: Vec<_> = parts.into_iter().map(Value::Str).collect();
    join(&by, &parts)
}

fn find(args: Args) -> Result<Value, Fault> {
    let (text, pattern) = (args.bytes(0)?, args.bytes(1)?);
    let option = if args.len() == 3 { args.text(2)? } else { "leading" };
    let place = match option {
        _ if pattern.is_empty() => Some(0),
        "leading" => position(&text, &pattern),
        "trailing" => last_position(&text, &pattern),
        other => return Err(Fault(format!("find has no option '{other}'").into())),
    };
    Ok(place.map_or_else(Bytes::new, |place| text.slice(place..)).into())
}

fn compile(pattern: &str) -> Result<Arc<Regex>, Fault> {
    let built = RegexBuilder::new(pattern)
        .backtrack_limit(REGEX_BACKTRACKS_MAX)
        .delegate_size_limit(REGEX_BYTES_MAX)
        .build();
    built.map(Arc::new).map_err(|error| {
        let first = error.to_string().lines().last().unwrap_or_default().to_owned();
        Fault(format!("this is no regular expression: {first}").into())
    })
}

fn prepare_regex(args: &[Option<&Value>]) -> Result<Option<Prepared>, Fault> {
    match args.get(1) {
        Some(Some(pattern @ Value::Str(_))) => {
            let pattern = pattern.as_str().ok_or_else(|| wrong("a regular expression", pattern))?;
            compile(pattern).map(Prepared::Regex).map(Some)
        }
        _ => Ok(None),
    }
}

fn regex_of(args: &mut Args) -> Result<Arc<Regex>, Fault> {
    if let Some(Prepared::Regex(regex)) = args.prepared {
        return Ok(regex.clone());
    }
    let pattern = args.bytes(1)?;
    let made = args.ctx.prepared("regex", &pattern, |pattern| {
        let pattern = std::str::from_utf8(pattern).map_err(|_| Fault::new("the pattern is not UTF-8"))?;
        compile(pattern).map(Prepared::Regex)
    })?;
    match made {
        Prepared::Regex(regex) => Ok(regex),
        _ => Err(Fault::new("this is no regular expression")),
    }
}

fn gave_up(_: fancy_regex::Error) -> Fault {
    Fault::new("the regular expression takes too many steps on this text")
}

fn regex_match(mut args: Args) -> Result<Value, Fault> {
    let regex = regex_of(&mut args)?;
    Ok(regex.is_match(args.text(0)?).map_err(gave_up)?.into())
}

fn regex_extract(mut args: Args) -> Result<Value, Fault> {
    let regex = regex_of(&mut args)?;
    let text = args.text(0)?;
    let Some(found) = regex.captures(text).map_err(gave_up)? else { return Ok(Vec::new().into()) };
    let mut groups: Vec<_> = (1..found.len()).map(|n| found.get(n)).collect();
    while groups.last().is_some_and(Option::is_none) {
        groups.pop();
    }
    let values = groups.into_iter().map(|group| Value::from(group.map_or("", |group| group.as_str())));
    Ok(values.collect::<Vec<_>>().into())
}

fn regex_replace(mut args: Args) -> Result<Value, Fault> {
    let regex = regex_of(&mut args)?;
    let (text, by) = (args.text(0)?, args.text(2)?);
    let (mut out, mut from) = (String::new(), 0);
    // The limit on steps is one on each match, and there may be as many matches as characters.
    let clock = args.ctx.clock().clone();
    let until = clock.monotonic().saturating_add(Duration::from_millis(REGEX_TIME_MAX_MS));
    for found in regex.captures_iter(text) {
        if clock.monotonic() > until {
            return Err(Fault::new("the regular expression takes too long on this text"));
        }
        let found = found.map_err(gave_up)?;
        let Some(whole) = found.get(0) else { continue };
        out.push_str(text.get(from..whole.start()).unwrap_or_default());
        expand(by, &found, &mut out);
        from = whole.end();
        text::bounded(out.len())?;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    Ok(out.into())
}

/// `&` and `\0` stand for the match, `\1` or `\g{1}` for a group, `\&` for a plain `&`.
fn expand(by: &str, found: &fancy_regex::Captures<'_, str>, out: &mut String) {
    let group = |n: usize| found.get(n).map_or("", |group| group.as_str());
    let mut rest = by;
    while let Some(c) = rest.chars().next() {
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
        if c == '&' {
            out.push_str(group(0));
        } else if c != '\\' {
            out.push(c);
        } else {
            let braced = rest.strip_prefix("g{").and_then(|tail| tail.split_once('}'));
            if let Some((Ok(n), tail)) = braced.map(|(n, tail)| (n.parse(), tail)) {
                out.push_str(group(n));
                rest = tail;
                continue;
            }
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits > 0 {
                let n = rest.get(..digits).and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
                out.push_str(group(n));
                rest = rest.get(digits..).unwrap_or_default();
            } else {
                let next = rest.chars().next().unwrap_or('\\');
                out.push(next);
                rest = rest.get(next.len_utf8()..).unwrap_or_default();
            }
        }
    }
}

fn sql_values(args: Args) -> Result<Value, Fault> {
    let mut parts = Vec::new();
    for item in args.list(0)? {
        let text = String::from_utf8_lossy(&text::bytes_of(item)?).into_owned();
        parts.push(Value::from(match item {
            Value::Int(_) | Value::BigInt(_) | Value::Float(_) | Value::Bool(_) => text,
            Value::Undefined | Value::Null => "NULL".to_owned(),
            Value::Array(_) => format!("'{}'", text::json(item)?.replace('\'', "''")),
            _ => format!("'{}'", text.replace('\'', "''")),
        }));
    }
    join(b", ", &parts)
}

fn unescape(text: &str) -> Result<Value, Fault> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, tail)) = rest.split_once('\\') {
        out.push_str(plain);
        let kind = tail.chars().next().ok_or_else(|| Fault::new("the text ends in an escape"))?;
        rest = tail.get(kind.len_utf8()..).unwrap_or_default();
        out.push(match kind {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'a' => '\u{7}',
            '\'' | '"' | '?' | '\\' => kind,
            'x' => {
                let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
                let code = rest.get(..digits).and_then(|digits| u32::from_str_radix(digits, 16).ok());
                rest = rest.get(digits..).unwrap_or_default();
                code.and_then(char::from_u32).ok_or_else(|| Fault::new("this is no character's number"))?
            }
            other => return Err(Fault(format!("there is no escape \\{other}").into())),
        });
    }
    out.push_str(rest);
    Ok(out.into())
}
