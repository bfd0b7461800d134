//! A grid to test: stores that share one state, and the `redis-server` behind them.

use playhouse::config::StoreConfig;
use playhouse::model::{
    Browser, Counts, SessionId, WorkerKey, WorkerRecord, WorkerStatus, unix_millis,
};
use playhouse::store::memory::MemoryStore;
use playhouse::store::redis::{RedisStore, Role};
use playhouse::store::{Candidate, Event, Reserved, Store};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{broadcast, watch};

/// Long enough for a busy machine; a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// A worker's TTL in tests that do not let it run out.
pub const TTL: Duration = Duration::from_secs(60);
/// A proxy's TTL in tests: short, for they wait for it.
pub const PROXY_TTL: Duration = Duration::from_millis(600);

/// Waits until `check` says `Ok`, else fails with what it said last.
pub async fn eventually<T>(mut check: impl AsyncFnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check().await {
            Ok(value) => return value,
            Err(why) if start.elapsed() > DEADLINE => panic!("never came true: {why}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Turns a condition into what [`eventually`] takes.
pub fn holds(condition: bool, why: impl std::fmt::Debug) -> Result<(), String> {
    condition.then_some(()).ok_or_else(|| format!("{why:?}"))
}

/// Where stores come from that share one state.
pub trait Grid: Sized {
    async fn start() -> Self;
    /// The store as one more proxy has it.
    async fn proxy(&self) -> Arc<dyn Store>;
    /// The store as a worker's agent has it.
    async fn agent(&self) -> Arc<dyn Store>;
    /// The server, when there is one.
    fn redis(&self) -> Option<&RedisServer>;
}

pub struct Memory(Arc<MemoryStore>);

impl Grid for Memory {
    async fn start() -> Memory {
        Memory(Arc::new(MemoryStore::new()))
    }

    async fn proxy(&self) -> Arc<dyn Store> {
        self.0.clone()
    }

    async fn agent(&self) -> Arc<dyn Store> {
        self.0.clone()
    }

    fn redis(&self) -> Option<&RedisServer> {
        None
    }
}

pub struct Redis(RedisServer);

impl Grid for Redis {
    async fn start() -> Redis {
        Redis(RedisServer::start())
    }

    async fn proxy(&self) -> Arc<dyn Store> {
        Arc::new(self.0.store(Role::Proxy).await)
    }

    async fn agent(&self) -> Arc<dyn Store> {
        Arc::new(self.0.store(Role::Worker).await)
    }

    fn redis(&self) -> Option<&RedisServer> {
        Some(&self.0)
    }
}

/// One `redis-server`, in a folder of its own, on a Unix socket. Killed when dropped, and by the
/// kernel when the test process is.
pub struct RedisServer {
    child: Child,
    arguments: Vec<String>,
    dir: TempDir,
}

impl RedisServer {
    pub fn start() -> RedisServer {
        RedisServer::with(&["--port", "0"])
    }

    /// With more arguments, such as a port.
    pub fn with(arguments: &[&str]) -> RedisServer {
        let dir = tempfile::tempdir().unwrap();
        let arguments: Vec<String> = arguments.iter().map(|text| text.to_string()).collect();
        let child = spawn(&dir, &arguments);
        let server = RedisServer {
            child,
            arguments,
            dir,
        };
        server.wait_until_up();
        server
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `SIGKILL`: nothing is saved.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::remove_file(self.socket()).ok();
    }

    /// After [`RedisServer::kill`]: a new, empty one in the same place.
    pub fn restart(&mut self) {
        self.child = spawn(&self.dir, &self.arguments);
        self.wait_until_up();
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a plain system call on a child that has not been waited for.
        let result = unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        assert_eq!(result, 0);
    }

    fn wait_until_up(&self) {
        let start = Instant::now();
        while redis::Client::open(self.url())
            .unwrap()
            .get_connection()
            .is_err()
        {
            assert!(start.elapsed() < DEADLINE, "redis-server did not start");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs one command the way `redis-cli` would.
    pub fn cli<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_cli(command).unwrap()
    }

    pub fn try_cli<T: redis::FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        let mut connection = redis::Client::open(self.url())?.get_connection()?;
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]).query(&mut connection)
    }

    pub fn config(&self) -> StoreConfig {
        store_config(self.url())
    }

    /// A store that has connected.
    pub async fn store(&self, role: Role) -> RedisStore {
        let store = connect(&self.config(), role);
        eventually(async || holds(store.reachable(), "not connected")).await;
        store
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(dir: &TempDir, arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    command
        .args(["--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(dir.path().join("redis.sock"))
        .arg("--dir")
        .arg(dir.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: prctl is async-signal-safe and touches only the child.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
        .spawn()
        .expect("redis-server has to be installed to test the Redis store")
}

pub fn store_config(url: String) -> StoreConfig {
    StoreConfig {
        url: Some(url),
        strict: false,
        proxy_ttl: PROXY_TTL,
        reap_interval: Duration::from_secs(300),
        poll_interval: Duration::from_millis(250),
    }
}

/// A store that never hears of a shutdown.
pub fn connect(config: &StoreConfig, role: Role) -> RedisStore {
    RedisStore::connect(config, role, watch::channel(false).1).unwrap()
}

pub fn key(id: &str) -> WorkerKey {
    WorkerKey::new(Browser::Chromium, id)
}

pub fn record(worker: &WorkerKey) -> WorkerRecord {
    WorkerRecord {
        key: worker.clone(),
        endpoint: "ws://127.0.0.1:3131/secret".parse().unwrap(),
        status: WorkerStatus::Available,
        version: "1.65".parse().ok(),
        browser_version: None,
        replaces_itself: true,
        started_at: unix_millis(),
        last_heartbeat: unix_millis(),
        memory: None,
    }
}

pub fn candidate(worker: &WorkerKey, max_active: u32, max_lifetime: Option<u32>) -> Candidate {
    Candidate {
        key: worker.clone(),
        max_active,
        max_lifetime,
    }
}

/// Reserves for a new session, which must get a seat.
pub async fn seat(store: &dyn Store, candidates: &[Candidate]) -> (SessionId, WorkerKey, Counts) {
    let session = SessionId::random();
    match store.reserve(session, candidates).await.unwrap() {
        Reserved::Seat { worker, counts } => (session, worker, counts),
        other => panic!("no seat: {other:?}"),
    }
}

/// A worker's counts as the fleet has them.
pub async fn counts(store: &dyn Store, worker: &WorkerKey) -> Option<(u32, u32)> {
    let fleet = store.fleet().await.unwrap();
    let view = fleet.into_iter().find(|view| view.record.key == *worker)?;
    Some((view.counts.active, view.counts.lifetime))
}

/// The next event that `pick` takes.
pub async fn event<T>(
    events: &mut broadcast::Receiver<Event>,
    mut pick: impl FnMut(Event) -> Option<T>,
) -> T {
    let picked = async {
        loop {
            if let Some(picked) = pick(events.recv().await.unwrap()) {
                return picked;
            }
        }
    };
    tokio::time::timeout(DEADLINE, picked)
        .await
        .expect("the event never came")
}
