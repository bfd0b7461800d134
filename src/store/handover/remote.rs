//! The old process's end: asks the new one, and hears from it.

use super::wire::{Reader, Request, Said, write};
use crate::model::{SessionId, WorkerKey};
use crate::store::memory::MemoryStore;
use crate::store::{Candidate, Event, Reserved, StoreError, WorkerView};
use std::io;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait to be written. More than that wait in line before it.
const BACKLOG: usize = 64;

type Reply = oneshot::Sender<Said>;

/// The seats, in another process. Cloning gives another handle to the same connection, which ends
/// with the last of them.
#[derive(Clone)]
pub struct Remote {
    requests: mpsc::Sender<(Request, Reply)>,
}

impl Remote {
    /// Hands the seats over, and returns when they have been taken. Events are told in the name of
    /// `memory` from then on.
    pub async fn connect(
        stream: UnixStream,
        seats: Vec<(SessionId, WorkerKey)>,
        memory: Arc<MemoryStore>,
    ) -> Result<Remote, StoreError> {
        let (read, mut write_half) = stream.into_split();
        let mut reader = Reader::new(read);
        let introduced = async {
            write(&mut write_half, &Request::Seats(seats)).await?;
            loop {
                match reader.next::<Said>().await? {
                    Some(said) if !said.is_answer() => {}
                    answer => return io::Result::Ok(answer),
                }
            }
        };
        match introduced.await {
            Ok(Some(Said::Done)) => {}
            Ok(Some(other)) => return Err(unexpected(&other)),
            Ok(None) | Err(_) => return Err(gone()),
        }
        let (requests, to_write) = mpsc::channel(BACKLOG);
        let (written, replies) = mpsc::unbounded_channel();
        let undo = requests.downgrade();
        let writing = tokio::spawn(write_requests(write_half, to_write, written));
        tokio::spawn(async move {
            if let Err(error) = read_answers(reader, replies, &memory, undo).await {
                log::warn!(error:% = error; "the process that took over cannot be understood");
            }
            // Who waits for an answer that will not come is told so by a dropped reply.
            writing.abort();
            memory.tell(Event::Reachable(false));
        });
        Ok(Remote { requests })
    }

    pub fn is_connected(&self) -> bool {
        !self.requests.is_closed()
    }

    pub async fn reserve(
        &self,
        session: SessionId,
        candidates: Vec<Candidate>,
    ) -> Result<Reserved, StoreError> {
        match self.ask(Request::Reserve(session, candidates)).await? {
            Said::Reserved(reserved) => Ok(reserved),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn release(&self, session: SessionId, refund: bool) -> Result<(), StoreError> {
        match self.ask(Request::Release(session, refund)).await? {
            Said::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn fleet(&self) -> Result<Vec<WorkerView>, StoreError> {
        match self.ask(Request::Fleet).await? {
            Said::Fleet(fleet) => Ok(fleet),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, request: Request) -> Result<Said, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send((request, reply))
            .await
            .map_err(|_| gone())?;
        match answer.await.map_err(|_| gone())? {
            Said::Failed(why) => Err(StoreError::Away(why)),
            said => Ok(said),
        }
    }
}

fn gone() -> StoreError {
    StoreError::Away("the process that took over is gone".into())
}

fn unexpected(said: &Said) -> StoreError {
    StoreError::Refused(format!("the process that took over said {said:?}"))
}

/// A task of its own: while it waits for the other side to read, answers are read all the same.
async fn write_requests(
    mut stream: OwnedWriteHalf,
    mut requests: mpsc::Receiver<(Request, Reply)>,
    written: mpsc::UnboundedSender<(Option<SessionId>, Reply)>,
) {
    while let Some((request, reply)) = requests.recv().await {
        let reserving = match &request {
            Request::Reserve(session, _) => Some(*session),
            _ => None,
        };
        // Before it is written: its answer finds it there.
        if written.send((reserving, reply)).is_err() || write(&mut stream, &request).await.is_err()
        {
            return;
        }
    }
}

async fn read_answers(
    mut reader: Reader,
    mut replies: mpsc::UnboundedReceiver<(Option<SessionId>, Reply)>,
    memory: &MemoryStore,
    undo: mpsc::WeakSender<(Request, Reply)>,
) -> io::Result<()> {
    while let Some(said) = reader.next::<Said>().await? {
        match said {
            Said::Counts(worker, counts) => memory.tell(Event::Counts(worker, counts)),
            Said::Resync => memory.tell(Event::Resync),
            answer => {
                let Ok((reserving, reply)) = replies.try_recv() else {
                    return Err(io::Error::other("an answer that nobody asked for"));
                };
                let taken = matches!(answer, Said::Reserved(Reserved::Seat { .. }));
                // Whoever asked has gone meanwhile: what it got is given back.
                if reply.send(answer).is_err()
                    && taken
                    && let Some((session, requests)) = reserving.zip(undo.upgrade())
                {
                    let (nobody, _) = oneshot::channel();
                    tokio::spawn(async move {
                        let release = Request::Release(session, true);
                        requests.send((release, nobody)).await.ok();
                    });
                }
            }
        }
    }
    Ok(())
}
