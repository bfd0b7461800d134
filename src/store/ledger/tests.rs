//! The ledger against a store that loses answers, connections and its data: whatever happened in
//! between, at the end both have the same seats.

use super::*;
use crate::model::{Browser, Counts};
use crate::store::WorkerView;
use proptest::prelude::*;

/// How far a call came.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Done,
    /// The store did it, and nobody heard that it had.
    AnswerLost,
    /// The store never heard of it.
    Lost,
    /// There was no connection to send it on.
    Unsent,
}

#[derive(Clone, Debug)]
enum Step {
    Reserve(u64, u8, Fate),
    /// There was no seat.
    Refused(u64),
    Adopt(u64, u8),
    Release(u64, bool),
    Flush(Fate),
    Compare,
    /// A new connection, on which nothing is under way.
    Reconnect,
    /// The store comes back empty.
    Empty,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let session = 0..5u64;
    let fate = prop_oneof![
        3 => Just(Fate::Done),
        1 => Just(Fate::AnswerLost),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Unsent),
    ];
    let step = prop_oneof![
        4 => (session.clone(), 0..3u8, fate.clone()).prop_map(|(s, w, f)| Step::Reserve(s, w, f)),
        1 => session.clone().prop_map(Step::Refused),
        2 => (session.clone(), 0..3u8).prop_map(|(s, w)| Step::Adopt(s, w)),
        4 => (session, any::<bool>()).prop_map(|(s, refund)| Step::Release(s, refund)),
        3 => fate.prop_map(Step::Flush),
        1 => Just(Step::Compare),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Empty),
    ];
    prop::collection::vec(step, 0..40)
}

fn id(number: u64) -> SessionId {
    format!("{number:016x}").parse().unwrap()
}

fn worker(number: u8) -> WorkerKey {
    WorkerKey::new(Browser::Chromium, number.to_string())
}

/// One process with its ledger, and the store that it talks to.
#[derive(Default)]
struct Pair {
    ledger: Ledger,
    /// What the store has.
    leases: HashMap<SessionId, WorkerKey>,
    /// What the process' sessions have.
    held: HashMap<SessionId, WorkerKey>,
}

impl Pair {
    fn step(&mut self, step: Step) {
        match step {
            Step::Reserve(session, at, fate) => self.reserve(id(session), at, fate),
            Step::Refused(session) => {
                let session = id(session);
                if self.ledger.begin(session) {
                    self.ledger.unseated(session);
                }
            }
            Step::Adopt(session, at) => {
                let session = id(session);
                self.ledger.adopt(session, &worker(at));
                self.held.entry(session).or_insert(worker(at));
            }
            Step::Release(session, refund) => {
                let session = id(session);
                self.ledger.release(session, refund);
                self.held.remove(&session);
            }
            Step::Flush(fate) => self.flush(fate),
            Step::Compare => self.ledger.compare(&self.leases, false),
            Step::Reconnect => self.ledger.compare(&self.leases, true),
            Step::Empty => self.leases.clear(),
        }
    }

    fn reserve(&mut self, session: SessionId, at: u8, fate: Fate) {
        if !self.ledger.begin(session) {
            // What ended has to be told first, and could not be.
            return;
        }
        if let Fate::Unsent = fate {
            self.ledger.never_asked(session);
            return;
        }
        if let Fate::Lost = fate {
            self.ledger.doubt(session);
            return;
        }
        let seat = self.leases.entry(session).or_insert(worker(at)).clone();
        if let Fate::AnswerLost = fate {
            self.ledger.doubt(session);
        } else if self.ledger.seated(session, &seat) {
            self.held.insert(session, seat);
        }
    }

    /// Tells the store all that it has not been told.
    fn flush(&mut self, fate: Fate) {
        let releases = self.ledger.pending_releases(2);
        if !matches!(fate, Fate::Lost | Fate::Unsent) {
            for (session, _) in &releases {
                self.leases.remove(session);
            }
        }
        if !matches!(fate, Fate::Done) {
            return;
        }
        self.ledger
            .released(releases.iter().map(|(session, _)| *session));
        if !self.ledger.pending_releases(1).is_empty() {
            return self.flush(fate);
        }
        let seats = self.ledger.take_unsynced(2);
        for seat in &seats {
            self.leases.insert(seat.session, seat.worker.clone());
        }
        self.ledger.mark_synced(&seats);
        if !seats.is_empty() {
            self.flush(fate);
        }
    }
}

proptest! {
    #[test]
    fn in_the_end_the_store_has_the_seats_that_sessions_have(steps in steps()) {
        let mut pair = Pair::default();
        for step in steps {
            pair.step(step);
        }
        pair.step(Step::Flush(Fate::Done));
        pair.step(Step::Reconnect);
        pair.step(Step::Flush(Fate::Done));
        prop_assert_eq!(&pair.leases, &pair.held);
        prop_assert_eq!(pair.ledger.pending_releases(1), []);
        prop_assert_eq!(pair.ledger.take_unsynced(1), []);
    }

    /// A telling that fails half-way leaves all that it was about to be told again.
    #[test]
    fn what_could_not_be_told_is_told_again(sessions in 1..20u64, most in 1..6usize) {
        let mut ledger = Ledger::default();
        for session in 0..sessions {
            ledger.adopt(id(session), &worker(0));
        }
        ledger.take_unsynced(most);
        ledger.mark_unsynced();
        prop_assert_eq!(ledger.take_unsynced(usize::MAX).len() as u64, sessions);
    }
}

/// Else the store finds nothing to give back, is then told of the seat, and its lifetime stays counted.
#[test]
fn a_release_does_not_overtake_the_telling_of_its_seat() {
    let mut ledger = Ledger::default();
    ledger.adopt(id(1), &worker(0));
    let under_way = ledger.take_unsynced(1);
    assert!(ledger.release(id(1), true), "the store has to hear of it");
    assert_eq!(ledger.pending_releases(1), []);
    ledger.mark_synced(&under_way);
    assert_eq!(ledger.pending_releases(1), [(id(1), true)]);

    ledger.adopt(id(2), &worker(0));
    ledger.take_unsynced(1);
    ledger.release(id(2), true);
    ledger.mark_unsynced();
    assert!(ledger.pending_releases(2).contains(&(id(2), true)));
}

#[test]
fn a_late_word_of_a_grant_does_not_refund_a_session_that_was_served() {
    for late in [
        |ledger: &mut Ledger| ledger.given_elsewhere(id(1)),
        |ledger: &mut Ledger| ledger.seated(id(1), &worker(0)),
    ] {
        let mut ledger = Ledger::default();
        ledger.wait(id(1));
        assert!(ledger.seated(id(1), &worker(0)));
        ledger.release(id(1), false);
        assert!(!late(&mut ledger));
        assert_eq!(ledger.pending_releases(2), [(id(1), false)]);
    }
    let mut ledger = Ledger::default();
    assert!(!ledger.given_elsewhere(id(1)));
    assert_eq!(
        ledger.pending_releases(1),
        [(id(1), true)],
        "its client has left"
    );
}

fn view(worker: WorkerKey, lifetime: u32, revision: u64) -> WorkerView {
    let endpoint = "ws://127.0.0.1:1/".parse().unwrap();
    let counts = Counts {
        active: 0,
        lifetime,
        revision,
    };
    WorkerView {
        record: WorkerRecord::new(worker, endpoint, 0),
        counts,
    }
}

/// They may have fallen silent, and a store that comes back empty has forgotten what they served.
#[test]
fn lifetimes_of_workers_that_left_are_remembered() {
    let mut ledger = Ledger::default();
    for number in 0..3 {
        ledger.learn(&view(worker(number), number.into(), 1));
    }
    ledger.forget(&worker(1));
    assert_eq!(ledger.silent(), [(worker(1), 1)]);
    // One that served nobody is of no interest, and one that was told of later is there.
    ledger.learn(&view(worker(3), 3, 5));
    ledger.learn_all(&[], 4);
    assert_eq!(ledger.silent(), [(worker(1), 1), (worker(2), 2)]);
    assert_eq!(ledger.remembered().len(), 1);
    // One that came back and left again is remembered once, as it was last.
    ledger.learn(&view(worker(1), 7, 6));
    ledger.forget(&worker(1));
    assert_eq!(ledger.silent(), [(worker(2), 2), (worker(1), 7)]);
}

#[test]
fn of_the_workers_that_left_the_last_thousand_are_remembered() {
    let mut ledger = Ledger::default();
    let named = |number: u32| WorkerKey::new(Browser::Chromium, format!("w{number}"));
    for number in 1..=1500 {
        ledger.learn(&view(named(number), number, 1));
        ledger.forget(&named(number));
    }
    let silent = ledger.silent();
    assert_eq!(silent.len(), 1000);
    assert_eq!(silent[0], (named(501), 501));
}
