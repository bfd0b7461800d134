//! From a line to seats: who waits is offered to the workers that have one, and the store gives it.
//!
//! Nobody looks for a seat by himself. The line of each browser is served when a seat may have come
//! free, when the fleet changed, and when somebody comes; in the order of the queue, several at once.

use super::{Fleet, Known, Target, policy};
use crate::admission::line::{Need, Refused};
use crate::admission::queue::{self, Seeker};
use crate::admission::turns::Place;
use crate::metrics::ObserveTime;
use crate::model::{Browser, Counts, Pool, SessionId, Size, WorkerKey, WorkerStatus};
use crate::selection::{Policy, candidates, worker_key};
use crate::session::seat::Seat;
use crate::store::{Candidate, Reserved};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Candidates that go to the store in one search. Enough that with several proxies one of them
/// still has a seat, few enough for a constant cost.
const CANDIDATES: usize = 8;
/// Between two checks for seats that nobody was woken for, while somebody waits.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// A seat on a worker, for a client that has not dialled it yet.
pub struct Grant {
    pub seat: Seat,
    pub target: Arc<Target>,
}

/// The line, of clients with seats that the store knows of.
pub type Queue = queue::Queue<Seat, Grant>;
/// A client's place in it.
pub type PlaceGuard = queue::PlaceGuard<Seat, Grant>;

/// Why a client that waited got no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSeat {
    /// Every worker that is reached has as many sessions as it may have.
    AllTaken,
    /// The store is away, and this proxy has given what it may give meanwhile.
    ShareGiven,
    /// There are workers with fewer sessions than they may have, which have had as many as their browsers take.
    AtCeiling,
    /// There are seats, but their workers are not reached from here, or were too slow.
    OutOfReach,
    NoWorker,
    /// None is on the books, and one that left a moment ago may come back.
    LeftJustNow,
    AllDraining,
    /// All are, as far as is known: the store came back empty or old, and not everybody has told it yet
    /// whom they seated.
    BeingCounted,
}

/// Why there is no seat at this moment.
#[derive(Debug)]
pub enum NoGrant {
    /// No worker has one.
    NoneFree,
    /// The store could not say.
    StoreAway,
    /// The store is away for so long that what this proxy was to give meanwhile has gone to others.
    ShareOver,
}

/// For whom there was no seat when it was asked for, so that the others are served.
#[derive(Default)]
struct Unserved {
    wanted: Vec<Pool>,
    clients: Vec<Place>,
}

impl Unserved {
    fn add(&mut self, seeker: &Seeker) {
        // Who was offered workers already may have had no seat where others that want the same have.
        if seeker.offered.is_empty() {
            self.wanted.push(seeker.wanted);
        }
        self.clients.push(seeker.place);
    }

    fn has(&self, need: &Need<'_>) -> bool {
        self.wanted.contains(&need.wanted) || self.clients.contains(&need.place)
    }
}

impl Fleet {
    /// Somebody stands in line anew: whoever is next there is served. Where the store keeps the line,
    /// the one task that asks it does so, for all who come meanwhile at once.
    pub async fn serve_newcomer(self: &Arc<Self>, browser: Browser) {
        if self.store.keeps_line() {
            self.queue.wake(browser);
        } else {
            self.serve(browser, false).await;
        }
    }

    /// Serves the line of a browser whenever there may be a seat. Runs until it is dropped.
    pub(super) async fn run_line(self: Arc<Self>, browser: Browser) {
        // The store has been told of nobody yet.
        let mut anew = true;
        loop {
            let unasked = tokio::select! {
                biased;
                () = self.queue.woken(browser) => false,
                () = tokio::time::sleep(RETRY_INTERVAL) => true,
            };
            if self.queue.depth(browser) == 0 {
                continue;
            }
            if self.store.keeps_line() {
                self.serve_shared(browser, &mut anew, unasked).await;
            } else {
                self.serve(browser, false).await;
            }
        }
    }

    /// Gives seats to the first in line, until there is nobody whom one fits; while the store is
    /// `away`, from this proxy's share.
    pub(super) async fn serve(self: &Arc<Self>, browser: Browser, mut away: bool) {
        let mut unserved = Unserved::default();
        loop {
            let fits = |need: Need<'_>| {
                !unserved.has(&need) && (away || self.has_seat(&need.wanted, need.offered))
            };
            let Some(search) = self.queue.next(browser, fits) else {
                self.queue.shed(self.config.load().queue.max_waiting);
                return;
            };
            let seeker = &search.seeker;
            let mut seat = self.releaser.seat(SessionId::random());
            let mut granted = match away {
                false => self.reserve(&mut seat, seeker).await,
                true => Err(NoGrant::StoreAway),
            };
            if matches!(granted, Err(NoGrant::StoreAway)) {
                // The store may have heard the question: a session that it never heard of.
                away = true;
                seat = self.releaser.seat(SessionId::random());
                granted = self.reserve_from_share(&mut seat, seeker);
            }
            match granted {
                Ok(target) => search.grant(target.key.clone(), Grant { seat, target }),
                // The store may be back before the client's time is over.
                Err(NoGrant::NoneFree | NoGrant::ShareOver) => unserved.add(seeker),
                Err(NoGrant::StoreAway) => {
                    let wanted = seeker.wanted;
                    drop(search);
                    self.queue.refuse(&wanted, Refused::StoreAway);
                }
            }
        }
    }

    /// Whether there is a seat that fits on a worker that was not `offered`, as far as this proxy knows.
    pub fn has_seat(&self, wanted: &Pool, offered: &[WorkerKey]) -> bool {
        let index = self.table.index();
        let mut ranked = index.ranked(wanted);
        ranked.any(|worker| worker_key(worker).is_some_and(|key| !offered.contains(key)))
    }

    /// Takes a seat for `seat`'s session on the best worker that has one.
    async fn reserve(
        self: &Arc<Self>,
        seat: &mut Seat,
        seeker: &Seeker,
    ) -> Result<Arc<Target>, NoGrant> {
        // Whoever was full when it was asked is not asked again.
        let mut asked = seeker.offered.clone();
        loop {
            let policy = policy(&self.config);
            let begun = Instant::now();
            // What is known of a store of our own is never behind: its first answer stands.
            let most = if self.store.is_shared() {
                CANDIDATES
            } else {
                1
            };
            let best = self.best(&seeker.wanted, &asked, most, &policy);
            self.metrics.phases.select.observe_time(begun.elapsed());
            if best.is_empty() {
                return Err(NoGrant::NoneFree);
            }
            let begun = Instant::now();
            let session = seat.session();
            let reserved = self.store.reserve(session, &best).await;
            let took = begun.elapsed();
            self.metrics.phases.reserve.observe_time(took);
            self.metrics.store_reserve.observe_time(took);
            match reserved {
                Ok(Reserved::Seat { worker, counts }) => {
                    seat.taken(worker.clone());
                    self.count(&worker, counts);
                    self.order_recycle_at_limit(&worker, counts, &policy);
                    // If it left between the two checks, the dropped seat is given back.
                    return self.target(&worker).ok_or(NoGrant::NoneFree);
                }
                Ok(Reserved::Full { counts }) => {
                    for (worker, counts) in counts {
                        self.count_asked(&worker, counts);
                    }
                }
                Ok(Reserved::Gone) => {
                    for candidate in &best {
                        self.mark_unavailable(&candidate.key);
                    }
                }
                Err(error) => {
                    log::debug!(session:% = seat.session(), error:% = error; "no reservation");
                    return Err(NoGrant::StoreAway);
                }
            }
            asked.extend(best.into_iter().map(|candidate| candidate.key));
        }
    }

    /// The `wish` best workers with a seat, none of those in `except`.
    pub(super) fn best(
        &self,
        wanted: &Pool,
        except: &[WorkerKey],
        most: usize,
        policy: &Policy,
    ) -> Vec<Candidate> {
        let best = candidates(&self.balancer, wanted, except, most);
        let table = self.table.lock();
        best.into_iter()
            .filter_map(|key| {
                let worker = table.get(&key)?;
                let bounds = policy.bounds(worker.record.size);
                let lifetime_cap = if worker.fixed() {
                    None
                } else {
                    bounds.lifetime_cap(worker.record.replaces_itself)
                };
                Some(Candidate {
                    key,
                    max_concurrent_sessions: bounds.max_concurrent_sessions,
                    lifetime_cap,
                })
            })
            .collect()
    }

    /// Orders a worker that has reached its lifetime limit to recycle itself. Whoever gives the
    /// session that reaches it does; the watch loop does it again.
    pub(super) fn order_recycle_at_limit(
        self: &Arc<Self>,
        key: &WorkerKey,
        counts: Counts,
        policy: &Policy,
    ) {
        let at_limit =
            |size: Size| policy.bounds(size).max_lifetime_sessions == Some(counts.lifetime);
        let table = self.table.lock();
        let worker = table.get(key).filter(|worker| !worker.fixed());
        let worker = worker.filter(|worker| at_limit(worker.record.size));
        if let Some(replaces_itself) = worker.map(|worker| worker.record.replaces_itself) {
            let (fleet, key) = (self.clone(), key.clone());
            tokio::spawn(async move { fleet.order_recycle(&key, replaces_itself).await });
        }
    }

    /// Orders the workers that are due to recycle themselves, in the background. Those that replace
    /// themselves first cost no seats and all may; of the others as many as may be out at a time.
    pub(super) fn order_overdue(self: &Arc<Self>) {
        let overdue = self.overdue();
        if overdue.is_empty() {
            return;
        }
        let fleet = self.clone();
        tokio::spawn(async move {
            for (key, replaces_itself) in overdue {
                fleet.order_recycle(&key, replaces_itself).await;
            }
        });
    }

    async fn order_recycle(&self, key: &WorkerKey, replaces_itself: bool) {
        let config = self.config.load_full();
        let (ttl, max_out) = (config.recycle.command_ttl, config.recycle.max_unavailable);
        let ordered = if replaces_itself {
            self.store.order_recycle(key, ttl).await.map(|()| true)
        } else {
            let turn = config.worker.drain_timeout + config.worker.start_timeout;
            self.store
                .order_recycle_with_permit(key, ttl, max_out, turn)
                .await
        };
        match ordered {
            Ok(true) if self.asks_first(key) => {
                log::info!(worker:% = key; "worker asked to recycle at its lifetime limit");
            }
            Ok(true) => log::debug!(worker:% = key; "worker asked again to recycle"),
            Ok(false) => log::debug!(worker:% = key; "worker goes on until its turn to recycle"),
            Err(error) => {
                log::debug!(worker:% = key, error:% = error; "worker could not be asked to recycle");
            }
        }
    }

    /// Whether this proxy has not asked the worker to recycle before: it is asked with each session until it has,
    /// for an order may be lost.
    fn asks_first(&self, key: &WorkerKey) -> bool {
        let mut table = self.table.lock();
        let worker = table.get_mut(key);
        worker.is_some_and(|it| !std::mem::replace(&mut it.asked_to_recycle, true))
    }

    /// Available workers at or beyond their limit, the one that is furthest first, and whether they
    /// replace themselves.
    fn overdue(&self) -> Vec<(WorkerKey, bool)> {
        let policy = policy(&self.config);
        let excess = |it: &Known| policy.bounds(it.record.size).excess(it.counts.lifetime);
        let mut overdue: Vec<_> = self
            .table
            .lock()
            .values()
            .filter(|it| it.record.status == WorkerStatus::Available && !it.fixed())
            .filter_map(|worker| {
                let record = &worker.record;
                Some((excess(worker)?, record.key.clone(), record.replaces_itself))
            })
            .collect();
        overdue.sort_unstable_by_key(|(excess, ..)| std::cmp::Reverse(*excess));
        let overdue = overdue.into_iter();
        overdue.map(|(_, key, replaces)| (key, replaces)).collect()
    }

    /// Why a client got no seat, for its message. One that has `dialled` was offered seats, so those
    /// that are free are no use to it; for another one they have come free this moment.
    pub fn why_no_seat(&self, wanted: &Pool, dialled: bool) -> NoSeat {
        let policy = policy(&self.config);
        let table = self.table.lock();
        let fits = |it: &&Known| wanted.accepts(&it.pool());
        let fitting: Vec<_> = table.values().filter(fits).collect();
        let available = |it: &&&Known| it.record.status == WorkerStatus::Available;
        let available: Vec<_> = fitting.iter().filter(available).collect();
        let of_no_use = |it: &&&Known| it.left(&policy) > 0 && (dialled || !it.takes_sessions());
        if fitting.is_empty() {
            match table.departed().serves(wanted, tokio::time::Instant::now()) {
                true => NoSeat::LeftJustNow,
                false => NoSeat::NoWorker,
            }
        } else if available.is_empty() {
            NoSeat::AllDraining
        } else if available
            .iter()
            .any(|it| it.share.is_some_and(|share| share.leaves_some()))
        {
            NoSeat::ShareGiven
        } else if available.iter().any(of_no_use) {
            NoSeat::OutOfReach
        } else if self.store.is_being_restored() {
            NoSeat::BeingCounted
        } else if available.iter().any(|it| it.is_at_ceiling(&policy)) {
            NoSeat::AtCeiling
        } else {
            NoSeat::AllTaken
        }
    }
}
