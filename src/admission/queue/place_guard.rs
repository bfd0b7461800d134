//! A client's side of the line: it enters, waits for its grant, dials, and leaves.

use super::{Queue, now};
use crate::admission::line::Refused;
use crate::admission::turns::Place;
use crate::model::{Browser, WorkerKey};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A client's place, from its question to its end. Dropping it leaves the line.
#[must_use = "dropping it leaves the line"]
pub struct PlaceGuard<C, G> {
    pub(super) queue: Arc<Queue<C, G>>,
    pub(super) browser: Browser,
    pub(super) place: Place,
    pub(super) answer: Option<oneshot::Receiver<Result<G, Refused>>>,
}

impl<C, G> PlaceGuard<C, G> {
    /// Takes the place in line. Somebody has to look for a seat then, and to see to it that not too
    /// many wait.
    pub fn enter(&mut self) {
        let mut state = self.queue.state();
        state.line.enter(self.place);
        self.answer = Some(state.enqueue(self.browser, self.place));
        self.queue.count(&state);
    }

    /// The answer, if it is there.
    pub fn answered(&mut self) -> Option<Result<G, Refused>> {
        self.answer.as_mut()?.try_recv().ok()
    }

    /// Waits for the grant, for as long as the client waits.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn granted(&mut self) -> Result<G, Refused> {
        loop {
            let until = self.waits_until();
            let Some(answer) = self.answer.as_mut() else {
                return Err(Refused::TimedOut);
            };
            let Some(until) = until else {
                // Refused meanwhile: the answer is on its way.
                return answer.await.unwrap_or(Err(Refused::TimedOut));
            };
            if let Ok(answer) = tokio::time::timeout_at(until.into(), answer).await {
                return answer.unwrap_or(Err(Refused::TimedOut));
            }
            if self.time_out() {
                return Err(Refused::TimedOut);
            }
        }
    }

    /// Whether the client has waited for as long as it may. It has left then.
    fn time_out(&self) -> bool {
        let mut state = self.queue.state();
        let over = state.line.time_out(self.place, now());
        let waiting = if over { state.remove(self.place) } else { None };
        self.queue.count(&state);
        drop(state);
        drop(waiting);
        over
    }

    /// Until when the client waits; `None` when it is not known.
    pub fn waits_until(&self) -> Option<Instant> {
        self.queue.state().line.waits_until(self.place)
    }

    /// The worker of the grant is dialled: for how long it may be.
    pub fn dial(&mut self) -> Duration {
        self.queue.state().line.dial(self.place, now())
    }

    /// The dial failed through the worker's fault: the client stands at its old place again.
    ///
    /// # Errors
    /// [`Refused::NotDialled`] when it was the last one that it had.
    pub fn dial_failed(&mut self) -> Result<(), Refused> {
        let mut state = self.queue.state();
        state.line.failed(self.place, now())?;
        self.answer = Some(state.enqueue(self.browser, self.place));
        self.queue.count(&state);
        Ok(())
    }

    /// Workers that the client was offered already.
    pub fn offered(&self) -> Vec<WorkerKey> {
        let state = self.queue.state();
        let client = state.line.client(self.place);
        client.map_or_else(Vec::new, |(_, offered, _)| offered.to_vec())
    }

    /// The browser in whose line the client stands.
    pub fn browser(&self) -> Browser {
        self.browser
    }
}

impl<C, G> Drop for PlaceGuard<C, G> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.line.leave(self.place);
        let waiting = state.remove(self.place);
        self.queue.count(&state);
        drop(state);
        // Its claim gives back, outside of the lock; a grant that it has not taken out does so too.
        drop(waiting);
    }
}
