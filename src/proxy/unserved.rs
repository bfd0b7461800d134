//! What a client hears for whom there was no seat: which of the reasons is the true one.

use super::Grid;
use super::refusal::Refusal;
use crate::admission::line::Refused;
use crate::fleet::{Instead, NoSeat, PlaceGuard, WorkerAnswer};
use crate::selection::Wanted;
use std::time::Instant;

/// What a client is told that the line has refused.
pub(super) fn refusal(
    grid: &Grid,
    wanted: &Wanted,
    tried: usize,
    why: Refused,
    came: Instant,
) -> Refusal {
    match why {
        Refused::Full => Refusal::QueueFull {
            max_waiting: grid.config.load().queue.max_waiting,
        },
        Refused::StoreAway => Refusal::StoreAway,
        Refused::NotDialled => Refusal::NotDialled { tried },
        Refused::TimedOut | Refused::NeverServed => {
            if let Some(refusal) = never_served(grid, wanted) {
                return refusal;
            }
            if grid.fleet.waits_for_store() {
                return Refusal::StoreAway;
            }
            let why = grid.fleet.why_no_seat(wanted, tried > 0);
            if tried > 0 && why != NoSeat::AllTaken {
                return Refusal::NotDialled { tried };
            }
            Refusal::NoSeat {
                browser: wanted.browser,
                why,
                waited: came.elapsed(),
            }
        }
    }
}

/// A client whom a worker refused stands in line again if that showed another version than the client's, and
/// another worker may have that.
///
/// # Errors
///
/// What it is told otherwise: of its version, which ones there are.
pub(super) fn try_elsewhere(
    grid: &Grid,
    wanted: &Wanted,
    answer: WorkerAnswer,
    place: &mut PlaceGuard,
) -> Result<(), Refusal> {
    let mismatch = answer.is_version_mismatch();
    if mismatch && let Some(refusal) = never_served(grid, wanted) {
        return Err(refusal);
    }
    let may_fit = mismatch && answer.server_version().is_some();
    if may_fit && place.dial_failed().is_ok() {
        return Ok(());
    }
    Err(Refusal::of_worker(answer, wanted))
}

/// There are workers, and none that the client could use.
pub(super) fn never_served(grid: &Grid, wanted: &Wanted) -> Option<Refusal> {
    let Wanted { browser, seat, .. } = *wanted;
    Some(match grid.fleet.instead_of(wanted)? {
        Instead::Versions(available) => Refusal::NoSuchVersion {
            browser,
            client: wanted.version?,
            available,
        },
        Instead::Seats(available) => Refusal::NoSuchSeat {
            browser,
            seat,
            available,
        },
    })
}
