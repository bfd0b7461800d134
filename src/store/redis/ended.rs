//! Sessions that ended, on their way to Redis: those that end within a moment travel in one call, with
//! the clients who come to the line of their browser if there are any. The seats that they give back
//! go to who is first in line in the same call. And what else could not be told at once.

use super::calls::LineCall;
use super::keeper::BATCH;
use super::ledger::Ended;
use super::link::{CALL_TIMEOUT, Live};
use super::wire::{self, LineAnswer};
use super::{Inner, Role};
use crate::model::{Browser, SessionId};
use crate::store::{Event, Served, StoreError};
use redis::{RedisResult, ScriptInvocation};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

/// How long a session that ended waits for others, or for a call that goes to Redis anyway.
const GATHER: Duration = Duration::from_millis(1);

/// Sessions that ended and of which Redis is told in one call. Dropped unconfirmed, they are told
/// another time.
pub struct Batch<'a> {
    inner: &'a Inner,
    ended: Vec<Ended>,
}

impl<'a> Batch<'a> {
    /// Those of one browser whose seat is known, or any.
    pub fn take(inner: &'a Inner, browser: Option<Browser>) -> Batch<'a> {
        let ended = inner.ledger().ended(browser, BATCH);
        Batch { inner, ended }
    }

    /// Redis knows.
    pub fn confirmed(mut self) {
        let ended = std::mem::take(&mut self.ended);
        if ended.is_empty() {
            return;
        }
        let sessions = ended.into_iter().map(|it| it.session);
        self.inner.ledger().released(sessions);
        drop(self.inner.confirmed.send_replace(Ok(())));
    }
}

impl Deref for Batch<'_> {
    type Target = [Ended];

    fn deref(&self) -> &[Ended] {
        &self.ended
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if !self.ended.is_empty() {
            self.inner.ledger().still_ended(&self.ended);
        }
    }
}

/// Tells Redis of what could not be told at once, whenever there is something.
pub async fn deliver(inner: Arc<Inner>) {
    loop {
        inner.outbox.notified().await;
        if inner.role == Role::Proxy {
            tokio::time::sleep(GATHER).await;
            if let Err(error) = tell(&inner).await {
                log::debug!(error:%; "the store hears later of sessions that ended");
                drop(inner.confirmed.send_replace(Err(error)));
            }
        }
        let Some(mut live) = inner.link.live() else {
            // The keeper flushes the ledger before the next connection is live.
            continue;
        };
        if let Err(error) = inner.flush(&mut live).await {
            let error = inner.link.failed(live.epoch, &error);
            log::debug!(error:%; "the store could not be told");
        }
    }
}

/// Tells Redis of all sessions that ended.
async fn tell(inner: &Inner) -> Result<(), StoreError> {
    for browser in Browser::ALL {
        loop {
            let batch = Batch::take(inner, Some(browser));
            if batch.is_empty() {
                break;
            }
            let call = LineCall::of_ended(browser, &batch);
            let answer: LineAnswer = inner
                .link
                .script(|live| inner.line_call(live, &call))
                .await?;
            batch.confirmed();
            inner.take_in(&answer);
        }
    }
    loop {
        let batch = Batch::take(inner, None);
        if batch.is_empty() {
            return Ok(());
        }
        let _: u32 = inner.link.script(|_| inner.release_call(&batch)).await?;
        batch.confirmed();
    }
}

/// Waits until Redis was told that these ended.
///
/// # Errors
/// When it could not be told; it is told later.
pub async fn until_told(inner: &Inner, sessions: &[SessionId]) -> Result<(), StoreError> {
    let mut confirmed = inner.confirmed.subscribe();
    inner.outbox.notify_one();
    let told = async {
        while inner.ledger().owes(sessions) {
            if confirmed.changed().await.is_err() {
                break;
            }
            let outcome = confirmed.borrow_and_update().clone();
            if inner.ledger().owes(sessions) {
                outcome?;
            }
        }
        Ok(())
    };
    tokio::time::timeout(CALL_TIMEOUT, told)
        .await
        .unwrap_or_else(|_| Err(StoreError::Away("no answer in time".to_owned())))
}

impl Inner {
    /// Tells Redis all it has not been told: ended sessions first, so that a session that gave up
    /// one seat and took another is told in that order.
    pub async fn flush(&self, live: &mut Live) -> RedisResult<()> {
        loop {
            let batch = Batch::take(self, None);
            if batch.is_empty() {
                break;
            }
            let call = self.release_call(&batch);
            let _: u32 = call.invoke_async(&mut live.connection).await?;
            batch.confirmed();
        }
        let departed = self.ledger().departed();
        for worker in departed {
            let call = self.deregister_call(&worker);
            let _: u32 = call.invoke_async(&mut live.connection).await?;
            self.ledger().deregistered(&worker);
        }
        if self.role == Role::Proxy {
            self.flush_adoptions(live).await?;
        }
        Ok(())
    }

    async fn flush_adoptions(&self, live: &mut Live) -> RedisResult<()> {
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
            match adopt.invoke_async::<u32>(&mut live.connection).await {
                Ok(_) => self.ledger().mark_synced(&batch),
                Err(error) => {
                    let mut ledger = self.ledger();
                    ledger.mark_unsynced();
                    ledger.still_unseen(unseen);
                    return Err(error);
                }
            }
        }
    }

    pub fn release_call(&self, ended: &[Ended]) -> ScriptInvocation<'_> {
        let mut call = self.scripts.release.key(&self.leases_key);
        call.arg(&self.proxy);
        for it in ended {
            call.arg(it.session.to_string()).arg(u8::from(it.refund));
        }
        call
    }

    /// What nobody waits for of an answer to a call for the line.
    pub fn take_in(&self, answer: &LineAnswer) {
        if let Some(Served::Line(line)) = wire::served(answer) {
            for granted in line.granted {
                if self.granted(&granted)
                    && let Some(grantee) = self.grantee.get()
                {
                    grantee(granted);
                }
            }
        }
        for (worker, counts) in wire::looked_at(answer).unwrap_or_default() {
            if let Some(counts) = counts {
                let event = Event::Counts(worker, counts);
                self.heard(&event);
                self.emit(event);
            }
        }
    }
}
