//! What a client hears for whom there was no seat: which of the reasons is the true one.

use super::ProxyState;
use super::refusal::Refusal;
use crate::admission::line::Refused;
use crate::fleet::{Instead, NoSeat, PlaceGuard, Target, WorkerAnswer};
use crate::model::Pool;
use std::time::Instant;

/// What a client is told that the line has refused.
pub(super) fn refusal(
    proxy: &ProxyState,
    wanted: &Pool,
    tried: usize,
    why: Refused,
    came: Instant,
) -> Refusal {
    match why {
        Refused::Full => Refusal::QueueFull {
            max_waiting: proxy.config.load().queue.max_waiting,
        },
        Refused::StoreAway => Refusal::StoreAway,
        Refused::NotDialled => Refusal::NotDialled { tried },
        Refused::TimedOut | Refused::NeverServed => {
            if let Some(refusal) = never_served(proxy, wanted) {
                return refusal;
            }
            if proxy.fleet.waits_for_store() {
                return Refusal::StoreAway;
            }
            let why = proxy.fleet.why_no_seat(wanted, tried > 0);
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

/// A client whom a worker refused stands in line again if that was for its version, and another worker may have that:
/// one that is not known, where the worker showed its own; one that has a seat, where it did not.
///
/// # Errors
///
/// What it is told otherwise: of its version, which ones there are.
pub(super) fn try_elsewhere(
    proxy: &ProxyState,
    wanted: &Pool,
    target: &Target,
    answer: WorkerAnswer,
    place: &mut PlaceGuard,
) -> Result<(), Refusal> {
    let mismatch = answer.is_version_mismatch();
    if mismatch && let Some(refusal) = never_served(proxy, wanted) {
        return Err(refusal);
    }
    let may_fit = mismatch
        && (answer.shows_version(target) || proxy.fleet.has_seat(wanted, &place.offered()));
    if may_fit && place.dial_failed().is_ok() {
        return Ok(());
    }
    Err(Refusal::of_worker(answer, wanted))
}

/// There are workers, and none that the client could use.
pub(super) fn never_served(proxy: &ProxyState, wanted: &Pool) -> Option<Refusal> {
    let Pool { browser, seat, .. } = *wanted;
    Some(match proxy.fleet.instead_of(wanted)? {
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
