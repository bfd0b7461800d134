//! Moving the seats of a memory store to the process that takes over at an upgrade.
//!
//! While the old process finishes its sessions, and seats those who had come to it before its
//! listener closed, both would fill the same workers. So the truth moves: the old process stops
//! seating, tells the new one who holds which seat, and from then on asks it for every seat and
//! gives every seat back there ([`successor`] answers). The limits hold for both together, and when
//! the old process is gone, however it went, so are its seats.
//!
//! Who connects to whom, and when, is `app::succession`'s business.

mod remote;
pub mod successor;
mod wire;

use super::memory::MemoryStore;
use super::{Beat, Candidate, Event, Reserved, Store, StoreError, WorkerView};
use crate::model::{Reason, SessionId, WorkerKey, WorkerRecord, WorkerStatus};
use async_trait::async_trait;
use remote::Remote;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, watch};

/// A memory store whose seats can move to another process, once.
pub struct HandoverStore {
    memory: Arc<MemoryStore>,
    place: watch::Sender<Place>,
}

/// Where the truth about the seats is.
enum Place {
    Here,
    /// On its way: whoever wants a seat or gives one back waits.
    Moving,
    There(Remote),
}

impl HandoverStore {
    pub fn new() -> HandoverStore {
        HandoverStore {
            memory: Arc::default(),
            place: watch::Sender::new(Place::Here),
        }
    }

    /// Moves the seats to the process at the other end of `stream`. When it returns, every seat is
    /// taken and given back there.
    ///
    /// # Errors
    /// When the other side does not take them over. They are here then, as before. The same when
    /// this future is dropped.
    pub async fn move_to(&self, stream: UnixStream) -> Result<(), StoreError> {
        let moving = Moving::begin(&self.place);
        // Nobody takes a seat or gives one back from here on: the list is complete.
        let seats = self.memory.seats();
        let remote = Remote::connect(stream, seats, self.memory.clone()).await?;
        moving.done(remote);
        self.memory.tell(Event::Resync);
        Ok(())
    }

    /// Does it here or, once the seats have moved, says where. Waits while they move.
    async fn here_or_there<T>(&self, act: impl Fn(&MemoryStore) -> T) -> Result<T, Remote> {
        let mut place = self.place.subscribe();
        loop {
            // The borrow is a lock: nobody begins to move the seats in the middle of it.
            match &*place.borrow_and_update() {
                Place::Here => return Ok(act(&self.memory)),
                Place::There(remote) => return Err(remote.clone()),
                Place::Moving => {}
            }
            // The sender is ours: it cannot be gone.
            place.changed().await.ok();
        }
    }

    fn moved(&self) -> Option<Remote> {
        match &*self.place.borrow() {
            Place::There(remote) => Some(remote.clone()),
            Place::Here | Place::Moving => None,
        }
    }
}

impl Default for HandoverStore {
    fn default() -> Self {
        HandoverStore::new()
    }
}

/// Seats on their way; dropping it leaves them where they were.
struct Moving<'s>(&'s watch::Sender<Place>);

impl<'s> Moving<'s> {
    fn begin(place: &'s watch::Sender<Place>) -> Moving<'s> {
        place.send_replace(Place::Moving);
        Moving(place)
    }

    fn done(self, remote: Remote) {
        self.0.send_replace(Place::There(remote));
    }
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.0.send_if_modified(|place| {
            let left = matches!(place, Place::Moving);
            if left {
                *place = Place::Here;
            }
            left
        });
    }
}

#[async_trait]
impl Store for HandoverStore {
    async fn fleet(&self) -> Result<Vec<WorkerView>, StoreError> {
        match self.moved() {
            None => self.memory.fleet().await,
            Some(remote) => remote.fleet().await,
        }
    }

    async fn reserve(
        &self,
        session: SessionId,
        candidates: &[Candidate],
    ) -> Result<Reserved, StoreError> {
        let here = |memory: &MemoryStore| memory.reserve_now(session, candidates);
        match self.here_or_there(here).await {
            Ok(reserved) => Ok(reserved),
            Err(remote) => remote.reserve(session, candidates.to_vec()).await,
        }
    }

    async fn release(&self, session: SessionId, refund: bool) -> Result<(), StoreError> {
        let here = |memory: &MemoryStore| memory.release_now(session, refund);
        match self.here_or_there(here).await {
            Ok(()) => Ok(()),
            Err(remote) => remote.release(session, refund).await,
        }
    }

    /// Asked for when the store is away. Here it never is; there it is when the process is gone,
    /// and with it whoever else could fill the workers.
    fn adopt(&self, session: SessionId, worker: &WorkerKey) {
        if self.moved().is_none() {
            self.memory.adopt(session, worker);
        }
    }

    async fn order_recycle(&self, worker: &WorkerKey, ttl: Duration) -> Result<(), StoreError> {
        self.memory.order_recycle(worker, ttl).await
    }

    async fn order_recycle_in_turn(
        &self,
        worker: &WorkerKey,
        ttl: Duration,
        max_out: usize,
        turn: Duration,
    ) -> Result<bool, StoreError> {
        let memory = &self.memory;
        memory
            .order_recycle_in_turn(worker, ttl, max_out, turn)
            .await
    }

    async fn take_warm_up(
        &self,
        worker: &WorkerKey,
        most: usize,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        self.memory.take_warm_up(worker, most, ttl).await
    }

    async fn end_warm_up(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        self.memory.end_warm_up(worker).await
    }

    async fn count_recycle(&self, worker: &WorkerKey, reason: Reason) -> Result<(), StoreError> {
        self.memory.count_recycle(worker, reason).await
    }

    async fn recycles(&self) -> Result<HashMap<Reason, u64>, StoreError> {
        self.memory.recycles().await
    }

    async fn suspect(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        self.memory.suspect(worker).await
    }

    async fn count_oom_kills(&self, kills: u64) -> Result<(), StoreError> {
        self.memory.count_oom_kills(kills).await
    }

    async fn oom_kills(&self) -> Result<u64, StoreError> {
        self.memory.oom_kills().await
    }

    /// Once the seats have moved, the workers that count are those registered there.
    async fn register(&self, record: &WorkerRecord, ttl: Duration) -> Result<(), StoreError> {
        match self.moved() {
            None => self.memory.register(record, ttl).await,
            Some(_) => Ok(()),
        }
    }

    async fn heartbeat(
        &self,
        worker: &WorkerKey,
        status: WorkerStatus,
        memory: Option<u64>,
        ttl: Duration,
    ) -> Result<Beat, StoreError> {
        self.memory.heartbeat(worker, status, memory, ttl).await
    }

    async fn deregister(&self, worker: &WorkerKey) -> Result<(), StoreError> {
        match self.moved() {
            None => self.memory.deregister(worker).await,
            Some(_) => Ok(()),
        }
    }

    async fn reap(&self) -> Result<(), StoreError> {
        match self.moved() {
            None => self.memory.reap().await,
            Some(_) => Ok(()),
        }
    }

    async fn active_sessions(&self) -> Result<u64, StoreError> {
        let Some(remote) = self.moved() else {
            return self.memory.active_sessions().await;
        };
        let fleet = remote.fleet().await?;
        Ok(fleet.iter().map(|view| u64::from(view.counts.active)).sum())
    }

    fn reachable(&self) -> bool {
        self.moved().is_none_or(|remote| remote.is_connected())
    }

    fn is_shared(&self) -> bool {
        self.moved().is_some()
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.memory.events()
    }
}
