//! Demo.
#![allow(dead_code)]
mod devices;
