//! What a worker does about browsers that are not fit to go on: suspicion, and the end of those that
//! are broken or take too much.

use super::life::{MAX_DISK, Phase};
use super::{EVICTION_GRACE, Generation, Health, Lifecycle, Output, Step};
use crate::model::RecycleReason;

impl Lifecycle {
    pub(super) fn checked(&mut self, generation: Generation, health: Health, step: &mut Step<'_>) {
        let Some(life) = self.lives.get_mut(&generation) else {
            return;
        };
        life.was_well |= health == Health::Well;
        match health {
            Health::Broken(why) => {
                return self.condemn(generation, RecycleReason::Failures, why, step);
            }
            Health::Suspect => life.failures += 1,
            Health::Well if !life.suspect => life.failures = 0,
            Health::Well => {}
        }
        let suspect = health == Health::Suspect;
        if std::mem::replace(&mut life.suspect, suspect) != suspect {
            step.todo.push(Output::Suspend(generation, suspect));
            self.take_over(generation, step);
        }
    }

    /// Has the sessions of one ended that is not fit to go on, and then kills it.
    fn condemn(
        &mut self,
        generation: Generation,
        reason: RecycleReason,
        why: String,
        step: &mut Step<'_>,
    ) {
        let life = self.lives.get_mut(&generation).expect("just looked up");
        let served = match life.phase {
            Phase::Announcing | Phase::Available => true,
            Phase::Draining { .. } => false,
            Phase::Starting | Phase::Evicting { .. } | Phase::Stopping => return,
        };
        // One that fails its first check has not started well.
        let (age, was_well) = (life.age(step.now), life.was_well);
        life.phase = Phase::Evicting {
            until: step.now + EVICTION_GRACE,
            broken: true,
        };
        if served {
            self.set_back(age, was_well, step.now);
            step.todo.push(Output::Recycling(generation, reason));
        }
        step.todo.push(Output::Evict(generation, Some(why)));
    }

    pub(super) fn wrote(&mut self, generation: Generation, bytes: u64, step: &mut Step<'_>) {
        let Some(life) = self.lives.get_mut(&generation) else {
            return;
        };
        life.disk = bytes;
        if bytes > 2 * MAX_DISK && matches!(life.phase, Phase::Draining { .. }) {
            let why = format!("its sessions have {} MiB on its disk", bytes >> 20);
            self.condemn(generation, RecycleReason::Disk, why, step);
        }
    }

    /// Ends those that go on growing while they drain, when memory is short: nothing else would.
    pub(super) fn end_growing(&mut self, step: &mut Step<'_>) {
        let all: u64 = self.lives.values().map(|life| life.memory).sum();
        let max = step.rules.max_memory;
        if max.is_none_or(|max| all <= max) && !step.rules.room.is_short() {
            return;
        }
        let limit = max.unwrap_or(step.rules.room.limit);
        for generation in self.generations() {
            let life = &self.lives[&generation];
            if life.grows_while_draining(self.usual) {
                let why = format!(
                    "its browser went on growing while it drained, to {} MiB of {} MiB",
                    life.memory >> 20,
                    limit >> 20
                );
                self.condemn(generation, RecycleReason::Memory, why, step);
            }
        }
    }
}
