//! The grid of the campaign: three proxies, two workers with Chromium and a Redis, each on a machine
//! of its own.

use crate::machine::{Machine, Program};
use crate::support::{Books, tools};
use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub const PROXIES: usize = 3;
pub const WORKERS: usize = 2;
/// Of a worker.
pub const SEATS: usize = 5;

/// How long a grid may take to be itself again once everything works.
const RECOVERY: Duration = Duration::from_secs(90);

/// Whose sessions a fault may take with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    None,
    OfProxy,
    OfWorker,
}

pub struct Lab {
    pub redis: Machine,
    proxies: Vec<Machine>,
    workers: Vec<Machine>,
    folder: PathBuf,
}

#[derive(Deserialize)]
struct Workers {
    workers: Vec<Worker>,
}

#[derive(Deserialize)]
struct Worker {
    status: String,
    healthy: bool,
}

impl Lab {
    /// With its logs in a folder.
    pub async fn start(folder: &Path) -> Result<Lab> {
        let redis = Machine::start(
            "redis",
            2,
            Program {
                path: tools("bin/redis-server"),
                arguments: [
                    "--bind",
                    "0.0.0.0",
                    "--protected-mode",
                    "no",
                    "--save",
                    "",
                    "--dir",
                ]
                .map(str::to_owned)
                .into_iter()
                .chain([folder.display().to_string()])
                .collect(),
                environment: Vec::new(),
                log: folder.join("redis.log"),
            },
        )?;
        let config = folder.join("playhouse.yaml");
        std::fs::write(
            &config,
            format!(
                "listen: 0.0.0.0:8080\n\
                 admin: {{ listen: \"0.0.0.0:8081\", allow_unprotected: true }}\n\
                 store: {{ url: \"redis://{}:6379\" }}\n\
                 limits: {{ max_concurrent_sessions: {SEATS}, max_lifetime_sessions: 50 }}\n\
                 log: {{ format: text }}\n",
                redis.address
            ),
        )?;
        let start = |role: &str, n: usize, host: usize| {
            let name = format!("{role}{n}");
            let program = Program {
                path: env!("CARGO_BIN_EXE_playhouse").into(),
                arguments: vec![role.into(), "--config".into(), config.display().to_string()],
                environment: environment(folder, &name)?,
                log: folder.join(format!("{name}.log")),
            };
            Machine::start(&name, host as u8, program)
        };
        let proxies = (0..PROXIES).map(|n| start("proxy", n, 10 + n));
        let workers = (0..WORKERS).map(|n| start("worker", n, 20 + n));
        let lab = Lab {
            proxies: proxies.collect::<Result<_>>()?,
            workers: workers.collect::<Result<_>>()?,
            redis,
            folder: folder.to_owned(),
        };
        lab.is_itself().await?;
        Ok(lab)
    }

    pub fn proxy(&mut self, n: usize) -> &mut Machine {
        &mut self.proxies[n % PROXIES]
    }

    pub fn worker(&mut self, n: usize) -> &mut Machine {
        &mut self.workers[n % WORKERS]
    }

    pub fn proxy_addresses(&self) -> Vec<Ipv4Addr> {
        self.proxies.iter().map(|proxy| proxy.address).collect()
    }

    fn redis_url(&self) -> String {
        format!("redis://{}:6379", self.redis.address)
    }

    pub fn redis_command(&self, command: &[&str]) -> Result<()> {
        let mut connection = redis::Client::open(self.redis_url())?.get_connection()?;
        let (name, arguments) = command.split_first().context("a command")?;
        Ok(redis::cmd(name).arg(arguments).exec(&mut connection)?)
    }

    /// Redis will be empty when it is started again.
    pub fn forget_snapshot(&self) -> Result<()> {
        let file = self.folder.join("dump.rdb");
        if file.exists() {
            std::fs::remove_file(file)?;
        }
        Ok(())
    }

    /// Waits until nobody has a seat, every count says so, and every proxy has every worker. Says how
    /// long that took, or what was wrong to the last.
    pub async fn is_itself(&self) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let Err(wrong) = self.look().await else {
                return Ok(begun.elapsed());
            };
            ensure!(
                begun.elapsed() < RECOVERY,
                "the grid is not itself again: {wrong:#}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The browsers of a worker, old ones included, by the names that sessions tell.
    pub fn browsers_of(&mut self, n: usize) -> Result<Vec<String>> {
        let host = format!("://{}:", self.worker(n).address);
        let mut redis = redis::Client::open(self.redis_url())?.get_connection()?;
        let records: Vec<String> = redis::cmd("KEYS")
            .arg("worker:chromium:*")
            .query(&mut redis)?;
        let mut browsers = Vec::new();
        for record in records {
            let fields = redis::cmd("HMGET")
                .arg(&record)
                .arg(&["id", "endpoint"])
                .query::<(Option<String>, Option<String>)>(&mut redis)?;
            if let (Some(id), Some(endpoint)) = fields
                && endpoint.contains(&host)
            {
                browsers.push(id);
            }
        }
        Ok(browsers)
    }

    async fn look(&self) -> Result<()> {
        let books = Books::try_read_at(&self.redis_url())?;
        ensure!(books.wrong.is_empty(), "{:?}", books.wrong);
        ensure!(books.active() == 0, "{} sessions counted", books.active());
        ensure!(books.leases == 0, "{} leases", books.leases);
        ensure!(books.waiting == 0, "{} clients in line", books.waiting);
        for proxy in &self.proxies {
            let name = &proxy.name;
            let url = format!("http://{}:8081/v1/workers", proxy.address);
            let asking = tokio::task::spawn_blocking(move || -> Result<Workers> {
                let agent = ureq::Agent::new_with_config(
                    ureq::Agent::config_builder()
                        .timeout_global(Some(Duration::from_secs(5)))
                        .build(),
                );
                let text = agent.get(&url).call()?.into_body().read_to_string()?;
                Ok(serde_json::from_str(&text)?)
            });
            let workers = asking
                .await?
                .map_err(|error| anyhow!("{name}: {error:#}"))?
                .workers;
            let serving = workers
                .iter()
                .filter(|worker| worker.healthy && worker.status == "available");
            let serving = serving.count();
            ensure!(
                serving == WORKERS,
                "{name} has {serving} of {WORKERS} workers"
            );
        }
        Ok(())
    }
}

/// Nothing of the surroundings may have a say, and every process has folders of its own.
fn environment(folder: &Path, name: &str) -> Result<Vec<(String, String)>> {
    let own = folder.join(name);
    std::fs::create_dir_all(&own)?;
    let own = own.display().to_string();
    let path = std::env::var("PATH").context("PATH is set")?;
    let variables = ["HOME", "TMPDIR", "PLAYHOUSE_RUNTIME_DIR"];
    let mut all: Vec<_> = variables
        .map(|variable| (variable.to_owned(), own.clone()))
        .into();
    all.push(("PATH".to_owned(), path));
    Ok(all)
}
