//! Since when a side takes no bytes. Asks its kernel: a slow reader's sender may write again only when
//! much of what it wrote before has been read, which can take minutes.

use super::flow::Flow;
use super::traffic::Moved;
use super::transport::Transport;
use tokio::time::Instant;

/// Checks of a side that lets nobody write, in the time that it may do so.
pub(super) const CHECKS: u32 = 4;

/// Both directions of a session, the one to the worker first.
#[derive(Default)]
pub(super) struct Stalls {
    since: [Option<Instant>; 2],
    /// What the receiver's kernel had not acknowledged at the last look; 0 before the first.
    unacknowledged: [u32; 2],
}

impl Stalls {
    /// Since when the worker takes nothing.
    pub(super) fn up(&self) -> Option<Instant> {
        self.since[0]
    }

    /// Since when the client takes nothing.
    pub(super) fn down(&self) -> Option<Instant> {
        self.since[1]
    }

    pub(super) fn any(&self) -> bool {
        self.up().is_some() || self.down().is_some()
    }

    /// What both directions have done up to `now`.
    pub(super) fn note(&mut self, now: Instant, directions: [(&Flow, Moved); 2]) {
        for (n, (flow, moved)) in directions.into_iter().enumerate() {
            if !flow.is_blocked() {
                self.since[n] = None;
            } else if moved.taken > 0 || self.since[n].is_none() {
                self.since[n] = Some(now);
                self.unacknowledged[n] = 0;
            }
        }
    }

    /// Who has acknowledged something since the last look takes bytes.
    pub(super) fn check(&mut self, now: Instant, receivers: [&Transport; 2]) {
        for (n, receiver) in receivers.into_iter().enumerate() {
            let before = self.unacknowledged[n];
            if let Some(since) = &mut self.since[n] {
                self.unacknowledged[n] = receiver.unacknowledged();
                if self.unacknowledged[n] < before {
                    *since = now;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::tests::rig::tcp_pair;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;
    use tokio::time::{sleep, timeout};

    #[tokio::test]
    async fn a_reader_takes_bytes_long_before_its_sender_may_write_again() {
        let (mut far, near) = tcp_pair(Some(8 * 1024)).await;
        while let Ok(Ok(())) = timeout(Duration::from_millis(300), near.writable()).await {
            // Until nothing more goes.
            near.try_write(&[7; 64 * 1024]).ok();
        }
        let near = Transport::from(near);
        let begun = Instant::now();
        let mut stalls = Stalls {
            since: [None, Some(begun)],
            unacknowledged: [0; 2],
        };
        let later = |seconds| begun + Duration::from_secs(seconds);
        // What was on its way arrives, and after that nothing more is taken.
        let mut checks = 0;
        loop {
            let before = stalls.down();
            checks += 1;
            stalls.check(later(checks), [&near, &near]);
            if checks > 1 && stalls.down() == before {
                break;
            }
        }
        assert_eq!(stalls.up(), None);
        let before = near.unacknowledged();
        let mut part = [0; 16 * 1024];
        while near.unacknowledged() == before {
            far.read_exact(&mut part).await.unwrap();
            sleep(Duration::from_millis(1)).await;
        }
        let now = later(checks + 1);
        stalls.check(now, [&near, &near]);
        assert_eq!(stalls.down(), Some(now));
    }
}
