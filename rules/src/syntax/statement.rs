//! The grammar of statements on sqlparser's token stream: what stands around the expressions.

use std::sync::Arc;

use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, TokenWithSpan};

use super::Mode;
use super::dialect::{RuleDialect, is_reserved, is_word};
use super::lexer::{from_sql, to_sql};
use super::lower::{Lower, Place, trim_quotes};
use crate::alarm::OPTIONS;
use crate::ast::{
    AlarmDef, Expr, Foreach, Item, Name, OptionEntry, Options, Path, Rule, Select, SinkDef, Source,
    Statement, Target, Trigger,
};
use crate::diagnostic::{Problem, Span, nearest};

/// Most tokens of one statement.
pub const STATEMENT_TOKENS_MAX: usize = 10_000;

/// Deepest nesting of parentheses, calls, lists and CASE.
pub const NESTING_MAX: usize = 64;

pub(super) type Read<T> = Result<T, Problem>;

/// Reads statements.
pub(super) struct Reader<'a> {
    pub(super) dialect: &'a RuleDialect,
    pub(super) parser: Parser<'a>,
    lower: Lower,
    start: usize,
    end: usize,
}

const STATEMENTS: &str =
    "a statement begins with SELECT, FOREACH, CREATE SINK, CREATE RULE, CREATE ALARM or COMMENT ON RULE";

impl<'a> Reader<'a> {
    pub(super) fn new(
        dialect: &'a RuleDialect,
        mut tokens: Vec<TokenWithSpan>,
        end: usize,
        mode: Mode,
    ) -> Read<Self> {
        let start = tokens.first().map_or(end, |token| from_sql(token.span).start);
        if tokens.len() > STATEMENT_TOKENS_MAX {
            let message = format!("a statement has at most {STATEMENT_TOKENS_MAX} words and signs");
            return Err(Problem::new(Span::new(start, start), message).help("split it into several rules"));
        }
        let last = tokens.last().map_or(end, |token| from_sql(token.span).end);
        tokens.push(TokenWithSpan { token: Token::EOF, span: to_sql(Span::new(last, last)) });
        let parser =
            Parser::new(dialect).with_recursion_limit(NESTING_MAX).with_tokens_with_locations(tokens);
        Ok(Self { dialect, parser, lower: Lower { mode }, start, end: last })
    }

    pub(super) fn statement(&mut self, source: &Arc<Source>) -> Read<Statement> {
        let first = self.peek();
        let statement = if self.accept("CREATE") {
            self.create(source)?
        } else if self.accept("COMMENT") {
            self.comment()?
        } else if is_word(&first.token, "SELECT") || is_word(&first.token, "FOREACH") {
            let select = self.select()?;
            let name = Name { text: file_stem(&source.name), span: from_sql(first.span) };
            let source = source.clone();
            Statement::CreateRule(Rule {
                name,
                into: Vec::new(),
                options: Options::default(),
                select,
                source,
            })
        } else {
            let known = ["SELECT", "FOREACH", "CREATE", "COMMENT"];
            let found = first.token.to_string();
            let problem = self.dialect.expected("a statement", &first);
            return Err(match nearest(&found, known.into_iter()) {
                Some(meant) => problem.help(format!("did you mean {meant}?")),
                None => problem.help(STATEMENTS),
            });
        };
        self.finish()?;
        Ok(statement)
    }

    pub(super) fn whole_select(&mut self) -> Read<Select> {
        let first = self.peek();
        if !is_word(&first.token, "SELECT") && !is_word(&first.token, "FOREACH") {
            return Err(self.dialect.expected("SELECT or FOREACH", &first));
        }
        let select = self.select()?;
        self.finish()?;
        Ok(select)
    }

    pub(super) fn whole_expr(&mut self) -> Read<Expr> {
        let expr = self.expr(Place::Item)?;
        self.finish()?;
        Ok(expr)
    }

    fn finish(&mut self) -> Read<()> {
        let next = self.peek();
        if next.token == Token::EOF {
            return Ok(());
        }
        Err(self.after_all(&next))
    }

    /// What to say of something that follows where all was said.
    fn after_all(&self, found: &TokenWithSpan) -> Problem {
        let problem = self.dialect.expected("the end of the statement", found);
        if problem.help.is_some() {
            return problem;
        }
        let text = found.token.to_string();
        let clauses = ["WHERE", "FROM", "AND", "OR", "AS", "DO", "INCASE", "INTO", "WITH"];
        match (&found.token, nearest(&text, clauses.into_iter())) {
            (Token::Div, _) => problem.help("a topic with `/`, `#` or `+` needs quotes: FROM \"a/b\""),
            (Token::Word(_), Some(meant)) if !meant.eq_ignore_ascii_case(&text) => {
                problem.help(format!("did you mean {meant}?"))
            }
            (Token::Word(_), _)
                if ["GROUP", "ORDER", "LIMIT", "HAVING", "JOIN"].contains(&text.to_uppercase().as_str()) =>
            {
                problem.help("a rule sees one event at a time: it has no GROUP BY, ORDER BY, LIMIT or JOIN")
            }
            _ => problem.help("statements are separated by `;`"),
        }
    }

    fn create(&mut self, source: &Arc<Source>) -> Read<Statement> {
        let what = self.peek();
        if self.accept("SINK") {
            let name = self.name("the sink's name")?;
            self.word("TYPE")?;
            let kind = self.name("the kind of sink")?;
            let options = self.with()?;
            Ok(Statement::CreateSink(SinkDef { name, kind, options, source: source.clone() }))
        } else if self.accept("RULE") {
            let name = self.name("the rule's name")?;
            let into = self.targets()?;
            let options = self.with()?;
            self.word("AS")?;
            let select = self.select()?;
            Ok(Statement::CreateRule(Rule { name, into, options, select, source: source.clone() }))
        } else if self.accept("ALARM") {
            self.alarm(source)
        } else {
            let found = what.token.to_string();
            let problem = self.dialect.expected("SINK, RULE or ALARM", &what);
            Err(match nearest(&found, ["SINK", "RULE", "ALARM"].into_iter()) {
                Some(meant) => problem.help(format!("did you mean CREATE {meant}?")),
                None => problem,
            })
        }
    }

    fn alarm(&mut self, source: &Arc<Source>) -> Read<Statement> {
        let name = self.name("the alarm's name")?;
        let mut into = self.targets()?;
        let mut options = self.with()?;
        // What stands behind REPUBLISH TO 'topic' is read as its options: those of the alarm are the alarm's.
        for target in &mut into {
            if let Target::Republish { options: its, .. } = target {
                let is_ours = |entry: &mut OptionEntry| OPTIONS.contains(&entry.key.text.as_str());
                options.0.extend(its.0.extract_if(.., is_ours));
            }
        }
        self.word("AS")?;
        let trigger = if self.accept("ABSENCE") {
            self.word("OF")?;
            let of = self.sources()?;
            self.word("FOR")?;
            let grace_ms = self.duration()?;
            self.word("AFTER")?;
            Trigger::Absence { of, grace_ms, after: self.sources()? }
        } else if self.accept("PRESENCE") {
            self.word("OF")?;
            Trigger::Presence { of: self.sources()? }
        } else if self.accept("FLAPPING") {
            self.word("OF")?;
            let of = self.sources()?;
            let times = self.times()?;
            self.word("TIMES")?;
            self.word("IN")?;
            Trigger::Flapping { of, times, window_ms: self.duration()? }
        } else {
            let found = self.peek();
            let help = "write AS ABSENCE OF \"topic\" FOR 60s AFTER \"topic\", AS PRESENCE OF \"topic\", \
                or AS FLAPPING OF \"topic\" 5 TIMES IN 10m";
            return Err(self.dialect.expected("ABSENCE, PRESENCE or FLAPPING", &found).help(help));
        };
        let condition = self.condition("WHERE")?;
        Ok(Statement::CreateAlarm(AlarmDef {
            name,
            into,
            options,
            trigger,
            condition,
            source: source.clone(),
        }))
    }

    fn times(&mut self) -> Read<u64> {
        let token = self.next();
        let number = match &token.token {
            Token::Number(number, false) => number.parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| {
            self.dialect.expected("how many", &token).help("write FLAPPING OF \"topic\" 5 TIMES IN 10m")
        })
    }

    fn comment(&mut self) -> Read<Statement> {
        self.word("ON")?;
        self.word("RULE")?;
        let rule = self.name("the rule's name")?;
        self.word("IS")?;
        let token = self.next();
        match &token.token {
            Token::SingleQuotedString(text) => {
                Ok(Statement::CommentOnRule { rule, comment: trim_quotes(text, '\'') })
            }
            _ => Err(self.dialect.expected("a text in single quotes", &token)),
        }
    }

    fn targets(&mut self) -> Read<Vec<Target>> {
        let mut targets = Vec::new();
        loop {
            if self.accept("INTO") {
                loop {
                    targets.push(self.sink_target()?);
                    if !self.parser.consume_token(&Token::Comma) {
                        break;
                    }
                    if self.is_target_word() {
                        break;
                    }
                }
            } else if self.accept("REPUBLISH") {
                targets.push(self.republish_target()?);
                if self.parser.consume_token(&Token::Comma) && !self.is_target_word() {
                    let found = self.peek();
                    return Err(self.dialect.expected("INTO or REPUBLISH TO", &found));
                }
            } else {
                return Ok(targets);
            }
        }
    }

    /// Whether another kind of target begins here, and not the name of a sink.
    fn is_target_word(&self) -> bool {
        let next = self.peek();
        let to = self.parser.peek_nth_token_ref(1);
        is_word(&next.token, "INTO") || is_word(&next.token, "REPUBLISH") && is_word(&to.token, "TO")
    }

    fn republish_target(&mut self) -> Read<Target> {
        self.word("TO")?;
        let token = self.next();
        let Token::SingleQuotedString(text) = &token.token else {
            let help = "write REPUBLISH TO 'alerts/${clientid}'";
            return Err(self.dialect.expected("a topic in single quotes", &token).help(help));
        };
        let topic = Name { text: trim_quotes(text, '\''), span: from_sql(token.span) };
        Ok(Target::Republish { topic, options: self.with()? })
    }

    fn sink_target(&mut self) -> Read<Target> {
        let sink = self.name("a sink")?;
        let table = if self.parser.consume_token(&Token::Period) {
            let first = self.name("a table")?;
            let mut table = first;
            // `pg.public.device_history` names a table in a schema.
            while self.parser.consume_token(&Token::Period) {
                let more = self.name("a table")?;
                table =
                    Name { text: format!("{}.{}", table.text, more.text), span: table.span.to(more.span) };
            }
            Some(table)
        } else {
            None
        };
        Ok(Target::Sink { sink, table })
    }

    fn select(&mut self) -> Read<Select> {
        let start = from_sql(self.peek().span).start;
        let foreach = self.accept("FOREACH");
        if !foreach {
            self.word("SELECT")?;
        }
        let items = self.items()?;
        let foreach = if foreach {
            let items = if self.accept("DO") { self.items()? } else { Vec::new() };
            Some(Foreach { items, condition: self.condition("INCASE")? })
        } else {
            None
        };
        if !is_word(&self.peek().token, "FROM") {
            return Err(self.missing_from());
        }
        self.word("FROM")?;
        let from = self.sources()?;
        let condition = self.condition("WHERE")?;
        Ok(Select { items, foreach, from, condition, span: Span::new(start, self.here()) })
    }

    fn missing_from(&mut self) -> Problem {
        let found = self.peek();
        let problem = self.dialect.expected("FROM", &found);
        if problem.help.is_some() {
            return problem;
        }
        let text = found.token.to_string();
        match nearest(&text, ["FROM", "WHERE", "INCASE", "DO"].into_iter()) {
            _ if is_word(&found.token, "WHERE") => problem.help("FROM comes before WHERE"),
            Some(meant) => problem.help(format!("did you mean {meant}?")),
            None if found.token == Token::EOF => problem.help("say which events: FROM \"sensors/#\""),
            None => problem.help("items are separated by commas"),
        }
    }

    fn items(&mut self) -> Read<Vec<Item>> {
        let mut items = Vec::new();
        loop {
            items.push(self.item()?);
            if !self.parser.consume_token(&Token::Comma) {
                return Ok(items);
            }
        }
    }

    fn item(&mut self) -> Read<Item> {
        let first = self.peek();
        if first.token == Token::Mul {
            self.next();
            return Ok(Item::Star(from_sql(first.span)));
        }
        let expr = self.expr(Place::Item)?;
        let named = self.accept("AS");
        let next = self.peek();
        let target = match &next.token {
            Token::Word(word) if !is_reserved(word) => Some(self.target()?),
            Token::Word(_) if !named => None,
            _ if named => {
                let problem = self.dialect.expected("a name after AS", &next);
                return Err(problem);
            }
            Token::SingleQuotedString(text) => {
                let problem = self.dialect.expected("a name, a comma or FROM", &next);
                return Err(problem.help(format!("a name is written without quotes or as \"{text}\"")));
            }
            _ => None,
        };
        Ok(Item::Expr { expr, target })
    }

    fn target(&mut self) -> Read<Path> {
        let token = self.next();
        let Token::Word(word) = &token.token else { return Err(self.dialect.expected("a name", &token)) };
        let quote = word.quote_style;
        let chain = self.dialect.steps(&mut self.parser);
        let chain = self.check(chain)?;
        let span = Span::new(from_sql(token.span).start, self.here());
        let ident = sqlparser::ast::Ident { value: word.value.clone(), quote_style: quote, span: token.span };
        self.lower.path(&sqlparser::ast::Expr::Identifier(ident), &chain, span)
    }

    fn sources(&mut self) -> Read<Vec<Name>> {
        let mut sources = Vec::new();
        loop {
            let token = self.next();
            sources.push(match &token.token {
                Token::Word(word) if is_reserved(word) => {
                    let problem = self.dialect.expected("a topic", &token);
                    return Err(problem.help("topics are written in double quotes: FROM \"sensors/#\""));
                }
                Token::Word(word) => {
                    let text = trim_quotes(&word.value, word.quote_style.unwrap_or('"'));
                    Name { text, span: from_sql(token.span) }
                }
                Token::SingleQuotedString(text) => {
                    Name { text: trim_quotes(text, '\''), span: from_sql(token.span) }
                }
                _ => {
                    let problem = self.dialect.expected("a topic", &token);
                    return Err(problem.help("topics are written in double quotes: FROM \"sensors/#\""));
                }
            });
            let next = self.peek();
            if matches!(next.token, Token::Div | Token::Sharp | Token::Plus | Token::Period) {
                let problem = self.dialect.expected("a comma or WHERE", &next);
                return Err(problem.help("a topic with `/`, `#` or `+` needs quotes: FROM \"a/b\""));
            }
            if !self.parser.consume_token(&Token::Comma) {
                return Ok(sources);
            }
        }
    }

    fn condition(&mut self, word: &str) -> Read<Option<Expr>> {
        if self.accept(word) { self.expr(Place::Condition).map(Some) } else { Ok(None) }
    }

    fn expr(&mut self, place: Place) -> Read<Expr> {
        let expr = self.dialect.expr(&mut self.parser);
        let expr = self.check(expr)?;
        self.lower.expr(&expr, place)
    }

    /// Turns sqlparser's error into ours: the one that a hook left, or one at the parser's place.
    pub(super) fn check<T>(&mut self, result: Result<T, ParserError>) -> Read<T> {
        result.map_err(|error| {
            let found = self.parser.peek_token_ref();
            let span = from_sql(found.span);
            match (self.dialect.take_problem(), error) {
                (Some(problem), _) => problem,
                (None, ParserError::RecursionLimitExceeded) => {
                    Problem::new(span, format!("nested more than {NESTING_MAX} levels deep"))
                        .help("compute parts under names of their own first")
                }
                (None, ParserError::ParserError(_) | ParserError::TokenizerError(_)) => {
                    self.dialect.expected("an expression", found)
                }
            }
        })
    }

    /// A name: bare or in double quotes.
    pub(super) fn name(&mut self, what: &str) -> Read<Name> {
        let token = self.next();
        match &token.token {
            Token::Word(word) if !is_reserved(word) => {
                let text = trim_quotes(&word.value, word.quote_style.unwrap_or('"'));
                if text.is_empty() {
                    return Err(Problem::new(from_sql(token.span), format!("{what} is empty")));
                }
                Ok(Name { text, span: from_sql(token.span) })
            }
            _ => {
                let problem = self.dialect.expected(&format!("{what} (a name)"), &token);
                Err(problem)
            }
        }
    }

    pub(super) fn accept(&mut self, word: &str) -> bool {
        self.dialect.accept(&mut self.parser, word)
    }

    pub(super) fn word(&mut self, word: &str) -> Read<()> {
        let result = self.dialect.word(&mut self.parser, word);
        self.check(result)
    }

    pub(super) fn peek(&self) -> TokenWithSpan {
        self.parser.peek_token_ref().clone()
    }

    pub(super) fn next(&mut self) -> TokenWithSpan {
        self.parser.next_token()
    }

    /// The end of the last token taken.
    fn here(&self) -> usize {
        let last = from_sql(self.parser.get_current_token().span).end;
        last.clamp(self.start, self.end)
    }
}

/// `telemetry` of `rules/telemetry.sql`.
pub(crate) fn file_stem(name: &str) -> String {
    let file = name.rsplit(['/', '\\']).next().unwrap_or(name);
    file.strip_suffix(".sql").unwrap_or(file).to_owned()
}
