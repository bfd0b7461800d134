//! How a serving process ends: on a signal, in order, and not a moment later than it must.
//!
//! SIGTERM drains: no new sessions, the listener closes after a short grace, running sessions go
//! on until they end or their time is up. A second signal ends it at once. Pingora's own handling
//! is not used: it sleeps out its whole grace period even when no session is left.

use super::notify;
use super::succession::pass_seats_on;
use crate::proxy::Grid;
use crate::store::handover::HandoverStore;
use crate::tunnel::Close;
use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

/// How long sessions that are ended have to hear why.
const FAREWELL: Duration = Duration::from_secs(4);
/// The same when the process has to go at once.
const SHORT_FAREWELL: Duration = Duration::from_millis(500);
/// How long the store may take to hear of the last releases.
const LAST_RELEASES: Duration = Duration::from_secs(2);
/// How long Pingora lets connections to an upgraded process go on; sessions are not among them.
const UPGRADE_OVERLAP: Duration = Duration::from_secs(6);

/// How long a successor may take to wait for the listeners.
const SUCCESSOR_PATIENCE: Duration = Duration::from_secs(5);
const SUCCESSOR_POLL: Duration = Duration::from_millis(50);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// SIGTERM: finish what runs, take nothing new.
    Drain,
    /// SIGINT: end now.
    Stop,
    /// SIGQUIT: a new process takes over the listeners.
    HandOver,
}

/// The signals of this process.
pub struct Signals {
    term: Signal,
    int: Signal,
    quit: Signal,
}

impl Signals {
    /// Takes the signals over from their defaults.
    pub fn new() -> io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// The next one. Safe to drop and call again.
    pub async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.term.recv() => Order::Drain,
            _ = self.int.recv() => Order::Stop,
            _ = self.quit.recv() => Order::HandOver,
        }
    }
}

/// Tells Pingora when to close its listeners.
pub struct ToPingora(pub Mutex<mpsc::Receiver<ShutdownSignal>>);

#[async_trait]
impl ShutdownSignalWatch for ToPingora {
    async fn recv(&self) -> ShutdownSignal {
        match self.0.lock().await.recv().await {
            Some(signal) => signal,
            // The process is ending without it.
            None => std::future::pending().await,
        }
    }
}

/// Runs until a signal, then brings the grid's sessions to their end. When it returns, no session
/// is open and the store knows of every release, as far as that could be had in time.
pub async fn run_until_ended(
    grid: &Arc<Grid>,
    signals: &mut Signals,
    pingora: &mpsc::Sender<ShutdownSignal>,
    seats: Option<&HandoverStore>,
) {
    let order = loop {
        let order = signals.next().await;
        if order != Order::HandOver || successor_is_ready(grid, seats).await {
            break order;
        }
    };
    log::info!(order:? = order, sessions = grid.registry.len(); "asked to end");
    if order != Order::HandOver {
        notify::stopping();
    }
    match order {
        Order::Stop => end_at_once(grid).await,
        Order::Drain | Order::HandOver => {
            tokio::select! {
                () = drain(grid, order, pingora) => {}
                again = signals.next() => {
                    log::info!(order:? = again, sessions = grid.registry.len(); "asked again");
                    end_at_once(grid).await;
                }
            }
        }
    }
    timeout(LAST_RELEASES, grid.releaser.idle()).await.ok();
}

/// Whether there is a process that takes over, and has taken the seats over already. Says why not.
async fn successor_is_ready(grid: &Grid, seats: Option<&HandoverStore>) -> bool {
    let socket = grid.config.load().server.upgrade_socket.clone();
    if !successor_waits(&socket).await {
        log::error!(socket:% = socket.display();
            "asked to hand over, but nobody takes over; this process stays in service. \
             Start `playhouse proxy --upgrade` first, then send SIGQUIT");
        return false;
    }
    let Some(seats) = seats else { return true };
    match pass_seats_on(seats, &socket).await {
        Ok(()) => true,
        Err(error) => {
            log::error!(error:? = error;
                "asked to hand over, but the seats could not be; this process stays in service");
            false
        }
    }
}

/// Whether a process waits at the upgrade socket to take over; gives it a moment to come up. Only
/// looks: a connection would be taken for the hand-over itself.
async fn successor_waits(socket: &Path) -> bool {
    let look = async {
        while !is_listened_on(socket) {
            tokio::time::sleep(SUCCESSOR_POLL).await;
        }
    };
    timeout(SUCCESSOR_PATIENCE, look).await.is_ok()
}

/// `/proc/net/unix` has a line for each socket, with its flags in the fourth column and its path in
/// the last (proc(5)).
fn is_listened_on(socket: &Path) -> bool {
    /// `__SO_ACCEPTCON` of the kernel: somebody listens.
    const LISTENING: u32 = 0x10000;
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    // The folder may be open to others, who must not be handed our listeners.
    let ours = std::fs::symlink_metadata(socket)
        .is_ok_and(|file| file.uid() == nix::unistd::geteuid().as_raw());
    if !ours {
        return false;
    }
    let path = socket.to_string_lossy();
    sockets.lines().any(|line| {
        let mut columns = line.split_whitespace();
        let flags = columns
            .nth(3)
            .and_then(|flags| u32::from_str_radix(flags, 16).ok());
        flags.is_some_and(|flags| flags & LISTENING != 0) && columns.next_back() == Some(&*path)
    })
}

async fn drain(grid: &Arc<Grid>, order: Order, pingora: &mpsc::Sender<ShutdownSignal>) {
    let config = grid.config.load_full();
    if order == Order::HandOver {
        // The new process answers; what is accepted here until the listener closes is served.
        pingora.send(ShutdownSignal::GracefulUpgrade).await.ok();
        // Who waits for a seat here has it here: nobody is refused because of an upgrade.
        tokio::time::sleep(UPGRADE_OVERLAP).await;
    } else {
        grid.draining.send_replace(true);
        tokio::time::sleep(config.server.shutdown_grace).await;
        pingora.send(ShutdownSignal::GracefulTerminate).await.ok();
    }
    let drained = timeout(config.session.drain_timeout, grid.registry.emptied()).await;
    if drained.is_err() {
        log::warn!(sessions = grid.registry.len(); "the drain timeout is over, ending the rest");
        grid.registry.end_all(Close::draining);
        timeout(FAREWELL, grid.registry.emptied()).await.ok();
    }
}

async fn end_at_once(grid: &Arc<Grid>) {
    grid.draining.send_replace(true);
    grid.registry.end_all(Close::shutting_down);
    timeout(SHORT_FAREWELL, grid.registry.emptied()).await.ok();
}
