//! One generation: what is known of it, and whether it should be replaced.

use super::words::Rules;
use crate::config::RecycleMode;
use crate::model::{Counts, RecycleReason, WorkerStatus};
use std::time::{Duration, Instant};

/// Where a generation is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    /// It answers; whether the store knows it is not known.
    Announcing,
    Available,
    Draining {
        /// When its sessions are ended, if ever.
        until: Option<Instant>,
        /// The store knows that it drains: no session is added.
        confirmed: bool,
        /// What it used when it began to drain.
        memory: u64,
    },
    /// Proxies end its sessions: its time is up, or it is not fit to go on.
    Evicting {
        until: Instant,
        /// It is not to be asked to end, but killed.
        broken: bool,
    },
    Stopping,
}

/// A draining browser may grow by this part of what it used, and this many bytes: its sessions go on.
const GROWTH_PART: u64 = 2;
const GROWTH: u64 = 64 << 20;

/// Bytes that the sessions of one browser may have on its disk: some hours of video. Beyond that it is
/// replaced, and one that drains is ended at twice as much.
pub(super) const MAX_DISK: u64 = 2 << 30;

#[derive(Debug)]
pub(super) struct Life {
    pub phase: Phase,
    pub spawned: Instant,
    pub answered: Option<Instant>,
    pub counts: Counts,
    /// The store has lost its counters since; they say too little.
    pub miscounted: bool,
    /// Nobody is connected to it.
    pub quiet: bool,
    pub memory: u64,
    pub disk: u64,
    /// Its last check failed, and the next one has not come to its end.
    pub suspect: bool,
    /// A check has found it well.
    pub was_well: bool,
    /// Checks in a row that failed at first.
    pub failures: u32,
    pub ordered: bool,
    /// It has asked for a permit to be out of service.
    pub permit_requested: bool,
    /// Why it is to be replaced. Stays once set: the replacement may be on its way.
    pub leaving: Option<RecycleReason>,
}

impl Life {
    /// Of a generation whose server is started at this moment.
    pub fn new(now: Instant) -> Life {
        Life {
            phase: Phase::Starting,
            spawned: now,
            answered: None,
            counts: Counts::default(),
            miscounted: false,
            quiet: false,
            memory: 0,
            disk: 0,
            suspect: false,
            was_well: false,
            failures: 0,
            ordered: false,
            permit_requested: false,
            leaving: None,
        }
    }

    /// Whether it is on its way and takes no sessions yet.
    pub fn is_coming(&self) -> bool {
        matches!(self.phase, Phase::Starting | Phase::Announcing)
    }

    /// How long its server has answered; `None` before it did.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.answered.map(|since| now.duration_since(since))
    }

    /// Takes counters in, unless newer ones are known. Returns the sessions that came since.
    pub fn count(&mut self, counts: Counts) -> u32 {
        if counts.revision < self.counts.revision {
            return 0;
        }
        let before = std::mem::replace(&mut self.counts, counts);
        counts.lifetime.saturating_sub(before.lifetime)
    }

    /// The store took a heartbeat that said `status`.
    pub fn status_written(&mut self, status: WorkerStatus) {
        if let Phase::Draining { confirmed, .. } = &mut self.phase
            && status != WorkerStatus::Available
        {
            *confirmed = true;
        }
    }

    /// Whether it drains although it uses much more than when it began to, and than is `usual`: the
    /// last of its sessions may only have begun then.
    pub fn grows_while_draining(&self, usual: u64) -> bool {
        let Phase::Draining { memory, .. } = self.phase else {
            return false;
        };
        let base = memory.max(usual);
        let allowed = base
            .saturating_add(base / GROWTH_PART)
            .saturating_add(GROWTH);
        base > 0 && self.memory > allowed
    }

    /// The store lost it, and knows it again with fresh counters.
    pub fn relisted(&mut self) {
        // What it remembers of its lifetime comes back with it: no new sessions.
        self.counts = Counts {
            lifetime: self.counts.lifetime,
            ..Counts::default()
        };
        self.miscounted = true;
    }

    /// Whether its last session has ended, as far as anybody knows.
    pub fn is_empty(&self) -> bool {
        let trusted = match self.phase {
            Phase::Draining { confirmed, .. } => confirmed && !self.miscounted,
            _ => !self.miscounted,
        };
        self.quiet || trusted && self.counts.active == 0
    }

    /// Why it should be replaced while it serves, if it should; `expected` sessions are likely to
    /// come until that is done, and the `others` of this worker use so much memory.
    pub fn reason_to_leave(
        &self,
        now: Instant,
        expected: u32,
        others: u64,
        rules: &Rules,
    ) -> Option<RecycleReason> {
        if self.is_spent(expected, rules) {
            Some(RecycleReason::Lifetime)
        } else if self.is_bloated(others, rules) {
            Some(RecycleReason::Memory)
        } else if self.disk > MAX_DISK {
            Some(RecycleReason::Disk)
        } else if rules.max_failures > 0 && self.failures >= rules.max_failures {
            Some(RecycleReason::Failures)
        } else if rules.max_age.is_some_and(|max| self.age(now) > Some(max)) {
            Some(RecycleReason::Age)
        } else {
            self.ordered.then_some(RecycleReason::Operator)
        }
    }

    fn is_spent(&self, expected: u32, rules: &Rules) -> bool {
        let lifetime = self.counts.lifetime;
        rules.max_lifetime_sessions.is_some_and(|limit| {
            let expected = match rules.mode {
                RecycleMode::MakeBeforeBreak => expected,
                RecycleMode::Exit => 0,
            };
            // At most half a life early, so that what fills at once is not replaced at once,
            // unless that would cost seats.
            let near = lifetime >= limit - expected.min(limit / 2);
            let late = lifetime.saturating_add(expected) >= rules.ceiling.max(limit);
            lifetime > 0 && (near || late)
        })
    }

    fn is_bloated(&self, others: u64, rules: &Rules) -> bool {
        // A fresh browser uses no less than one that has had no session. Those that drain leave by
        // themselves: this one is to blame only if it uses the most.
        let to_blame = self.counts.lifetime > 0 && self.memory >= others;
        let all = self.memory.saturating_add(others);
        to_blame && rules.max_memory.is_some_and(|max| all > max)
    }

    /// Whether it has had all sessions that proxies give it.
    pub fn is_full_for_good(&self, rules: &Rules) -> bool {
        let limit = rules.max_lifetime_sessions;
        limit.is_some_and(|limit| self.counts.lifetime >= rules.ceiling.max(limit))
    }

    /// Whether it has had all its sessions, and the last one has ended. Counters that say too little do
    /// no harm: it drains before it ends.
    pub fn is_used_up(&self, rules: &Rules) -> bool {
        self.is_full_for_good(rules) && self.counts.active == 0
    }
}
