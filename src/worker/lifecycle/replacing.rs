//! Make before break, and what is in its way: as many that drain as there may be, or no memory for
//! one more.

use super::life::{Life, Phase};
use super::{Generation, Lifecycle, Output, Step};
use crate::model::RecycleReason;

impl Lifecycle {
    pub(super) fn make_before_break(&mut self, step: &mut Step<'_>) {
        self.recycled = false;
        let stays = |life: &Life| life.phase == Phase::Available && life.leaving.is_none();
        let provided = |life: &Life| life.is_coming() || stays(life);
        if self.lives.values().any(provided) {
            return;
        }
        let drains = |life: &&Life| matches!(life.phase, Phase::Draining { .. });
        let draining = self.lives.values().filter(drains).count();
        let may_drain = draining < step.rules.max_draining;
        let fits = self.lives.is_empty() || self.usual <= step.rules.room.free;
        let mut serving = self.available().first().copied();
        if !(may_drain && fits)
            && let Some(generation) = serving
            && self.lives[&generation].is_used_up(step.rules)
        {
            // Nobody is on it and nobody can come: it adds no browser that drains, and costs no seat.
            self.retire(generation, step);
            serving = None;
        }
        if serving.is_some() && !may_drain {
            // It goes on to its ceiling.
        } else if fits {
            self.spawn(step);
        } else {
            self.wait_for_room(serving.filter(|_| draining == 0), step);
        }
    }

    /// Memory has no room for a replacement. Sessions that end make some, those of the ones that
    /// drain first; where `alone`, the one that serves, would not make any by that, it is broken
    /// before its replacement is made: when that costs nobody a seat, or cannot be put off.
    fn wait_for_room(&mut self, alone: Option<Generation>, step: &mut Step<'_>) {
        if !std::mem::replace(&mut self.no_room_told, true) {
            step.todo.push(Output::NoRoom {
                needed: self.usual,
                room: step.rules.room,
            });
        }
        let Some(generation) = alone else { return };
        let life = &self.lives[&generation];
        let can_wait = life.leaving == Some(RecycleReason::Lifetime)
            && life.counts.active > 0
            && !life.is_full_for_good(step.rules);
        if !can_wait {
            self.retire(generation, step);
        }
    }
}
