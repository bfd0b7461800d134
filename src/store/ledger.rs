//! What this process answers for, whatever a store on another machine remembers of it: the seats its
//! sessions hold, the releases still to be told, the workers it registered. Pure; whoever keeps the
//! connection writes it to the store anew after every reconnect, and that is how a store that comes
//! back empty becomes right again.

mod heard;

use crate::model::{Heartbeat, SessionId, WorkerKey, WorkerRecord};
use heard::Heard;
use std::collections::{HashMap, HashSet, VecDeque};
use tokio::time::Instant;

/// What a process answers for. A proxy's has seats, a worker's has registrations.
#[derive(Default)]
pub struct Ledger {
    seats: HashMap<SessionId, Seat>,
    /// Sessions that ended, with whether their lifetime is given back, until the store confirmed it.
    releases: HashMap<SessionId, bool>,
    /// Sessions that came and went while the store was away, to be added to the lifetimes.
    unseen: HashMap<WorkerKey, u32>,
    /// Leases found in the store that nobody here holds: given back when found twice.
    orphans: HashSet<SessionId>,
    workers: HashMap<WorkerKey, RegisteredWorker>,
    /// Workers whose deregistration the store has not confirmed.
    departed: HashSet<WorkerKey>,
    /// Seats that the store is being told of at this moment.
    under_way: HashSet<SessionId>,
    /// What was last heard of each worker, to tell a store that came back empty.
    heard: HashMap<WorkerKey, Heard>,
    /// Those that left last, with their lifetimes.
    silent: VecDeque<(WorkerKey, u32)>,
    revision: u64,
}

enum Seat {
    /// A reservation is under way.
    Requested,
    /// It waits in the line that the store keeps, and may get a seat at any time.
    Waiting,
    Held {
        worker: WorkerKey,
        sync: SyncState,
        /// Whether a reservation counted it into the worker's lifetime.
        counted: bool,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SyncState {
    Needed,
    UnderWay,
    Done,
}

/// A worker that this process registered.
#[derive(Clone)]
pub struct RegisteredWorker {
    pub record: WorkerRecord,
    /// When its record expires, as far as its agent's last sign of life goes, whether that reached
    /// the store or not.
    pub expires: Instant,
    /// How many sessions it was given as far as is known, those that were given back included: a store that comes
    /// back without its counters is told.
    pub ever_given: u32,
    /// What was last heard of its open sessions, for the same reason.
    pub active: u32,
}

/// One seat that the store has to be told of.
#[derive(Debug, PartialEq, Eq)]
pub struct UnsyncedSeat {
    pub session: SessionId,
    pub worker: WorkerKey,
    pub counted: bool,
}

impl Ledger {
    /// A reservation sets out. `false` while a release of the same session is still to be told:
    /// that has to come first.
    pub fn begin(&mut self, session: SessionId) -> bool {
        if self.releases.contains_key(&session) {
            return false;
        }
        self.seats.entry(session).or_insert(Seat::Requested);
        true
    }

    /// The session stands in line from here on.
    pub fn wait(&mut self, session: SessionId) {
        self.seats.entry(session).or_insert(Seat::Waiting);
    }

    /// Another proxy's call gave the session a seat. Returns whether it waits for one; where it is not known, what it was given is
    /// to be given back.
    pub fn given_elsewhere(&mut self, session: SessionId) -> bool {
        match self.seats.get(&session) {
            Some(Seat::Waiting) => true,
            Some(Seat::Requested | Seat::Held { .. }) => false,
            None => {
                // One that was served and has ended stays counted.
                self.releases.entry(session).or_insert(true);
                false
            }
        }
    }

    /// The store gave the session a seat there. Returns whether it is known to have one already; if that is
    /// on another worker, the store is to be told so.
    pub fn already_seated(&mut self, session: SessionId, given: &WorkerKey) -> bool {
        let Some(Seat::Held { worker, sync, .. }) = self.seats.get_mut(&session) else {
            return false;
        };
        if worker != given && *sync == SyncState::Done {
            *sync = SyncState::Needed;
        }
        true
    }

    /// The session got a seat. `false` when the session was released in the meantime.
    pub fn seated(&mut self, session: SessionId, worker: &WorkerKey) -> bool {
        if !self.seats.contains_key(&session) {
            self.releases.entry(session).or_insert(true);
            return false;
        }
        let seat = Seat::Held {
            worker: worker.clone(),
            sync: SyncState::Done,
            counted: true,
        };
        self.seats.insert(session, seat);
        true
    }

    /// The reservation got none.
    pub fn unseated(&mut self, session: SessionId) {
        if let Some(Seat::Requested) = self.seats.get(&session) {
            self.seats.remove(&session);
        }
    }

    /// Nobody knows what became of the reservation: whatever it took is given back.
    /// Returns whether there was such a reservation.
    pub fn doubt(&mut self, session: SessionId) -> bool {
        let Some(Seat::Requested) = self.seats.get(&session) else {
            return false;
        };
        self.seats.remove(&session);
        self.releases.insert(session, true);
        true
    }

    /// The question for a seat never left this process: there is nothing to give back. Were it kept,
    /// each try during an outage would leave a release to be told.
    pub fn never_asked(&mut self, session: SessionId) {
        if let Some(Seat::Held { .. }) = self.seats.get(&session) {
            return;
        }
        self.seats.remove(&session);
        self.releases.remove(&session);
    }

    /// The session has a seat on a worker that the store was not asked for, and is to be told of.
    pub fn adopt(&mut self, session: SessionId, worker: &WorkerKey) {
        if let Some(Seat::Held { .. }) = self.seats.get(&session) {
            return;
        }
        let seat = Seat::Held {
            worker: worker.clone(),
            sync: SyncState::Needed,
            counted: false,
        };
        self.seats.insert(session, seat);
    }

    /// The session ended. Returns whether the store has to be told.
    pub fn release(&mut self, session: SessionId, refund: bool) -> bool {
        match self.seats.remove(&session) {
            None => return self.releases.contains_key(&session),
            Some(Seat::Held {
                worker,
                sync: SyncState::Needed,
                counted,
            }) => {
                if !refund && !counted {
                    *self.unseen.entry(worker).or_default() += 1;
                }
                // An earlier reservation of the same session may still be waiting to be undone.
                return self.releases.contains_key(&session);
            }
            Some(_) => {}
        }
        self.releases.insert(session, refund);
        true
    }

    /// Whether the store has not confirmed yet that this session ended.
    pub fn is_releasing(&self, session: SessionId) -> bool {
        self.releases.contains_key(&session)
    }

    /// The store confirmed these releases.
    pub fn released(&mut self, sessions: impl IntoIterator<Item = SessionId>) {
        for session in sessions {
            self.releases.remove(&session);
        }
    }

    /// Releases to tell the store of. A seat that it is just being told of has to wait for that: were the
    /// release to overtake it, nothing would be given back, and the lifetime never.
    pub fn pending_releases(&self, most: usize) -> Vec<(SessionId, bool)> {
        self.releases
            .iter()
            .filter(|(session, _)| !self.under_way.contains(session))
            .take(most)
            .map(|(session, refund)| (*session, *refund))
            .collect()
    }

    /// Seats to tell the store of. Followed by [`Ledger::mark_synced`], or [`Ledger::mark_unsynced`] if that failed.
    /// A session whose earlier seat is still to be given back has to wait for that.
    pub fn take_unsynced(&mut self, most: usize) -> Vec<UnsyncedSeat> {
        let mut batch = Vec::new();
        for (session, seat) in &mut self.seats {
            if batch.len() == most {
                break;
            }
            if self.releases.contains_key(session) {
                continue;
            }
            if let Seat::Held {
                worker,
                sync: sync @ SyncState::Needed,
                counted,
            } = seat
            {
                *sync = SyncState::UnderWay;
                self.under_way.insert(*session);
                batch.push(UnsyncedSeat {
                    session: *session,
                    worker: worker.clone(),
                    counted: *counted,
                });
            }
        }
        batch
    }

    /// The store was told of these.
    pub fn mark_synced(&mut self, batch: &[UnsyncedSeat]) {
        for seat in batch {
            self.under_way.remove(&seat.session);
            match self.seats.get_mut(&seat.session) {
                Some(Seat::Held { sync, counted, .. }) => {
                    *sync = SyncState::Done;
                    *counted = true;
                }
                // Released while the telling was under way, and maybe overtaken by it.
                _ => {
                    self.releases.entry(seat.session).or_insert(false);
                }
            }
        }
    }

    /// The telling failed: the seats are to be told again.
    pub fn mark_unsynced(&mut self) {
        self.under_way.clear();
        for seat in self.seats.values_mut() {
            if let Seat::Held {
                sync: sync @ SyncState::UnderWay,
                ..
            } = seat
            {
                *sync = SyncState::Needed;
            }
        }
    }

    /// Sessions that came and went unseen, to be added to their workers' lifetimes; handed back
    /// with [`Ledger::still_unseen`] if that failed.
    pub fn unseen(&mut self, most: usize) -> Vec<(WorkerKey, u32)> {
        let workers: Vec<_> = self.unseen.keys().take(most).cloned().collect();
        workers
            .into_iter()
            .filter_map(|worker| self.unseen.remove_entry(&worker))
            .collect()
    }

    /// What [`Ledger::unseen`] gave has not reached the store.
    pub fn still_unseen(&mut self, unseen: Vec<(WorkerKey, u32)>) {
        for (worker, sessions) in unseen {
            *self.unseen.entry(worker).or_default() += sessions;
        }
    }

    /// Compares with the leases that the store has under this proxy's name: what is missing there is
    /// to be told again, what nobody here holds is to be released, at once when nothing else can be
    /// under way (`quiet`), else when it is found a second time.
    pub fn compare(&mut self, leases: &HashMap<SessionId, WorkerKey>, quiet: bool) {
        for (session, seat) in &mut self.seats {
            if let Seat::Held { worker, sync, .. } = seat
                && *sync == SyncState::Done
                && leases.get(session) != Some(worker)
            {
                *sync = SyncState::Needed;
            }
        }
        let mut orphans = HashSet::new();
        for session in leases.keys() {
            let ours = self.seats.get(session).is_some_and(|seat| match seat {
                // On a new connection an old reservation cannot take effect.
                Seat::Requested => !quiet,
                // The next question that tells anew who waits is told of the seat.
                Seat::Waiting | Seat::Held { .. } => true,
            });
            if ours || self.releases.contains_key(session) {
                continue;
            }
            if quiet || self.orphans.contains(session) {
                // Whether it reached its worker is not known here: a store that came back old has
                // leases of sessions that were served and have ended. The lifetime stands.
                self.releases.insert(*session, false);
            } else {
                orphans.insert(*session);
            }
        }
        self.orphans = orphans;
    }

    /// A worker of this process is to be registered, until `expires`.
    pub fn register(&mut self, record: &WorkerRecord, expires: Instant) -> RegisteredWorker {
        self.departed.remove(&record.key);
        let (ever_given, active) = self
            .workers
            .get(&record.key)
            .map_or((0, 0), |known| (known.ever_given, known.active));
        let registration = RegisteredWorker {
            record: record.clone(),
            expires,
            ever_given,
            active,
        };
        let key = record.key.clone();
        self.workers.insert(key, registration.clone());
        registration
    }

    /// Returns how many sessions the worker is known to have been given.
    pub fn heartbeat(
        &mut self,
        worker: &WorkerKey,
        heartbeat: &Heartbeat,
        expires: Instant,
    ) -> u32 {
        if let Some(registration) = self.workers.get_mut(worker) {
            heartbeat.rewrite(&mut registration.record);
            registration.expires = expires;
            registration.ever_given
        } else {
            0
        }
    }

    /// A worker was given so many sessions, those that were given back included.
    pub fn was_ever_given(&mut self, worker: &WorkerKey, sessions: u32) {
        if let Some(registration) = self.workers.get_mut(worker) {
            registration.ever_given = registration.ever_given.max(sessions);
        }
    }

    /// A worker is to be taken off the store's books.
    pub fn deregister(&mut self, worker: &WorkerKey) {
        self.workers.remove(worker);
        self.departed.insert(worker.clone());
    }

    /// The store has taken it off.
    pub fn deregistered(&mut self, worker: &WorkerKey) {
        self.departed.remove(worker);
    }

    /// The registered workers that are not overdue with a sign of life.
    pub fn registrations(&self, now: Instant) -> Vec<RegisteredWorker> {
        let alive = |registration: &&RegisteredWorker| registration.expires > now;
        self.workers.values().filter(alive).cloned().collect()
    }

    /// Workers that the store has yet to take off its books.
    pub fn departed(&self) -> Vec<WorkerKey> {
        self.departed.iter().cloned().collect()
    }

    /// The highest revision heard of.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

#[cfg(test)]
mod tests;
