//! Sinks and delivery
