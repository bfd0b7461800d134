//! The bytes of a session, both ways, until one side ends it.
//!
//! A tunnel owns the client's and the worker's connection from behind the 101 on. It passes the
//! WebSocket frames on as they are, never re-framed and never inflated, but it knows where they
//! begin ([`frame`]). That is what it takes to speak in between: to ping a side that is silent, and
//! to say why a session ends when the end is ours.
//!
//! It knows nothing of HTTP, seats or the store: whoever calls [`run`] holds the seat, logs the
//! [`Ended`] and releases. Dropping the future closes both connections at once. A worker's gateway, a
//! second tunnel on the way of the same session, calls [`pass_on`] and leaves the watching to the
//! proxy.
//!
//! * [`frame`]: where frames begin (pure).
//! * [`protocol`]: the numbers of WebSocket (pure).
//! * [`Transport`]: a connection, plain or not.
//! * `flow`: one direction, its frames and its end; `outlet`: its receiver, and the back pressure.
//! * [`ClosedClient`]: the client's connection after the end.
//! * `held`: the worker's Close frame, until it is decided whether the client gets it.
//! * `closing`: how long an end waits for a client that is behind (pure).
//! * `relay`: both directions, and what ends a session.
//! * `splice`: large frames without copying, on Linux.
//! * `stalls`: since when a side takes nothing.
//! * [`Traffic`]: what has passed. `tune`: options of the sockets.
//! * `watch`: pings and time limits (pure).
//! * [`Close`], [`Ended`]: what is said and what is reported at the end.

mod close;
mod closed_client;
mod closing;
mod flow;
pub mod frame;
mod held;
mod outlet;
pub mod protocol;
mod relay;
mod splice;
mod stalls;
mod traffic;
mod transport;
mod tune;
mod watch;

pub use close::{Close, EndReason, Ended, Party};
pub use closed_client::ClosedClient;
pub use traffic::Traffic;
pub use transport::{LastHeard, Transport, close_websocket, send_last};
pub use tune::{keepalive, tune};

use crate::config::Session;
use crate::model::SessionId;
use bytes::Bytes;
use relay::Relay;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::oneshot;
use tokio::time::sleep_until;

/// How long a side may take no bytes where somebody else watches the session: longer than anybody
/// has patience, so that the watcher is the one who says why.
const PASS_ON_WRITE_TIMEOUT: Duration = Duration::from_secs(600);

/// Returns when whoever is at the other end has hung up. What it says is of no interest.
pub async fn hung_up(stream: &mut (impl AsyncRead + Unpin)) {
    let mut bytes = [0; 256];
    while matches!(stream.read(&mut bytes).await, Ok(1..)) {}
}

/// The two connections of a session, both behind their HTTP heads.
#[derive(Debug)]
pub struct Ends {
    pub client: Side,
    pub worker: Side,
}

/// One connection.
#[derive(Debug)]
pub struct Side {
    pub stream: Transport,
    /// What came right behind the HTTP head and was read with it.
    pub early: Bytes,
}

/// A session's limits, as they were when it began: a reload touches no open session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
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

impl SessionLimits {
    /// How long a side has from its first ping on.
    fn time_to_answer(&self) -> Duration {
        let interval = self.ping_interval.unwrap_or_default();
        self.ping_timeout.saturating_sub(interval)
    }
}

impl From<&Session> for SessionLimits {
    fn from(session: &Session) -> SessionLimits {
        SessionLimits {
            idle_timeout: session.idle_timeout,
            max_duration: session.max_duration,
            ping_interval: session.ping_interval,
            ping_timeout: session.ping_timeout,
            write_timeout: session.write_timeout,
        }
    }
}

/// A session that is over.
pub struct Over {
    pub ended: Ended,
    /// The client's connection, where it was told the end and has not hung up. The worker's is closed, and
    /// the seat can be given to somebody else.
    pub closed_client: Option<ClosedClient>,
}

impl Over {
    /// Waits until nobody is left who was told the end.
    pub async fn client_gone(self) {
        if let Some(closed_client) = self.closed_client {
            // Boxed: an open session is to be small.
            Box::pin(closed_client.wait()).await;
        }
    }
}

/// Relays until the session is over, and says how it ended.
///
/// `stop` ends the session from outside; that its sender is dropped means nothing. From the moment
/// an end is seen or decided on it takes a few seconds at most.
pub fn run(
    id: SessionId,
    ends: Ends,
    limits: SessionLimits,
    traffic: Arc<Traffic>,
    stop: oneshot::Receiver<Close>,
) -> impl Future<Output = Over> + Send + 'static {
    drive(Relay::new(Some(id), ends, limits, traffic, stop))
}

/// The same behind somebody who watches the session: an end is passed on as it comes, with no word
/// in between but that of `stop`. Only a side that takes no bytes for long is not waited for.
pub fn pass_on(
    ends: Ends,
    traffic: Arc<Traffic>,
    stop: oneshot::Receiver<Close>,
) -> impl Future<Output = Over> + Send + 'static {
    let limits = SessionLimits {
        idle_timeout: None,
        max_duration: None,
        ping_interval: None,
        ping_timeout: PASS_ON_WRITE_TIMEOUT,
        write_timeout: PASS_ON_WRITE_TIMEOUT,
    };
    drive(Relay::new(None, ends, limits, traffic, stop))
}

#[expect(
    clippy::manual_async_fn,
    reason = "what a block captures has one place in the future, an argument has two"
)]
fn drive(mut relay: Relay) -> impl Future<Output = Over> + Send + 'static {
    async move {
        let mut timer = pin!(sleep_until(relay.alarm()));
        let ended = poll_fn(|cx| relay.poll(timer.as_mut(), cx)).await;
        let closed_client = relay.into_closed_client();
        Over {
            ended,
            closed_client,
        }
    }
}

#[cfg(test)]
mod tests;
