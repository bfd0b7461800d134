//! One generation's processes, from waiting for its turn to start until nothing of it is left.

use super::agent::Shared;
use super::gateway::{Connections, Route, Upstream};
use super::grid_permit::GridWarmUpPermit;
use super::lifecycle::Generation;
use super::machine::WarmUpPermit;
use super::own::{OwnPools, Processes};
use super::probe::{CheckError, Prober};
use super::process::{LAST_CAUSE, Launch, Server};
use super::progress::Progress;
use super::toolchain::Toolchain;
use crate::launch::LaunchOptions;
use crate::model::{Browser, DevToolsVersion, Endpoint, SeatKind, WorkerKey};
use crate::store::Store;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

/// Between two checks whether this process has a permit free.
const PERMIT_RETRY: Duration = Duration::from_millis(50);
/// A browser that ends this soon after the kernel ended a process for want of memory died of it.
const OOM_IS_THE_CAUSE: Duration = Duration::from_secs(3);

/// What is wanted of a server. Only ever rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DesiredServer {
    Serve,
    /// Serve on, without new sessions.
    Drain,
    StopGracefully,
    StopNow,
}

/// A server that answers and is warm.
pub struct Up {
    pub generation: Generation,
    pub endpoint: Endpoint,
    pub processes: Processes,
    /// With its temporary files.
    pub folder: PathBuf,
    /// The sessions that it has.
    pub connections: Connections,
    pub toolchain: Toolchain,
    pub browser_version: Option<String>,
    /// What clients of the DevTools protocol are told, where there can be any.
    pub devtools: Option<DevToolsVersion>,
    pub took: Duration,
}

/// A server that is warm.
pub struct Warm {
    pub server: Server,
    /// Checks its browser, unless it does not understand that.
    pub prober: Option<Prober>,
    pub took: Duration,
}

/// What a generation is once it is up.
enum Started {
    Shared(Box<(Server, Option<Prober>)>),
    Own(Box<OwnPools>),
}

/// The task that owns one generation's server.
pub struct Supervision {
    pub shared: Arc<Shared>,
    pub generation: Generation,
    /// Warm up without waiting for a permit: there is no seat without it.
    pub at_once: bool,
    /// Somebody suspects the browser: it is to be looked at at once.
    pub check_now: Arc<Notify>,
    pub key: WorkerKey,
    pub store: Arc<dyn Store>,
    pub desired: watch::Receiver<DesiredServer>,
    pub ups: mpsc::Sender<Up>,
}

impl Supervision {
    /// Runs the server; says at the end why it ended.
    pub async fn run(self) -> String {
        let this = Arc::new(self);
        let mut desired = this.desired.clone();
        let (started, route) = tokio::select! {
            biased;
            _ = reaches(&mut desired, DesiredServer::StopGracefully) => return "stopped before it was up".to_owned(),
            started = this.start() => match started {
                Ok(started) => started,
                Err(why) => return why,
            },
        };
        match started {
            Started::Shared(shared) => {
                let (mut server, prober) = *shared;
                let why = this.watch(&mut server, prober).await;
                drop(route);
                server
                    .stop(reaches(&mut desired, DesiredServer::StopNow))
                    .await;
                why
            }
            Started::Own(pools) => {
                let why = pools.run().await;
                drop(route);
                this.or_out_of_memory(why)
            }
        }
    }

    /// Starts what the generation consists of, and opens the way to it.
    async fn start(self: &Arc<Self>) -> Result<(Started, Route), String> {
        let shared = &self.shared;
        let toolchain = shared.toolchain.reread();
        let mut warm = self.warm(toolchain.clone(), self.at_once).await?;
        let took = warm.took;
        let browser_version = warm.prober.as_ref().and_then(Prober::browser_version);
        let browser_version = browser_version.map(str::to_owned);
        let devtools = self.devtools_version(&toolchain, &mut warm).await;
        let (path, upstream, processes, folder, started) = match shared.config.load().worker.seat {
            SeatKind::Shared => {
                let Warm { server, prober, .. } = warm;
                let address = server.address().clone();
                let processes = Processes::Server(server.node());
                let folder = server.folder().to_owned();
                let path = address.path().to_owned();
                let started = Started::Shared(Box::new((server, prober)));
                (path, Upstream::Server(address), processes, folder, started)
            }
            SeatKind::Own => {
                let (pools, seats) = OwnPools::new(self, &toolchain, warm);
                let processes = Processes::Own(seats.clone());
                let folder = shared.machine.folder().to_owned();
                let path = format!("/{:032x}", rand::random::<u128>());
                let started = Started::Own(Box::new(pools));
                (path, Upstream::Own(seats), processes, folder, started)
            }
        };
        let route = shared.gateway.add_route(&path, upstream);
        let up = Up {
            generation: self.generation,
            endpoint: Endpoint {
                tls: false,
                host: shared.advertise.clone(),
                port: shared.gateway.port(),
                path,
            },
            processes,
            folder,
            connections: route.connections().clone(),
            toolchain,
            browser_version,
            devtools,
            took,
        };
        // The agent being gone ends this task as well.
        self.ups.send(up).await.ok();
        Ok((started, route))
    }

    /// Asks a browser that is warm what it would tell clients of the DevTools protocol. Without an answer
    /// they are told less.
    async fn devtools_version(
        &self,
        toolchain: &Toolchain,
        warm: &mut Warm,
    ) -> Option<DevToolsVersion> {
        let settings = &self.shared.config.load_full().worker;
        let takes_them = settings.seat == SeatKind::Own && toolchain.browser == Browser::Chromium;
        let prober = warm.prober.as_mut().filter(|_| takes_them)?;
        let told = prober.devtools_version(settings.start_timeout).await;
        told.inspect_err(|error| {
            log::warn!(worker:% = self.key.id, error:% = error; "the browser does not tell what it is");
        })
        .ok()
    }

    /// Starts a server and opens its first page; in its turn, unless `at_once`. The checks come with
    /// it, unless it does not understand them.
    pub async fn warm(&self, toolchain: Toolchain, at_once: bool) -> Result<Warm, String> {
        let shared = &self.shared;
        let warm_up_permit = match at_once {
            true => None,
            false => Some(self.warm_up_permit().await),
        };
        let grid_warm_up_permit = match at_once {
            true => None,
            false => {
                let (store, config) = (self.store.clone(), &self.shared.config);
                GridWarmUpPermit::wait(store, &self.key, config).await
            }
        };
        let config = shared.config.load_full();
        let began = Instant::now();
        let mut server = self
            .start_server(&toolchain, &LaunchOptions::default())
            .await?;
        let id = self.key.id.clone();
        (shared.observer)(Progress::Warming { id });
        let prober = match server.first_page(config.worker.start_timeout).await {
            Ok(prober) => Some(prober),
            Err(CheckError::NotUnderstood(error)) => {
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
        drop((warm_up_permit, grid_warm_up_permit));
        server.serves();
        Ok(Warm {
            server,
            prober,
            took: began.elapsed(),
        })
    }

    /// Starts a server, with launch options of a client if it has any; nobody opens a page in it.
    pub async fn start_server(
        &self,
        toolchain: &Toolchain,
        options: &LaunchOptions,
    ) -> Result<Server, String> {
        let shared = &self.shared;
        let config = shared.config.load_full();
        let launch = Launch {
            toolchain,
            settings: &config.worker,
            options,
            machine: &shared.machine,
            seal: &shared.seal,
        };
        let started = Server::start(launch).await;
        started.map_err(|error| self.or_out_of_memory(error.to_string()))
    }

    /// Waits until few enough browsers of this process are warming up.
    pub async fn warm_up_permit(&self) -> WarmUpPermit {
        let mut waits = false;
        loop {
            let config = self.shared.config.load_full();
            let most = config.recycle.max_parallel;
            if let Some(permit) = self.shared.machine.try_warm_up_permit(most) {
                return permit;
            }
            if !waits {
                waits = true;
                log::debug!(worker:% = self.key.id, max_parallel = most;
                    "waiting for its turn to warm up in this process");
            }
            tokio::time::sleep(PERMIT_RETRY).await;
        }
    }

    /// Waits for the server's end or the order to end it, checking the browser now and then.
    async fn watch(&self, server: &mut Server, prober: Option<Prober>) -> String {
        let node = server.node();
        let checks = async {
            if let Some(mut prober) = prober {
                self.check_until_broken(&mut prober, node).await;
            }
            std::future::pending::<()>().await;
        };
        let mut desired = self.desired.clone();
        tokio::select! {
            why = server.exited() => self.or_out_of_memory(why),
            _ = reaches(&mut desired, DesiredServer::StopGracefully) => "stopped".to_owned(),
            () = checks => unreachable!("it never ends"),
        }
    }

    /// The cause of an end, which is the lack of memory if the kernel has just ended a process.
    pub fn or_out_of_memory(&self, why: String) -> String {
        let mut budget = self.shared.machine.budget();
        if budget.oom_killed_within(OOM_IS_THE_CAUSE) {
            return budget.oom_cause();
        }
        why
    }
}

/// Returns when so much is desired, or the agent that could desire it is gone.
pub async fn reaches(desired: &mut watch::Receiver<DesiredServer>, level: DesiredServer) {
    desired.wait_for(|desired| *desired >= level).await.ok();
}
