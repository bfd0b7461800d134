//! The composition root: the only place that sees everything. Builds the parts, runs them, and
//! takes them down in order.
//!
//! * [`serve`]: the proxy, with or without workers of its own: `playhouse proxy` and `up`.
//! * [`ending`]: signals, draining, and the end of the process.

pub mod descriptors;
pub mod ending;
pub mod serve;
