//! The life of a worker with real browsers: the agent in this process over a memory store, looked
//! at through the store, the kernel's process table and the temporary files.
//!
//! * [`life`]: it starts, serves, is recycled without a gap, drains and ends.
//! * [`death`]: its processes and the one that runs it are killed; nothing is left behind.
//! * [`away`]: it goes on without its store.
//! * [`bench`]: what they are written with.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod away;
mod bench;
mod death;
mod life;
#[path = "../support/mod.rs"]
mod support;
