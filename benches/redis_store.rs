//! Reservations on a real Redis as the fleet grows: ours, and a script that does what the
//! original's does for each session, which is to read every worker.
//!
//! `cargo bench --bench redis_store` starts its own `redis-server`. Each line is one server, one
//! proxy and 32 sessions at a time that take a seat and give it back. Ours asks as a proxy does: one question at
//! a time, for all who have come meanwhile.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use playhouse::model::{Browser, SessionId, Waiter, WorkerKey, WorkerRecord, unix_millis};
use playhouse::store::redis::RedisStore;
use playhouse::store::{
    Candidate, MAX_CANDIDATES, SeatStore, Served, StoreOptions, StoreRole, WorkerStore,
};
use procfs::process::Process;
use redis::aio::MultiplexedConnection;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

const FLEETS: [u32; 4] = [10, 100, 1_000, 10_000];
const CLIENTS: usize = 32;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(4);
const HOUR: Duration = Duration::from_secs(3600);
/// No limit is ever reached, so that each attempt gets a seat.
const MAX_ACTIVE: u32 = 1_000_000;

/// A client that has just come, and who awaits that it has a seat.
type Newcomer = (Waiter, oneshot::Sender<()>);

/// Asks for the seats of all who have come since it asked last.
async fn ask(
    store: Arc<RedisStore>,
    workers: Vec<WorkerKey>,
    mut coming: mpsc::UnboundedReceiver<Newcomer>,
) {
    let (mut newcomers, mut anew) = (Vec::new(), true);
    while coming.recv_many(&mut newcomers, CLIENTS).await > 0 {
        let (waiters, seated): (Vec<_>, Vec<_>) = newcomers.drain(..).unzip();
        let order = candidates(&workers);
        let served = loop {
            let asked = store.serve_line(Browser::Chromium, anew, &waiters, &order);
            match asked.await.unwrap() {
                Served::Line(served) => break served,
                Served::Unknown => anew = true,
            }
        };
        anew = false;
        assert_eq!(served.granted.len(), waiters.len());
        for seated in seated {
            seated.send(()).ok();
        }
    }
}

/// What the original does for a session, in its own way: both counters of all workers, the TTL and
/// two fields of each, then the highest lifetime below the margin.
const RIVAL: &str = r"
    local most_active, most_lifetime = tonumber(ARGV[1]), tonumber(ARGV[2])
    local function numbers(hash)
      local flat, out = redis.call('HGETALL', hash), {}
      for i = 1, #flat, 2 do out[flat[i]] = tonumber(flat[i + 1]) end
      return out
    end
    local active = numbers('cluster:active_connections')
    local lifetime = numbers('cluster:lifetime_connections')
    local workers = 0
    for _ in pairs(active) do workers = workers + 1 end
    local margin = math.max(1, math.floor(most_lifetime / workers))
    local best, best_lifetime, best_active
    for worker, a in pairs(active) do
      local l = lifetime[worker] or 0
      local ttl = redis.call('TTL', 'worker:' .. worker)
      local fields = redis.call('HMGET', 'worker:' .. worker, 'status', 'browserType')
      if ttl > 0 and fields[1] == 'available' and fields[2] == ARGV[3] and a < most_active
          and l < most_lifetime - margin
          and (not best or l > best_lifetime or (l == best_lifetime and a < best_active)) then
        best, best_lifetime, best_active = worker, l, a
      end
    end
    if not best then return false end
    redis.call('HINCRBY', 'cluster:active_connections', best, 1)
    redis.call('HINCRBY', 'cluster:lifetime_connections', best, 1)
    return best";

/// A `redis-server` of our own, on a Unix socket.
struct Server {
    child: Child,
    folder: TempDir,
}

impl Server {
    async fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(folder.path().join("redis.sock"))
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let server = Server { child, folder };
        while server.connect().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server
    }

    fn url(&self) -> String {
        let socket = self.folder.path().join("redis.sock");
        format!("redis+unix://{}", socket.display())
    }

    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let client = redis::Client::open(self.url())?;
        // The rival needs its time with 10,000 workers.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// Processor time it has used.
    fn cpu(&self) -> Duration {
        let process = Process::new(self.child.id() as i32).unwrap();
        let stat = process.stat().unwrap();
        let ticks = stat.utime + stat.stime;
        Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// One way to take a seat and to give it back.
#[derive(Clone)]
enum Contender {
    Ours {
        store: Arc<RedisStore>,
        asker: mpsc::UnboundedSender<Newcomer>,
    },
    Original {
        connection: MultiplexedConnection,
        script: Arc<redis::Script>,
    },
}

impl Contender {
    async fn ours(server: &Server, workers: Vec<WorkerKey>) -> Contender {
        let config = StoreOptions {
            url: Some(server.url()),
            namespace: None,
            proxy_ttl: Duration::from_secs(15),
            poll_interval: HOUR,
        };
        let store =
            RedisStore::connect(&config, StoreRole::Proxy, watch::channel(false).1).unwrap();
        for worker in &workers {
            let record = WorkerRecord {
                version: "1.65".parse().ok(),
                replaces_itself: true,
                ..WorkerRecord::new(
                    worker.clone(),
                    "ws://10.0.0.1:3131/0123456789abcdef".parse().unwrap(),
                    unix_millis(),
                )
            };
            store.register(&record, HOUR).await.unwrap();
        }
        let store = Arc::new(store);
        let (asker, coming) = mpsc::unbounded_channel();
        tokio::spawn(ask(store.clone(), workers, coming));
        Contender::Ours { store, asker }
    }

    /// On the workers that ours registered: the records are the same.
    async fn original(server: &Server) -> Contender {
        Contender::Original {
            connection: server.connect().await.unwrap(),
            script: Arc::new(redis::Script::new(RIVAL)),
        }
    }

    /// Takes a seat and gives it back. Returns how long the taking took.
    async fn session(&self) -> Duration {
        match self {
            Contender::Ours { store, asker } => {
                let session = SessionId::random();
                let (told, seated) = oneshot::channel();
                let begun = Instant::now();
                asker.send((Waiter::new(session, HOUR), told)).ok();
                seated.await.unwrap();
                let took = begun.elapsed();
                store.release(session, false).await.unwrap();
                took
            }
            Contender::Original { connection, script } => {
                let mut connection = connection.clone();
                let mut call = script.arg(MAX_ACTIVE);
                call.arg(u32::MAX).arg("chromium");
                let begun = Instant::now();
                let worker: String = call.invoke_async(&mut connection).await.unwrap();
                let took = begun.elapsed();
                let _: i64 = redis::cmd("HINCRBY")
                    .arg(("cluster:active_connections", worker, -1))
                    .query_async(&mut connection)
                    .await
                    .unwrap();
                took
            }
        }
    }
}

/// What a proxy's own ranking would hand over: some eight of the fleet.
fn candidates(workers: &[WorkerKey]) -> Vec<Candidate> {
    let start = rand::random_range(0..workers.len());
    let best = workers.iter().cycle().skip(start).take(MAX_CANDIDATES);
    best.map(|key| Candidate {
        key: key.clone(),
        max_concurrent_sessions: MAX_ACTIVE,
        lifetime_cap: Some(u32::MAX),
    })
    .collect()
}

struct Result {
    reservations: usize,
    per_second: f64,
    median: Duration,
    p99: Duration,
    /// Redis' processor time for one session.
    cpu: Duration,
    /// Share of one core that Redis used.
    busy: f64,
}

async fn measure(contender: &Contender, server: &Server) -> Result {
    load(contender, WARM_UP).await;
    let (cpu, begun) = (server.cpu(), Instant::now());
    let mut took = load(contender, MEASURED).await;
    let (cpu, elapsed) = (server.cpu() - cpu, begun.elapsed());
    took.sort_unstable();
    Result {
        reservations: took.len(),
        per_second: took.len() as f64 / elapsed.as_secs_f64(),
        median: took[took.len() / 2],
        p99: took[took.len() * 99 / 100],
        cpu: cpu / took.len() as u32,
        busy: cpu.as_secs_f64() / elapsed.as_secs_f64(),
    }
}

/// Every client one session after the other, until the time is over.
async fn load(contender: &Contender, time: Duration) -> Vec<Duration> {
    let end = Instant::now() + time;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let contender = contender.clone();
        clients.spawn(async move {
            let mut took = Vec::new();
            while Instant::now() < end {
                took.push(contender.session().await);
            }
            took
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}

fn main() {
    // `cargo test --benches` only wants to know that it runs.
    let fleets = if std::env::args().any(|argument| argument == "--bench") {
        &FLEETS[..]
    } else {
        &FLEETS[..1]
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    println!(
        "{:>8} {:>10} {:>14} {:>10} {:>10} {:>12} {:>10}",
        "workers", "script", "reservations/s", "median", "p99", "Redis CPU", "busy"
    );
    for &size in fleets {
        runtime.block_on(async {
            let server = Server::start().await;
            let workers = (0..size)
                .map(|n| WorkerKey::new(Browser::Chromium, format!("{n:08}-worker")))
                .collect();
            let ours = Contender::ours(&server, workers).await;
            let original = Contender::original(&server).await;
            for (name, contender) in [("ours", ours), ("original", original)] {
                let result = measure(&contender, &server).await;
                println!(
                    "{size:>8} {name:>10} {:>14.0} {:>10.2?} {:>10.2?} {:>12.2?} {:>9.0}% of {} sessions",
                    result.per_second,
                    result.median,
                    result.p99,
                    result.cpu,
                    result.busy * 100.0,
                    result.reservations,
                );
            }
        });
    }
}
