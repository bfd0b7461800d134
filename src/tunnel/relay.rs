//! A session's two directions together: what ends it, what is said then, and how long the parting
//! may take. Owns both streams and the one timer; what is due when is decided in [`super::watch`].

use super::close::{Close, EndReason, Ended, Party};
use super::flow::Flow;
use super::link::Link;
use super::traffic::{Moved, Traffic};
use super::watch::{Direction, Liveness, Watch};
use super::{Ends, SessionLimits, frame};
use crate::model::SessionId;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

/// How long sides may take to follow when one of them has said or shown that it is over.
const LINGER: Duration = Duration::from_secs(10);

/// How long an end of ours may take: the rest of the frames in flight, the Close frames, and the
/// sides' answers to them. It begins anew with each [`PROGRESS`] of a large message on its way to
/// the client, behind which the reason is to be said.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes that a client has to take in that time while an end of ours waits for the end of a frame.
const PROGRESS: u64 = 64 * 1024;

/// What the timer is set to when nothing is due.
const FAR: Duration = Duration::from_secs(24 * 3600);

/// What one read takes at most: 64 KiB, which many programs send at a time, and a header. One buffer
/// a thread: a session has it only while it is polled.
const SCRATCH: usize = 64 * 1024 + 256;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// What is said at an end of ours. Apart, because most of a session's life there is none.
struct Closing {
    close: Close,
    /// Bytes that the client took since the parting began or began anew.
    progress: u64,
}

pub(super) struct Relay {
    id: SessionId,
    /// Somebody in front says how the session ends, and knows which one it is.
    passes_on: bool,
    client: Link,
    worker: Link,
    /// From the client to the worker.
    up: Flow,
    /// From the worker to the client.
    down: Flow,
    up_stalled: Option<Instant>,
    down_stalled: Option<Instant>,
    client_liveness: Liveness,
    worker_liveness: Liveness,
    limits: SessionLimits,
    traffic: Arc<Traffic>,
    stop: Option<oneshot::Receiver<Close>>,
    /// An end of ours, while it is under way.
    closing: Option<Box<Closing>>,
    /// What ended the session, once something has.
    ended: Option<Ended>,
    /// When the parting has taken long enough.
    until: Option<Instant>,
    /// What the timer is set to.
    alarm: Instant,
}

impl Relay {
    pub(super) fn new(
        id: Option<SessionId>,
        ends: Ends,
        limits: SessionLimits,
        traffic: Arc<Traffic>,
        stop: oneshot::Receiver<Close>,
    ) -> Relay {
        let now = Instant::now();
        // Whoever passes on leaves the decision to the one in front.
        let holds_close = id.is_some();
        let mut relay = Relay {
            id: id.unwrap_or_else(SessionId::random),
            passes_on: id.is_none(),
            client: ends.client.stream,
            worker: ends.worker.stream,
            up: Flow::new(true, false),
            down: Flow::new(false, holds_close),
            up_stalled: None,
            down_stalled: None,
            client_liveness: Liveness::new(now),
            worker_liveness: Liveness::new(now),
            limits,
            traffic,
            stop: Some(stop),
            closing: None,
            ended: None,
            until: None,
            alarm: now,
        };
        if limits.ping_interval.is_none() {
            relay.worker.watch_by_kernel();
        }
        relay.check_deadlines(now);
        let up = relay.up.take_early(&ends.client.early);
        let down = relay.down.take_early(&ends.worker.early);
        relay.note(up, down);
        relay
    }

    /// One turn: the order to stop, the bytes both ways, what follows from them, the time.
    pub(super) fn poll(&mut self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Some(stop) = &mut self.stop
            && let Poll::Ready(order) = Pin::new(stop).poll(cx)
        {
            self.stop = None;
            // When the sender is gone the order will never come, and the session goes on.
            if let Ok(close) = order {
                self.end(close);
            }
        }
        loop {
            self.pump(cx);
            while self.observe() {
                self.pump(cx);
            }
            if is_over(&self.up) && is_over(&self.down) {
                return Poll::Ready(self.verdict());
            }
            if self.is_closed() {
                self.client.hang_up(cx);
                self.worker.hang_up(cx);
                return Poll::Ready(self.verdict());
            }
            if timer.deadline() != self.alarm {
                timer.as_mut().reset(self.alarm);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if self.until.is_some_and(|until| until <= now) {
                return Poll::Ready(self.verdict());
            }
            self.check_deadlines(now);
        }
    }

    /// When the timer has to be set first.
    pub(super) fn alarm(&self) -> Instant {
        self.alarm
    }

    /// Moves bytes both ways.
    fn pump(&mut self, cx: &mut Context<'_>) {
        let (up, down) = BUFFER.with_borrow_mut(|scratch| {
            let close = self.closing.as_deref().map(|it| &it.close);
            let (client, worker) = (&mut self.client, &mut self.worker);
            let up = self.up.pump(client, worker, close, scratch, cx);
            let down = self.down.pump(worker, client, close, scratch, cx);
            (up, down)
        });
        self.note(up, down);
    }

    /// Takes down what moved, and when.
    fn note(&mut self, up: Moved, down: Moved) {
        let stalled = self.up_stalled.is_some() || self.down_stalled.is_some();
        let blocked = self.up.is_blocked() || self.down.is_blocked();
        if !(up.any() || down.any() || stalled || blocked) {
            return;
        }
        let now = Instant::now();
        self.traffic.count_in(up.bytes, up.messages);
        self.traffic.count_out(down.bytes, down.messages);
        if up.in_message || down.in_message {
            self.traffic.message_at(now, !down.in_message);
        }
        // A side that was not read, because the other was slow, has not been silent.
        if up.bytes > 0 || self.up_stalled.is_some() {
            self.client_liveness.heard(now);
        }
        if down.bytes > 0 || self.down_stalled.is_some() {
            self.worker_liveness.heard(now);
        }
        if up.pinged {
            self.worker_liveness.ping_sent(now);
        }
        if down.pinged {
            self.client_liveness.ping_sent(now);
        }
        if up.pinged || down.pinged {
            self.wake_by(now + self.limits.time_to_answer());
        }
        for (stalled, flow, moved) in [
            (&mut self.up_stalled, &self.up, up),
            (&mut self.down_stalled, &self.down, down),
        ] {
            if !flow.is_blocked() {
                *stalled = None;
            } else if moved.taken > 0 || stalled.is_none() {
                *stalled = Some(now);
            }
        }
        if self.up_stalled.is_some() || self.down_stalled.is_some() {
            self.wake_by(now + self.limits.write_timeout);
        }
        if let Some(closing) = &mut self.closing
            && self.down.is_sending_close()
        {
            closing.progress += down.taken;
            if closing.progress >= PROGRESS {
                closing.progress = 0;
                self.until = Some(now + CLOSE_TIMEOUT);
                self.wake_by(now + CLOSE_TIMEOUT);
            }
        }
    }

    /// What the sides have said and shown so far, and what follows from it. Whether that gives the
    /// two directions something new to do.
    fn observe(&mut self) -> bool {
        let was_closing = self.closing.is_some();
        let judged = self.judge_close();
        let closed = |by, code| Ended {
            by,
            why: EndReason::Closed,
            code: Some(code),
        };
        if self.ended.is_some() {
            // Over already, and under way.
        } else if let Some(code) = self.up.closed() {
            self.follow(closed(Party::Client, code));
        } else if let Some(code) = self.down.closed() {
            self.follow(closed(Party::Worker, code));
        } else if self.up.source_ended() || self.down.sink_ended() {
            self.follow(Ended {
                by: Party::Client,
                why: EndReason::ClientGone,
                code: None,
            });
        } else if self.down.source_ended() || self.up.sink_ended() {
            self.up.shut();
            if self.passes_on {
                self.follow(Ended {
                    by: Party::Worker,
                    why: EndReason::WorkerLost,
                    code: None,
                });
            } else {
                self.end(Close::worker_lost(self.id));
            }
        }
        let (shut_up, shut_down) = if self.is_closed() {
            (false, false)
        } else if self.closing.is_some() {
            // A side that is told the end early might not send the rest of the frame it is in.
            let told = !self.up.is_finishing() && !self.down.is_finishing();
            (told, told)
        } else {
            (self.up.source_ended(), self.down.source_ended())
        };
        let up = shut_up && self.up.shut();
        let down = shut_down && self.down.shut();
        up || down || judged || self.closing.is_some() != was_closing
    }

    /// Decides whether the client gets the worker's Close frame, if that waits. A server that ends
    /// by itself a session that nobody has ended has lost its browser. Whether there was one.
    fn judge_close(&mut self) -> bool {
        let Some((code, words)) = self.down.held_close() else {
            return false;
        };
        let begun_by_worker = self.ended.is_none() && self.up.closed().is_none();
        if begun_by_worker && frame::says_lost(code) {
            self.end(Close::browser_ended(self.id, &words));
        } else {
            self.down.pass_close();
        }
        true
    }

    /// A side has ended the session: the other gets its time to follow.
    fn follow(&mut self, ended: Ended) {
        self.ended = Some(ended);
        self.allow(LINGER);
    }

    /// Ends the session: a Close frame to both sides, then the end of both connections.
    fn end(&mut self, close: Close) {
        if self.closing.is_some() {
            return;
        }
        self.ended.get_or_insert(Ended {
            by: close.why().party().unwrap_or(Party::Playhouse),
            why: close.why(),
            code: Some(close.code()),
        });
        self.up.finish(&close);
        self.down.finish(&close);
        self.closing = Some(Box::new(Closing { close, progress: 0 }));
        self.allow(CLOSE_TIMEOUT);
    }

    fn allow(&mut self, time: Duration) {
        let until = Instant::now() + time;
        self.until = Some(self.until.map_or(until, |earlier| earlier.min(until)));
        self.wake_by(until);
    }

    fn wake_by(&mut self, at: Instant) {
        self.alarm = self.alarm.min(at);
    }

    /// Does what is due at `now`, and sets the alarm for what is due next.
    fn check_deadlines(&mut self, now: Instant) {
        self.alarm = self.until.unwrap_or(now + FAR);
        if self.ended.is_some() {
            return;
        }
        if self.up.ping_due() {
            // The client has stopped within a frame, so that the worker cannot be asked.
            self.worker.watch_by_kernel();
        }
        let due = self.watch().due(&self.limits, now);
        if let Some(next) = due.next {
            self.wake_by(next);
        }
        if due.ping_client {
            self.down.want_ping();
        }
        if due.ping_worker {
            self.up.want_ping();
        }
        if let Some((why, limit)) = due.end {
            let id = (!self.passes_on).then_some(self.id);
            self.end(Close::overdue(id, why, limit));
        }
    }

    fn watch(&self) -> Watch {
        let way = |flow: &Flow, stalled| Direction {
            stalled,
            ping_due: flow.ping_due(),
        };
        Watch {
            started: self.traffic.started(),
            last_message: self.traffic.last_message(),
            client: self.client_liveness,
            worker: self.worker_liveness,
            up: way(&self.up, self.up_stalled),
            down: way(&self.down, self.down_stalled),
        }
    }

    /// Whether both sides have said goodbye and got the other's, and one of them has ended its
    /// connection. Nobody may say anything after that (RFC 6455, section 5.5.1): what is left to do
    /// needs nobody's answer.
    fn is_closed(&self) -> bool {
        let one_ended = self.up.source_ended() || self.down.source_ended();
        one_ended && self.up.has_relayed_close() && self.down.has_relayed_close()
    }

    fn verdict(&self) -> Ended {
        let mut ended = self
            .ended
            .expect("a direction is over, or time for the parting is, only after an end was seen");
        if ended.why != EndReason::Closed && !self.down.has_sent_close() {
            ended.code = None;
        }
        ended
    }
}

/// Whether nothing will ever pass in this direction again.
fn is_over(flow: &Flow) -> bool {
    flow.source_ended() && flow.sink_ended()
}
