//! One worker on a test bench: an agent with a store and temporary files of its own, and the
//! questions that the tests ask of it.

use super::support::{Kind, Tree, eventually, eventually_equal};
use arc_swap::ArcSwap;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use playhouse::config::{Config, LiveConfig, Role, SealMode};
use playhouse::model::{Counts, RecycleReason, SessionId, WorkerId, WorkerKey, WorkerStatus};
use playhouse::store::memory::MemoryStore;
use playhouse::store::{Candidate, Reserved, Store, WorkerView};
use playhouse::worker::{Agent, MachineShared, Progress, Shutdown, locate};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::{MutexGuard, watch};
use tokio::task::JoinHandle;

/// The processes of all tests of this binary have one ancestor, so one test at a time has any.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// This test's turn to have processes.
pub async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// Everything that this test process runs.
pub fn processes() -> Tree {
    let mut tree = Tree::below(&[std::process::id()]);
    let this = std::process::id() as i32;
    tree.processes.retain(|process| process.pid != this);
    tree
}

/// Waits until all of them are gone. Those whose parents were killed are children of this process
/// (it became a subreaper with the first worker): it has to bury them.
pub async fn all_gone(tree: &Tree) {
    eventually_equal("all are gone", Vec::<String>::new(), async || {
        for process in &tree.processes {
            waitpid(Pid::from_raw(process.pid), Some(WaitPidFlag::WNOHANG)).ok();
        }
        tree.still_there()
    })
    .await;
}

/// Sees that nothing runs, at once. What has ended may have to be buried still: a process
/// that only waits for that has no command line.
pub async fn nothing_runs() {
    let left = processes();
    let mut running = left.still_there();
    running.retain(|process| !process.ends_with(' '));
    assert_eq!(running, [] as [String; 0]);
    all_gone(&left).await;
}

pub struct Bench<S: Store> {
    pub store: Arc<S>,
    pub shutdown: watch::Sender<Shutdown>,
    progress: Arc<Mutex<Vec<Progress>>>,
    run: JoinHandle<()>,
    machine: Arc<MachineShared>,
    _temporary: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Bench<MemoryStore> {
    pub async fn start(change: impl FnOnce(&mut Config)) -> Self {
        Bench::start_with(MemoryStore::new(), change).await
    }
}

impl<S: Store> Bench<S> {
    pub async fn start_with(store: S, change: impl FnOnce(&mut Config)) -> Self {
        let turn = turn().await;
        let mut config = Config::defaults(Role::Up);
        config.worker.heartbeat_interval = Duration::from_millis(200);
        change(&mut config);
        let toolchain = locate(&config.worker).unwrap();
        let config: LiveConfig = Arc::new(ArcSwap::from_pointee(config));
        let temporary = tempfile::tempdir().unwrap();
        let machine = MachineShared::below(temporary.path()).unwrap();
        let store = Arc::new(store);
        let progress = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&progress);
        let agent = Agent::new(
            config,
            toolchain,
            Arc::clone(&store) as Arc<dyn Store>,
            "127.0.0.1",
            Arc::clone(&machine),
            Arc::new(move |progress| seen.lock().unwrap().push(progress)),
        )
        .unwrap();
        let (shutdown, receiver) = watch::channel(Shutdown::None);
        Bench {
            store,
            shutdown,
            progress,
            run: tokio::spawn(agent.run(receiver)),
            machine,
            _temporary: temporary,
            _turn: turn,
        }
    }

    pub async fn fleet(&self) -> Vec<WorkerView> {
        self.store.fleet().await.unwrap()
    }

    pub async fn in_status(&self, status: WorkerStatus) -> Vec<WorkerKey> {
        let mut fleet = self.fleet().await;
        fleet.retain(|worker| worker.record.status == status);
        fleet.into_iter().map(|worker| worker.record.key).collect()
    }

    /// The worker that takes sessions, as soon as there is one.
    pub async fn available(&self) -> WorkerView {
        eventually("a worker takes sessions", async || {
            let fleet = self.fleet().await;
            fleet
                .into_iter()
                .find(|worker| worker.record.status == WorkerStatus::Available)
        })
        .await
    }

    /// Waits until another one than `old` is all that is left.
    pub async fn replaced(&self, old: &WorkerKey) -> WorkerKey {
        let new = eventually(
            "a replacement, and nothing of the old one",
            async || match &self.fleet().await[..] {
                [only] if only.record.key != *old => Some(only.record.key.clone()),
                _ => None,
            },
        )
        .await;
        self.one_server_runs().await;
        new
    }

    /// Waits until exactly one browser server runs, and nothing else.
    pub async fn one_server_runs(&self) {
        eventually_equal("one server", (1, 1, 0, 1), async || {
            let tree = processes();
            (
                tree.of_kind(Kind::Node).len(),
                tree.of_kind(Kind::Browser).len(),
                tree.zombies(),
                folders(self.machine.folder()),
            )
        })
        .await;
    }

    /// Seats a session on whichever worker takes one.
    pub async fn seat(&self) -> Option<(SessionId, WorkerKey, Counts)> {
        loop {
            let available = self.in_status(WorkerStatus::Available).await;
            let candidate = |key: &WorkerKey| Candidate {
                key: key.clone(),
                max_concurrent_sessions: 1000,
                lifetime_cap: None,
            };
            let candidates: Vec<Candidate> = available.iter().map(candidate).collect();
            let session = SessionId::random();
            let reserved = self.store.reserve(session, &candidates).await.unwrap();
            if let Reserved::Seat { worker, counts } = reserved {
                return Some((session, worker, counts));
            }
            // Whoever was available may have been replaced since.
            if self.in_status(WorkerStatus::Available).await == available {
                return None;
            }
        }
    }

    pub async fn leave(&self, session: SessionId) {
        self.store.release(session, false).await.unwrap();
    }

    /// Why browsers were recycled so far.
    pub fn recycled(&self) -> Vec<RecycleReason> {
        let progress = self.progress.lock().unwrap();
        progress
            .iter()
            .filter_map(|progress| match progress {
                Progress::Recycling { reason, .. } => Some(*reason),
                _ => None,
            })
            .collect()
    }

    /// What was said of browsers that died.
    pub fn crashes(&self) -> Vec<String> {
        let progress = self.progress.lock().unwrap();
        progress
            .iter()
            .filter_map(|progress| match progress {
                Progress::Crashed { why, .. } => Some(why.clone()),
                _ => None,
            })
            .collect()
    }

    /// Which browsers died, or were ended because they were as good as dead: on a busy machine a
    /// check may find a dead browser before its server has noticed.
    pub fn lost(&self) -> Vec<WorkerId> {
        let progress = self.progress.lock().unwrap();
        let lost = progress.iter().filter_map(|progress| match progress {
            Progress::Crashed { id, .. } | Progress::Condemned { id, .. } => Some(id.clone()),
            _ => None,
        });
        let mut lost: Vec<WorkerId> = lost.collect();
        lost.dedup();
        lost
    }

    pub fn is_running(&self) -> bool {
        !self.run.is_finished()
    }

    /// Drops the running agent, and sees what is left of its processes.
    pub async fn abort(self) {
        let before = processes();
        assert!(!before.processes.is_empty());
        self.run.abort();
        self.run.await.expect_err("it was aborted");
        all_gone(&before).await;
    }

    /// Tells the worker to end, and sees that nothing is left when it has.
    pub async fn end(self, wish: Shutdown) {
        self.shutdown.send(wish).unwrap();
        self.run.await.unwrap();
        assert_eq!(self.store.fleet().await.unwrap(), []);
        nothing_runs().await;
        assert_eq!(folders(self.machine.folder()), 0);
    }
}

/// A browser that waits for a file before it starts: while the gate is closed no replacement comes
/// to serve, however late whoever looks at its start is.
pub struct Gate(TempDir);

impl Gate {
    /// Open. It writes nothing; the seal would keep it from looking for the file.
    pub fn before_browsers(config: &mut Config) -> Gate {
        let browser = locate(&config.worker).unwrap().executable.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("browser.sh");
        let text = format!(
            "#!/bin/sh\nwhile [ -e {closed} ]; do sleep 0.05; done\nexec {browser} \"$@\"\n",
            closed = folder.path().join("closed").display(),
            browser = browser.display(),
        );
        std::fs::write(&program, text).unwrap();
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        config.worker.browser_path = Some(program);
        config.worker.seal = SealMode::Off;
        Gate(folder)
    }

    pub fn closes(&self) {
        std::fs::write(self.0.path().join("closed"), "").unwrap();
    }

    pub fn opens(&self) {
        std::fs::remove_file(self.0.path().join("closed")).unwrap();
    }
}

/// Folders of servers' temporary files.
pub fn folders(machine: &Path) -> usize {
    let entries = std::fs::read_dir(machine).unwrap().flatten();
    entries
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .count()
}
