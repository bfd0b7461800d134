//! The resolved configuration: what everything else reads, and the table of its keys. Values here
//! are valid by construction; the keys are declared in `sections`.

use super::sections::{address, pools, static_workers};
use crate::model::{Pool, Size};
use crate::settings::{Field, Key, Table};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;

pub use super::sections::{
    Admin, Auth, Limits, Log, LogFormat, Queue, Recycle, RecycleMode, SealMode, Selection, Server,
    Session, StaticWorker, StoreConfig, Strategy, Tls, TlsFiles, TlsVersion, Token, Worker,
    isolates, stretched,
};

/// What a process is started as; a few defaults depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The load balancer alone.
    Proxy,
    /// One worker.
    Worker,
    /// The whole grid on this machine.
    Up,
    /// Somebody who asks a running grid: binds no port, and need not be able to read its key.
    Operator,
}

/// Keys of earlier releases.
const REMOVED: &[(&str, &str)] = &[("recycle.strict", "recycle.ceiling: 1")];

/// The port of the original system.
const LISTEN_PORT: u16 = 8080;

/// The whole configuration of one process.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Data port.
    pub listen: SocketAddr,
    pub admin: Admin,
    /// TLS on both ports.
    pub tls: Tls,
    pub store: StoreConfig,
    pub limits: Limits,
    pub selection: Selection,
    pub queue: Queue,
    pub session: Session,
    pub recycle: Recycle,
    pub auth: Auth,
    /// Playwright servers that run somewhere without an agent.
    pub workers: Vec<StaticWorker>,
    /// Pools whose clients wait for a worker to come.
    pub pools: Vec<Pool>,
    pub worker: Worker,
    pub log: Log,
    pub server: Server,
}

impl Config {
    /// How many sessions this process's worker takes, as far as it says so itself.
    pub fn worker_size(&self) -> Size {
        self.worker.size(&self.limits)
    }

    /// The configuration of a process that is told nothing.
    pub fn defaults(role: Role) -> Config {
        // The data port of a server is for others; `up` is somebody's own machine.
        let listen = match role {
            Role::Up => Ipv4Addr::LOCALHOST,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        Config {
            listen: SocketAddr::from((listen, LISTEN_PORT)),
            admin: Admin::defaults(role),
            tls: Tls::defaults(role),
            store: StoreConfig::defaults(role),
            limits: Limits::defaults(role),
            selection: Selection::defaults(role),
            queue: Queue::defaults(role),
            session: Session::defaults(role),
            recycle: Recycle::defaults(role),
            auth: Auth::defaults(role),
            workers: Vec::new(),
            pools: Vec::new(),
            worker: Worker::defaults(role),
            log: Log::defaults(role),
            server: Server::defaults(role),
        }
    }
}

/// Every key, in the order in which the shipped file shows them.
pub static KEYS: LazyLock<Table<Config>> = LazyLock::new(|| {
    let mut keys = vec![listen()];
    keys.extend(Admin::keys(|c: &Config| &c.admin, |c| &mut c.admin));
    keys.extend(Tls::keys(|c: &Config| &c.tls, |c| &mut c.tls));
    keys.extend(StoreConfig::keys(|c: &Config| &c.store, |c| &mut c.store));
    keys.extend(Limits::keys(|c: &Config| &c.limits, |c| &mut c.limits));
    keys.extend(Selection::keys(
        |c: &Config| &c.selection,
        |c| &mut c.selection,
    ));
    keys.extend(Queue::keys(|c: &Config| &c.queue, |c| &mut c.queue));
    keys.extend(Session::keys(|c: &Config| &c.session, |c| &mut c.session));
    keys.extend(Recycle::keys(|c: &Config| &c.recycle, |c| &mut c.recycle));
    keys.extend(Auth::keys(|c: &Config| &c.auth, |c| &mut c.auth));
    keys.push(workers());
    keys.push(expected());
    keys.extend(Worker::keys(|c: &Config| &c.worker, |c| &mut c.worker));
    keys.extend(Log::keys(|c: &Config| &c.log, |c| &mut c.log));
    keys.extend(Server::keys(|c: &Config| &c.server, |c| &mut c.server));
    Table::new("PLAYHOUSE", REMOVED, keys)
});

fn expected() -> Key<Config> {
    let field = Field {
        value: Box::new(|config: &Config| config.pools.clone()),
        put: Box::new(|config, value| config.pools = value),
    };
    let doc = "Pools that are expected though they may have no worker at times, because an autoscaler \
        starts some when they are wanted: their clients wait instead of being refused at once.";
    let example = "     pools: [ { browser: chromium, version: \"1.65\", seat: shared } ]";
    Key::new("pools", field, pools(), &[doc, example]).hot()
}

fn listen() -> Key<Config> {
    let field = Field {
        value: Box::new(|config: &Config| config.listen),
        put: Box::new(|config, value| config.listen = value),
    };
    let doc = "Data port, where clients connect. `up` defaults to 127.0.0.1:8080.";
    Key::new("listen", field, address(), &[doc]).env(&["LISTEN_ADDR"])
}

fn workers() -> Key<Config> {
    let field = Field {
        value: Box::new(|config: &Config| config.workers.clone()),
        put: Box::new(|config, value| config.workers = value),
    };
    let docs = [
        "Playwright servers that run somewhere without a playhouse worker.",
        "     workers: [ { endpoint: \"ws://10.0.0.5:3131/path\", browser: chromium, version: \"1.65\" } ]",
    ];
    Key::new("workers", field, static_workers(), &docs)
        .secret()
        .hot()
}
