//! `jq(program, json)` by jaq. A rule must not hang nor eat all memory, whatever its program does, so programs are
//! rewritten before they are compiled: every definition that is entered, every element of a list that is built and
//! every number of a range takes a step of a budget, and sums and products are checked for size. What could read the
//! environment or end the process is taken out.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Pattern, Term};
use jaq_core::load::{Arena, File, Loader, parse};
use jaq_core::native::{Fun, bome, run, v};
use jaq_core::ops::Math;
use jaq_core::path::Part;
use jaq_core::{Compiler, Ctx, Vars, data::JustLut, unwrap_valr};
use jaq_json::{Num, Val};
use muster_core::clock::SharedClock;
use muster_core::value::{Map, Value};
use num_bigint::BigInt;
use num_traits::ToPrimitive;

use super::{Args, Function, Prepared, volatile, wrong};
use crate::program::text::STRING_BYTES_MAX;
use crate::program::{Fault, json, text};

/// Most outputs of one program.
pub const JQ_OUTPUTS_MAX: usize = 100_000;

/// How long a program may run when the call does not say.
pub const JQ_TIME_DEFAULT_MS: u64 = 10_000;

/// Most elements of lists and ranges that one run may make.
pub const JQ_ITEMS_MAX: u64 = 1_000_000;

/// Most bytes of strings, lists and objects that the operators of one run may make together, in memory or not any more.
pub const JQ_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Most definitions that one run may enter and lists that it may begin; bounds the depth of its recursion.
pub const JQ_CALLS_MAX: u64 = 100_000;

/// Stack of a program that has loops or definitions.
const STACK_BYTES: usize = 512 * 1024 * 1024;

/// Longest program.
const PROGRAM_BYTES_MAX: usize = 16 * 1024;

pub(super) const TABLE: &[Function] = &[Function {
    prepare: Some(prepare),
    ..volatile("jq", 2, 3, "jq(program, json) or jq(program, json, timeout_ms)", jq)
}];

/// A compiled program.
pub(crate) struct Filter {
    filter: jaq_core::Filter<JustLut<Val>>,
    /// Whether it may run for long or deep, so that it needs a stack of its own.
    loops: bool,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter").field("loops", &self.loops).finish_non_exhaustive()
    }
}

/// What a run may still spend.
struct Budget {
    items: u64,
    calls: u64,
    bytes: u64,
    until: Duration,
    clock: SharedClock,
}

thread_local! {
    static BUDGET: RefCell<Option<Budget>> = const { RefCell::new(None) };
}

const DEFINITIONS: &str = "
def range(from; to; by): muster_range(from; to; by) | if muster_item then . else . end;
def muster_mul(l; r): r as $r | l as $l | if [$l, $r] | muster_fits then $l * $r else . end;
";

/// Natives that reach out of the program.
const FORBIDDEN: &[&str] = &["halt", "env", "debug_empty", "stderr_empty"];

fn spend(call: bool) -> Result<(), &'static str> {
    BUDGET.with_borrow_mut(|budget| {
        let Some(budget) = budget else { return Ok(()) };
        let left = if call { &mut budget.calls } else { &mut budget.items };
        *left = left.checked_sub(1).ok_or("the jq program takes too many steps")?;
        if *left % 256 == 0 && budget.clock.monotonic() > budget.until {
            return Err("the jq program takes too long");
        }
        Ok(())
    })
}

/// Takes the size of something made from the budget.
fn make(bytes: usize) -> Result<(), &'static str> {
    BUDGET.with_borrow_mut(|budget| {
        let Some(budget) = budget else { return Ok(()) };
        budget.bytes = budget.bytes.checked_sub(bytes as u64).ok_or("the jq program makes too much")?;
        Ok(())
    })
}

fn tick<'a>(call: bool) -> jaq_core::ValXs<'a, Val> {
    bome(spend(call).map(|()| Val::Bool(true)).map_err(jaq_core::Error::str))
}

fn natives() -> impl Iterator<Item = Fun<JustLut<Val>>> {
    let known = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let known = known.map(|(name, arity, native)| match name {
        "range" => ("muster_range", arity, native),
        name if FORBIDDEN.contains(&name) => {
            run((name, arity, |_| bome(Err(jaq_core::Error::str("this is not available in rules")))))
        }
        _ => (name, arity, native),
    });
    known.chain([
        run(("muster_item", v(0), |_| tick(false))),
        run(("muster_call", v(0), |_| tick(true))),
        run(("muster_fits", v(0), |cv| {
            let made = fits(&cv.1).ok_or("the product is too large").and_then(make);
            bome(made.map(|()| Val::Bool(true)).map_err(jaq_core::Error::str))
        })),
        run(("muster_size", v(0), |cv| {
            let size = size(&cv.1);
            let small = if size <= STRING_BYTES_MAX { make(size) } else { Err("the value is too large") };
            bome(small.map(|()| cv.1).map_err(jaq_core::Error::str))
        })),
    ])
}

/// How many bytes a product of the two takes; none if that is too much.
fn fits(pair: &Val) -> Option<usize> {
    let Val::Arr(pair) = pair else { return Some(0) };
    match pair.as_slice() {
        [Val::Num(n), other] | [other, Val::Num(n)] if !matches!(other, Val::Num(_)) => {
            let times = match n {
                Num::Int(n) => n.to_f64().unwrap_or(f64::MAX),
                Num::Float(n) => *n,
                _ => f64::MAX,
            };
            #[expect(clippy::cast_precision_loss, reason = "an estimate")]
            let bytes = size(other) as f64;
            let bytes = times.max(0.0) * bytes;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded")]
            (bytes <= STRING_BYTES_MAX as f64).then_some(bytes as usize)
        }
        [l @ Val::Num(_), r @ Val::Num(_)] => {
            let bytes = size(l).saturating_add(size(r));
            (bytes <= 8192).then_some(bytes)
        }
        _ => Some(0),
    }
}

fn size(value: &Val) -> usize {
    match value {
        Val::BStr(text) | Val::TStr(text) => text.len(),
        Val::Arr(items) => items.len().saturating_mul(8),
        Val::Obj(map) => map.len().saturating_mul(16),
        Val::Num(Num::BigInt(int)) => usize::try_from(int.bits() / 8).unwrap_or(usize::MAX),
        Val::Num(Num::Dec(text)) => text.len(),
        _ => 8,
    }
}

/// Rewrites a program, and notes whether it can loop.
struct Rewrite {
    loops: bool,
}

type Program<'s> = Term<&'s str>;

fn boxed(term: Term<&str>) -> Box<Term<&str>> {
    Box::new(term)
}

fn call<'s>(name: &'s str, args: Vec<Program<'s>>) -> Program<'s> {
    Term::Call(name, args)
}

/// `if tick then term else . end`: works in paths, too.
fn ticked<'s>(tick: &'s str, term: Program<'s>) -> Program<'s> {
    Term::IfThenElse(vec![(call(tick, Vec::new()), term)], Some(boxed(Term::Id)))
}

fn pipe<'s>(left: Program<'s>, right: Program<'s>) -> Program<'s> {
    Term::BinOp(boxed(left), BinaryOp::Pipe(None), boxed(right))
}

impl Rewrite {
    fn def<'s>(&mut self, def: Def<&'s str>) -> Def<&'s str> {
        Def { body: ticked("muster_call", self.term(def.body)), ..def }
    }

    #[expect(clippy::boxed_local, reason = "terms come and go in boxes")]
    fn boxed<'s>(&mut self, term: Box<Program<'s>>) -> Box<Program<'s>> {
        Box::new(self.term(*term))
    }

    fn all<'s>(&mut self, terms: Vec<Program<'s>>) -> Vec<Program<'s>> {
        terms.into_iter().map(|term| self.term(term)).collect()
    }

    fn pattern<'s>(&mut self, pattern: Pattern<&'s str>) -> Pattern<&'s str> {
        match pattern {
            Pattern::Var(name) => Pattern::Var(name),
            Pattern::Arr(parts) => Pattern::Arr(parts.into_iter().map(|part| self.pattern(part)).collect()),
            Pattern::Obj(parts) => Pattern::Obj(
                parts.into_iter().map(|(key, part)| (self.term(key), self.pattern(part))).collect(),
            ),
        }
    }

    fn term<'s>(&mut self, term: Program<'s>) -> Program<'s> {
        match term {
            Term::Arr(Some(inner)) => {
                let inner = pipe(self.term(*inner), ticked("muster_item", Term::Id));
                ticked("muster_call", Term::Arr(Some(boxed(inner))))
            }
            Term::BinOp(left, op, right) => self.operation(*left, op, *right),
            Term::Str(format, parts) => {
                let parts = parts.into_iter().map(|part| match part {
                    StrPart::Term(term) => StrPart::Term(self.term(term)),
                    other => other,
                });
                let plain = Term::Str(format, parts.collect());
                pipe(plain, call("muster_size", Vec::new()))
            }
            Term::Obj(pairs) => Term::Obj(
                pairs
                    .into_iter()
                    .map(|(key, value)| (self.key(key), value.map(|value| self.term(value))))
                    .collect(),
            ),
            Term::Neg(inner) => Term::Neg(self.boxed(inner)),
            Term::Label(name, inner) => Term::Label(name, self.boxed(inner)),
            Term::Fold(name, items, pattern, args) => {
                self.loops = true;
                Term::Fold(name, self.boxed(items), self.pattern(pattern), self.all(args))
            }
            Term::TryCatch(inner, catch) => {
                Term::TryCatch(self.boxed(inner), catch.map(|catch| self.boxed(catch)))
            }
            Term::IfThenElse(branches, otherwise) => Term::IfThenElse(
                branches.into_iter().map(|(when, then)| (self.term(when), self.term(then))).collect(),
                otherwise.map(|otherwise| self.boxed(otherwise)),
            ),
            Term::Def(defs, inner) => {
                self.loops = true;
                Term::Def(defs.into_iter().map(|def| self.def(def)).collect(), self.boxed(inner))
            }
            Term::Call(name, args) => {
                self.loops |= !matches!(
                    name,
                    "select" | "not" | "length" | "keys" | "tostring" | "tonumber" | "true" | "false"
                );
                Term::Call(name, self.all(args))
            }
            Term::Path(inner, path) => {
                let parts = path.0.into_iter().map(|(part, opt)| {
                    let part = match part {
                        Part::Index(index) => Part::Index(self.key(index)),
                        Part::Range(from, to) => {
                            Part::Range(from.map(|term| self.term(term)), to.map(|term| self.term(term)))
                        }
                    };
                    (part, opt)
                });
                let parts = parts.collect();
                Term::Path(self.boxed(inner), jaq_core::path::Path(parts))
            }
            other => other,
        }
    }

    /// A key: a plain string stays as it is, since the compiler looks at it.
    fn key<'s>(&mut self, term: Program<'s>) -> Program<'s> {
        match &term {
            Term::Str(_, parts) if !parts.iter().any(|part| matches!(part, StrPart::Term(_))) => term,
            _ => self.term(term),
        }
    }

    fn operation<'s>(&mut self, left: Program<'s>, op: BinaryOp<&'s str>, right: Program<'s>) -> Program<'s> {
        let left = self.term(left);
        let right = self.term(right);
        let check = || call("muster_size", Vec::new());
        let join = |left, op, right| Term::BinOp(boxed(left), op, boxed(right));
        let math = |math: Math, left, right| match math {
            Math::Mul => call("muster_mul", vec![left, right]),
            other => pipe(join(left, BinaryOp::Math(other), right), check()),
        };
        match op {
            BinaryOp::Math(op) => math(op, left, right),
            BinaryOp::UpdateMath(op) => {
                let update = join(left, BinaryOp::Update, math(op, Term::Id, Term::Var("$muster")));
                join(right, BinaryOp::Pipe(Some(Pattern::Var("$muster"))), update)
            }
            BinaryOp::Pipe(Some(pattern)) => {
                let pattern = self.pattern(pattern);
                join(left, BinaryOp::Pipe(Some(pattern)), right)
            }
            other => join(left, other, right),
        }
    }
}

fn compile(program: &str) -> Result<Filter, Fault> {
    if program.len() > PROGRAM_BYTES_MAX {
        return Err(Fault::new("the jq program is too long"));
    }
    let nesting = program.bytes().filter(|b| matches!(b, b'(' | b'[' | b'{')).count();
    if nesting > 500 {
        return Err(Fault::new("the jq program has too many brackets"));
    }
    let bad = || Fault(format!("this is no jq program: {}", text::shorten(program.as_bytes())).into());
    let main = parse(program, |parser| parser.term()).ok_or_else(bad)?;
    let mut rewrite = Rewrite { loops: false };
    let main = Def { name: "muster_main", args: Vec::new(), body: rewrite.term(main) };
    let loops = rewrite.loops;
    let standard = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let standard: Vec<_> = standard.map(|def| rewrite.def(def)).collect();
    let ours = parse(DEFINITIONS, |parser| parser.defs()).ok_or_else(bad)?;
    let arena = Arena::default();
    let loader = Loader::new(ours.into_iter().chain(standard).chain([main]));
    let modules = loader.load(&arena, File { code: "muster_main", path: () }).map_err(|_| bad())?;
    let compiled = Compiler::default().with_funs(natives()).compile(modules);
    let filter = compiled.map_err(|errors| {
        let name =
            errors.first().and_then(|(_, undefined)| undefined.first()).map(|(name, _)| name.to_string());
        Fault(format!("the jq program uses `{}`, which is not defined", name.unwrap_or_default()).into())
    })?;
    Ok(Filter { filter, loops })
}

impl Filter {
    fn run(&self, input: &Value, limit: Duration, clock: &SharedClock) -> Result<Vec<Value>, Fault> {
        if !self.loops {
            return self.run_here(input, limit, clock);
        }
        let died = || Fault::new("the jq program could not be run");
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("jq".into()).stack_size(STACK_BYTES);
            let work =
                thread.spawn_scoped(scope, || self.run_here(input, limit, clock)).map_err(|_| died())?;
            work.join().map_err(|_| died())?
        })
    }

    fn run_here(&self, input: &Value, limit: Duration, clock: &SharedClock) -> Result<Vec<Value>, Fault> {
        let until = clock.monotonic().saturating_add(limit);
        let budget = Budget {
            items: JQ_ITEMS_MAX,
            calls: JQ_CALLS_MAX,
            bytes: JQ_BYTES_MAX,
            until,
            clock: clock.clone(),
        };
        BUDGET.set(Some(budget));
        let result = self.outputs(input);
        BUDGET.set(None);
        result
    }

    fn outputs(&self, input: &Value) -> Result<Vec<Value>, Fault> {
        let ctx = Ctx::<JustLut<Val>>::new(&self.filter.lut, Vars::new([]));
        let mut outputs = Vec::new();
        for output in self.filter.id.run((ctx, to_jq(input))).map(unwrap_valr) {
            spend(false).map_err(Fault::new)?;
            if outputs.len() >= JQ_OUTPUTS_MAX {
                return Err(Fault::new("the jq program has too many outputs"));
            }
            let output = output.map_err(|error| {
                Fault(format!("jq: {}", text::shorten(error.to_string().as_bytes())).into())
            })?;
            outputs.push(from_jq(&output, 0)?);
        }
        Ok(outputs)
    }
}

fn to_jq(value: &Value) -> Val {
    match value {
        Value::Undefined | Value::Null => Val::Null,
        Value::Bool(flag) => Val::Bool(*flag),
        Value::Int(int) => Val::Num(Num::from_integral(*int)),
        Value::BigInt(int) => Val::Num(Num::big_int((**int).clone())),
        Value::Float(float) => Val::Num(Num::Float(*float)),
        Value::Str(text) => Val::utf8_str(text.clone()),
        Value::Array(items) => items.iter().map(to_jq).collect(),
        Value::Map(map) => {
            Val::obj(map.iter().map(|(key, value)| (Val::from(key.to_owned()), to_jq(value))).collect())
        }
    }
}

/// Numbers without a fraction are integers, as jq prints them.
fn from_jq(value: &Val, depth: usize) -> Result<Value, Fault> {
    if depth > json::JSON_DEPTH_MAX {
        return Err(Fault::new("the jq program's output is nested too deeply"));
    }
    Ok(match value {
        Val::Null => Value::Null,
        Val::Bool(flag) => (*flag).into(),
        Val::Num(Num::Int(int)) => Value::big((*int).into()),
        Val::Num(Num::BigInt(int)) => Value::big(BigInt::clone(int)),
        Val::Num(Num::Float(float)) => from_float(*float),
        Val::Num(Num::Dec(text)) => match text.parse::<BigInt>() {
            Ok(int) => Value::big(int),
            Err(_) => text.parse().map_or(Value::Null, from_float),
        },
        Val::BStr(text) | Val::TStr(text) => Value::Str((**text).clone()),
        Val::Arr(items) => {
            items.iter().map(|item| from_jq(item, depth + 1)).collect::<Result<Vec<_>, _>>()?.into()
        }
        Val::Obj(map) => {
            let mut out = Map::with_capacity(map.len());
            for (key, value) in map.iter() {
                let key = match key {
                    Val::BStr(text) | Val::TStr(text) => String::from_utf8_lossy(text).into_owned(),
                    other => other.to_string(),
                };
                out.insert(key, from_jq(value, depth + 1)?);
            }
            out.into()
        }
    })
}

fn from_float(float: f64) -> Value {
    if !float.is_finite() {
        return Value::Null;
    }
    match float.to_i64() {
        Some(int) if float.fract() == 0.0 && float.abs() < 1e17 => int.into(),
        _ => Value::Float(float),
    }
}

fn prepare(args: &[Option<&Value>]) -> Result<Option<Prepared>, Fault> {
    let program = args.first().copied().flatten().and_then(Value::as_str);
    program.map(|program| compile(program).map(|filter| Prepared::Jq(Arc::new(filter)))).transpose()
}

fn jq(args: Args) -> Result<Value, Fault> {
    let filter = match args.prepared {
        Some(Prepared::Jq(filter)) => filter.clone(),
        _ => {
            let program = args.bytes(0)?;
            let made = args.ctx.prepared("jq", &program, |program| {
                let program =
                    std::str::from_utf8(program).map_err(|_| Fault::new("the program is not UTF-8"))?;
                compile(program).map(|filter| Prepared::Jq(Arc::new(filter)))
            })?;
            let Prepared::Jq(filter) = made else { return Err(Fault::new("this is no jq program")) };
            filter
        }
    };
    let input = match args.get(1) {
        Value::Str(text) => json::decode(text)?,
        Value::Undefined => return Err(wrong("JSON", &Value::Undefined)),
        other => other.clone(),
    };
    let limit = match args.get(2) {
        Value::Undefined => JQ_TIME_DEFAULT_MS,
        _ => u64::try_from(args.int(2)?).map_err(|_| Fault::new("a time is not negative"))?,
    };
    let limit = Duration::from_millis(limit.min(60_000));
    filter.run(&input, limit, args.ctx.clock()).map(Value::Array)
}
