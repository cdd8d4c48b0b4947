//! Our dialect for sqlparser. The precedence climbing, and with it every operator that SQL shares with us, is
//! sqlparser's; the hooks here say what an operand is (paths, calls, lists, ranges, CASE), add `div`, `mod`, `=~` and
//! `IN`, and switch off what rules do not have. What goes wrong is kept beside the error that sqlparser hands on,
//! since that one is only a text.

use std::cell::{Cell, RefCell};

use sqlparser::ast::helpers::attached_token::AttachedToken;
use sqlparser::ast::{
    AccessExpr, Array, BinaryOperator, CaseWhen, Expr, Function, FunctionArg, FunctionArgExpr,
    FunctionArgumentList, FunctionArguments, Ident, ObjectName, ObjectNamePart, Subscript, UnaryOperator,
    Value, ValueWithSpan,
};
use sqlparser::dialect::{Dialect, Precedence};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Span as SqlSpan, Token, TokenWithSpan, Word};

use super::Mode;
use super::lexer::from_sql;
use crate::diagnostic::Problem;

/// Words that cannot be bare names.
pub(crate) const RESERVED: &[&str] = &[
    "AND", "AS", "CASE", "IF", "ELSE", "ELSIF", "FROM", "IN", "NOT", "OR", "SELECT", "WHEN", "THEN",
    "FOREACH", "INCASE", "END", "DO", "WHERE",
];

type Sql<T> = Result<T, ParserError>;

/// The dialect, with what went wrong first.
#[derive(Debug)]
pub(crate) struct RuleDialect {
    mode: Mode,
    problem: RefCell<Option<Problem>>,
    operators: Cell<usize>,
}

/// Most operators in one expression: trees lean to the left and are walked by recursion.
pub const OPERATORS_MAX: usize = 1_000;

/// Whether a bare word is reserved.
pub(crate) fn is_reserved(word: &Word) -> bool {
    word.quote_style.is_none() && RESERVED.iter().any(|reserved| reserved.eq_ignore_ascii_case(&word.value))
}

/// Whether a name needs no quotes.
pub(crate) fn is_bare_name(text: &str) -> bool {
    let mut chars = text.chars();
    let rest_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '@' | '~');
    chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(rest_ok)
        && !RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text))
        && !matches!(text, "true" | "false" | "div" | "mod")
        && !["like", "is", "between"].iter().any(|word| word.eq_ignore_ascii_case(text))
}

pub(crate) fn is_word(token: &Token, text: &str) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
}

impl RuleDialect {
    pub(crate) fn new(mode: Mode) -> Self {
        Self { mode, problem: RefCell::new(None), operators: Cell::new(0) }
    }

    /// What went wrong, if it was found here.
    pub(crate) fn take_problem(&self) -> Option<Problem> {
        self.problem.borrow_mut().take()
    }

    /// Begins a new expression.
    pub(crate) fn expr(&self, parser: &mut Parser) -> Sql<Expr> {
        self.operators.set(0);
        parser.parse_expr()
    }

    pub(crate) fn fail<T>(&self, problem: Problem) -> Sql<T> {
        let message = problem.message.clone();
        self.problem.borrow_mut().get_or_insert(problem);
        Err(ParserError::ParserError(message))
    }

    fn operand(&self, parser: &mut Parser) -> Sql<Expr> {
        let token = parser.next_token();
        match &token.token {
            Token::Word(_) if is_word(&token.token, "NOT") => {
                let expr = parser.parse_subexpr(self.prec_value(Precedence::UnaryNot))?;
                Ok(Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(expr) })
            }
            Token::Word(_) if is_word(&token.token, "CASE") => self.case(parser, token),
            Token::Word(word) if is_reserved(word) => self.fail(self.expected("a value", &token)),
            Token::Word(word) => self.path_or_call(parser, word, token.span),
            Token::Number(..) => self.number(parser, &token),
            Token::SingleQuotedString(text) => {
                let value = Value::SingleQuotedString(text.clone());
                self.no_access(parser, Expr::Value(ValueWithSpan { value, span: token.span }), "a string")
            }
            Token::LBracket => self.list(parser, &token),
            Token::LParen => {
                let expr = parser.parse_expr()?;
                self.close(parser, &Token::RParen, &token)?;
                self.no_access(parser, Expr::Nested(Box::new(expr)), "an expression in parentheses")
            }
            Token::Minus | Token::Plus => {
                let op = if token.token == Token::Minus { UnaryOperator::Minus } else { UnaryOperator::Plus };
                let expr = parser.parse_subexpr(self.prec_value(Precedence::MulDivModOp))?;
                Ok(Expr::UnaryOp { op, expr: Box::new(expr) })
            }
            _ => self.fail(self.expected("a value", &token)),
        }
    }

    /// `expected X, found Y`, with the hint that Y calls for.
    pub(crate) fn expected(&self, what: &str, found: &TokenWithSpan) -> Problem {
        let span = from_sql(found.span);
        let problem = match &found.token {
            Token::EOF => Problem::new(span, format!("expected {what}, found the end of the statement")),
            other => Problem::new(span, format!("expected {what}, found `{other}`")),
        };
        match &found.token {
            Token::DoubleEq => problem.help("`==` is written `=`"),
            Token::Mod => problem.help("`%` is written `mod`"),
            Token::LBrace => problem.help("there are no map literals; use json_decode('{...}') or map_put"),
            Token::Number(text, _) if text.starts_with('.') => {
                let key = text.trim_start_matches('.');
                problem.help(format!(
                    "a number needs digits on both sides of its point: 0{text}; a key is written .'{key}'"
                ))
            }
            Token::Placeholder(text) => {
                problem.help(format!("a name with `$` in front needs quotes: \"{text}\""))
            }
            Token::Char('_') => problem.help("a name with `_` in front needs double quotes: \"_name\""),
            Token::Period if what.contains(']') => problem.help("a range has no blanks inside: [1..5]"),
            Token::Mul if what == "a value" => problem
                .help("`*` stands alone in SELECT; a rule sees one event at a time and has no aggregates"),
            Token::HexStringLiteral(text) => problem.help(format!("write hexstr2bin('{text}') for bytes")),
            Token::RParen if what == "a value" => problem.help("something is missing before the `)`"),
            Token::EOF if what == "a value" => problem.help("something is missing at the end"),
            Token::StringConcat if self.mode == Mode::Reference => problem.help("`||` is written `+`"),
            Token::Word(word) if is_reserved(word) && what == "a value" => {
                problem.help(format!("something is missing before {}", word.value.to_uppercase()))
            }
            Token::Word(word) if is_reserved(word) && (what.contains("name") || what.contains("key")) => {
                problem.help(format!("`{0}` is a keyword; write \"{0}\" where a name is meant", word.value))
            }
            Token::SingleQuotedString(text) if what.contains("name") => {
                problem.help(format!("single quotes make a string; a name is written \"{text}\""))
            }
            _ => problem,
        }
    }

    fn close(&self, parser: &mut Parser, token: &Token, open: &TokenWithSpan) -> Sql<()> {
        if parser.consume_token(token) {
            return Ok(());
        }
        let found = parser.peek_token_ref().clone();
        let problem = self.expected(&format!("`{token}`"), &found);
        let help = problem.help.clone();
        self.fail(problem.help(help.unwrap_or_else(|| format!("the `{}` needs its `{token}`", open.token))))
    }

    /// Dots and brackets may follow names only.
    fn no_access(&self, parser: &Parser, expr: Expr, what: &str) -> Sql<Expr> {
        let next = parser.peek_token_ref();
        if matches!(next.token, Token::Period | Token::LBracket) {
            let problem =
                Problem::new(from_sql(next.span), format!("{what} cannot be followed by `{}`", next.token));
            return self.fail(problem.help("give the value a name first: `... AS x, x.key`"));
        }
        Ok(expr)
    }

    fn number(&self, parser: &Parser, token: &TokenWithSpan) -> Sql<Expr> {
        let Token::Number(text, long) = &token.token else {
            return self.fail(self.expected("a number", token));
        };
        let span = from_sql(token.span);
        let next = parser.peek_token_ref();
        let glued =
            matches!(next.token, Token::Word(_) | Token::Number(..)) && from_sql(next.span).start == span.end;
        let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(a, b)| (a, Some(b)));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let fraction_ok = rest.is_none_or(|rest| {
            let (fraction, exponent) =
                rest.split_once(['e', 'E']).map_or((rest, None), |(a, b)| (a, Some(b)));
            digits(fraction) && exponent.is_none_or(|e| digits(e.trim_start_matches(['+', '-'])))
        });
        if *long || glued || !digits(whole) || !fraction_ok {
            let help = "write 15, 1.5 or 1.5e3: a number needs digits on both sides of its point";
            return self.fail(Problem::new(span, format!("`{text}` is no number here")).help(help));
        }
        let value = Value::Number(text.clone(), false);
        self.no_access(parser, Expr::Value(ValueWithSpan { value, span: token.span }), "a number")
    }

    fn path_or_call(&self, parser: &mut Parser, word: &Word, span: SqlSpan) -> Sql<Expr> {
        if parser.peek_token_ref().token == Token::LParen && word.quote_style.is_none() {
            return self.call(parser, vec![ident(word, span)]);
        }
        let root = ident(word, span);
        let chain = self.steps(parser)?;
        if parser.peek_token_ref().token == Token::LParen && root.value.starts_with(['e', 'E']) {
            // `module.function(...)`.
            if let [AccessExpr::Dot(Expr::Identifier(name))] = chain.as_slice() {
                return self.call(parser, vec![root, name.clone()]);
            }
        }
        if chain.is_empty() {
            return Ok(Expr::Identifier(root));
        }
        Ok(Expr::CompoundFieldAccess { root: Box::new(Expr::Identifier(root)), access_chain: chain })
    }

    /// The steps of a path after its first name.
    pub(crate) fn steps(&self, parser: &mut Parser) -> Sql<Vec<AccessExpr>> {
        let mut chain = Vec::new();
        loop {
            if parser.consume_token(&Token::Period) {
                chain.push(AccessExpr::Dot(self.key(parser)?));
            } else if parser.peek_token_ref().token == Token::LBracket {
                let open = parser.next_token();
                chain.push(AccessExpr::Subscript(self.subscript(parser)?));
                self.close(parser, &Token::RBracket, &open)?;
            } else {
                return Ok(chain);
            }
        }
    }

    fn key(&self, parser: &mut Parser) -> Sql<Expr> {
        let token = parser.next_token();
        match &token.token {
            Token::Word(word) if is_reserved(word) => {
                let problem = self.expected("a key", &token);
                self.fail(
                    problem.help(format!("`{0}` is a keyword; write \"{0}\" with double quotes", word.value)),
                )
            }
            Token::Word(word) => Ok(Expr::Identifier(ident(word, token.span))),
            Token::SingleQuotedString(text) => {
                Ok(Expr::Identifier(Ident { value: text.clone(), quote_style: Some('\''), span: token.span }))
            }
            Token::Number(text, false) if text.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Expr::Identifier(Ident { value: text.clone(), quote_style: Some('"'), span: token.span }))
            }
            Token::LBracket => {
                let problem = self.expected("a key after the dot", &token);
                self.fail(problem.help("an index follows directly, without a dot: a[1]"))
            }
            _ => self.fail(self.expected("a key after the dot", &token)),
        }
    }

    /// What stands in brackets: an index, a name to look it up, or a range. `-0` stays a negated number.
    fn subscript(&self, parser: &mut Parser) -> Sql<Subscript> {
        let token = parser.peek_token_ref().clone();
        let index = match &token.token {
            Token::Number(..) | Token::Minus | Token::Plus => self.integer(parser)?,
            Token::Word(word) if !is_reserved(word) => {
                parser.advance_token();
                let chain = self.steps(parser)?;
                let root = Expr::Identifier(ident(word, token.span));
                if chain.is_empty() {
                    root
                } else {
                    Expr::CompoundFieldAccess { root: Box::new(root), access_chain: chain }
                }
            }
            _ => {
                return self
                    .fail(self.expected("an index", &token).help("an index is a whole number or a name"));
            }
        };
        if is_range(parser) {
            let upper = self.range_end(parser)?;
            return Ok(Subscript::Slice { lower_bound: Some(index), upper_bound: Some(upper), stride: None });
        }
        Ok(Subscript::Index { index })
    }

    fn integer(&self, parser: &mut Parser) -> Sql<Expr> {
        let negative = match parser.peek_token_ref().token {
            Token::Minus => true,
            Token::Plus => false,
            _ => return self.plain_integer(parser),
        };
        parser.advance_token();
        let number = self.plain_integer(parser)?;
        let op = if negative { UnaryOperator::Minus } else { UnaryOperator::Plus };
        Ok(Expr::UnaryOp { op, expr: Box::new(number) })
    }

    fn plain_integer(&self, parser: &mut Parser) -> Sql<Expr> {
        let token = parser.next_token();
        match &token.token {
            Token::Number(text, false) if text.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Expr::Value(ValueWithSpan { value: Value::Number(text.clone(), false), span: token.span }))
            }
            _ => self.fail(self.expected("a whole number", &token)),
        }
    }

    fn range_end(&self, parser: &mut Parser) -> Sql<Expr> {
        let dots = parser.next_token();
        let next = parser.peek_token_ref().clone();
        if from_sql(next.span).start != from_sql(dots.span).end {
            let problem = Problem::new(from_sql(dots.span), "a range has no blanks inside");
            return self.fail(problem.help("write [1..5]"));
        }
        self.integer(parser)
    }

    fn list(&self, parser: &mut Parser, open: &TokenWithSpan) -> Sql<Expr> {
        let range = |n: usize| matches!(&parser.peek_nth_token_ref(n).token, Token::CustomBinaryOperator(op) if op == "..");
        if range(1) || (parser.peek_token_ref().token == Token::Minus && range(2)) {
            let lower = self.integer(parser)?;
            let upper = self.range_end(parser)?;
            self.close(parser, &Token::RBracket, open)?;
            let op = BinaryOperator::Custom("..".into());
            let expr = Expr::BinaryOp { left: Box::new(lower), op, right: Box::new(upper) };
            return self.no_access(parser, expr, "a range");
        }
        let mut elem = Vec::new();
        if !parser.consume_token(&Token::RBracket) {
            loop {
                elem.push(parser.parse_expr()?);
                if !parser.consume_token(&Token::Comma) {
                    break;
                }
            }
            self.close(parser, &Token::RBracket, open)?;
        }
        self.no_access(parser, Expr::Array(Array { elem, named: false }), "a list")
    }

    fn call(&self, parser: &mut Parser, name: Vec<Ident>) -> Sql<Expr> {
        let open = parser.next_token();
        let mut args = Vec::new();
        if !parser.consume_token(&Token::RParen) {
            loop {
                args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(parser.parse_expr()?)));
                if !parser.consume_token(&Token::Comma) {
                    break;
                }
            }
            self.close(parser, &Token::RParen, &open)?;
        }
        let function = Function {
            name: ObjectName(name.into_iter().map(ObjectNamePart::Identifier).collect()),
            uses_odbc_syntax: false,
            parameters: FunctionArguments::None,
            args: FunctionArguments::List(FunctionArgumentList {
                duplicate_treatment: None,
                args,
                clauses: Vec::new(),
            }),
            within_group: Vec::new(),
            filter: None,
            null_treatment: None,
            over: None,
        };
        self.no_access(parser, Expr::Function(function), "a call")
    }

    fn case(&self, parser: &mut Parser, case_token: TokenWithSpan) -> Sql<Expr> {
        let operand = if is_word(&parser.peek_token_ref().token, "WHEN") {
            None
        } else {
            Some(Box::new(parser.parse_expr()?))
        };
        let mut conditions = Vec::new();
        self.word(parser, "WHEN")?;
        loop {
            let condition = parser.parse_expr()?;
            self.word(parser, "THEN")?;
            conditions.push(CaseWhen { condition, result: parser.parse_expr()? });
            if !self.accept(parser, "WHEN") {
                break;
            }
        }
        let else_result =
            if self.accept(parser, "ELSE") { Some(Box::new(parser.parse_expr()?)) } else { None };
        let end_token = parser.peek_token_ref().clone();
        self.word(parser, "END")?;
        let expr = Expr::Case {
            case_token: AttachedToken(case_token),
            end_token: AttachedToken(end_token),
            operand,
            conditions,
            else_result,
        };
        self.no_access(parser, expr, "a CASE")
    }

    /// Takes a keyword that must stand here.
    pub(crate) fn word(&self, parser: &mut Parser, word: &str) -> Sql<()> {
        if self.accept(parser, word) {
            return Ok(());
        }
        let found = parser.peek_token_ref().clone();
        self.fail(self.expected(word, &found))
    }

    /// Takes a keyword if it stands here.
    pub(crate) fn accept(&self, parser: &mut Parser, word: &str) -> bool {
        let is_here = is_word(&parser.peek_token_ref().token, word);
        if is_here {
            parser.advance_token();
        }
        is_here
    }

    /// How tightly the operator at the parser's place binds; 0 where none of ours stands there.
    fn binding(&self, parser: &Parser) -> u8 {
        let token = &parser.peek_token_ref().token;
        let next = &parser.peek_nth_token_ref(1).token;
        let extended = self.mode == Mode::Extended;
        let third = &parser.peek_nth_token_ref(2).token;
        match token {
            Token::Eq | Token::Neq | Token::Lt | Token::LtEq | Token::Gt | Token::GtEq => 20,
            Token::CustomBinaryOperator(op) if op == "=~" || op == "~=" => 20,
            Token::Plus | Token::Minus => 30,
            Token::StringConcat if extended => 30,
            Token::Mul | Token::Div => 40,
            Token::Word(word) if word.quote_style.is_none() => match word.value.as_str() {
                "div" | "mod" => 40,
                _ if is_word(token, "OR") => 5,
                _ if is_word(token, "AND") => 10,
                _ if is_word(token, "IN") => 20,
                _ if is_word(token, "NOT") && is_word(next, "IN") => 20,
                _ if !extended => 0,
                _ if is_word(token, "NOT") && (is_word(next, "LIKE") || is_word(next, "BETWEEN")) => 20,
                _ if (is_word(token, "LIKE") || is_word(token, "BETWEEN")) && begins_operand(next) => 20,
                _ if is_word(token, "IS") => {
                    let not_null = is_word(next, "NOT") && is_word(third, "NULL");
                    if is_word(next, "NULL") || not_null { 20 } else { 0 }
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    fn in_list(&self, parser: &mut Parser, expr: Expr, negated: bool) -> Sql<Expr> {
        let open = parser.next_token();
        if open.token != Token::LParen {
            return self.fail(self.expected("`(` after IN", &open).help("write x IN (1, 2)"));
        }
        let mut list = Vec::new();
        loop {
            list.push(parser.parse_expr()?);
            if !parser.consume_token(&Token::Comma) {
                break;
            }
        }
        self.close(parser, &Token::RParen, &open)?;
        Ok(Expr::InList { expr: Box::new(expr), list, negated })
    }

    fn infix(&self, parser: &mut Parser, left: &Expr, precedence: u8) -> Option<Sql<Expr>> {
        self.operators.set(self.operators.get() + 1);
        if self.operators.get() > OPERATORS_MAX {
            let span = from_sql(parser.peek_token_ref().span);
            let problem = Problem::new(span, format!("an expression has at most {OPERATORS_MAX} operators"));
            return Some(self.fail(problem.help("use IN for a long list of values")));
        }
        let token = parser.peek_token_ref().token.clone();
        let operator = match &token {
            Token::CustomBinaryOperator(op) => BinaryOperator::Custom(op.clone()),
            Token::Word(word) if word.value == "div" => BinaryOperator::MyIntegerDivide,
            Token::Word(word) if word.value == "mod" => BinaryOperator::Modulo,
            Token::Word(_) if is_word(&token, "IN") => {
                parser.advance_token();
                return Some(self.in_list(parser, left.clone(), false));
            }
            Token::Word(_)
                if is_word(&token, "NOT") && is_word(&parser.peek_nth_token_ref(1).token, "IN") =>
            {
                parser.advance_token();
                parser.advance_token();
                return Some(self.in_list(parser, left.clone(), true));
            }
            _ => return None,
        };
        parser.advance_token();
        let right = parser.parse_subexpr(precedence);
        Some(right.map(|right| Expr::BinaryOp {
            left: Box::new(left.clone()),
            op: operator,
            right: Box::new(right),
        }))
    }
}

fn begins_operand(token: &Token) -> bool {
    match token {
        Token::Word(word) => !is_reserved(word) || is_word(token, "CASE") || is_word(token, "NOT"),
        Token::Number(..) | Token::SingleQuotedString(_) => true,
        Token::LParen | Token::LBracket | Token::Minus | Token::Plus => true,
        _ => false,
    }
}

fn is_range(parser: &Parser) -> bool {
    matches!(&parser.peek_token_ref().token, Token::CustomBinaryOperator(op) if op == "..")
}

fn ident(word: &Word, span: SqlSpan) -> Ident {
    Ident { value: word.value.clone(), quote_style: word.quote_style, span }
}

impl Dialect for RuleDialect {
    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_ascii_alphabetic()
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_ascii_alphanumeric() || matches!(ch, '_' | '$' | '@' | '~')
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '"'
    }

    fn parse_prefix(&self, parser: &mut Parser) -> Option<Sql<Expr>> {
        Some(self.operand(parser))
    }

    fn parse_infix(&self, parser: &mut Parser, expr: &Expr, precedence: u8) -> Option<Sql<Expr>> {
        self.infix(parser, expr, precedence)
    }

    fn get_next_precedence(&self, parser: &Parser) -> Option<Sql<u8>> {
        Some(Ok(self.binding(parser)))
    }
}
