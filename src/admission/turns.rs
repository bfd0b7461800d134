//! Whose turn it is: first come first served within a tenant, weighted round robin between
//! tenants. Pure; it neither waits nor wakes anybody.
//!
//! The discipline is weighted round robin over tenants that have somebody waiting: a tenant of
//! priority `p` gets up to `p` seats, then the next tenant has its turn. So between two seats of a
//! tenant with somebody waiting lie at most the sum of the other tenants' priorities, however many
//! clients those have waiting. With one tenant (no tokens) it is plain first come first served.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Number of a place in line; rises with every place taken.
pub type Place = u64;

/// Name of the tenant who waits; empty for clients without a token.
pub type Tenant = Arc<str>;

/// One line.
#[derive(Debug, Default)]
pub struct Turns {
    lanes: HashMap<Tenant, Lane>,
    /// Tenants with somebody waiting; the first one has the turn.
    rotation: VecDeque<Tenant>,
    /// Seats the first tenant may still take before the next one's turn.
    credit: u32,
}

#[derive(Debug)]
struct Lane {
    waiting: VecDeque<Place>,
    priority: u32,
}

impl Turns {
    /// Puts `place` at the end of its tenant's lane.
    pub fn join(&mut self, tenant: &Tenant, priority: u32, place: Place) {
        match self.lanes.get_mut(tenant) {
            Some(lane) => {
                lane.priority = priority.max(1);
                lane.waiting.push_back(place);
            }
            None => {
                let lane = Lane {
                    waiting: VecDeque::from([place]),
                    priority: priority.max(1),
                };
                self.lanes.insert(tenant.clone(), lane);
                self.rotation.push_back(tenant.clone());
                if self.rotation.len() == 1 {
                    self.credit = priority.max(1);
                }
            }
        }
    }

    /// Whose turn it is. Stays the same until that place is served or leaves.
    pub fn first(&self) -> Option<Place> {
        let tenant = self.rotation.front()?;
        self.lanes.get(tenant)?.waiting.front().copied()
    }

    /// The first place got its seat.
    pub fn served(&mut self, tenant: &Tenant, place: Place) {
        self.leave(tenant, place);
        if self.rotation.front() == Some(tenant) {
            self.credit = self.credit.saturating_sub(1);
            if self.credit == 0 {
                self.rotation.rotate_left(1);
                self.refill();
            }
        }
    }

    /// A place leaves without a seat. Nothing happens if it is not in line.
    pub fn leave(&mut self, tenant: &Tenant, place: Place) {
        let Some(lane) = self.lanes.get_mut(tenant) else {
            return;
        };
        if let Ok(at) = lane.waiting.binary_search(&place) {
            lane.waiting.remove(at);
        }
        if lane.waiting.is_empty() {
            self.lanes.remove(tenant);
            let had_turn = self.rotation.front() == Some(tenant);
            self.rotation.retain(|other| other != tenant);
            if had_turn {
                self.refill();
            }
        }
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.rotation.is_empty()
    }

    fn refill(&mut self) {
        self.credit = self
            .rotation
            .front()
            .and_then(|tenant| self.lanes.get(tenant))
            .map_or(0, |lane| lane.priority);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenant(name: &str) -> Tenant {
        Arc::from(name)
    }

    fn serve_all(turns: &mut Turns, of: &HashMap<Place, Tenant>) -> Vec<Place> {
        let mut order = Vec::new();
        while let Some(place) = turns.first() {
            turns.served(&of[&place], place);
            order.push(place);
        }
        order
    }

    #[test]
    fn one_tenant_is_first_come_first_served() {
        let (mut turns, nobody) = (Turns::default(), tenant(""));
        let of: HashMap<_, _> = (0..5).map(|place| (place, nobody.clone())).collect();
        (0..5).for_each(|place| turns.join(&nobody, 1, place));
        assert_eq!(serve_all(&mut turns, &of), [0, 1, 2, 3, 4]);
        assert!(turns.is_empty());
    }

    #[test]
    fn a_small_tenant_waits_for_one_seat_of_a_large_one() {
        let mut turns = Turns::default();
        let mut of = HashMap::new();
        for place in 0..100 {
            turns.join(&tenant("large"), 1, place);
            of.insert(place, tenant("large"));
        }
        turns.join(&tenant("small"), 1, 100);
        of.insert(100, tenant("small"));
        let order = serve_all(&mut turns, &of);
        assert_eq!(order[..3], [0, 100, 1]);
    }

    #[test]
    fn priority_is_seats_per_turn() {
        let mut turns = Turns::default();
        let mut of = HashMap::new();
        for place in 0..6 {
            let name = if place % 2 == 0 { "a" } else { "b" };
            turns.join(&tenant(name), if name == "a" { 2 } else { 1 }, place);
            of.insert(place, tenant(name));
        }
        assert_eq!(serve_all(&mut turns, &of), [0, 2, 1, 4, 3, 5]);
    }

    proptest! {
        /// Whoever joins is served or left exactly once, tenants in their own order, and between
        /// two seats of one waiting tenant the others get at most the sum of their priorities.
        #[test]
        fn everybody_is_served_once_and_nobody_starves(
            joins in prop::collection::vec((0u8..4, 1u32..4), 1..60),
            leaves in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let priorities: HashMap<u8, u32> = joins.iter().copied().collect();
            let mut turns = Turns::default();
            let mut of = HashMap::new();
            for (place, (who, _)) in joins.iter().enumerate() {
                let name = tenant(&who.to_string());
                turns.join(&name, priorities[who], place as Place);
                of.insert(place as Place, name);
            }
            let mut left = std::collections::HashSet::new();
            for leave in leaves {
                let place = leave.index(joins.len()) as Place;
                turns.leave(&of[&place], place);
                left.insert(place);
            }
            let order = serve_all(&mut turns, &of);
            prop_assert_eq!(order.len() + left.len(), joins.len());
            let others: u32 = priorities.values().sum();
            for who in priorities.keys() {
                let name = tenant(&who.to_string());
                let mine: Vec<usize> = (0..order.len()).filter(|at| of[&order[*at]] == name).collect();
                prop_assert!(mine.windows(2).all(|w| order[w[0]] < order[w[1]]));
                let bound = (others - priorities[who]) as usize;
                prop_assert!(mine.windows(2).all(|w| w[1] - w[0] - 1 <= bound));
            }
        }
    }
}
