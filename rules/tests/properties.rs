//! What is printed reads back as the same tree and plan; nothing that is read or evaluated panics.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test fails by panicking"
)]

use muster_core::clock::ManualClock;
use muster_core::value::{Map, Value};
use muster_rules::ast::{BinaryOp, Expr, ExprKind, Foreach, Item, Name, Path, Select, Span, Statement, Step};
use muster_rules::{EvalContext, RuleProgram, conformance, parse};
use proptest::prelude::*;

fn expr_of(kind: ExprKind) -> Expr {
    Expr { kind, span: Span::default() }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z][a-z0-9_]{0,4}",
        Just("payload".to_owned()),
        Just("end".to_owned()),
        Just("a-b c".to_owned()),
        Just("like".to_owned()),
    ]
}

fn path() -> impl Strategy<Value = Path> {
    let step = prop_oneof![
        name().prop_map(Step::Key),
        "[0-9]{1,3}".prop_map(Step::Key),
        prop_oneof![-9i64..0, 1i64..9].prop_map(Step::Index),
        Just(Step::Head),
        Just(Step::Tail),
        name().prop_map(|root| Step::By(Path { root, steps: Vec::new(), span: Span::default() })),
    ];
    // A bare true or false is a literal and no path.
    let root = name().prop_filter("a literal", |name| name != "true" && name != "false");
    (root, prop::collection::vec(step, 0..3)).prop_map(|(root, steps)| Path {
        root,
        steps,
        span: Span::default(),
    })
}

fn literal() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0i64..i64::MAX).prop_map(Value::Int),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(|f| Value::Float(f.abs())),
        any::<bool>().prop_map(Value::Bool),
        "[ -&(-~é\n]{0,6}".prop_map(Value::from),
    ]
}

fn operator() -> impl Strategy<Value = BinaryOp> {
    use BinaryOp::*;
    prop::sample::select(vec![
        Or, And, Eq, Ne, Lt, Le, Gt, Ge, Matches, Add, Sub, Mul, Div, IntDiv, Mod, Concat,
    ])
}

fn expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![
        literal().prop_map(|value| expr_of(ExprKind::Literal(value))),
        path().prop_map(|path| expr_of(ExprKind::Path(path))),
        (path(), -3i64..5, -3i64..5).prop_map(|(path, a, b)| expr_of(ExprKind::Slice(path, a, b))),
        (-3i64..5, -3i64..9).prop_map(|(a, b)| expr_of(ExprKind::Range(a, b))),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let boxed = || inner.clone().prop_map(Box::new);
        let list = prop::collection::vec(inner.clone(), 1..3);
        let function = prop::sample::select(vec!["upper", "concat", "str", "nosuch", "coalesce", "int"]);
        prop_oneof![
            (operator(), boxed(), boxed()).prop_map(|(op, l, r)| expr_of(ExprKind::Binary(op, l, r))),
            boxed().prop_map(|x| expr_of(ExprKind::Negate(x))),
            boxed().prop_map(|x| expr_of(ExprKind::Plus(x))),
            boxed().prop_map(|x| expr_of(ExprKind::Not(x))),
            list.clone().prop_map(|items| expr_of(ExprKind::List(items))),
            (function, list.clone()).prop_map(|(name, args)| {
                expr_of(ExprKind::Call(Name { text: name.into(), span: Span::default() }, args))
            }),
            (boxed(), list, any::<bool>())
                .prop_map(|(item, list, negated)| { expr_of(ExprKind::In { item, list, negated }) }),
            (boxed(), boxed(), any::<bool>())
                .prop_map(|(item, pattern, negated)| { expr_of(ExprKind::Like { item, pattern, negated }) }),
            (boxed(), boxed(), boxed(), any::<bool>()).prop_map(|(item, low, high, negated)| {
                expr_of(ExprKind::Between { item, low, high, negated })
            }),
            (boxed(), any::<bool>()).prop_map(|(item, negated)| expr_of(ExprKind::IsNull { item, negated })),
            (
                prop::option::of(boxed()),
                prop::collection::vec((inner.clone(), inner.clone()), 1..3),
                prop::option::of(boxed())
            )
                .prop_map(|(operand, branches, otherwise)| {
                    expr_of(ExprKind::Case { operand, branches, otherwise })
                }),
        ]
    })
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let item = prop_oneof![
        1 => Just(Item::Star(Span::default())),
        9 => (expr(), prop::option::of(path())).prop_map(|(expr, target)| Item::Expr { expr, target }),
    ];
    prop::collection::vec(item, 1..3)
}

fn select() -> impl Strategy<Value = Select> {
    let foreach = prop::option::of((prop_oneof![Just(Vec::new()), items()], prop::option::of(expr())));
    let topic = prop_oneof!["[a-z/+#$]{1,8}", Just("$events/client/+".to_owned())];
    let topic = topic.prop_map(|text| Name { text, span: Span::default() });
    (items(), foreach, prop::collection::vec(topic, 1..3), prop::option::of(expr())).prop_map(
        |(items, foreach, from, condition)| Select {
            items,
            foreach: foreach.map(|(items, condition)| Foreach { items, condition }),
            from,
            condition,
            span: Span::default(),
        },
    )
}

/// The SELECT of a text, whatever else is wrong with it.
fn read(text: &str) -> Option<Select> {
    match muster_rules::read_select(text) {
        Ok(select) => Some(select),
        Err(problem) => panic!("{problem}\n{text}"),
    }
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::Float),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec(("[a-z]{1,3}", inner), 0..4)
                .prop_map(|pairs| Value::Map(pairs.into_iter().collect::<Map>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_printed_select_reads_back_as_the_same(select in select()) {
        let text = select.to_string();
        prop_assert_eq!(read(&text), Some(select), "{}", text);
    }

    #[test]
    fn evaluation_never_panics(mut select in select(), payload in json(), raw in any::<bool>()) {
        select.from = vec![Name { text: "#".into(), span: Span::default() }];
        let (statements, _) = parse("x.sql", &select.to_string());
        let Some(Statement::CreateRule(rule)) = statements.first() else { return Ok(()) };
        let Ok(program) = RuleProgram::compile(rule) else { return Ok(()) };
        let payload = if raw { payload } else { Value::from(payload.to_json()) };
        let columns: Map = [("topic", Value::from("a/b")), ("payload", payload), ("a", 1i64.into())].into_iter().collect();
        let mut rows = Vec::new();
        let mut ctx = EvalContext::new(ManualClock::at(0), 1);
        let _ = program.run_on(&columns, &mut ctx, &mut rows);
    }

    #[test]
    fn any_text_is_answered(text in "[a-zA-Z0-9 '\"\\[\\]().,*=<>~+/;_$#-]{0,60}|.{0,40}") {
        let _ = parse("x.sql", &text);
        let _ = parse("x.sql", &format!("SELECT {text} FROM \"t\""));
        let _ = conformance::answer(&text);
    }
}

/// Long and deep texts end in an answer, not in an overflow.
#[test]
fn long_and_deep_statements_are_bounded() {
    let deep = |open: &str, close: &str, n: usize| {
        format!("SELECT {}1{} AS x FROM \"t\"", open.repeat(n), close.repeat(n))
    };
    for text in [
        deep("(", ")", 50_000),
        deep("[", "]", 50_000),
        deep("abs(", ")", 50_000),
        deep("- ", "", 50_000),
        deep("NOT ", "", 50_000),
        deep("CASE WHEN ", " THEN 1 END", 20_000),
        deep("a[", "]", 50_000),
        format!("SELECT 1{} AS x FROM \"t\"", " + 1".repeat(60_000)),
        format!("SELECT 1{} AS x FROM \"t\"", " div 1".repeat(900)),
        format!("SELECT a{} AS x FROM \"t\"", ".b".repeat(4_000)),
        format!("SELECT 1 AS x FROM \"t\" WHERE qos = 1{}", " OR qos = 1".repeat(450)),
        format!("SELECT {} AS x FROM \"t\"", "9".repeat(100_000)),
        format!("SELECT '{}' AS x FROM \"t\"", "é".repeat(100_000)),
        "--".repeat(20_000),
        "'".repeat(50_001),
        ";".repeat(50_000),
    ] {
        let (statements, _) = parse("x.sql", &text);
        for statement in &statements {
            let _ = statement.to_string();
            if let Statement::CreateRule(rule) = statement {
                let _ = RuleProgram::compile(rule);
            }
        }
    }
}
