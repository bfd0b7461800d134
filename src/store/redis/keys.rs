//! Every key and channel in Redis, and nothing else. The scripts get the names from here.
//!
//! The constants are the names without a namespace; [`Keys`] are the names of one grid: behind its
//! namespace, and with channels that carry the number of its database, because Redis' own channels
//! know none.
//!
//! The first group is the schema of playwright-distributed v0.3, which its workers and people with
//! `redis-cli` rely on; the second is ours alone and lives under `playhouse:`. `docs/redis.md`
//! says what each holds.

use crate::model::{Browser, WorkerKey};
use crate::store::PermitPool;

/// Prefix of a worker's record: `worker:{browser}:{id}`, a hash with a TTL.
pub const WORKER: &str = "worker:";
/// Prefix of the order to recycle, and of the channel that announces it.
pub const COMMAND: &str = "worker:cmd:";
/// What the order to recycle says.
pub const SHUTDOWN: &str = "shutdown";
/// What is said on the channel of that order to have the worker check its browser.
pub const CHECK: &str = "playhouse:check";
/// Hash `{browser}:{id}` -> open or reserved sessions.
pub const ACTIVE: &str = "cluster:active_connections";
/// Hash `{browser}:{id}` -> sessions ever given to that worker.
pub const LIFETIME: &str = "cluster:lifetime_connections";

/// Prefix of the lifetime of a worker that fell silent, for its return:
/// `playhouse:silent:{browser}:{id}`.
pub const SILENT: &str = "playhouse:silent:";
/// Sorted set `{browser}:{id}` -> when its record is due to expire, in Redis' milliseconds.
pub const WORKERS: &str = "playhouse:workers";
/// Prefix of a worker's seats: `playhouse:seats:{browser}:{id}`, a hash session -> proxy.
pub const SEATS: &str = "playhouse:seats:";
/// Set of the proxies that may hold seats.
pub const PROXIES: &str = "playhouse:proxies";
/// Prefix of a proxy's identity: `playhouse:proxy:{proxy}`, the epoch of its connection, with TTL.
pub const PROXY: &str = "playhouse:proxy:";
/// Prefix of what a proxy holds: `playhouse:leases:{proxy}`, a hash session -> worker.
pub const LEASES: &str = "playhouse:leases:";
/// Prefix of the turns to be out of service: `playhouse:turns:{browser}`, a hash worker -> when its
/// turn is over at the latest.
pub const TURNS: &str = "playhouse:turns:";
/// Hash reason -> workers of the grid that were recycled for it.
pub const RECYCLES: &str = "playhouse:recycles";
/// Number of the grid's processes that kernels ended for want of memory.
pub const OOM_KILLS: &str = "playhouse:oom_kills";
/// Prefix of the turns in a browser's line: `playhouse:line:{browser}`, a hash tenant -> when its next
/// turn is due, which seat was its last, and its priority.
pub const LINE: &str = "playhouse:line:";
/// Prefix of a browser's lanes: `playhouse:lanes:{browser}`, a set of `{version}/{tenant}`, with
/// `:own` behind the version for seats of their own.
pub const LANES: &str = "playhouse:lanes:";
/// Prefix of a lane: `playhouse:lane:{browser}/{version}/{tenant}`, a sorted set of those who wait,
/// `{session} {proxy}`, by when they came.
pub const LANE: &str = "playhouse:lane:";
/// Prefix of a proxy's waiting clients: `playhouse:waiting:{proxy}`, a hash session -> until when it
/// waits, its lane, and the workers it was offered. With a TTL: how it is known to wait at all.
pub const WAITING: &str = "playhouse:waiting:";
/// Prefix of the seats of a browser that were given to clients of other proxies: `playhouse:unconfirmed:{browser}`, a hash session ->
/// until when its proxy has to take it up, the grid, the proxy. With a TTL.
pub const UNCONFIRMED: &str = "playhouse:unconfirmed:";
/// Prefix of the permits of a pool: `playhouse:permits:{pool}`, a hash holder -> version of its word,
/// weight, and when it lapses. With a TTL.
pub const PERMITS: &str = "playhouse:permits:";
/// A random secret of the grid's: what its proxies sign for each other.
pub const SECRET: &str = "playhouse:secret";
/// Prefix of what may be used once and was: `playhouse:used:{name}`, with a TTL.
pub const USED: &str = "playhouse:used:";
/// Counter that rises with every change of a worker's counts.
pub const REVISION: &str = "playhouse:revision";
/// Sorted set worker -> the revision of its last change, for proxies that missed the message.
pub const CHANGED: &str = "playhouse:changed";
/// Sorted set of the workers that left last -> the revision at which they did.
pub const GONE: &str = "playhouse:gone";
/// A random name that is lost together with everything else: how emptiness is noticed.
pub const GRID: &str = "playhouse:grid";
/// There while seats are kept for those who have not spoken since Redis came back empty or old.
pub const GHOSTS: &str = "playhouse:ghosts";
/// Hash `{browser}:{id}` -> its lifetime of before Redis came back empty or old, as far as somebody has told. With
/// a TTL.
pub const RESTORED: &str = "playhouse:restored";
/// Hash `{browser}:{id}` -> how many sessions were given to it and back again: what is missing of its lifetime
/// beside what Redis lost.
pub const REFUNDS: &str = "playhouse:refunds";
/// Hash of what this `grid` went through: when a proxy was last heard (`heard`), from when on the
/// silent are judged (`judged`), until when (`counted`) how many proxies (`awaited`) are awaited and how many of
/// them have written down what they held (`told`); times in Redis' milliseconds.
pub const PULSE: &str = "playhouse:pulse";
/// Held by the proxy that looks for workers that registered by hand.
pub const SCAN: &str = "playhouse:scan";
/// Prefix of the answers to one proxy's question: `playhouse:answers:{inquiry}`, a hash proxy -> its
/// answer.
pub const ANSWERS: &str = "playhouse:answers:";
/// Channel of changes, for proxies, and of what they ask each other.
pub const EVENTS: &str = "playhouse:events";
/// Prefix of a proxy's channel: `playhouse:grants:{proxy}` tells of its sessions that others give a seat.
pub const GRANTS: &str = "playhouse:grants";
/// Channel that tells everybody to write down again what is theirs.
pub const RESET: &str = "playhouse:reset";

/// The names of one grid.
pub struct Keys {
    /// Stands before every key and channel.
    namespace: String,
    /// The database when it is another than the first.
    database: Option<i64>,
    pub events: String,
    pub reset: String,
}

impl Keys {
    /// The names in this database, behind `namespace`, which a colon separates from them.
    pub fn new(namespace: Option<&str>, database: i64) -> Keys {
        let mut namespace = namespace.unwrap_or_default().to_owned();
        if !namespace.is_empty() && !namespace.ends_with(':') {
            namespace.push(':');
        }
        let mut keys = Keys {
            namespace,
            database: (database != 0).then_some(database),
            events: String::new(),
            reset: String::new(),
        };
        keys.events = keys.channel(EVENTS);
        keys.reset = keys.channel(RESET);
        keys
    }

    fn channel(&self, name: &str) -> String {
        let name = self.name(name);
        match self.database {
            // Without a number: the name that all versions know.
            None => name,
            Some(database) => format!("{name}@{database}"),
        }
    }

    /// This name behind the namespace.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.namespace)
    }

    /// What scripts call the keys, each with its name.
    pub fn lua_names(&self) -> Vec<(&'static str, String)> {
        let names = [
            ("worker", WORKER),
            ("command", COMMAND),
            ("shutdown", SHUTDOWN),
            ("active", ACTIVE),
            ("lifetime", LIFETIME),
            ("workers", WORKERS),
            ("seats", SEATS),
            ("silent", SILENT),
            ("proxies", PROXIES),
            ("proxy", PROXY),
            ("leases", LEASES),
            ("turns", TURNS),
            ("line", LINE),
            ("lanes", LANES),
            ("lane", LANE),
            ("waiting", WAITING),
            ("unconfirmed", UNCONFIRMED),
            ("revision", REVISION),
            ("changed", CHANGED),
            ("gone", GONE),
            ("pulse", PULSE),
            ("ghosts", GHOSTS),
            ("restored", RESTORED),
            ("refunds", REFUNDS),
            ("grid", GRID),
            ("events", EVENTS),
            ("grants", GRANTS),
            ("reset", RESET),
        ];
        let named = names.into_iter().map(|(entry, name)| {
            let name = match name {
                // A word, no name.
                SHUTDOWN => name.to_owned(),
                EVENTS | GRANTS | RESET => self.channel(name),
                _ => self.name(name),
            };
            (entry, name)
        });
        named.collect()
    }

    /// Keys that a grid has once and that workers use too, with their types.
    pub fn shared_with_workers(&self) -> Vec<(String, &'static str)> {
        let types = [
            (ACTIVE, "hash"),
            (LIFETIME, "hash"),
            (WORKERS, "zset"),
            (RECYCLES, "hash"),
            (REVISION, "string"),
            (CHANGED, "zset"),
            (GONE, "zset"),
            (RESTORED, "hash"),
            (REFUNDS, "hash"),
            (GRID, "string"),
            (GHOSTS, "string"),
            (OOM_KILLS, "string"),
        ];
        let once = types.map(|(name, kind)| (self.name(name), kind));
        let warm_ups = (self.permits(PermitPool::WarmUps), "hash");
        let turns = Browser::ALL.map(|browser| (self.turns(browser), "hash"));
        once.into_iter().chain([warm_ups]).chain(turns).collect()
    }

    /// Keys that a grid has once and that are for proxies alone, with their types.
    pub fn of_proxies(&self) -> Vec<(String, &'static str)> {
        let types = [
            (PROXIES, "set"),
            (PULSE, "hash"),
            (SCAN, "string"),
            (SECRET, "string"),
        ];
        let once = types.map(|(name, kind)| (self.name(name), kind));
        let of_browsers = Browser::ALL.into_iter().flat_map(|browser| {
            [
                (self.name(&format!("{LINE}{browser}")), "hash"),
                (self.lanes(browser), "set"),
                (self.name(&format!("{UNCONFIRMED}{browser}")), "hash"),
            ]
        });
        once.into_iter().chain(of_browsers).collect()
    }

    /// Keys that a proxy has, with their types.
    pub fn of_proxy(&self, proxy: &str) -> [(String, &'static str); 3] {
        [
            (self.identity(proxy), "string"),
            (self.leases(proxy), "hash"),
            (self.waiting(proxy), "hash"),
        ]
    }

    /// Keys beside its record that a worker has, with their types.
    pub fn of_worker(&self, worker: &WorkerKey) -> [(String, &'static str); 2] {
        let silent = format!("{}{SILENT}{worker}", self.namespace);
        [(self.seats(worker), "hash"), (silent, "string")]
    }

    /// The set of the lanes in which clients wait for this browser.
    pub fn lanes(&self, browser: Browser) -> String {
        format!("{}{LANES}{browser}", self.namespace)
    }

    /// The sorted set of the clients in one of those lanes.
    pub fn lane(&self, browser: Browser, lane: &str) -> String {
        format!("{}{LANE}{browser}/{lane}", self.namespace)
    }

    /// The hash with what this worker says of itself.
    pub fn record(&self, worker: &WorkerKey) -> String {
        format!("{}{WORKER}{worker}", self.namespace)
    }

    /// The pattern of all records.
    pub fn records(&self) -> String {
        format!("{}{WORKER}*", self.namespace)
    }

    /// The channel, and key, of the order to recycle this worker.
    pub fn command(&self, worker: &WorkerKey) -> String {
        format!("{}{COMMAND}{worker}", self.namespace)
    }

    /// The worker whose order to recycle has this channel, or key.
    pub fn ordered(&self, command: &str) -> Option<WorkerKey> {
        let name = command.strip_prefix(&self.namespace)?;
        name.strip_prefix(COMMAND)?.parse().ok()
    }

    /// The hash of the seats of this worker.
    pub fn seats(&self, worker: &WorkerKey) -> String {
        format!("{}{SEATS}{worker}", self.namespace)
    }

    /// The hash of the workers of a browser that have their turn to be out of service.
    pub fn turns(&self, browser: Browser) -> String {
        format!("{}{TURNS}{browser}", self.namespace)
    }

    /// The key that is there while this proxy lives.
    pub fn identity(&self, proxy: &str) -> String {
        format!("{}{PROXY}{proxy}", self.namespace)
    }

    /// The hash of this proxy's waiting clients.
    pub fn waiting(&self, proxy: &str) -> String {
        format!("{}{WAITING}{proxy}", self.namespace)
    }

    /// The channel on which this proxy hears of seats that others give to its sessions.
    pub fn grants(&self, proxy: &str) -> String {
        format!("{}:{proxy}", self.channel(GRANTS))
    }

    /// The hash of what this proxy holds.
    pub fn leases(&self, proxy: &str) -> String {
        format!("{}{LEASES}{proxy}", self.namespace)
    }

    /// The hash of the permits of this pool.
    pub fn permits(&self, pool: PermitPool<'_>) -> String {
        match pool {
            PermitPool::WarmUps => format!("{}{PERMITS}warm-ups", self.namespace),
            PermitPool::Sessions { tenant } => {
                format!("{}{PERMITS}sessions:{tenant}", self.namespace)
            }
        }
    }

    /// The hash of the answers to this inquiry.
    pub fn answers(&self, inquiry: &str) -> String {
        format!("{}{ANSWERS}{inquiry}", self.namespace)
    }

    /// The worker whose record has this name, if it is one.
    pub fn worker_of(&self, record: &str) -> Option<WorkerKey> {
        let name = record.strip_prefix(&self.namespace)?;
        name.strip_prefix(WORKER)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_its_worker_and_an_order_names_none() {
        for namespace in [None, Some("ci"), Some("ci:")] {
            let keys = Keys::new(namespace, 0);
            let worker: WorkerKey = "chromium:a:b".parse().unwrap();
            assert_eq!(keys.worker_of(&keys.record(&worker)), Some(worker.clone()));
            assert_eq!(keys.worker_of(&keys.command(&worker)), None);
            assert_eq!(keys.ordered(&keys.command(&worker)), Some(worker));
        }
        assert_eq!(Keys::new(None, 0).worker_of("worker:lynx:a"), None);
        assert_eq!(
            Keys::new(Some("ci"), 0).worker_of("worker:chromium:a"),
            None
        );
    }

    #[test]
    fn no_two_grids_share_a_channel() {
        let grids = [
            (None, 0),
            (None, 1),
            (Some("a"), 0),
            (Some("a"), 1),
            (Some("b:"), 0),
        ];
        let names: std::collections::HashSet<_> = grids
            .map(|(namespace, database)| Keys::new(namespace, database).events)
            .into();
        assert_eq!(names.len(), grids.len(), "{names:?}");
        assert_eq!(Keys::new(None, 0).events, "playhouse:events");
        assert_eq!(Keys::new(Some("b:"), 0).reset, "b:playhouse:reset");
        assert_eq!(Keys::new(None, 2).grants("p"), "playhouse:grants@2:p");
    }
}
