//! What stands behind which path of a worker's gateway, and who has come to it.
//!
//! A path is a key: 128 random bits that the store's record carries to the proxies. Each generation
//! of a browser has one of its own, so that two of them serve behind one port at a time.

use crate::tunnel::Close;
use crate::worker::address::ServerAddress;
use crate::worker::own::OwnSeats;
use crate::worker::screencast::ShownBrowser;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// What stands behind a path: the one place that decides which browser a connection gets.
pub enum Upstream {
    /// A browser server that its sessions share.
    Server(ServerAddress),
    /// A browser for each session.
    Own(OwnSeats),
}

/// Every path of one gateway.
#[derive(Clone, Default)]
pub(super) struct Routes {
    by_path: Arc<Mutex<HashMap<String, Connections>>>,
}

impl Routes {
    pub(super) fn add_route(&self, path: String, upstream: Upstream) -> Route {
        let shown = match &upstream {
            Upstream::Server(server) => Some(ShownBrowser::new(server.clone())),
            Upstream::Own(_) => None,
        };
        let connections = Connections {
            upstream: Arc::new(upstream),
            shown,
            open: Arc::default(),
        };
        self.lock().insert(path.clone(), connections.clone());
        Route {
            path,
            connections,
            all: self.clone(),
        }
    }

    pub(super) fn find(&self, path: &str) -> Option<Connections> {
        self.lock().get(path).cloned()
    }

    /// Whether anybody would be let in at all.
    pub(super) fn any_serves(&self) -> bool {
        self.lock()
            .values()
            .any(|connections| connections.closed().is_none())
    }

    /// Browsers there are, and sessions on them.
    pub(super) fn count(&self) -> (usize, usize) {
        let all = self.lock();
        (all.len(), all.values().map(Connections::count).sum())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Connections>> {
        self.by_path.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A path that leads somewhere, until this is dropped. Whoever is connected then stays until one side ends
/// the connection.
#[must_use]
pub struct Route {
    path: String,
    connections: Connections,
    all: Routes,
}

impl Route {
    /// Who comes along its path.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.all.lock().remove(&self.path);
    }
}

/// The connections behind one path.
#[derive(Clone)]
pub struct Connections {
    upstream: Arc<Upstream>,
    /// The browser that its sessions share, for who watches one of them.
    shown: Option<Arc<ShownBrowser>>,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// How to end each.
    stops: HashMap<u64, oneshot::Sender<Close>>,
    /// What the sessions are told at the end; nobody is let in once it is known.
    last_close: Option<Close>,
}

impl Connections {
    /// Connections that are open.
    pub fn count(&self) -> usize {
        self.lock().stops.len()
    }

    /// Lets nobody in from here on: the browser is broken, and `why`, or its time is up. Proxies end the sessions,
    /// which they know by name. Those that they have not ended by [`end`](Connections::end), because they do not
    /// hear of it, are told then.
    pub fn close(&self, why: Option<&str>) {
        let last_close = match why {
            Some(why) => Close::worker_condemned(None, why),
            None => Close::worker_draining(None),
        };
        self.lock().last_close.get_or_insert(last_close);
    }

    /// Ends whoever is still there after [`close`](Connections::close); without that, nobody. To be called
    /// before the browser is ended: a session that is told reads why, and not that its connection broke.
    pub fn end(&self) {
        let mut open = self.lock();
        let Some(last_close) = open.last_close.clone() else {
            return;
        };
        for (_, stop) in open.stops.drain() {
            // A session that ended meanwhile needs no word.
            stop.send(last_close.clone()).ok();
        }
    }

    /// Why nobody is let in, when that is so.
    pub(super) fn closed(&self) -> Option<String> {
        let open = self.lock();
        open.last_close.as_ref().map(|it| it.reason().to_owned())
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    pub(super) fn shown(&self) -> Option<&Arc<ShownBrowser>> {
        self.shown.as_ref()
    }

    /// Counts a connection in; what ends it comes along the channel.
    pub(super) fn enter(&self) -> (ConnectionGuard, oneshot::Receiver<Close>) {
        let (stop, stopped) = oneshot::channel();
        let mut open = self.lock();
        open.next += 1;
        let number = open.next;
        open.stops.insert(number, stop);
        let guard = ConnectionGuard {
            all: self.clone(),
            number,
        };
        (guard, stopped)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection behind a path; counted out when it is dropped.
#[must_use]
pub(super) struct ConnectionGuard {
    all: Connections,
    number: u64,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.all.lock().stops.remove(&self.number);
    }
}
