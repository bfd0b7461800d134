//! How a generation ends: it drains until its last session has ended, or its time is up; its sessions are
//! ended then, and its server.

use super::life::Phase;
use super::{EVICTION_GRACE, Ending, Generation, Lifecycle, Output, Step};
use crate::model::{RecycleReason, WorkerStatus};
use std::time::Instant;

impl Lifecycle {
    pub(super) fn drain(&mut self, step: &mut Step<'_>) {
        if self.ending.is_some() {
            return;
        }
        self.ending = Some(Ending::Drain);
        let over = step.now + step.rules.drain_timeout;
        for generation in self.generations() {
            let life = self.lives.get_mut(&generation).expect("just listed");
            match &mut life.phase {
                Phase::Starting => self.end(generation, true, step),
                // The former may be on the books already, with a session on it.
                Phase::Announcing | Phase::Available => {
                    self.set_draining(generation, Some(over), step);
                }
                Phase::Draining { until, .. } => {
                    *until = Some(until.map_or(over, |until| until.min(over)));
                }
                Phase::Evicting { .. } | Phase::Stopping => {}
            }
        }
    }

    pub(super) fn stop(&mut self, step: &mut Step<'_>) {
        if self.ending != Some(Ending::Now) {
            self.ending = Some(Ending::Now);
            for generation in self.generations() {
                self.end(generation, true, step);
            }
        }
    }

    /// Ends those whose last session is gone, and those whose time is up.
    pub(super) fn end_drained(&mut self, step: &mut Step<'_>) {
        for generation in self.generations() {
            let life = self.lives.get_mut(&generation).expect("just listed");
            let (over, broken) = match life.phase {
                Phase::Draining { .. } if life.is_empty() => (true, false),
                Phase::Draining { until, .. } if until.is_some_and(|until| step.now >= until) => {
                    life.phase = Phase::Evicting {
                        until: step.now + EVICTION_GRACE,
                        broken: false,
                    };
                    step.todo.push(Output::Evict(generation, None));
                    (false, false)
                }
                Phase::Evicting { until, broken } => (step.now >= until || life.is_empty(), broken),
                _ => (false, false),
            };
            if over {
                let evicted = if life.is_empty() {
                    0
                } else {
                    life.counts.active
                };
                step.todo.push(Output::Drained {
                    generation,
                    evicted,
                });
                self.end(generation, broken, step);
            }
        }
    }

    /// Drains one that has been replaced or is to leave.
    pub(super) fn retire(&mut self, generation: Generation, step: &mut Step<'_>) {
        let reason = self.lives[&generation]
            .leaving
            .unwrap_or(RecycleReason::Operator);
        step.todo.push(Output::Recycling(generation, reason));
        let until = step.rules.recycle_timeout.map(|time| step.now + time);
        self.set_draining(generation, until, step);
    }

    pub(super) fn set_draining(
        &mut self,
        generation: Generation,
        until: Option<Instant>,
        step: &mut Step<'_>,
    ) {
        self.learn(generation, |life| {
            life.phase = Phase::Draining {
                until,
                confirmed: false,
                memory: life.memory,
            };
        });
        let status = WorkerStatus::Draining;
        step.todo.push(Output::SetStatus(generation, status));
    }

    /// Takes one off the books and ends its server; it is gone when that has exited.
    pub(super) fn end(&mut self, generation: Generation, now: bool, step: &mut Step<'_>) {
        self.learn(generation, |life| {
            if !matches!(life.phase, Phase::Starting | Phase::Stopping) {
                step.todo.push(Output::Deregister(generation));
            }
            // To one that is stopping already this is only a word to hurry.
            life.phase = Phase::Stopping;
            step.todo.push(Output::Stop { generation, now });
        });
    }
}
