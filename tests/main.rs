//! The tests that see Playhouse from outside, in one binary.
//!
//! * [`grid`]: the real program with real browsers, or with fake ones where a real one cannot be
//!   made to fail on purpose.
//! * [`kit`]: that the fakes behave like what they stand for.
//! * [`support`]: what they are written with: a grid, clients, a fake Playwright server, a Redis.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod grid;
mod kit;
mod support;
