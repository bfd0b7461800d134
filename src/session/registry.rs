//! What is open: every session of this proxy, what is known of it, and how to end it.

use crate::model::{Browser, SessionId, WorkerKey};
use crate::tunnel::{Close, Traffic};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use tokio::sync::{oneshot, watch};

/// The open sessions of this proxy.
#[derive(Default)]
pub struct Registry {
    open: Mutex<HashMap<SessionId, SessionHandle>>,
    /// Clients in our hands: those with a session, those on the way to one, those being refused.
    clients: watch::Sender<usize>,
}

/// A client in our hands, until it is dropped.
#[must_use = "dropping it says that the client has gone"]
pub struct ClientGuard(watch::Sender<usize>);

impl Drop for ClientGuard {
    fn drop(&mut self) {
        self.0.send_modify(|clients| *clients -= 1);
    }
}

struct SessionHandle {
    info: Arc<SessionInfo>,
    /// Taken by whoever ends the session first.
    stop: Option<oneshot::Sender<Close>>,
}

/// What is known of an open session.
pub struct SessionInfo {
    pub id: SessionId,
    pub worker: WorkerKey,
    pub browser: Browser,
    pub client: Option<IpAddr>,
    /// The owner of its token; empty without one.
    pub tenant: Arc<str>,
    /// Milliseconds since the epoch, for people.
    pub started_at: u64,
    pub since: Instant,
    pub traffic: Arc<Traffic>,
}

impl Registry {
    /// A registry without sessions.
    pub fn new() -> Arc<Registry> {
        Arc::default()
    }

    fn open(&self) -> MutexGuard<'_, HashMap<SessionId, SessionHandle>> {
        self.open
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts a client in that wants a session.
    pub fn client(&self) -> ClientGuard {
        self.clients.send_modify(|clients| *clients += 1);
        ClientGuard(self.clients.clone())
    }

    /// Enters a session. It is open until the returned guard is dropped; the receiver gets the
    /// close that somebody else wants for it.
    pub fn enter(self: &Arc<Self>, info: SessionInfo) -> (OpenSession, oneshot::Receiver<Close>) {
        let (stop, stopped) = oneshot::channel();
        let info = Arc::new(info);
        let open = SessionHandle {
            info: info.clone(),
            stop: Some(stop),
        };
        self.open().insert(info.id, open);
        let registry = self.clone();
        (OpenSession { registry, info }, stopped)
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open().is_empty()
    }

    /// All open sessions, oldest first.
    pub fn list(&self) -> Vec<Arc<SessionInfo>> {
        let mut list: Vec<_> = self.open().values().map(|open| open.info.clone()).collect();
        list.sort_by_key(|info| (info.since, info.id));
        list
    }

    /// What is known of a session, while it is open.
    pub fn find(&self, session: SessionId) -> Option<Arc<SessionInfo>> {
        self.open().get(&session).map(|open| open.info.clone())
    }

    /// The workers of the sessions of which this is true.
    pub fn workers_where(&self, is_so: impl Fn(&SessionInfo) -> bool) -> HashSet<WorkerKey> {
        let open = self.open();
        let infos = open.values().map(|open| &open.info);
        infos
            .filter(|info| is_so(info))
            .map(|info| info.worker.clone())
            .collect()
    }

    /// Ends one session; `false` when it is not open, or ends already.
    pub fn end(&self, session: SessionId, close: Close) -> bool {
        let stop = self
            .open()
            .get_mut(&session)
            .and_then(|open| open.stop.take());
        stop.is_some_and(|stop| stop.send(close).is_ok())
    }

    /// Ends all sessions, each with the close made for it.
    pub fn end_all(&self, close: impl Fn(SessionId) -> Close) {
        for (id, open) in self.open().iter_mut() {
            if let Some(stop) = open.stop.take() {
                stop.send(close(*id)).ok();
            }
        }
    }

    /// Ends the sessions on one worker, each with the close made for it.
    pub fn end_on(&self, worker: &WorkerKey, close: impl Fn(SessionId) -> Close) {
        for (id, open) in self.open().iter_mut() {
            if open.info.worker == *worker
                && let Some(stop) = open.stop.take()
            {
                stop.send(close(*id)).ok();
            }
        }
    }

    /// Waits until no client is in our hands, with a session or without.
    pub async fn emptied(&self) {
        let mut clients = self.clients.subscribe();
        // The sender is ours: it cannot be gone.
        clients.wait_for(|clients| *clients == 0).await.ok();
    }
}

/// An open session's place in the registry.
#[must_use = "dropping the entry says that the session is over"]
pub struct OpenSession {
    registry: Arc<Registry>,
    info: Arc<SessionInfo>,
}

impl std::ops::Deref for OpenSession {
    type Target = SessionInfo;

    fn deref(&self) -> &SessionInfo {
        &self.info
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.registry.open().remove(&self.info.id);
    }
}
