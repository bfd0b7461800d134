//! Seats that nobody counts for a while, as `docs/redis.md` has it: a worker that comes onto the books is counted by
//! the seats that are written down for it, for its user may not read whose leases there are. Those that somebody
//! deleted are missed until the next poll.

use super::database::Database;
use std::collections::BTreeSet;

/// The workers that had a count after the last command, once somebody has disturbed a key.
pub struct Counted(BTreeSet<String>);

impl Counted {
    pub fn new(database: &Database) -> Counted {
        let counted = database.hash_now("cluster:active_connections");
        Counted(
            counted
                .into_iter()
                .flat_map(|it| it.keys().cloned())
                .collect(),
        )
    }

    /// Whether a worker has a count here that it had not before.
    pub fn lacks(&self, worker: &str, after: &Counted) -> bool {
        after.0.contains(worker) && !self.0.contains(worker)
    }
}

/// Whether the seat of a session is written down for its worker.
pub fn is_seated(database: &Database, worker: &str, session: &str) -> bool {
    let seats = database.hash_now(&format!("playhouse:seats:{worker}"));
    seats.is_some_and(|it| it.contains_key(session))
}
