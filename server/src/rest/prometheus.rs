//! `GET /metrics`.

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use muster_sinks::delivery::{PipelineState, PipelineStatus};

use super::App;
use super::pipelines::seconds;
use crate::metrics::{self as m, Family, Labels, Number, Page};

/// The text format that every scraper understands.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that is counted.
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

fn is_up(state: PipelineState) -> bool {
    matches!(state, PipelineState::Starting | PipelineState::Running | PipelineState::Paused)
}
