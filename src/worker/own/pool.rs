//! The task that has the browsers of one kind: starts and ends them, and gives them to who asks.

use super::spares::{Advice, Spares, Stock};
use super::{BACKLOG, BrowserAccess, Fresh, KEPT_WARM, OwnBrowser, Request, Seats, State, Supply};
use crate::worker::machine::MemoryClaim;
use crate::worker::probe::Probe;
use crate::worker::process::Server;
use crate::worker::supervision::{DesiredServer, Supervision, reaches};
use crate::worker::toolchain::Toolchain;
use std::collections::{HashMap, VecDeque};
use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

/// How often time itself is looked at.
const TICK: Duration = Duration::from_millis(250);
/// Starts that fail in a row until the worker is given up, if nobody uses it.
const MOST_FAILURES: u32 = 3;

/// How long a session may take to say why its browser is ended.
const REASON_TIME: Duration = Duration::from_secs(2);

/// A browser that nobody has yet.
struct Idle<W> {
    number: u64,
    browser: OwnBrowser<W>,
    /// Closed when the browser is at its end. It is checked until this is dropped.
    unused: oneshot::Sender<()>,
}

/// Of the machine's processors, one in so many may start spares that have no time to wait for their turn: a start
/// takes one for about a second, and sessions need the others.
const PROCESSORS_PER_START: usize = 2;

/// Browsers on their way.
type Starts<W> = JoinSet<Result<Fresh<W>, String>>;

/// The task that has the browsers of one kind.
pub struct SparePool<W: BrowserAccess> {
    supervision: Arc<Supervision>,
    toolchain: Toolchain,
    seats: Arc<Seats>,
    requests: mpsc::Receiver<Request<W>>,
    state: Arc<State>,
    spares: Spares,
    idle: VecDeque<Idle<W>>,
    waiting: VecDeque<Request<W>>,
    starting: Starts<W>,
    last_asked: Option<Instant>,
    browsers: JoinSet<u64>,
    nodes: HashMap<u64, i32>,
    next: u64,
    /// Spares are started side by side up to here where they are short.
    side_by_side: usize,
    /// Ends all of them.
    over: watch::Sender<bool>,
}

impl<W: BrowserAccess> SparePool<W> {
    /// A pool whose browsers are made of `toolchain`, and a way to get them; the `first` start took
    /// so long, or is likely to.
    pub fn new(
        seats: Arc<Seats>,
        toolchain: Toolchain,
        first: Duration,
    ) -> (SparePool<W>, Supply<W>) {
        let (sender, requests) = mpsc::channel(BACKLOG);
        let processors = available_parallelism().map_or(1, usize::from);
        let state = Arc::new(State::default());
        let supply = Supply {
            requests: sender,
            state: Arc::clone(&state),
        };
        let pool = SparePool {
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
            side_by_side: processors.div_ceil(PROCESSORS_PER_START),
            over: watch::Sender::new(false),
        };
        (pool, supply)
    }

    /// Keeps browsers, beginning with the first if there is one, until the worker is to end, and says
    /// why it ended. When it returns, nothing of them is left.
    pub async fn run(mut self, first: Option<Fresh<W>>) -> String {
        if let Some(first) = first {
            self.keep(first);
        }
        let mut desired = self.supervision.desired.clone();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let why = loop {
            self.seats.resize();
            self.replenish();
            tokio::select! {
                () = reaches(&mut desired, DesiredServer::StopGracefully) => break "stopped".to_owned(),
                Some(request) = self.requests.recv() => self.hand_over(request),
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
        let pending = self.seats.pending();
        Stock {
            most: self.seats.size(),
            idle: self.idle.len() as u32,
            starting: self.starting.len() as u32,
            taken: self.seats.taken().saturating_sub(pending),
            pending,
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
                    // Else whoever comes starts one at once, and waits for it.
                    let at_once = self.spares.are_short(Instant::now(), self.stock())
                        && self.starting.len() < self.side_by_side;
                    self.start(Some(claim), at_once);
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

    /// Starts a browser, in its turn unless `at_once`; a spare with memory in mind.
    fn start(&mut self, spare: Option<MemoryClaim>, at_once: bool) {
        let supervision = Arc::clone(&self.supervision);
        let toolchain = self.toolchain.clone();
        self.starting.spawn(async move {
            let started = W::start(supervision, toolchain, at_once).await;
            drop(spare);
            started
        });
    }

    /// Takes in how a start came out.
    ///
    /// # Errors
    ///
    /// Browsers do not start here.
    fn started(&mut self, started: Result<Fresh<W>, String>) -> Result<(), String> {
        match started {
            Ok(fresh) => {
                self.spares.started(fresh.took);
                self.keep(fresh);
            }
            Err(why) => {
                log::warn!(worker:% = self.supervision.key.id, why = why; "a spare browser did not start");
                let failures = self.spares.failed(Instant::now());
                // Of those who wait somebody has to hear of it.
                while self.waiting.len() > self.starting.len() {
                    if let Some(request) = self.waiting.pop_front() {
                        request.reply.send(Err(why.clone())).ok();
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
    fn keep(&mut self, fresh: Fresh<W>) {
        let Fresh {
            server, way, probe, ..
        } = fresh;
        self.next += 1;
        let number = self.next;
        let (held, holds) = oneshot::channel();
        let (tell, broken) = oneshot::channel();
        let browser = OwnBrowser { way, broken, held };
        let node = server.node();
        self.nodes.insert(number, node);
        self.state.nodes().insert(node);
        let (unused, used) = oneshot::channel();
        let supervision = Arc::clone(&self.supervision);
        let checks = until_broken(supervision, probe, node, used, tell);
        let life = serve(server, holds, self.over.subscribe(), checks);
        self.browsers.spawn(async move {
            life.await;
            number
        });
        self.idle.push_back(Idle {
            number,
            browser,
            unused,
        });
        while let Some(request) = self.waiting.pop_front() {
            let Some(idle) = self.next_idle() else {
                self.waiting.push_front(request);
                break;
            };
            self.give(idle, request);
        }
    }

    /// The idle one that has been there longest, of those that are not at their end.
    fn next_idle(&mut self) -> Option<Idle<W>> {
        self.idle.retain(|idle| !idle.unused.is_closed());
        self.idle.pop_front()
    }

    /// Who has left meanwhile leaves it to the next.
    fn give(&mut self, idle: Idle<W>, request: Request<W>) {
        if request.reply.is_closed() {
            self.idle.push_front(idle);
            return;
        }
        // From here on it is the client's alone; if that has left, it ends.
        drop(idle.unused);
        request.reply.send(Ok(idle.browser)).ok();
    }

    fn hand_over(&mut self, request: Request<W>) {
        let now = Instant::now();
        self.last_asked = Some(now);
        self.spares.asked(now);
        match self.next_idle() {
            Some(idle) => self.give(idle, request),
            None => {
                log::debug!(worker:% = self.supervision.key.id, starting = self.starting.len();
                    "no browser is warm, a session waits for one");
                self.waiting.retain(|it| !it.reply.is_closed());
                self.waiting.push_back(request);
                // A spare on its way may wait for its turn, so that there is one more start than needed. But
                // who asks and leaves, again and again, has no more of them started than there are seats.
                let starting = self.starting.len();
                if starting < self.waiting.len() || starting < self.seats.size() as usize {
                    self.start(None, true);
                }
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

/// Checks a browser, before a session has it and then, and returns why it is to be ended.
async fn until_broken(
    supervision: Arc<Supervision>,
    probe: Option<impl Probe>,
    node: i32,
    mut used: oneshot::Receiver<()>,
    tell: oneshot::Sender<String>,
) -> String {
    // `used` is closed by the browser's end alone, which is how the pool knows of that.
    let Some(mut probe) = probe else {
        return pending().await;
    };
    tokio::select! {
        why = supervision.check_spare(&mut probe, node) => return why,
        _ = &mut used => {}
    }
    broken_in_use(&supervision, &mut probe, node, tell).await
}

/// Checks a browser that has its session, and returns why it is broken when the session has had time to say
/// so. One that has let go of it by then has ended it.
pub(super) async fn broken_in_use(
    supervision: &Supervision,
    probe: &mut impl Probe,
    node: i32,
    tell: oneshot::Sender<String>,
) -> String {
    let why = supervision.check_in_use(probe, node).await;
    log::warn!(worker:% = supervision.key.id, why = why; "the browser of a session is broken, ending both");
    tell.send(why.clone()).ok();
    tokio::time::sleep(REASON_TIME).await;
    why
}

/// One browser's life, to its end by itself, because it is `broken`, with its session, or with the worker.
pub(super) async fn serve(
    mut server: Server,
    held: oneshot::Receiver<()>,
    mut over: watch::Receiver<bool>,
    broken: impl Future<Output = String>,
) {
    {
        let broken = std::pin::pin!(broken);
        tokio::select! {
            why = server.exited() => log::debug!(why = why; "a browser of one session is gone"),
            why = broken => log::warn!(why = why; "a browser is broken, ending it"),
            _ = held => {}
            _ = over.wait_for(|over| *over) => {}
        }
    }
    // Nobody is left who could want anything of it.
    server.stop(ready(())).await;
}
