//! The life of a worker with real browsers: the agent in this process over a memory store, looked
//! at through the store, the kernel's process table and the temporary files.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use arc_swap::ArcSwap;
use playhouse::config::{Config, LiveConfig, Role};
use playhouse::model::WorkerStatus;
use playhouse::store::memory::MemoryStore;
use playhouse::store::{Store, WorkerView};
use playhouse::worker::{Agent, MachineShared, Shutdown, locate};
use std::sync::Arc;
use std::time::Duration;
use support::{Process, Tree, eventually};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// One agent, and everything around it that a test looks at.
struct Worker {
    store: Arc<MemoryStore>,
    shutdown: watch::Sender<Shutdown>,
    run: JoinHandle<()>,
    /// Dropped last.
    _temporary: TempDir,
}

impl Worker {
    async fn start(change: impl FnOnce(&mut Config)) -> Worker {
        let mut config = Config::defaults(Role::Up);
        config.worker.heartbeat_interval = Duration::from_millis(200);
        change(&mut config);
        let temporary = tempfile::tempdir().unwrap();
        let toolchain = locate(&config.worker).unwrap();
        let config: LiveConfig = Arc::new(ArcSwap::from_pointee(config));
        let store = Arc::new(MemoryStore::new());
        let machine = MachineShared::below(temporary.path()).unwrap();
        let agent = Agent::new(
            Arc::clone(&config),
            toolchain,
            Arc::clone(&store) as Arc<dyn Store>,
            "127.0.0.1",
            machine,
            Arc::new(|_| ()),
        );
        let (shutdown, receiver) = watch::channel(Shutdown::None);
        Worker {
            store,
            shutdown,
            run: tokio::spawn(agent.run(receiver)),
            _temporary: temporary,
        }
    }

    async fn available(&self) -> WorkerView {
        eventually("an available worker", async || {
            let fleet = self.store.fleet().await.unwrap();
            fleet
                .into_iter()
                .find(|worker| worker.record.status == WorkerStatus::Available)
        })
        .await
    }

    /// Everything that this worker runs.
    fn processes(&self) -> Vec<Process> {
        let mut below = Tree::below(&[std::process::id()]).processes;
        below.retain(|process| process.pid != std::process::id() as i32);
        below
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_registers_and_leaves_nothing_when_it_is_told_to_end() {
    let worker = Worker::start(|_| ()).await;
    let record = worker.available().await.record;
    assert!(record.replaces_itself);
    assert_eq!(record.endpoint.host, "127.0.0.1");
    assert!(record.endpoint.path.len() > 30, "a path nobody guesses");
    assert!(record.version.is_some());
    eventually("its memory is known", async || {
        worker.available().await.record.memory
    })
    .await;
    let processes = worker.processes();
    let everything = format!("{processes:?}");
    assert!(!processes.is_empty());
    assert!(!everything.contains(&record.endpoint.path), "{everything}");

    worker.shutdown.send(Shutdown::Drain).unwrap();
    worker.run.await.unwrap();
    assert!(worker.store.fleet().await.unwrap().is_empty());
    assert_eq!(Tree::below(&[std::process::id()]).still_there().len(), 1);
}
