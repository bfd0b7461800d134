//! What has passed through one session, and in one turn of it. Written by its tunnel, read by the
//! admin API and the metrics while it runs; no lock, so the numbers of one moment may be a message apart.

use super::frame::Frame;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// What one turn of one direction did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    /// Bytes that came from the sender.
    pub bytes: u64,
    /// Messages that ended among them.
    pub messages: u64,
    /// Whether bytes of a message were among them.
    pub in_message: bool,
    /// Bytes that the receiver took.
    pub taken: u64,
    /// Whether a ping of ours was put between two frames.
    pub pinged: bool,
}

impl Moved {
    pub(super) fn any(&self) -> bool {
        self.bytes > 0 || self.taken > 0 || self.pinged
    }

    pub(super) fn ended(&mut self, frame: Frame) {
        self.in_message |= !frame.is_control();
        self.messages += u64::from(frame.ends_message());
    }
}

/// Counters of one session. "In" is from the client to the worker, "out" the other way.
#[derive(Debug)]
pub struct Traffic {
    started: Instant,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
    /// Of the bytes, those that [`Traffic::take_unreported`] has told of.
    reported_in: AtomicU64,
    reported_out: AtomicU64,
    /// Milliseconds from `started` to the last bytes of a message.
    last_message: AtomicU64,
    /// They were the client's.
    client_spoke_last: AtomicBool,
}

impl Traffic {
    /// Counters of a session that starts.
    pub fn new() -> Traffic {
        Traffic {
            started: Instant::now(),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            messages_in: AtomicU64::new(0),
            messages_out: AtomicU64::new(0),
            reported_in: AtomicU64::new(0),
            reported_out: AtomicU64::new(0),
            last_message: AtomicU64::new(0),
            client_spoke_last: AtomicBool::new(false),
        }
    }

    /// Bytes from the client, frame headers included.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.load(Relaxed)
    }

    /// Bytes from the worker, frame headers included.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.load(Relaxed)
    }

    /// Messages from the client; pings, pongs and closes are none.
    pub fn messages_in(&self) -> u64 {
        self.messages_in.load(Relaxed)
    }

    /// Messages from the worker.
    pub fn messages_out(&self) -> u64 {
        self.messages_out.load(Relaxed)
    }

    /// The bytes from the client and from the worker since the last call, whoever made that: each
    /// byte is told of once.
    pub fn take_unreported(&self) -> (u64, u64) {
        let take = |bytes: &AtomicU64, reported: &AtomicU64| {
            let passed = bytes.load(Relaxed);
            passed.saturating_sub(reported.fetch_max(passed, Relaxed))
        };
        (
            take(&self.bytes_in, &self.reported_in),
            take(&self.bytes_out, &self.reported_out),
        )
    }

    /// How old the session is.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// How long no byte of a message has passed.
    pub fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.last_message.load(Relaxed));
        self.age().saturating_sub(last)
    }

    /// How long the client's last message has had no answer; `None` when the worker spoke last.
    pub fn unanswered(&self) -> Option<Duration> {
        let waits = self.client_spoke_last.load(Relaxed);
        waits.then(|| self.idle())
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn count_in(&self, bytes: u64, messages: u64) {
        self.bytes_in.fetch_add(bytes, Relaxed);
        self.messages_in.fetch_add(messages, Relaxed);
    }

    pub(super) fn count_out(&self, bytes: u64, messages: u64) {
        self.bytes_out.fetch_add(bytes, Relaxed);
        self.messages_out.fetch_add(messages, Relaxed);
    }

    /// Bytes of a message passed, of the client's alone or not.
    pub(super) fn message_at(&self, now: Instant, of_client_alone: bool) {
        self.client_spoke_last.store(of_client_alone, Relaxed);
        let since = now.saturating_duration_since(self.started);
        self.last_message.store(since.as_millis() as u64, Relaxed);
    }

    /// When the last bytes of a message passed; the start of the session before the first.
    pub(super) fn last_message(&self) -> Instant {
        self.started + Duration::from_millis(self.last_message.load(Relaxed))
    }
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn each_byte_is_told_of_once_while_they_pass() {
        let traffic = Traffic::new();
        let told: u64 = thread::scope(|scope| {
            let passing = scope.spawn(|| (0..10_000).for_each(|_| traffic.count_out(3, 0)));
            let reading = || {
                (0..10_000)
                    .map(|_| traffic.take_unreported().1)
                    .sum::<u64>()
            };
            let readers = [scope.spawn(reading), scope.spawn(reading)];
            passing.join().unwrap();
            readers.map(|reader| reader.join().unwrap()).iter().sum()
        });
        assert_eq!(told + traffic.take_unreported().1, traffic.bytes_out());
        assert_eq!(traffic.take_unreported(), (0, 0));
    }
}
