//! The line in front of full workers: clients wait here for a seat, woken by the release of one.
//!
//! There is a line for each thing that can be wanted (browser and version), so that a client whose
//! worker is full never blocks one whose worker is free. Only the first of a line tries to get a
//! seat; it is woken when one may have come free, and when it has got one it wakes the next.
//! The queue does not know whether there *is* a seat: that is the store's to say.

use super::turns::{Place, Tenant, Turns};
use crate::model::Browser;
use crate::selection::Wanted;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// All lines of one proxy.
#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lines: HashMap<Wanted, Line>,
    waiting: usize,
    next_place: Place,
}

#[derive(Default)]
struct Line {
    turns: Turns,
    bells: HashMap<Place, Arc<Notify>>,
    /// A seat may have come free since the first of the line last looked.
    seat_rumoured: bool,
}

/// As many clients wait as are allowed to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is full")]
pub struct QueueFull;

impl Queue {
    pub fn new() -> Arc<Queue> {
        Arc::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether nobody waits for `wanted`: a newcomer may try for a seat without standing in line.
    pub fn is_empty(&self, wanted: &Wanted) -> bool {
        !self.state().lines.contains_key(wanted)
    }

    /// Takes a place at the end of the line, unless `max_waiting` wait already.
    pub fn join(
        self: &Arc<Self>,
        wanted: Wanted,
        tenant: &Tenant,
        priority: u32,
        max_waiting: usize,
    ) -> Result<Ticket, QueueFull> {
        let mut state = self.state();
        if state.waiting >= max_waiting {
            return Err(QueueFull);
        }
        state.waiting += 1;
        let place = state.next_place;
        state.next_place += 1;
        let bell = Arc::new(Notify::new());
        let line = state.lines.entry(wanted).or_default();
        line.turns.join(tenant, priority, place);
        line.bells.insert(place, bell.clone());
        // A seat may have come free between the caller's last look and its place in line.
        if line.turns.first() == Some(place) {
            line.seat_rumoured = true;
        }
        Ok(Ticket {
            queue: self.clone(),
            wanted,
            tenant: tenant.clone(),
            place,
            bell,
            served: false,
        })
    }

    /// A seat of this browser may be free: the first of each of its lines takes a look.
    pub fn wake(&self, browser: Browser) {
        let mut state = self.state();
        for (wanted, line) in &mut state.lines {
            if wanted.browser == browser {
                line.rumour();
            }
        }
    }

    /// Everybody who is first looks again: limits or the fleet changed.
    pub fn wake_all(&self) {
        self.state().lines.values_mut().for_each(Line::rumour);
    }

    /// How many wait for each browser.
    pub fn depth(&self, browser: Browser) -> usize {
        let state = self.state();
        let lines = state
            .lines
            .iter()
            .filter(|(wanted, _)| wanted.browser == browser);
        lines.map(|(_, line)| line.bells.len()).sum()
    }
}

impl Line {
    fn rumour(&mut self) {
        self.seat_rumoured = true;
        if let Some(bell) = self.turns.first().and_then(|place| self.bells.get(&place)) {
            bell.notify_one();
        }
    }
}

/// A place in line. Dropping it leaves the line, and lets the next one look.
#[must_use = "dropping a ticket leaves the line"]
pub struct Ticket {
    queue: Arc<Queue>,
    wanted: Wanted,
    tenant: Tenant,
    place: Place,
    bell: Arc<Notify>,
    served: bool,
}

impl Ticket {
    /// Whether nobody of its line comes before this place.
    pub fn is_first(&self) -> bool {
        let state = self.queue.state();
        let line = state.lines.get(&self.wanted);
        line.is_some_and(|line| line.turns.first() == Some(self.place))
    }

    /// Waits until nobody of its line comes before this place.
    pub async fn first(&self) {
        // Whoever becomes first is rung for, because there may be a seat.
        while !self.is_first() {
            self.bell.notified().await;
        }
    }

    /// Waits until this place is first and a seat may be free. The caller then tries to get one,
    /// and calls [`Ticket::served`] or waits for its next turn.
    pub async fn turn(&self) {
        loop {
            {
                let mut state = self.queue.state();
                let line = state
                    .lines
                    .get_mut(&self.wanted)
                    .expect("a ticket is in its line");
                if line.turns.first() == Some(self.place) && line.seat_rumoured {
                    line.seat_rumoured = false;
                    return;
                }
            }
            self.bell.notified().await;
        }
    }

    /// The place got its seat.
    pub fn served(mut self) {
        self.served = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        state.waiting -= 1;
        let Some(line) = state.lines.get_mut(&self.wanted) else {
            return;
        };
        line.bells.remove(&self.place);
        let was_first = line.turns.first() == Some(self.place);
        if self.served {
            line.turns.served(&self.tenant, self.place);
        } else {
            line.turns.leave(&self.tenant, self.place);
        }
        if line.turns.is_empty() {
            state.lines.remove(&self.wanted);
        } else if was_first {
            // Where one seat was, there may be two; and a rumour that the leaver took must not
            // be lost with it.
            line.rumour();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    const WANTED: Wanted = Wanted {
        browser: Browser::Chromium,
        version: None,
    };

    fn ready(ticket: &Ticket) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(pin!(ticket.turn()).poll(&mut context), Poll::Ready(()))
    }

    fn join(queue: &Arc<Queue>) -> Ticket {
        queue.join(WANTED, &Arc::from(""), 1, 10).unwrap()
    }

    #[test]
    fn the_first_looks_at_once_and_then_waits_for_a_seat() {
        let queue = Queue::new();
        let first = join(&queue);
        assert!(ready(&first), "a seat may have come free before it joined");
        assert!(!ready(&first));
        queue.wake(Browser::Firefox);
        assert!(
            !ready(&first),
            "a seat of another browser is none of its business"
        );
        queue.wake(Browser::Chromium);
        assert!(ready(&first));
    }

    #[test]
    fn one_seat_serves_one_and_in_order() {
        let queue = Queue::new();
        let (first, second) = (join(&queue), join(&queue));
        assert!(ready(&first));
        queue.wake(Browser::Chromium);
        assert!(!ready(&second), "it is not the second's turn");
        assert!(ready(&first));
        first.served();
        assert!(ready(&second), "there may be a second seat");
        assert!(!ready(&second), "and it looks once");
    }

    #[test]
    fn who_hangs_up_on_its_turn_passes_it_on() {
        let queue = Queue::new();
        let (first, second) = (join(&queue), join(&queue));
        assert!(ready(&first));
        drop(first);
        assert!(ready(&second));
        drop(second);
        assert!(queue.is_empty(&WANTED));
        assert_eq!(queue.depth(Browser::Chromium), 0);
    }

    #[test]
    fn the_queue_is_bounded() {
        let queue = Queue::new();
        let tickets: Vec<_> = (0..10).map(|_| join(&queue)).collect();
        assert_eq!(
            queue.join(WANTED, &Arc::from(""), 1, 10).err(),
            Some(QueueFull)
        );
        drop(tickets);
        let _again = join(&queue);
    }

    #[tokio::test]
    async fn a_waiting_task_is_woken() {
        let queue = Queue::new();
        let ticket = join(&queue);
        ticket.turn().await;
        let waiting = tokio::spawn(async move { ticket.turn().await });
        while !waiting.is_finished() {
            queue.wake_all();
            tokio::task::yield_now().await;
        }
        waiting.await.unwrap();
    }
}
