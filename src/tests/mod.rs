//! Tests of several modules together that need what only the crate itself can see.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub mod simulation;
