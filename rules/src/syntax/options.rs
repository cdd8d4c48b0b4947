//! `WITH (key = value, ...)` and durations.

use muster_core::value::Value;
use sqlparser::tokenizer::Token;

use super::dialect::is_word;
use super::lexer::from_sql;
use super::lower::trim_quotes;
use super::statement::{Read, Reader};
use crate::ast::{Name, OptionEntry, Options};
use crate::diagnostic::{Problem, Span};

impl Reader<'_> {
    pub(super) fn with(&mut self) -> Read<Options> {
        let mut options = Options::default();
        if !self.accept("WITH") {
            return Ok(options);
        }
        self.sign(&Token::LParen, "`(` after WITH")?;
        if self.parser.consume_token(&Token::RParen) {
            return Ok(options);
        }
        loop {
            let key = self.option_key()?;
            if options.get(&key.text).is_some() {
                let problem = Problem::new(key.span, format!("option `{}` stands twice", key.text));
                return Err(problem.help("keep one of the two"));
            }
            self.sign(&Token::Eq, "`=`")?;
            options.0.push(self.option_value(key)?);
            if !self.parser.consume_token(&Token::Comma) {
                break;
            }
        }
        self.sign(&Token::RParen, "`,` or `)`")?;
        Ok(options)
    }

    fn option_key(&mut self) -> Read<Name> {
        let token = self.next();
        match &token.token {
            // Here even keywords are names: nothing else can stand in their place.
            Token::Word(word) => {
                let mut name = Name { text: word.value.clone(), span: from_sql(token.span) };
                while self.parser.consume_token(&Token::Period) {
                    let more = self.next();
                    let Token::Word(word) = &more.token else {
                        return Err(self.dialect.expected("an option's name", &more));
                    };
                    name.text = format!("{}.{}", name.text, word.value);
                    name.span = name.span.to(from_sql(more.span));
                }
                Ok(name)
            }
            Token::RParen => {
                let problem = self.dialect.expected("an option after the comma", &token);
                Err(problem.help("leave out the last comma"))
            }
            _ => Err(self.dialect.expected("an option's name", &token)),
        }
    }

    fn option_value(&mut self, key: Name) -> Read<OptionEntry> {
        let first = self.next();
        let (token, negative) =
            if first.token == Token::Minus { (self.next(), true) } else { (first.clone(), false) };
        let span = from_sql(first.span).to(from_sql(token.span));
        let value = match &token.token {
            Token::SingleQuotedString(text) if !negative => trim_quotes(text, '\'').into(),
            Token::Number(text, false) => number(text, negative).ok_or_else(|| {
                Problem::new(span, format!("`{text}` is no number here")).help("write 15 or 1.5")
            })?,
            other if is_word(other, "true") && !negative => true.into(),
            other if is_word(other, "false") && !negative => false.into(),
            Token::Word(word) if !negative => {
                let problem = Problem::new(span, format!("`{}` is no value", word.value));
                return Err(problem.help(format!("write a text in single quotes: '{}'", word.value)));
            }
            _ => {
                return Err(self.dialect.expected("a value", &token).help("write 'text', 15, true or false"));
            }
        };
        if let Some(text) = value.as_str() {
            check_references(text, span)?;
        }
        Ok(OptionEntry { key, value, span })
    }

    /// `60s`, `5 m`, `'1h30m'`, `250ms`.
    pub(super) fn duration(&mut self) -> Read<u64> {
        let token = self.next();
        let mut span = from_sql(token.span);
        let text = match &token.token {
            Token::SingleQuotedString(text) => text.clone(),
            Token::Number(number, false) => {
                let unit = self.next();
                span = span.to(from_sql(unit.span));
                format!("{number}{}", unit.token)
            }
            _ => return Err(self.dialect.expected("a duration", &token).help("write 60s, 5m, 1h or 250ms")),
        };
        parse_duration(&text).ok_or_else(|| {
            Problem::new(span, format!("`{text}` is no duration")).help("write 60s, 5m, 1h, 1d or 250ms")
        })
    }

    fn sign(&mut self, token: &Token, what: &str) -> Read<()> {
        if self.parser.consume_token(token) {
            return Ok(());
        }
        let found = self.peek();
        Err(self.dialect.expected(what, &found))
    }
}

fn number(text: &str, negative: bool) -> Option<Value> {
    let signed = if negative { format!("-{text}") } else { text.to_owned() };
    match signed.parse::<i64>() {
        Ok(int) => Some(int.into()),
        Err(_) => signed.parse::<f64>().ok().filter(|f| f.is_finite()).map(Value::Float),
    }
}

/// `1h30m` and the like, in milliseconds.
pub(crate) fn parse_duration(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = rest.get(..digits)?.parse().ok()?;
        rest = rest.get(digits..)?.trim_start();
        let unit = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let factor = match rest.get(..unit)? {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        rest = rest.get(unit..)?.trim_start();
        total = total.checked_add(count.checked_mul(factor)?)?;
    }
    Some(total)
}

/// References in an option are `${env:NAME}` and `${file:PATH}`; an unclosed or unknown one is a mistake that would
/// otherwise show up as a wrong password.
fn check_references(text: &str, span: Span) -> Read<()> {
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let tail = rest.get(at + 2..).unwrap_or_default();
        let Some(end) = tail.find('}') else {
            return Err(Problem::new(span, "this `${` has no `}`").help("write ${env:NAME} or ${file:PATH}"));
        };
        let inner = tail.get(..end).unwrap_or_default();
        let name = inner.strip_prefix("env:").or_else(|| inner.strip_prefix("file:"));
        if name.is_some_and(|name| name.trim().is_empty()) {
            return Err(Problem::new(span, format!("`${{{inner}}}` names nothing")).help("write ${env:NAME}"));
        }
        rest = tail.get(end + 1..).unwrap_or_default();
    }
    Ok(())
}
