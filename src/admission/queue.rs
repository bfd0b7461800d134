//! The line at work: clients wait here for their grant, and whoever looks for seats finds here whom
//! they are for. The rules are the pure [`line`](super::line)'s; this adds a clock, a lock and ways
//! to wake.
//!
//! A client's [`PlaceGuard`] is its place from its question to its end: dropping it leaves the line,
//! whatever was under way for it. Nobody looks for a seat by himself: the line is served by the
//! fleet (`fleet/seating.rs`), when a seat may have come free or somebody comes. The queue does not
//! know whether there *is* a seat: that is the store's to say.
//!
//! `C` is a client's claim: what it holds at a store that keeps the line for several proxies, by the
//! name of a session. `G` is a grant. Both give back what they stand for when they are dropped.

mod place_guard;

pub use place_guard::PlaceGuard;

use super::line::{Line, LineTimeouts, Need, Refused, SeatRequest};
use super::turns::{Place, Tenant};
use crate::model::{Browser, Pool, SessionId, Waiter, WorkerKey};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use tokio::sync::{Notify, oneshot};

/// By the runtime's clock, which tests may stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// All who want a session at one proxy and have none yet.
pub struct Queue<C, G> {
    state: Mutex<State<C, G>>,
    /// By browser: how many wait, readable without the lock.
    waiting: [AtomicUsize; Browser::ALL.len()],
    /// By browser: somebody has to look for seats.
    seats: [Notify; Browser::ALL.len()],
}

struct State<C, G> {
    line: Line,
    waiting: HashMap<Place, Waiting<C, G>>,
    /// By browser: those of whom a store that keeps the line has not been told.
    unentered: [BTreeSet<Place>; Browser::ALL.len()],
    /// Whose claim goes by the name of a session.
    sessions: HashMap<SessionId, Place>,
}

/// What is there for a client that waits.
struct Waiting<C, G> {
    answer: oneshot::Sender<Result<G, Refused>>,
    claim: Option<Claim<C>>,
    browser: Browser,
}

struct Claim<C> {
    session: SessionId,
    held: C,
}

/// A client that a seat is wanted for.
#[derive(Clone, Debug)]
pub struct Seeker {
    pub place: Place,
    pub wanted: Pool,
    /// Workers that it was offered already.
    pub offered: Vec<WorkerKey>,
}

impl<C, G> Queue<C, G> {
    /// A queue in which nobody waits.
    pub fn new() -> Arc<Queue<C, G>> {
        Arc::new(Queue {
            state: Mutex::new(State {
                line: Line::default(),
                waiting: HashMap::new(),
                unentered: Default::default(),
                sessions: HashMap::new(),
            }),
            waiting: Default::default(),
            seats: Default::default(),
        })
    }

    /// A client has come, at `came`. It stands in line from [`PlaceGuard::enter`] on.
    pub fn arrive(
        self: &Arc<Self>,
        request: SeatRequest,
        timeouts: LineTimeouts,
        came: Instant,
    ) -> PlaceGuard<C, G> {
        let browser = request.wanted.browser;
        let place = self.state().line.arrive(request, timeouts, came);
        PlaceGuard {
            queue: self.clone(),
            browser,
            place,
            answer: None,
        }
    }

    /// A seat of this browser may be free, or whether there is one may have changed: whoever serves
    /// its line takes a look, if anybody waits.
    pub fn wake(&self, browser: Browser) {
        if self.depth(browser) > 0 {
            self.seats[browser as usize].notify_one();
        }
    }

    /// The same for every browser: limits or the fleet changed.
    pub fn wake_all(&self) {
        Browser::ALL.into_iter().for_each(|of| self.wake(of));
    }

    /// Waits until somebody should look for seats of this browser.
    pub async fn woken(&self, browser: Browser) {
        self.seats[browser as usize].notified().await;
    }

    /// How many wait for this browser.
    pub fn depth(&self, browser: Browser) -> usize {
        self.waiting[browser as usize].load(Ordering::SeqCst)
    }

    /// How many wait at this proxy for each thing that is wanted.
    pub fn waiting(&self) -> Vec<(Pool, usize)> {
        let state = self.state();
        let of_browser = |browser: Browser| state.line.wanted(browser);
        Browser::ALL.into_iter().flat_map(of_browser).collect()
    }

    /// How many clients of each tenant wait at this proxy, by browser.
    pub fn waiting_tenants(&self) -> Vec<(Tenant, usize)> {
        let state = self.state();
        let of_browser = |browser: Browser| state.line.tenants(browser);
        Browser::ALL.into_iter().flat_map(of_browser).collect()
    }

    /// The first in turn whom a free seat of this browser `fits`. Nobody else asks for it until the
    /// answer, [`SeatSearch::grant`], or until the question is dropped.
    pub fn next(
        self: &Arc<Self>,
        browser: Browser,
        fits: impl FnMut(Need<'_>) -> bool,
    ) -> Option<SeatSearch<C, G>> {
        let mut state = self.state();
        let place = state.line.next(browser, now(), fits)?;
        let (request, offered, _) = state.line.client(place)?;
        let seeker = Seeker {
            place,
            wanted: request.wanted,
            offered: offered.to_vec(),
        };
        drop(state);
        Some(SeatSearch {
            queue: self.clone(),
            seeker,
        })
    }

    /// Gives a waiting client a seat on this worker. When it cannot take it, because it has gone or
    /// its time is over, the grant is dropped.
    pub fn grant(&self, place: Place, worker: WorkerKey, grant: G) {
        let mut state = self.state();
        let taken = state.line.grant(place, worker, now());
        let waiting = if taken { state.remove(place) } else { None };
        self.count(&state);
        drop(state);
        // Outside of the lock: what is dropped gives back, and that may take other locks.
        if let Some(waiting) = waiting {
            waiting.answer.send(Ok(grant)).ok();
        }
    }

    /// Those for whom nobody is left who could serve them are refused.
    pub fn refuse(&self, wanted: &Pool, why: Refused) {
        let places = self.state().line.places_of(wanted);
        for place in places {
            self.end(place, why);
        }
    }

    /// While more than `max_waiting` wait, the newest of those who fill the line are refused.
    pub fn shed(&self, max_waiting: usize) {
        let in_line = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        while self.waiting.iter().map(in_line).sum::<usize>() > max_waiting {
            let Some(place) = self.state().line.shed(max_waiting) else {
                return;
            };
            self.end(place, Refused::Full);
        }
    }

    fn end(&self, place: Place, why: Refused) {
        let mut state = self.state();
        state.line.leave(place);
        let waiting = state.remove(place);
        self.count(&state);
        drop(state);
        if let Some(waiting) = waiting {
            waiting.answer.send(Err(why)).ok();
        }
    }

    fn count(&self, state: &State<C, G>) {
        for (browser, waiting) in Browser::ALL.into_iter().zip(&self.waiting) {
            waiting.store(state.line.len(browser), Ordering::SeqCst);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<C, G>> {
        // Nothing panics while holding it; were it to, the line is whole between calls.
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a store that keeps the line of all proxies is told, and tells.
impl<C, G> Queue<C, G> {
    /// Up to `most` clients that the store has not been told of, those who came first; they count as
    /// told from here on. `claim` makes the claim of one that has none.
    pub fn entering(
        &self,
        browser: Browser,
        most: usize,
        claim: impl Fn() -> (SessionId, C),
    ) -> Vec<Waiter> {
        let mut state = self.state();
        let State {
            line,
            waiting,
            unentered,
            sessions,
        } = &mut *state;
        let now = now();
        let mut enter = |place: Place| {
            let (request, offered, came) = line.client(place)?;
            let claim = waiting.get_mut(&place)?.claim.get_or_insert_with(|| {
                let (session, held) = claim();
                sessions.insert(session, place);
                Claim { session, held }
            });
            Some(Waiter {
                session: claim.session,
                version: request.wanted.version,
                seat: request.wanted.seat,
                tenant: request.tenant.clone(),
                priority: request.priority,
                offered: offered.to_vec(),
                came,
                left: line.waits_until(place)?.saturating_duration_since(now),
                place: line.shared_place(place),
            })
        };
        let unentered = &mut unentered[browser as usize];
        let mut entering = Vec::new();
        while entering.len() < most
            && let Some(place) = unentered.pop_first()
        {
            entering.extend(enter(place));
        }
        entering
    }

    /// The store has given a client its place in the line of all proxies.
    pub fn placed(&self, session: SessionId, shared_place: u64) {
        let mut state = self.state();
        if let Some(place) = state.sessions.get(&session).copied() {
            state.line.set_shared_place(place, shared_place);
        }
    }

    /// The store knows none of this browser's clients: it has to be told of them anew.
    pub fn unentered(&self, browser: Browser) {
        let mut state = self.state();
        let places = state.line.places(browser);
        state.unentered[browser as usize].extend(places);
    }

    /// The store has given a client a seat that is to be taken up, by telling it of the client again: its time
    /// to wait is not over meanwhile. Says for which browser that is; nothing when the client has left.
    pub fn tell_again(&self, session: SessionId) -> Option<Browser> {
        let mut state = self.state();
        let place = state.sessions.get(&session).copied()?;
        let browser = state.waiting.get(&place)?.browser;
        state.line.hold(place, now());
        state.unentered[browser as usize].insert(place);
        Some(browser)
    }

    /// Takes the claim that goes by the name of this session, and says whose it was.
    pub fn take_claim(&self, session: SessionId) -> Option<(Place, C)> {
        let mut state = self.state();
        let place = state.sessions.remove(&session)?;
        let claim = state.waiting.get_mut(&place)?.claim.take()?;
        Some((place, claim.held))
    }

    /// A seat that the store gave a client on this worker is of no use to it: it waits on.
    pub fn decline(&self, place: Place, worker: WorkerKey) {
        let mut state = self.state();
        state.line.decline(place, worker);
        if let Some(browser) = state.waiting.get(&place).map(|it| it.browser) {
            state.unentered[browser as usize].insert(place);
        }
    }

    /// Nobody knows what the store made of this browser's claims: all are dropped. The clients
    /// wait on without.
    pub fn drop_claims(&self, browser: Browser) {
        let mut state = self.state();
        let places = state.line.places(browser);
        let mut claims = Vec::new();
        for place in places {
            let known = state.waiting.get_mut(&place);
            claims.extend(known.and_then(|known| known.claim.take()));
        }
        for claim in &claims {
            state.sessions.remove(&claim.session);
        }
        let places = state.line.places(browser);
        state.unentered[browser as usize].extend(places);
        drop(state);
        // What is dropped here gives back, outside of the lock.
        drop(claims);
    }
}

impl<C, G> State<C, G> {
    /// Where the answer to a client arrives that stands in line from here on.
    fn enqueue(&mut self, browser: Browser, place: Place) -> oneshot::Receiver<Result<G, Refused>> {
        let (answer, receiver) = oneshot::channel();
        let waiting = Waiting {
            answer,
            claim: None,
            browser,
        };
        self.waiting.insert(place, waiting);
        self.unentered[browser as usize].insert(place);
        receiver
    }

    fn remove(&mut self, place: Place) -> Option<Waiting<C, G>> {
        let waiting = self.waiting.remove(&place)?;
        self.unentered[waiting.browser as usize].remove(&place);
        if let Some(claim) = &waiting.claim {
            self.sessions.remove(&claim.session);
        }
        Some(waiting)
    }
}

/// A client for whom somebody asks for a seat. Dropped, it waits on.
#[must_use = "dropping the question leaves the client waiting"]
pub struct SeatSearch<C, G> {
    queue: Arc<Queue<C, G>>,
    pub seeker: Seeker,
}

impl<C, G> SeatSearch<C, G> {
    /// There is a seat for it, on this worker.
    pub fn grant(self, worker: WorkerKey, grant: G) {
        self.queue.grant(self.seeker.place, worker, grant);
    }
}

impl<C, G> Drop for SeatSearch<C, G> {
    fn drop(&mut self) {
        self.queue.state().line.no_seat(self.seeker.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SeatKind;
    use std::sync::Weak;
    use std::time::Duration;

    type TestQueue = Queue<Arc<()>, Arc<()>>;
    type TestPlace = PlaceGuard<Arc<()>, Arc<()>>;

    const WANTED: Pool = Pool {
        browser: Browser::Chromium,
        version: None,
        seat: SeatKind::Shared,
    };
    const TIMEOUTS: LineTimeouts = LineTimeouts {
        waiting: Duration::from_secs(600),
        dial: Duration::from_secs(2),
    };

    fn worker() -> WorkerKey {
        WorkerKey::new(Browser::Chromium, "w")
    }

    fn enqueue(queue: &Arc<TestQueue>) -> TestPlace {
        let request = SeatRequest {
            wanted: WANTED,
            tenant: Arc::from(""),
            priority: 1,
        };
        let mut place = queue.arrive(request, TIMEOUTS, Instant::now());
        place.enter();
        place
    }

    fn next(queue: &Arc<TestQueue>) -> Option<SeatSearch<Arc<()>, Arc<()>>> {
        queue.next(Browser::Chromium, |_| true)
    }

    fn grant() -> (Arc<()>, Weak<()>) {
        let grant = Arc::new(());
        let kept = Arc::downgrade(&grant);
        (grant, kept)
    }

    #[tokio::test]
    async fn who_is_shed_at_the_moment_in_which_it_begins_to_wait_is_told_why() {
        let queue = Queue::new();
        let mut place = enqueue(&queue);
        let shed = queue.state().line.shed(0).unwrap();
        let (answer, ()) = tokio::join!(place.granted(), async { queue.end(shed, Refused::Full) });
        assert_eq!(answer.err(), Some(Refused::Full));
    }

    #[test]
    fn a_seat_goes_to_the_first_and_the_line_goes_on() {
        let queue = Queue::new();
        let (mut first, mut second) = (enqueue(&queue), enqueue(&queue));
        next(&queue).unwrap().grant(worker(), grant().0);
        assert!(matches!(first.answered(), Some(Ok(_))));
        assert!(second.answered().is_none());
        assert_eq!(queue.depth(Browser::Chromium), 1);
        next(&queue).unwrap().grant(worker(), grant().0);
        assert!(matches!(second.answered(), Some(Ok(_))));
        assert!(next(&queue).is_none());
    }

    #[test]
    fn a_question_without_an_answer_is_asked_again() {
        let queue = Queue::new();
        let place = enqueue(&queue);
        let search = next(&queue).unwrap();
        assert!(next(&queue).is_none(), "somebody asks for it already");
        drop(search);
        assert!(next(&queue).is_some());
        drop(place);
    }

    #[test]
    fn a_client_whose_seat_is_to_be_taken_up_is_told_of_again() {
        let queue: Arc<TestQueue> = Queue::new();
        let place = enqueue(&queue);
        let session = SessionId::random();
        let entering = || queue.entering(Browser::Chromium, 9, || (session, Arc::new(())));
        assert_eq!(entering().len(), 1);
        assert!(entering().is_empty(), "it was told of");
        assert_eq!(queue.tell_again(session), Some(Browser::Chromium));
        assert_eq!(entering()[0].session, session);
        drop(place);
        assert_eq!(queue.tell_again(session), None, "it has left");
        assert!(entering().is_empty());
    }

    #[test]
    fn what_a_client_that_left_is_given_is_given_back() {
        let queue = Queue::new();
        let gone = enqueue(&queue);
        let search = next(&queue).unwrap();
        drop(gone);
        let (given, kept) = grant();
        search.grant(worker(), given);
        assert!(kept.upgrade().is_none());
        let leaves_with_it = enqueue(&queue);
        let (given, kept) = grant();
        next(&queue).unwrap().grant(worker(), given);
        assert!(kept.upgrade().is_some(), "it is the client's");
        drop(leaves_with_it);
        assert!(kept.upgrade().is_none());
        assert_eq!(queue.depth(Browser::Chromium), 0);
    }

    #[test]
    fn who_is_one_too_many_is_told() {
        let queue = Queue::new();
        let (mut first, mut second) = (enqueue(&queue), enqueue(&queue));
        queue.shed(1);
        assert!(first.answered().is_none());
        assert!(matches!(second.answered(), Some(Err(Refused::Full))));
        assert_eq!(queue.waiting(), [(WANTED, 1)]);
    }

    #[test]
    fn the_store_is_told_of_each_client_once_and_a_claim_leaves_with_it() {
        let queue: Arc<TestQueue> = Queue::new();
        let (first, second) = (enqueue(&queue), enqueue(&queue));
        let enter = || {
            let coming =
                queue.entering(Browser::Chromium, 9, || (SessionId::random(), Arc::new(())));
            coming.into_iter().map(|it| it.session).collect::<Vec<_>>()
        };
        let told = enter();
        assert_eq!((told.len(), enter().len()), (2, 0));
        queue.unentered(Browser::Chromium);
        assert_eq!(enter(), told, "under the same names");
        let (_, claim) = queue.take_claim(told[0]).unwrap();
        assert!(queue.take_claim(told[0]).is_none());
        drop(second);
        assert!(
            queue.take_claim(told[1]).is_none(),
            "it took its claim along"
        );
        queue.drop_claims(Browser::Chromium);
        assert_ne!(enter(), told[..1], "under another name");
        drop((first, claim));
    }

    #[tokio::test]
    async fn whoever_serves_the_line_is_woken_when_somebody_waits() {
        let queue: Arc<TestQueue> = Queue::new();
        queue.wake(Browser::Chromium);
        let mut woken = std::pin::pin!(queue.woken(Browser::Chromium));
        assert!(
            futures_util::poll!(woken.as_mut()).is_pending(),
            "for nobody"
        );
        let _place = enqueue(&queue);
        queue.wake(Browser::Firefox);
        assert!(futures_util::poll!(woken.as_mut()).is_pending());
        queue.wake_all();
        assert!(futures_util::poll!(woken.as_mut()).is_ready());
    }
}
