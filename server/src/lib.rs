//! The server: configuration, wiring, pipelines, presence, REST, command line. The parts (log, broker, rules, sinks)
//! live in their own crates and meet here; whatever can be decided without two of them belongs there, not here.

pub mod access;
pub mod alarms;
pub mod cli;
pub mod config;
pub mod demo;
pub mod error;
pub mod metrics;
pub mod pipelines;
pub mod platform;
pub mod presence;
pub mod projection;
pub mod republish;
pub mod rest;
pub mod schema;
pub mod statistics;
