//! One generation's processes, from waiting for its turn to start until nothing of it is left.

use super::agent::Shared;
use super::lifecycle::{Generation, Input};
use super::probe::ProbeError;
use super::process::{Launch, Server};
use super::progress::Progress;
use super::toolchain::Toolchain;
use super::warming::Turn;
use crate::model::{Endpoint, WorkerKey};
use crate::store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A serving browser is checked with a page of its own every so many heartbeats (15 s by
/// default): 30 ms of work each time.
const HEARTBEATS_PER_CHECK: u32 = 3;

/// Between two looks whether this machine has a turn free.
const TURN_RETRY: Duration = Duration::from_millis(50);
/// How long the end of a server that did not come up may take, with a margin.
const END_OF_FAILED_START: Duration = Duration::from_secs(15);
/// Between two questions whether the grid has a permit left.
const PERMIT_RETRY: Duration = Duration::from_millis(500);

/// What is wanted of a server. Only ever rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerWish {
    Serve,
    /// No more checks: they would look like a client that is still there.
    Drain,
    StopPolitely,
    StopNow,
}

/// A server that answers and is warm.
pub struct Up {
    pub generation: Generation,
    pub endpoint: Endpoint,
    pub node: i32,
    pub toolchain: Toolchain,
    pub browser_version: Option<String>,
    pub took: Duration,
}

/// The task that owns one generation's server.
pub struct Supervision {
    pub shared: Arc<Shared>,
    pub generation: Generation,
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
        let mut server = tokio::select! {
            biased;
            _ = reaches(&mut wish, ServerWish::StopPolitely) => return "stopped before it was up".to_owned(),
            started = self.start() => match started {
                Ok(server) => server,
                Err(why) => return why,
            },
        };
        let why = self.watch(&mut server).await;
        server.stop(reaches(&mut wish, ServerWish::StopNow)).await;
        why
    }

    async fn start(&self) -> Result<Server, String> {
        let shared = &self.shared;
        let turn = self.turn().await;
        let permit_of_grid = self.permit_of_grid(&turn).await;
        let config = shared.config.load_full();
        let began = Instant::now();
        let toolchain = shared.toolchain.as_of_now();
        let launch = Launch {
            toolchain: &toolchain,
            settings: &config.worker,
            advertise: &shared.advertise,
            machine: &shared.machine,
        };
        let server = Server::start(launch).await.map_err(|e| e.to_string())?;
        let id = self.key.id.clone();
        (shared.observer)(Progress::Warming { id });
        let browser_version = match server.warm_up(config.worker.start_timeout).await {
            Ok(version) => version,
            // Its first client will find out; to refuse it would be no better.
            Err(error @ ProbeError::Strange(_)) => {
                log::debug!(error:% = error; "cannot warm the browser up, taking it cold");
                None
            }
            Err(error) => return Err(error.to_string()),
        };
        drop((turn, permit_of_grid));
        let door = server.door();
        let up = Up {
            generation: self.generation,
            endpoint: Endpoint {
                tls: false,
                host: shared.advertise.clone(),
                port: door.address.port(),
                path: door.path.clone(),
            },
            node: server.node(),
            toolchain,
            browser_version,
            took: began.elapsed(),
        };
        // The agent being gone ends this task as well.
        self.ups.send(up).await.ok();
        Ok(server)
    }

    /// Waits until few enough browsers of this machine are warming up.
    async fn turn(&self) -> Turn {
        let mut waits = false;
        loop {
            let config = self.shared.config.load_full();
            let most = config.recycle.max_parallel;
            // It starts, and is warmed up, and may fail at the end of either.
            let patience = config.worker.start_timeout * 2 + END_OF_FAILED_START;
            if let Some(turn) = self.shared.machine.try_turn(most, patience) {
                return turn;
            }
            if !waits {
                waits = true;
                log::debug!(worker:% = self.key.id, max_parallel = most;
                    "waiting for its turn to warm up on this machine");
            }
            tokio::time::sleep(TURN_RETRY).await;
        }
    }

    /// Waits until few enough browsers of the whole grid are warming up, with the `turn` of this
    /// machine. Without a store this worker goes on by itself.
    async fn permit_of_grid(&self, turn: &Turn) -> Option<PermitOfGrid> {
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
                    turn.renew();
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
    async fn watch(&self, server: &mut Server) -> String {
        let door = server.door().clone();
        let check = async {
            while *self.wish.borrow() == ServerWish::Serve {
                let heartbeat = self.shared.config.load().worker.heartbeat_interval;
                tokio::time::sleep(heartbeat * HEARTBEATS_PER_CHECK).await;
                match super::probe::opens_page(&door).await {
                    Ok(_) => {
                        self.shared
                            .tell(Input::Checked(self.generation, true))
                            .await
                    }
                    Err(ProbeError::Strange(_)) => {}
                    Err(error) => {
                        log::warn!(worker:% = self.key.id, error:% = error; "the browser is not well");
                        self.shared
                            .tell(Input::Checked(self.generation, false))
                            .await;
                    }
                }
            }
            std::future::pending::<()>().await;
        };
        let mut wish = self.wish.clone();
        tokio::select! {
            why = server.exited() => why,
            _ = reaches(&mut wish, ServerWish::StopPolitely) => "stopped".to_owned(),
            () = check => unreachable!("it never ends"),
        }
    }
}

/// Returns when the wish has risen so far, or the agent that could wish is gone.
async fn reaches(wish: &mut watch::Receiver<ServerWish>, level: ServerWish) {
    wish.wait_for(|wish| *wish >= level).await.ok();
}
