//! Seats that nobody counts for a while, as `docs/redis.md` has it: a worker that comes onto the books is counted by
//! the seats that are written down for it, for its user may not read whose leases there are. Those that somebody
//! deleted are missed until the next poll.

use super::database::Database;
use crate::model::WorkerKey;
use std::collections::{BTreeMap, BTreeSet};

/// How many seats are missed of whom, once somebody has disturbed a key.
pub struct Miscounted {
    /// The workers that had a count after the last command.
    counted: BTreeSet<String>,
    missed: BTreeMap<String, u32>,
}

impl Miscounted {
    pub fn new(database: &Database) -> Miscounted {
        Miscounted {
            counted: counts(database).map(|it| it.0.clone()).collect(),
            missed: BTreeMap::new(),
        }
    }

    /// By how many the sessions of a worker may exceed its seats.
    pub fn missed(&self, worker: &WorkerKey) -> u32 {
        let missed = self.missed.get(&worker.to_string());
        missed.copied().unwrap_or(0)
    }

    /// Looks at the database after a command; `leased` are the sessions that have leases, each with its worker.
    pub fn look<'a>(
        &mut self,
        database: &Database,
        leased: impl Iterator<Item = (&'a WorkerKey, &'a str)>,
    ) {
        let mut sessions: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (worker, session) in leased {
            sessions
                .entry(worker.to_string())
                .or_default()
                .push(session);
        }
        for (worker, count) in counts(database) {
            let sessions = sessions.remove(worker).unwrap_or_default();
            let seats = database.hash_now(&format!("playhouse:seats:{worker}"));
            let seated = |session: &&str| seats.is_some_and(|it| it.contains_key(*session));
            let unseated = sessions.iter().filter(|it| !seated(it)).count() as u32;
            let held = seats.map_or(0, BTreeMap::len);
            if !self.counted.contains(worker) && unseated > 0 {
                self.missed.insert(worker.clone(), unseated);
            } else if unseated == 0 && *count == held.to_string() {
                self.missed.remove(worker);
            }
        }
        self.counted = counts(database).map(|it| it.0.clone()).collect();
    }
}

fn counts(database: &Database) -> impl Iterator<Item = (&String, &String)> {
    let counts = database.hash_now("cluster:active_connections");
    counts.into_iter().flatten()
}
