//! What was heard of workers, from whomever: what a store that comes back empty is told, and against what is held
//! how they are. Pure.

use super::Ledger;
use crate::model::{Counts, WorkerKey, WorkerRecord};
use crate::store::WorkerView;
use std::collections::HashSet;

/// Workers that left whose lifetimes are remembered, the last ones: a store that comes back empty has
/// forgotten those of workers that were silent then.
const SILENT_REMEMBERED: usize = 1000;

/// A worker as it was heard of.
pub(super) struct Heard {
    view: WorkerView,
    /// The revision of its record, which may be older than its counts.
    told: u64,
}

impl Ledger {
    /// Counts that were heard, from wherever.
    pub fn hear(&mut self, worker: &WorkerKey, counts: Counts) {
        self.revision = self.revision.max(counts.revision);
        if let Some(registration) = self.workers.get_mut(worker) {
            registration.ever_given = registration.ever_given.max(counts.lifetime);
            registration.active = counts.active;
        }
        if let Some(known) = self.heard.get_mut(worker)
            && known.view.counts.revision <= counts.revision
        {
            known.view.counts = counts;
        }
    }

    /// A worker registered, or its record changed.
    pub fn learn(&mut self, view: &WorkerView) {
        let worker = &view.record.key;
        let told = view.counts.revision;
        self.hear(worker, view.counts);
        match self.heard.get_mut(worker) {
            Some(known) => {
                known.view.record = view.record.clone();
                known.told = told;
            }
            None => {
                let view = view.clone();
                self.heard.insert(worker.clone(), Heard { view, told });
            }
        }
    }

    /// These workers are all there are, but for those that were told of behind this revision.
    pub fn learn_all(&mut self, fleet: &[WorkerView], revision: u64) {
        let there: HashSet<&WorkerKey> = fleet.iter().map(|view| &view.record.key).collect();
        let gone = self.heard.iter();
        let gone = gone.filter(|(worker, known)| known.told <= revision && !there.contains(worker));
        let gone: Vec<WorkerKey> = gone.map(|(worker, _)| worker.clone()).collect();
        gone.iter().for_each(|worker| self.forget(worker));
        self.heard.retain(|_, known| known.told > revision);
        for view in fleet {
            if self.told_of(&view.record.key) <= Some(view.counts.revision) {
                self.learn(view);
            }
        }
    }

    /// A worker has left the books.
    pub fn forget(&mut self, worker: &WorkerKey) {
        if let Some(known) = self.heard.remove(worker) {
            let lifetime = known.view.counts.lifetime;
            // One that comes and goes takes the place of no other.
            self.silent.retain(|(before, _)| before != worker);
            self.silent.push_back((worker.clone(), lifetime));
            if self.silent.len() > SILENT_REMEMBERED {
                self.silent.pop_front();
            }
        }
    }

    /// Workers that left, which may have fallen silent and come back, each with its lifetime.
    pub fn silent(&self) -> Vec<(WorkerKey, u32)> {
        let lifetimes = self.silent.iter().filter(|(_, lifetime)| *lifetime > 0);
        lifetimes.cloned().collect()
    }

    /// The workers as they were heard of last.
    pub fn remembered(&self) -> Vec<WorkerView> {
        self.heard
            .values()
            .map(|known| known.view.clone())
            .collect()
    }

    /// The revision at which a worker's record was told last.
    pub fn told_of(&self, worker: &WorkerKey) -> Option<u64> {
        self.heard.get(worker).map(|known| known.told)
    }

    /// Workers that were heard of beside these.
    pub fn heard_beside(&self, workers: &[WorkerKey]) -> Vec<WorkerKey> {
        let there: HashSet<&WorkerKey> = workers.iter().collect();
        let others = self.heard.keys().filter(|worker| !there.contains(worker));
        others.cloned().collect()
    }

    /// Of workers that were read, those that are not as was heard of them.
    pub fn unknown(&self, read: &[WorkerView]) -> Vec<WorkerKey> {
        let unknown = read.iter().filter(|view| !self.knows(view));
        unknown.map(|view| view.record.key.clone()).collect()
    }

    /// Whether a worker that was read was heard of as it is, or something newer was. Its
    /// last sign of life and its memory are told to nobody.
    fn knows(&self, view: &WorkerView) -> bool {
        let Some(known) = self.heard.get(&view.record.key) else {
            return false;
        };
        let (read, told) = (view.counts, known.view.counts);
        let counts = told.revision > read.revision
            || (told.active, told.lifetime) == (read.active, read.lifetime);
        let record = WorkerRecord {
            last_heartbeat: known.view.record.last_heartbeat,
            memory: known.view.record.memory,
            ..view.record.clone()
        };
        counts && (known.told > read.revision || record == known.view.record)
    }
}
