//! How sessions end: who ended it, why, and what the Close frame says when the end is ours.

use super::protocol::{MAX_REASON, code};
use crate::model::{SessionId, words};
use serde_json::json;
use std::fmt::Write as _;
use std::time::Duration;

/// The code of an error of JSON-RPC, as which the DevTools protocol has its errors.
const METHOD_NOT_FOUND: i32 = -32601;

/// What every reason of ours begins with.
const PREFIX: &str = "playhouse: ";

words! {
    /// One of the three who can end a session, for log lines and labels of metrics.
    pub enum Party ("party") {
        Client = "client",
        Worker = "worker",
        Playhouse = "playhouse",
    }
}

words! {
    /// Why a session ended, for log lines and labels of metrics.
    pub enum EndReason ("reason") {
        /// A side said goodbye with a Close frame.
        Closed = "closed",
        /// The client's connection ended without a Close frame: its process ended, or the network did.
        ClientGone = "client_gone",
        /// The worker's connection ended without a Close frame: its process or its machine died.
        WorkerLost = "worker_lost",
        /// The worker has answered no ping for the ping timeout.
        WorkerSilent = "worker_silent",
        /// The client took no bytes for the write timeout.
        ClientSlow = "client_slow",
        /// The worker took no bytes for the write timeout.
        WorkerSlow = "worker_slow",
        /// No message for the idle timeout.
        Idle = "idle",
        /// Older than sessions may get.
        TooLong = "too_long",
        /// The client speaks the DevTools protocol where Playwright's own is spoken.
        WrongProtocol = "wrong_protocol",
        /// An operator killed it.
        Killed = "killed",
        /// The proxy or the worker drains and the drain timeout is over.
        Draining = "draining",
        /// The proxy is going down at once.
        ShuttingDown = "shutting_down",
    }
}

impl EndReason {
    /// Who ends a session for this reason; `None` for [`EndReason::Closed`], which either side can.
    pub fn party(self) -> Option<Party> {
        match self {
            EndReason::Closed => None,
            EndReason::ClientGone | EndReason::ClientSlow | EndReason::WrongProtocol => {
                Some(Party::Client)
            }
            EndReason::WorkerLost | EndReason::WorkerSilent | EndReason::WorkerSlow => {
                Some(Party::Worker)
            }
            EndReason::Idle
            | EndReason::TooLong
            | EndReason::Killed
            | EndReason::Draining
            | EndReason::ShuttingDown => Some(Party::Playhouse),
        }
    }

    /// What the user reads; the limit that was reached follows, if there was one.
    fn sentence(self) -> &'static str {
        match self {
            EndReason::Closed => "session closed",
            EndReason::ClientGone => "client gone",
            EndReason::WorkerLost => "worker lost, its connection broke",
            EndReason::WorkerSilent => "worker lost, no answer for",
            EndReason::ClientSlow => "client too slow, took no data for",
            EndReason::WorkerSlow => "worker lost, took no data for",
            EndReason::Idle => "session idle for",
            EndReason::TooLong => "session exceeded",
            EndReason::WrongProtocol => {
                "this path speaks Playwright's protocol: for CDP connect to ws://HOST:PORT/cdp"
            }
            EndReason::Killed => "session killed by an operator",
            EndReason::Draining => "the grid is draining and the drain timeout is over",
            EndReason::ShuttingDown => "the grid is shutting down",
        }
    }

    /// The code of our Close frame.
    fn code(self) -> u16 {
        match self {
            EndReason::Closed | EndReason::ClientGone => code::NORMAL,
            EndReason::Draining | EndReason::ShuttingDown => code::GOING_AWAY,
            EndReason::Killed | EndReason::Idle | EndReason::TooLong | EndReason::WrongProtocol => {
                code::POLICY
            }
            EndReason::WorkerLost | EndReason::WorkerSilent | EndReason::WorkerSlow => {
                code::INTERNAL_ERROR
            }
            EndReason::ClientSlow => code::TRY_AGAIN_LATER,
        }
    }
}

/// An end that is ours: what both sides are told. Playwright shows the reason to its user as the
/// error of whatever call was running, so it says what happened, and the session id to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    why: EndReason,
    reason: Box<str>,
    /// A message that the client gets before it.
    message: Option<Box<str>>,
}

impl Close {
    /// The proxy is going down at once.
    pub fn shutting_down(id: SessionId) -> Close {
        Close::new(Some(id), EndReason::ShuttingDown, None)
    }

    /// The drain timeout is over and the session still runs.
    pub fn draining(id: SessionId) -> Close {
        Close::new(Some(id), EndReason::Draining, None)
    }

    /// The same for one worker, of a grid that goes on. A worker that says so itself knows no session.
    pub fn worker_draining(id: Option<SessionId>) -> Close {
        let sentence = "the worker is draining and the drain timeout is over";
        Close::saying(id, EndReason::Draining, sentence)
    }

    /// The worker ends its browser, for the reason that it gives.
    pub fn worker_condemned(id: Option<SessionId>, why: &str) -> Close {
        Close::saying(id, EndReason::WorkerLost, &format!("worker lost, {why}"))
    }

    /// The worker's server has ended the session by itself, in these `words`. Where a worker speaks for
    /// itself, its words stay as they are.
    pub(super) fn browser_ended(id: SessionId, words: &str) -> Close {
        let sentence = match words.strip_prefix(PREFIX) {
            Some(sentence) => sentence.to_owned(),
            None if words.is_empty() => "worker lost, its browser ended".to_owned(),
            None => format!("worker lost, its browser ended ({words})"),
        };
        Close::saying(Some(id), EndReason::WorkerLost, &sentence)
    }

    /// The client is to come by another path: it has sent this command of the DevTools protocol, whose answer
    /// is what clients show to their users.
    pub fn wrong_protocol(id: SessionId, command: u64) -> Close {
        let close = Close::new(Some(id), EndReason::WrongProtocol, None);
        let error = json!({"code": METHOD_NOT_FOUND, "message": close.reason()});
        let answer = json!({"id": command, "error": error}).to_string();
        Close {
            message: Some(answer.into_boxed_str()),
            ..close
        }
    }

    /// An operator killed the session.
    pub fn killed(id: SessionId) -> Close {
        Close::new(Some(id), EndReason::Killed, None)
    }

    pub(super) fn worker_lost(id: SessionId) -> Close {
        Close::new(Some(id), EndReason::WorkerLost, None)
    }

    /// The session has reached `limit`, whose meaning depends on `why`.
    pub(super) fn overdue(id: Option<SessionId>, why: EndReason, limit: Duration) -> Close {
        Close::new(id, why, Some(limit))
    }

    fn new(id: Option<SessionId>, why: EndReason, limit: Option<Duration>) -> Close {
        let mut sentence = why.sentence().to_owned();
        if let Some(limit) = limit {
            let _ = write!(sentence, " {}", humantime::format_duration(limit));
        }
        Close::saying(id, why, &sentence)
    }

    fn saying(id: Option<SessionId>, why: EndReason, sentence: &str) -> Close {
        let mut reason = format!("{PREFIX}{sentence}");
        let suffix = id.map_or(String::new(), |id| format!(" (session {id})"));
        reason.truncate(reason.floor_char_boundary(MAX_REASON - suffix.len()));
        reason.push_str(&suffix);
        Close {
            why,
            reason: reason.into_boxed_str(),
            message: None,
        }
    }

    /// Why the session ends.
    pub fn why(&self) -> EndReason {
        self.why
    }

    /// The code of the Close frame.
    pub fn code(&self) -> u16 {
        self.why.code()
    }

    /// What the client gets to read before it.
    pub(super) fn message(&self) -> Option<&str> {
        self.message.as_deref()
    }

    /// At most [`MAX_REASON`] bytes, with the session id, where it is known, at the end.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// How a session ended, for its log line and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub by: Party,
    pub why: EndReason,
    /// The code of the Close frame that ended it: theirs as it came, ours as the client's connection
    /// took it. 1005 when it had none, `None` when there was no Close frame.
    pub code: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_fits_and_ends_with_the_session() {
        let longest = Duration::from_nanos(u64::MAX);
        for why in EndReason::ALL {
            for limit in [None, Some(Duration::from_secs(1800)), Some(longest)] {
                let id = SessionId::random();
                let close = Close::new(Some(id), why, limit);
                assert!(close.reason().len() <= MAX_REASON);
                assert!(close.reason().starts_with("playhouse: "));
                assert!(close.reason().ends_with(&format!("(session {id})")));
            }
        }
    }

    #[test]
    fn no_two_reasons_share_a_label() {
        let labels: std::collections::HashSet<_> =
            EndReason::ALL.iter().map(|why| why.as_str()).collect();
        assert_eq!(labels.len(), EndReason::ALL.len());
    }
}
