//! What stands behind which path of a worker's door, and who has come to it.
//!
//! A path is a key: 128 random bits that the store's record carries to the proxies. Each generation
//! of a browser has one of its own, so that two of them serve behind one port at a time.

use crate::tunnel::{Close, Link};
use crate::worker::address::ServerAddress;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// What stands behind a path: the one place that decides which browser a connection gets.
pub enum Behind {
    /// A browser server that its sessions share.
    Server(ServerAddress),
}

/// A way to what stands behind a path.
pub(super) struct Reached {
    pub stream: Link,
    /// What the request has to ask for there.
    pub path: String,
}

impl Behind {
    pub(super) async fn reach(&self) -> io::Result<Reached> {
        match self {
            Behind::Server(server) => Ok(Reached {
                stream: server.connect().await?.into(),
                path: server.path().to_owned(),
            }),
        }
    }
}

/// Every path of one door.
#[derive(Clone, Default)]
pub(super) struct Residents {
    by_path: Arc<Mutex<HashMap<String, Visitors>>>,
}

impl Residents {
    pub(super) fn admit(&self, path: String, behind: Behind) -> Resident {
        let visitors = Visitors {
            behind: Arc::new(behind),
            inside: Arc::default(),
        };
        self.lock().insert(path.clone(), visitors.clone());
        Resident {
            path,
            visitors,
            all: self.clone(),
        }
    }

    pub(super) fn find(&self, path: &str) -> Option<Visitors> {
        self.lock().get(path).cloned()
    }

    /// Whether anybody would be let in at all.
    pub(super) fn any_serves(&self) -> bool {
        self.lock()
            .values()
            .any(|visitors| visitors.closed().is_none())
    }

    /// Browsers there are, and sessions on them.
    pub(super) fn count(&self) -> (usize, usize) {
        let all = self.lock();
        (all.len(), all.values().map(Visitors::count).sum())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Visitors>> {
        self.by_path.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A path that leads somewhere, until this is dropped. Who is inside then stays until one side ends
/// the connection.
#[must_use]
pub struct Resident {
    path: String,
    visitors: Visitors,
    all: Residents,
}

impl Resident {
    /// Who comes along its path.
    pub fn visitors(&self) -> &Visitors {
        &self.visitors
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.all.lock().remove(&self.path);
    }
}

/// The connections behind one path.
#[derive(Clone)]
pub struct Visitors {
    behind: Arc<Behind>,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Default)]
struct Inside {
    next: u64,
    /// How to end each.
    stops: HashMap<u64, oneshot::Sender<Close>>,
    /// Why nobody is let in any more.
    closed: Option<String>,
}

impl Visitors {
    /// Connections that are open.
    pub fn count(&self) -> usize {
        self.lock().stops.len()
    }

    /// Ends every session with code 1011 and `why`, which their users read, and lets nobody in any
    /// more.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for whoever finds a browser broken")
    )]
    pub fn end(&self, why: &str) {
        let mut inside = self.lock();
        inside.closed.get_or_insert_with(|| why.to_owned());
        for (_, stop) in inside.stops.drain() {
            // A session that ended meanwhile needs no word.
            stop.send(Close::browser_broken(why)).ok();
        }
    }

    /// Why nobody is let in, when that is so.
    pub(super) fn closed(&self) -> Option<String> {
        self.lock().closed.clone()
    }

    pub(super) fn behind(&self) -> &Behind {
        &self.behind
    }

    /// Counts a connection in; what ends it comes along the channel.
    pub(super) fn enter(&self) -> (Visitor, oneshot::Receiver<Close>) {
        let (stop, stopped) = oneshot::channel();
        let mut inside = self.lock();
        inside.next += 1;
        let number = inside.next;
        inside.stops.insert(number, stop);
        let visitor = Visitor {
            all: self.clone(),
            number,
        };
        (visitor, stopped)
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection behind a path; counted out when it is dropped.
#[must_use]
pub(super) struct Visitor {
    all: Visitors,
    number: u64,
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.all.lock().stops.remove(&self.number);
    }
}
