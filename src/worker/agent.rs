//! One worker, from the outside: feeds its life cycle with what happens to the processes, in the
//! store and to the time. What follows is carried out by [`Shell`].

use super::gateway::Gateway;
use super::lifecycle::Input;
use super::machine::MachineShared;
use super::progress::Observer;
use super::seal::{Seal, SealError};
use super::shell::Shell;
use super::toolchain::Toolchain;
use super::tree;
use crate::config::LiveConfig;
use crate::metrics::WorkerMetrics;
use crate::store::{Event, Store};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

/// How often time itself is looked at: pauses, timeouts and ages are this precise.
const TICK: Duration = Duration::from_millis(250);
/// How long the end waits for the store; the records it still has expire by themselves.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(3);
/// What may wait to be taken in. Whoever sends more waits.
const BACKLOG: usize = 64;

/// Whether a worker is to go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shutdown {
    #[default]
    None,
    /// Take no more sessions, end with the last one or at the drain timeout.
    Drain,
    /// End at once.
    Now,
}

/// Why there is no worker.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot open the worker's port: {0}")]
    Port(#[from] io::Error),
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// One worker: a browser server that is kept alive, fresh and on the store's books.
pub struct Agent {
    shared: Arc<Shared>,
    inputs: mpsc::Receiver<Input>,
    store: Arc<dyn Store>,
    start_over: bool,
}

/// What the tasks of one agent share.
pub struct Shared {
    pub config: LiveConfig,
    pub toolchain: Toolchain,
    pub advertise: String,
    pub machine: Arc<MachineShared>,
    /// The one port, for the worker's whole life.
    pub gateway: Gateway,
    /// How far its browsers are sealed.
    pub seal: Seal,
    pub observer: Observer,
    pub inputs: mpsc::Sender<Input>,
}

impl Shared {
    /// The agent being gone is no error: its tasks end with it.
    pub async fn send(&self, input: Input) {
        self.inputs.send(input).await.ok();
    }
}

impl Agent {
    /// A worker whose browser servers are made of `toolchain` and reached by proxies under the
    /// name or address `advertise`. Opens its port.
    ///
    /// # Errors
    ///
    /// No port can be opened, or `worker.seal` asks for more than the kernel can do.
    pub fn new(
        config: LiveConfig,
        toolchain: Toolchain,
        store: Arc<dyn Store>,
        advertise: impl Into<String>,
        machine: Arc<MachineShared>,
        observer: Observer,
    ) -> Result<Agent, AgentError> {
        let (sender, inputs) = mpsc::channel(BACKLOG);
        let advertise = advertise.into();
        let settings = config.load().worker.clone();
        let seal = Seal::of_this_machine(settings.seal, &toolchain)?;
        seal.log();
        let gateway = Gateway::open(&advertise, settings.port, WorkerMetrics::new())?;
        let shared = Shared {
            config,
            toolchain,
            advertise,
            machine,
            gateway,
            seal,
            observer,
            inputs: sender,
        };
        Ok(Agent {
            shared: Arc::new(shared),
            inputs,
            store,
            start_over: false,
        })
    }

    /// With `recycle.mode: exit`, starts a fresh browser after the old one is gone, without
    /// returning from [`Agent::run`]: there is no orchestrator that would.
    pub fn starting_over(mut self) -> Agent {
        self.start_over = true;
        self
    }

    /// Runs the worker until `shutdown` says otherwise, or, with `recycle.mode: exit`, until its
    /// browser has been recycled. When it returns, no process of it is left. Dropping the future
    /// kills them. A `shutdown` whose sender is dropped means [`Shutdown::Now`].
    pub async fn run(self, mut shutdown: watch::Receiver<Shutdown>) {
        let (ups_sender, mut ups) = mpsc::channel(BACKLOG);
        let mut events = Some(self.store.events());
        let mut inputs = self.inputs;
        let mut shell = Shell::new(self.shared, self.store, self.start_over, ups_sender);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = Shutdown::None;
        while !shell.finished {
            tokio::select! {
                wanted = changed(&mut shutdown, seen) => {
                    seen = wanted;
                    shell.take_in(match wanted {
                        Shutdown::None => Input::Tick,
                        Shutdown::Drain => Input::Drain,
                        Shutdown::Now => Input::Stop,
                    });
                }
                Some(up) = ups.recv() => shell.up(up),
                Some(input) = inputs.recv() => shell.take_in(input),
                Some(ended) = shell.servers.join_next_with_id() => shell.server_ended(ended),
                Some(_) = shell.entries.join_next() => {}
                event = next_event(&mut events) => shell.event(event),
                _ = tick.tick() => {
                    tree::reap_adopted();
                    shell.note_oom_kills();
                    shell.take_in(Input::Tick);
                }
            }
        }
        let deregistered = async { while shell.entries.join_next().await.is_some() {} };
        if tokio::time::timeout(DEREGISTER_TIMEOUT, deregistered)
            .await
            .is_err()
        {
            log::warn!("the store is too slow to be told that this worker is gone");
        }
    }
}

/// The next order that differs from the last one.
async fn changed(shutdown: &mut watch::Receiver<Shutdown>, seen: Shutdown) -> Shutdown {
    if seen == Shutdown::Now {
        std::future::pending::<()>().await;
    }
    match shutdown.wait_for(|wanted| *wanted != seen).await {
        Ok(wanted) => *wanted,
        Err(_) => Shutdown::Now,
    }
}

/// `None` when some were missed.
async fn next_event(events: &mut Option<broadcast::Receiver<Event>>) -> Option<Event> {
    use broadcast::error::RecvError;
    let Some(receiver) = events else {
        return std::future::pending().await;
    };
    match receiver.recv().await {
        Ok(event) => Some(event),
        Err(RecvError::Lagged(_)) => None,
        Err(RecvError::Closed) => {
            *events = None;
            None
        }
    }
}
