//! From rule files to running pipelines.
#![allow(dead_code)]
mod secrets;
