//! The worker's port. It is opened once, before the first browser, and stays the same however many
//! browsers come and go behind it: the path of a request says to which of them it leads.
//!
//! * [`routes`]: what stands behind which path.
//! * `request`: what a request asks for (pure).
//! * `connection`: one connection: a page, a refusal, or a session that is passed on.
//! * `own`: a session on a browser of its own; `cdp`: one that is driven by the DevTools protocol,
//!   `client_frames`: what its client says, `downloads`: where such a browser puts files, and `pipe_messages`:
//!   what its client hears of it.
//! * `live`: what a session's pages show, for an operator; `contexts`: which of a shared browser's pages
//!   these are.
//!
//! A gateway has a thread of its own, so that what the rest of the process does (reading `/proc`,
//! removing files) makes no session wait. It knows nothing of seats, tokens or the store: who may
//! come is the proxy's business, and the path is what it shows for it.

mod cdp;
mod client_frames;
mod connection;
mod contexts;
mod downloads;
mod live;
mod own;
mod pipe_messages;
mod request;
mod routes;

pub use live::{LIVE_HEADER, SESSION_HEADER};
pub use own::{CDP, LAUNCH_HEADER, PROTOCOL_HEADER, TRIAL_HEADER};
pub use request::{MAX_HEAD, PATH_HEADER};
pub use routes::{Connections, Route, Upstream};

use crate::metrics::WorkerMetrics;
use routes::Routes;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// Ports tried from the configured one on before a free one of the kernel's choice is used.
const PORT_RANGE: u16 = 200;
/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;
/// Connections that have not yet shown a path. One more, and the one that has waited longest goes.
const MAX_PENDING: usize = 256;
/// Between two tries to accept while the process is out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// The worker's port. Dropping it closes the port and every connection.
pub struct Gateway {
    port: u16,
    shared: Arc<Shared>,
    _open: oneshot::Sender<()>,
}

/// What the connections of one gateway share.
struct Shared {
    routes: Routes,
    metrics: Arc<WorkerMetrics>,
    pending: Mutex<Pending>,
    live_views: live::LiveViews,
}

/// Who has not yet shown a path, in the order in which they came.
#[derive(Default)]
struct Pending {
    next: u64,
    waiting: BTreeMap<u64, AbortHandle>,
}

/// A place among the pending; dropped when it is known what they want.
struct PendingConnection {
    shared: Arc<Shared>,
    number: u64,
}

impl Gateway {
    /// Opens the first free port from `first` on, or one of the kernel's choice when `first` is 0 or
    /// there is none. Listens no wider than proxies reach it under `advertise`.
    ///
    /// # Errors
    ///
    /// No port can be opened at all, or no thread started.
    pub fn open(advertise: &str, first: u16, metrics: Arc<WorkerMetrics>) -> io::Result<Gateway> {
        let listeners = listen(&listening_hosts(advertise), first)?;
        let port = listeners[0].local_addr()?.port();
        if first != 0 && port != first {
            log::info!(wanted = first, port = port;
                "the port is taken by another program, taking another one");
        }
        let shared = Arc::new(Shared {
            routes: Routes::default(),
            metrics,
            pending: Mutex::default(),
            live_views: live::LiveViews::default(),
        });
        let (open, closed) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let accepting = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("gateway".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    for listener in listeners {
                        tokio::spawn(accept(listener, Arc::clone(&accepting)));
                    }
                    // That the sender is dropped is the word.
                    closed.await.ok();
                });
            })?;
        Ok(Gateway {
            port,
            shared,
            _open: open,
        })
    }

    /// Its port: the same for its whole life.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets clients that show `path` come to what stands behind it, until the route is dropped.
    pub fn add_route(&self, path: impl Into<String>, upstream: Upstream) -> Route {
        self.shared.routes.add_route(path.into(), upstream)
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for PendingConnection {
    fn drop(&mut self) {
        self.shared.pending().waiting.remove(&self.number);
    }
}

async fn accept(listener: StdListener, shared: Arc<Shared>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            log::error!(error:% = error; "the worker's port cannot be served");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let number = {
                    let mut pending = shared.pending();
                    pending.next += 1;
                    pending.next
                };
                let pending = PendingConnection {
                    shared: Arc::clone(&shared),
                    number,
                };
                // This thread is the only one, so that the task begins after it is on the list.
                let task = tokio::spawn(connection::serve(stream, Arc::clone(&shared), pending));
                let mut pending = shared.pending();
                pending.waiting.insert(number, task.abort_handle());
                let crowded = pending.waiting.len() > MAX_PENDING;
                let oldest = crowded.then(|| pending.waiting.pop_first()).flatten();
                drop(pending);
                if let Some((_, oldest)) = oldest {
                    oldest.abort();
                }
            }
            Err(error) => {
                log::debug!(error:% = error; "the worker's port cannot accept");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// What to listen on: loopback when the worker is advertised there, else every address, since the
/// advertised one may be a name or somebody else's that leads here. Those behind the first are taken
/// where they can be had.
fn listening_hosts(advertise: &str) -> Vec<IpAddr> {
    const LOOPBACKS: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    match advertise.parse::<IpAddr>() {
        Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)) => LOOPBACKS.to_vec(),
        Ok(IpAddr::V6(Ipv6Addr::LOCALHOST)) => LOOPBACKS.into_iter().rev().collect(),
        Ok(address) if address.is_loopback() => vec![address],
        _ if advertise == "localhost" => LOOPBACKS.to_vec(),
        // One socket takes both kinds, where the machine has both.
        _ if has_ipv6() => vec![Ipv6Addr::UNSPECIFIED.into()],
        _ => vec![Ipv4Addr::UNSPECIFIED.into()],
    }
}

fn has_ipv6() -> bool {
    bind(Ipv6Addr::UNSPECIFIED.into(), 0).is_ok()
}

fn listen(hosts: &[IpAddr], first: u16) -> io::Result<Vec<StdListener>> {
    let last = first.saturating_add(PORT_RANGE);
    let wanted = (first..=last).filter(|_| first != 0);
    for port in wanted {
        match bind_all(hosts, port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            other => return other,
        }
    }
    bind_all(hosts, 0)
}

/// The same port on all of them.
fn bind_all(hosts: &[IpAddr], port: u16) -> io::Result<Vec<StdListener>> {
    let mut listeners = vec![bind(hosts[0], port)?];
    let port = listeners[0].local_addr()?.port();
    for host in &hosts[1..] {
        match bind(*host, port) {
            Ok(listener) => listeners.push(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            // The machine does without that kind of address.
            Err(_) => {}
        }
    }
    Ok(listeners)
}

fn bind(host: IpAddr, port: u16) -> io::Result<StdListener> {
    use socket2::{Domain, Socket, Type};
    let address = SocketAddr::new(host, port);
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_reuse_address(true)?;
    if host.is_ipv6() {
        socket.set_only_v6(host.is_loopback())?;
    }
    // What it accepts has these options too.
    crate::tunnel::tune(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests;
