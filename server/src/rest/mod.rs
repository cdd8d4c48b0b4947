//! REST.
#![allow(dead_code)]
mod reply;
