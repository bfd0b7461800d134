//! Stride scheduling: who of several tenants has the next turn. Pure.
//!
//! Each tenant has a time at which its next turn is due, and the tenant that is due first has the
//! turn. A turn moves the next one on by one stride, which is the shorter the higher the priority. A
//! tenant that took no part for a while comes back no earlier than the turn that was served last: it
//! neither saves turns up nor loses its place among the others by going away.

use crate::model::STRIDE;

/// The turns of several tenants, as far as they were served.
#[derive(Debug, Default)]
pub struct Schedule {
    /// When the turn that was served last was due.
    served: u64,
    /// Turns that were served so far.
    turns: u64,
}

/// When a tenant has its next turn.
#[derive(Debug)]
pub struct NextTurn {
    priority: u32,
    due: u64,
    /// Which turn was its last one: of two that are due at once, who was served longer ago is first.
    last: u64,
}

impl Schedule {
    /// The next turn of a tenant that has had none.
    pub fn newcomer(&self, priority: u32) -> NextTurn {
        NextTurn {
            priority: priority.max(1),
            due: self.served,
            last: 0,
        }
    }

    /// Where a turn stands among those of the others: the least is first.
    pub fn rank(&self, next: &NextTurn) -> (u64, u64) {
        (next.due.max(self.served), next.last)
    }

    /// A tenant has its turn.
    pub fn serve(&mut self, next: &mut NextTurn) {
        self.turns += 1;
        self.served = next.due.max(self.served);
        next.due = self.served + next.stride();
        next.last = self.turns;
    }
}

impl NextTurn {
    /// The priority may change with the configuration.
    pub fn set_priority(&mut self, priority: u32) {
        self.priority = priority.max(1);
    }

    /// Turns for each one of a tenant of 1.
    pub fn priority(&self) -> u32 {
        self.priority
    }

    /// The turn was of no use: the tenant has it back.
    pub fn refund(&mut self) {
        self.due = self.due.saturating_sub(self.stride());
    }

    fn stride(&self) -> u64 {
        STRIDE / u64::from(self.priority)
    }
}
