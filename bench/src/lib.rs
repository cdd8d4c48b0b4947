//! A load generator for any MQTT broker, and a suite that puts Muster beside its peers and beside the limits of the
//! machine. It must never know how Muster works inside: it starts the released binary and talks to it by its address.
#![allow(clippy::disallowed_methods, reason = "a benchmark measures by the real clock")]

mod cli;
mod client;
mod clock;
mod codec;
mod cores;
mod counts;
mod echo;
mod load;
mod null_broker;
mod outcome;
mod payload;
mod process;
mod report;
mod rumqttd;
mod seen;
#[cfg(test)]
mod smoke;
mod suite;

pub use cli::main;
