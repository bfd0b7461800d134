//! Open connections of one port: counted from `accept` on, and how many there may be.
//!
//! Each port has a budget of descriptors of its own, so that silent connections to one never take
//! the other's. Where there are as many as there may be, the one that has waited longest for its
//! client to say something gives way to the next: who keeps connections open costs nobody an answer.
//! An address counts by its network where a stranger has a whole one: IPv6 by /64.

use crate::config::Limits;
use ipnet::{IpNet, Ipv6Net};
use nix::sys::resource::{Resource, getrlimit};
use prometheus::IntGauge;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Connections to the admin port at once: some dashboards, scrapers and operators.
const ADMIN_CONNECTIONS: u64 = 64;
/// Connections of one port at once that are told why they are refused. Others are closed without a
/// word: they come faster than anybody reads.
const MAX_REFUSALS: usize = 16;
/// Descriptors for everything else: logs, the store, health checks, files.
const OTHER_DESCRIPTORS: u64 = 104;
/// Descriptors that are not for connections to the data port.
const RESERVED: u64 = ADMIN_CONNECTIONS + 2 * MAX_REFUSALS as u64 + OTHER_DESCRIPTORS;
/// Of an IPv6 address, how much is a network's: what one customer is given at least.
const V6_NETWORK: u8 = 64;

/// The open connections of one port.
pub struct PortConnections {
    open: Mutex<Open>,
    /// How many the port's descriptors allow.
    budget: u64,
    refusals: Arc<Semaphore>,
    gauge: Option<IntGauge>,
}

#[derive(Default)]
struct Open {
    total: u64,
    by_network: HashMap<IpAddr, u32>,
    /// Those that wait for their client, the oldest first; sent to when they have to give way.
    idle: BTreeMap<u64, oneshot::Sender<()>>,
    next_idle: u64,
}

/// One open connection; dropping it makes room for another.
pub struct Connection {
    port: Arc<PortConnections>,
    /// Whose it is: the other end of the socket, or whom a trusted proxy speaks for.
    client: Mutex<Attribution>,
}

#[derive(Clone, Copy)]
struct Attribution {
    address: IpAddr,
    /// Whether it counts by its network: a trusted proxy's own address does not.
    counted: bool,
}

/// A connection that waits for its client, until it is dropped.
pub struct IdleConnection<'a> {
    port: &'a PortConnections,
    id: u64,
    gives_way: oneshot::Receiver<()>,
}

/// Why a connection is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    #[error("the port has as many connections as there may be")]
    InAll,
    #[error("the client's network has as many connections as one may have")]
    FromNetwork,
}

/// Connections to the data port that the process's descriptors allow: a session takes two, one each
/// way. The descriptor limit is what it is at this moment.
pub fn max_by_descriptors() -> u64 {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    (soft.saturating_sub(RESERVED) / 2).max(1)
}

impl PortConnections {
    /// None yet, on the data port; `gauge` shows how many there are.
    pub fn of_data_port(gauge: IntGauge) -> Arc<PortConnections> {
        PortConnections::new(max_by_descriptors(), Some(gauge))
    }

    /// None yet, on the admin port.
    pub fn of_admin_port() -> Arc<PortConnections> {
        PortConnections::new(ADMIN_CONNECTIONS, None)
    }

    fn new(budget: u64, gauge: Option<IntGauge>) -> Arc<PortConnections> {
        Arc::new(PortConnections {
            open: Mutex::default(),
            budget,
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            gauge,
        })
    }

    /// Counts a connection in. One from a trusted proxy counts by network only once it is known
    /// [for whom it speaks](Connection::attribute).
    ///
    /// # Errors
    /// When there are too many.
    pub fn enter(
        self: &Arc<Self>,
        peer: IpAddr,
        trusted: bool,
        limits: &Limits,
    ) -> Result<Arc<Connection>, TooMany> {
        let max = match u64::from(limits.max_connections) {
            0 => self.budget,
            max => max.min(self.budget),
        };
        let mut open = self.open();
        let is_full = open.total >= max;
        if is_full && open.idle.is_empty() {
            return Err(TooMany::InAll);
        }
        if !trusted {
            open.count(peer, limits.max_connections_per_ip)?;
        }
        if is_full {
            open.evict_oldest();
        }
        open.total += 1;
        self.show(&open);
        Ok(Arc::new(Connection {
            port: self.clone(),
            client: Mutex::new(Attribution {
                address: peer,
                counted: !trusted,
            }),
        }))
    }

    /// A place among those who are told why they are refused, while there is one.
    pub fn refusal_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.refusals.clone().try_acquire_owned().ok()
    }

    fn show(&self, open: &Open) {
        if let Some(gauge) = &self.gauge {
            gauge.set(open.total as i64);
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Open {
    fn evict_oldest(&mut self) {
        if let Some((_, oldest)) = self.idle.pop_first() {
            // Fails when it goes by itself at this moment.
            oldest.send(()).ok();
        }
    }

    fn count(&mut self, address: IpAddr, max: u32) -> Result<(), TooMany> {
        let network = network_of(address);
        let connections = self.by_network.get(&network).copied().unwrap_or(0);
        if max > 0 && connections >= max {
            return Err(TooMany::FromNetwork);
        }
        self.by_network.insert(network, connections + 1);
        Ok(())
    }

    fn uncount(&mut self, address: IpAddr) {
        let network = network_of(address);
        match self.by_network.get_mut(&network) {
            Some(connections @ 2..) => *connections -= 1,
            _ => drop(self.by_network.remove(&network)),
        }
    }
}

impl Connection {
    /// The client's address.
    pub fn client(&self) -> IpAddr {
        self.lock().address
    }

    /// The connection waits for its client from here on, and gives way to others if need be.
    pub fn idle(&self) -> IdleConnection<'_> {
        let (give_way, gives_way) = oneshot::channel();
        let mut open = self.port.open();
        let id = open.next_idle;
        open.next_idle += 1;
        open.idle.insert(id, give_way);
        IdleConnection {
            port: &self.port,
            id,
            gives_way,
        }
    }

    /// Counts the connection for the client that a trusted proxy names, in the place of the one
    /// before: what came over it for that one is over.
    ///
    /// # Errors
    /// When that client has too many; the connection is to be closed then, and counts for nobody.
    pub fn attribute(&self, address: IpAddr, limits: &Limits) -> Result<(), TooMany> {
        let mut client = self.lock();
        if client.counted && client.address == address {
            return Ok(());
        }
        let mut open = self.port.open();
        let counted = open.count(address, limits.max_connections_per_ip);
        if client.counted {
            open.uncount(client.address);
        }
        *client = Attribution {
            address,
            counted: counted.is_ok(),
        };
        counted
    }

    fn lock(&self) -> MutexGuard<'_, Attribution> {
        self.client
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl IdleConnection<'_> {
    /// What the client does; `None` when the connection has to give way before that.
    pub async fn unless_it_gives_way<T>(mut self, does: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = does => {
                if self.gives_way.try_recv().is_ok() {
                    // Its client was quicker: the next one goes in its place.
                    self.port.open().evict_oldest();
                }
                Some(done)
            }
            _ = &mut self.gives_way => None,
        }
    }
}

impl Drop for IdleConnection<'_> {
    fn drop(&mut self) {
        self.port.open().idle.remove(&self.id);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let client = *self.lock();
        let mut open = self.port.open();
        open.total -= 1;
        if client.counted {
            open.uncount(client.address);
        }
        self.port.show(&open);
    }
}

/// What an address counts as. An IPv4 address that a socket for both kinds shows as IPv6 counts as
/// what it is.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = Ipv6Net::new_assert(address, V6_NETWORK);
            network.network().into()
        }
    }
}

/// Whether an address is in one of these networks.
pub fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Role};
    use proptest::prelude::*;

    fn limits(all: u32, each: u32) -> Limits {
        Limits {
            max_connections: all,
            max_connections_per_ip: each,
            ..Config::defaults(Role::Proxy).limits
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address() {
        let port = PortConnections::new(100, None);
        let limits = limits(0, 2);
        let enter = |address| port.enter(ip(address), false, &limits);
        let _kept = [enter("2001:db8::1"), enter("2001:db8::2")].map(Result::unwrap);
        assert!(enter("2001:db8::ffff:1:2:3").is_err());
        let _other = enter("2001:db8:0:1::1").unwrap();
        let _v4 = [enter("10.0.0.1"), enter("::ffff:10.0.0.1")].map(Result::unwrap);
        assert!(enter("10.0.0.1").is_err());
        let _neighbour = enter("10.0.0.2").unwrap();
    }

    #[test]
    fn a_budget_stands_above_the_limit() {
        let port = PortConnections::new(2, None);
        let limits = limits(100, 0);
        let enter = || port.enter(ip("10.0.0.1"), false, &limits);
        let (one, _other) = (enter().unwrap(), enter().unwrap());
        assert!(enter().is_err());
        drop(one);
        assert!(enter().is_ok());
    }

    #[tokio::test]
    async fn who_waited_longest_for_its_client_gives_way() {
        let port = PortConnections::new(3, None);
        let limits = limits(0, 0);
        let enter = || port.enter(ip("10.0.0.1"), false, &limits);
        let [busy, old, new] = [(); 3].map(|()| enter().unwrap());
        assert_eq!(enter().err(), Some(TooMany::InAll));
        let silence = std::future::pending::<()>;
        let older = old.idle().unless_it_gives_way(silence());
        let mut newer = Box::pin(new.idle().unless_it_gives_way(silence()));
        let guest = enter().unwrap();
        assert_eq!(older.await, None);
        drop(old);
        assert!(futures_util::poll!(&mut newer).is_pending());
        assert_eq!(busy.idle().unless_it_gives_way(async { 7 }).await, Some(7));
        let _another = enter().unwrap();
        assert_eq!(newer.await, None);
        drop(new);
        assert_eq!(enter().err(), Some(TooMany::InAll));

        // One that was to go and has just heard of its client: the next one goes.
        let spoke = guest.idle();
        let mut waits = Box::pin(busy.idle().unless_it_gives_way(silence()));
        let _third = enter().unwrap();
        assert_eq!(spoke.unless_it_gives_way(async { 7 }).await, Some(7));
        assert_eq!(
            futures_util::poll!(&mut waits),
            std::task::Poll::Ready(None)
        );
        drop(waits);
        drop(busy);
        assert_eq!(enter().err(), Some(TooMany::InAll));
        assert!(port.open().idle.is_empty());
    }

    #[test]
    fn a_connection_counts_for_whom_the_proxy_speaks() {
        let port = PortConnections::new(100, None);
        let limits = limits(0, 1);
        let proxy = || port.enter(ip("10.0.0.1"), true, &limits).unwrap();
        let (one, other, third) = (proxy(), proxy(), proxy());
        let (alice, bob) = (ip("192.0.2.1"), ip("192.0.2.2"));
        one.attribute(alice, &limits).unwrap();
        one.attribute(alice, &limits).unwrap();
        assert_eq!(other.attribute(alice, &limits), Err(TooMany::FromNetwork));
        assert_eq!(other.client(), alice);
        one.attribute(bob, &limits).unwrap();
        other.attribute(alice, &limits).unwrap();
        assert_eq!((one.client(), other.client()), (bob, alice));
        drop((one, other, third));
        assert!(port.open().by_network.is_empty());
        assert_eq!(port.open().total, 0);
    }

    proptest! {
        /// Whatever comes, is spoken for and goes: nothing is left, and no limit is exceeded.
        #[test]
        fn what_came_in_goes_out(steps in prop::collection::vec((0u8..4, 0usize..8, 0u8..3), 0..200)) {
            let port = PortConnections::new(5, None);
            let limits = limits(0, 2);
            let address = |n: u8| IpAddr::from([10, 0, 0, n]);
            let mut kept: Vec<Arc<Connection>> = Vec::new();
            for (step, which, n) in steps {
                match step {
                    0 => kept.extend(port.enter(address(n), false, &limits).ok()),
                    1 => kept.extend(port.enter(ip("10.0.0.9"), true, &limits).ok()),
                    2 if which < kept.len() => drop(kept.swap_remove(which)),
                    _ => {
                        if let Some(connection) = kept.get(which) {
                            connection.attribute(address(n), &limits).ok();
                        }
                    }
                }
                let open = port.open();
                prop_assert_eq!(open.total, kept.len() as u64);
                prop_assert!(open.total <= 5);
                prop_assert!(open.by_network.values().all(|n| (1..=2).contains(n)));
            }
            kept.clear();
            prop_assert!(port.open().by_network.is_empty());
        }
    }
}
