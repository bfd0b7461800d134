//! Dialling for clients, and asking workers of which something is held: the shell around
//! [`super::suspicion`]. One task asks one worker, for as long as there is something to ask.

use super::dial::{DialError, Dialled, Handshake, dial};
use super::suspicion::{Suspicion, Trust};
use super::{DialFailure, Fleet, Obstacle, Target, Unreachable, WorkerAnswer};
use crate::model::{Browser, Version};
use crate::tunnel::close_websocket;
use crate::worker::TRIAL_HEADER;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

/// Most time that a trial may take; less where a dial has less.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Most time in which a worker may show that it is not at fault, while a client waits for it.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(1);
/// A dial that is given up after this long may have met a worker that hangs.
const LONG_FOR_A_DIAL: Duration = Duration::from_millis(500);

impl Fleet {
    /// Dials a worker for a client of this `version`, within `patience`. What went wrong on the worker's side is held
    /// against it, and nothing else. Dropping the future ends the attempt.
    ///
    /// # Errors
    /// With whose trouble it is; only for a [`DialFailure::Worker`] another one may do.
    pub async fn dial(
        self: &Arc<Self>,
        target: &Arc<Target>,
        handshake: &Handshake,
        version: Option<Version>,
        patience: Duration,
    ) -> Result<Dialled, DialFailure> {
        let begun = Instant::now();
        let mut unfinished = Unfinished {
            fleet: self,
            target,
            begun,
            ended: false,
        };
        let dialled = dial(target, handshake, patience).await;
        unfinished.ended = true;
        let error = match dialled {
            Ok(dialled) => {
                self.update_suspicion(target, |suspicion, now| suspicion.session_served(now));
                self.note_answer(target);
                return Ok(dialled);
            }
            Err(error) => error,
        };
        let in_a_hurry = patience < self.config.load().selection.dial_timeout;
        let timed_out = matches!(error, DialError::Timeout { .. });
        let mut failure = error.classify();
        if let DialFailure::Client(answer) = &failure {
            let left = VERIFY_TIMEOUT.min(patience.saturating_sub(begun.elapsed()));
            if answer.is_version_mismatch() {
                self.hear_mismatch(target, answer, version);
            }
            if !self.is_working(target, answer, begun, left).await {
                let status = answer.status;
                failure = DialFailure::Worker(Unreachable::new(
                    Obstacle::OtherServer,
                    format_args!("it answered {status} instead of 101"),
                ));
            }
        }
        if let DialFailure::Worker(_) = &failure {
            self.metrics.dial_failures.inc();
            self.update_suspicion(target, |suspicion, now| {
                // Who had less time than others says less about the worker.
                if timed_out && in_a_hurry {
                    suspicion.request_trial(now);
                } else {
                    suspicion.session_failed(now);
                }
            });
        }
        Err(failure)
    }

    /// A worker refused a client for its version. One that told none has shown its own, if it says so; of any other it
    /// is not known what it means: it is the last choice if that happens again.
    fn hear_mismatch(
        self: &Arc<Self>,
        target: &Arc<Target>,
        answer: &WorkerAnswer,
        client: Option<Version>,
    ) {
        match answer.server_version() {
            Some(shown) if answer.shows_version(target) => self.version_shown(target, shown),
            _ if client.is_some() => {
                self.update_suspicion(target, |suspicion, now| suspicion.session_failed(now));
            }
            _ => {}
        }
    }

    /// Whether a worker that refused a request works: then the request is at fault. Unless it has
    /// shown so since the dial had `begun`, it is asked, with a handshake that has nothing wrong.
    async fn is_working(
        self: &Arc<Self>,
        target: &Arc<Target>,
        answer: &WorkerAnswer,
        begun: Instant,
        patience: Duration,
    ) -> bool {
        let mut over = target.trial_over.subscribe();
        let known = self.update_suspicion(target, |suspicion, now| {
            let known = answer.is_version_mismatch() || suspicion.worked_since(begun);
            if !known {
                suspicion.request_trial(now);
            }
            known
        });
        if known != Some(false) {
            return true;
        }
        // In doubt the worker is spared.
        timeout(patience, over.changed()).await.ok();
        let trust = self.update_suspicion(target, |suspicion, _| suspicion.trust());
        trust != Some(Trust::Out)
    }

    /// Looks at or changes what is held against a worker, and does what follows. `None` for one
    /// that has left, or has got another address.
    fn update_suspicion<T>(
        self: &Arc<Self>,
        target: &Arc<Target>,
        change: impl FnOnce(&mut Suspicion, Instant) -> T,
    ) -> Option<T> {
        let mut starts = false;
        let mut changed = None;
        self.change(target, |worker| {
            let before = worker.suspicion.trust();
            changed = Some(change(&mut worker.suspicion, Instant::now()));
            if worker.suspicion.next_trial().is_some() {
                starts = !std::mem::replace(&mut worker.on_trial, true);
            }
            before != worker.suspicion.trust()
        });
        if starts {
            tokio::spawn(run_trials(Arc::downgrade(self), target.clone()));
        } else {
            // A trial may be due earlier than before.
            target.trial_due_earlier.notify_one();
        }
        changed
    }

    /// When the next trial to a worker is due; `None` ends the asking.
    fn next_trial(&self, target: &Arc<Target>) -> Option<Instant> {
        let mut table = self.table.lock();
        let worker = table.get_mut(&target.key)?;
        let current = Arc::ptr_eq(&worker.target, target);
        let next = worker.suspicion.next_trial().filter(|_| current);
        if current && next.is_none() {
            worker.on_trial = false;
        }
        next
    }
}

/// A dial that is under way for a client.
struct Unfinished<'a> {
    fleet: &'a Arc<Fleet>,
    target: &'a Arc<Target>,
    begun: Instant,
    ended: bool,
}

impl Drop for Unfinished<'_> {
    /// The client left in the middle: that says nothing, but when it had to wait long.
    fn drop(&mut self) {
        if !self.ended && self.begun.elapsed() >= LONG_FOR_A_DIAL {
            self.fleet
                .update_suspicion(self.target, Suspicion::request_trial);
        }
    }
}

/// Asks a worker whether its upgrades work, until nothing is held against it.
async fn run_trials(fleet: Weak<Fleet>, target: Arc<Target>) {
    loop {
        let due = fleet.upgrade().and_then(|it| it.next_trial(&target));
        let Some(due) = due else { return };
        tokio::select! {
            () = sleep_until(due) => {}
            () = target.trial_due_earlier.notified() => continue,
        }
        let Some(patience) = fleet.upgrade().map(|fleet| {
            fleet.update_suspicion(&target, |suspicion, now| suspicion.trial_started(now));
            let dial_timeout = fleet.config.load().selection.dial_timeout;
            TRIAL_TIMEOUT.min(dial_timeout)
        }) else {
            return;
        };
        let outcome = try_upgrade(&target, patience).await;
        let Some(fleet) = fleet.upgrade() else { return };
        fleet.update_suspicion(&target, |suspicion, now| match outcome {
            Ok(()) => suspicion.trial_passed(now),
            Err(DialFailure::Ours(_)) => suspicion.trial_skipped(now),
            Err(DialFailure::Worker(why)) => suspicion.trial_failed(why, now),
            Err(DialFailure::Client(answer)) => {
                let status = answer.status;
                let error = format_args!("it answered {status} to a proper handshake");
                let why = Unreachable::new(Obstacle::OtherServer, error);
                suspicion.trial_failed(why, now);
            }
        });
        // Nobody may wait for it.
        target.trial_over.send_replace(());
    }
}

/// Asks a worker for what a session asks for: an upgrade, which is closed in order at once. A worker
/// that judges our version has answered too.
async fn try_upgrade(target: &Target, patience: Duration) -> Result<(), DialFailure> {
    match dial(target, &trial_handshake(target.key.browser), patience).await {
        Ok(dialled) => {
            // However long the worker takes to part, it has answered.
            tokio::spawn(close_websocket(dialled.stream));
            Ok(())
        }
        Err(error) => match error.classify() {
            DialFailure::Client(answer) if answer.is_version_mismatch() => Ok(()),
            failure => Err(failure),
        },
    }
}

/// A handshake of our own, and marked as such: no browser has to be started for it.
fn trial_handshake(browser: Browser) -> Handshake {
    let key = generate_key();
    let headers = format!(
        "user-agent: playhouse/{}\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\
         x-playwright-browser: {browser}\r\n{TRIAL_HEADER}: 1\r\n",
        env!("CARGO_PKG_VERSION")
    );
    Handshake::new(headers.into_bytes(), key.as_bytes())
}
