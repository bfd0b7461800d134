//! Admitting sessions while the store is away, from what was agreed before.
//!
//! Nobody can ask how full a worker is then, so each proxy keeps to a share that is settled when the
//! store goes: the seats it held on the worker, which nobody else gets as long as the store believes
//! it alive, and its part of those that were free, rounded *down*. It spends the share for as long
//! as the others hold what it has for its own: up to `store.proxy_ttl` after its last sign of life
//! that was answered. A proxy that knows of no other goes on.
//!
//! With `P` proxies of which `c` are cut off, a worker gets at most `c * floor(free / P)` sessions
//! beyond its concurrent limit, `free` being the seats it had left at the cut: none when all are cut
//! off, and none ever on a worker of one seat. The store hears of these sessions when it is back.

use super::seating::NoGrant;
use super::{Fleet, Known, Target, policy};
use crate::admission::queue::Seeker;
use crate::model::WorkerKey;
use crate::selection::{Facts, Policy, candidates};
use crate::session::seat::Seat;
use std::sync::{Arc, MutexGuard};
use tokio::time::Instant;

/// What this proxy may give of one worker while the store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Most seats that it may hold at once.
    most: u32,
    /// Seats that were free and are left to the other proxies.
    others: u32,
    /// Sessions that it gave the worker since.
    given: u32,
}

impl Share {
    /// The share of one of `proxies` that holds `held` seats of a worker with `taken` of its `limit`. What it has beyond its
    /// limit since an earlier outage may be this proxy's: that is for nobody else when it comes free.
    fn new(held: u32, taken: u32, limit: u32, proxies: u32) -> Share {
        let free = limit.saturating_sub(taken);
        let beyond = taken.saturating_sub(limit);
        let part = free / proxies.max(1);
        Share {
            most: held.saturating_sub(beyond) + part,
            others: free - part,
            given: 0,
        }
    }

    /// Whether the worker may have seats that are not this proxy's to give.
    pub(super) fn leaves_some(&self) -> bool {
        self.others > 0
    }

    /// How selection sees the worker: as full as it is beyond this share.
    pub(super) fn apply(&self, facts: &mut Facts, held: u32, policy: &Policy) {
        let left = self.most.saturating_sub(held);
        let bounds = policy.bounds(facts.size);
        facts.active = bounds.max_concurrent_sessions.saturating_sub(left);
        facts.lifetime = facts.lifetime.saturating_add(self.given);
    }
}

impl Fleet {
    /// Settles the shares, as the store goes away.
    pub(super) fn settle_shares(&self) {
        *self.shares_until() = self.store.holds_seats_until();
        let policy = policy(&self.config);
        let proxies = u32::try_from(self.store.proxies()).unwrap_or(u32::MAX);
        self.change_shares(|key, worker| {
            let limit = policy.bounds(worker.record.size).max_concurrent_sessions;
            let held = self.releaser.held(key);
            Some(Share::new(held, worker.counts.active, limit, proxies))
        });
    }

    /// The store is back: from here on its word counts. A call of it that fails nevertheless must
    /// not fall back on what was free before the outage.
    pub(super) fn forget_shares(&self) {
        self.change_shares(|_, _| None);
    }

    fn change_shares(&self, share: impl Fn(&WorkerKey, &Known) -> Option<Share>) {
        let mut table = self.table.lock();
        for (key, worker) in table.iter_mut() {
            worker.share = share(key, worker);
        }
        for facts in table.values().filter_map(|worker| self.facts(worker)) {
            table.put(facts);
        }
    }

    /// Takes a seat without asking the store. The seat's session must be one that the store has
    /// never been asked about, or it could end up with two.
    ///
    /// # Errors
    /// When the share is used up or its time is over, the store is back, or the configuration is strict about the
    /// store. The seat is to be dropped then: it may be taken.
    pub(super) fn reserve_from_share(
        &self,
        seat: &mut Seat,
        seeker: &Seeker,
    ) -> Result<Arc<Target>, NoGrant> {
        if self.config.load().store.strict || !self.has_view() {
            return Err(NoGrant::StoreAway);
        }
        if !self.shares_hold() {
            return Err(NoGrant::ShareOver);
        }
        if self.store.reachable() {
            // It is back, and this proxy about to hear of it: what came free has been given back.
            return Err(NoGrant::NoneFree);
        }
        // What was best a moment ago may be taken: each try learns that, or gets it.
        let best = || candidates(&self.balancer, &seeker.wanted, &seeker.offered, 1).pop();
        while let Some(key) = best() {
            let target = {
                let mut table = self.table.lock();
                let worker = table.get_mut(&key).ok_or(NoGrant::NoneFree)?;
                let share = worker.share.as_mut().ok_or(NoGrant::NoneFree)?;
                if self.releaser.held(&key) < share.most {
                    share.given += 1;
                    // Under the lock: the next one must see it.
                    seat.taken(key.clone());
                    Some(worker.target.clone())
                } else {
                    None
                }
            };
            self.publish(&key);
            if let Some(target) = target {
                self.store.adopt(seat.session(), &target.key);
                // What it tells as it comes back has this seat, or this look sees that it is.
                return match self.store.reachable() {
                    true => Err(NoGrant::NoneFree),
                    false => Ok(target),
                };
            }
        }
        Err(NoGrant::NoneFree)
    }

    /// Whether nobody is seated because the store is away.
    pub fn waits_for_store(&self) -> bool {
        !self.store_up() && !self.shares_hold()
    }

    /// Whether the time of the shares is not over. It was settled with them: a store that answers
    /// for a moment may have given others what they were cut from.
    fn shares_hold(&self) -> bool {
        let until = *self.shares_until();
        until.is_none_or(|until| Instant::now() < until)
    }

    fn shares_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.shares_until
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_worker_has_beyond_its_limit_is_not_given_again() {
        assert_eq!(Share::new(2, 4, 3, 3).most, 1);
        assert_eq!(Share::new(1, 4, 3, 3).most, 0);
        assert_eq!(Share::new(2, 3, 3, 3).most, 2);
    }

    proptest! {
        /// Whoever is cut off, and whatever the others do meanwhile: they seat up to the limit.
        #[test]
        fn the_bound_holds_for_every_number_of_cut_off_proxies(
            held in prop::collection::vec(0..5u32, 1..12),
            cut in prop::collection::vec(any::<bool>(), 12),
            free in 0..12u32,
        ) {
            let proxies = held.len() as u32;
            let most = held.iter().sum::<u32>() + free;
            let gives = |(held, cut): (&u32, &bool)| {
                cut.then(|| Share::new(*held, most - free, most, proxies).most)
            };
            let given: Vec<u32> = held.iter().zip(&cut).filter_map(gives).collect();
            let others: u32 = held.iter().zip(&cut).filter(|(_, cut)| !**cut).map(|(h, _)| h).sum();
            let cut_off = given.len() as u32;
            // The store keeps what the cut-off held, and gives all that was free.
            let by_the_store = if cut_off == proxies { 0 } else { others + free };
            let beyond = (given.iter().sum::<u32>() + by_the_store).saturating_sub(most);
            let bound = if cut_off == proxies { 0 } else { cut_off * (free / proxies) };
            prop_assert!(beyond <= bound, "{beyond} > {bound}");
            if most == 1 && proxies > 1 {
                prop_assert_eq!(beyond, 0);
            }
        }
    }
}
