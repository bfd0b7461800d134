//! The old process's end: hands over to its successor, and tells it of the seats.

use super::channel::Channel;
use super::{Failure, FromNew, FromOld};
use crate::app::sockets::Sockets;
use crate::model::{SessionId, WorkerKey};
use crate::store::memory::MemoryStore;
use crate::store::{Event, WorkerStore};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a successor may take until it listens.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
/// After this long without an answer the log says that the old process is still waiting.
const SLOW: Duration = Duration::from_secs(10);
/// Between two checks of the seats that are to be told.
const SEATS_PAUSE: Duration = Duration::from_millis(50);

/// A process that accepts in the place of this one. As long as this lives, it counts the seats of
/// this process as taken.
pub struct Successor {
    outcome: watch::Receiver<Option<SuccessorEnd>>,
    /// Dropping it closes the connection.
    _connection: JoinSet<()>,
}

/// How a successor has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuccessorEnd {
    /// In good order: the grid is meant to end.
    Left,
    Died,
}

impl Successor {
    /// Hands over to whoever waits at the upgrade socket. When it returns, the other process
    /// accepts. Dropping this future before calls the hand-over off, as far as the other process
    /// has not been told to accept.
    ///
    /// `seats` is where this process keeps its seats, if that is its memory.
    ///
    /// # Errors
    /// When there is no successor, or it cannot take over, or it has gone. It accepts nobody then.
    pub async fn hand_over(
        upgrade_socket: &Path,
        sockets: &Sockets,
        seats: Option<Arc<MemoryStore>>,
    ) -> Result<Successor, Failure> {
        let mut channel = Channel::new(connect(upgrade_socket).await?)?;
        let offer = FromOld::Offer(sockets.addresses());
        channel.send_with(&offer, &sockets.descriptors()).await?;
        let says = |said| match said {
            FromNew::Refused(why) => Failure::Refused(why),
            other => Failure::Unexpected(format!("{other:?}")),
        };
        match patiently(channel.receive()).await? {
            FromNew::Ready => {}
            other => return Err(says(other)),
        }
        let mut seats = seats.map(Seats::new);
        if let Some(changes) = seats.as_mut().and_then(Seats::changes) {
            channel.send(&changes).await?;
        }
        channel.send(&FromOld::Accept).await?;
        match patiently(channel.receive()).await? {
            FromNew::Accepting => {}
            other => return Err(says(other)),
        }
        let (outcome_is, outcome) = watch::channel(None);
        let mut connection = JoinSet::new();
        connection.spawn(async move {
            let gone = follow(channel, seats).await;
            outcome_is.send_replace(Some(gone));
        });
        Ok(Successor {
            outcome,
            _connection: connection,
        })
    }

    /// Waits until it has gone. Safe to drop and call again.
    pub async fn gone(&self) -> SuccessorEnd {
        let mut outcome = self.outcome.clone();
        match outcome.wait_for(Option::is_some).await.map(|gone| *gone) {
            Ok(Some(gone)) => gone,
            // The task that would say so has ended without a word.
            _ => SuccessorEnd::Died,
        }
    }
}

async fn connect(upgrade_socket: &Path) -> Result<UnixStream, Failure> {
    let connecting = async {
        loop {
            match UnixStream::connect(upgrade_socket).await {
                Ok(stream) => return stream,
                Err(error) => log::debug!(error:% = error; "nobody takes over yet"),
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let nobody = |_| Failure::NoSuccessor(upgrade_socket.display().to_string());
    timeout(PATIENCE, connecting).await.map_err(nobody)
}

/// Waits as long as it takes: nothing is lost by it, this process serves.
async fn patiently<T>(answer: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::pin!(answer);
    match timeout(SLOW, &mut answer).await {
        Ok(answer) => answer,
        Err(_) => {
            log::warn!(
                "the new process has not said yet that it can take over; \
                        this process serves until it does"
            );
            answer.await
        }
    }
}

/// Tells the successor of the seats until it has gone.
async fn follow(mut channel: Channel, mut seats: Option<Seats>) -> SuccessorEnd {
    loop {
        let changed = async {
            match &mut seats {
                Some(seats) => seats.changed().await,
                None => std::future::pending().await,
            }
        };
        let said = tokio::select! {
            said = channel.receive::<FromNew>() => said,
            changes = changed => match channel.send(&changes).await {
                Ok(()) => continue,
                Err(error) => Err(error),
            },
        };
        match said {
            Ok(FromNew::Leaving) => return SuccessorEnd::Left,
            Ok(other) => log::warn!(said:? = other; "the new process said something unexpected"),
            Err(Failure::Gone) => return SuccessorEnd::Died,
            Err(error) => {
                log::warn!(error:% = error; "the connection to the new process is of no use");
                return SuccessorEnd::Died;
            }
        }
    }
}

/// The seats of this process, and which of them the successor knows.
struct Seats {
    store: Arc<MemoryStore>,
    events: broadcast::Receiver<Event>,
    sent: HashSet<SessionId>,
}

impl Seats {
    fn new(store: Arc<MemoryStore>) -> Seats {
        Seats {
            events: store.events(),
            store,
            sent: HashSet::new(),
        }
    }

    /// Waits until something is to be told. What it returns counts as told.
    async fn changed(&mut self) -> FromOld {
        loop {
            if let Some(changes) = self.changes() {
                return changes;
            }
            // Lagging behind is as good as an event; the store is here, so its sender is too.
            self.events.recv().await.ok();
            tokio::time::sleep(SEATS_PAUSE).await;
        }
    }

    fn changes(&mut self) -> Option<FromOld> {
        let held = self.store.seats();
        let now: HashSet<SessionId> = held.iter().map(|(session, _)| *session).collect();
        let is_new = |(session, _): &(SessionId, WorkerKey)| !self.sent.contains(session);
        let taken: Vec<_> = held.into_iter().filter(is_new).collect();
        let freed: Vec<_> = self.sent.difference(&now).copied().collect();
        let changed = !taken.is_empty() || !freed.is_empty();
        self.sent = now;
        changed.then_some(FromOld::Seats { taken, freed })
    }
}
