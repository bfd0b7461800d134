//! A grid of a size that no test has: workers that are registered and send signs of life, proxies that are real
//! processes, and proxies of which only the store is there, all at one Redis.

use crate::process::{Cpu, Process, free_port};
use crate::redis::{Redis, Work, record};
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use playhouse::model::{Browser, Heartbeat, SessionId, Waiter, WorkerKey, WorkerStatus};
use playhouse::store::redis::RedisStore;
use playhouse::store::{Candidate, Event, SeatStore, Served, StoreRole, WorkerStore};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Between two signs of life of a worker, and how long its record lives: the defaults.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
const KEY_TTL: Duration = Duration::from_secs(60);
/// Connections on which the workers send them. Each worker has its own in a real grid; on one of these they come one
/// after the other, so that Redis reads and answers each by itself.
const CONNECTIONS: usize = 500;
/// How long the proxies may take to learn of all workers.
const START: Duration = Duration::from_secs(300);
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// Between two readings of the whole fleet by one proxy: at least, and as many times what one took (`fleet/watch.rs`).
pub const READ_WHOLE: Duration = Duration::from_secs(30);
pub const READING_SHARE: u32 = 200;
/// No limit is ever reached.
const SEATS: u32 = 1_000_000;

/// What was used up to a moment.
pub struct Used {
    at: Instant,
    redis: Work,
    proxies: Vec<Cpu>,
}

/// What was used in a second of some stretch of time, or by one of many things that happened in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rates {
    /// Seconds of its processor, in a second parts of one core.
    pub redis: f64,
    /// Commands, those in scripts among them.
    pub commands: f64,
    /// Bytes in and out.
    pub bytes: f64,
    /// The same of one proxy.
    pub proxy: f64,
}

impl Rates {
    /// What is used beyond something else, in so many parts.
    pub fn beyond(self, other: Rates, parts: f64) -> Rates {
        let one = |all: f64, of_other: f64| (all - of_other).max(0.0) / parts;
        Rates {
            redis: one(self.redis, other.redis),
            commands: one(self.commands, other.commands),
            bytes: one(self.bytes, other.bytes),
            proxy: one(self.proxy, other.proxy),
        }
    }
}

/// One Redis, with whoever is at it. Dropping it ends all of them.
pub struct Grid {
    pub redis: Redis,
    real: Vec<Process>,
    stores: Vec<Arc<RedisStore>>,
    tasks: JoinSet<()>,
    /// Connections on which nothing is said.
    silent: Vec<TcpStream>,
    workers: usize,
    _folder: TempDir,
}

impl Grid {
    /// An empty one.
    pub async fn start() -> anyhow::Result<Grid> {
        Ok(Grid {
            redis: Redis::start().await?,
            real: Vec::new(),
            stores: Vec::new(),
            tasks: JoinSet::new(),
            silent: Vec::new(),
            workers: 0,
            _folder: tempfile::tempdir()?,
        })
    }

    /// Registers workers, which send signs of life from then on, one in so long a time.
    pub async fn add_workers(&mut self, workers: usize, heartbeat: Duration) -> anyhow::Result<()> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("ws://{}/", listener.local_addr()?);
        self.tasks.spawn(answer_probes(listener));
        let connections = workers.min(CONNECTIONS);
        let mut registering = JoinSet::new();
        for connection in 0..connections {
            let store = self.redis.store(StoreRole::Worker)?;
            let mine = (connection..workers).step_by(connections);
            let records = mine.map(|n| record(n, &endpoint));
            let records = records.collect::<anyhow::Result<Vec<_>>>()?;
            registering.spawn(async move {
                for record in &records {
                    // All come at once, as they never do.
                    let deadline = Instant::now() + START;
                    while let Err(error) = store.register(record, KEY_TTL).await {
                        anyhow::ensure!(Instant::now() < deadline, "{error}");
                        tokio::time::sleep(TRY_AGAIN).await;
                    }
                }
                anyhow::Ok((store, records))
            });
        }
        while let Some(registered) = registering.join_next().await {
            let (store, records) = registered??;
            self.tasks.spawn(async move {
                let pause = heartbeat / records.len() as u32;
                let mut ticks = tokio::time::interval(pause);
                for (n, record) in records.iter().cycle().enumerate() {
                    ticks.tick().await;
                    let memory = Some(n as u64);
                    let beat = store.heartbeat(
                        &record.key,
                        Heartbeat::new(WorkerStatus::Available, memory),
                        KEY_TTL,
                    );
                    beat.await.ok();
                }
            });
        }
        self.workers = workers;
        Ok(())
    }

    /// Proxies that are real processes, and others that are a store and what it hears.
    pub async fn add_proxies(&mut self, real: usize, stores: usize) -> anyhow::Result<()> {
        for _ in 0..stores {
            let store = Arc::new(self.redis.store(StoreRole::Proxy)?);
            let mut events = store.events();
            let took = self.first_reading(&store).await?;
            let reader = store.clone();
            self.tasks.spawn(async move {
                while let Ok(event) = events.recv().await {
                    if event == Event::Resync {
                        reader.fleet().await.ok();
                    }
                }
            });
            self.tasks
                .spawn(read_from_time_to_time(store.clone(), took));
            self.stores.push(store);
        }
        let mut ports = Vec::new();
        for n in 0..real {
            let address = || anyhow::Ok(SocketAddr::from(([127, 0, 0, 1], free_port()?)));
            let (data, admin) = (address()?, address()?);
            let mut command = Command::new(env!("CARGO_BIN_EXE_playhouse"));
            command
                .arg("proxy")
                .env("LISTEN_ADDR", data.to_string())
                .env("ADMIN_ADDR", admin.to_string())
                .env("REDIS_URL", self.redis.url())
                .env("LOG_LEVEL", "error")
                .env(
                    "PLAYHOUSE_RUNTIME_DIR",
                    self._folder.path().join(n.to_string()),
                )
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            self.real.push(Process::start(command, Signal::SIGKILL)?);
            ports.push(data);
        }
        let deadline = Instant::now() + START;
        for port in ports {
            while !is_ready(port).await {
                if Instant::now() > deadline {
                    bail!("a proxy does not become ready");
                }
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
        Ok(())
    }

    /// How long it takes to read the fleet.
    async fn first_reading(&self, store: &RedisStore) -> anyhow::Result<Duration> {
        let deadline = Instant::now() + START;
        loop {
            let began = Instant::now();
            match store.fleet().await {
                Ok(_) => return Ok(began.elapsed()),
                Err(error) if Instant::now() > deadline => bail!("{error}"),
                Err(_) => tokio::time::sleep(TRY_AGAIN).await,
            }
        }
    }

    /// Connections to Redis on which nothing is said.
    pub async fn add_connections(&mut self, connections: usize) -> anyhow::Result<()> {
        let url = self.redis.url();
        let address = url.trim_start_matches("redis://");
        for _ in 0..connections {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"PING\r\n").await?;
            stream.read_exact(&mut [0; 7]).await?;
            self.silent.push(stream);
        }
        Ok(())
    }

    /// # Errors
    /// When workers were lost, so that what was measured is of a smaller fleet.
    pub async fn is_whole(&self) -> anyhow::Result<()> {
        let store = self.stores.first().context("a proxy")?;
        let there = store.fleet().await?.len();
        anyhow::ensure!(there == self.workers, "{there} of {} workers", self.workers);
        Ok(())
    }

    async fn used(&self) -> anyhow::Result<Used> {
        let proxies = self.real.iter().map(Process::cpu);
        Ok(Used {
            at: Instant::now(),
            redis: self.redis.work().await?,
            proxies: proxies.collect::<anyhow::Result<_>>()?,
        })
    }

    /// What is used in so long a time while nobody comes.
    pub async fn idle(&self, time: Duration) -> anyhow::Result<Rates> {
        let before = self.used().await?;
        tokio::time::sleep(time).await;
        self.since(&before).await
    }

    /// The same while sessions begin and end at the proxies that are stores, so many a second in all.
    /// Returns how many a second there were, too.
    pub async fn busy(&self, time: Duration, a_second: f64) -> anyhow::Result<(Rates, f64)> {
        let before = self.used().await?;
        let end = Instant::now() + time;
        let mut clients = JoinSet::new();
        for store in &self.stores {
            let (store, workers) = (store.clone(), self.workers);
            let pause = Duration::from_secs_f64(self.stores.len() as f64 / a_second);
            clients.spawn(async move {
                let mut ticks = tokio::time::interval(pause);
                let mut sessions = 0u32;
                while Instant::now() < end {
                    ticks.tick().await;
                    session(&store, workers).await?;
                    sessions += 1;
                }
                anyhow::Ok(sessions)
            });
        }
        let mut sessions = 0u32;
        while let Some(done) = clients.join_next().await {
            sessions += done??;
        }
        let rates = self.since(&before).await?;
        Ok((
            rates,
            f64::from(sessions) / before.at.elapsed().as_secs_f64(),
        ))
    }

    /// Reads the fleet whole so many times. Returns what one worker's row costs Redis, and this process as a proxy.
    pub async fn read(&self, times: u32) -> anyhow::Result<Rates> {
        let store = self.stores.first().context("a proxy")?;
        let (before, own) = (self.redis.work().await?, own_cpu()?);
        for _ in 0..times {
            store.fleet().await?;
        }
        let after = self.redis.work().await?;
        let rows = f64::from(times) * self.workers as f64;
        Ok(Rates {
            redis: after.cpu.since(before.cpu).as_secs_f64() / rows,
            commands: (after.commands - before.commands) as f64 / rows,
            bytes: (after.bytes - before.bytes) as f64 / rows,
            proxy: (own_cpu()? - own).as_secs_f64() / rows,
        })
    }

    async fn since(&self, before: &Used) -> anyhow::Result<Rates> {
        let now = self.used().await?;
        let seconds = (now.at - before.at).as_secs_f64();
        let proxies = now.proxies.iter().zip(&before.proxies);
        let proxies: f64 = proxies
            .map(|(now, then)| now.since(*then).as_secs_f64())
            .sum();
        Ok(Rates {
            redis: now.redis.cpu.since(before.redis.cpu).as_secs_f64() / seconds,
            commands: (now.redis.commands - before.redis.commands) as f64 / seconds,
            bytes: (now.redis.bytes - before.redis.bytes) as f64 / seconds,
            proxy: proxies / seconds / self.real.len().max(1) as f64,
        })
    }
}

/// Reads the fleet as often as a proxy does for which one reading takes so long, from some moment on: proxies do
/// not all come at the same time.
async fn read_from_time_to_time(store: Arc<RedisStore>, took: Duration) {
    let pause = READ_WHOLE.max(took * READING_SHARE);
    tokio::time::sleep(pause.mul_f64(rand::random())).await;
    let mut ticks = tokio::time::interval(pause);
    loop {
        ticks.tick().await;
        store.fleet().await.ok();
    }
}

/// Takes a seat on one of eight workers, and gives it back.
async fn session(store: &RedisStore, workers: usize) -> anyhow::Result<()> {
    let first = rand::random_range(0..workers);
    let best = (first..first + 8).map(|n| Candidate {
        key: WorkerKey::new(Browser::Chromium, format!("{:08}-worker", n % workers)),
        max_concurrent_sessions: SEATS,
        lifetime_cap: Some(SEATS),
    });
    let best: Vec<Candidate> = best.take(workers).collect();
    let newcomer = Waiter::new(SessionId::random(), KEY_TTL);
    let coming = [newcomer];
    match store
        .serve_line(Browser::Chromium, true, &coming, &best)
        .await?
    {
        Served::Line(line) if line.granted.len() == 1 => {}
        other => bail!("no seat: {other:?}"),
    }
    Ok(store.release(coming[0].session, false).await?)
}

/// Answers as a Playwright server does that is asked whether it is there.
async fn answer_probes(listener: tokio::net::TcpListener) {
    let mut open = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        while open.try_join_next().is_some() {}
        open.spawn(async move {
            let mut request = [0; 1024];
            if stream.read(&mut request).await.is_ok() {
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer).await.ok();
            }
        });
    }
}

async fn is_ready(address: SocketAddr) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
    };
    asked.await.unwrap_or(false)
}

/// Processor time of this process.
fn own_cpu() -> anyhow::Result<Duration> {
    let mut nanoseconds = 0;
    for task in procfs::process::Process::myself()?.tasks()?.flatten() {
        nanoseconds += task.schedstat().map_or(0, |stat| stat.sum_exec_runtime);
    }
    Ok(Duration::from_nanos(nanoseconds))
}
