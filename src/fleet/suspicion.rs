//! Whether one worker's upgrades work, judged from what sessions and trials of our own met
//! there. Pure: time is handed in.
//!
//! What a session meets makes a worker *suspected*: the last choice, still there for those who find
//! no other, because the session's own request may be the cause. Only a trial of ours, a clean
//! handshake, takes a worker *out*, and lets it back in. Each relapse keeps it the last choice for
//! longer.

use super::Unreachable;
use std::time::Duration;
use tokio::time::Instant;

/// What a failed session adds, and a served one takes away again.
const FAILED: u32 = 2;
const SERVED: u32 = 1;
/// From here on a worker is suspected: two sessions in a row failed, or every other one for a while.
const SUSPECTED: u32 = 2 * FAILED;

/// Shortest time between two trials, whoever wants them: a client whose every request fails
/// must not make us ask without end.
const MIN_TRIAL_INTERVAL: Duration = Duration::from_millis(250);
/// Longest time between two trials to a worker that is out.
const MAX_TRIAL_INTERVAL: Duration = Duration::from_secs(10);

/// Time to the next trial when there was nothing to ask one with.
const AFTER_SHORTAGE: Duration = Duration::from_secs(1);

/// How long a worker stays the last choice after its first relapse; doubles with each.
const FIRST_HOLD: Duration = Duration::from_secs(1);
const MAX_HOLD: Duration = Duration::from_secs(60);
/// For each such time without a relapse, one is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(120);

/// How a worker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    Trusted,
    /// The last choice.
    Suspected,
    /// No choice until a trial goes well.
    Out,
}

/// What is held against one worker.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    score: u32,
    /// A session failed, and no trial has been answered since.
    unanswered: bool,
    /// How the last trial failed, when the last one did.
    out: Option<Unreachable>,
    /// Failed trials in a row.
    failed_trials: u32,
    relapses: u32,
    /// When the last relapse was, and one more was forgotten since.
    counted_from: Option<Instant>,
    /// Until when it stays the last choice, whatever the trials say.
    held_until: Option<Instant>,
    last_trial: Option<Instant>,
    /// When an upgrade went well last.
    last_success: Option<Instant>,
    next_trial: Option<Instant>,
}

impl Suspicion {
    pub(super) fn trust(&self) -> Trust {
        if self.out.is_some() {
            Trust::Out
        } else if self.unanswered || self.score >= SUSPECTED || self.held_until.is_some() {
            Trust::Suspected
        } else {
            Trust::Trusted
        }
    }

    /// Why it is out, if it is.
    pub(super) fn why(&self) -> Option<&Unreachable> {
        self.out.as_ref()
    }

    /// When a trial is due, if one is.
    pub(super) fn next_trial(&self) -> Option<Instant> {
        self.next_trial
    }

    /// Whether an upgrade went well since then.
    pub(super) fn worked_since(&self, then: Instant) -> bool {
        self.out.is_none() && self.last_success.is_some_and(|at| at >= then)
    }

    /// A session failed there, for a reason that is the worker's.
    pub(super) fn session_failed(&mut self, now: Instant) {
        if self.out.is_some() {
            // Its dial began before. There is nothing to learn from it.
            return;
        }
        let before = self.score;
        self.score = (before + FAILED).min(2 * SUSPECTED);
        if before < SUSPECTED && self.score >= SUSPECTED {
            self.relapse(now);
        }
        self.unanswered = true;
        self.request_trial(now);
    }

    /// A session was served there. That lifts no suspicion: a worker may serve every other one.
    pub(super) fn session_served(&mut self, now: Instant) {
        self.last_success = Some(now);
        self.score = self.score.saturating_sub(SERVED);
    }

    /// Something is odd, with nobody to blame yet: ask soon.
    pub(super) fn request_trial(&mut self, now: Instant) {
        let soonest = self
            .last_trial
            .map_or(now, |last| last + MIN_TRIAL_INTERVAL);
        let due = soonest.max(now);
        self.next_trial = Some(self.next_trial.map_or(due, |next| next.min(due)));
    }

    /// A trial is on its way.
    pub(super) fn trial_started(&mut self, now: Instant) {
        self.last_trial = Some(now);
        self.next_trial = None;
    }

    /// A trial went well.
    pub(super) fn trial_passed(&mut self, now: Instant) {
        self.last_success = Some(now);
        self.unanswered = false;
        self.out = None;
        self.failed_trials = 0;
        // Either it is trusted from here on, or asked again when it may be.
        self.held_until = self.held_until.filter(|until| *until > now);
        self.next_trial = self
            .held_until
            .map(|until| until.max(now + MIN_TRIAL_INTERVAL));
        self.score = match self.held_until {
            Some(_) => self.score,
            // One more failed session, and it is suspected again.
            None if self.score >= SUSPECTED => SUSPECTED - FAILED,
            // That it answers us says little of the sessions that it fails.
            None => self.score,
        };
    }

    /// A trial failed, for a reason that is the worker's.
    pub(super) fn trial_failed(&mut self, why: Unreachable, now: Instant) {
        if self.out.is_none() && self.score < SUSPECTED {
            self.relapse(now);
        }
        self.unanswered = false;
        self.out = Some(why);
        let pause = doubled(MIN_TRIAL_INTERVAL, self.failed_trials, MAX_TRIAL_INTERVAL);
        self.failed_trials = self.failed_trials.saturating_add(1);
        self.next_trial = Some(now + pause);
    }

    /// A trial could not be asked, for want of something of ours.
    pub(super) fn trial_skipped(&mut self, now: Instant) {
        self.next_trial = Some(now + AFTER_SHORTAGE);
    }

    fn relapse(&mut self, now: Instant) {
        self.forget(now);
        self.held_until = Some(now + doubled(FIRST_HOLD, self.relapses, MAX_HOLD));
        self.relapses = self.relapses.saturating_add(1);
        self.counted_from = Some(now);
    }

    /// Forgets a relapse for each stretch of time without one.
    fn forget(&mut self, now: Instant) {
        let Some(from) = self.counted_from else {
            return;
        };
        let quiet = (now - from).as_secs() / FORGET_AFTER.as_secs();
        self.relapses = self
            .relapses
            .saturating_sub(u32::try_from(quiet).unwrap_or(u32::MAX));
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first
        .saturating_mul(1u32.checked_shl(times).unwrap_or(u32::MAX))
        .min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Obstacle;
    use proptest::prelude::*;

    fn why() -> Unreachable {
        Unreachable::new(Obstacle::Silent, "it hangs")
    }

    /// A worker whose trials are asked when they are due, and all answered like this.
    fn ask_until(suspicion: &mut Suspicion, works: bool, now: &mut Instant, until: Instant) {
        while let Some(due) = suspicion.next_trial().filter(|due| *due <= until) {
            *now = due.max(*now);
            suspicion.trial_started(*now);
            match works {
                true => suspicion.trial_passed(*now),
                false => suspicion.trial_failed(why(), *now),
            }
        }
        *now = until;
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn one_session_alone_leads_to_a_question_and_no_further() {
        let mut now = Instant::now();
        let mut suspicion = Suspicion::default();
        suspicion.session_failed(now);
        assert_eq!(suspicion.next_trial(), Some(now), "it is asked at once");
        let soon = now + Duration::from_millis(1);
        ask_until(&mut suspicion, true, &mut now, soon);
        assert_eq!(suspicion.trust(), Trust::Trusted);
        assert_eq!(suspicion.next_trial(), None);
    }

    #[test]
    fn sessions_alone_never_take_a_worker_out() {
        let mut now = Instant::now();
        let mut suspicion = Suspicion::default();
        for _ in 0..1000 {
            suspicion.session_failed(now);
            let soon = now + Duration::from_millis(100);
            ask_until(&mut suspicion, true, &mut now, soon);
            assert_ne!(suspicion.trust(), Trust::Out);
        }
        assert_eq!(suspicion.trust(), Trust::Suspected);
        let later = now + HOUR;
        ask_until(&mut suspicion, true, &mut now, later);
        assert_eq!(suspicion.trust(), Trust::Trusted);
    }

    #[test]
    fn a_worker_that_does_not_answer_is_out_until_it_does_and_the_last_choice_for_a_while() {
        let mut now = Instant::now();
        let mut suspicion = Suspicion::default();
        suspicion.session_failed(now);
        let later = now + HOUR;
        ask_until(&mut suspicion, false, &mut now, later);
        assert_eq!(suspicion.trust(), Trust::Out);
        let due = suspicion.next_trial().unwrap();
        assert!(
            due - now <= MAX_TRIAL_INTERVAL,
            "it is asked again and again"
        );
        suspicion.trial_started(due);
        suspicion.trial_passed(due);
        assert_eq!(suspicion.trust(), Trust::Trusted, "the hold is over");
    }

    #[test]
    fn each_relapse_makes_it_wait_longer_and_time_makes_that_forgotten() {
        let mut now = Instant::now();
        let mut suspicion = Suspicion::default();
        let mut held = |now: &mut Instant| {
            let from = *now;
            // Answers trials and fails sessions.
            while suspicion.trust() != Trust::Suspected || suspicion.unanswered {
                suspicion.session_failed(*now);
                suspicion.trial_started(*now);
                suspicion.trial_passed(*now);
            }
            while suspicion.trust() != Trust::Trusted {
                *now = suspicion.next_trial().expect("it is asked again");
                suspicion.trial_started(*now);
                suspicion.trial_passed(*now);
            }
            *now - from
        };
        let mut before = Duration::ZERO;
        for _ in 0..12 {
            let hold = held(&mut now);
            assert!(
                hold > before || hold == MAX_HOLD,
                "{hold:?} after {before:?}"
            );
            before = hold;
        }
        assert_eq!(before, MAX_HOLD);
        now += FORGET_AFTER * 20;
        assert_eq!(held(&mut now), FIRST_HOLD);
    }

    #[test]
    fn one_that_fails_every_other_session_is_suspected_too() {
        let mut now = Instant::now();
        let mut suspicion = Suspicion::default();
        for n in 0.. {
            assert!(n < 10, "it goes unnoticed");
            suspicion.session_failed(now);
            suspicion.trial_started(now);
            suspicion.trial_passed(now);
            if suspicion.trust() == Trust::Suspected {
                break;
            }
            now += Duration::from_secs(1);
            suspicion.session_served(now);
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Failed,
        Served,
        Doubt,
        Trial(Option<bool>),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Failed),
            Just(Step::Served),
            Just(Step::Doubt),
            any::<Option<bool>>().prop_map(Step::Trial),
            (0..100_000u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Whatever happens: a worker that is not trusted is asked again, only trials take it
        /// out, trials keep their distance, and one that works for long is trusted again.
        #[test]
        fn a_worker_is_never_forgotten(steps in prop::collection::vec(step(), 0..200)) {
            let mut now = Instant::now();
            let mut suspicion = Suspicion::default();
            let mut last_trial = None;
            for step in steps {
                let was_out = suspicion.trust() == Trust::Out;
                let mut answered_badly = false;
                match step {
                    Step::Failed => suspicion.session_failed(now),
                    Step::Served => suspicion.session_served(now),
                    Step::Doubt => suspicion.request_trial(now),
                    Step::Pass(time) => now += Duration::from_millis(time),
                    Step::Trial(outcome) => {
                        let Some(due) = suspicion.next_trial() else { continue };
                        now = now.max(due);
                        if let Some(last) = last_trial {
                            prop_assert!(now - last >= MIN_TRIAL_INTERVAL);
                        }
                        last_trial = Some(now);
                        suspicion.trial_started(now);
                        match outcome {
                            Some(true) => suspicion.trial_passed(now),
                            Some(false) => suspicion.trial_failed(why(), now),
                            None => suspicion.trial_skipped(now),
                        }
                        answered_badly = outcome == Some(false);
                    }
                }
                let is_out = suspicion.trust() == Trust::Out;
                prop_assert!(!is_out || was_out || answered_badly);
                prop_assert_eq!(is_out, suspicion.why().is_some());
                if suspicion.trust() != Trust::Trusted {
                    prop_assert!(suspicion.next_trial().is_some());
                }
                if let Some(due) = suspicion.next_trial() {
                    prop_assert!(due <= now + MAX_HOLD);
                }
            }
            let later = now + HOUR;
            ask_until(&mut suspicion, true, &mut now, later);
            prop_assert_eq!(suspicion.trust(), Trust::Trusted);
        }
    }
}
