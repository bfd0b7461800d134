//! What Redis has not been told yet, told from the ledger: seats that ended, seats that are held, and
//! sessions that came and went while it was away.

use super::Inner;
use super::keeper::BATCH;
use super::link::Live;
use crate::model::{Counts, WorkerKey};
use crate::store::ledger::UnsyncedSeat;
use redis::RedisResult;

impl Inner {
    /// Tells Redis all it has not been told. What is held comes before what ended, however late that was: the seat
    /// of a session that ended while Redis was away may have another one of ours, and is for nobody else. A session
    /// that gave up one seat and took another waits for its release.
    pub async fn flush(&self, live: &mut Live) -> RedisResult<()> {
        loop {
            self.flush_adoptions(live).await?;
            self.flush_told(live).await?;
            let batch = self.ledger().pending_releases(BATCH);
            if batch.is_empty() {
                break;
            }
            let call = self.release_call(&batch);
            let _: u32 = call.invoke_async(&mut live.connection).await?;
            let sessions = batch.into_iter().map(|(session, _)| session);
            self.ledger().released(sessions);
        }
        let departed = self.ledger().departed();
        for worker in departed {
            let call = self.deregister_call(&worker);
            let _: u32 = call.invoke_async(&mut live.connection).await?;
            self.ledger().deregistered(&worker);
        }
        // Somebody may wait for a release that this told.
        self.ended.notify_one();
        Ok(())
    }

    /// Nobody is seated from a share while this connection is live: what was told is all that there is.
    async fn flush_told(&self, live: &mut Live) -> RedisResult<()> {
        if self.grid().untold {
            let told = self.fenced(&self.scripts.told, live.epoch);
            let _: u32 = told.invoke_async(&mut live.connection).await?;
            self.grid().untold = false;
        }
        Ok(())
    }

    /// Tells Redis of seats that are held, and of sessions that came and went.
    pub async fn flush_adoptions(&self, live: &mut Live) -> RedisResult<()> {
        loop {
            let batch = self.ledger().take_unsynced(BATCH);
            let unseen = self.ledger().unseen(BATCH);
            if batch.is_empty() && unseen.is_empty() {
                return Ok(());
            }
            let mut adopt = self.fenced(&self.scripts.adopt, live.epoch);
            for seat in &batch {
                adopt
                    .arg(seat.session.to_string())
                    .arg(seat.worker.to_string())
                    .arg(u8::from(!seat.counted));
            }
            for (worker, sessions) in &unseen {
                adopt.arg("+").arg(worker.to_string()).arg(sessions);
            }
            match adopt.invoke_async(&mut live.connection).await {
                Ok(changed) => {
                    self.hear_adopted(changed);
                    self.ledger().mark_synced(&batch);
                    // Releases may have waited for that.
                    self.ended.notify_one();
                }
                Err(error) => {
                    let mut ledger = self.ledger();
                    ledger.mark_unsynced();
                    ledger.still_unseen(unseen);
                    // Nobody else tells of one that ended meanwhile. Should it have been counted, it is so twice.
                    let ended =
                        |seat: &&UnsyncedSeat| !seat.counted && ledger.is_releasing(seat.session);
                    let ended = batch.iter().filter(ended);
                    let ended = ended.map(|seat| (seat.worker.clone(), 1)).collect();
                    ledger.still_unseen(ended);
                    return Err(error);
                }
            }
        }
    }

    /// What was told is counted from here on, and remembered as that should this grid be lost in a moment.
    fn hear_adopted(&self, changed: Vec<(String, u32, u32, u64)>) {
        let mut ledger = self.ledger();
        for (worker, active, lifetime, revision) in changed {
            let counts = Counts {
                active,
                lifetime,
                revision,
            };
            if let Ok(worker) = worker.parse::<WorkerKey>() {
                ledger.hear(&worker, counts);
            }
        }
    }
}
