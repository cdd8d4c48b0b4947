//! From sqlparser's expressions to ours. What the grammar of rules forbids although sqlparser can read it is refused
//! here: comparisons of comparisons and, where the reference is followed to the letter, conditions outside of WHERE,
//! INCASE and WHEN, and CASE inside of CASE or arithmetic.

use muster_core::value::Value;
use num_bigint::BigInt;
use sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    ObjectNamePart, Spanned, Subscript, UnaryOperator, Value as SqlValue,
};

use super::Mode;
use super::lexer::from_sql;
use crate::ast::{BinaryOp, Expr, ExprKind, Name, Path, Step};
use crate::diagnostic::{Problem, Span};

type Lowered<T> = Result<T, Problem>;

/// Longest integer literal, in digits.
pub const INTEGER_DIGITS_MAX: usize = 1_000;

/// Where an expression stands, which decides what it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// An item of SELECT, FOREACH or DO, or an argument: a scalar, one comparison or a CASE.
    Item,
    /// WHERE, INCASE, WHEN: a condition.
    Condition,
    /// An operand: a scalar.
    Scalar,
}

/// Lowers under one mode.
pub(crate) struct Lower {
    pub(crate) mode: Mode,
}

impl Lower {
    pub(crate) fn expr(&self, expr: &SqlExpr, place: Place) -> Lowered<Expr> {
        let span = from_sql(expr.span());
        let kind = match expr {
            SqlExpr::Nested(inner) => {
                let place = if place == Place::Scalar && is_case(inner) { Place::Scalar } else { place };
                return self.expr(inner, place);
            }
            SqlExpr::Identifier(ident) => self.variable(ident),
            SqlExpr::CompoundFieldAccess { root, access_chain } => self.access(root, access_chain, span)?,
            SqlExpr::Value(value) => ExprKind::Literal(literal(&value.value, span)?),
            SqlExpr::Array(array) => {
                let items = array.elem.iter().map(|item| self.expr(item, Place::Scalar));
                ExprKind::List(items.collect::<Lowered<_>>()?)
            }
            SqlExpr::Function(function) => {
                let name = call_name(&function.name.0, span)?;
                let FunctionArguments::List(list) = &function.args else { return Err(foreign(span)) };
                let args = list.args.iter().map(|arg| match arg {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(arg)) => self.expr(arg, Place::Item),
                    _ => Err(foreign(span)),
                });
                ExprKind::Call(name, args.collect::<Lowered<_>>()?)
            }
            SqlExpr::UnaryOp { op, expr } => self.unary(*op, expr, place, span)?,
            SqlExpr::BinaryOp { left, op, right } => return self.binary(left, op, right, place),
            SqlExpr::InList { expr: item, list, negated } => {
                self.allow(place == Place::Condition, "IN", span)?;
                let list = list.iter().map(|item| self.expr(item, Place::Scalar));
                ExprKind::In {
                    item: Box::new(self.expr(item, Place::Scalar)?),
                    list: list.collect::<Lowered<_>>()?,
                    negated: *negated,
                }
            }
            SqlExpr::Case { operand, conditions, else_result, .. } => {
                self.allow(place == Place::Item, "CASE", span)?;
                let when = if operand.is_some() { Place::Scalar } else { Place::Condition };
                let branches = conditions.iter().map(|branch| {
                    Ok((self.expr(&branch.condition, when)?, self.expr(&branch.result, Place::Scalar)?))
                });
                let boxed = |expr: &Option<Box<SqlExpr>>| {
                    expr.as_ref().map(|expr| self.expr(expr, Place::Scalar).map(Box::new)).transpose()
                };
                ExprKind::Case {
                    branches: branches.collect::<Lowered<_>>()?,
                    operand: boxed(operand)?,
                    otherwise: boxed(else_result)?,
                }
            }
            SqlExpr::IsNull(item) => {
                ExprKind::IsNull { item: Box::new(self.expr(item, Place::Scalar)?), negated: false }
            }
            SqlExpr::IsNotNull(item) => {
                ExprKind::IsNull { item: Box::new(self.expr(item, Place::Scalar)?), negated: true }
            }
            SqlExpr::Between { expr: item, negated, low, high } => ExprKind::Between {
                item: Box::new(self.expr(item, Place::Scalar)?),
                low: Box::new(self.expr(low, Place::Scalar)?),
                high: Box::new(self.expr(high, Place::Scalar)?),
                negated: *negated,
            },
            SqlExpr::Like { negated, any: false, expr: item, pattern, escape_char: None } => ExprKind::Like {
                item: Box::new(self.expr(item, Place::Scalar)?),
                pattern: Box::new(self.expr(pattern, Place::Scalar)?),
                negated: *negated,
            },
            _ => return Err(foreign(span)),
        };
        Ok(Expr { kind, span })
    }

    fn allow(&self, here: bool, what: &str, span: Span) -> Lowered<()> {
        if here || self.mode == Mode::Extended {
            return Ok(());
        }
        Err(Problem::new(span, format!("{what} cannot stand here")))
    }

    fn variable(&self, ident: &Ident) -> ExprKind {
        match (ident.quote_style, ident.value.as_str()) {
            (None, "true") => ExprKind::Literal(true.into()),
            (None, "false") => ExprKind::Literal(false.into()),
            _ => {
                ExprKind::Path(Path { root: name_text(ident), steps: Vec::new(), span: from_sql(ident.span) })
            }
        }
    }

    fn access(&self, root: &SqlExpr, chain: &[AccessExpr], span: Span) -> Lowered<ExprKind> {
        if let Some((AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, .. }), before)) =
            chain.split_last()
        {
            let path = self.path(root, before, span)?;
            let bound =
                |expr: &Option<SqlExpr>| expr.as_ref().map_or(Err(foreign(span)), |e| integer(e, span));
            return Ok(ExprKind::Slice(path, bound(lower_bound)?.0, bound(upper_bound)?.0));
        }
        Ok(ExprKind::Path(self.path(root, chain, span)?))
    }

    /// A path; a range inside of it is refused.
    pub(crate) fn path(&self, root: &SqlExpr, chain: &[AccessExpr], span: Span) -> Lowered<Path> {
        let SqlExpr::Identifier(root) = root else { return Err(foreign(span)) };
        let mut steps = Vec::with_capacity(chain.len());
        for access in chain {
            steps.push(match access {
                AccessExpr::Dot(SqlExpr::Identifier(ident)) => Step::Key(name_text(ident)),
                AccessExpr::Subscript(Subscript::Index { index }) => self.index(index, span)?,
                AccessExpr::Subscript(Subscript::Slice { .. }) => {
                    let problem = Problem::new(span, "nothing may follow a range");
                    return Err(problem.help("give the range a name first: `a[1..3] AS part, part[1].x`"));
                }
                AccessExpr::Dot(_) => return Err(foreign(span)),
            });
        }
        Ok(Path { root: name_text(root), steps, span })
    }

    fn index(&self, index: &SqlExpr, span: Span) -> Lowered<Step> {
        match index {
            SqlExpr::Identifier(_) => Ok(Step::By(self.path(index, &[], from_sql(index.span()))?)),
            SqlExpr::CompoundFieldAccess { root, access_chain } => {
                Ok(Step::By(self.path(root, access_chain, from_sql(index.span()))?))
            }
            _ => Ok(match integer(index, span)? {
                (0, false) => Step::Head,
                (0, true) => Step::Tail,
                (n, _) => Step::Index(n),
            }),
        }
    }

    fn unary(&self, op: UnaryOperator, expr: &SqlExpr, place: Place, span: Span) -> Lowered<ExprKind> {
        match op {
            UnaryOperator::Not => {
                self.allow(place == Place::Condition, "NOT", span)?;
                Ok(ExprKind::Not(Box::new(self.expr(expr, Place::Condition)?)))
            }
            UnaryOperator::Minus => Ok(ExprKind::Negate(Box::new(self.expr(expr, Place::Scalar)?))),
            UnaryOperator::Plus => Ok(ExprKind::Plus(Box::new(self.expr(expr, Place::Scalar)?))),
            _ => Err(foreign(span)),
        }
    }

    /// Chains of operators lean to the left and may be long, so the left side is walked, not recursed into.
    fn binary(&self, left: &SqlExpr, op: &BinaryOperator, right: &SqlExpr, place: Place) -> Lowered<Expr> {
        if matches!(op, BinaryOperator::Custom(op) if op == "..") {
            let span = from_sql(left.span()).to(from_sql(right.span()));
            let kind = ExprKind::Range(integer(left, span)?.0, integer(right, span)?.0);
            return Ok(Expr { kind, span });
        }
        let mut chain = vec![(operator(op).ok_or_else(|| foreign(from_sql(right.span())))?, right)];
        let mut left = left;
        while let SqlExpr::BinaryOp { left: inner, op, right } = left {
            let Some(op) = operator(op) else { break };
            chain.push((op, right));
            left = inner;
        }
        // Places of the operands follow from the operators above them, from the outermost in.
        let mut places = Vec::with_capacity(chain.len());
        let mut outer = place;
        for (op, right) in &chain {
            let span = from_sql(right.span());
            if op.is_logical() {
                self.allow(outer == Place::Condition, op.text(), span)?;
                outer = Place::Condition;
            } else {
                if op.is_comparison() {
                    self.allow(outer != Place::Scalar, op.text(), span)?;
                }
                outer = Place::Scalar;
            }
            places.push(outer);
        }
        for pair in chain.windows(2) {
            if let [(outer, _), (inner, right)] = pair
                && outer.is_comparison()
                && inner.is_comparison()
            {
                let problem = Problem::new(from_sql(right.span()), "comparisons cannot be chained");
                return Err(problem.help("write a = b AND b = c, or use parentheses"));
            }
        }
        let mut tree = self.expr(left, outer)?;
        for ((op, right), place) in chain.into_iter().zip(places).rev() {
            let right = self.expr(right, place)?;
            let span = tree.span.to(right.span);
            tree = Expr { kind: ExprKind::Binary(op, Box::new(tree), Box::new(right)), span };
        }
        Ok(tree)
    }
}

fn is_case(expr: &SqlExpr) -> bool {
    matches!(expr, SqlExpr::Case { .. })
}

fn foreign(span: Span) -> Problem {
    Problem::new(span, "this is no part of rule SQL")
}

fn operator(op: &BinaryOperator) -> Option<BinaryOp> {
    Some(match op {
        BinaryOperator::Or => BinaryOp::Or,
        BinaryOperator::And => BinaryOp::And,
        BinaryOperator::Eq => BinaryOp::Eq,
        BinaryOperator::NotEq => BinaryOp::Ne,
        BinaryOperator::Lt => BinaryOp::Lt,
        BinaryOperator::LtEq => BinaryOp::Le,
        BinaryOperator::Gt => BinaryOp::Gt,
        BinaryOperator::GtEq => BinaryOp::Ge,
        BinaryOperator::Plus => BinaryOp::Add,
        BinaryOperator::Minus => BinaryOp::Sub,
        BinaryOperator::Multiply => BinaryOp::Mul,
        BinaryOperator::Divide => BinaryOp::Div,
        BinaryOperator::MyIntegerDivide => BinaryOp::IntDiv,
        BinaryOperator::Modulo => BinaryOp::Mod,
        BinaryOperator::StringConcat => BinaryOp::Concat,
        BinaryOperator::Custom(op) if op == "=~" => BinaryOp::Matches,
        BinaryOperator::Custom(op) if op == "~=" => BinaryOp::TildeEq,
        _ => return None,
    })
}

/// The text of a string or quoted name: quotes inside stay as written, those at the ends go.
pub(crate) fn trim_quotes(text: &str, quote: char) -> String {
    text.trim_matches(quote).to_owned()
}

pub(crate) fn name_text(ident: &Ident) -> String {
    ident.quote_style.map_or_else(|| ident.value.clone(), |quote| trim_quotes(&ident.value, quote))
}

fn call_name(parts: &[ObjectNamePart], span: Span) -> Lowered<Name> {
    let name = |ident: &Ident| Name { text: ident.value.clone(), span: from_sql(ident.span) };
    match parts {
        [ObjectNamePart::Identifier(ident)] => Ok(name(ident)),
        [ObjectNamePart::Identifier(module), ObjectNamePart::Identifier(ident)]
            if module.value.starts_with("emqx_rule_funcs") || module.value.starts_with("EmqxRuleFuncs") =>
        {
            Ok(name(ident))
        }
        _ => Err(Problem::new(span, "functions are called by their name alone")),
    }
}

fn integer(expr: &SqlExpr, span: Span) -> Lowered<(i64, bool)> {
    let number = |text: &str| text.parse::<i64>().map_err(|_| Problem::new(span, "this index is too large"));
    match expr {
        SqlExpr::Value(value) => match &value.value {
            SqlValue::Number(text, _) => Ok((number(text)?, false)),
            _ => Err(foreign(span)),
        },
        SqlExpr::UnaryOp { op, expr } => {
            let (value, _) = integer(expr, span)?;
            Ok(if *op == UnaryOperator::Minus { (-value, true) } else { (value, false) })
        }
        _ => Err(foreign(span)),
    }
}

fn literal(value: &SqlValue, span: Span) -> Lowered<Value> {
    match value {
        SqlValue::SingleQuotedString(text) => Ok(trim_quotes(text, '\'').into()),
        SqlValue::Number(text, _) if text.contains('.') => match text.parse::<f64>() {
            Ok(float) if float.is_finite() => Ok(float.into()),
            _ => Err(Problem::new(span, "this number is too large")),
        },
        SqlValue::Number(text, _) if text.len() > INTEGER_DIGITS_MAX => {
            Err(Problem::new(span, format!("an integer has at most {INTEGER_DIGITS_MAX} digits")))
        }
        SqlValue::Number(text, _) => match (text.parse::<i64>(), text.parse::<BigInt>()) {
            (Ok(int), _) => Ok(int.into()),
            (Err(_), Ok(big)) => Ok(Value::big(big)),
            _ => Err(Problem::new(span, "this is no number")),
        },
        _ => Err(foreign(span)),
    }
}
