//! Who may come in, and in which order those wait for whom there is no seat.
//!
//! [`tokens`] tells tenants apart and keeps their quotas. [`line`](mod@line) is every client's way from its
//! question to its seat, [`turns`] the order of those who wait, and [`shares`] who has to go when too many do, by
//! the [`schedule`] of tenants: all pure. [`queue`] puts them to work. Nothing here knows of HTTP, sockets or the
//! store.

pub mod line;
pub mod queue;
pub mod schedule;
pub mod shares;
pub mod tokens;
pub mod turns;
