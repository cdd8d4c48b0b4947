//! Prometheus text. Names are constants: counters end in `_total`, units are base units (bytes, seconds), and no
//! label has values without bound: a rule, a sink and a QoS may be one, a client id never.

use std::fmt::Write as _;

/// Seconds that the process has run.
pub const UPTIME_SECONDS: Family = gauge("muster_uptime_seconds", "Time since the process started.");
/// The version, as a label.
pub const BUILD_INFO: Family = gauge("muster_build_info", "Always 1; the version is a label.");
/// Connected clients.
pub const CONNECTIONS: Family = gauge("muster_mqtt_connections", "Clients that are connected.");
/// Sessions.
pub const SESSIONS: Family = gauge("muster_mqtt_sessions", "Sessions, with or without a connection.");
/// Subscriptions.
pub const SUBSCRIPTIONS: Family = gauge("muster_mqtt_subscriptions", "Subscriptions of all sessions.");
/// Retained messages.
pub const RETAINED: Family = gauge("muster_mqtt_retained_messages", "Retained messages.");
/// Bytes read from clients.
pub const RECEIVED_BYTES: Family = counter("muster_mqtt_received_bytes_total", "Bytes read from clients.");
/// Bytes written to clients.
pub const SENT_BYTES: Family = counter("muster_mqtt_sent_bytes_total", "Bytes written to clients.");
/// Packets read from clients.
pub const RECEIVED_PACKETS: Family = counter("muster_mqtt_received_packets_total", "Packets from clients.");
/// Packets written to clients.
pub const SENT_PACKETS: Family = counter("muster_mqtt_sent_packets_total", "Packets to clients.");
/// CONNECTs.
pub const CONNECTS: Family = counter("muster_mqtt_connects_total", "CONNECT packets.");
/// Refused CONNECTs.
pub const CONNECTS_REFUSED: Family =
    counter("muster_mqtt_connects_refused_total", "CONNECT packets refused.");
/// Requests of REST that were not let in.
pub const REST_REFUSED: Family = counter(
    "muster_rest_refused_requests_total",
    "Requests of REST refused, by reason: unknown (401, 429) or role (403).",
);
/// Publishes by QoS.
pub const RECEIVED_MESSAGES: Family =
    counter("muster_mqtt_received_messages_total", "Publishes from clients, by QoS.");
/// Publishes in the log.
pub const PUBLISHED_MESSAGES: Family =
    counter("muster_mqtt_published_messages_total", "Publishes written to the event log.");
/// Publishes that the log refused.
pub const REFUSED_MESSAGES: Family =
    counter("muster_mqtt_refused_messages_total", "Publishes that the event log refused.");
/// Messages to subscribers.
pub const DELIVERED_MESSAGES: Family =
    counter("muster_mqtt_delivered_messages_total", "Messages written to subscribers.");
/// Dropped deliveries.
pub const DROPPED_DELIVERIES: Family =
    counter("muster_mqtt_dropped_deliveries_total", "Messages for one subscriber that were dropped.");
/// The log's durable end.
pub const LOG_DURABLE_OFFSET: Family =
    gauge("muster_log_durable_offset", "One past the newest event that is durable.");
/// The log's oldest event.
pub const LOG_FIRST_OFFSET: Family = gauge("muster_log_first_offset", "The oldest event that is kept.");
/// The log's size.
pub const LOG_BYTES: Family = gauge("muster_log_bytes", "Bytes that the event log takes on the disk.");
/// The log's size before compression.
pub const LOG_RAW_BYTES: Family =
    gauge("muster_log_raw_bytes", "Bytes of the event log as it was written, before compression.");
/// The log's files.
pub const LOG_SEGMENTS: Family = gauge("muster_log_segments", "Segments of the event log.");
/// The log's compressed files.
pub const LOG_SEGMENTS_COMPRESSED: Family =
    gauge("muster_log_segments_compressed", "Segments of the event log that are compressed.");
/// The log's limit.
pub const LOG_CAP_BYTES: Family = gauge("muster_log_cap_bytes", "The size that the event log never exceeds.");
/// Who holds it back.
pub const LOG_SLOWEST_HOLD_OFFSET: Family = gauge(
    "muster_log_slowest_hold_offset",
    "From here on somebody still needs the log; retention goes no further.",
);
/// Bytes that wait.
pub const LOG_QUEUED_BYTES: Family = gauge("muster_log_queued_bytes", "Bytes that wait to be written.");
/// Syncs.
pub const LOG_SYNCS: Family = counter("muster_log_syncs_total", "Syncs of the log to the disk.");
/// Records.
pub const LOG_RECORDS: Family = counter("muster_log_records_total", "Events that were made durable.");
/// Rules.
pub const RULES: Family = gauge("muster_rules", "Rules that are loaded.");
/// What is wrong with rules.
pub const RULE_PROBLEMS: Family =
    gauge("muster_rule_problems", "Errors and warnings in the rule files, as of the last look.");
/// Alarms that are on.
pub const ALARMS_ACTIVE: Family = gauge(
    "muster_alarms_active",
    "Alarms about devices that are on, by name and severity; a storm's summary counts as one.",
);
/// Armed timers.
pub const ALARMS_WAITING: Family =
    gauge("muster_alarms_waiting_devices", "Devices whose grace time runs, by alarm.");
/// Who is held back.
pub const ALARMS_HELD: Family =
    gauge("muster_alarms_held_devices", "Devices without an alarm of their own, for whom a storm's stands.");
/// Rows matched.
pub const PIPELINE_MATCHED: Family =
    counter("muster_pipeline_matched_rows_total", "Rows that the rule made, and events on which it failed.");
/// Rows delivered.
pub const PIPELINE_DELIVERED: Family =
    counter("muster_pipeline_delivered_rows_total", "Rows that are in the target, committed.");
/// Rows dead.
pub const PIPELINE_DEAD: Family =
    counter("muster_pipeline_dead_rows_total", "Rows and events that went to the dead letters.");
/// Rows pending.
pub const PIPELINE_PENDING: Family = gauge("muster_pipeline_pending_rows", "Rows made and not settled yet.");
/// Events behind.
pub const PIPELINE_LAG_EVENTS: Family =
    gauge("muster_pipeline_lag_events", "Events in the log that are not settled yet.");
/// Seconds behind.
pub const PIPELINE_LAG_SECONDS: Family =
    gauge("muster_pipeline_lag_seconds", "Age of the oldest event that is not settled yet.");
/// Whether it delivers.
pub const PIPELINE_UP: Family = gauge(
    "muster_pipeline_up",
    "1 while the pipeline delivers or waits for events, 0 while something is wrong.",
);

/// Whether it stands still.
pub const PIPELINE_STALLED: Family = gauge(
    "muster_pipeline_stalled",
    "1 while the pipeline has something to deliver and does not advance without somebody's help.",
);

/// Batches at a time.
pub const PIPELINE_LANES: Family =
    gauge("muster_pipeline_lanes", "Lanes of the pipeline: batches that may be under way at a time.");

/// A metric: its name, type and what it says.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: "gauge", help }
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: "counter", help }
}

/// A page of metrics under construction.
#[derive(Debug, Default)]
pub struct Page(String);

/// Labels of one sample.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    /// Adds a family of one sample without labels.
    pub fn one(&mut self, family: Family, value: impl Into<Number>) {
        self.many(family, [(&[] as Labels<'_>, value.into())]);
    }

    /// Adds a family with its samples; one without samples is left out.
    pub fn many<'a>(&mut self, family: Family, samples: impl IntoIterator<Item = (Labels<'a>, Number)>) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let Family { name, kind, help } = family;
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, Number(value)) in samples {
            self.0.push_str(name);
            for (at, (label, text)) in labels.iter().enumerate() {
                let start = if at == 0 { '{' } else { ',' };
                let _ = write!(self.0, "{start}{label}=\"{}\"", escaped(text));
            }
            let end = if labels.is_empty() { "" } else { "}" };
            let _ = writeln!(self.0, "{end} {value}");
        }
    }

    /// The page.
    pub fn finish(self) -> String {
        self.0
    }
}

/// A sample's value, printed without loss.
#[derive(Debug)]
pub struct Number(String);

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self(value.to_string())
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self(value.to_string())
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self(value.to_string())
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_page() {
        let mut page = Page::default();
        page.one(CONNECTIONS, 3usize);
        page.one(UPTIME_SECONDS, 1.5);
        page.many(PIPELINE_UP, []);
        page.many(
            RECEIVED_MESSAGES,
            [(&[("qos", "0")] as Labels<'_>, 7u64.into()), (&[("a", "x\"\n"), ("b", "\\")], 1u64.into())],
        );
        expect![[r#"
            # HELP muster_mqtt_connections Clients that are connected.
            # TYPE muster_mqtt_connections gauge
            muster_mqtt_connections 3
            # HELP muster_uptime_seconds Time since the process started.
            # TYPE muster_uptime_seconds gauge
            muster_uptime_seconds 1.5
            # HELP muster_mqtt_received_messages_total Publishes from clients, by QoS.
            # TYPE muster_mqtt_received_messages_total counter
            muster_mqtt_received_messages_total{qos="0"} 7
            muster_mqtt_received_messages_total{a="x\"\n",b="\\"} 1
        "#]]
        .assert_eq(&page.finish());
    }
}
