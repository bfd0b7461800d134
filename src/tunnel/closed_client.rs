//! The client's connection after the end of its session: all was written that there is to be read, and the
//! client has yet to hang up. Closing it with unread bytes of the client's would reset it, and take the
//! reason of the end along. The worker, and the seat, are no part of it.

use super::closing::{ANSWER_TIMEOUT, CHECK_INTERVAL, Closing};
use super::transport::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

/// A client that was told the end.
#[must_use = "dropping it may keep the client from reading why its session ended"]
pub struct ClosedClient {
    client: Transport,
    /// How long it is waited for if it is behind.
    closing: Box<Closing>,
}

impl ClosedClient {
    pub(super) fn new(client: Transport, closing: Box<Closing>) -> ClosedClient {
        ClosedClient { client, closing }
    }

    /// Waits until the client has hung up: for a second, and for longer while it takes what was written.
    pub async fn wait(self) {
        let ClosedClient {
            mut client,
            mut closing,
        } = self;
        // Of a connection that is broken the end is known.
        timeout(ANSWER_TIMEOUT, client.shutdown()).await.ok();
        let mut until = Instant::now() + ANSWER_TIMEOUT;
        let mut rest = [0; 1024];
        loop {
            tokio::select! {
                biased;
                () = sleep_until(until) => {
                    let (now, left) = (Instant::now(), client.unacknowledged());
                    if !closing.goes_on(now, left > 0, false, left) {
                        return;
                    }
                    until = now + CHECK_INTERVAL;
                }
                read = client.read(&mut rest) => {
                    if !read.is_ok_and(|count| count > 0) {
                        return;
                    }
                }
            }
        }
    }
}
