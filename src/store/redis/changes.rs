//! What a proxy knows of the fleet, kept true without reading it again and again: messages tell of each
//! change ([`super::revisions`]), and what they did not tell is read, of those workers alone. Whole it is read
//! when a proxy comes to a grid.

use super::keeper::BATCH;
use super::link::Live;
use super::{Inner, keys, upkeep, wire};
use crate::model::{Counts, WorkerKey};
use crate::store::{Event, StoreError, WorkerView};
use redis::{RedisResult, ScriptInvocation};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// One worker as `fleet.lua` returns it.
type Row = (String, u32, u32, HashMap<String, String>);
/// What `changes.lua` returns.
type Changes = (u64, u8, Vec<String>, Vec<String>);

/// Reads what was not told, whenever somebody found that there is something.
pub async fn catch_up_when_due(inner: Arc<Inner>) {
    loop {
        inner.missed.notified().await;
        if let Some(mut live) = inner.link.live()
            && let Err(error) = inner.catch_up(&mut live).await
        {
            upkeep::failed(&inner, &live, "reading what has changed", &error);
        }
    }
}

impl Inner {
    /// A change that was told.
    pub fn hear(&self, event: Event) {
        // Under the lock, so that what is read cannot overtake it.
        let mut ledger = self.ledger();
        match &event {
            Event::Counts(worker, counts) => ledger.hear(worker, *counts),
            Event::Worker(view) => ledger.learn(view),
            Event::Gone(worker) => ledger.forget(worker),
            _ => {}
        }
        self.emit(event);
    }

    /// Reads what has changed since this process was told of everything, and tells it as the messages would
    /// have done.
    async fn catch_up(&self, live: &mut Live) -> RedisResult<()> {
        let Some(since) = self.revisions().known_up_to() else {
            self.emit(Event::Resync);
            return Ok(());
        };
        let mut call = self.scripts.changes.key(self.keys.name(keys::GRID));
        call.arg(&*live.grid).arg(since);
        let (revision, known, changed, gone): Changes =
            call.invoke_async(&mut live.connection).await?;
        if known == 0 {
            self.revisions().forget();
            self.emit(Event::Resync);
            return Ok(());
        }
        let changed: Vec<WorkerKey> = changed.iter().filter_map(|it| it.parse().ok()).collect();
        for batch in changed.chunks(BATCH) {
            let (revision, views) = self.read_workers(live, batch).await?;
            for view in views {
                self.learn_unless_newer(view, revision);
            }
        }
        for worker in gone.iter().filter_map(|it| it.parse().ok()) {
            self.forget_unless_newer(worker, revision);
        }
        self.caught_up(live.epoch, revision);
        Ok(())
    }

    /// Everything up to a revision is known, by what was read on this connection or an earlier one.
    fn caught_up(&self, epoch: u64, revision: u64) {
        let mut revisions = self.revisions();
        // A newer one may lead to another grid, of which nothing is known yet.
        if self.epoch.load(Ordering::Relaxed) == epoch {
            revisions.catch_up(revision);
        }
    }

    /// A worker as it was at a revision, unless its record was told since.
    fn learn_unless_newer(&self, view: WorkerView, revision: u64) {
        let mut ledger = self.ledger();
        if ledger.told_of(&view.record.key) <= Some(revision) {
            ledger.learn(&view);
            self.emit(Event::Worker(Box::new(view)));
        }
    }

    fn forget_unless_newer(&self, worker: WorkerKey, revision: u64) {
        let mut ledger = self.ledger();
        if ledger.told_of(&worker).is_none_or(|told| told <= revision) {
            ledger.forget(&worker);
            self.emit(Event::Gone(worker));
        }
    }

    /// The whole fleet.
    pub async fn fleet(&self) -> Result<Vec<WorkerView>, StoreError> {
        let epoch = self.epoch.load(Ordering::Relaxed);
        let grid = self.keys.name(keys::GRID);
        let index = |live: &Live| {
            let mut call = self.scripts.index.key(&grid);
            call.arg(&*live.grid);
            call
        };
        let (begun, names): (u64, Vec<String>) = self.link.script(index).await?;
        let workers: Vec<WorkerKey> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let mut fleet = Vec::with_capacity(workers.len());
        for batch in workers.chunks(BATCH) {
            let rows = self
                .link
                .script(|live| self.fleet_call(live, batch))
                .await?;
            fleet.extend(views(rows).1);
        }
        self.ledger().learn_all(&fleet, begun);
        let first = self.revisions().known_up_to().is_none();
        if first {
            // Whatever came later was told.
            self.caught_up(epoch, begun);
        }
        Ok(fleet)
    }

    fn fleet_call(&self, live: &Live, workers: &[WorkerKey]) -> ScriptInvocation<'_> {
        let mut call = self.scripts.fleet.key(self.keys.name(keys::GRID));
        call.arg(&*live.grid);
        for worker in workers {
            call.key(self.keys.record(worker)).arg(worker.to_string());
        }
        call
    }

    /// Those of some workers that are there, and the revision at which they were like that.
    async fn read_workers(
        &self,
        live: &mut Live,
        workers: &[WorkerKey],
    ) -> RedisResult<(u64, Vec<WorkerView>)> {
        let call = self.fleet_call(live, workers);
        Ok(views(call.invoke_async(&mut live.connection).await?))
    }

    /// Compares the whole fleet with what was told, and has told to everybody what is not the same: what
    /// workers of the original, or people, wrote by themselves. One proxy does so for all.
    pub async fn announce_differences(&self, live: &mut Live) -> RedisResult<()> {
        if self.revisions().known_up_to().is_none() {
            // It was told of nothing yet.
            return Ok(());
        }
        let mut index = self.scripts.index.key(self.keys.name(keys::GRID));
        index.arg(&*live.grid);
        let (_, names): (u64, Vec<String>) = index.invoke_async(&mut live.connection).await?;
        let there: Vec<WorkerKey> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let mut differ = self.ledger().heard_beside(&there);
        for batch in there.chunks(BATCH) {
            let began = Instant::now();
            let (_, views) = self.read_workers(live, batch).await?;
            differ.extend(self.ledger().unknown(&views));
            upkeep::rest(there.len(), began).await;
        }
        for batch in differ.chunks(BATCH) {
            let mut announce = self.scripts.announce.prepare_invoke();
            for worker in batch {
                announce
                    .key(self.keys.record(worker))
                    .arg(worker.to_string());
            }
            let _: u32 = announce.invoke_async(&mut live.connection).await?;
        }
        Ok(())
    }
}

fn views((revision, rows): (u64, Vec<Row>)) -> (u64, Vec<WorkerView>) {
    let views = rows.into_iter().filter_map(|row| view(revision, row));
    (revision, views.collect())
}

fn view(revision: u64, (worker, active, lifetime, fields): Row) -> Option<WorkerView> {
    let Some(record) = wire::record(worker.parse().ok()?, &fields) else {
        log::debug!(worker = worker.as_str(); "a worker's record makes no sense");
        return None;
    };
    let counts = Counts {
        active,
        lifetime,
        revision,
    };
    Some(WorkerView { record, counts })
}
