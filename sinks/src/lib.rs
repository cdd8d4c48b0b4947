//! Sinks and delivery: how the rows that rules make reach their targets, none lost and none doubled. The engine
//! ([`delivery`]) reads the log and knows the promises; a sink knows its target. Neither knows a rule.

mod clickhouse;
mod cloudevents;
pub mod database;
pub mod delivery;
pub mod error;
mod influxdb;
mod kafka;
pub mod migrate;
mod mongodb;
mod part;
mod postgres;
mod registry;
mod row;
mod sink;
mod sqlite;
mod template;
mod upsert;
mod webhook;

pub use part::{LANES_MAX, Lane, Part, SLOTS, slot};
pub use registry::{
    Built, COMMON, Kind, OptionSpec, SinkEnv, SinkSpec, build, kinds, limits, migrator, retry_wait_max,
};
pub use row::SharedRow;
pub use sink::{
    Batch, BatchId, BatchRow, BoxFuture, Checkpoint, Cursor, Durable, Memory, Outcome, PipelineId,
    RowOutcome, Sink, Totals,
};

pub use error::{ErrorKind, SinkError};
