//! How a serving process ends: on a signal, stage by stage, and not a moment later than it must.
//!
//! A drain takes no new sessions, closes the data port after a short grace, and lets sessions go on
//! until they end or their time is up. A hand-over lets them go on while a successor accepts.

use super::notify;
use super::ports::{Ports, beat};
use super::runtime::{Health, StatusSocket};
use super::signals::{Signal, Signals};
use super::succession::predecessor::Following;
use super::succession::successor::{Successor, SuccessorEnd};
use crate::config::ReloadStatus;
use crate::proxy::ProxyState;
use crate::store::memory::MemoryStore;
use crate::tunnel::Close;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long sessions that are ended have to hear why.
const CLOSE_TIME: Duration = Duration::from_secs(4);
/// The same when the process has to go at once.
const SHORT_CLOSE_TIME: Duration = Duration::from_millis(500);
/// How long the store may take to hear of the last releases.
const LAST_RELEASES: Duration = Duration::from_secs(2);
/// The same when the process has to go at once.
const SHORT_LAST_RELEASES: Duration = Duration::from_millis(500);
/// How long a successor has to live before the process that it replaced may end: until then the old
/// one takes its place again if it dies.
const SUCCESSOR_TRIAL: Duration = Duration::from_secs(5);

/// How far the end of a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Serving,
    /// It serves, and a successor prepares to.
    HandingOver,
    /// A successor serves; sessions here go on.
    Replaced,
    Draining,
    Stopping,
}

impl Stage {
    /// What a signal leads to; `None` when it changes nothing, because it, or one of a higher rank,
    /// is obeyed already. Only a drain that is asked for twice is more than the first.
    pub fn on_signal(self, signal: Signal) -> Option<Stage> {
        match (self, signal) {
            (Stage::Stopping, _) => None,
            (Stage::Serving, Signal::HandOver) => Some(Stage::HandingOver),
            (_, Signal::HandOver) => None,
            (Stage::Draining, Signal::Drain) | (_, Signal::Stop) => Some(Stage::Stopping),
            (_, Signal::Drain) => Some(Stage::Draining),
        }
    }
}

/// A serving process until its end.
pub struct Ending {
    proxy: Arc<ProxyState>,
    ports: Ports,
    /// Wakes when the configuration was reloaded.
    reloaded: watch::Receiver<ReloadStatus>,
    /// Whether a successor may take over, and the seats in memory that are told then.
    succession: Option<Option<Arc<MemoryStore>>>,
    /// The process that this one replaced, while it finishes its sessions.
    predecessor: Option<Following>,
    /// The process that replaced this one.
    successor: Option<Successor>,
    role: &'static str,
    /// Answers `playhouse healthcheck`. A process that was replaced is not asked.
    status_socket: Option<StatusSocket>,
}

/// What came of the work of a stage.
enum Outcome {
    Over,
    Next(Stage),
}

impl Ending {
    /// The end of a process that serves as `role` (`proxy`, `up`) on these ports.
    pub fn new(
        role: &'static str,
        proxy: Arc<ProxyState>,
        ports: Ports,
        reloaded: watch::Receiver<ReloadStatus>,
    ) -> Ending {
        Ending {
            role,
            status_socket: status_socket(role, &proxy, &ports),
            proxy,
            ports,
            reloaded,
            succession: None,
            predecessor: None,
            successor: None,
        }
    }

    /// A successor may take over. `seats` is where this process keeps them, if that is its memory.
    pub fn succeeded(mut self, seats: Option<Arc<MemoryStore>>) -> Ending {
        self.succession = Some(seats);
        self
    }

    /// It has replaced another process.
    pub fn succeeding(mut self, predecessor: Option<Following>) -> Ending {
        self.predecessor = predecessor;
        self
    }

    /// Serves until a signal, and then until the grid's sessions have come to their end. When it
    /// returns, no session is open and the store knows of every release, as far as that could be
    /// had in time. The admin port answers until this is dropped.
    pub async fn run(&mut self, signals: &mut Signals) {
        let mut stage = Stage::Serving;
        while let Outcome::Next(next) = self.at(stage, signals).await {
            stage = next;
        }
        let patience = match stage {
            Stage::Stopping => SHORT_LAST_RELEASES,
            _ => LAST_RELEASES,
        };
        timeout(patience, self.proxy.releaser.idle()).await.ok();
    }

    /// Does the work of a stage until it is done or a signal leads to another.
    async fn at(&mut self, stage: Stage, signals: &mut Signals) -> Outcome {
        let proxy = self.proxy.clone();
        let succession = self.succession.is_some();
        let work = self.work(stage);
        tokio::pin!(work);
        loop {
            let signal = tokio::select! {
                outcome = &mut work => return outcome,
                signal = signals.next() => signal,
            };
            let sessions = proxy.registry.len();
            match stage.on_signal(signal) {
                Some(Stage::HandingOver) if !succession => {
                    log::warn!("asked to hand over; only `playhouse proxy` does that");
                }
                Some(next) => {
                    log::info!(signal:? = signal, was:? = stage, sessions = sessions; "asked to end");
                    return Outcome::Next(next);
                }
                None => {
                    log::warn!(signal:? = signal, stage:? = stage; "the signal changes nothing")
                }
            }
        }
    }

    async fn work(&mut self, stage: Stage) -> Outcome {
        match stage {
            Stage::Serving => return std::future::pending().await,
            Stage::HandingOver => return self.hand_over().await,
            Stage::Replaced => return self.be_replaced().await,
            Stage::Draining => self.drain().await,
            Stage::Stopping => self.stop().await,
        }
        Outcome::Over
    }

    /// Serves while a successor prepares to; goes on serving when that comes to nothing.
    async fn hand_over(&mut self) -> Outcome {
        let Some(sockets) = self.ports.sockets() else {
            return Outcome::Next(Stage::Serving);
        };
        let socket = self.proxy.config.load().server.upgrade_socket.clone();
        let seats = self.succession.clone().flatten();
        match Successor::hand_over(&socket, sockets, seats).await {
            Ok(successor) => {
                log::info!(sessions = self.proxy.registry.len(); "a new process serves");
                self.successor = Some(successor);
                Outcome::Next(Stage::Replaced)
            }
            Err(error) => {
                log::error!(error:% = error;
                    "asked to hand over, but that came to nothing; this process stays in service");
                Outcome::Next(Stage::Serving)
            }
        }
    }

    /// Lets sessions go on to their end while a successor serves.
    async fn be_replaced(&mut self) -> Outcome {
        self.ports.pause();
        self.status_socket = None;
        let Some(successor) = &self.successor else {
            return Outcome::Over;
        };
        let (proxy, predecessor) = (&self.proxy, &mut self.predecessor);
        let finished = async {
            proxy.registry.emptied().await;
            // Its seats are told on from here.
            if let Some(predecessor) = predecessor {
                predecessor.ended().await;
            }
        };
        tokio::pin!(finished);
        let gone = tokio::select! {
            ((), ()) = async { tokio::join!(sleep(SUCCESSOR_TRIAL), &mut finished) } => {
                return Outcome::Over;
            }
            gone = successor.gone() => gone,
        };
        if gone == SuccessorEnd::Left {
            self.ports.close_data();
            self.proxy.registry.emptied().await;
            return Outcome::Over;
        }
        self.successor = None;
        self.status_socket = status_socket(self.role, &self.proxy, &self.ports);
        match self.ports.accept() {
            Ok(()) => {
                log::warn!("the new process has died; this one serves again");
                notify::ready();
            }
            Err(error) => log::error!(error:% = error; "cannot serve in its place again"),
        }
        Outcome::Next(Stage::Serving)
    }

    async fn drain(&mut self) {
        self.leave_predecessor().await;
        self.proxy.draining.send_replace(true);
        if self.successor.is_none() {
            notify::stopping();
            sleep(self.proxy.config.load().server.shutdown_grace).await;
        }
        self.ports.close_data();
        if !self.emptied_in_time().await {
            let sessions = self.proxy.registry.len();
            log::warn!(sessions = sessions; "the drain timeout is over, ending the rest");
            self.proxy.registry.end_all(Close::draining);
            timeout(CLOSE_TIME, self.proxy.registry.emptied())
                .await
                .ok();
        }
    }

    async fn stop(&mut self) {
        notify::stopping();
        self.proxy.draining.send_replace(true);
        self.proxy.registry.end_all(Close::shutting_down);
        let proxy = self.proxy.clone();
        let emptied = timeout(SHORT_CLOSE_TIME, proxy.registry.emptied());
        tokio::join!(self.leave_predecessor(), emptied).1.ok();
    }

    /// Waits until no session is left; `false` when `session.drain_timeout`, as it is at that time,
    /// is over before.
    async fn emptied_in_time(&mut self) -> bool {
        let begun = Instant::now();
        loop {
            let until = begun + self.proxy.config.load().session.drain_timeout;
            tokio::select! {
                () = self.proxy.registry.emptied() => return true,
                () = sleep_until(until) => return false,
                // Without a reloader nothing changes.
                Ok(()) = self.reloaded.changed() => {}
            }
        }
    }

    /// The process that was replaced is not to take its place again: this one ends in good order.
    async fn leave_predecessor(&mut self) {
        if let Some(predecessor) = self.predecessor.take() {
            predecessor.leave().await;
        }
    }
}

/// The socket of this process in the runtime folder. Without one it serves all the same.
fn status_socket(role: &str, proxy: &Arc<ProxyState>, ports: &Ports) -> Option<StatusSocket> {
    let proxy = proxy.clone();
    let handles = ports.handles();
    let health: Health = Box::new(move || {
        let (proxy, beat) = (proxy.clone(), beat(handles.clone()));
        Box::pin(async move {
            beat.await;
            proxy.not_ready().map(|why| why.to_string())
        })
    });
    let opened = StatusSocket::open(role, health);
    opened
        .inspect_err(|error| {
            log::warn!(error:% = format!("{error:#}"); "playhouse healthcheck will not find this process");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Signal::{Drain, HandOver, Stop};
    use Stage::{Draining, HandingOver, Replaced, Serving, Stopping};

    const STAGES: [Stage; 5] = [Serving, HandingOver, Replaced, Draining, Stopping];

    #[test]
    fn a_higher_order_takes_the_place_of_a_lower_one_and_no_other() {
        for stage in STAGES {
            let hands_over = (stage == Serving).then_some(HandingOver);
            assert_eq!(stage.on_signal(HandOver), hands_over, "{stage:?}");
            let stops = (stage != Stopping).then_some(Stopping);
            assert_eq!(stage.on_signal(Stop), stops, "{stage:?}");
        }
        for stage in [Serving, HandingOver, Replaced] {
            assert_eq!(stage.on_signal(Drain), Some(Draining), "{stage:?}");
        }
        assert_eq!(Draining.on_signal(Drain), Some(Stopping), "the second one");
        assert_eq!(Stopping.on_signal(Drain), None);
    }
}
