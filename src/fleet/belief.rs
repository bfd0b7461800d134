//! Changing what is believed: every fact that comes in goes through here, into the map of known
//! workers and into the selection's index, and wakes those who wait for a seat.

use super::{Fleet, Known, Target, health};
use crate::model::{Counts, WorkerKey, WorkerRecord, WorkerStatus};
use crate::store::{Event, WorkerView};
use crate::tunnel::Close;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pause before a worker that could not be dialled is probed; doubles up to [`PROBATION_MAX`].
const PROBATION_MIN: Duration = Duration::from_millis(250);
const PROBATION_MAX: Duration = Duration::from_secs(10);

impl Fleet {
    /// Takes in what the store says.
    pub(super) fn take_in(self: &Arc<Self>, event: Event) {
        match event {
            Event::Worker(view) => self.learn(view),
            Event::Gone(key) => self.forget(&key),
            Event::Counts(key, counts) => self.count(&key, counts),
            Event::Reachable(up) => self.note_store(up),
            // The worker's own business, and the watch loop's.
            Event::Recycle(_) | Event::Resync => {}
        }
    }

    /// Replaces the whole belief by what the store has: for what lost events missed.
    pub(super) fn replace(self: &Arc<Self>, views: Vec<WorkerView>) {
        let there: HashSet<WorkerKey> = views.iter().map(|view| view.record.key.clone()).collect();
        let gone: Vec<WorkerKey> = {
            let known = self.known();
            known
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
            if let Some(known) = self.known().get_mut(&view.record.key) {
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
        let resolve = {
            let mut known = self.known();
            match known.get_mut(&key) {
                Some(worker) if worker.target.endpoint == view.record.endpoint => {
                    log_status(&worker.record, &view.record);
                    evicted = view.record.status == WorkerStatus::ShuttingDown
                        && worker.record.status != WorkerStatus::ShuttingDown;
                    worker.record = view.record;
                    if view.counts.revision >= worker.counts.revision {
                        worker.counts = view.counts;
                    }
                    None
                }
                _ => {
                    let target = Arc::new(Target::new(&view.record));
                    log_joined(&view.record);
                    let fixed = self.fixed_keys().contains(&key);
                    let worker = Known {
                        record: view.record,
                        counts: view.counts,
                        target: target.clone(),
                        answering: true,
                        on_probation: false,
                        fixed,
                    };
                    known.insert(key.clone(), worker);
                    target.is_name().then_some(target)
                }
            }
        };
        if evicted {
            // Its drain timeout is over. It gives us a moment to tell the clients why.
            self.registry.end_on(&key, Close::draining);
        }
        match resolve {
            // A name may take its time; the worker opens when it has an address.
            Some(target) => {
                let fleet = self.clone();
                tokio::spawn(async move {
                    target.resolve().await;
                    fleet.publish(&target.key);
                });
            }
            None => self.publish(&key),
        }
    }

    /// A worker is gone.
    pub(super) fn forget(&self, key: &WorkerKey) {
        if self.known().remove(key).is_none() {
            return;
        }
        log::info!(worker:% = key; "worker left");
        self.index.lock().remove(key);
        self.membership.notify_one();
        self.queue.wake(key.browser);
    }

    /// A reservation found that a worker is not there or not available. When its new status has
    /// been heard meanwhile, that is why; else it is gone.
    pub(super) fn no_longer_open(&self, key: &WorkerKey) {
        let open = self.known().get(key).is_some_and(Known::open);
        if open {
            self.forget(key);
        }
    }

    /// A worker's counters changed.
    pub(super) fn count(&self, key: &WorkerKey, counts: Counts) {
        {
            let mut known = self.known();
            let Some(worker) = known.get_mut(key) else {
                return;
            };
            if counts.revision <= worker.counts.revision {
                return;
            }
            worker.counts = counts;
        }
        self.publish(key);
    }

    /// A health check changed its mind about a worker.
    pub(super) fn set_answering(&self, key: &WorkerKey, answering: bool) {
        if let Some(worker) = self.known().get_mut(key) {
            worker.answering = answering;
        }
        self.publish(key);
    }

    /// A worker could not be dialled: it is out of selection until a probe goes well.
    pub fn dial_failed(self: &Arc<Self>, target: &Arc<Target>, error: &dyn std::fmt::Display) {
        self.metrics.dial_failures.inc();
        log::warn!(worker:% = target.key, address = target.authority, error:% = error;
            "worker cannot be dialled; it heartbeats, so look at the network between, \
             at its PRIVATE_HOSTNAME and port");
        let started = {
            let mut known = self.known();
            let worker = known.get_mut(&target.key);
            worker.is_some_and(|worker| !std::mem::replace(&mut worker.on_probation, true))
        };
        self.publish(&target.key);
        if started {
            let (fleet, target) = (Arc::downgrade(self), target.clone());
            tokio::spawn(async move {
                let mut pause = PROBATION_MIN;
                loop {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PROBATION_MAX);
                    let probed = health::probe(&target).await;
                    let Some(fleet) = fleet.upgrade() else { return };
                    let still_known = fleet
                        .known()
                        .get(&target.key)
                        .is_some_and(|worker| Arc::ptr_eq(&worker.target, &target));
                    if !still_known {
                        return;
                    }
                    if probed.is_ok() {
                        fleet.off_probation(&target.key);
                        return;
                    }
                }
            });
        }
    }

    fn off_probation(&self, key: &WorkerKey) {
        if let Some(worker) = self.known().get_mut(key) {
            worker.on_probation = false;
            log::info!(worker:% = key; "worker answers again");
        }
        self.publish(key);
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

    /// Writes what is known of a worker into the index, and wakes those who may now have a seat.
    pub(super) fn publish(&self, key: &WorkerKey) {
        // Known before index, here and nowhere the other way round: two changes of one worker
        // reach the index in the order in which they were made.
        let known = self.known();
        let Some(worker) = known.get(key) else {
            return;
        };
        let Some(facts) = worker.facts() else {
            return;
        };
        let address = facts.address;
        let opens = facts.open;
        let is_new = {
            let mut index = self.index.lock();
            let before = index.facts(key).map(|facts| facts.address);
            index.put(facts);
            before != Some(address)
        };
        drop(known);
        if is_new {
            // Pingora learns of it first: before that it does not count as healthy.
            self.membership.notify_one();
        } else if opens {
            self.queue.wake(key.browser);
        }
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
