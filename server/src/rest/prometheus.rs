//! Numbers for Prometheus: `/metrics` in our own words, since the start; `/api/v5/prometheus/stats` under the names of
//! EMQX v5, so that dashboards made for it go on, over restarts.

use std::fmt::Write as _;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use muster_sinks::delivery::{PipelineState, PipelineStatus};

use serde_json::{Map, Value};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::pipelines::seconds;
use super::reply::Refused;
use super::stats;
use crate::alarms::Counts;
use crate::metrics::{self as m, Family, Labels, Number, Page};

/// The text format that every scraper understands.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// First parts of names that are groups of their own.
const GROUPS: [&str; 5] = ["packets", "messages", "delivery", "client", "session"];

/// The paths under `/api/v5`.
pub(super) fn router() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(stats_of_reference))
}

/// Gauges and counters under the names of EMQX v5, as text for Prometheus, or as JSON where only that is accepted.
#[utoipa::path(
    get, path = "/prometheus/stats", tag = "Statistics", operation_id = "prometheus_stats",
    responses(
        (status = 200, description = "Text, or an object with a map of numbers for each group.",
            content((String = "text/plain"), (Value = "application/json"))),
        Refused)
)]
async fn stats_of_reference(State(app): State<App>, headers: HeaderMap) -> Response {
    let (gauges, counters) = (stats::gauges(&app), stats::counters(&app).await);
    let accept = headers.get(header::ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default();
    if accept.starts_with("application/json") {
        return Json(grouped(gauges, counters)).into_response();
    }
    let mut text = String::new();
    for (kind, numbers) in [("gauge", gauges), ("counter", counters)] {
        for (name, value) in numbers {
            let metric = of_reference(&name);
            let _ = write!(text, "# HELP {metric} {name}\n# TYPE {metric} {kind}\n{metric} {value}\n");
        }
    }
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

/// The name in which the reference shows `name` to Prometheus.
fn of_reference(name: &str) -> String {
    format!("emqx_{}", name.replace('.', "_"))
}

/// Gauges under `stats`; counters by what the first part of their name says, transport under `metrics`.
fn grouped(gauges: Map<String, Value>, counters: Map<String, Value>) -> Value {
    let mut groups = Map::new();
    let mut put = |group: &str, name: &str, value: Value| {
        let group = groups.entry(group).or_insert_with(|| Map::new().into());
        if let Value::Object(group) = group {
            group.insert(of_reference(name), value);
        }
    };
    for (name, value) in gauges {
        put("stats", &name, value);
    }
    for (name, value) in counters {
        let group = name.split('.').next().filter(|group| GROUPS.contains(group)).unwrap_or("metrics");
        put(group, &name, value);
    }
    groups.into()
}

/// Everything that is counted, in our own names, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "Status", operation_id = "prometheus_metrics",
    responses((status = 200, description = "Families of numbers", body = String, content_type = "text/plain"), Refused)
)]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    page.many(m::BUILD_INFO, [(&[("version", version)] as Labels<'_>, 1u64.into())]);
    page.one(m::UPTIME_SECONDS, app.clock.monotonic().saturating_sub(app.started).as_secs_f64());
    let (unknown, not_allowed) = app.access.keys.refused();
    let refused: [(Labels<'_>, Number); 2] =
        [(&[("reason", "unknown")], unknown.into()), (&[("reason", "role")], not_allowed.into())];
    page.many(m::REST_REFUSED, refused);
    broker(&app, &mut page);
    log(&app, &mut page);
    pipelines(&app.pipelines.status(), &mut page);
    alarms(&app.pipelines.board().counts(), &mut page);
    page.one(m::RULES, app.pipelines.rules());
    page.one(m::RULE_PROBLEMS, app.pipelines.problems().len());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], page.finish()).into_response()
}

fn broker(app: &App, page: &mut Page) {
    let stats = app.broker.stats();
    page.one(m::CONNECTIONS, stats.connections);
    page.one(m::SESSIONS, stats.sessions);
    page.one(m::SUBSCRIPTIONS, stats.subscriptions);
    page.one(m::RETAINED, stats.retained);
    let it = stats.counters;
    page.one(m::RECEIVED_BYTES, it.bytes_received);
    page.one(m::SENT_BYTES, it.bytes_sent);
    page.one(m::RECEIVED_PACKETS, it.packets_received);
    page.one(m::SENT_PACKETS, it.packets_sent);
    page.one(m::CONNECTS, it.connects);
    page.one(m::CONNECTS_REFUSED, it.connects_refused);
    let by_qos: [(Labels<'_>, Number); 3] = [
        (&[("qos", "0")], it.messages_received_qos0.into()),
        (&[("qos", "1")], it.messages_received_qos1.into()),
        (&[("qos", "2")], it.messages_received_qos2.into()),
    ];
    page.many(m::RECEIVED_MESSAGES, by_qos);
    page.one(m::PUBLISHED_MESSAGES, it.messages_published);
    page.one(m::REFUSED_MESSAGES, it.messages_refused);
    page.one(m::DELIVERED_MESSAGES, it.messages_delivered);
    page.one(m::DROPPED_DELIVERIES, it.deliveries_dropped);
}

fn log(app: &App, page: &mut Page) {
    let stats = app.journal.log().stats();
    page.one(m::LOG_FIRST_OFFSET, stats.first_offset);
    page.one(m::LOG_DURABLE_OFFSET, stats.durable_offset);
    page.one(m::LOG_BYTES, stats.bytes);
    page.one(m::LOG_RAW_BYTES, stats.raw_bytes);
    page.one(m::LOG_SEGMENTS, stats.segments);
    page.one(m::LOG_SEGMENTS_COMPRESSED, stats.segments_compressed);
    page.one(m::LOG_QUEUED_BYTES, stats.queued_bytes);
    page.one(m::LOG_SYNCS, stats.syncs_total);
    page.one(m::LOG_RECORDS, stats.records_total);
    if let Some(cap) = stats.cap_bytes {
        page.one(m::LOG_CAP_BYTES, cap);
    }
    if let Some((_, offset)) = stats.slowest_hold {
        page.one(m::LOG_SLOWEST_HOLD_OFFSET, offset);
    }
}

fn pipelines(all: &[PipelineStatus], page: &mut Page) {
    type Value = fn(&PipelineStatus) -> Number;
    let families: [(Family, Value); 9] = [
        (m::PIPELINE_MATCHED, |it| it.matched.into()),
        (m::PIPELINE_DELIVERED, |it| it.delivered.into()),
        (m::PIPELINE_DEAD, |it| it.dead.into()),
        (m::PIPELINE_PENDING, |it| it.pending.into()),
        (m::PIPELINE_LAG_EVENTS, |it| it.lag_events.into()),
        (m::PIPELINE_LAG_SECONDS, |it| seconds(it.lag_ms).into()),
        (m::PIPELINE_UP, |it| u64::from(is_up(it.state)).into()),
        (m::PIPELINE_LANES, |it| u64::from(it.lanes).into()),
        (m::PIPELINE_STALLED, |it| u64::from(it.state == PipelineState::Stalled).into()),
    ];
    for (family, value) in families {
        let labels = all.iter().map(|it| [("rule", &*it.rule), ("sink", &*it.sink), ("target", &*it.target)]);
        let labels: Vec<_> = labels.collect();
        page.many(family, labels.iter().map(|labels| &labels[..]).zip(all.iter().map(value)));
    }
}

/// Names of alarms are as many as there are definitions; who they are about is in no label.
fn alarms(all: &[Counts], page: &mut Page) {
    let active =
        all.iter().flat_map(|it| it.active.iter().map(move |(severity, on)| (&it.name, severity, *on)));
    let labels: Vec<_> = active
        .map(|(name, severity, on)| ([("name", name.as_str()), ("severity", severity.as_str())], on))
        .collect();
    page.many(m::ALARMS_ACTIVE, labels.iter().map(|(labels, on)| (&labels[..], (*on).into())));
    let names: Vec<_> = all.iter().map(|it| [("name", it.name.as_str())]).collect();
    let names = || names.iter().map(|labels| &labels[..]);
    page.many(m::ALARMS_WAITING, names().zip(all.iter().map(|it| it.waiting.into())));
    page.many(m::ALARMS_HELD, names().zip(all.iter().map(|it| it.held.into())));
}

fn is_up(state: PipelineState) -> bool {
    matches!(state, PipelineState::Starting | PipelineState::Running | PipelineState::Paused)
}
