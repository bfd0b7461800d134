//! Seats and the line for them, in Redis: each question is one script, with the ledger before and after it.

use super::keeper::{BATCH, millis};
use super::link::Live;
use super::wire::LineAnswer;
use super::{Inner, RedisStore, keys, wire};
use crate::model::{Browser, SessionId, Waiter, WorkerKey};
use crate::store::{
    Candidate, Granted, Grantee, MAX_CANDIDATES, Reserved, SeatStore, Served, StoreError,
};
use async_trait::async_trait;
use redis::ScriptInvocation;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long a proxy's clients count as waiting at least since it last served a line: long enough for
/// one that asks twice in a second on a busy machine, short enough that one that froze holds up nobody.
const MIN_WAITS: Duration = Duration::from_secs(2);
/// The same where `store.proxy_ttl` is long, as a part of that.
const WAITS_SHARE: u32 = 4;
/// How long a seat that another proxy's call gave to a client waits to be taken up, as a part of `store.proxy_ttl`: longer
/// than a busy machine is deaf, much less than clients wait.
const CONFIRM_SHARE: u32 = 10;

/// That time.
pub fn confirmed_within(proxy_ttl: Duration) -> Duration {
    proxy_ttl / CONFIRM_SHARE
}

/// Makes good for a reservation whose future is dropped: what it may have taken is given back.
struct Asking<'a> {
    inner: &'a Inner,
    session: SessionId,
    /// Whether the question was handed to a connection.
    sent: AtomicBool,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.sent.load(Ordering::Relaxed) {
            self.inner.ledger().never_asked(self.session);
            return;
        }
        // Does nothing for a reservation that came to an end.
        if self.inner.ledger().doubt(self.session) {
            self.inner.outbox.notify_one();
        }
    }
}

#[async_trait]
impl SeatStore for RedisStore {
    async fn reserve(
        &self,
        session: SessionId,
        candidates: &[Candidate],
    ) -> Result<Reserved, StoreError> {
        self.reserve_once(session, candidates).await
    }

    fn keeps_line(&self) -> bool {
        true
    }

    async fn serve_line(
        &self,
        browser: Browser,
        anew: bool,
        coming: &[Waiter],
        candidates: &[Candidate],
    ) -> Result<Served, StoreError> {
        let inner = &*self.inner;
        for waiter in coming {
            inner.ledger().wait(waiter.session);
        }
        let asked = Instant::now().into_std();
        let sent = AtomicBool::new(false);
        let answer: Result<LineAnswer, _> = inner
            .link
            .script(|live| {
                sent.store(true, Ordering::Relaxed);
                inner.line_call(live, browser, anew, coming, candidates)
            })
            .await;
        if answer.is_err() && !sent.into_inner() {
            let mut ledger = inner.ledger();
            for waiter in coming {
                ledger.never_asked(waiter.session);
            }
        }
        let answer = answer?;
        let heard = Instant::now().into_std();
        inner.clock.observe(asked, heard, answer.6);
        let mut served = wire::served(&answer)
            .ok_or_else(|| StoreError::Refused("an answer that makes no sense".to_owned()))?;
        if let Served::Line(line) = &mut served {
            line.granted.retain(|granted| inner.granted(granted));
        }
        Ok(served)
    }

    fn grant_with(&self, grantee: Grantee) {
        // The first one stays.
        self.inner.grantee.set(grantee).ok();
    }

    async fn release(&self, session: SessionId, refund: bool) -> Result<(), StoreError> {
        if !self.inner.ledger().release(session, refund) {
            return Ok(());
        }
        self.send_release(session).await
    }

    fn adopt(&self, session: SessionId, worker: &WorkerKey) {
        self.inner.ledger().adopt(session, worker);
        self.inner.outbox.notify_one();
    }

    async fn active_sessions(&self) -> Result<u64, StoreError> {
        let counts: Vec<String> = self
            .inner
            .link
            .send(redis::cmd("HVALS").arg(self.inner.keys.name(keys::ACTIVE)))
            .await?;
        // What is no number is mended by the next sweep.
        let counts = counts.iter().filter_map(|count| count.parse::<u64>().ok());
        Ok(counts.sum())
    }

    fn holds_seats_until(&self) -> Option<Instant> {
        let ttl = self.inner.proxy_ttl;
        self.inner.presence().holds_until(Instant::now(), ttl)
    }
}

impl RedisStore {
    /// This process' name among the proxies.
    #[cfg(test)]
    pub fn name(&self) -> &str {
        &self.inner.proxy
    }

    async fn reserve_once(
        &self,
        session: SessionId,
        candidates: &[Candidate],
    ) -> Result<Reserved, StoreError> {
        let inner = &*self.inner;
        if !inner.ledger().begin(session) {
            self.send_release(session).await?;
            inner.ledger().begin(session);
        }
        let asking = Asking {
            inner,
            session,
            sent: AtomicBool::new(false),
        };
        let answer: Vec<String> = inner
            .link
            .script(|live| {
                asking.sent.store(true, Ordering::Relaxed);
                let mut call = inner.fenced(&inner.scripts.reserve, live.epoch);
                call.arg(session.to_string());
                inner.name_candidates(&mut call, candidates);
                call
            })
            .await?;
        let reserved = wire::reserved(&answer)
            .ok_or_else(|| StoreError::Refused("an answer that makes no sense".to_owned()))?;
        let Reserved::Seat { worker, counts } = &reserved else {
            inner.ledger().unseated(session);
            return Ok(reserved);
        };
        inner.hear_counts(worker, *counts);
        if !inner.ledger().seated(session, worker) {
            // Released while it was being reserved, by somebody who did not wait.
            inner.outbox.notify_one();
            return Ok(Reserved::Gone);
        }
        Ok(reserved)
    }

    /// Tells Redis of a session that ended, together with all others that end meanwhile. The ledger keeps
    /// it until Redis has confirmed.
    async fn send_release(&self, session: SessionId) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let mut rounds = inner.release_rounds.subscribe();
        inner.ended.notify_one();
        while inner.ledger().is_releasing(session) {
            // The sender is ours: it cannot be gone.
            rounds.changed().await.ok();
            if let Err(error) = &*rounds.borrow_and_update() {
                return Err(error.clone());
            }
        }
        Ok(())
    }
}

/// Tells Redis of sessions that ended. One call is on its way at a time: what ends meanwhile goes with
/// the next one.
pub async fn send_releases(inner: Arc<Inner>) {
    loop {
        inner.ended.notified().await;
        loop {
            let batch = inner.ledger().pending_releases(BATCH);
            if batch.is_empty() {
                // Who waits looks for himself: a new connection may have told of it.
                drop(inner.release_rounds.send_replace(Ok(())));
                break;
            }
            let call = inner.release_call(&batch);
            let told = inner.link.invoke::<u32>(&call).await.map(|_| ());
            let failed = told.is_err();
            if !failed {
                let sessions = batch.into_iter().map(|(session, _)| session);
                inner.ledger().released(sessions);
            }
            drop(inner.release_rounds.send_replace(told));
            if failed {
                // They are told when there is a connection again.
                break;
            }
        }
    }
}

impl Inner {
    /// Another proxy's call gave a session of this one a seat. Whoever asks for it tells of it again, if it still waits.
    pub fn hear_grant(&self, session: SessionId) {
        let waits = self.ledger().given_elsewhere(session);
        if !waits {
            // Nobody here knows of it: the seat may have to be given back.
            self.outbox.notify_one();
        } else if let Some(grantee) = self.grantee.get() {
            grantee(session);
        }
    }

    /// A session that waited has a seat. Returns whether it still wants it; no second time when two answers
    /// tell of the same seat, nor when an old line gave it another one.
    pub fn granted(&self, granted: &Granted) -> bool {
        self.hear_counts(&granted.worker, granted.counts);
        let mut ledger = self.ledger();
        let wanted = !ledger.already_seated(granted.session, &granted.worker)
            && ledger.seated(granted.session, &granted.worker);
        drop(ledger);
        if !wanted {
            // Released meanwhile, by somebody who did not wait, or seated elsewhere.
            self.outbox.notify_one();
        }
        wanted
    }

    /// The call that releases these sessions, each with whether its lifetime is given back.
    pub fn release_call(&self, sessions: &[(SessionId, bool)]) -> ScriptInvocation<'_> {
        let mut call = self.scripts.release.key(&self.leases_key);
        call.arg(&self.proxy);
        for (session, refund) in sessions {
            call.arg(session.to_string()).arg(u8::from(*refund));
        }
        call
    }

    fn line_call(
        &self,
        live: &Live,
        browser: Browser,
        anew: bool,
        coming: &[Waiter],
        candidates: &[Candidate],
    ) -> ScriptInvocation<'_> {
        let mut call = self.fenced(&self.scripts.line, live.epoch);
        call.key(self.keys.waiting(&self.proxy))
            .arg(browser.as_str())
            .arg(u8::from(anew))
            .arg(millis(MIN_WAITS.max(self.proxy_ttl / WAITS_SHARE)))
            .arg(millis(confirmed_within(self.proxy_ttl)))
            .arg(coming.len());
        for waiter in coming {
            let came = self.clock.at(waiter.came);
            let offered: String = waiter.offered.iter().map(|it| format!("{it}\n")).collect();
            call.arg(waiter.session.to_string())
                .arg(&*waiter.tenant)
                .arg(waiter.priority)
                .arg(wire::wanted(waiter))
                .arg(waiter.came.elapsed().as_micros() as u64)
                .arg(came.map_or(String::new(), |it| it.to_string()))
                .arg(waiter.left.as_millis() as u64)
                .arg(waiter.place.map_or(String::new(), |it| it.to_string()))
                .arg(offered);
        }
        self.name_candidates(&mut call, candidates);
        call
    }

    /// The last arguments of a call that looks for seats: the workers that may have one.
    fn name_candidates(&self, call: &mut ScriptInvocation<'_>, candidates: &[Candidate]) {
        for candidate in candidates.iter().take(MAX_CANDIDATES) {
            call.key(self.keys.record(&candidate.key))
                .arg(candidate.key.to_string())
                .arg(candidate.max_concurrent_sessions)
                .arg(candidate.lifetime_cap.map_or(-1, i64::from));
        }
    }
}
