//! Whose places a line that is too short for all has: who has to go when more wait than may. Pure.
//!
//! Each tenant has one place before any has a second, and what is left is shared by priority. Where
//! there are fewer places than tenants, they have the places in turn, by priority too: a client that
//! leaves its place for any reason but this one has used a turn of its tenant, with or without a seat. So
//! nobody keeps a place for itself, be it for a browser that nobody has.

use super::schedule::{NextTurn, Schedule};
use super::turns::{Place, Tenant, Turns};
use crate::model::STRIDE;
use std::collections::HashMap;

/// The turns of tenants at the places of a line.
#[derive(Debug, Default)]
pub struct Shares {
    schedule: Schedule,
    /// Those who have ever had a place: names of tokens, so never more than are configured.
    tenants: HashMap<Tenant, NextTurn>,
}

/// What a tenant has in line, whichever browsers it is for.
struct Held {
    clients: usize,
    priority: u32,
    newest: Place,
}

impl Shares {
    /// A client has left its place.
    pub fn used(&mut self, tenant: &Tenant, priority: u32) {
        let newcomer = || self.schedule.newcomer(priority);
        let next = self.tenants.entry(tenant.clone()).or_insert_with(newcomer);
        next.set_priority(priority);
        self.schedule.serve(next);
    }

    /// A client that has left its place comes back to it.
    pub fn refund(&mut self, tenant: &Tenant) {
        if let Some(next) = self.tenants.get_mut(tenant) {
            next.refund();
        }
    }

    /// Who has to go first: the newest client of the tenant that is furthest above its share, and of
    /// that tenant's browsers of the one with the most.
    pub fn first_to_go(&self, lines: &[Turns]) -> Option<Place> {
        let mut held: HashMap<&Tenant, Held> = HashMap::new();
        for line in lines {
            for (tenant, clients, priority) in line.waiting() {
                let of = held.entry(tenant).or_insert(Held {
                    clients: 0,
                    priority,
                    newest: 0,
                });
                of.clients += clients;
                of.newest = of.newest.max(line.newest_of(tenant).unwrap_or(0));
            }
        }
        let (tenant, _) = held.iter().max_by_key(|(tenant, of)| {
            // Of those with one place each the one whose turn comes last, else the one who came last.
            let turn = (of.clients == 1).then(|| self.turn(tenant));
            (of.excess(), turn, of.newest)
        })?;
        let fullest = |line: &&Turns| (line.len_of(tenant), line.newest_of(tenant));
        lines.iter().max_by_key(fullest)?.newest_of(tenant)
    }

    /// Where the tenant's next turn stands; the greatest is the last.
    fn turn(&self, tenant: &Tenant) -> (u64, u64) {
        match self.tenants.get(tenant) {
            Some(next) => self.schedule.rank(next),
            None => self.schedule.rank(&self.schedule.newcomer(1)),
        }
    }
}

impl Held {
    /// What it has beyond its first place, in proportion to its priority.
    fn excess(&self) -> u64 {
        (self.clients as u64 - 1) * STRIDE / u64::from(self.priority)
    }
}
