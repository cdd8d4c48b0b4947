//! InfluxDB: a row is a point of line protocol. Its nanosecond follows from the event, so a row that is written again
//! is the same point, and no checkpoint and no recorded batch is needed for once to be once.

mod answer;
mod client;
mod config;
mod deliver;
mod encode;
mod migrate;
mod shape;
#[cfg(test)]
mod tests;

use std::time::Duration;

use muster_core::clock::SharedClock;

use crate::delivery::{DEAD_LETTERS_PER_MINUTE, Limits};
use crate::error::SinkError;
use crate::registry::{Kind, OptionSpec};
use crate::sink::{Batch, BoxFuture, Memory, Outcome, PipelineId, Sink};

use client::Client;
use config::Connection;
use shape::Shape;

/// This sink's row in the registry.
pub(crate) const KIND: Kind = Kind {
    name: "influxdb",
    summary: "a measurement in InfluxDB: line protocol to the write endpoint of API v2 or v1",
    options: &[
        OptionSpec::new("url", None, "the server, http:// or https://"),
        OptionSpec::new("api", Some("v2"), "`v2`: InfluxDB 1.8 and later; `v1`: any InfluxDB 1"),
        OptionSpec::new("org", None, "v2: the organisation (InfluxDB 1.8 wants none)"),
        OptionSpec::new(
            "bucket",
            None,
            "v2: the bucket (InfluxDB 1.8: `database` or `database/retention-policy`)",
        ),
        OptionSpec::secret("token", "v2: the token (InfluxDB 1.8: `user:password`)"),
        OptionSpec::new("database", None, "v1: the database"),
        OptionSpec::new(
            "retention_policy",
            None,
            "v1: the retention policy; without it the database's default",
        ),
        OptionSpec::new("username", None, "v1: the user"),
        OptionSpec::secret("password", "v1: the user's password"),
        OptionSpec::new(
            "consistency",
            None,
            "v1: `any`, `one`, `quorum` or `all` nodes of a cluster have a point",
        ),
        OptionSpec::new(
            "measurement",
            None,
            "the measurement, e.g. `sensors` or `${event}`; without it the target of `INTO`, or the rule's name",
        ),
        OptionSpec::new(
            "tags",
            Some("clientid,event,node"),
            "columns that become tags; the empty text: none",
        ),
        OptionSpec::new("rule_tag", Some("rule"), "the tag that holds the rule's name; the empty text: none"),
        OptionSpec::new("fields", None, "columns that become fields; without it all that are no tag"),
        OptionSpec::new(
            "floats",
            None,
            "columns whose integers are written as floats; `*`: all. Needed where 20 and 20.5 are in one column",
        ),
        OptionSpec::new(
            "nested",
            Some("json"),
            "maps and lists: `json`, one string field; `flatten`, a field a value",
        ),
        OptionSpec::new("timestamp", None, "the column that says when; without it the time of the event"),
        OptionSpec::new(
            "retention",
            Some("0"),
            "how long what `muster migrate` creates keeps points; `0`: for ever",
        ),
        OptionSpec::new("gzip", Some("true"), "whether requests are compressed"),
        OptionSpec::new("timeout_ms", Some("10000"), "how long an answer may take"),
        OptionSpec::new(
            "ca_file",
            None,
            "certificates (PEM) that sign the server's, instead of the system's",
        ),
        OptionSpec::secret("header.", "a header of each request, e.g. `header.X-Scope-OrgID = 'fleet'`"),
    ],
    example: "CREATE SINK tsdb TYPE influxdb WITH (url = 'https://influx.example.com:8086', org = 'ops', bucket = 'fleet', token = '${env:INFLUX_TOKEN}');",
    page: "sinks/docs/influxdb.md",
    limits: Limits {
        batch_rows_max: 5_000,
        batch_bytes_max: 4 << 20,
        batch_wait: Duration::from_millis(50),
        dead_letters_per_minute_max: DEAD_LETTERS_PER_MINUTE,
    },
    has_targets: true,
    migrate: Some(|options, env| Ok(Box::new(migrate::Target::new(options, env)?))),
    build: |options, env| {
        let (connection, shape) = (Connection::parse(options, env)?, Shape::parse(options)?);
        config::Retention::parse(options)?;
        Ok(Box::new(Influx { connection, shape, clock: env.clock.clone(), client: None }))
    },
};

struct Influx {
    connection: Connection,
    shape: Shape,
    clock: SharedClock,
    client: Option<Client>,
}

impl Influx {
    fn client(&mut self) -> Result<(&Client, &Shape), SinkError> {
        if self.client.is_none() {
            self.client = Some(Client::new(&self.connection, self.clock.clone())?);
        }
        let client = self.client.as_ref().ok_or_else(|| SinkError::unavailable("the sink is not open"))?;
        Ok((client, &self.shape))
    }
}

impl Sink for Influx {
    /// A row is the same point in whatever request it comes.
    fn wants_recorded_batches(&self) -> bool {
        false
    }

    fn open<'a>(&'a mut self, _pipeline: &'a PipelineId) -> BoxFuture<'a, Result<Memory, SinkError>> {
        Box::pin(async move {
            // A certificate that was put right counts from here on.
            self.client = None;
            self.client()?;
            Ok(Memory::None)
        })
    }

    fn deliver<'a>(&'a mut self, batch: &'a Batch) -> BoxFuture<'a, Result<Outcome, SinkError>> {
        Box::pin(async move {
            let (client, shape) = self.client()?;
            Ok(deliver::deliver(client, shape, batch).await)
        })
    }

    fn check(&mut self) -> BoxFuture<'_, Result<(), SinkError>> {
        Box::pin(async move { self.client()?.0.check().await })
    }
}
