//! A session's two directions together: what ends it, what is said then, and how long the closing
//! may take. Owns both streams and the one timer; what is due when is decided in [`super::watch`].

use super::close::{Close, EndReason, Ended, Party};
use super::closed_client::ClosedClient;
use super::closing::{CHECK_INTERVAL, CLOSE_TIMEOUT, Closing, LINGER};
use super::flow::Flow;
use super::stalls::{CHECKS, Stalls};
use super::traffic::{Moved, Traffic};
use super::transport::Transport;
use super::watch::{Direction, FAR, Liveness, Watch};
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

/// What one read takes at most: 64 KiB, which many programs send at a time, and a header. One buffer
/// a thread: a session has it only while it is polled.
const SCRATCH: usize = 64 * 1024 + 256;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

pub(super) struct Relay {
    id: SessionId,
    /// Somebody in front says how the session ends, and knows which one it is.
    passes_on: bool,
    client: Transport,
    worker: Transport,
    /// From the client to the worker.
    up: Flow,
    /// From the worker to the client.
    down: Flow,
    stalls: Stalls,
    client_liveness: Liveness,
    worker_liveness: Liveness,
    limits: SessionLimits,
    traffic: Arc<Traffic>,
    stop: Option<oneshot::Receiver<Close>>,
    /// An end that is not the client's, while it is under way. Apart, because most of a session's life
    /// there is none.
    closing: Option<Box<Closing>>,
    /// What ended the session, once something has.
    ended: Option<Ended>,
    /// When the closing has taken long enough.
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
            stalls: Stalls::default(),
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
            let needs_client = self.needs_client_alone();
            if needs_client || self.is_closed() {
                self.worker.hang_up(cx);
                if !needs_client {
                    self.client.hang_up(cx);
                }
                return Poll::Ready(self.verdict());
            }
            if timer.deadline() != self.alarm {
                timer.as_mut().reset(self.alarm);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if self.until.is_some_and(|until| until <= now) && !self.parts_on(now) {
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
            let close = self.closing.as_deref().and_then(|it| it.close.as_ref());
            let (client, worker) = (&mut self.client, &mut self.worker);
            let up = self.up.pump(client, worker, close, scratch, cx);
            let down = self.down.pump(worker, client, close, scratch, cx);
            (up, down)
        });
        self.note(up, down);
    }

    /// Takes down what moved, and when.
    fn note(&mut self, up: Moved, down: Moved) {
        let stalled = self.stalls.any();
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
        if up.bytes > 0 || self.stalls.up().is_some() {
            self.client_liveness.heard(now);
        }
        if down.bytes > 0 || self.stalls.down().is_some() {
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
        self.stalls.note(now, [(&self.up, up), (&self.down, down)]);
        if self.stalls.any() {
            self.wake_by(now + self.limits.write_timeout / CHECKS);
        }
        if let Some(closing) = &mut self.closing {
            closing.took(down.taken);
        }
    }

    /// What the sides have said and shown so far, and what follows from it. Whether that gives the
    /// two directions something new to do.
    fn observe(&mut self) -> bool {
        let was_ours = self.is_ours();
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
        } else if self.is_ours() {
            // A side that is told the end early might not send the rest of the frame it is in.
            let told = !self.up.is_finishing() && !self.down.is_finishing();
            (told, told)
        } else {
            (self.up.source_ended(), self.down.source_ended())
        };
        let up = shut_up && self.up.shut();
        let down = shut_down && self.down.shut();
        up || down || judged || self.is_ours() != was_ours
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

    /// Whether all that is left is the client's answer to the end that it was told. The worker has had its
    /// say, so that the seat is for somebody else.
    fn needs_client_alone(&self) -> bool {
        let passed_on = self.down.has_relayed_close() && self.up.closed().is_none();
        let told = self.down.has_sent_close() && self.down.source_ended();
        passed_on || told
    }

    /// A side has ended the session: the other gets its time to follow.
    fn follow(&mut self, ended: Ended) {
        self.ended = Some(ended);
        if ended.by != Party::Client {
            self.part(None);
        }
        self.allow(LINGER);
    }

    fn part(&mut self, close: Option<Close>) {
        let now = Instant::now();
        let since = self.stalls.down().unwrap_or(now);
        let closing = Closing::new(close, now, since, self.client.unacknowledged());
        self.closing = Some(Box::new(closing));
    }

    /// Whether the end is one of ours.
    fn is_ours(&self) -> bool {
        let closing = self.closing.as_deref();
        closing.is_some_and(|closing| closing.close.is_some())
    }

    /// Whether the closing, whose time is over, goes on because the client takes what comes before the
    /// last word.
    fn parts_on(&mut self, now: Instant) -> bool {
        let unacknowledged = self.client.unacknowledged();
        let behind = self.down.is_blocked() || unacknowledged > 0;
        let coming = self.down.is_finishing();
        let owes = self.down.owes_close();
        let closing = self.closing.as_deref_mut().filter(|_| owes);
        let goes_on = closing.is_some_and(|it| it.goes_on(now, behind, coming, unacknowledged));
        if goes_on {
            self.until = Some(now + CHECK_INTERVAL);
        }
        goes_on
    }

    /// Ends the session: a Close frame to both sides, then the end of both connections.
    fn end(&mut self, close: Close) {
        if self.is_ours() {
            return;
        }
        self.ended.get_or_insert(Ended {
            by: close.why().party().unwrap_or(Party::Playhouse),
            why: close.why(),
            code: Some(close.code()),
        });
        self.up.finish(&close);
        self.down.finish(&close);
        self.part(Some(close));
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
        if self.stalls.any() {
            self.stalls.check(now, [&self.worker, &self.client]);
            self.wake_by(now + self.limits.write_timeout / CHECKS);
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
            up: way(&self.up, self.stalls.up()),
            down: way(&self.down, self.stalls.down()),
        }
    }

    /// Whether both sides have said goodbye and got the other's, and one of them has ended its
    /// connection. Nobody may say anything after that (RFC 6455, section 5.5.1): what is left to do
    /// needs nobody's answer.
    fn is_closed(&self) -> bool {
        let one_ended = self.up.source_ended() || self.down.source_ended();
        one_ended && self.up.has_relayed_close() && self.down.has_relayed_close()
    }

    /// What is left of the client's connection once the session is over, if it has to be waited for.
    pub(super) fn into_closed_client(mut self) -> Option<ClosedClient> {
        let closing = self.closing.take().filter(|_| self.needs_client_alone());
        closing.map(|closing| ClosedClient::new(self.client, closing))
    }

    fn verdict(&self) -> Ended {
        let mut ended = self
            .ended
            .expect("a direction is over, or time for the closing is, only after an end was seen");
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
