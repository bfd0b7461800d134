//! Every client's way from its question to its seat, as one state machine: asked, waiting, granted,
//! dialling, and then seated or refused. Pure: it is handed the time, and told what became of
//! questions for seats and of dials; it neither waits, wakes nor asks anybody.
//!
//! A client waits for `queue.timeout`, and its dials take no more than twice `selection.dial_timeout`:
//! both together are the time in which it has its answer. It leaves the line with the grant: its
//! time to wait ends no dial, and those behind it go on meanwhile. A dial that failed brings it back
//! to its old place, for the rest of its time, and for a look at the other seats in any case.
//!
//! Beyond saturation the line stays first come first served. Clients do not try again by
//! themselves, a seat is used by whomever it is given to (with time to dial in any case), and so
//! no order serves more of them than another; this one keeps the promise that nobody is overtaken.
//! What is too much is shed where it costs least: at the end, by the length of the line, and of
//! those who fill it ([`Shares`]); and at the front, by the time they have waited.

use super::shares::Shares;
use super::turns::{Fit, Place, Tenant, Turns};
use crate::model::{Browser, Pool, WorkerKey};
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Workers that one session is offered at most. Each is offered once.
pub const MAX_WORKERS: usize = 3;

/// What a client wants, and whose it is.
#[derive(Clone, Debug)]
pub struct SeatRequest {
    pub wanted: Pool,
    pub tenant: Tenant,
    pub priority: u32,
}

/// How long a client waits and dials, as configured when it came.
#[derive(Clone, Copy, Debug)]
pub struct LineTimeouts {
    /// `queue.timeout`.
    pub waiting: Duration,
    /// `selection.dial_timeout`: for one dial, and half of what all dials may take.
    pub dial: Duration,
}

/// Why a client gets no seat, as far as the line is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    #[error("it has waited for as long as it may")]
    TimedOut,
    #[error("as many wait as may, and it is one of those who fill the line")]
    Full,
    #[error("so many workers could not be dialled, or for so long")]
    NotDialled,
    #[error("the store that knows the seats is away")]
    StoreAway,
    #[error("there is nobody who could serve it")]
    NeverServed,
}

/// What a seat has to be for a client to use it.
#[derive(Clone, Copy, Debug)]
pub struct Need<'a> {
    pub wanted: Pool,
    /// Workers that it was offered already.
    pub offered: &'a [WorkerKey],
    pub place: Place,
}

/// All clients of one proxy that have no session yet, in one line for each browser.
#[derive(Debug, Default)]
pub struct Line {
    clients: HashMap<Place, Client>,
    turns: [Turns; Browser::ALL.len()],
    shares: Shares,
    waiting: [usize; Browser::ALL.len()],
    next_place: Place,
}

#[derive(Debug)]
struct Client {
    request: SeatRequest,
    stage: Stage,
    came: Instant,
    /// Until when it waits.
    waits_until: Instant,
    /// When it has its answer at the latest.
    answered_by: Instant,
    /// For one dial.
    dial: Duration,
    /// For all its dials to come.
    dial_budget: Duration,
    dials: usize,
    offered: Vec<WorkerKey>,
    /// Its place in the line of all proxies, where a store keeps that and has told.
    shared_place: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Not in line: what needs no seat is being checked.
    Asked,
    /// `in_question`: somebody is asking for a seat for it.
    Waiting {
        in_question: bool,
    },
    Granted,
    Dialling {
        since: Instant,
    },
}

impl Client {
    /// The least time for a dial. The grace of [`Line::failed`] leaves it in any case.
    fn least_dial(&self) -> Duration {
        self.dial / 4
    }

    fn need(&self, place: Place) -> Need<'_> {
        Need {
            wanted: self.request.wanted,
            offered: &self.offered,
            place,
        }
    }
}

impl Line {
    /// A client comes. Its time runs from here on, and this is its place.
    pub fn arrive(&mut self, request: SeatRequest, timeouts: LineTimeouts, now: Instant) -> Place {
        let place = self.next_place;
        self.next_place += 1;
        let dial_budget = timeouts.dial * 2;
        let client = Client {
            request,
            stage: Stage::Asked,
            came: now,
            waits_until: now + timeouts.waiting,
            answered_by: now + timeouts.waiting + dial_budget,
            dial: timeouts.dial,
            dial_budget,
            dials: 0,
            offered: Vec::new(),
            shared_place: None,
        };
        self.clients.insert(place, client);
        place
    }

    /// Everything is checked: the client takes its place in line.
    pub fn enter(&mut self, place: Place) {
        let Some(client) = self.clients.get_mut(&place) else {
            return;
        };
        client.stage = Stage::Waiting { in_question: false };
        let wanted = client.request.wanted;
        let (tenant, priority) = (&client.request.tenant, client.request.priority);
        self.turns[wanted.browser as usize].join(tenant, priority, wanted, place);
        self.waiting[wanted.browser as usize] += 1;
    }

    /// When more than `max_waiting` wait, somebody has to go: the newest client of the tenant that is
    /// furthest above its share. Returns who went. Somebody who has only just come, and whom a free
    /// seat fits, should have been given it before.
    pub fn shed(&mut self, max_waiting: usize) -> Option<Place> {
        if self.waiting.iter().sum::<usize>() <= max_waiting {
            return None;
        }
        let place = self.shares.first_to_go(&self.turns)?;
        self.remove(place);
        Some(place)
    }

    /// Who is next to be given a seat of this browser: the first in turn whom one `fits`, and who
    /// has the time to use it. Stands in question until [`Line::grant`], or [`Line::no_seat`].
    pub fn next(
        &mut self,
        browser: Browser,
        now: Instant,
        mut fits: impl FnMut(Need<'_>) -> bool,
    ) -> Option<Place> {
        let clients = &self.clients;
        let place = self.turns[browser as usize].first(|_, place| {
            let Some(client) = clients.get(&place) else {
                return Fit::NotThis;
            };
            let free = client.stage == Stage::Waiting { in_question: false };
            if !free || !client.may_be_granted(now) {
                Fit::NotThis
            } else if fits(client.need(place)) {
                Fit::Yes
            } else if client.offered.is_empty() {
                Fit::NoneAlike
            } else {
                Fit::NotThis
            }
        })?;
        let client = self.clients.get_mut(&place)?;
        client.stage = Stage::Waiting { in_question: true };
        Some(place)
    }

    /// There was no seat for a client in question after all, or nobody asks.
    pub fn no_seat(&mut self, place: Place) {
        if let Some(client) = self.clients.get_mut(&place)
            && matches!(client.stage, Stage::Waiting { .. })
        {
            client.stage = Stage::Waiting { in_question: false };
        }
    }

    /// A client that waits is given a seat on this worker, and leaves the line. Returns whether it
    /// can take it: it may have gone, or its time be over.
    pub fn grant(&mut self, place: Place, worker: WorkerKey, now: Instant) -> bool {
        let Some(client) = self.clients.get_mut(&place) else {
            return false;
        };
        if !matches!(client.stage, Stage::Waiting { .. }) || !client.may_be_granted(now) {
            return false;
        }
        client.stage = Stage::Granted;
        client.offered.push(worker);
        let SeatRequest {
            wanted,
            tenant,
            priority,
        } = &client.request;
        self.turns[wanted.browser as usize].serve(tenant, wanted, place);
        self.waiting[wanted.browser as usize] -= 1;
        self.shares.used(tenant, *priority);
        true
    }

    /// The grant of a client that waits is on its way: its time to wait is not over before that can have come.
    pub fn hold(&mut self, place: Place, now: Instant) {
        if let Some(client) = self.clients.get_mut(&place) {
            let latest = client.answered_by - client.least_dial();
            client.waits_until = client.waits_until.max(latest.min(now + client.dial / 8));
        }
    }

    /// A seat on this worker is of no use to a client that waits.
    pub fn decline(&mut self, place: Place, worker: WorkerKey) {
        if let Some(client) = self.clients.get_mut(&place) {
            client.offered.push(worker);
        }
        self.no_seat(place);
    }

    /// The client dials the worker of its grant: for how long it may. The first dial has the whole
    /// of `selection.dial_timeout`, the others what is left of their budget in equal parts.
    pub fn dial(&mut self, place: Place, now: Instant) -> Duration {
        let Some(client) = self.clients.get_mut(&place) else {
            return Duration::ZERO;
        };
        client.stage = Stage::Dialling { since: now };
        let dials_to_come = MAX_WORKERS.saturating_sub(client.dials).max(1) as u32;
        client.dials += 1;
        let part = match client.dials {
            1 => client.dial,
            _ => client.dial_budget / dials_to_come,
        };
        let left = client.answered_by.saturating_duration_since(now);
        part.min(client.dial).min(left)
    }

    /// The dial came to nothing through the worker's fault: the client has its old place again, if
    /// it has not been offered as many workers as it may.
    ///
    /// # Errors
    /// [`Refused::NotDialled`] when that was the last dial that it had. It is forgotten.
    pub fn failed(&mut self, place: Place, now: Instant) -> Result<(), Refused> {
        let Some(client) = self.clients.get_mut(&place) else {
            return Err(Refused::NotDialled);
        };
        let took = match client.stage {
            Stage::Dialling { since } => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        };
        client.dial_budget = client.dial_budget.saturating_sub(took);
        // Granted at the last moment, it has a look at the other seats all the same.
        client.waits_until = client.waits_until.max(now + client.dial / 8);
        let turns = &mut self.turns[client.request.wanted.browser as usize];
        turns.refund(&client.request.tenant);
        self.shares.refund(&client.request.tenant);
        let may_dial = client.dials < MAX_WORKERS && client.dial_budget >= client.least_dial();
        if !may_dial || !client.may_be_granted(now) {
            self.clients.remove(&place);
            return Err(Refused::NotDialled);
        }
        self.enter(place);
        Ok(())
    }

    /// The client's time to wait may be over. Returns whether it is; then it is forgotten.
    /// One that has its grant goes on.
    pub fn time_out(&mut self, place: Place, now: Instant) -> bool {
        let over = self.clients.get(&place).is_some_and(|client| {
            let waits = matches!(client.stage, Stage::Asked | Stage::Waiting { .. });
            waits && now >= client.waits_until
        });
        if over {
            self.leave(place);
        }
        over
    }

    /// The client is seated, has gone, or is refused. Nothing happens if it is not known.
    pub fn leave(&mut self, place: Place) {
        if let Some(SeatRequest {
            tenant, priority, ..
        }) = self.remove(place)
        {
            self.shares.used(&tenant, priority);
        }
    }

    /// Forgets a client. Returns what it waited for, if it stood in line.
    fn remove(&mut self, place: Place) -> Option<SeatRequest> {
        let client = self.clients.remove(&place)?;
        let Stage::Waiting { .. } = client.stage else {
            return None;
        };
        let SeatRequest { wanted, tenant, .. } = &client.request;
        self.turns[wanted.browser as usize].leave(tenant, wanted, place);
        self.waiting[wanted.browser as usize] -= 1;
        Some(client.request)
    }

    /// Until when the client waits for a grant.
    pub fn waits_until(&self, place: Place) -> Option<Instant> {
        self.clients.get(&place).map(|client| client.waits_until)
    }

    /// Whether the client waits in line.
    pub fn waits(&self, place: Place) -> bool {
        let client = self.clients.get(&place);
        client.is_some_and(|client| matches!(client.stage, Stage::Waiting { .. }))
    }

    /// What a client wants, whose it is, which workers it was offered, and when it came.
    pub fn client(&self, place: Place) -> Option<(&SeatRequest, &[WorkerKey], Instant)> {
        let client = self.clients.get(&place)?;
        Some((&client.request, &client.offered, client.came))
    }

    /// The client's place in the line of all proxies, if it is known.
    pub fn shared_place(&self, place: Place) -> Option<u64> {
        self.clients.get(&place)?.shared_place
    }

    /// The store has told the client's place in the line of all proxies.
    pub fn set_shared_place(&mut self, place: Place, shared_place: u64) {
        if let Some(client) = self.clients.get_mut(&place) {
            client.shared_place = Some(shared_place);
        }
    }

    /// How many wait for this browser.
    pub fn len(&self, browser: Browser) -> usize {
        self.waiting[browser as usize]
    }

    /// The tenants whose clients wait for this browser, with how many there are.
    pub fn tenants(&self, browser: Browser) -> Vec<(Tenant, usize)> {
        let waiting = self.turns[browser as usize].waiting();
        waiting
            .map(|(tenant, clients, _)| (tenant.clone(), clients))
            .collect()
    }

    /// What of this browser is waited for, and how many wait for each.
    pub fn wanted(&self, browser: Browser) -> BTreeMap<Pool, usize> {
        self.turns[browser as usize].wanted()
    }

    /// All who wait for this browser.
    pub fn places(&self, browser: Browser) -> Vec<Place> {
        let wanted = self.wanted(browser).into_keys();
        wanted.flat_map(|wanted| self.places_of(&wanted)).collect()
    }

    /// Those who wait for this.
    pub fn places_of(&self, wanted: &Pool) -> Vec<Place> {
        self.turns[wanted.browser as usize].places_of(wanted)
    }
}

impl Client {
    /// Whether there is time to wait, and to dial if a seat is granted.
    fn may_be_granted(&self, now: Instant) -> bool {
        now <= self.waits_until && now + self.least_dial() <= self.answered_by
    }
}

#[cfg(test)]
mod tests;
