//! Tokens of rule SQL: sqlparser's tokenizer under our dialect, then the few things its grammar of tokens cannot say
//! put right on the token list (`[1..5]`, `a.1`, `=~`, a comment without its newline). Every token's span is replaced
//! by its byte range, kept in the columns of sqlparser's own span type, so that sqlparser's unions of spans hold.

use sqlparser::tokenizer::{Location, Span as SqlSpan, Token, TokenWithSpan, Tokenizer, Whitespace};

use super::Mode;
use super::dialect::RuleDialect;
use crate::diagnostic::{Problem, Span};

/// Longest statement that is looked at.
pub const STATEMENT_BYTES_MAX: usize = 256 * 1024;

/// Cuts a file at the semicolons that stand outside of strings, names and comments. Each part is a byte range without
/// its semicolon; parts of blanks and comments only are left out.
pub(crate) fn split(text: &str) -> Vec<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut parts = Vec::new();
    let (mut start, mut at, mut blank) = (0, 0, true);
    let skip_to = |from: usize, needle: &[u8]| {
        let rest = bytes.get(from..).unwrap_or_default();
        rest.windows(needle.len()).position(|w| w == needle).map_or(bytes.len(), |n| from + n + needle.len())
    };
    while let Some(&byte) = bytes.get(at) {
        let next = bytes.get(at + 1);
        match byte {
            b'\'' | b'"' => {
                blank = false;
                at = skip_to(at + 1, &[byte]);
            }
            b'-' if next == Some(&b'-') => at = skip_to(at, b"\n"),
            b'/' if next == Some(&b'*') => at = skip_to(at + 2, b"*/"),
            b';' => {
                if !blank {
                    parts.push((start, at));
                }
                at += 1;
                (start, blank) = (at, true);
            }
            _ => {
                blank &= byte.is_ascii_whitespace();
                at += 1;
            }
        }
    }
    if !blank {
        parts.push((start, bytes.len()));
    }
    parts
}

/// Tokens of `text`, which stands at byte `base` of its file.
pub(crate) fn lex(text: &str, base: usize, mode: Mode) -> Result<Vec<TokenWithSpan>, Problem> {
    if text.len() > STATEMENT_BYTES_MAX {
        let message = format!("this statement is longer than {STATEMENT_BYTES_MAX} bytes");
        return Err(Problem::new(Span::new(base, base), message).help("split it into several rules"));
    }
    let mut tokens = raw_tokens(text, base)?;
    if mode == Mode::Reference {
        comments_as_reference(text, base, &mut tokens)?;
    }
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    Ok(regroup(tokens))
}

fn raw_tokens(text: &str, base: usize) -> Result<Vec<TokenWithSpan>, Problem> {
    let dialect = RuleDialect::new(Mode::Extended);
    let mut cursor = Cursor { text, chars: text.char_indices(), at: (1, 1), byte: 0 };
    let mut tokens = Vec::new();
    let mapper = |token: TokenWithSpan| {
        let start = base + cursor.seek(token.span.start);
        let end = base + cursor.seek(token.span.end);
        TokenWithSpan { token: token.token, span: to_sql(Span::new(start, end)) }
    };
    let mut tokenizer = Tokenizer::new(&dialect, text).with_unescape(false);
    match tokenizer.tokenize_with_location_into_buf_with_mapper(&mut tokens, mapper) {
        Ok(()) => Ok(tokens),
        Err(error) => {
            let mut cursor = Cursor { text, chars: text.char_indices(), at: (1, 1), byte: 0 };
            let at = base + cursor.seek(error.location);
            Err(describe(&error.message, Span::new(at, at + 1)))
        }
    }
}

/// Walks the text once and tells the byte of each location, which only grow.
struct Cursor<'a> {
    text: &'a str,
    chars: std::str::CharIndices<'a>,
    at: (u64, u64),
    byte: usize,
}

impl Cursor<'_> {
    fn seek(&mut self, to: Location) -> usize {
        while self.at < (to.line, to.column) {
            let Some((_, c)) = self.chars.next() else { break };
            self.byte = self.chars.offset();
            self.at = if c == '\n' { (self.at.0 + 1, 1) } else { (self.at.0, self.at.1 + 1) };
        }
        self.byte.min(self.text.len())
    }
}

fn describe(message: &str, span: Span) -> Problem {
    if message.contains("Unterminated string") || message.contains("Unterminated encoded string") {
        Problem::new(span, "this string is not closed").help("end it with a single quote (')")
    } else if message.contains("close delimiter") {
        Problem::new(span, "this name is not closed").help("end it with a double quote (\")")
    } else if message.contains("multi-line comment") {
        Problem::new(span, "this comment is not closed").help("end it with */")
    } else {
        Problem::new(span, "this cannot be read").help("names with unusual characters need double quotes")
    }
}

/// The reference knows a comment only with its newline, and cuts blanks off the end of the text first: `1 -- x` at the
/// very end is arithmetic. It knows no block comments.
fn comments_as_reference(text: &str, base: usize, tokens: &mut Vec<TokenWithSpan>) -> Result<(), Problem> {
    if let Some(block) =
        tokens.iter().find(|t| matches!(t.token, Token::Whitespace(Whitespace::MultiLineComment(_))))
    {
        return Err(Problem::new(from_sql(block.span), "there are no block comments"));
    }
    let Some(last) = tokens.iter().rposition(|t| {
        !matches!(t.token, Token::Whitespace(Whitespace::Space | Whitespace::Tab | Whitespace::Newline))
    }) else {
        return Ok(());
    };
    let Some(TokenWithSpan { token: Token::Whitespace(Whitespace::SingleLineComment { .. }), span }) =
        tokens.get(last)
    else {
        return Ok(());
    };
    let start = from_sql(*span).start;
    tokens.truncate(last);
    for at in [start, start + 1] {
        tokens.push(TokenWithSpan { token: Token::Minus, span: to_sql(Span::new(at, at + 1)) });
    }
    let rest = text.get(start + 2 - base..).unwrap_or_default();
    let mut more = raw_tokens(rest, start + 2)?;
    comments_as_reference(rest, start + 2, &mut more)?;
    tokens.append(&mut more);
    Ok(())
}

/// Puts tokens right that sqlparser cuts in other places.
fn regroup(tokens: Vec<TokenWithSpan>) -> Vec<TokenWithSpan> {
    let mut out: Vec<TokenWithSpan> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let span = from_sql(token.span);
        let adjacent = out.last().is_some_and(|last| from_sql(last.span).end == span.start);
        let previous = if adjacent { out.last_mut() } else { None };
        match (&token.token, previous) {
            // `=` `~` is one operator.
            (Token::Tilde, Some(TokenWithSpan { token: last @ Token::Eq, span: last_span })) => {
                *last = Token::CustomBinaryOperator("=~".into());
                *last_span = last_span.union(&token.span);
            }
            (Token::Eq, Some(TokenWithSpan { token: last @ Token::Tilde, span: last_span })) => {
                *last = Token::CustomBinaryOperator("~=".into());
                *last_span = last_span.union(&token.span);
            }
            // `1.` `.5` is the range `1..5`; `1.` `.` begins one with a negative end.
            (Token::Number(next, false), Some(TokenWithSpan { token: Token::Number(last, false), .. }))
                if next.starts_with('.') && last.ends_with('.') =>
            {
                last.pop();
                let number = next.get(1..).unwrap_or_default().to_owned();
                range_token(&mut out, span.start);
                out.push(spanned(Token::Number(number, false), Span::new(span.start + 1, span.end)));
            }
            (Token::Period, Some(TokenWithSpan { token: Token::Number(last, false), .. }))
                if last.ends_with('.') =>
            {
                last.pop();
                range_token(&mut out, span.start);
            }
            // `a` `.1` is the key "1" of `a`.
            (Token::Number(next, false), Some(last))
                if next.starts_with('.') && may_have_key(&last.token) =>
            {
                let number = next.get(1..).unwrap_or_default().to_owned();
                out.push(spanned(Token::Period, Span::new(span.start, span.start + 1)));
                out.push(spanned(Token::Number(number, false), Span::new(span.start + 1, span.end)));
            }
            _ => out.push(token),
        }
    }
    out
}

fn range_token(out: &mut Vec<TokenWithSpan>, at: usize) {
    if let Some(number) = out.last_mut() {
        let span = from_sql(number.span);
        number.span = to_sql(Span::new(span.start, span.end.saturating_sub(1)));
    }
    out.push(spanned(Token::CustomBinaryOperator("..".into()), Span::new(at.saturating_sub(1), at + 1)));
}

fn may_have_key(token: &Token) -> bool {
    matches!(token, Token::Word(_) | Token::SingleQuotedString(_) | Token::RBracket | Token::RParen)
}

fn spanned(token: Token, span: Span) -> TokenWithSpan {
    TokenWithSpan { token, span: to_sql(span) }
}

/// Our bytes in sqlparser's columns.
pub(crate) fn to_sql(span: Span) -> SqlSpan {
    SqlSpan::new(Location::new(1, span.start as u64), Location::new(1, span.end as u64))
}

/// sqlparser's columns as our bytes.
pub(crate) fn from_sql(span: SqlSpan) -> Span {
    let byte = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    Span::new(byte(span.start.column), byte(span.end.column))
}
