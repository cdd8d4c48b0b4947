//! What an evaluation of recorded events came to, in words and as JSON.

use serde_json::json;

/// What one rule did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RuleTotals {
    name: String,
    /// Events that its FROM names.
    pub(super) events: u64,
    /// Those that made a row.
    pub(super) matched: u64,
    pub(super) rows: u64,
    /// Those on which it failed.
    pub(super) failed: u64,
}

impl RuleTotals {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

/// What all rules did.
#[derive(Debug, Clone, Default)]
pub(super) struct Summary {
    pub(super) from: u64,
    /// The offset after the last that was read.
    pub(super) to: u64,
    /// Events that a rule wanted by kind and topic; of the others the header alone was read.
    pub(super) decoded: u64,
    /// Records that are no events.
    pub(super) unreadable: u64,
    pub(super) seconds: f64,
    /// Whether somebody stopped it.
    pub(super) stopped: bool,
    pub(super) rules: Vec<RuleTotals>,
}

impl Summary {
    fn events(&self) -> u64 {
        self.to - self.from
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn rate(&self) -> f64 {
        if self.seconds > 0.0 { (self.events() as f64 / self.seconds).round() } else { 0.0 }
    }

    pub(super) fn in_words(&self) -> String {
        let Self { from, to, decoded, seconds, .. } = self;
        let (events, rate) = (self.events(), self.rate());
        let stopped = if self.stopped { ", stopped before the end" } else { "" };
        let mut out = format!(
            "{events} events read (offsets {from} to {to}), {decoded} of them decoded, in {seconds:.3} s, {rate} events/s{stopped}\n"
        );
        if self.unreadable > 0 {
            let records = if self.unreadable == 1 { "record is" } else { "records are" };
            out.push_str(&format!("{} {records} no event that this version can read\n", self.unreadable));
        }
        let widest = self.rules.iter().map(|it| it.name.chars().count()).max().unwrap_or_default().max(4);
        let mut line = |name: &str, cells: [String; 4]| {
            let [events, matched, rows, failed] = cells;
            out.push_str(&format!(
                "{name:<widest$}  {events:>10}  {matched:>10}  {rows:>10}  {failed:>10}\n"
            ));
        };
        line("rule", ["events", "matched", "rows", "failed"].map(str::to_owned));
        for it in &self.rules {
            line(&it.name, [it.events, it.matched, it.rows, it.failed].map(|number| number.to_string()));
        }
        if self.rules.len() > 1 {
            let sum = |of: fn(&RuleTotals) -> u64| self.rules.iter().map(of).sum::<u64>().to_string();
            line("all", [sum(|it| it.events), sum(|it| it.matched), sum(|it| it.rows), sum(|it| it.failed)]);
        }
        out
    }

    pub(super) fn to_json(&self) -> String {
        let rules: Vec<_> = self
            .rules
            .iter()
            .map(|it| {
                json!({
                    "rule": it.name,
                    "events": it.events,
                    "matched": it.matched,
                    "rows": it.rows,
                    "failed": it.failed,
                })
            })
            .collect();
        let all = json!({
            "from": self.from,
            "to": self.to,
            "events": self.events(),
            "decoded": self.decoded,
            "unreadable": self.unreadable,
            "seconds": self.seconds,
            "events_per_second": self.rate(),
            "stopped": self.stopped,
            "rules": rules,
        });
        format!("{all}\n")
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn in_words_and_as_json() {
        let rule =
            |name: &str| RuleTotals { events: 8, matched: 4, rows: 5, failed: 1, ..RuleTotals::new(name) };
        let rules = vec![rule("a_long_name"), rule("b")];
        let summary =
            Summary { from: 10, to: 30, decoded: 16, unreadable: 1, seconds: 0.5, stopped: true, rules };
        expect![[r#"
            20 events read (offsets 10 to 30), 16 of them decoded, in 0.500 s, 40 events/s, stopped before the end
            1 record is no event that this version can read
            rule             events     matched        rows      failed
            a_long_name           8           4           5           1
            b                     8           4           5           1
            all                  16           8          10           2
        "#]].assert_eq(&summary.in_words());
        expect![[r#"
            {"decoded":16,"events":20,"events_per_second":40.0,"from":10,"rules":[{"events":8,"failed":1,"matched":4,"rows":5,"rule":"a_long_name"},{"events":8,"failed":1,"matched":4,"rows":5,"rule":"b"}],"seconds":0.5,"stopped":true,"to":30,"unreadable":1}
        "#]].assert_eq(&summary.to_json());
    }
}
