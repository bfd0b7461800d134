//! The new process's end: counts the old one's seats in, and answers it until it has gone.

use super::wire::{Reader, Request, Said, write};
use crate::model::SessionId;
use crate::store::{Event, Reserved, Store};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use tokio::net::UnixStream;
use tokio::sync::broadcast::error::RecvError;

/// The seats that another process holds through this one; dropping it gives them back.
struct Held {
    store: Arc<dyn Store>,
    sessions: HashSet<SessionId>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let (store, sessions) = (self.store.clone(), std::mem::take(&mut self.sessions));
        if sessions.is_empty() {
            return;
        }
        log::warn!(seats = sessions.len(); "the process that was replaced left seats behind");
        tokio::spawn(async move {
            for session in sessions {
                // The store remembers what it cannot do now.
                store.release(session, false).await.ok();
            }
        });
    }
}

/// Serves the process that is being replaced, from the list of its seats until it hangs up.
///
/// # Errors
/// When it cannot be understood or reads no more. Its seats are free then too.
pub async fn serve(stream: UnixStream, store: Arc<dyn Store>) -> io::Result<()> {
    let (read, mut answers) = stream.into_split();
    let mut requests = Reader::new(read);
    let mut events = store.events();
    let mut held = Held {
        store: store.clone(),
        sessions: HashSet::new(),
    };
    loop {
        let said = tokio::select! {
            request = requests.next::<Request>() => match request? {
                Some(request) => answer(request, &mut held).await,
                None => return Ok(()),
            },
            event = events.recv() => match event {
                Ok(Event::Counts(worker, counts)) => Said::Counts(worker, counts),
                Err(RecvError::Closed) => return Ok(()),
                Ok(_) | Err(RecvError::Lagged(_)) => Said::Resync,
            },
        };
        write(&mut answers, &said).await?;
    }
}

async fn answer(request: Request, held: &mut Held) -> Said {
    let store = &held.store;
    let outcome = match request {
        Request::Seats(seats) => {
            for (session, worker) in seats {
                store.adopt(session, &worker);
                held.sessions.insert(session);
            }
            Ok(Said::Done)
        }
        Request::Reserve(session, candidates) => {
            let reserved = store.reserve(session, &candidates).await;
            if let Ok(Reserved::Seat { .. }) = reserved {
                held.sessions.insert(session);
            }
            reserved.map(Said::Reserved)
        }
        Request::Release(session, refund) => {
            held.sessions.remove(&session);
            store.release(session, refund).await.map(|()| Said::Done)
        }
        Request::Fleet => store.fleet().await.map(Said::Fleet),
    };
    outcome.unwrap_or_else(|error| Said::Failed(error.to_string()))
}
