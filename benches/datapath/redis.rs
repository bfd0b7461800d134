//! A Redis of the bench's own, and workers that are registered in it.

use crate::process::{Cpu, Process, free_port};
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use playhouse::model::{
    Browser, SeatKind, Size, WorkerKey, WorkerRecord, WorkerStatus, unix_millis,
};
use playhouse::store::redis::RedisStore;
use playhouse::store::{StoreOptions, StoreRole, WorkerStore};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const START: Duration = Duration::from_secs(20);
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// For how long workers stay registered: nobody heartbeats for them.
const REGISTERED: Duration = Duration::from_secs(6 * 3600);
/// Registrations that are on their way at the same time.
const AT_ONCE: usize = 64;

/// A running `redis-server` that keeps nothing; it ends when this is dropped.
pub struct Redis {
    process: Process,
    port: u16,
}

/// What Redis did so far.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    pub cpu: Cpu,
    pub commands: u64,
    /// Bytes in and out.
    pub bytes: u64,
}

impl Redis {
    pub async fn start() -> anyhow::Result<Redis> {
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command
            .args(["--save", "", "--appendonly", "no", "--bind", "127.0.0.1"])
            .args(["--maxclients", "20000", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let process = Process::start(command, Signal::SIGTERM)
            .context("make bench installs redis-server into .tools/bin")?;
        let redis = Redis { process, port };
        let deadline = Instant::now() + START;
        while redis.connect().await.is_err() {
            if Instant::now() > deadline {
                bail!("redis-server does not answer");
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
        Ok(redis)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    async fn connect(&self) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(self.url())?;
        client.get_multiplexed_async_connection().await
    }

    /// A store in it, as a process of this role has it.
    pub fn store(&self, role: StoreRole) -> anyhow::Result<RedisStore> {
        let config = StoreOptions {
            url: Some(self.url()),
            namespace: None,
            proxy_ttl: Duration::from_secs(10),
            poll_interval: Duration::from_secs(5),
        };
        let store = RedisStore::connect(&config, role, watch::channel(false).1);
        store.map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Registers workers that all have their sessions at one address.
    pub async fn register(
        &self,
        workers: usize,
        backend: SocketAddr,
        path: &str,
    ) -> anyhow::Result<()> {
        let store = self.store(StoreRole::Worker)?;
        let endpoint = format!("ws://{backend}{path}");
        for batch in (0..workers).collect::<Vec<_>>().chunks(AT_ONCE) {
            let records = batch.iter().map(|n| record(*n, &endpoint));
            let records = records.collect::<anyhow::Result<Vec<_>>>()?;
            let all = records.iter().map(|it| store.register(it, REGISTERED));
            futures_util::future::try_join_all(all).await?;
        }
        Ok(())
    }

    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        self.process.cpu()
    }

    /// What it did so far, by its own word but for the processor time.
    pub async fn work(&self) -> anyhow::Result<Work> {
        let mut connection = self.connect().await?;
        let info: String = redis::cmd("INFO")
            .arg("stats")
            .query_async(&mut connection)
            .await?;
        let number = |name: &str| {
            let mut lines = info.lines();
            let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            found.and_then(|text| text.trim().parse::<u64>().ok())
        };
        let of = |name: &str| number(name).with_context(|| format!("INFO without {name}"));
        Ok(Work {
            cpu: self.cpu()?,
            commands: of("total_commands_processed")?,
            bytes: of("total_net_input_bytes")? + of("total_net_output_bytes")?,
        })
    }
}

/// The record of the worker of this number.
pub fn record(n: usize, endpoint: &str) -> anyhow::Result<WorkerRecord> {
    Ok(WorkerRecord {
        key: WorkerKey::new(Browser::Chromium, format!("{n:08}-worker")),
        endpoint: endpoint.parse().context("the backend's address")?,
        status: WorkerStatus::Available,
        version: "1.65".parse().ok(),
        browser_version: None,
        devtools: None,
        replaces_itself: true,
        seat: SeatKind::Shared,
        size: Size::default(),
        fixed: false,
        started_at: unix_millis(),
        last_heartbeat: unix_millis(),
        memory: None,
        end_reason: None,
        pod: None,
        launch_options: None,
        seal: None,
    })
}
