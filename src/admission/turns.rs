//! Whose turn it is in the line of one browser: first come first served within a tenant, turns
//! between tenants. Pure; it neither waits nor wakes anybody.
//!
//! The turns are those of a [`Schedule`], and a seat is a turn of its tenant. So of two tenants that
//! both have somebody waiting whom the free seats fit, neither is more than one turn ahead of the
//! other, however many clients each has.

use super::schedule::{NextTurn, Schedule};
use crate::model::Pool;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Number of a client's place in line; rises with every client that comes, and is kept when the
/// client comes back from a dial that failed.
pub type Place = u64;

/// Name of the tenant who waits; empty for clients without a token.
pub type Tenant = Arc<str>;

/// Whether a free seat fits a client that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    Yes,
    /// Not this client, but maybe the next one that wants the same.
    NotThis,
    /// Nobody who wants the same.
    NoneAlike,
}

/// The line of one browser.
#[derive(Debug, Default)]
pub struct Turns {
    /// Those who have ever waited: names of tokens, so never more than are configured.
    tenants: HashMap<Tenant, OfTenant>,
    schedule: Schedule,
}

#[derive(Debug)]
struct OfTenant {
    /// By what the clients want. What nobody waits for is dropped.
    waiting: BTreeMap<Pool, BTreeSet<Place>>,
    next: NextTurn,
}

impl OfTenant {
    fn len(&self) -> usize {
        self.waiting.values().map(BTreeSet::len).sum()
    }

    /// The first of its clients whom a seat fits.
    fn first(&self, fits: &mut impl FnMut(&Pool, Place) -> Fit) -> Option<Place> {
        let first_of = |(wanted, places): (&Pool, &BTreeSet<Place>)| {
            for place in places {
                match fits(wanted, *place) {
                    Fit::Yes => return Some(*place),
                    Fit::NotThis => {}
                    Fit::NoneAlike => return None,
                }
            }
            None
        };
        self.waiting.iter().filter_map(first_of).min()
    }
}

impl Turns {
    /// Puts a client where its place is among those of its tenant.
    pub fn join(&mut self, tenant: &Tenant, priority: u32, wanted: Pool, place: Place) {
        let of = self.tenants.entry(tenant.clone());
        let of = of.or_insert_with(|| OfTenant {
            waiting: BTreeMap::new(),
            next: self.schedule.newcomer(priority),
        });
        of.next.set_priority(priority);
        of.waiting.entry(wanted).or_default().insert(place);
    }

    /// The client who is first among those whom a free seat fits. Stays the same until somebody
    /// comes, leaves or is served.
    pub fn first(&self, mut fits: impl FnMut(&Pool, Place) -> Fit) -> Option<Place> {
        let first_of = |of: &OfTenant| {
            let place = of.first(&mut fits)?;
            Some((self.schedule.rank(&of.next), place))
        };
        let first = self.tenants.values().filter_map(first_of).min()?;
        Some(first.1)
    }

    /// A client got a seat: it leaves the line, and its tenant has had a turn.
    pub fn serve(&mut self, tenant: &Tenant, wanted: &Pool, place: Place) {
        if let Some(of) = self.tenants.get_mut(tenant) {
            self.schedule.serve(&mut of.next);
        }
        self.leave(tenant, wanted, place);
    }

    /// The seat that a tenant had a turn for was of no use: it has the turn back.
    pub fn refund(&mut self, tenant: &Tenant) {
        if let Some(of) = self.tenants.get_mut(tenant) {
            of.next.refund();
        }
    }

    /// A client leaves without a seat. Nothing happens if it is not in line.
    pub fn leave(&mut self, tenant: &Tenant, wanted: &Pool, place: Place) {
        let Some(of) = self.tenants.get_mut(tenant) else {
            return;
        };
        if let Some(places) = of.waiting.get_mut(wanted) {
            places.remove(&place);
            if places.is_empty() {
                of.waiting.remove(wanted);
            }
        }
    }

    /// The tenants with somebody waiting: how many clients, and the priority.
    pub fn waiting(&self) -> impl Iterator<Item = (&Tenant, usize, u32)> {
        let waiting = self.tenants.iter();
        let waiting = waiting.map(|(tenant, of)| (tenant, of.len(), of.next.priority()));
        waiting.filter(|(_, clients, _)| *clients > 0)
    }

    /// What clients wait for, with how many want it.
    pub fn wanted(&self) -> BTreeMap<Pool, usize> {
        let mut wanted = BTreeMap::new();
        for of in self.tenants.values() {
            for (what, places) in &of.waiting {
                *wanted.entry(*what).or_default() += places.len();
            }
        }
        wanted
    }

    /// Those who want this.
    pub fn places_of(&self, wanted: &Pool) -> Vec<Place> {
        let all = self.tenants.values();
        let alike = all.filter_map(|of| of.waiting.get(wanted));
        alike.flatten().copied().collect()
    }

    /// Of a tenant's clients the one who came last.
    pub fn newest_of(&self, tenant: &Tenant) -> Option<Place> {
        let waiting = self.tenants.get(tenant)?.waiting.values();
        waiting.filter_map(BTreeSet::last).max().copied()
    }

    /// How many of a tenant's clients wait.
    pub fn len_of(&self, tenant: &Tenant) -> usize {
        self.tenants.get(tenant).map_or(0, OfTenant::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Browser, SeatKind, Version};

    fn tenant(name: &str) -> Tenant {
        Arc::from(name)
    }

    const ANY: Pool = Pool {
        browser: Browser::Chromium,
        version: None,
        seat: SeatKind::Shared,
    };

    fn version(minor: u16) -> Pool {
        Pool {
            version: Some(Version { major: 1, minor }),
            ..ANY
        }
    }

    /// Serves everybody in turn.
    fn serve_all(turns: &mut Turns, of: &[(&str, Place)]) -> Vec<Place> {
        let mut order = Vec::new();
        while let Some(place) = turns.first(|_, _| Fit::Yes) {
            let (name, _) = of.iter().find(|(_, p)| *p == place).unwrap();
            turns.serve(&tenant(name), &ANY, place);
            order.push(place);
        }
        order
    }

    fn line(clients: &[(&str, u32)]) -> (Turns, Vec<(&'static str, Place)>) {
        let mut turns = Turns::default();
        let mut of = Vec::new();
        for (place, (name, priority)) in clients.iter().enumerate() {
            turns.join(&tenant(name), *priority, ANY, place as Place);
            let name: &'static str = ["large", "small", "a", "b"]
                .into_iter()
                .find(|known| known == name)
                .unwrap();
            of.push((name, place as Place));
        }
        (turns, of)
    }

    #[test]
    fn one_tenant_is_first_come_first_served() {
        let (mut turns, of) = line(&[("a", 1); 5]);
        assert_eq!(serve_all(&mut turns, &of), [0, 1, 2, 3, 4]);
        assert_eq!(turns.waiting().count(), 0);
    }

    #[test]
    fn a_small_tenant_waits_for_one_seat_of_a_large_one() {
        let mut clients = vec![("large", 1); 100];
        clients.push(("small", 1));
        let (mut turns, of) = line(&clients);
        assert_eq!(serve_all(&mut turns, &of)[..3], [0, 100, 1]);
    }

    #[test]
    fn priority_is_seats_per_turn() {
        let (mut turns, of) = line(&[("a", 2), ("b", 1), ("a", 2), ("b", 1), ("a", 2), ("a", 2)]);
        let order = serve_all(&mut turns, &of);
        // Two of a for one of b, as long as both wait.
        assert_eq!(order, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_tenant_that_comes_one_by_one_passes_nobody_twice() {
        let (mut turns, _) = line(&[("a", 1); 10]);
        turns.serve(&tenant("a"), &ANY, 0);
        let mut order = Vec::new();
        for place in 10..14 {
            turns.join(&tenant("b"), 1, ANY, place);
            let first = turns.first(|_, _| Fit::Yes).unwrap();
            let name = if first < 10 { "a" } else { "b" };
            turns.serve(&tenant(name), &ANY, first);
            order.push(name);
        }
        assert_eq!(order, ["b", "a", "b", "a"]);
    }

    #[test]
    fn a_seat_goes_to_the_first_whom_it_fits_and_the_others_keep_their_turn() {
        let mut turns = Turns::default();
        turns.join(&tenant("a"), 1, version(64), 0);
        turns.join(&tenant("a"), 1, version(65), 1);
        turns.join(&tenant("b"), 1, version(65), 2);
        let only = |wanted: u16| {
            move |found: &Pool, _| match *found == version(wanted) {
                true => Fit::Yes,
                false => Fit::NoneAlike,
            }
        };
        assert_eq!(turns.first(only(65)), Some(1));
        turns.serve(&tenant("a"), &version(65), 1);
        assert_eq!(turns.first(only(64)), Some(0));
        assert_eq!(turns.first(only(65)), Some(2));
        assert_eq!(turns.first(only(63)), None);
    }

    #[test]
    fn a_turn_that_was_of_no_use_is_given_back() {
        let (mut turns, _) = line(&[("a", 1), ("b", 1), ("a", 1)]);
        turns.serve(&tenant("a"), &ANY, 0);
        turns.refund(&tenant("a"));
        turns.join(&tenant("a"), 1, ANY, 0);
        turns.serve(&tenant("b"), &ANY, 1);
        assert_eq!(turns.first(|_, _| Fit::Yes), Some(0));
    }
}
