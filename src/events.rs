//! What happened lately, for people who look: a small ring that is bounded whatever happens.
//!
//! Not a log: what happens again within a minute is one entry with a count, so that a flood of one
//! kind does not push out the others. Of this process alone.

use crate::model::unix_millis;
use serde::Serialize;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Entries that are kept.
const MOST: usize = 200;
/// What happens again within this time is counted, in milliseconds.
const SAME: u64 = 60_000;
/// Characters of a text that are kept.
const MAX_TEXT: usize = 200;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// A worker came, drains, or went.
    Worker,
    /// A session ended in another way than its client wished.
    Session,
    /// A client was refused.
    Refusal,
    /// The store went away or came back.
    Store,
    /// The configuration was changed, or could not be.
    Configuration,
    /// An operator did something.
    Operator,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GridEvent {
    /// Milliseconds since the epoch, of the last time.
    pub at: u64,
    pub kind: EventKind,
    pub what: String,
    /// The worker or session that it is about.
    pub subject: Option<String>,
    /// How often it happened.
    pub count: u32,
}

/// The ring.
#[derive(Debug, Default)]
pub struct Events(Mutex<VecDeque<GridEvent>>);

impl Events {
    /// Notes that something happens.
    pub fn note(&self, kind: EventKind, what: &str, subject: Option<&str>) {
        self.note_at(unix_millis(), kind, what, subject);
    }

    fn note_at(&self, at: u64, kind: EventKind, what: &str, subject: Option<&str>) {
        let cut = |text: &str| text.chars().take(MAX_TEXT).collect::<String>();
        let mut event = GridEvent {
            at,
            kind,
            what: cut(what),
            subject: subject.map(cut),
            count: 1,
        };
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = ring.iter().position(|it| {
            it.kind == kind
                && it.what == event.what
                && it.subject == event.subject
                && at.saturating_sub(it.at) < SAME
        });
        if let Some(before) = same.and_then(|same| ring.remove(same)) {
            event.count = before.count.saturating_add(1);
        }
        ring.push_back(event);
        if ring.len() > MOST {
            ring.pop_front();
        }
    }

    /// All of them, the last first.
    pub fn list(&self) -> Vec<GridEvent> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_is_counted_and_the_ring_is_bounded() {
        let events = Events::default();
        events.note_at(0, EventKind::Worker, "joined", Some("a"));
        for n in 0..1000 {
            events.note_at(n, EventKind::Refusal, "queue_full", None);
        }
        let list = events.list();
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].count, list[0].at), (1000, 999));
        events.note_at(999 + SAME, EventKind::Refusal, "queue_full", None);
        assert_eq!(events.list()[0].count, 1, "an hour later it is news");
        for n in 0..1000 {
            events.note_at(
                n,
                EventKind::Session,
                &"long".repeat(1000),
                Some(&n.to_string()),
            );
        }
        assert_eq!(events.list().len(), MOST);
        assert!(events.list().iter().all(|it| it.what.len() <= MAX_TEXT));
    }
}
