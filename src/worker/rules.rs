//! The configuration as the life cycle wants it: the rules in force at a moment.

use super::lifecycle::{Room, Rules};
use crate::config::Config;

/// The rules in force, with the memory that there is. A worker that is to `start_over` does not end with a browser
/// that it recycled.
pub fn rules(config: &Config, start_over: bool, room: Room) -> Rules {
    let limits = config.limits.of(config.worker_size());
    Rules {
        mode: config.recycle.mode,
        max_lifetime_sessions: limits.lifetime(),
        ceiling: config.recycle.ceiling_of(&limits),
        max_memory: config.recycle.max_memory,
        max_age: config.recycle.max_age,
        max_failures: config.recycle.max_failures,
        recycle_timeout: config.recycle.drain_timeout,
        drain_timeout: config.worker.drain_timeout,
        max_draining: config.recycle.max_draining,
        room,
        start_over,
    }
}
