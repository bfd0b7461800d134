//! Changing what is believed: every fact that comes in goes through here, into the map of known
//! workers and into the selection's index, and wakes those who wait for a seat.

use super::suspicion::Suspicion;
use super::unreachable::{Obstacles, Unreachable};
use super::{Fleet, Known, Target};
use crate::model::{Counts, WorkerKey, WorkerRecord, WorkerStatus};
use crate::store::{Event, WorkerView};
use crate::tunnel::Close;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

impl Fleet {
    /// Takes in what the store says.
    pub(super) fn apply_event(self: &Arc<Self>, event: Event) {
        match event {
            Event::Worker(view) => self.learn(*view),
            Event::Gone(key) => self.forget(&key),
            Event::Counts(key, counts) => {
                self.count(&key, counts);
            }
            Event::Reachable(up) => self.note_store(up),
            // The worker's own business, and the watch loop's.
            Event::Recycle(_) | Event::Suspect(_) | Event::Resync => {}
        }
    }

    /// Replaces the whole belief by what the store has: for what lost events missed.
    pub(super) fn replace(self: &Arc<Self>, views: Vec<WorkerView>) {
        let there: HashSet<WorkerKey> = views.iter().map(|view| view.record.key.clone()).collect();
        let gone: Vec<WorkerKey> = {
            let table = self.table.lock();
            table
                .keys()
                .filter(|key| !there.contains(key))
                .cloned()
                .collect()
        };
        for key in gone {
            self.forget(&key);
        }
        for view in views {
            // The store's word is the truth here, even when its revisions started anew.
            if let Some(known) = self.table.lock().get_mut(&view.record.key) {
                known.counts.revision = 0;
            }
            self.learn(view);
        }
        self.has_view.store(true, Ordering::Release);
        self.queue.wake_all();
    }

    /// A worker registered, or its record changed.
    pub(super) fn learn(self: &Arc<Self>, view: WorkerView) {
        let key = view.record.key.clone();
        let mut evicted = false;
        let mut end_reason = None;
        let resolve = {
            let mut table = self.table.lock();
            match table.get_mut(&key) {
                Some(worker) if worker.target.endpoint == view.record.endpoint => {
                    log_status(&worker.record, &view.record);
                    evicted = view.record.status == WorkerStatus::ShuttingDown
                        && worker.record.status != WorkerStatus::ShuttingDown;
                    end_reason = view.record.end_reason.clone();
                    worker.record = view.record;
                    if view.counts.revision >= worker.counts.revision {
                        worker.counts = view.counts;
                    }
                    None
                }
                _ => {
                    let target = Arc::new(Target::new(&view.record));
                    log_joined(&view.record);
                    let configured = self.fixed_keys().contains(&key);
                    let worker = Known {
                        record: view.record,
                        counts: view.counts,
                        target: target.clone(),
                        obstacles: Obstacles::default(),
                        suspicion: Suspicion::default(),
                        shown_version: None,
                        on_trial: false,
                        asked_at: None,
                        configured,
                        share: None,
                        asked_to_recycle: false,
                    };
                    table.insert(key.clone(), worker);
                    target.is_name().then_some(target)
                }
            }
        };
        if evicted {
            // It gives us a moment to tell the clients why.
            self.registry.end_on(&key, |id| match &end_reason {
                Some(why) => Close::worker_condemned(Some(id), why),
                None => Close::worker_draining(Some(id)),
            });
        }
        match resolve {
            // A name may take its time; the worker opens when it has an address.
            Some(target) => {
                tokio::spawn(self.clone().resolve(target));
            }
            None => self.publish(&key),
        }
    }

    /// A worker is gone.
    pub(super) fn forget(&self, key: &WorkerKey) {
        let left = self.table.lock().depart(key, Instant::now());
        if left.is_none() {
            return;
        }
        log::info!(worker:% = key; "worker left");
        self.membership.notify_one();
    }

    /// A reservation found that a worker is not there or not available. When its new status has
    /// been heard meanwhile, that is why; else it is gone.
    pub(super) fn mark_unavailable(&self, key: &WorkerKey) {
        let open = self
            .table
            .lock()
            .get(key)
            .is_some_and(Known::takes_sessions);
        if open {
            self.forget(key);
            // Nobody may tell of it again: the next look reads who is there.
            self.forgot.store(true, Ordering::Relaxed);
        }
    }

    /// A session of ours gave its seat back. As long as the store is away nobody else says so.
    pub(super) fn seat_given_back(&self, key: &WorkerKey) {
        if !self.store_up() {
            self.publish(key);
        }
    }

    /// A worker's counters changed. Returns whether newer ones are known already.
    pub(super) fn count(&self, key: &WorkerKey, counts: Counts) -> bool {
        {
            let mut table = self.table.lock();
            let Some(worker) = table.get_mut(key) else {
                return false;
            };
            if counts.revision <= worker.counts.revision {
                return counts.revision < worker.counts.revision;
            }
            worker.counts = counts;
        }
        self.publish(key);
        false
    }

    /// The store answered how full a worker is. If more is known of it by then, a seat may have come free
    /// behind the answer: whoever serves the line looks again.
    pub(super) fn count_asked(&self, key: &WorkerKey, counts: Counts) {
        if self.count(key, counts) {
            self.queue.wake(key.browser);
        }
    }

    /// A health check ended.
    pub(super) fn note_check(&self, target: &Arc<Target>, outcome: Result<(), Unreachable>) {
        self.change(target, |worker| {
            worker.obstacles.checked(outcome);
            false
        });
    }

    /// Looks a worker's name up again.
    pub(super) async fn resolve(self: Arc<Self>, target: Arc<Target>) {
        let found = target.resolve().await;
        self.change(&target, |worker| {
            worker.obstacles.name = found.err();
            // It may have another address.
            true
        });
    }

    /// Changes what stands against a worker, and tells when it is lost, or reached again.
    /// `change` says whether that matters for selection in any other way. Nothing is changed of a
    /// worker that has got another address.
    pub(super) fn change(&self, target: &Arc<Target>, change: impl FnOnce(&mut Known) -> bool) {
        let matters = {
            let mut table = self.table.lock();
            let worker = table.get_mut(&target.key);
            let Some(worker) = worker.filter(|worker| Arc::ptr_eq(&worker.target, target)) else {
                return;
            };
            let was_reached = worker.unreachable().is_none();
            let matters = change(worker);
            let is_reached = worker.unreachable().is_none();
            if !is_reached && worker.counts.active == 0 {
                // Another server may stand there when somebody answers again.
                worker.shown_version = None;
            }
            match worker.unreachable() {
                Some(why) if was_reached => log_unreachable(worker, why),
                None if !was_reached => {
                    log::info!(worker:% = target.key, address = target.authority;
                        "worker is reached again");
                }
                _ => {}
            }
            matters || is_reached != was_reached
        };
        if matters {
            self.publish(&target.key);
        }
    }

    pub(super) fn note_store(&self, up: bool) {
        self.metrics.store_up.set(i64::from(up));
        match (self.store_up.swap(up, Ordering::AcqRel), up) {
            (true, false) => {
                self.settle_shares();
                self.queue.wake_all();
            }
            (false, true) => self.forget_shares(),
            _ => {}
        }
    }

    /// Writes what is known of a worker into the index, and wakes those who may have a seat.
    pub(super) fn publish(&self, key: &WorkerKey) {
        let put = {
            let table = self.table.lock();
            let facts = table.get(key).and_then(|worker| self.facts(worker));
            let Some(facts) = facts else { return };
            table.put(facts)
        };
        self.learned.notify_waiters();
        if put.is_new {
            // Pingora learns of it first: before that it does not count as healthy.
            self.membership.notify_one();
        } else if put.gained_seat {
            // A reservation that leaves seats, and a release beside free ones, are news to nobody who waits.
            self.queue.wake(key.browser);
        }
    }
}

fn log_unreachable(worker: &Known, why: &Unreachable) {
    let target = &worker.target;
    let likely = why.likely_cause(worker.fixed());
    if worker.fixed() {
        log::warn!(worker:% = target.key, address = target.authority, error:% = why, likely;
            "worker is not reached from here");
    } else {
        log::warn!(worker:% = target.key, address = target.authority, error:% = why, likely;
            "worker is not reached from here, although it heartbeats");
    }
}

fn log_joined(record: &WorkerRecord) {
    let version = record.version.map_or("unknown".into(), |v| v.to_string());
    log::info!(worker:% = record.key.id, browser:% = record.key.browser, version:% = version,
        address = record.endpoint.authority(), status = record.status.as_str(); "worker joined");
}

fn log_status(before: &WorkerRecord, now: &WorkerRecord) {
    if before.status != now.status {
        log::info!(worker:% = now.key.id, browser:% = now.key.browser,
            status = now.status.as_str(); "worker changed its status");
    }
}
