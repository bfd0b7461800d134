//! The line of a store that keeps it for all proxies: one question takes in those who come and gives
//! seats to the first of the whole grid, several at once.

use super::seating::Grant;
use super::{Fleet, Target, policy};
use crate::admission::turns::Place;
use crate::metrics::ObserveTime;
use crate::model::{Browser, Pool, SessionId, WorkerKey};
use crate::session::seat::Seat;
use crate::store::{Candidate, Granted, LineServed, MAX_CANDIDATES, Served, StoreError};
use rand::seq::index::sample;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout;

/// Clients that the store is told of in one search.
const COMING: usize = 100;
/// Fewest candidates of one question, which are as many as clients wait, and [`MAX_CANDIDATES`] at most.
const MIN_CANDIDATES: usize = 8;
/// Among so many times as many of the best are the candidates chosen, after others were faster.
const SPREAD: usize = 4;

impl Fleet {
    /// Asks the store for seats until nobody has come since, and it has been asked of every worker
    /// that has a seat as far as is known here. `unasked` says that there was no reason to look:
    /// then it is told that this proxy's clients still wait.
    ///
    /// `anew` is kept between calls: whether the store has to be told of all who wait.
    pub(super) async fn serve_shared(
        self: &Arc<Self>,
        browser: Browser,
        anew: &mut bool,
        mut unasked: bool,
    ) {
        // Workers that were asked for a seat in vain, and whether others were faster there.
        let (mut unserved, mut crowded) = (Vec::new(), false);
        loop {
            if *anew {
                self.queue.unentered(browser);
            }
            let coming = self.queue.entering(browser, COMING, || {
                let session = SessionId::random();
                (session, self.releaser.seat(session))
            });
            if !coming.is_empty() {
                unserved.clear();
            }
            let begun = Instant::now();
            let candidates = self.candidates(browser, &unserved, crowded);
            self.metrics.phases.select.observe_time(begun.elapsed());
            if coming.is_empty() && candidates.is_empty() && !unasked {
                self.queue.shed(self.config.load().queue.max_waiting);
                return;
            }
            unasked = false;
            let begun = Instant::now();
            let asked = self.store.serve_line(browser, *anew, &coming, &candidates);
            let served = asked.await;
            let took = begun.elapsed();
            self.metrics.phases.reserve.observe_time(took);
            self.metrics.store_reserve.observe_time(took);
            match served {
                Ok(Served::Unknown) => *anew = true,
                Ok(Served::Line(served)) => {
                    *anew = false;
                    let given = served.granted.len() + served.elsewhere;
                    crowded = given < candidates.len().min(self.queue.depth(browser));
                    if given == 0 {
                        unserved.extend(candidates.into_iter().map(|candidate| candidate.key));
                    }
                    self.apply_served(served);
                }
                Err(error) => {
                    log::debug!(browser:%, error:%; "the line was not served");
                    // Nobody knows what became of them: they wait on under other names.
                    self.queue.drop_claims(browser);
                    *anew = true;
                    if matches!(error, StoreError::Away(_)) {
                        self.serve(browser, true).await;
                    }
                    return;
                }
            }
        }
    }

    fn apply_served(self: &Arc<Self>, served: LineServed) {
        for (session, place) in served.places {
            self.queue.placed(session, place);
        }
        for (worker, counts) in served.looked_at {
            match counts {
                Some(counts) => self.count_asked(&worker, counts),
                None => self.mark_unavailable(&worker),
            }
        }
        for granted in served.granted {
            self.grant(granted);
        }
    }

    /// Another proxy's question gave one of those who wait here a seat: the next one from here takes it up.
    pub(super) fn take_up(&self, session: SessionId) {
        match self.queue.tell_again(session) {
            Some(browser) => self.queue.wake(browser),
            // It has left.
            None => drop(self.releaser.seat(session)),
        }
    }

    /// The store gave one of those who wait here a seat.
    fn grant(self: &Arc<Self>, granted: Granted) {
        let Granted {
            session,
            worker,
            counts,
        } = granted;
        let Some((place, mut seat)) = self.queue.take_claim(session) else {
            // It left. If that was before the store was told that it waits, its claim's drop told nobody.
            drop(self.releaser.seat(session));
            return;
        };
        seat.taken(worker.clone());
        self.count(&worker, counts);
        self.order_recycle_at_limit(&worker, counts, &policy(&self.config));
        match self.dialable(&worker) {
            Some(target) => self.queue.grant(place, worker, Grant { seat, target }),
            None => {
                tokio::spawn(self.clone().grant_once_known(place, worker, seat));
            }
        }
    }

    /// A proxy that has heard of a worker first may give a client of ours a seat there: the worker's record
    /// is on its way to here, or its name is being looked up. It takes as long as a dial may at most; the
    /// client holds the seat meanwhile.
    async fn grant_once_known(self: Arc<Self>, place: Place, worker: WorkerKey, seat: Seat) {
        let patience = self.config.load().selection.dial_timeout;
        match timeout(patience, self.until_dialable(&worker)).await {
            Ok(target) => self.queue.grant(place, worker, Grant { seat, target }),
            Err(_) => {
                drop(seat);
                self.queue.decline(place, worker.clone());
                self.queue.wake(worker.browser);
            }
        }
    }

    async fn until_dialable(&self, worker: &WorkerKey) -> Arc<Target> {
        loop {
            let mut learned = pin!(self.learned.notified());
            // Before the look: what is learned behind it is heard.
            learned.as_mut().enable();
            if let Some(target) = self.dialable(worker) {
                return target;
            }
            learned.await;
        }
    }

    fn dialable(&self, worker: &WorkerKey) -> Option<Arc<Target>> {
        let target = self.target(worker)?;
        (!target.addresses().is_empty()).then_some(target)
    }

    /// The best workers with a seat for those who wait here, of whichever version; `crowded` says
    /// that other proxies are after the very best too.
    fn candidates(&self, browser: Browser, except: &[WorkerKey], crowded: bool) -> Vec<Candidate> {
        let policy = policy(&self.config);
        let waiting = self.queue.waiting().into_iter();
        let mut best: Vec<Candidate> = Vec::new();
        for (wanted, clients) in waiting.filter(|(wanted, _)| wanted.browser == browser) {
            let most = clients.clamp(MIN_CANDIDATES, MAX_CANDIDATES);
            for candidate in self.some_of_the_best(&wanted, except, most, crowded, &policy) {
                if best.len() < MAX_CANDIDATES && !best.contains(&candidate) {
                    best.push(candidate);
                }
            }
        }
        best
    }

    fn some_of_the_best(
        &self,
        wanted: &Pool,
        except: &[WorkerKey],
        most: usize,
        crowded: bool,
        policy: &crate::selection::Policy,
    ) -> Vec<Candidate> {
        if !crowded {
            return self.best(wanted, except, most, policy);
        }
        let best = self.best(wanted, except, most * SPREAD, policy);
        let mut chosen = sample(&mut rand::rng(), best.len(), most.min(best.len())).into_vec();
        // Still in order: the best of them first.
        chosen.sort_unstable();
        chosen.into_iter().map(|n| best[n].clone()).collect()
    }
}
