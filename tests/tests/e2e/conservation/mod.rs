//! Conservation: whatever breaks, and whenever, each acknowledged message ends in the target or in the dead letters,
//! once; nothing else does; the books are exact; and when the faults end, things flow. One oracle ([`run`]), one small
//! file a target that says how it is reached, broken and read. A new target is such a file and a test here.

mod books;
mod clickhouse;
mod influxdb;
mod kafka;
mod mongodb;
mod outage;
mod postgres;
mod run;
mod sqlite;
mod target;
mod webhook;
