//! What a rule has done since the start, or since its metrics were reset. What a rule makes of events is counted where
//! it is evaluated; what became of the rows stands in the pipelines' books, of which these numbers are the part since
//! the first look.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use muster_core::clock::SharedClock;
use muster_sinks::PipelineId;
use muster_sinks::delivery::PipelineStatus;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::super::App;
use super::super::audit;
use super::super::reply::{ApiError, ErrorBody, Path, Refused};
use super::described::Metrics;
use super::rates::{Rates, SAMPLE_EVERY};
use super::{not_found, shown};
use crate::access::Caller;
use crate::pipelines::{Pipelines, RuleCounts};
use crate::statistics::RuleNumbers;

/// The metrics of all rules.
#[derive(Clone)]
pub(in crate::rest) struct Meters {
    clock: SharedClock,
    pipelines: Arc<Pipelines>,
    rules: Arc<Mutex<BTreeMap<String, Meter>>>,
}

#[derive(Debug, Default)]
struct Meter {
    rates: Rates,
    pipelines: BTreeMap<PipelineId, Books>,
}

/// Rows of one pipeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Books {
    /// What the books showed when counting began.
    from: Rows,
    /// What they showed when they were looked at last.
    to: Rows,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rows {
    delivered: u64,
    dead: u64,
}

impl Meter {
    /// Takes in how the rule's pipelines are doing. One that has not found its books yet shows nothing.
    fn look(&mut self, statuses: &[PipelineStatus]) {
        for it in statuses.iter().filter(|it| it.cursor > 0) {
            let id = PipelineId::new(&it.rule, &it.sink, &it.target);
            let to = Rows { delivered: it.delivered, dead: it.dead };
            let opened = Rows { delivered: it.opened.delivered, dead: it.opened.dead };
            self.pipelines.entry(id).or_insert(Books { from: opened, to }).to = to;
        }
    }

    /// Counts from here on.
    fn reset(&mut self) {
        self.rates = Rates::default();
        for books in self.pipelines.values_mut() {
            books.from = books.to;
        }
    }

    /// Rows that arrived, and rows and events that went to the dead letters.
    fn rows(&self, failed_exception: u64) -> (u64, u64) {
        let mut sum = (0, 0);
        for Books { from, to } in self.pipelines.values() {
            sum.0 += to.delivered.saturating_sub(from.delivered);
            // An event on which the rule fails is a dead letter, too, but no failure of an action.
            sum.1 += to.dead.saturating_sub(from.dead).saturating_sub(failed_exception);
        }
        sum
    }
}

impl Meters {
    pub(in crate::rest) fn new(clock: SharedClock, pipelines: Arc<Pipelines>) -> Self {
        Self { clock, pipelines, rules: Arc::default() }
    }

    /// Looks at every rule now and then, for the rates, until `stop`.
    pub(in crate::rest) async fn run(self, stop: CancellationToken) {
        let mut looks = tokio::time::interval(SAMPLE_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(looks.tick()).await.is_some() {
            self.look();
        }
    }

    fn look(&self) {
        let statuses = self.pipelines.status();
        let listed = self.pipelines.listed();
        let now = self.clock.monotonic();
        let mut rules = self.rules();
        // A rule that does not run any more has no metrics.
        rules.retain(|rule, _| listed.contains_key(rule));
        for rule in listed.into_keys() {
            let matched = self.pipelines.rule_counts(&rule).unwrap_or_default().matched;
            let meter = rules.entry(rule.clone()).or_default();
            meter.rates.sample(now, matched);
            let own: Vec<_> = statuses.iter().filter(|it| it.rule == rule).cloned().collect();
            meter.look(&own);
        }
    }

    /// The metrics of a rule.
    fn show(&self, rule: &str) -> Value {
        let statuses: Vec<_> = self.pipelines.status().into_iter().filter(|it| it.rule == rule).collect();
        let counts = self.pipelines.rule_counts(rule).unwrap_or_default();
        let mut rules = self.rules();
        let meter = rules.entry(rule.to_owned()).or_default();
        meter.look(&statuses);
        // Attempts that failed since a target was reached last: rows that wait, none of them lost.
        let waiting: u64 = statuses.iter().map(|it| u64::from(it.failures)).sum();
        to_json(counts, meter, waiting)
    }

    /// Begins anew.
    pub(in crate::rest) fn reset(&self, rule: &str) {
        let statuses: Vec<_> = self.pipelines.status().into_iter().filter(|it| it.rule == rule).collect();
        self.pipelines.reset_rule_counts(rule);
        let mut rules = self.rules();
        let meter = rules.entry(rule.to_owned()).or_default();
        meter.look(&statuses);
        meter.reset();
    }

    /// Forgets a rule that is disabled, gone or another one now.
    pub(in crate::rest) fn forget(&self, rule: &str) {
        self.rules().remove(rule);
    }

    /// What every rule that runs did: events that it matched, rows that arrived, and rows that did not.
    pub(in crate::rest) fn by_rule(&self) -> Vec<RuleNumbers> {
        let statuses = self.pipelines.status();
        let mut rules = self.rules();
        let of = |rule: String| {
            let counts = self.pipelines.rule_counts(&rule).unwrap_or_default();
            let own: Vec<_> = statuses.iter().filter(|it| it.rule == rule).cloned().collect();
            let meter = rules.entry(rule.clone()).or_default();
            meter.look(&own);
            let (success, failed) = meter.rows(counts.failed_exception);
            (rule, [counts.matched, success, failed])
        };
        self.pipelines.listed().into_keys().map(of).collect()
    }

    fn rules(&self) -> MutexGuard<'_, BTreeMap<String, Meter>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn to_json(counts: RuleCounts, meter: &Meter, waiting: u64) -> Value {
    let RuleCounts { matched, passed, failed_exception, no_result } = counts;
    let (success, failed) = meter.rows(failed_exception);
    json!({
        "matched": matched,
        "matched.rate": meter.rates.now(),
        "matched.rate.max": meter.rates.max(),
        "matched.rate.last5m": meter.rates.last_5m(),
        "passed": passed,
        "failed": failed_exception + no_result,
        "failed.exception": failed_exception,
        "failed.no_result": no_result,
        "actions.total": success + failed,
        "actions.success": success,
        "actions.failed": failed,
        "actions.failed.out_of_service": waiting,
        "actions.failed.unknown": failed,
        "actions.discarded": 0,
    })
}

/// One rule's metrics.
#[utoipa::path(get, path = "/rules/{id}/metrics", tag = "Rules", operation_id = "rules_metrics",
    params(("id" = String, Path, description = "The rule's id")),
    responses((status = 200, description = "Its numbers", body = Metrics),
        (status = 404, description = "There is no such rule", body = ErrorBody), Refused))]
pub(super) async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    shown::one(&app, &id).ok_or_else(not_found)?;
    let metrics = app.meters.show(&id);
    let of_node = json!({"node": &*app.node, "metrics": metrics});
    Ok(Json(json!({"id": id, "metrics": metrics, "node_metrics": [of_node]})))
}

/// Begins one rule's metrics anew.
#[utoipa::path(put, path = "/rules/{id}/metrics/reset", tag = "Rules", operation_id = "rules_metrics_reset",
    params(("id" = String, Path, description = "The rule's id")),
    responses((status = 204, description = "They begin anew"),
        (status = 404, description = "There is no such rule", body = ErrorBody), Refused))]
pub(super) async fn reset(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    shown::one(&app, &id).ok_or_else(not_found)?;
    app.meters.reset(&id);
    audit::write(&app, &caller, "rules.metrics.reset", &id, json!({})).await;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use muster_sinks::Totals;
    use muster_sinks::delivery::PipelineState;

    use super::*;

    fn status(sink: &str, opened: (u64, u64), now: (u64, u64)) -> PipelineStatus {
        PipelineStatus {
            rule: "r".to_owned(),
            sink: sink.to_owned(),
            target: String::new(),
            lanes: 1,
            state: PipelineState::Running,
            matched: now.0 + now.1,
            delivered: now.0,
            dead: now.1,
            opened: Totals { matched: opened.0 + opened.1, delivered: opened.0, dead: opened.1 },
            pending: 0,
            cursor: 7,
            lag_events: 0,
            lag_ms: 0,
            failures: 0,
            next_attempt_at_ms: None,
            last_error: None,
            last_error_at_ms: None,
            hint: None,
            notes: Vec::new(),
        }
    }

    #[test]
    fn actions_are_counted_since_the_start_or_a_reset() {
        let mut meter = Meter::default();
        meter.look(&[PipelineStatus { cursor: 0, ..status("a", (0, 0), (0, 0)) }]);
        assert_eq!(meter.rows(0), (0, 0));
        meter.look(&[status("a", (10, 1), (15, 4)), status("b", (0, 0), (5, 0))]);
        assert_eq!(meter.rows(0), (10, 3));
        assert_eq!(meter.rows(1), (10, 2), "an event on which the rule fails is no failure of an action");
        // A pipeline that starts again goes on counting.
        meter.look(&[status("a", (15, 4), (16, 4))]);
        assert_eq!(meter.rows(0), (11, 3));
        meter.reset();
        assert_eq!(meter.rows(0), (0, 0));
        meter.look(&[status("a", (15, 4), (18, 5)), status("b", (0, 0), (5, 1))]);
        assert_eq!(meter.rows(0), (2, 2));
        let counts = RuleCounts { matched: 9, passed: 4, failed_exception: 1, no_result: 4 };
        let shown = to_json(counts, &meter, 3);
        for (name, value) in [("failed", 5), ("actions.total", 2), ("actions.failed.out_of_service", 3)] {
            assert_eq!(shown[name], value, "{name}: {shown}");
        }
    }
}
