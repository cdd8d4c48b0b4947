//! Permissions: who may publish and subscribe where. Rules as data, and in what order they are asked. It must never know
//! where rules are stored, nor what a session does with an answer.

mod rule;

pub use rule::{Permission, Retain, Rule, RuleAction};
