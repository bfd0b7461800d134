//! Who may come in, and in which order those wait for whom there is no seat.
//!
//! [`tokens`] tells tenants apart and keeps their quotas; [`queue`] is the line in front of full
//! workers, on top of the pure [`turns`]. Nothing here knows of HTTP, sockets or the store.

pub mod line;
pub mod queue;
pub mod tokens;
pub mod turns;
