//! Browsers of one session each: warm ones are kept in advance, a session takes one, and it ends with
//! the session.
//!
//! The gateway asks [`OwnSeats`] for a browser and holds the [`OwnBrowser`] that it gets for as long as the
//! session lasts: dropping that is how the browser ends, whatever else happens. The pool behind it is
//! a task of the worker's, because it starts and ends processes. How many are kept is decided in
//! [`spares`].
//!
//! There are browsers behind a Playwright server, and, of Chromium, such that are driven over a
//! [`pipe`]; each kind has a pool of its own, and both together have the worker's seats.

pub mod pipe;
mod spares;

use super::address::ServerAddress;
use super::machine::MemoryClaim;
use super::process::{Launch, Server};
use super::supervision::{DesiredServer, Supervision, Warm, reaches};
use super::toolchain::Toolchain;
use super::tree;
use pipe::Pipe;
use spares::{Advice, Spares, Stock};
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::ready;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often time itself is looked at.
const TICK: Duration = Duration::from_millis(250);
/// Requests that may wait to be taken in.
const BACKLOG: usize = 64;
/// How long a session may wait for the one before it to be gone: a proxy gives the seat to the next
/// as soon as the client has left. Less than a proxy's time for a dial.
const SEAT_PATIENCE: Duration = Duration::from_secs(1);
/// Starts that fail in a row until the worker is given up, if nobody uses it.
const MOST_FAILURES: u32 = 3;

/// How long after the last one asked for a browser of a kind that few ask for, some are kept warm.
const KEPT_WARM: Duration = Duration::from_secs(600);

/// A browser for one session, which ends when this is dropped.
#[must_use]
pub struct OwnBrowser<W> {
    /// How it is reached.
    pub way: W,
    /// Dropping this is the browser's end.
    pub held: oneshot::Sender<()>,
}

/// What kind of browsers a pool has, by the way in which they are reached.
pub trait Kind: Sized + Send + 'static {
    /// Whether some are kept warm although nobody has asked for one yet.
    const ALWAYS_WARM: bool;

    /// Starts one that is warm; in its turn, unless `at_once`. Says how long that took.
    fn start(
        supervision: Arc<Supervision>,
        toolchain: Toolchain,
        at_once: bool,
    ) -> impl Future<Output = Result<(Server, Self, Duration), String>> + Send;
}

impl Kind for ServerAddress {
    const ALWAYS_WARM: bool = true;

    async fn start(
        supervision: Arc<Supervision>,
        toolchain: Toolchain,
        at_once: bool,
    ) -> Result<(Server, Self, Duration), String> {
        let Warm { server, took, .. } = supervision.warm(toolchain, at_once).await?;
        let address = server.address().clone();
        Ok((server, address, took))
    }
}

impl Kind for Pipe {
    const ALWAYS_WARM: bool = false;

    async fn start(
        supervision: Arc<Supervision>,
        toolchain: Toolchain,
        at_once: bool,
    ) -> Result<(Server, Self, Duration), String> {
        let permit = match at_once {
            true => None,
            false => Some(supervision.warm_up_permit().await),
        };
        let config = supervision.shared.config.load_full();
        let began = Instant::now();
        let launch = Launch {
            toolchain: &toolchain,
            settings: &config.worker,
            machine: &supervision.shared.machine,
        };
        let started = pipe::start(launch).await;
        drop(permit);
        let (server, pipe) =
            started.map_err(|error| supervision.or_out_of_memory(error.to_string()))?;
        Ok((server, pipe, began.elapsed()))
    }
}

/// A seat of the worker's; given back when it is dropped.
#[must_use]
pub struct OwnSeat(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

type Reply<W> = oneshot::Sender<Result<OwnBrowser<W>, String>>;

/// Where the gateway gets browsers from.
#[derive(Clone)]
pub struct OwnSeats {
    seats: Arc<Semaphore>,
    /// Behind Playwright servers.
    pub servers: Supply<ServerAddress>,
    /// Driven over pipes; where the browser is Chromium.
    pub pipes: Option<Supply<Pipe>>,
}

/// Where browsers of one kind come from.
pub struct Supply<W> {
    requests: mpsc::Sender<Reply<W>>,
    state: Arc<State>,
}

impl<W> Clone for Supply<W> {
    fn clone(&self) -> Self {
        Supply {
            requests: self.requests.clone(),
            state: Arc::clone(&self.state),
        }
    }
}

/// What others may know of a pool at any time.
#[derive(Default)]
struct State {
    /// The last browser that was started did not come up, and none is idle.
    fails: AtomicBool,
    idle: AtomicBool,
    /// The processes that its browsers descend from.
    nodes: Mutex<HashSet<i32>>,
    /// Memory of one browser in bytes, as last measured.
    usual: AtomicU64,
}

impl State {
    fn nodes(&self) -> MutexGuard<'_, HashSet<i32>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnSeats {
    /// Takes one of the worker's seats. The truth of how many there are: whatever proxies believe,
    /// none is given twice.
    ///
    /// # Errors
    ///
    /// All are taken, and none comes free in a moment.
    pub async fn take_seat(&self) -> Result<OwnSeat, String> {
        let seat = timeout(SEAT_PATIENCE, self.seats.clone().acquire_owned()).await;
        match seat {
            Ok(Ok(seat)) => Ok(OwnSeat(seat)),
            _ => Err("every browser of this worker has its session".to_owned()),
        }
    }

    /// Memory of all browsers in bytes. Reads much of `/proc`.
    pub fn memory(&self) -> Option<u64> {
        let of_pipes = self.pipes.as_ref().map_or(0, Supply::memory);
        Some(self.servers.memory() + of_pipes)
    }
}

impl<W> Supply<W> {
    /// Asks for a browser; it may be warm already. Dropping the receiver leaves it to the next.
    pub async fn request(&self) -> oneshot::Receiver<Result<OwnBrowser<W>, String>> {
        let (reply, browser) = oneshot::channel();
        // A pool that is gone answers by dropping the sender.
        self.requests.send(reply).await.ok();
        browser
    }

    /// Whether a session can be promised a browser: one is warm, or the last one that was started came
    /// up.
    pub fn is_sound(&self) -> bool {
        let State { fails, idle, .. } = &*self.state;
        idle.load(Ordering::Relaxed) || !fails.load(Ordering::Relaxed)
    }

    /// Memory of its browsers in bytes.
    fn memory(&self) -> u64 {
        let nodes: Vec<i32> = self.state.nodes().iter().copied().collect();
        let each = nodes.iter().filter_map(|node| tree::memory(*node));
        let each: Vec<u64> = each.collect();
        let all = each.iter().sum();
        if !each.is_empty() {
            self.state
                .usual
                .store(all / each.len() as u64, Ordering::Relaxed);
        }
        all
    }
}

/// A browser that nobody has yet.
struct Idle<W> {
    number: u64,
    browser: OwnBrowser<W>,
}

/// Browsers on their way: with each, how long it took.
type Starts<W> = JoinSet<Result<(Server, W, Duration), String>>;

/// The worker's seats.
pub struct Seats {
    supervision: Arc<Supervision>,
    semaphore: Arc<Semaphore>,
    /// How many there are.
    size: AtomicU32,
}

impl Seats {
    pub fn new(supervision: Arc<Supervision>) -> Arc<Seats> {
        let seats = Seats {
            supervision,
            semaphore: Arc::new(Semaphore::new(0)),
            size: AtomicU32::new(0),
        };
        seats.resize();
        Arc::new(seats)
    }

    /// Makes them as many as the configuration says at this moment.
    fn resize(&self) {
        let config = self.supervision.shared.config.load();
        let most = config
            .limits
            .of(config.worker_size())
            .max_concurrent_sessions;
        let size = self.size();
        let new = if most > size {
            self.semaphore.add_permits((most - size) as usize);
            most
        } else {
            // Those that are taken go as they come back.
            size - self.semaphore.forget_permits((size - most) as usize) as u32
        };
        self.size.store(new, Ordering::Relaxed);
    }

    fn size(&self) -> u32 {
        self.size.load(Ordering::Relaxed)
    }

    fn taken(&self) -> u32 {
        self.size()
            .saturating_sub(self.semaphore.available_permits() as u32)
    }
}

/// The task that has the browsers of one kind.
pub struct Pool<W> {
    supervision: Arc<Supervision>,
    toolchain: Toolchain,
    seats: Arc<Seats>,
    requests: mpsc::Receiver<Reply<W>>,
    state: Arc<State>,
    spares: Spares,
    idle: VecDeque<Idle<W>>,
    waiting: VecDeque<Reply<W>>,
    starting: Starts<W>,
    last_asked: Option<Instant>,
    browsers: JoinSet<u64>,
    nodes: HashMap<u64, i32>,
    next: u64,
    /// Ends all of them.
    over: watch::Sender<bool>,
}

/// Where the gateway gets what the pools have.
pub fn own_seats(
    seats: &Seats,
    servers: Supply<ServerAddress>,
    pipes: Option<Supply<Pipe>>,
) -> OwnSeats {
    OwnSeats {
        seats: Arc::clone(&seats.semaphore),
        servers,
        pipes,
    }
}

impl<W: Kind> Pool<W> {
    /// A pool whose browsers are made of `toolchain`, and a way to get them; the `first` start took
    /// so long, or is likely to.
    pub fn new(seats: Arc<Seats>, toolchain: Toolchain, first: Duration) -> (Pool<W>, Supply<W>) {
        let (sender, requests) = mpsc::channel(BACKLOG);
        let state = Arc::new(State::default());
        let supply = Supply {
            requests: sender,
            state: Arc::clone(&state),
        };
        let pool = Pool {
            supervision: Arc::clone(&seats.supervision),
            toolchain,
            seats,
            requests,
            state,
            spares: Spares::new(first),
            idle: VecDeque::new(),
            waiting: VecDeque::new(),
            starting: JoinSet::new(),
            last_asked: None,
            browsers: JoinSet::new(),
            nodes: HashMap::new(),
            next: 0,
            over: watch::Sender::new(false),
        };
        (pool, supply)
    }

    /// Keeps browsers, beginning with the first if there is one, until the worker is to end, and says
    /// why it ended. When it returns, nothing of them is left.
    pub async fn run(mut self, first: Option<(Server, W)>) -> String {
        if let Some((server, way)) = first {
            self.keep(server, way);
        }
        let mut desired = self.supervision.desired.clone();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let why = loop {
            self.seats.resize();
            self.replenish();
            tokio::select! {
                () = reaches(&mut desired, DesiredServer::StopGracefully) => break "stopped".to_owned(),
                Some(reply) = self.requests.recv() => self.hand_over(reply),
                Some(started) = self.starting.join_next() => {
                    let started = started.unwrap_or_else(|error| Err(error.to_string()));
                    if let Err(why) = self.started(started) {
                        break why;
                    }
                }
                Some(ended) = self.browsers.join_next() => self.ended(ended.ok()),
                _ = tick.tick() => {}
            }
        };
        self.waiting.clear();
        self.idle.clear();
        self.over.send_replace(true);
        self.starting.shutdown().await;
        while self.browsers.join_next().await.is_some() {}
        why
    }

    fn stock(&self) -> Stock {
        Stock {
            most: self.seats.size(),
            idle: self.idle.len() as u32,
            starting: self.starting.len() as u32,
            taken: self.seats.taken(),
        }
    }

    /// Starts spares, or ends those that nobody needs.
    fn replenish(&mut self) {
        let serves = *self.supervision.desired.borrow() == DesiredServer::Serve;
        let asked_lately = self.last_asked.is_some_and(|at| at.elapsed() < KEPT_WARM);
        let least = match W::ALWAYS_WARM || asked_lately {
            true => self.supervision.shared.config.load().worker.spares,
            false => 0,
        };
        loop {
            let advice = match serves {
                true => self.spares.advice(Instant::now(), least, self.stock()),
                false if self.idle.is_empty() => Advice::Nothing,
                false => Advice::End,
            };
            match advice {
                Advice::Start => {
                    let Some(claim) = self.claim_memory() else {
                        break;
                    };
                    self.start(Some(claim));
                }
                // The one that has been there longest.
                Advice::End => drop(self.idle.pop_front()),
                Advice::Nothing => break,
            }
        }
        self.publish();
    }

    /// Memory for one more spare, where there is any.
    fn claim_memory(&self) -> Option<MemoryClaim> {
        let machine = &self.supervision.shared.machine;
        let usual = self.state.usual.load(Ordering::Relaxed);
        let mut budget = machine.budget();
        (usual <= budget.room().free).then(|| machine.claim(&mut budget, usual))
    }

    /// Starts a browser: a spare in its turn and with memory in mind, one that somebody waits for at
    /// once.
    fn start(&mut self, spare: Option<MemoryClaim>) {
        let supervision = Arc::clone(&self.supervision);
        let toolchain = self.toolchain.clone();
        self.starting.spawn(async move {
            let started = W::start(supervision, toolchain, spare.is_none()).await;
            drop(spare);
            started
        });
    }

    /// Takes in how a start came out.
    ///
    /// # Errors
    ///
    /// Browsers do not start here.
    fn started(&mut self, started: Result<(Server, W, Duration), String>) -> Result<(), String> {
        match started {
            Ok((server, way, took)) => {
                self.spares.started(took);
                self.keep(server, way);
            }
            Err(why) => {
                log::warn!(worker:% = self.supervision.key.id, why = why; "a spare browser did not start");
                let failures = self.spares.failed(Instant::now());
                // Of those who wait somebody has to hear of it.
                while self.waiting.len() > self.starting.len() {
                    if let Some(reply) = self.waiting.pop_front() {
                        reply.send(Err(why.clone())).ok();
                    }
                }
                if W::ALWAYS_WARM
                    && failures >= MOST_FAILURES
                    && self.browsers.is_empty()
                    && self.starting.is_empty()
                {
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// Gives a warm browser to whoever waits, or keeps it.
    fn keep(&mut self, server: Server, way: W) {
        self.next += 1;
        let number = self.next;
        let (held, holds) = oneshot::channel();
        let browser = OwnBrowser { way, held };
        self.nodes.insert(number, server.node());
        self.state.nodes().insert(server.node());
        self.browsers
            .spawn(serve(number, server, holds, self.over.subscribe()));
        self.idle.push_back(Idle { number, browser });
        while let Some(reply) = self.waiting.pop_front() {
            let Some(Idle { number, browser }) = self.idle.pop_front() else {
                self.waiting.push_front(reply);
                break;
            };
            // Who has left meanwhile leaves it to the next.
            if let Err(Ok(browser)) = reply.send(Ok(browser)) {
                self.idle.push_front(Idle { number, browser });
            }
        }
    }

    fn hand_over(&mut self, reply: Reply<W>) {
        let now = Instant::now();
        self.last_asked = Some(now);
        self.spares.asked(now);
        match self.idle.pop_front() {
            Some(Idle { number, browser }) => {
                if let Err(Ok(browser)) = reply.send(Ok(browser)) {
                    self.idle.push_front(Idle { number, browser });
                }
            }
            None => {
                self.waiting.retain(|reply| !reply.is_closed());
                self.waiting.push_back(reply);
                // A spare on its way may wait for its turn.
                self.start(None);
            }
        }
    }

    /// A browser and everything of it is gone.
    fn ended(&mut self, number: Option<u64>) {
        let Some(number) = number else { return };
        if let Some(node) = self.nodes.remove(&number) {
            self.state.nodes().remove(&node);
        }
        self.idle.retain(|idle| idle.number != number);
    }

    fn publish(&self) {
        let State { fails, idle, .. } = &*self.state;
        fails.store(self.spares.fails(), Ordering::Relaxed);
        idle.store(!self.idle.is_empty(), Ordering::Relaxed);
    }
}

/// One browser's life, to its end by itself, with its session, or with the worker.
async fn serve(
    number: u64,
    mut server: Server,
    held: oneshot::Receiver<()>,
    mut over: watch::Receiver<bool>,
) -> u64 {
    tokio::select! {
        why = server.exited() => log::debug!(why = why; "a browser of one session is gone"),
        _ = held => {}
        _ = over.wait_for(|over| *over) => {}
    }
    // Nobody is left who could want anything of it.
    server.stop(ready(())).await;
    number
}
