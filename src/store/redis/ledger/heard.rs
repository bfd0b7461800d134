//! What this process has heard of all workers: to tell what is news, and to write it down again in a
//! Redis that came back empty.

use super::Ledger;
use crate::model::{Counts, WorkerKey, WorkerRecord};
use crate::store::{Event, WorkerView};

impl Ledger {
    /// Counts that were heard, from wherever.
    pub fn hear(&mut self, worker: &WorkerKey, counts: Counts) {
        self.revision = self.revision.max(counts.revision);
        if let Some(registration) = self.workers.get_mut(worker) {
            registration.lifetime = registration.lifetime.max(counts.lifetime);
            registration.active = counts.active;
        }
        if let Some(known) = self.heard.get_mut(worker)
            && known.counts.revision <= counts.revision
        {
            known.counts = counts;
        }
    }

    /// A worker registered, or its record changed.
    pub fn learn(&mut self, view: &WorkerView) {
        let worker = &view.record.key;
        self.hear(worker, view.counts);
        match self.heard.get_mut(worker) {
            Some(known) if known.counts.revision > view.counts.revision => {}
            Some(known) => known.record = view.record.clone(),
            None => {
                self.heard.insert(worker.clone(), view.clone());
            }
        }
    }

    /// These workers, and `unread` that are none to be understood, are all there are.
    pub fn learn_all(&mut self, fleet: &[WorkerView], unread: usize) {
        self.heard.clear();
        for view in fleet {
            self.learn(view);
        }
        self.unread = Some(unread);
    }

    /// Whether a fleet of so many workers is the one that was read and heard of since.
    pub fn is_whole(&self, workers: usize) -> bool {
        self.unread
            .is_none_or(|unread| self.heard.len() + unread == workers)
    }

    /// What of this was not heard yet. A record that was announced is read with the changes once more.
    pub fn news(&self, event: Event) -> Option<Event> {
        let event = match event {
            Event::Worker(view) if self.knows_record(&view) => {
                Event::Counts(view.record.key, view.counts)
            }
            event => event,
        };
        match &event {
            Event::Counts(worker, counts) if !self.is_news(worker, counts) => None,
            _ => Some(event),
        }
    }

    /// Whether a record is as it was heard, but for what moves all the time.
    fn knows_record(&self, view: &WorkerView) -> bool {
        self.heard.get(&view.record.key).is_some_and(|known| {
            let heard = WorkerRecord {
                last_heartbeat: view.record.last_heartbeat,
                memory: view.record.memory,
                ..known.record.clone()
            };
            heard == view.record
        })
    }

    fn is_news(&self, worker: &WorkerKey, counts: &Counts) -> bool {
        self.heard.get(worker).is_none_or(|known| {
            let heard = known.counts;
            (heard.active, heard.lifetime) != (counts.active, counts.lifetime)
        })
    }

    /// What was last heard of a worker.
    pub fn heard_of(&self, worker: &WorkerKey) -> Option<&WorkerView> {
        self.heard.get(worker)
    }

    pub fn forget(&mut self, worker: &WorkerKey) {
        self.heard.remove(worker);
    }

    pub fn remembered(&self) -> Vec<WorkerView> {
        self.heard.values().cloned().collect()
    }

    /// The highest revision heard of.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}
