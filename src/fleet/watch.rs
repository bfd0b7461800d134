//! Keeping the belief true: the loop that listens to the store, reads it whole where it may have missed
//! something, runs the health checks and keeps Pingora's balancer up to date.

use super::{Fleet, policy};
use crate::config::StaticWorker;
use crate::model::{Browser, WorkerKey, WorkerRecord, WorkerStatus, unix_millis};
use crate::store::{Event, StoreError};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// A fixed worker falls off the books so many intervals after the last proxy that names it has gone.
const FIXED_TTL_CHECKS: u32 = 4;

/// Between two readings of a whole fleet that others share, for what nobody thought of. A large one is read
/// as often as takes one part in so many of the time.
const READ_WHOLE: Duration = Duration::from_secs(30);
const READING_SHARE: u32 = 200;

/// The same for somebody who looks at it.
const FRESHENING_SHARE: u32 = 20;

/// Telling Pingora who is there may take one part of this process' time in so many and one.
const DISCOVERY_SHARE: u32 = 9;

/// Pause between two checks of the store's events. Each session makes some of them, and to be woken
/// for every one would cost more than the session does.
const EVENT_PAUSE: Duration = Duration::from_millis(2);

/// A time at which the store was read whole.
pub(super) struct Reading {
    at: Instant,
    took: Duration,
}

impl Reading {
    fn is_old(&self) -> bool {
        self.at.elapsed() > READ_WHOLE.max(self.took * READING_SHARE)
    }
}

/// What the store told since the last look at it.
#[derive(Default)]
struct Told {
    events: Vec<Event>,
    /// Else the store has to be read.
    complete: bool,
}

/// Takes an event and those that have come behind it: of the counts of one worker only the newest, behind all
/// else. Their revisions tell what is newer than the records that were told meanwhile.
fn merge(first: Event, receiver: &mut broadcast::Receiver<Event>) -> Told {
    let (mut events, mut counts, mut complete) = (Vec::new(), BTreeMap::new(), true);
    let mut next = Some(first);
    // Those that come meanwhile are for the next look.
    for behind in (0..=receiver.len()).rev() {
        match next.take() {
            Some(Event::Counts(worker, newer)) => drop(counts.insert(worker, newer)),
            Some(Event::Resync) => complete = false,
            Some(event) => events.push(event),
            None => {}
        }
        if behind > 0 {
            let told = receiver.try_recv();
            complete &= !matches!(told, Err(TryRecvError::Lagged(_)));
            next = told.ok();
        }
    }
    let newest = counts.into_iter();
    events.extend(newest.map(|(worker, counts)| Event::Counts(worker, counts)));
    Told { events, complete }
}

impl Fleet {
    /// Runs until `shutdown` turns true.
    pub async fn run(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        // Aborted when dropped, however this ends.
        let mut tasks = JoinSet::new();
        tasks.spawn(self.clone().run_health_checks());
        tasks.spawn(self.clone().run_discovery());
        tasks.spawn(self.clone().watch_first_answers());
        for browser in Browser::ALL {
            tasks.spawn(self.clone().run_line(browser));
        }
        tokio::select! {
            () = self.clone().listen() => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    async fn listen(self: Arc<Self>) {
        let mut events = self.store.events();
        let config = self.config.load();
        let mut poll = interval(config.store.poll_interval);
        let mut reap = interval(config.store.reap_interval);
        drop(config);
        // When it was read whole, and how long that took; none after something was missed.
        let mut read = None;
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        reap.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // The rare ones first: events may come without end.
                biased;
                _ = poll.tick() => self.refresh(&mut read).await,
                () = self.reconfigured.notified() => self.refresh(&mut read).await,
                _ = reap.tick() => {
                    if let Err(error) = self.store.reap().await {
                        log::debug!(error:% = error; "could not reap");
                    }
                }
                event = events.recv() => {
                    let told = match event {
                        Ok(event) => merge(event, &mut events),
                        Err(RecvError::Lagged(_)) => Told::default(),
                        Err(RecvError::Closed) => return,
                    };
                    told.events.into_iter().for_each(|event| self.apply_event(event));
                    if !told.complete {
                        read = self.read_store().await;
                    }
                    // Nobody is woken for what comes meanwhile.
                    if events.is_empty() {
                        tokio::time::sleep(EVENT_PAUSE).await;
                    }
                }
            }
        }
    }

    /// What is done from time to time. `read` says when the store was read whole.
    async fn refresh(self: &Arc<Self>, read: &mut Option<Reading>) {
        self.register_fixed().await;
        let forgot = self.forgot.swap(false, Ordering::Relaxed);
        let due = forgot || read.as_ref().is_none_or(Reading::is_old);
        if due || !self.store.is_shared() {
            *read = self.read_store().await;
        }
        self.resolve_names();
        self.forget_shown_versions();
        self.order_overdue();
    }

    /// Reads the store whole. `None` when it could not be read.
    async fn read_store(self: &Arc<Self>) -> Option<Reading> {
        let began = Instant::now();
        let views = self.store.fleet().await;
        self.note_store(views.is_ok());
        self.replace(views.ok()?);
        Some(Reading {
            at: Instant::now(),
            took: began.elapsed(),
        })
    }

    /// Reads what nobody is told of, memory and last signs of life, for somebody who wants to see it.
    /// Who asks again and again is shown what was read a moment ago.
    pub async fn freshen(&self) {
        if !self.store.is_shared() || !self.store_up() || !self.may_freshen() {
            return;
        }
        let began = Instant::now();
        let Ok(views) = self.store.fleet().await else {
            return;
        };
        *self.freshened() = Some(Reading {
            at: Instant::now(),
            took: began.elapsed(),
        });
        let mut table = self.table.lock();
        for view in views {
            if let Some(worker) = table.get_mut(&view.record.key) {
                worker.record.last_heartbeat = view.record.last_heartbeat;
                worker.record.memory = view.record.memory;
            }
        }
    }

    /// Whether it is time to; nobody else does so then.
    fn may_freshen(&self) -> bool {
        let min_pause = self.config.load().store.poll_interval;
        let mut last = self.freshened();
        let took = last.as_ref().map_or(Duration::ZERO, |it| it.took);
        let fresh = |it: &Reading| it.at.elapsed() < min_pause.max(took * FRESHENING_SHARE);
        if last.as_ref().is_some_and(fresh) {
            return false;
        }
        let at = Instant::now();
        *last = Some(Reading { at, took });
        true
    }

    fn freshened(&self) -> MutexGuard<'_, Option<Reading>> {
        self.freshened
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The configuration changed: limits and order take hold at once, workers that stand in it
    /// in a moment.
    pub fn reconfigure(&self) {
        self.table.index().set_policy(policy(&self.config));
        self.queue.wake_all();
        self.reconfigured.notify_one();
        self.interval_changed.notify_one();
    }

    async fn run_discovery(self: Arc<Self>) {
        loop {
            self.membership.notified().await;
            let began = Instant::now();
            if let Err(error) = self.balancer.update().await {
                log::error!(error:% = error; "the balancer could not be updated");
            }
            self.queue.wake_all();
            // A new worker may have ended somebody's turn.
            self.order_overdue();
            // Those who come and go meanwhile are one change of a fleet that takes its time to be gone through.
            tokio::time::sleep(began.elapsed() * DISCOVERY_SHARE).await;
        }
    }

    fn resolve_names(self: &Arc<Self>) {
        let names: Vec<_> = {
            let table = self.table.lock();
            let targets = table.values().map(|worker| worker.target.clone());
            targets.filter(|target| target.is_name()).collect()
        };
        for target in names {
            tokio::spawn(self.clone().resolve(target));
        }
    }

    /// Keys of the workers that stand in the configuration.
    pub(super) fn fixed_keys(&self) -> HashSet<WorkerKey> {
        self.config.load().workers.iter().map(fixed_key).collect()
    }

    /// Fixed workers have no agent: every proxy that names them registers and heartbeats them.
    async fn register_fixed(self: &Arc<Self>) {
        let config = self.config.load_full();
        let ttl = config
            .selection
            .health_interval
            .max(config.store.poll_interval)
            * FIXED_TTL_CHECKS
            + Duration::from_secs(1);
        if self.register_configured(&config.workers, ttl).await.is_ok() {
            // What the store could not be told is told at the next look.
            self.take_out_removed(ttl).await.ok();
        }
    }

    async fn register_configured(
        &self,
        workers: &[StaticWorker],
        ttl: Duration,
    ) -> Result<(), StoreError> {
        for worker in workers {
            let key = fixed_key(worker);
            let now = unix_millis();
            let started_at = self
                .table
                .lock()
                .get(&key)
                .map_or(now, |known| known.record.started_at);
            let record = WorkerRecord {
                version: worker.version,
                fixed: true,
                last_heartbeat: now,
                ..WorkerRecord::new(key, worker.endpoint.clone(), started_at)
            };
            self.store.register(&record, ttl).await?;
        }
        Ok(())
    }

    /// Workers that the configuration has ceased to name leave at once, or with their last session.
    async fn take_out_removed(&self, ttl: Duration) -> Result<(), StoreError> {
        let fixed = self.fixed_keys();
        let removed: Vec<_> = {
            let mut table = self.table.lock();
            for (key, worker) in table.iter_mut() {
                worker.configured |= fixed.contains(key);
            }
            // Those of other proxies' configurations are their business.
            let of_file = table.values().filter(|worker| worker.configured);
            of_file
                .filter(|worker| !fixed.contains(&worker.record.key))
                .map(|worker| (worker.record.clone(), worker.counts.active))
                .collect()
        };
        for (record, active) in removed {
            if active == 0 {
                self.store.deregister(&record.key).await?;
            } else {
                // Its sessions go on, and count should it be put back meanwhile.
                let status = WorkerStatus::Draining;
                let last_heartbeat = unix_millis();
                let record = WorkerRecord {
                    status,
                    last_heartbeat,
                    ..record
                };
                self.store.register(&record, ttl).await?;
            }
        }
        Ok(())
    }
}

/// The same address is the same worker, in every proxy and after every restart.
fn fixed_key(worker: &StaticWorker) -> WorkerKey {
    let digest = Sha256::digest(worker.endpoint.to_string());
    let id: String = digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    WorkerKey::new(worker.browser, format!("fixed-{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Counts;

    fn counts(id: &str, revision: u64) -> Event {
        let counts = Counts {
            active: 1,
            lifetime: 1,
            revision,
        };
        Event::Counts(WorkerKey::new(Browser::Chromium, id), counts)
    }

    #[test]
    fn of_the_counts_of_one_worker_only_the_newest_are_looked_at() {
        let (sender, mut receiver) = broadcast::channel(8);
        let gone = || Event::Gone(WorkerKey::new(Browser::Chromium, "c"));
        for event in [counts("b", 2), counts("a", 3), gone(), counts("a", 4)] {
            sender.send(event).unwrap();
        }
        let told = merge(counts("a", 1), &mut receiver);
        assert_eq!(told.events, [gone(), counts("a", 4), counts("b", 2)]);
        assert!(told.complete && receiver.is_empty());
    }

    #[test]
    fn what_was_missed_is_read() {
        let (sender, mut receiver) = broadcast::channel(2);
        for revision in 2..9 {
            sender.send(counts("a", revision)).unwrap();
        }
        assert!(!merge(counts("a", 1), &mut receiver).complete);
        while receiver.try_recv().is_ok() {}
        sender.send(Event::Resync).unwrap();
        assert!(!merge(counts("a", 1), &mut receiver).complete);
        assert!(receiver.is_empty());
    }
}
