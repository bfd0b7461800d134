//! One generation's processes, from waiting for its turn to start until nothing of it is left.

use super::agent::Shared;
use super::door::{Behind, Resident, Visitors};
use super::lifecycle::{Generation, Health, Input};
use super::machine::Turn;
use super::probe::{Prober, Unwell};
use super::process::{Launch, Server};
use super::progress::Progress;
use super::toolchain::Toolchain;
use super::tree;
use crate::model::{Endpoint, WorkerKey};
use crate::store::Store;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

/// A browser is checked with a page of its own at every heartbeat, but within these bounds: 30 ms of
/// work each time.
const CHECK_INTERVAL: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];
/// Between the end of one check and the next, whoever asks for it.
const CHECK_PAUSE: Duration = Duration::from_millis(250);
/// How long each of a browser's answers may take until it is suspected, and then until it counts as
/// broken: together with the interval less than 20 s, so that its sessions learn of it in time.
const SUSPECT_AFTER: Duration = Duration::from_secs(3);
const BROKEN_AFTER: Duration = Duration::from_secs(6);
/// A browser that got no processor while it was asked is asked again, so many times.
const STARVED_CHECKS: u32 = 3;

/// Between two looks whether this process has a turn free.
const TURN_RETRY: Duration = Duration::from_millis(50);
/// How long to wait for the end of a server that does not answer any more, to learn its cause.
const LAST_CAUSE: Duration = Duration::from_secs(1);
/// A browser that ends this soon after the kernel ended a process for want of memory died of it.
const OOM_IS_THE_CAUSE: Duration = Duration::from_secs(3);
/// Between two questions whether the grid has a permit left.
const PERMIT_RETRY: Duration = Duration::from_millis(500);

/// What is wanted of a server. Only ever rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerWish {
    Serve,
    StopPolitely,
    StopNow,
}

/// A server that answers and is warm.
pub struct Up {
    pub generation: Generation,
    pub endpoint: Endpoint,
    pub node: i32,
    /// With its temporary files.
    pub folder: PathBuf,
    /// The sessions that it has.
    pub visitors: Visitors,
    pub toolchain: Toolchain,
    pub browser_version: Option<String>,
    pub took: Duration,
}

/// The task that owns one generation's server.
pub struct Supervision {
    pub shared: Arc<Shared>,
    pub generation: Generation,
    /// Warm up without waiting for a turn: there is no seat without it.
    pub at_once: bool,
    /// Somebody suspects the browser: it is to be looked at now.
    pub look: Arc<Notify>,
    pub key: WorkerKey,
    pub store: Arc<dyn Store>,
    pub wish: watch::Receiver<ServerWish>,
    pub ups: mpsc::Sender<Up>,
}

/// A permit of the whole grid to warm up; given back when it is dropped, or when its time is over.
struct PermitOfGrid {
    store: Arc<dyn Store>,
    worker: WorkerKey,
}

impl Drop for PermitOfGrid {
    fn drop(&mut self) {
        let (store, worker) = (self.store.clone(), self.worker.clone());
        tokio::spawn(async move { store.end_warm_up(&worker).await.ok() });
    }
}

impl Supervision {
    /// Runs the server; says at the end why it ended.
    pub async fn run(self) -> String {
        let mut wish = self.wish.clone();
        let (mut server, resident, prober) = tokio::select! {
            biased;
            _ = reaches(&mut wish, ServerWish::StopPolitely) => return "stopped before it was up".to_owned(),
            started = self.start() => match started {
                Ok(started) => started,
                Err(why) => return why,
            },
        };
        let why = self.watch(&mut server, prober).await;
        drop(resident);
        server.stop(reaches(&mut wish, ServerWish::StopNow)).await;
        why
    }

    /// The checks come with the server, unless it does not understand them.
    async fn start(&self) -> Result<(Server, Resident, Option<Prober>), String> {
        let shared = &self.shared;
        let turn = match self.at_once {
            true => None,
            false => Some(self.turn().await),
        };
        let permit_of_grid = match self.at_once {
            true => None,
            false => self.permit_of_grid().await,
        };
        let config = shared.config.load_full();
        let began = Instant::now();
        let toolchain = shared.toolchain.as_of_now();
        let launch = Launch {
            toolchain: &toolchain,
            settings: &config.worker,
            machine: &shared.machine,
        };
        let started = Server::start(launch).await;
        let mut server = started.map_err(|error| self.or_out_of_memory(error.to_string()))?;
        let id = self.key.id.clone();
        (shared.observer)(Progress::Warming { id });
        let prober = match server.first_page(config.worker.start_timeout).await {
            Ok(prober) => Some(prober),
            Err(Unwell::NotUnderstood(error)) => {
                log::warn!(worker:% = self.key.id, error = error;
                    "this Playwright does not understand our checks: its browser is taken unchecked");
                None
            }
            Err(error) => {
                let ended = tokio::time::timeout(LAST_CAUSE, server.exited()).await;
                let why = ended.unwrap_or_else(|_| format!("its first page failed: {error}"));
                server.stop(std::future::ready(())).await;
                return Err(self.or_out_of_memory(why));
            }
        };
        drop((turn, permit_of_grid));
        let address = server.address();
        let behind = Behind::Server(address.clone());
        let resident = shared.door.admit(address.path(), behind);
        let browser_version = prober.as_ref().and_then(Prober::browser_version);
        let up = Up {
            generation: self.generation,
            endpoint: Endpoint {
                tls: false,
                host: shared.advertise.clone(),
                port: shared.door.port(),
                path: address.path().to_owned(),
            },
            node: server.node(),
            folder: server.folder().to_owned(),
            visitors: resident.visitors().clone(),
            toolchain,
            browser_version: browser_version.map(str::to_owned),
            took: began.elapsed(),
        };
        // The agent being gone ends this task as well.
        self.ups.send(up).await.ok();
        Ok((server, resident, prober))
    }

    /// Waits until few enough browsers of this process are warming up.
    async fn turn(&self) -> Turn {
        let mut waits = false;
        loop {
            let config = self.shared.config.load_full();
            let most = config.recycle.max_parallel;
            if let Some(turn) = self.shared.machine.try_turn(most) {
                return turn;
            }
            if !waits {
                waits = true;
                log::debug!(worker:% = self.key.id, max_parallel = most;
                    "waiting for its turn to warm up in this process");
            }
            tokio::time::sleep(TURN_RETRY).await;
        }
    }

    /// Waits until few enough browsers of the whole grid are warming up. Without a store this worker
    /// goes on by itself.
    async fn permit_of_grid(&self) -> Option<PermitOfGrid> {
        loop {
            let config = self.shared.config.load_full();
            let most = config.recycle.max_parallel_grid;
            // It starts, and is warmed up.
            let ttl = config.worker.start_timeout * 2;
            if most == 0 {
                return None;
            }
            let taken = self.store.take_warm_up(&self.key, most, ttl).await;
            match taken {
                Ok(true) => {
                    return Some(PermitOfGrid {
                        store: self.store.clone(),
                        worker: self.key.clone(),
                    });
                }
                Ok(false) => {
                    tokio::time::sleep(PERMIT_RETRY).await;
                }
                Err(error) => {
                    log::debug!(worker:% = self.key, error:% = error; "warming up unasked");
                    return None;
                }
            }
        }
    }

    /// Waits for the server's end or the wish to end it, checking the browser now and then.
    async fn watch(&self, server: &mut Server, prober: Option<Prober>) -> String {
        let node = server.node();
        let checks = async {
            if let Some(mut prober) = prober {
                self.check_until_broken(&mut prober, node).await;
            }
            std::future::pending::<()>().await;
        };
        let mut wish = self.wish.clone();
        tokio::select! {
            why = server.exited() => self.or_out_of_memory(why),
            _ = reaches(&mut wish, ServerWish::StopPolitely) => "stopped".to_owned(),
            () = checks => unreachable!("it never ends"),
        }
    }

    /// While it drains too: its sessions have to learn when their browser hangs.
    async fn check_until_broken(&self, prober: &mut Prober, node: i32) {
        loop {
            tokio::time::sleep(CHECK_PAUSE).await;
            let [shortest, longest] = CHECK_INTERVAL;
            let heartbeat = self.shared.config.load().worker.heartbeat_interval;
            let pause = heartbeat.clamp(shortest, longest) - CHECK_PAUSE;
            // Whoever asks is answered by the check.
            tokio::time::timeout(pause, self.look.notified()).await.ok();
            let health = match prober.check(SUSPECT_AFTER).await {
                Ok(()) => {
                    log::debug!(worker:% = self.key.id; "the browser opened a page");
                    Health::Well
                }
                Err(Unwell::NotUnderstood(_)) => Health::Well,
                Err(error) => {
                    log::warn!(worker:% = self.key.id, error:% = error;
                        "the browser is not well, looking once more");
                    self.tell(Health::Suspect).await;
                    self.decide(prober, node).await
                }
            };
            let is_broken = matches!(health, Health::Broken(_));
            self.tell(health).await;
            if is_broken {
                return;
            }
        }
    }

    /// The check after the one that failed.
    async fn decide(&self, prober: &mut Prober, node: i32) -> Health {
        let mut starved = 0;
        loop {
            let waited = run_delay(node).await;
            match prober.check(BROKEN_AFTER).await {
                Ok(()) | Err(Unwell::NotUnderstood(_)) => return Health::Well,
                // The machine is to blame, and all its browsers would be ended for it.
                Err(Unwell::Suspect(_))
                    if starved < STARVED_CHECKS
                        && run_delay(node).await.saturating_sub(waited) > BROKEN_AFTER / 2 =>
                {
                    starved += 1;
                    log::warn!(worker:% = self.key.id;
                        "the browser gets no processor: this machine has too few of them");
                }
                Err(error) => return Health::Broken(self.or_out_of_memory(error.to_string())),
            }
        }
    }

    async fn tell(&self, health: Health) {
        self.shared
            .tell(Input::Checked(self.generation, health))
            .await;
    }

    /// The cause of an end, which is the lack of memory if the kernel has just ended a process.
    fn or_out_of_memory(&self, why: String) -> String {
        let mut budget = self.shared.machine.budget();
        if budget.oom_killed_within(OOM_IS_THE_CAUSE) {
            return budget.oom_cause();
        }
        why
    }
}

/// How long the server and its browser have waited for a processor, ever.
async fn run_delay(node: i32) -> Duration {
    let delay = tokio::task::spawn_blocking(move || tree::run_delay(node));
    delay.await.unwrap_or_default()
}

/// Returns when the wish has risen so far, or the agent that could wish is gone.
async fn reaches(wish: &mut watch::Receiver<ServerWish>, level: ServerWish) {
    wish.wait_for(|wish| *wish >= level).await.ok();
}
