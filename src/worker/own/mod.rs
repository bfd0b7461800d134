//! Browsers of one session each: warm ones are kept in advance, a session takes one, and it ends with
//! the session.
//!
//! The gateway asks [`OwnSeats`] for a browser and holds the [`OwnBrowser`] that it gets for as long as the
//! session lasts: dropping that is how the browser ends, whatever else happens. The `pool` behind it is
//! a task of the worker's, because it starts and ends processes; those of a generation are its `pools`. How
//! many are kept is decided in [`spares`].
//!
//! There are browsers behind a Playwright server, and, of Chromium, such that are driven over a
//! [`pipe`], and checked over it by [`pipe_prober`]; each kind has a pool of its own. Those with launch options of a client are started when it
//! comes ([`Launches`]). All together have the worker's seats.

mod launches;
pub mod pipe;
pub mod pipe_prober;
mod pool;
mod pools;
mod spares;

pub use launches::{LaunchSupply, Launches};
pub use pool::SparePool;
pub use pools::{OwnPools, Processes};

use super::address::ServerAddress;
use super::probe::{Probe, Prober};
use super::process::{Launch, Server};
use super::supervision::{Supervision, Warm};
use super::toolchain::Toolchain;
use super::tree;
use crate::launch::LaunchOptions;
use pipe::Pipe;
use pipe_prober::PipeProber;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Requests that may wait to be taken in.
const BACKLOG: usize = 64;
/// How long a session may wait for the one before it to be gone: a proxy gives the seat to the next
/// as soon as the client has left. Less than a proxy's time for a dial.
const SEAT_PATIENCE: Duration = Duration::from_secs(1);

/// How long after the last one asked for a browser of a kind that few ask for, some are kept warm.
const KEPT_WARM: Duration = Duration::from_secs(600);

/// A browser for one session, which ends when this is dropped.
#[must_use]
pub struct OwnBrowser<W> {
    /// How it is reached.
    pub way: W,
    /// Why it is broken, once it is; its session is to be told, and to let go of it.
    pub broken: oneshot::Receiver<String>,
    /// Dropping this is the browser's end.
    pub held: oneshot::Sender<()>,
}

/// A browser that is warm, and that nobody has yet.
pub struct Fresh<W: BrowserAccess> {
    server: Server,
    way: W,
    /// Checks it, unless it does not understand that.
    probe: Option<W::Probe>,
    /// How long its start took.
    took: Duration,
}

/// What kind of browsers a pool has, by the way in which they are reached.
pub trait BrowserAccess: Sized + Send + 'static {
    /// Whether some are kept warm although nobody has asked for one yet.
    const ALWAYS_WARM: bool;
    /// How one is checked.
    type Probe: Probe + 'static;

    /// Starts one that is warm; in its turn, unless `at_once`.
    fn start(
        supervision: Arc<Supervision>,
        toolchain: Toolchain,
        at_once: bool,
    ) -> impl Future<Output = Result<Fresh<Self>, String>> + Send;
}

impl BrowserAccess for ServerAddress {
    const ALWAYS_WARM: bool = true;
    type Probe = Prober;

    async fn start(
        supervision: Arc<Supervision>,
        toolchain: Toolchain,
        at_once: bool,
    ) -> Result<Fresh<Self>, String> {
        let warm = supervision.warm(toolchain, at_once).await?;
        Ok(Fresh::behind_server(warm))
    }
}

impl BrowserAccess for Pipe {
    const ALWAYS_WARM: bool = false;
    type Probe = PipeProber;

    async fn start(
        supervision: Arc<Supervision>,
        toolchain: Toolchain,
        at_once: bool,
    ) -> Result<Fresh<Self>, String> {
        let permit = match at_once {
            true => None,
            false => Some(supervision.warm_up_permit().await),
        };
        let config = supervision.shared.config.load_full();
        let began = Instant::now();
        let launch = Launch {
            toolchain: &toolchain,
            settings: &config.worker,
            options: &LaunchOptions::default(),
            machine: &supervision.shared.machine,
            seal: &supervision.shared.seal,
        };
        let started = pipe::start(launch).await;
        drop(permit);
        let (server, way, prober) =
            started.map_err(|error| supervision.or_out_of_memory(error.to_string()))?;
        Ok(Fresh {
            server,
            way,
            probe: Some(prober),
            took: began.elapsed(),
        })
    }
}

impl Fresh<ServerAddress> {
    fn behind_server(warm: Warm) -> Fresh<ServerAddress> {
        Fresh {
            way: warm.server.address().clone(),
            server: warm.server,
            probe: warm.prober,
            took: warm.took,
        }
    }
}

/// A seat of the worker's; given back when it is dropped.
#[must_use]
pub struct OwnSeat {
    #[expect(dead_code, reason = "held")]
    permit: OwnedSemaphorePermit,
    /// Until a browser is started or found for its session.
    awaits_browser: Option<AwaitsBrowser>,
}

/// Counts one session that has a seat and no browser yet.
struct AwaitsBrowser(Arc<AtomicU32>);

impl AwaitsBrowser {
    fn one_more(count: &Arc<AtomicU32>) -> AwaitsBrowser {
        count.fetch_add(1, Ordering::Relaxed);
        AwaitsBrowser(Arc::clone(count))
    }
}

impl Drop for AwaitsBrowser {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Reply<W> = oneshot::Sender<Result<OwnBrowser<W>, String>>;

/// A session asks for a browser of a pool.
struct Request<W> {
    reply: Reply<W>,
    _awaits_browser: Option<AwaitsBrowser>,
}

/// Where the gateway gets browsers from.
#[derive(Clone)]
pub struct OwnSeats {
    seats: Arc<Seats>,
    /// Behind Playwright servers.
    pub servers: Supply<ServerAddress>,
    /// The same, with launch options of a client.
    pub launches: LaunchSupply,
    /// Driven over pipes; where the browser is Chromium.
    pub pipes: Option<Supply<Pipe>>,
}

/// Where browsers of one kind come from.
pub struct Supply<W> {
    requests: mpsc::Sender<Request<W>>,
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

    /// Memory of its browsers in bytes. Reads much of `/proc`.
    fn memory(&self) -> u64 {
        let nodes: Vec<i32> = self.nodes().iter().copied().collect();
        let each = nodes.iter().filter_map(|node| tree::memory(*node));
        let each: Vec<u64> = each.collect();
        let all = each.iter().sum();
        if !each.is_empty() {
            self.usual.store(all / each.len() as u64, Ordering::Relaxed);
        }
        all
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
        // Counted first: at no moment does the seat seem to have a browser as well as a spare that is meant for it.
        let awaits_browser = AwaitsBrowser::one_more(&self.seats.pending);
        let seats = Arc::clone(&self.seats.semaphore);
        match timeout(SEAT_PATIENCE, seats.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(OwnSeat {
                permit,
                awaits_browser: Some(awaits_browser),
            }),
            _ => Err("every browser of this worker has its session".to_owned()),
        }
    }

    /// Memory of all browsers in bytes. Reads much of `/proc`.
    pub fn memory(&self) -> Option<u64> {
        let of_pipes = self.pipes.as_ref().map_or(0, |pipes| pipes.state.memory());
        Some(self.servers.state.memory() + self.launches.state.memory() + of_pipes)
    }
}

impl<W> Supply<W> {
    /// Asks for the browser of a seat; it may be warm already. Dropping the receiver leaves it to the next.
    pub async fn request(
        &self,
        seat: &mut OwnSeat,
    ) -> oneshot::Receiver<Result<OwnBrowser<W>, String>> {
        let (reply, browser) = oneshot::channel();
        let request = Request {
            reply,
            _awaits_browser: seat.awaits_browser.take(),
        };
        // A pool that is gone answers by dropping the sender.
        self.requests.send(request).await.ok();
        browser
    }

    /// Whether a session can be promised a browser: one is warm, or the last one that was started came
    /// up.
    pub fn is_sound(&self) -> bool {
        let State { fails, idle, .. } = &*self.state;
        idle.load(Ordering::Relaxed) || !fails.load(Ordering::Relaxed)
    }
}

/// The worker's seats.
pub struct Seats {
    supervision: Arc<Supervision>,
    semaphore: Arc<Semaphore>,
    /// How many there are.
    size: AtomicU32,
    /// Sessions that have one and no browser yet, or are about to take one.
    pending: Arc<AtomicU32>,
}

impl Seats {
    /// As many seats as the configuration says at this moment.
    pub fn new(supervision: Arc<Supervision>) -> Arc<Seats> {
        let seats = Seats {
            supervision,
            semaphore: Arc::new(Semaphore::new(0)),
            size: AtomicU32::new(0),
            pending: Arc::default(),
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

    /// How many are taken.
    fn taken(&self) -> u32 {
        self.size()
            .saturating_sub(self.semaphore.available_permits() as u32)
    }

    /// How many sessions have one and no browser yet, or are about to take one.
    fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }
}
