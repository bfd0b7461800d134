//! A grid of real `playhouse` processes on free ports, that ends with its test and leaves nothing
//! behind.

use super::eventually::eventually;
use super::machine::{Room, Share, free_port, repository, room};
use super::process::Tree;
use super::proxy::Proxy;
use super::{Authority, Certificate, ControlGroup, FakePlaywright, RedisServer};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A grid about to be started. Without more, `playhouse up` with two Chromium.
#[derive(Default)]
pub struct GridBuilder {
    workers: Option<usize>,
    browser: Option<&'static str>,
    /// Each as an entry of `workers:`.
    static_workers: Vec<String>,
    described_workers: usize,
    foreign_workers: usize,
    workers_later: bool,
    redis: Option<String>,
    proxies: usize,
    worker_processes: Vec<Vec<(String, String)>>,
    config: String,
    authority: Option<PathBuf>,
    admin_token: Option<String>,
    environment: Vec<(String, String)>,
    stderr: Option<File>,
    workers_group: Option<PathBuf>,
}

/// A running grid. What a [`Proxy`] can be asked is asked of the first one.
pub struct Grid {
    pub(super) proxies: Vec<Proxy>,
    pub(super) processes: Vec<Spawned>,
    /// Processes that handed their listeners over, and are left to finish.
    pub(super) predecessors: Vec<Spawned>,
    /// Configuration, logs, and the `TMPDIR` of all processes.
    pub(super) folder: TempDir,
    stderr: Option<File>,
    _room: Arc<Room>,
}

pub(super) struct Spawned {
    pub(super) name: String,
    pub(super) child: Child,
    pub(super) log: PathBuf,
    /// What it was started with, to be started once more.
    pub(super) command: Command,
}

impl GridBuilder {
    /// Browsers of `playhouse up`.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Where its processes log, if not into a file of the grid.
    pub fn stderr(mut self, file: File) -> Self {
        self.stderr = Some(file);
        self
    }

    pub fn browser(mut self, browser: &'static str) -> Self {
        self.browser = Some(browser);
        self
    }

    /// Instead of `up`: a proxy in front of these, as static workers that tell no version.
    pub fn fakes(mut self, fakes: &[&FakePlaywright]) -> Self {
        let entry = |fake: &&FakePlaywright| {
            format!("{{ endpoint: \"{}\", browser: chromium }}", fake.endpoint())
        };
        self.static_workers.extend(fakes.iter().map(entry));
        self
    }

    /// The same, of this version, such as `1.65`.
    pub fn fakes_of_version(mut self, version: &str, fakes: &[&FakePlaywright]) -> Self {
        let entry = |fake: &&FakePlaywright| {
            let endpoint = fake.endpoint();
            format!("{{ endpoint: \"{endpoint}\", browser: chromium, version: \"{version}\" }}")
        };
        self.static_workers.extend(fakes.iter().map(entry));
        self
    }

    /// Instead of `up`: so many static workers that [`GridBuilder::config`] describes.
    pub fn static_workers(mut self, workers: usize) -> Self {
        self.described_workers = workers;
        self
    }

    /// Instead of `up`: proxies and workers that meet in this Redis.
    pub fn redis(mut self, redis: &RedisServer) -> Self {
        self.redis = Some(redis.url());
        self
    }

    /// The same, on a way of the test's own.
    pub fn redis_at(mut self, url: String) -> Self {
        self.redis = Some(url);
        self
    }

    /// With Redis: this many proxies.
    pub fn proxies(mut self, proxies: usize) -> Self {
        self.proxies = proxies;
        self
    }

    /// With Redis: one more `playhouse worker`, with these variables besides the grid's.
    pub fn worker_process(mut self, environment: &[(&str, &str)]) -> Self {
        self.worker_processes.push(owned(environment));
        self
    }

    /// With Redis: its workers start within this group.
    pub fn workers_in(mut self, group: &ControlGroup) -> Self {
        self.workers_group = Some(group.members());
        self
    }

    /// With Redis: so many workers that have registered there without the grid's help.
    pub fn foreign_workers(mut self, workers: usize) -> Self {
        self.foreign_workers = workers;
        self
    }

    /// With Redis: workers that the test starts itself, once the proxies serve.
    pub fn workers_later(mut self) -> Self {
        self.workers_later = true;
        self
    }

    /// Sessions at once on a worker.
    pub fn capacity(self, sessions: u32) -> Self {
        self.env("MAX_CONCURRENT_SESSIONS", &sessions.to_string())
    }

    /// Sessions until a worker gets a fresh browser.
    pub fn lifetime(self, sessions: u32) -> Self {
        self.env("MAX_LIFETIME_SESSIONS", &sessions.to_string())
    }

    pub fn queue_timeout(self, timeout: Duration) -> Self {
        self.env("WORKER_SELECT_TIMEOUT", &timeout.as_secs().to_string())
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// YAML for the configuration file of every process, without `workers:` if there are fakes.
    pub fn config(mut self, yaml: &str) -> Self {
        self.config.push_str(yaml);
        self.config.push('\n');
        self
    }

    /// Both ports speak TLS, with a certificate of this authority.
    pub fn tls(mut self, authority: &Authority, certificate: &Certificate) -> Self {
        self.authority = Some(authority.file());
        self.config(&certificate.yaml())
    }

    /// The admin port asks for this token.
    pub fn admin_token(mut self, token: &str) -> Self {
        let hash: String = Sha256::digest(token.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        self.admin_token = Some(token.to_owned());
        self.env("PLAYHOUSE_ADMIN_TOKEN_SHA256", &hash)
    }

    /// Starts the processes and waits until every worker can be used through every proxy.
    pub async fn start(self) -> Grid {
        let expected = match self.role() {
            "up" => self.workers.unwrap_or(2),
            _ => {
                self.static_workers.len()
                    + self.described_workers
                    + self.foreign_workers
                    + self.worker_processes.len()
            }
        };
        let mut grid = self.spawn().await;
        grid.wait_until_ready(expected).await;
        grid
    }

    /// Starts the processes and waits for nothing.
    pub async fn launch(self) -> Grid {
        self.spawn().await
    }

    /// Starts a grid that cannot run, and waits until its first process gives up: how it ended,
    /// and what it said.
    pub async fn start_in_vain(self) -> (ExitStatus, String) {
        let mut grid = self.spawn().await;
        let first = &mut grid.processes[0].child;
        let status = eventually("it gives up", async || {
            first.try_wait().expect("it is ours")
        });
        (status.await, grid.log())
    }

    async fn spawn(&self) -> Grid {
        let browsers =
            self.role() == "up" || self.workers_later || !self.worker_processes.is_empty();
        let share = if browsers { Share::Whole } else { Share::Part };
        let room = room(share).await;
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("tmp")).expect("a new folder");
        std::fs::write(folder.path().join("playhouse.yaml"), self.yaml()).expect("a new file");
        let mut grid = Grid {
            proxies: Vec::new(),
            processes: Vec::new(),
            predecessors: Vec::new(),
            folder,
            stderr: self
                .stderr
                .as_ref()
                .map(|it| it.try_clone().expect("a second handle")),
            _room: room,
        };
        for n in 0..self.proxies.max(1) {
            grid.spawn_proxy(self, n);
        }
        for environment in &self.worker_processes {
            grid.spawn_worker(self, environment);
        }
        grid
    }

    /// What the first process is.
    fn role(&self) -> &'static str {
        let workers = self.static_workers.len() + self.described_workers;
        match (&self.redis, workers) {
            (None, 0) => "up",
            _ => "proxy",
        }
    }

    fn yaml(&self) -> String {
        let mut yaml = patient(&self.config);
        if !self.static_workers.is_empty() {
            yaml.push_str("workers:\n");
        }
        for worker in &self.static_workers {
            yaml.push_str(&format!("  - {worker}\n"));
        }
        yaml
    }

    fn environment(&self) -> Vec<(String, String)> {
        let redis = self
            .redis
            .iter()
            .map(|url| ("REDIS_URL".to_owned(), url.clone()));
        redis.chain(self.environment.iter().cloned()).collect()
    }
}

impl Grid {
    #[expect(clippy::new_ret_no_self, reason = "it reads as what it becomes")]
    pub fn new() -> GridBuilder {
        GridBuilder::default()
    }

    pub fn proxy(&self, n: usize) -> &Proxy {
        &self.proxies[n]
    }

    /// Every process of the grid at this moment.
    pub fn tree(&self) -> Tree {
        let roots: Vec<u32> = self.all().map(|it| it.child.id()).collect();
        Tree::below(&roots)
    }

    /// The process of one proxy or worker: `up`, `proxy 0`, `worker 1`.
    pub fn process(&self, name: &str) -> Tree {
        let process = self.processes.iter().find(|it| it.name == name);
        let process = process.unwrap_or_else(|| panic!("there is no process {name}"));
        Tree::below(&[process.child.id()])
    }

    /// All proxies.
    pub fn proxies(&self) -> &[Proxy] {
        &self.proxies
    }

    /// What all processes logged so far.
    pub fn log(&self) -> String {
        let logs = self.all().map(|it| std::fs::read_to_string(&it.log));
        logs.flatten().collect()
    }

    /// Waits until somebody has logged these words: lines are written by a thread of their own.
    pub async fn logs(&self, words: &str) {
        eventually(words, async || self.log().contains(words).then_some(())).await;
    }

    /// Whether somebody was late with an answer to a check, as on a machine that has too much to do: he
    /// takes no session until he answers, which says nothing of the rest.
    pub fn was_late(&self) -> bool {
        let log = self.log();
        let late = ["the browser is not well", "worker is not reached from here"];
        late.iter().any(|words| log.contains(words))
    }

    /// The numbers that the log's lines about something give for a key.
    pub fn logged(&self, line: &str, key: &str) -> Vec<u64> {
        let value = |line: &str| {
            let (_, rest) = line.split_once(&format!(" {key}="))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let log = self.log();
        log.lines()
            .filter(|it| it.contains(line))
            .filter_map(value)
            .collect()
    }

    /// What one of them logged, such as `proxy 1`.
    pub fn log_of(&self, name: &str) -> String {
        let position = self.position(name);
        std::fs::read_to_string(&self.processes[position].log).expect("it was made")
    }

    fn all(&self) -> impl Iterator<Item = &Spawned> {
        self.predecessors.iter().chain(&self.processes)
    }

    /// Sends a signal to every process of ours, and waits until they and all that they started
    /// are gone.
    pub async fn stop(&mut self, signal: Signal) -> Vec<ExitStatus> {
        let tree = self.tree();
        for process in &self.processes {
            kill(Pid::from_raw(process.child.id() as i32), signal).expect("it is running");
        }
        let mut statuses = Vec::new();
        for mut process in std::mem::take(&mut self.processes) {
            let what = format!("{} ends on {signal}", process.name);
            let status = eventually(&what, async || {
                process.child.try_wait().expect("it is ours")
            });
            statuses.push(status.await);
        }
        tree.gone().await;
        statuses
    }

    /// What the processes left in their `TMPDIR`.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("tmp")).expect("it is there");
        entries.flatten().map(|entry| entry.path()).collect()
    }

    fn spawn_proxy(&mut self, builder: &GridBuilder, n: usize) {
        let role = builder.role();
        let proxy = Proxy {
            data: ([127, 0, 0, 1], free_port()).into(),
            admin: ([127, 0, 0, 1], free_port()).into(),
            authority: builder.authority.clone(),
            admin_token: builder.admin_token.clone(),
            runtime: self.runtime_folder(),
        };
        let mut command = self.program(role);
        if let Some(workers) = builder.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        if let Some(browser) = builder.browser {
            command.args(["--browser", browser]);
        }
        command
            .env("LISTEN_ADDR", proxy.data.to_string())
            .env("ADMIN_ADDR", proxy.admin.to_string())
            .env("PLAYHOUSE_SERVER_UPGRADE_SOCKET", self.upgrade_socket(n))
            .envs(builder.environment());
        let name = match role {
            "up" => role.to_owned(),
            _ => format!("{role} {n}"),
        };
        let spawned = self.spawn(command, name);
        self.processes.push(spawned);
        self.proxies.push(proxy);
    }

    /// Where its processes can be found.
    pub fn runtime_folder(&self) -> PathBuf {
        self.folder.path().join("runtime")
    }

    fn spawn_worker(&mut self, builder: &GridBuilder, environment: &[(String, String)]) {
        let n = self
            .processes
            .iter()
            .filter(|it| it.name.starts_with("worker"))
            .count();
        let mut command = match &builder.workers_group {
            None => self.program("worker"),
            Some(door) => by_way_of(door, &self.program("worker")),
        };
        command
            .env("PORT", "0")
            .envs(builder.environment())
            .envs(environment.iter().cloned());
        let spawned = self.spawn(command, format!("worker {n}"));
        self.processes.push(spawned);
    }

    /// A command of `playhouse`, in the surroundings of the grid.
    pub fn program(&self, role: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_playhouse"));
        command
            .arg(role)
            .arg("--config")
            .arg(self.folder.path().join("playhouse.yaml"))
            .current_dir(repository())
            // Nothing of the machine's own settings may have a say.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path().join("tmp"))
            .env("PLAYHOUSE_RUNTIME_DIR", self.runtime_folder())
            .env("LOG_FORMAT", "text")
            .stdin(Stdio::null());
        command
    }

    pub(super) fn spawn(&self, mut command: Command, name: String) -> Spawned {
        let log = self.folder.path().join(format!("{name}.log"));
        let file = File::create(&log).expect("a new file");
        let stderr = self.stderr.as_ref().unwrap_or(&file);
        command
            .stderr(stderr.try_clone().expect("a second handle"))
            .stdout(file);
        // SAFETY: prctl(2) may be called between fork and exec; it allocates nothing.
        unsafe {
            // When the test process is killed, its grid goes too.
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let child = command.spawn().expect("the binary was built for the tests");
        Spawned {
            name,
            child,
            log,
            command,
        }
    }

    async fn wait_until_ready(&mut self, workers: usize) {
        let proxies = self.proxies.clone();
        for proxy in &proxies {
            eventually("every worker is ready", async || {
                self.assert_running();
                let answer = proxy.admin_request("GET", "/readyz").await.ok()?;
                if answer.status != 200 {
                    return None;
                }
                let serving = proxy
                    .workers()
                    .await
                    .iter()
                    .filter(|it| it.serves())
                    .count();
                (serving >= workers).then_some(())
            })
            .await;
        }
    }

    fn assert_running(&mut self) {
        for process in &mut self.processes {
            if let Some(status) = process.child.try_wait().expect("it is ours") {
                panic!("{} ended while it started: {status}", process.name);
            }
        }
    }
}

impl Deref for Grid {
    type Target = Proxy;

    fn deref(&self) -> &Proxy {
        &self.proxies[0]
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        let tree = self.tree();
        for process in self.predecessors.iter_mut().chain(&mut self.processes) {
            // Both fail only when it is gone already.
            process.child.kill().ok();
            process.child.wait().ok();
        }
        if std::thread::panicking() {
            for process in self.all() {
                eprintln!("--- log of {}\n{}", process.name, last_lines(&process.log));
            }
        }
        // A destructor cannot await; the promise that nothing outlives a killed grid is checked
        // for every grid all the same.
        let start = Instant::now();
        while !tree.still_there().is_empty() && start.elapsed() < Duration::from_secs(60) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let left = tree.still_there();
        for process in tree.processes.iter().filter(|process| process.exists()) {
            process.kill();
        }
        if !std::thread::panicking() {
            assert!(left.is_empty(), "processes outlived their grid: {left:#?}");
        }
    }
}

/// The command, by way of a shell that enters a control group first and becomes it then.
fn by_way_of(door: &Path, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "echo $$ > \"$0\" && exec \"$@\""])
        .arg(door)
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(repository())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(Stdio::null());
    shell
}

/// A configuration with more time for whatever a slow machine is late with, in each section that the
/// test itself says nothing of.
pub fn patient(yaml: &str) -> String {
    let said = |section: &str| yaml.lines().any(|line| line.starts_with(section));
    let mut patient = String::new();
    for (section, more) in [
        ("limits:", " { header_timeout: 1m }"),
        ("selection:", " { dial_timeout: 20s }"),
        ("queue:", " { timeout: 1m }"),
    ] {
        if !said(section) {
            patient.push_str(&format!("{section}{more}\n"));
        }
    }
    match yaml.is_empty() || yaml.ends_with('\n') {
        true => format!("{yaml}{patient}"),
        false => format!("{yaml}\n{patient}"),
    }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    pairs.iter().map(owned).collect()
}

fn last_lines(log: &Path) -> String {
    const LINES: usize = 150;
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
