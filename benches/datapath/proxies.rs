//! The proxies that are compared, each with settings that somebody would run it with for
//! WebSockets in production: two threads, long timeouts, no access log.

use crate::client::{Door, Session};
use crate::process::{Process, free_port};
use crate::redis::Redis;
use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a proxy may take until the first session goes through.
const START: Duration = Duration::from_secs(20);
const TRY_AGAIN: Duration = Duration::from_millis(50);
/// Workers that are registered in Redis for a proxy.
const WORKERS: usize = 8;
/// Threads of every proxy.
const THREADS: usize = 2;

/// What a session can go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: what the machine can do.
    Direct,
    Haproxy {
        program: PathBuf,
        splice: bool,
    },
    Nginx,
    Playhouse {
        program: PathBuf,
        /// Its workers are registered in Redis; else one stands in its configuration.
        redis: bool,
    },
}

/// A running proxy, or the backend itself.
pub struct Proxy {
    pub kind: Kind,
    pub door: Door,
    pub process: Option<Process>,
    /// Where its workers are registered.
    pub redis: Option<Redis>,
    /// Holds its configuration and its log.
    _folder: TempDir,
}

impl Kind {
    /// What can be measured here, by name; with an explanation when a program is missing.
    pub fn all(haproxies: &[PathBuf], others: &[PathBuf]) -> anyhow::Result<Vec<Kind>> {
        let mut all = vec![Kind::Direct];
        for program in haproxies {
            for splice in [false, true] {
                let program = program.clone();
                all.push(Kind::Haproxy { program, splice });
            }
        }
        all.push(Kind::Nginx);
        let built = PathBuf::from(PLAYHOUSE);
        for program in std::iter::once(&built).chain(others) {
            for redis in [false, true] {
                let program = program.clone();
                all.push(Kind::Playhouse { program, redis });
            }
        }
        for kind in &all {
            kind.version()?;
        }
        Ok(all)
    }

    /// The one that was built with this bench.
    pub fn playhouse() -> Kind {
        let program = PathBuf::from(PLAYHOUSE);
        Kind::Playhouse {
            program,
            redis: false,
        }
    }

    /// What its name ends with when its workers are registered in Redis.
    pub const WITH_REDIS: &str = ", Redis";

    pub fn name(&self) -> String {
        match self {
            Kind::Playhouse { program, redis } => {
                let name = match *program == Path::new(PLAYHOUSE) {
                    true => "Playhouse".into(),
                    false => format!("other {}", program.display()),
                };
                let redis = if *redis { Kind::WITH_REDIS } else { "" };
                format!("{name}{redis}")
            }
            Kind::Direct => "direct".into(),
            Kind::Haproxy { splice, .. } => {
                let version = self.version().unwrap_or_default();
                let short: String = version
                    .chars()
                    .take_while(|c| c.is_ascii_digit() || *c == '.')
                    .collect();
                let major = short.rsplit_once('.').map_or("", |(major, _)| major);
                let splice = if *splice { ", splice" } else { "" };
                format!("HAProxy {major}{splice}")
            }
            Kind::Nginx => "nginx".into(),
        }
    }

    /// The version it tells.
    pub fn version(&self) -> anyhow::Result<String> {
        let (program, argument) = match self {
            Kind::Direct => return Ok(String::new()),
            Kind::Haproxy { program, .. } => (program.as_path(), "-v"),
            Kind::Nginx => (Path::new(NGINX), "-v"),
            Kind::Playhouse { program, .. } => (program.as_path(), "--version"),
        };
        let output = Command::new(program)
            .arg(argument)
            .stdin(Stdio::null())
            .output()
            .with_context(|| {
                format!(
                    "{} is missing. The bench compares with HAProxy and nginx; on Debian:\n  \
                     RUNLEVEL=1 apt-get install --no-install-recommends haproxy nginx-light\n\
                     (with RUNLEVEL=1 their services are installed and not started)",
                    program.display()
                )
            })?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let words = said.lines().next().unwrap_or_default().split([' ', '/']);
        let version = words
            .into_iter()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        version
            .map(str::to_owned)
            .with_context(|| format!("{} does not tell its version: {said}", program.display()))
    }

    /// Where a session is asked for when the worker has it at `path`: Playhouse has its sessions at
    /// the root, the others pass on what they are asked for.
    pub fn door_path<'a>(&self, path: &'a str) -> &'a str {
        match self {
            Kind::Playhouse { .. } => "/",
            _ => path,
        }
    }

    /// Starts it in front of `backend`, and waits until sessions go through.
    pub async fn start(&self, backend: SocketAddr) -> anyhow::Result<Proxy> {
        self.start_for(backend, "/").await
    }

    /// The same for a server that has its sessions at `path`.
    pub async fn start_for(&self, backend: SocketAddr, path: &str) -> anyhow::Result<Proxy> {
        let folder = tempfile::tempdir()?;
        let port = free_port()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut redis = None;
        let mut command = match self {
            Kind::Direct => {
                return Ok(Proxy {
                    kind: self.clone(),
                    door: Door::new(self.name(), backend, path),
                    process: None,
                    redis: None,
                    _folder: folder,
                });
            }
            Kind::Haproxy { program, splice } => {
                let file = folder.path().join("haproxy.cfg");
                fs::write(&file, haproxy(address, backend, *splice))?;
                let mut command = Command::new(program);
                command.arg("-db").arg("-f").arg(file);
                command
            }
            Kind::Nginx => {
                let file = folder.path().join("nginx.conf");
                fs::write(&file, nginx(address, backend, folder.path()))?;
                let mut command = Command::new(NGINX);
                command.arg("-p").arg(folder.path()).arg("-c").arg(file);
                command
            }
            Kind::Playhouse {
                program,
                redis: shared,
            } => {
                let file = folder.path().join("playhouse.yaml");
                let workers = if *shared {
                    let server = Redis::start().await?;
                    server.register(WORKERS, backend, path).await?;
                    let url = server.url();
                    redis = Some(server);
                    format!("store: {{ url: \"{url}\" }}")
                } else {
                    static_worker(backend, path)
                };
                fs::write(&file, playhouse(address, free_port()?, &workers))?;
                let mut command = Command::new(program);
                command.arg("proxy").arg("--config").arg(file);
                command
            }
        };
        let log = folder.path().join("log");
        let output = fs::File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let end_with = match self {
            Kind::Playhouse { .. } => Signal::SIGINT,
            _ => Signal::SIGTERM,
        };
        let mut process = Process::start(command, end_with)?;
        let door = Door::new(self.name(), address, self.door_path(path));
        let deadline = Instant::now() + START;
        loop {
            let opened = match (path, Session::open(&door).await) {
                ("/", Ok(session)) => session.close().await,
                // A real server: that it answers is enough.
                (_, opened) => opened.map(drop),
            };
            let Err(lost) = opened else { break };
            if process.has_ended() || Instant::now() > deadline {
                let log = fs::read_to_string(&log).unwrap_or_default();
                bail!("no session through {}: {lost}\n{log}", door.name);
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
        Ok(Proxy {
            kind: self.clone(),
            door,
            process: Some(process),
            redis,
            _folder: folder,
        })
    }
}

pub const PLAYHOUSE: &str = env!("CARGO_BIN_EXE_playhouse");
const NGINX: &str = "/usr/sbin/nginx";

fn haproxy(listen: SocketAddr, backend: SocketAddr, splice: bool) -> String {
    let splice = if splice { "option splice-auto" } else { "" };
    format!(
        "global
    nbthread {THREADS}
    maxconn 9500
    maxpipes 200
defaults
    mode http
    option httpchk
    http-check send meth GET uri /json ver HTTP/1.1 hdr Host {backend} hdr Connection close
    {splice}
    timeout connect 5s
    timeout http-request 10s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
frontend clients
    bind {listen}
    default_backend workers
backend workers
    server worker {backend} check inter 5s
"
    )
}

fn nginx(listen: SocketAddr, backend: SocketAddr, folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
user root;
worker_processes {THREADS};
worker_rlimit_nofile 20000;
pid {folder}/pid;
error_log stderr warn;
events {{ worker_connections 19900; }}
http {{
    access_log off;
    client_body_temp_path {folder};
    proxy_temp_path {folder};
    fastcgi_temp_path {folder};
    uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    upstream workers {{ server {backend}; }}
    server {{
        listen {listen};
        location / {{
            proxy_pass http://workers;
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection \"upgrade\";
            proxy_read_timeout 1h;
            proxy_send_timeout 1h;
        }}
    }}
}}
"
    )
}

fn static_worker(backend: SocketAddr, path: &str) -> String {
    format!(
        "workers: [ {{ endpoint: \"ws://{backend}{path}\", browser: chromium, version: \"1.65\" }} ]"
    )
}

/// The configuration of a Playhouse proxy that finds its workers as `workers` says.
pub fn playhouse(listen: SocketAddr, admin: u16, workers: &str) -> String {
    format!(
        "listen: {listen}
admin: {{ listen: 127.0.0.1:{admin} }}
limits: {{ max_concurrent_sessions: 10000, max_lifetime_sessions: 0 }}
{workers}
server: {{ threads: {THREADS} }}
log: {{ level: warn }}
"
    )
}
