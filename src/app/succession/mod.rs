//! One process takes the place of another: what the two say to each other, over a Unix socket that
//! the new one (`proxy --upgrade`) listens on and the old one connects to when it is told to.
//!
//! ```text
//! old                                      new
//!  Offer + both listening sockets ──▶
//!                                      ◀── Ready: it knows the fleet and has its sockets
//!  Seats (who holds which), Accept ──▶
//!                                      ◀── Accepting: the old one stops to accept
//!  Seats (what changed since), …   ──▶
//!                                      ◀── Leaving: the new one ends in good order
//! ```
//!
//! * The old process serves as before until it hears `Accepting`. Whatever ends the connection
//!   before changes nothing for it; the new process accepts nobody before it hears `Accept`.
//! * Seats are told only where they are in memory. The new process counts the old one's seats as
//!   taken for as long as the connection lasts: however the old process ends, they are free then.
//!   What each of them seats in the meantime the other does not ask about, so that a worker may be
//!   over its limit for a while.
//! * When the connection ends without `Leaving`, the new process has died. The old one, if it still
//!   has sessions, accepts again on the sockets that it kept.
//!
//! Both ends make sure that the other belongs to the same user: whoever else can reach the socket
//! learns nothing and is handed nothing.

mod channel;
pub mod predecessor;
pub mod successor;

use crate::model::{SessionId, WorkerKey};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What the old process says.
#[derive(Debug, Serialize, Deserialize)]
enum FromOld {
    /// The addresses of the sockets that come with it, as they are configured there.
    Offer(Vec<SocketAddr>),
    /// What changed since it was last told; at first everything.
    Seats {
        taken: Vec<(SessionId, WorkerKey)>,
        freed: Vec<SessionId>,
    },
    /// The word: begin to accept.
    Accept,
}

/// What the new process says.
#[derive(Debug, Serialize, Deserialize)]
enum FromNew {
    Ready,
    /// It cannot take over, and ends.
    Refused(String),
    Accepting,
    Leaving,
}

/// Why a process does not take the place of another.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("nobody takes over at {0}: start `playhouse proxy --upgrade` first, then send SIGQUIT")]
    NoSuccessor(String),
    #[error("the process at the other end belongs to another user")]
    OtherUser,
    #[error("the other process has gone")]
    Gone,
    #[error("the new process cannot take over: {0}")]
    Refused(String),
    #[error("the other process said something that makes no sense here: {0}")]
    Unexpected(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

#[cfg(test)]
mod tests;
