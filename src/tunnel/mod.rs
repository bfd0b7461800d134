//! The bytes of a session, both ways, until one side ends it.
//!
//! A tunnel owns the client's and the worker's connection from behind the 101 on. It passes the
//! WebSocket frames on as they are, never re-framed and never inflated, but it knows where they
//! begin ([`frame`]). That is what it takes to speak in between: to ping a side that is silent, and
//! to say why a session ends when the end is ours.
//!
//! It knows nothing of HTTP, seats or the store: whoever calls [`run`] holds the seat, logs the
//! [`Ended`] and releases. Dropping the future closes both connections at once.
//!
//! * [`frame`]: where frames begin (pure).
//! * [`Link`]: a connection, plain or not.
//! * `flow`: one direction, its back pressure and its end.
//! * `relay`: both directions, and what ends a session.
//! * `splice`: large frames without copying, on Linux.
//! * `watch`: pings and time limits (pure).
//! * [`Close`], [`Ended`]: what is said and what is reported at the end.

mod close;
mod flow;
pub mod frame;
mod link;
mod relay;
mod splice;
mod traffic;
mod tune;
mod watch;

pub use close::{Close, Ended, Party, Why};
pub use link::Link;
pub use traffic::Traffic;
pub use tune::{keepalive, tune};

use crate::config::Session;
use crate::model::SessionId;
use bytes::Bytes;
use relay::Relay;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::sleep_until;

/// The two connections of a session, both behind their HTTP heads.
#[derive(Debug)]
pub struct Ends {
    pub client: Side,
    pub worker: Side,
}

/// One connection.
#[derive(Debug)]
pub struct Side {
    pub stream: Link,
    /// What came right behind the HTTP head and was read with it.
    pub early: Bytes,
}

/// A session's limits, as they were when it began: a reload touches no open session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ends a session without a message for this long; pings and pongs are none.
    pub idle_timeout: Option<Duration>,
    /// Ends a session this old.
    pub max_duration: Option<Duration>,
    /// Pings a side that has been silent this long.
    pub ping_interval: Option<Duration>,
    /// Ends a session whose side has been silent this long despite pings.
    pub ping_timeout: Duration,
    /// Ends a session whose side takes no bytes for this long.
    pub write_timeout: Duration,
}

impl Limits {
    /// How long a side has from its first ping on.
    fn time_to_answer(&self) -> Duration {
        let interval = self.ping_interval.unwrap_or_default();
        self.ping_timeout.saturating_sub(interval)
    }
}

impl From<&Session> for Limits {
    fn from(session: &Session) -> Limits {
        Limits {
            idle_timeout: session.idle_timeout,
            max_duration: session.max_duration,
            ping_interval: session.ping_interval,
            ping_timeout: session.ping_timeout,
            write_timeout: session.write_timeout,
        }
    }
}

/// Relays until the session is over, and says how it ended. Both connections are closed then.
///
/// `stop` ends the session from outside; that its sender is dropped means nothing. From the moment
/// an end is seen or decided on it takes a few seconds at most.
pub fn run(
    id: SessionId,
    ends: Ends,
    limits: Limits,
    traffic: Arc<Traffic>,
    stop: oneshot::Receiver<Close>,
) -> impl Future<Output = Ended> + Send + 'static {
    // Made outside of the block, whose captures have a place of their own in the future: what is
    // moved inside of it would have two.
    let mut relay = Relay::new(id, ends, limits, traffic, stop);
    async move {
        let mut timer = pin!(sleep_until(relay.alarm()));
        poll_fn(|cx| relay.poll(timer.as_mut(), cx)).await
    }
}

#[cfg(test)]
mod tests;
