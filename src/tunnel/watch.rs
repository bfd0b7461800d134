//! When a session's time is up, and when a silent side is to be asked whether it is still there.
//! Pure: it is told the time and what happened, and answers what is due and when to ask again.

use super::SessionLimits;
use super::close::EndReason;
use std::time::Duration;
use tokio::time::Instant;

/// What the timer is set to when nothing is due.
pub(super) const FAR: Duration = Duration::from_secs(24 * 3600);

/// What is known of one side's life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Liveness {
    heard: Instant,
    /// The first ping since then, once it is on its way.
    pinged: Option<Instant>,
    /// Pings since then.
    asks: u32,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Liveness {
        Liveness {
            heard: now,
            pinged: None,
            asks: 0,
        }
    }

    /// Bytes came from this side.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
        self.asks = 0;
    }

    /// A ping is on its way to this side.
    pub(super) fn ping_sent(&mut self, now: Instant) {
        self.pinged.get_or_insert(now);
        self.asks = self.asks.saturating_add(1);
    }

    /// When the next ping is due. Counted from the first one, which may have waited long for the
    /// end of a frame.
    fn next_ping(&self, interval: Duration) -> Instant {
        match self.pinged {
            None => self.heard + interval,
            Some(first) => first + interval.saturating_mul(self.asks),
        }
    }

    /// When this side counts as dead. Never before it had a ping to answer.
    fn dead(&self, time_to_answer: Duration) -> Option<Instant> {
        self.pinged.map(|first| first + time_to_answer)
    }
}

/// One direction, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Direction {
    /// Since when the receiver takes no bytes.
    pub stalled: Option<Instant>,
    /// A ping for the receiver waits for the end of a frame.
    pub ping_due: bool,
}

/// What the clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The session ends, for this reason, having reached this limit.
    pub end: Option<(EndReason, Duration)>,
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
    pub client: Liveness,
    pub worker: Liveness,
    /// From the client to the worker.
    pub up: Direction,
    /// From the worker to the client.
    pub down: Direction,
}

impl Watch {
    pub(super) fn due(&self, limits: &SessionLimits, now: Instant) -> Due {
        let mut clock = Clock {
            now,
            next: None,
            end: None,
        };
        // Of limits that are reached at once the first one here is told.
        if let Some(limit) = limits.max_duration {
            clock.end_at(Some(self.started + limit), EndReason::TooLong, limit);
        }
        if let Some(limit) = limits.idle_timeout {
            clock.end_at(Some(self.last_message + limit), EndReason::Idle, limit);
        }
        let limit = limits.write_timeout;
        let stall_end = |way: &Direction| way.stalled.map(|since| since + limit);
        clock.end_at(stall_end(&self.down), EndReason::ClientSlow, limit);
        clock.end_at(stall_end(&self.up), EndReason::WorkerSlow, limit);

        let mut ping_client = false;
        let mut ping_worker = false;
        if let Some(interval) = limits.ping_interval {
            // A side that is not read, because the other takes no bytes, cannot be heard, and one
            // that takes no bytes has not got its ping: both are for the write timeout to judge.
            if self.up.stalled.is_none() && self.down.stalled.is_none() {
                // Only the worker's program has to answer. A client may stand at a breakpoint; whether
                // its machine is there the kernel finds out, from pings that nobody acknowledges.
                let limit = limits.ping_timeout;
                let time = limits.time_to_answer();
                clock.end_at(self.worker.dead(time), EndReason::WorkerSilent, limit);
            }
            let mut ping = |pulse: &Liveness, way: &Direction| {
                !way.ping_due && way.stalled.is_none() && clock.reached(pulse.next_ping(interval))
            };
            ping_client = ping(&self.client, &self.down);
            ping_worker = ping(&self.worker, &self.up);
            // Pings that wait for a boundary or for a stalled side have no time of their own.
            clock.check_at(now + interval);
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
    end: Option<(EndReason, Duration)>,
}

impl Clock {
    fn check_at(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    fn reached(&mut self, at: Instant) -> bool {
        if at > self.now {
            self.check_at(at);
        }
        at <= self.now
    }

    fn end_at(&mut self, at: Option<Instant>, why: EndReason, limit: Duration) {
        if at.is_some_and(|at| self.reached(at)) {
            self.end.get_or_insert((why, limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: SessionLimits = SessionLimits {
        idle_timeout: Some(Duration::from_secs(300)),
        max_duration: Some(Duration::from_secs(1800)),
        ping_interval: Some(Duration::from_secs(20)),
        ping_timeout: Duration::from_secs(60),
        write_timeout: Duration::from_secs(30),
    };

    fn watch(now: Instant) -> Watch {
        Watch {
            started: now,
            last_message: now,
            client: Liveness::new(now),
            worker: Liveness::new(now),
            up: Direction::default(),
            down: Direction::default(),
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Asks as the relay does, only when told to, and sends what is due at once.
    fn silent_from(start: Instant) -> Vec<(u64, &'static str)> {
        let mut watch = watch(start);
        let mut now = start;
        let mut said = Vec::new();
        loop {
            let due = watch.due(&LIMITS, now);
            let at = (now - start).as_secs();
            if due.ping_client {
                watch.client.ping_sent(now);
                said.push((at, "client"));
            }
            if due.ping_worker {
                watch.worker.ping_sent(now);
                said.push((at, "worker"));
            }
            if due.end.is_some() {
                said.push((at, "end"));
                return said;
            }
            let after = watch.due(&LIMITS, now).next;
            now = after.expect("something is always due when pings are on");
        }
    }

    #[test]
    fn both_silent_sides_are_pinged_until_the_worker_counts_as_dead() {
        let expected = [
            (20, "client"),
            (20, "worker"),
            (40, "client"),
            (40, "worker"),
            (60, "client"),
            (60, "worker"),
            (60, "end"),
        ];
        assert_eq!(silent_from(Instant::now()), expected);
    }

    #[test]
    fn a_ping_that_had_to_wait_gives_its_side_the_whole_time_to_answer() {
        let start = Instant::now();
        let mut watch = watch(start);
        watch.up.ping_due = true;
        let due = watch.due(&LIMITS, start + seconds(100));
        assert_eq!((due.end, due.ping_worker), (None, false));
        watch.up.ping_due = false;
        watch.worker.ping_sent(start + seconds(100));
        assert_eq!(watch.due(&LIMITS, start + seconds(139)).end, None);
        let end = watch.due(&LIMITS, start + seconds(140)).end;
        assert_eq!(end, Some((EndReason::WorkerSilent, seconds(60))));
    }

    #[test]
    fn a_slow_side_is_not_judged_as_silent_but_as_slow() {
        let start = Instant::now();
        let mut watch = watch(start);
        watch.client.ping_sent(start);
        watch.down.stalled = Some(start + seconds(90));
        let due = watch.due(&LIMITS, start + seconds(100));
        assert_eq!((due.end, due.ping_client), (None, false));
        let end = watch.due(&LIMITS, start + seconds(120)).end;
        assert_eq!(end, Some((EndReason::ClientSlow, seconds(30))));
    }

    proptest! {
        #[test]
        fn the_next_check_is_always_ahead(
            at in 0..4000u64,
            heard in 0..2000u64,
            asked in proptest::option::of(0..2000u64),
            stalled in proptest::option::of(0..2000u64),
            waits in any::<[bool; 2]>(),
        ) {
            let start = Instant::now();
            let mut watch = watch(start);
            watch.client.heard(start + seconds(heard));
            if let Some(asked) = asked {
                watch.client.ping_sent(start + seconds(asked));
            }
            watch.down.stalled = stalled.map(|since| start + seconds(since));
            watch.down.ping_due = waits[0];
            watch.up.ping_due = waits[1];
            let now = start + seconds(at);
            let due = watch.due(&LIMITS, now);
            prop_assert!(due.next.is_some_and(|next| next > now));
            prop_assert!(due.end.is_some() || at < 300);
        }
    }
}
