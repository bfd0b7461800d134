//! When a session's time is up, and when a silent side is to be asked whether it is still there.
//! Pure: it is told the time and what happened, and answers what is due and when to ask again.

use super::Limits;
use super::close::Why;
use std::time::Duration;
use tokio::time::Instant;

/// What is known of one side's life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pulse {
    heard: Instant,
    /// The first ping since then, once it is on its way.
    asked: Option<Instant>,
    /// Pings since then.
    asks: u32,
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Pulse {
        Pulse {
            heard: now,
            asked: None,
            asks: 0,
        }
    }

    /// Bytes came from this side.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
        self.asks = 0;
    }

    /// A ping is on its way to this side.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
        self.asks = self.asks.saturating_add(1);
    }

    /// When the next ping is due. Counted from the first one, which may have waited long for the
    /// end of a frame.
    fn next_ping(&self, interval: Duration) -> Instant {
        match self.asked {
            None => self.heard + interval,
            Some(first) => first + interval.saturating_mul(self.asks),
        }
    }

    /// When this side counts as dead. Never before it had a ping to answer.
    fn dead(&self, time_to_answer: Duration) -> Option<Instant> {
        self.asked.map(|first| first + time_to_answer)
    }
}

/// One direction, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    /// Since when the receiver takes no bytes.
    pub stalled: Option<Instant>,
    /// A ping for the receiver waits for the end of a frame.
    pub ping_due: bool,
}

/// What the clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The session ends now, for this reason, having reached this limit.
    pub end: Option<(Why, Duration)>,
    pub ping_client: bool,
    pub ping_worker: bool,
    /// When to look again, if ever.
    pub next: Option<Instant>,
}

/// Everything the clock looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pub started: Instant,
    pub last_message: Instant,
    pub client: Pulse,
    pub worker: Pulse,
    /// From the client to the worker.
    pub up: Way,
    /// From the worker to the client.
    pub down: Way,
}

impl Watch {
    pub(super) fn due(&self, limits: &Limits, now: Instant) -> Due {
        let mut clock = Clock {
            now,
            next: None,
            end: None,
        };
        if let Some(limit) = limits.max_duration {
            clock.end_at(Some(self.started + limit), Why::TooLong, limit);
        }
        if let Some(limit) = limits.idle_timeout {
            clock.end_at(Some(self.last_message + limit), Why::Idle, limit);
        }
        let limit = limits.write_timeout;
        let stall_end = |way: &Way| way.stalled.map(|since| since + limit);
        clock.end_at(stall_end(&self.down), Why::ClientSlow, limit);
        clock.end_at(stall_end(&self.up), Why::WorkerSlow, limit);

        let mut ping_client = false;
        let mut ping_worker = false;
        if let Some(interval) = limits.ping_interval {
            // A side that is not read, because the other takes no bytes, cannot be heard, and one
            // that takes no bytes has not got its ping: both are for the write timeout to judge.
            if self.up.stalled.is_none() && self.down.stalled.is_none() {
                let limit = limits.ping_timeout;
                let time = limits.time_to_answer();
                clock.end_at(self.client.dead(time), Why::ClientSilent, limit);
                clock.end_at(self.worker.dead(time), Why::WorkerSilent, limit);
            }
            let mut ping = |pulse: &Pulse, way: &Way| {
                !way.ping_due && way.stalled.is_none() && clock.reached(pulse.next_ping(interval))
            };
            ping_client = ping(&self.client, &self.down);
            ping_worker = ping(&self.worker, &self.up);
            // Pings that wait for a boundary or for a stalled side have no time of their own.
            clock.look_at(now + interval);
        }
        Due {
            end: clock.end,
            ping_client,
            ping_worker,
            next: clock.next,
        }
    }
}

/// Sorts instants into past and future, and keeps the nearest of the future.
struct Clock {
    now: Instant,
    next: Option<Instant>,
    end: Option<(Why, Duration)>,
}

impl Clock {
    fn look_at(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    fn reached(&mut self, at: Instant) -> bool {
        if at > self.now {
            self.look_at(at);
        }
        at <= self.now
    }

    fn end_at(&mut self, at: Option<Instant>, why: Why, limit: Duration) {
        if at.is_some_and(|at| self.reached(at)) {
            self.end.get_or_insert((why, limit));
        }
    }
}
