//! The store, from the outside.
//!
//! * `suite`: what every store promises, run unchanged on memory and on Redis.
//! * `model`: random interleavings from several proxies, against a model, on both.
//! * `loss`: proxies that die, Redis that goes away, comes back empty, is paused or read-only.
//! * `apart`: grids that share one Redis.
//! * `awaited`: who is waited for when Redis came back empty.
//! * `changes`: what proxies are told of, and what they read when they were not.
//! * `disturbed`: keys that somebody deleted, overwrote or put there by mistake.
//! * `line`: who waits at which proxy, and who is served first.
//! * `original`: a worker that registers by writing its hash by hand.
//! * `reach`: TCP, TLS, passwords, database numbers, a Redis that is late.
//!
//! Tests on Redis start their own `redis-server`, in a temporary folder.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

#[path = "store/apart.rs"]
mod apart;
#[path = "store/awaited.rs"]
mod awaited;
#[path = "store/changes.rs"]
mod changes;
#[path = "store/disturbed.rs"]
mod disturbed;
#[path = "store/line.rs"]
mod line;
#[path = "store/loss.rs"]
mod loss;
#[path = "store/model.rs"]
mod model;
#[path = "store/original.rs"]
mod original;
#[path = "store/reach.rs"]
mod reach;
#[path = "store/stores.rs"]
mod stores;
#[path = "store/suite.rs"]
mod suite;
