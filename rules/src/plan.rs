//! From tree to program: names are bound, functions found and their arguments counted, constants folded, and what
//! cannot work is said now and not when the first event comes.

use std::collections::HashSet;

use muster_core::clock::ManualClock;
use muster_core::event::{Column, ColumnType, EventKind};
use muster_core::topic;
use muster_core::value::Value;

use crate::ast::{BinaryOp, Expr, ExprKind, Item, Name, Path, Select, Step as AstStep};
use crate::diagnostic::{Problem, nearest};
use crate::functions::{self, Effect, Found};
use crate::program::context::EvalContext;
use crate::program::env::{Base, Env};
use crate::program::path::Way;
use crate::program::source::{FOREIGN_EVENTS, Wants, is_connector};
use crate::program::{Bound, Call, Each, Node, Program, Put, Slot, Step, Track, eval, size};
use crate::syntax::Mode;

/// What planning found out.
pub(crate) struct Plan {
    pub(crate) program: Program,
    pub(crate) wants: Wants,
    pub(crate) problems: Vec<Problem>,
    /// Whether what it yields may follow from events before.
    pub(crate) remembers: bool,
}

/// Plans a SELECT or FOREACH.
pub(crate) fn select(select: &Select, mode: Mode) -> Plan {
    let mut planner = Planner::new(mode);
    let wants = planner.from(&select.from);
    planner.known_columns(&wants);
    let mut items = planner.items(&select.items);
    let foreach = select.foreach.as_ref().map(|each| {
        if let Some(Item::Star(span)) = select.items.iter().find(|item| matches!(item, Item::Star(_))) {
            let problem = Problem::new(*span, "`*` is no list");
            planner.report(problem.help("FOREACH takes a list: FOREACH payload.items AS item"));
        }
        // The reference raises for `*` when it runs; without the item there is no list and there are no rows.
        items.retain(|item| !matches!(item, Step::Star));
        let item = element_name(&select.items);
        planner.shadow(&item);
        let condition = each.condition.as_ref().map(|expr| planner.clause(expr));
        Each { condition, items: planner.items(&each.items), item }
    });
    let condition = select.condition.as_ref().map(|expr| planner.clause(expr));
    // Aliases that come later stand in front of columns for WHERE only, but FOREACH and DO share names with it: those
    // were all noted before the conditions were bound.
    let program = Program { items, foreach, condition };
    Plan { program, wants, problems: planner.problems, remembers: planner.remembers }
}

/// Plans one expression without any rule around it.
pub(crate) fn expression(expr: &Expr, mode: Mode) -> (Node, Vec<Problem>) {
    let mut planner = Planner::new(mode);
    let node = planner.expr(expr);
    (node, planner.problems)
}

/// Plans what an alarm looks at.
pub(crate) fn sources(from: &[Name]) -> (Wants, Vec<Problem>) {
    let mut planner = Planner::new(Mode::Extended);
    let wants = planner.from(from);
    (wants, planner.problems)
}

/// Plans a condition on its own, as alarms have one.
pub(crate) fn condition(expr: &Expr, from: &[Name]) -> (Node, Vec<Problem>) {
    let mut planner = Planner::new(Mode::Extended);
    let wants = planner.from(from);
    planner.known_columns(&wants);
    // What is wrong with the sources was said before.
    planner.problems.clear();
    let node = planner.clause(expr);
    (node, planner.problems)
}

/// The name under which FOREACH shows an element.
fn element_name(items: &[Item]) -> Box<str> {
    match items.last() {
        Some(Item::Expr { target: Some(path), .. }) if path.steps.is_empty() => path.root.as_str().into(),
        _ => "item".into(),
    }
}

struct Planner {
    mode: Mode,
    problems: Vec<Problem>,
    shadows: HashSet<Box<str>>,
    /// Columns that events of FROM have; none where anything goes.
    columns: Option<HashSet<&'static str>>,
    in_condition: bool,
    remembers: bool,
    warned: HashSet<String>,
    constant_bytes: usize,
}

impl Planner {
    fn new(mode: Mode) -> Self {
        Self {
            mode,
            problems: Vec::new(),
            shadows: HashSet::new(),
            columns: None,
            in_condition: false,
            remembers: false,
            warned: HashSet::new(),
            constant_bytes: 0,
        }
    }

    /// Problems are found for our own dialect; under the reference's everything that parses runs.
    fn report(&mut self, problem: Problem) {
        if self.mode == Mode::Extended {
            self.problems.push(problem);
        }
    }

    fn shadow(&mut self, name: &str) {
        self.shadows.insert(name.into());
    }

    fn from(&mut self, names: &[Name]) -> Wants {
        let mut wants = Wants::default();
        for name in names {
            let can_match = wants.add(&name.text);
            if name.text.starts_with("$events/") {
                if !can_match {
                    self.unknown_event(name);
                }
            } else if is_connector(&name.text) {
                let problem = Problem::warning(name.span, format!("`{}` never matches", name.text));
                self.report(
                    problem.help("Muster has no source connectors: messages come from its own clients"),
                );
            } else if let Err(error) = topic::validate_filter(&name.text) {
                let problem = Problem::new(name.span, format!("`{}` is no topic filter: {error}", name.text));
                self.report(
                    problem.help("`+` stands for one whole level, `#` for all that follow and comes last"),
                );
            }
        }
        wants
    }

    fn unknown_event(&mut self, name: &Name) {
        let topics = || EventKind::all().flat_map(|kind| kind.topics().iter().copied());
        let foreign = FOREIGN_EVENTS.iter().any(|(_, topics)| topics.contains(&name.text.as_str()));
        let problem = Problem::new(name.span, format!("there is no event `{}`", name.text));
        let problem = match nearest(&name.text, topics()) {
            _ if foreign => problem.help("Muster does not have this event of EMQX"),
            Some(meant) => problem.help(format!("did you mean \"{meant}\"?")),
            None => {
                problem.help("events are, for example, \"$events/client/connected\" and \"$events/client/+\"")
            }
        };
        self.report(problem);
    }

    fn known_columns(&mut self, wants: &Wants) {
        let kinds = EventKind::all().filter(|kind| wants.kinds.contains(*kind));
        let names: HashSet<_> = kinds.flat_map(Column::of).map(Column::name).collect();
        self.columns = if names.is_empty() { None } else { Some(names) };
    }

    fn items(&mut self, items: &[Item]) -> Vec<Step> {
        let mut steps = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            steps.push(match item {
                Item::Star(_) => Step::Star,
                Item::Expr { expr, target } => {
                    let node = self.expr(expr);
                    let explicit = target.is_some();
                    let path = target.clone().unwrap_or_else(|| default_target(expr, n));
                    self.shadow(&path.root);
                    let track = self.track(&path, true);
                    Step::Put(node, Put { track, explicit })
                }
            });
        }
        steps
    }

    /// WHERE or INCASE.
    fn clause(&mut self, expr: &Expr) -> Node {
        self.in_condition = true;
        let node = self.condition(expr);
        self.in_condition = false;
        node
    }

    fn slot(&mut self, path: &Path, target: bool) -> Slot {
        let shadowed = self.shadows.contains(path.root.as_str());
        if !shadowed && !target {
            self.check_column(path);
        }
        Slot { name: path.root.as_str().into(), column: Column::from_name(&path.root), shadowed }
    }

    /// A name that is neither column nor alias is no error, it is absent; but mostly it is a mistake.
    fn check_column(&mut self, path: &Path) {
        let name = path.root.as_str();
        let Some(columns) = &self.columns else { return };
        let absent_on_purpose = ["null", "undefined", "nil", "metadata", "item"].contains(&name);
        if columns.contains(name) || absent_on_purpose || !self.warned.insert(name.to_owned()) {
            return;
        }
        let problem =
            Problem::warning(path.span, format!("`{name}` is no column of these events and no alias"));
        let candidates = columns.iter().copied().chain(self.shadows.iter().map(AsRef::as_ref));
        let problem = match nearest(name, candidates) {
            Some(meant) => problem.help(format!("did you mean `{meant}`?")),
            None if Column::from_name(name).is_some() => problem.help("other events have it, these do not"),
            None => problem.help(format!(
                "a text is written in single quotes: '{name}'; a field of the payload as payload.{name}"
            )),
        };
        self.report(problem);
    }

    fn track(&mut self, path: &Path, target: bool) -> Track {
        let slot = self.slot(path, target);
        let mut steps = Vec::with_capacity(path.steps.len());
        for step in &path.steps {
            steps.push(match step {
                AstStep::Key(key) => Bound::Way(Way::Key(key.as_str().into())),
                AstStep::Index(index) => Bound::Way(Way::Index(*index)),
                AstStep::Head => Bound::Way(Way::Head),
                AstStep::Tail => Bound::Way(Way::Tail),
                // An index of a payload is looked up in the payload: its name is no column.
                AstStep::By(inner) => Bound::By(self.track(inner, path.root == "payload" || target)),
            });
        }
        let fixed = steps.iter().map(|step| match step {
            Bound::Way(way) => Some(way.clone()),
            Bound::By(_) => None,
        });
        let fixed = fixed.collect::<Option<Vec<_>>>().map(Vec::into_boxed_slice);
        Track { slot, steps, fixed }
    }

    fn expr(&mut self, expr: &Expr) -> Node {
        let node = match &expr.kind {
            ExprKind::Literal(value) => Node::Const(value.clone()),
            ExprKind::Path(path) => Node::Track(self.track(path, false)),
            ExprKind::Slice(path, from, to) => Node::Slice(self.track(path, false), *from, *to),
            ExprKind::Range(from, to) => match eval::range(*from, *to) {
                Ok(list) => self.constant(list, expr),
                Err(fault) => {
                    self.report(Problem::new(expr.span, fault.to_string()).help("write [1..5]"));
                    Node::Raise(fault.to_string().into())
                }
            },
            ExprKind::List(items) => Node::List(items.iter().map(|item| self.expr(item)).collect()),
            ExprKind::Call(name, args) => self.call(name, args, expr),
            ExprKind::Negate(inner) => Node::Negate(self.boxed(inner)),
            ExprKind::Plus(inner) => Node::Plus(self.boxed(inner)),
            ExprKind::Binary(BinaryOp::TildeEq, ..) => {
                self.report(
                    Problem::new(expr.span, "`~=` compares nothing")
                        .help("`=~` matches a topic with a filter"),
                );
                Node::Raise("~= is no comparison".into())
            }
            ExprKind::Binary(op, left, right) if op.is_comparison() => {
                let (left, right) = (self.boxed(left), self.boxed(right));
                if *op == BinaryOp::Matches {
                    Node::Matches(left, right)
                } else {
                    Node::Compare(*op, left, right)
                }
            }
            ExprKind::Binary(op, left, right) if !op.is_logical() => {
                Node::Arithmetic(*op, self.boxed(left), self.boxed(right))
            }
            ExprKind::Case { operand, branches, otherwise } => {
                let otherwise = otherwise.as_ref().map(|expr| self.boxed(expr));
                match operand {
                    Some(operand) => {
                        let operand = self.boxed(operand);
                        let branches = branches.iter().map(|(w, t)| (self.expr(w), self.expr(t))).collect();
                        Node::Switch { operand, branches, otherwise }
                    }
                    None => {
                        let branches =
                            branches.iter().map(|(w, t)| (self.condition(w), self.expr(t))).collect();
                        Node::Case { branches, otherwise }
                    }
                }
            }
            _ => self.condition(expr),
        };
        self.fold(node, expr)
    }

    fn boxed(&mut self, expr: &Expr) -> Box<Node> {
        Box::new(self.expr(expr))
    }

    fn condition(&mut self, expr: &Expr) -> Node {
        let strict = self.mode == Mode::Reference;
        match &expr.kind {
            ExprKind::Binary(BinaryOp::And, left, right) => {
                Node::And(Box::new(self.condition(left)), Box::new(self.condition(right)))
            }
            ExprKind::Binary(BinaryOp::Or, left, right) => {
                Node::Or(Box::new(self.condition(left)), Box::new(self.condition(right)))
            }
            ExprKind::Not(inner) => {
                let joined = matches!(&inner.kind, ExprKind::Binary(op, ..) if op.is_logical())
                    || matches!(&inner.kind, ExprKind::In { .. } | ExprKind::Not(_));
                if strict && joined {
                    return Node::Raise("NOT takes a value only".into());
                }
                Node::Not(Box::new(if joined { self.condition(inner) } else { self.expr(inner) }))
            }
            ExprKind::In { negated: true, .. } if strict => Node::Raise("there is no NOT IN".into()),
            ExprKind::In { item, list, negated } => Node::In {
                item: self.boxed(item),
                list: list.iter().map(|item| self.expr(item)).collect(),
                negated: *negated,
            },
            ExprKind::Between { item, low, high, negated } => Node::Between {
                item: self.boxed(item),
                low: self.boxed(low),
                high: self.boxed(high),
                negated: *negated,
            },
            ExprKind::Like { item, pattern, negated } => {
                Node::Like { item: self.boxed(item), pattern: self.boxed(pattern), negated: *negated }
            }
            ExprKind::IsNull { item, negated } => Node::IsNull { item: self.boxed(item), negated: *negated },
            ExprKind::Binary(op, ..) if op.is_comparison() => self.expr(expr),
            ExprKind::Call(..) | ExprKind::Literal(Value::Bool(_)) => self.expr(expr),
            ExprKind::Path(path) if !strict && self.is_never_boolean(path) => {
                let message = format!("`{}` is never true or false", path.root);
                let help = format!("compare it with something: {} = ...", path.root);
                self.report(Problem::new(expr.span, message).help(help));
                Node::Raise("a condition must be true or false".into())
            }
            ExprKind::Path(_) | ExprKind::Case { .. } if !strict => self.expr(expr),
            _ => {
                let problem = Problem::new(expr.span, "this is no condition");
                self.report(
                    problem.help("compare it with something: payload.flag = true, payload.count > 0"),
                );
                Node::Raise("a condition is a comparison or a function".into())
            }
        }
    }

    /// Whether the path is a whole column that holds something else.
    fn is_never_boolean(&self, path: &Path) -> bool {
        let column = Column::from_name(&path.root).filter(|_| path.steps.is_empty());
        let shadowed = self.shadows.contains(path.root.as_str());
        column.is_some_and(|column| !shadowed && column.column_type() != ColumnType::Boolean)
    }

    fn call(&mut self, name: &Name, args: &[Expr], expr: &Expr) -> Node {
        let nodes: Vec<_> = args.iter().map(|arg| self.expr(arg)).collect();
        let found = functions::find(&name.text, nodes.len());
        match found {
            Found::Function(function) => {
                self.remembers |= function.effect == Effect::Remembers;
                if function.effect == Effect::Context && self.in_condition {
                    let message = format!("{}() sees no message here and gives nothing", name.text);
                    let help = format!("give it a name in SELECT first: {}(...) AS x", name.text);
                    self.report(Problem::warning(expr.span, message).help(help));
                    return Node::Const(Value::Undefined);
                }
                let constants: Vec<_> = nodes.iter().map(constant).collect();
                let prepared = match function.prepare.map(|prepare| prepare(&constants)) {
                    Some(Err(fault)) => {
                        self.report(Problem::new(expr.span, fault.to_string()));
                        None
                    }
                    Some(Ok(prepared)) => prepared,
                    None => None,
                };
                Node::Call(Box::new(Call { function, args: nodes, prepared }))
            }
            Found::Unavailable(why) => {
                self.report(
                    Problem::new(name.span, format!("function `{}` is not available", name.text)).help(why),
                );
                Node::Raise(format!("function {} is not available", name.text).into())
            }
            Found::WrongCount(wanted) => {
                let given = match nodes.len() {
                    1 => "1 argument".to_owned(),
                    n => format!("{n} arguments"),
                };
                let problem = Problem::new(expr.span, format!("{}() was given {given}", name.text));
                self.report(problem.help(format!("write {wanted}")));
                Node::Raise(format!("function {}/{} is not known", name.text, nodes.len()).into())
            }
            Found::Unknown => {
                let problem = Problem::new(name.span, format!("there is no function `{}`", name.text));
                let lower = name.text.to_lowercase();
                let exact = functions::names().find(|known| *known == lower);
                self.report(match exact.or_else(|| nearest(&name.text, functions::names())) {
                    Some(meant) => problem.help(format!("did you mean {meant}()?")),
                    None => problem,
                });
                Node::Raise(format!("function {} is not known", name.text).into())
            }
        }
    }

    /// A constant that was computed; together they may take only so much.
    fn constant(&mut self, value: Value, expr: &Expr) -> Node {
        match size::add(&value, 0, &mut self.constant_bytes) {
            Ok(()) => Node::Const(value),
            Err(_) => {
                self.report(Problem::new(expr.span, "the constants of this rule take too much memory"));
                Node::Raise("the constants of this rule take too much memory".into())
            }
        }
    }

    /// Computes now what no event can change. What fails now would fail on every event.
    fn fold(&mut self, node: Node, expr: &Expr) -> Node {
        // Constants that are too many are an error already; more of them are only work.
        if !foldable(&node) || self.constant_bytes > size::VALUE_BYTES_MAX {
            return node;
        }
        let mut ctx = EvalContext::new(ManualClock::at(0), 0);
        let columns = muster_core::value::Map::new();
        let env = Env { base: Base::Map(&columns), over: None, out: None };
        match eval::eval(&node, &env, &mut ctx) {
            Ok(value) => self.constant(value, expr),
            Err(fault) => {
                self.report(Problem::new(expr.span, format!("this always fails: {fault}")));
                Node::Raise(fault.to_string().into())
            }
        }
    }
}

/// Whether every part is constant; parts were folded before.
fn foldable(node: &Node) -> bool {
    let all = |nodes: &[Node]| nodes.iter().all(|node| constant(node).is_some());
    let both = |a: &Node, b: &Node| constant(a).is_some() && constant(b).is_some();
    match node {
        Node::List(items) => all(items),
        Node::Call(call) => call.function.effect == Effect::Pure && all(&call.args),
        Node::Negate(inner) | Node::Plus(inner) => constant(inner).is_some(),
        Node::Compare(_, a, b) | Node::Matches(a, b) | Node::Arithmetic(_, a, b) => both(a, b),
        _ => false,
    }
}

fn constant(node: &Node) -> Option<&Value> {
    match node {
        Node::Const(value) => Some(value),
        _ => None,
    }
}

/// The name of an item without one.
fn default_target(expr: &Expr, position: usize) -> Path {
    let named = |root: String| Path { root, steps: Vec::new(), span: expr.span };
    let kind = match &expr.kind {
        ExprKind::Path(path) | ExprKind::Slice(path, ..) => return path.clone(),
        ExprKind::Literal(Value::Str(_)) => {
            let ExprKind::Literal(value) = &expr.kind else { return named(String::new()) };
            return named(value.as_str().unwrap_or_default().to_owned());
        }
        ExprKind::Literal(_) => "const",
        ExprKind::Range(..) => "range",
        ExprKind::List(_) => "list",
        ExprKind::Call(name, _) => return named(format!("_v_fun_{}_{}", name.text, position + 1)),
        ExprKind::Case { .. } => "case",
        _ => "op",
    };
    named(format!("_v_{kind}_{}", position + 1))
}
