//! The examples for targets (`examples/rules/TARGET`, `examples/queries/TARGET`) against the real servers: what the
//! tables hold and what the queries answer is what a plain model makes of the log. One file a target that says how it
//! is reached and read.

mod alarms;
mod backfill;
mod clickhouse;
mod expected;
mod influxdb;
mod kafka;
mod mongodb;
mod postgres;
mod scene;
mod sqlite;
mod store;
mod webhook;
