//! One browser server: Node running `playwright-core launch-server`, and the browser below it.
//! From its start until nothing of it is left. When to start and stop is not decided here.

use super::address::ServerAddress;
use super::diagnosis::{Tail, cause_of_files};
use super::machine::{MachineShared, ServerFolder};
use super::probe::{self, CheckError, Probe, Prober};
use super::seal::{Seal, SealError};
use super::toolchain::{Toolchain, browsers_root};
use super::{gateway, group, plan, recorder, seal, spawn, tree};
use crate::config;
use crate::launch::LaunchOptions;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

/// How long a server that was asked to end may take before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How long a dropped server's Node may take to die of SIGKILL, and how often to look.
const DROP_PATIENCE: Duration = Duration::from_millis(500);
const DROP_POLL: Duration = Duration::from_millis(2);
/// How long a server that does not answer may take to end, if it does.
pub const LAST_CAUSE: Duration = Duration::from_secs(1);
/// How long to listen for the last words of a server that ended.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Longest line of output that is read as a whole.
const MAX_LINE: u64 = 16 * 1024;

/// Variables of ours that Node and the browser get as well; nothing else, so that no secret of
/// this process ends up in a browser.
const PASSED_ON: [&str; 22] = [
    "PATH",
    "LANG",
    "LANGUAGE",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "FONTCONFIG_PATH",
    "FONTCONFIG_FILE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "DISPLAY",
    "XAUTHORITY",
    "WAYLAND_DISPLAY",
    "XDG_RUNTIME_DIR",
    "PLAYWRIGHT_BROWSERS_PATH",
];

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}", cause_of_files(folder, error))]
    Files { folder: PathBuf, error: io::Error },
    #[error("cannot run {}: {error}", node.display())]
    Node { node: PathBuf, error: io::Error },
    #[error("cannot make a pipe for it: {0}")]
    Pipe(io::Error),
    #[error(
        "the browser is Playwright's own download, which is not known here. Set worker.browser_path to its executable"
    )]
    NoExecutable,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("{0}")]
    Ended(String),
    #[error("it did not answer within {0:?}: {1}")]
    Timeout(Duration, String),
}

/// How to start a server.
pub struct Launch<'a> {
    pub toolchain: &'a Toolchain,
    pub settings: &'a config::Worker,
    /// A client's, beyond what the settings say.
    pub options: &'a LaunchOptions,
    pub machine: &'a MachineShared,
    pub seal: &'a Seal,
}

/// A server that answers. Dropping it kills what is left of it at once; [`Server::stop`] is the
/// gentle way.
pub struct Server {
    child: Child,
    node: i32,
    address: ServerAddress,
    tail: Arc<Mutex<Tail>>,
    /// Reads the errors into `tail`, up to their end.
    errors: JoinHandle<()>,
    /// Nothing of it is left.
    ended: bool,
    // Dropped after `drop` has killed the processes.
    folder: ServerFolder,
}

impl Server {
    /// Starts a server and waits until it answers. Dropping the future ends the attempt.
    pub async fn start(launch: Launch<'_>) -> Result<Server, StartError> {
        let timeout = launch.settings.start_timeout;
        let (mut server, stdout) = Server::begin(&launch).await?;
        match tokio::time::timeout(timeout, server.come_up(stdout)).await {
            Ok(Ok(())) => Ok(server),
            Ok(Err(error)) => {
                server.stop(std::future::ready(())).await;
                Err(error)
            }
            Err(_) => {
                let last = server.tail().cause("no output");
                server.stop(std::future::ready(())).await;
                Err(StartError::Timeout(timeout, last))
            }
        }
    }

    async fn begin(launch: &Launch<'_>) -> Result<(Server, ChildStdout), StartError> {
        let files = |error| StartError::Files {
            folder: launch.machine.folder().to_owned(),
            error,
        };
        let folder = launch.machine.server_folder().map_err(files)?;
        let path = format!("/{:032x}", rand::random::<u128>());
        let address = ServerAddress::in_folder(folder.path(), path).map_err(files)?;
        let plan = plan::of(launch, &address, folder.path());
        let file = folder.path().join("launch.json");
        write_private(&file, &plan).map_err(files)?;
        let node = &launch.toolchain.node;
        let mut command = command(launch, &file, folder.path());
        if let Some(root) = recorder::place(launch.toolchain, folder.path()).map_err(files)? {
            command.env("PLAYWRIGHT_BROWSERS_PATH", root);
        }
        let (toolchain, settings) = (launch.toolchain, launch.settings);
        let sealing = launch.seal.prepare(toolchain, settings, folder.path())?;
        let group = group::make(folder.path(), seal::ABOVE);
        let started = spawn::spawn(command, sealing, group).await;
        let mut child = started.map_err(|error| StartError::Node {
            node: node.clone(),
            error,
        })?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let server = Server::new(child, address, folder);
        Ok((server, stdout))
    }

    /// Takes charge of what was started in a folder, to its end. Its errors are read from here on.
    pub fn new(mut child: Child, address: ServerAddress, folder: ServerFolder) -> Server {
        let stderr = child.stderr.take().expect("stderr is piped");
        let tail = Arc::default();
        let errors = tokio::spawn(keep_tail(stderr, Arc::clone(&tail)));
        Server {
            node: child.id().map_or(0, |id| id as i32),
            child,
            address,
            tail,
            errors,
            ended: false,
            folder,
        }
    }

    async fn come_up(&mut self, stdout: ChildStdout) -> Result<(), StartError> {
        let mut stdout = BufReader::new(stdout);
        loop {
            let Some(line) = read_line(&mut stdout).await else {
                return Err(StartError::Ended(self.exited().await));
            };
            // The one line that it prints is its address.
            if line.trim_end().ends_with(self.address.path()) {
                break;
            }
            self.tail().push(&line);
        }
        let files = |error| StartError::Files {
            folder: self.folder.path().to_owned(),
            error,
        };
        // It has been read; the path in it is the key to the browser.
        std::fs::remove_file(self.folder.path().join("launch.json")).map_err(files)?;
        tokio::spawn(keep_tail(stdout, Arc::clone(&self.tail)));
        if let Err(error) = probe::answers(&self.address).await {
            // If it ended meanwhile, that has a cause.
            let ended = tokio::time::timeout(LAST_CAUSE, self.exited()).await;
            return Err(StartError::Ended(ended.unwrap_or(error)));
        }
        Ok(())
    }

    /// Opens and closes the browser's first page, so that the first client does not wait for what a
    /// browser does only once. What comes of it checks the browser from then on.
    pub async fn first_page(&self, patience: Duration) -> Result<Prober, CheckError> {
        let first = async {
            let mut prober = Prober::connect(&self.address, patience).await?;
            prober.check(patience).await?;
            Ok(prober)
        };
        tokio::time::timeout(patience, first)
            .await
            .map_err(|_| CheckError::Suspect(patience))?
    }

    /// It is about to have clients.
    pub fn serves(&self) {
        self.tail().serves();
    }

    /// Where the server is reached on this machine.
    pub fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// Its temporary files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Node's process id.
    pub fn node(&self) -> i32 {
        self.node
    }

    /// Waits for the server's end, and says why it came. A server whose browser dies ends too, with
    /// status 0 and without a word. May be dropped and called again.
    pub async fn exited(&mut self) -> String {
        let status = self.child.wait().await;
        let ended = match status {
            Ok(status) => describe(status),
            Err(error) => format!("its state is unknown: {error}"),
        };
        if !self.errors.is_finished() {
            // The pipe may hold more than was read. What is missing then is no loss.
            tokio::time::timeout(LAST_WORDS, &mut self.errors)
                .await
                .ok();
        }
        self.tail().cause(&ended)
    }

    /// Ends the server and everything below it: politely until `hurry` is ready, at most for a few
    /// seconds, and then by force. When this returns, no process, file or port of it is left.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        if self.child.id().is_some() {
            let node = nix::unistd::Pid::from_raw(self.node);
            // Not yet waited for, so the id still means our child.
            nix::sys::signal::kill(node, nix::sys::signal::Signal::SIGTERM).ok();
            tokio::select! {
                biased;
                () = hurry => {}
                _ = self.child.wait() => {}
                () = tokio::time::sleep(STOP_PATIENCE) => {
                    log::warn!("a browser server does not end by itself, killing it");
                }
            }
        }
        tree::kill_all(self.folder.path(), self.living_node()).await;
        self.child.wait().await.ok();
        self.ended = true;
        self.folder.remove().await;
    }

    /// Node's id while it is certain to mean Node.
    fn living_node(&self) -> Option<i32> {
        self.child.id().map(|_| self.node)
    }

    fn tail(&self) -> std::sync::MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    #[expect(
        clippy::disallowed_methods,
        reason = "milliseconds, and only where nothing can be awaited"
    )]
    fn drop(&mut self) {
        if !self.ended {
            // Whoever ran it was dropped itself, and nobody else will. Rare, so that waiting here
            // for the little that the kernel needs is better than leaving a zombie.
            tree::kill_once(self.folder.path(), self.living_node());
            let deadline = Instant::now() + DROP_PATIENCE;
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(DROP_POLL);
            }
            tree::reap_adopted();
        }
    }
}

fn command(launch: &Launch<'_>, plan: &Path, folder: &Path) -> Command {
    let toolchain = launch.toolchain;
    let mut command = Command::new(&toolchain.node);
    command
        // What the gateway lets in is not for Node to refuse.
        .arg(format!("--max-http-header-size={}", 2 * gateway::MAX_HEAD))
        // Else a message of one client that its code does not expect ends the server, and everybody's session.
        .arg("--unhandled-rejections=warn")
        .arg(toolchain.playwright.join("cli.js"))
        .args(["launch-server", "--browser", toolchain.browser.as_str()])
        .arg("--config")
        .arg(plan)
        .current_dir(folder)
        .env_clear()
        .envs(passed_on())
        .envs(["HOME", "TMPDIR", tree::MARKER].map(|name| (name, folder)))
        // Where it puts another socket, for the live view (playwright-core, `utils/fileUtils.ts`).
        .env("PWTEST_SOCKETS_DIR", ".")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Else it would look for the browsers that it downloaded in its home.
    if let Some(downloads) = browsers_root() {
        command.env("PLAYWRIGHT_BROWSERS_PATH", downloads);
    }
    command
}

/// The variables of this process' environment that browser servers have too, with their values.
pub fn passed_on() -> impl Iterator<Item = (&'static str, String)> {
    PASSED_ON
        .into_iter()
        .filter_map(|name| Some((name, std::env::var(name).ok()?)))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?
        .write_all(text.as_bytes())
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => "its browser is gone".to_owned(),
        (Some(code), _) => format!("it ended with status {code}"),
        (None, Some(signal)) => format!("it was killed by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

/// Reads a server's output to its end, so that it never waits for a reader.
async fn keep_tail(output: impl AsyncRead + Unpin, tail: Arc<Mutex<Tail>>) {
    let mut output = BufReader::new(output);
    while let Some(line) = read_line(&mut output).await {
        tail.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(&line);
    }
}

/// One line, or the part of a very long one; `None` at the end.
async fn read_line(output: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut line = Vec::new();
    match output.take(MAX_LINE).read_until(b'\n', &mut line).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(String::from_utf8_lossy(&line).into_owned()),
    }
}
