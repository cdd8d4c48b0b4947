//! What all of Muster stands on: events and their log, values and rows, topic filters, the registry and what sessions
//! keep (embedded SQLite), certificates for whoever listens, and the clock. It knows no MQTT packet, no HTTP, no rule
//! and no sink.

pub mod clock;
pub mod event;
pub mod journal;
pub mod log;
pub mod registry;
pub mod sessions;
pub mod tls;
pub mod topic;
pub mod value;
