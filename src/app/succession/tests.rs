use super::predecessor::{Following, UpgradeSocket};
use super::successor::{Successor, SuccessorEnd};
use super::*;
use crate::app::sockets::{Bound, Inherited, Sockets};
use crate::config::{Config, Role};
use crate::model::{Browser, SessionId, WorkerKey, WorkerRecord};
use crate::store::memory::MemoryStore;
use crate::store::{Candidate, Reserved, SeatStore, WorkerStore};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Both processes, in one: their stores, and the folder with the socket between them.
struct Rig {
    old: Arc<MemoryStore>,
    new: Arc<MemoryStore>,
    worker: WorkerKey,
    folder: TempDir,
}

impl Rig {
    async fn new() -> Rig {
        let worker = WorkerKey::new(Browser::Chromium, "w");
        let (old, new) = (store(&worker).await, store(&worker).await);
        let folder = tempfile::tempdir().unwrap();
        Rig {
            old,
            new,
            worker,
            folder,
        }
    }

    /// With a space in it, as an operator may have it.
    fn socket(&self) -> PathBuf {
        self.folder.path().join("an upgrade.sock")
    }

    fn hand_over(&self, sockets: Sockets) -> JoinHandle<Result<Successor, Failure>> {
        let (path, seats) = (self.socket(), Some(self.old.clone()));
        tokio::spawn(async move { Successor::hand_over(&path, &sockets, seats).await })
    }

    async fn replaced(&self) -> (Successor, Following) {
        let upgrade = UpgradeSocket::listen(&self.socket()).unwrap();
        let handing = self.hand_over(sockets());
        let (predecessor, _) = upgrade.offered().await.unwrap();
        let following = predecessor.take_over(self.new.clone(), || Ok(()));
        let following = following.await.unwrap();
        (handing_over(handing).await, following)
    }

    /// A session with a seat, as the store has it.
    async fn seat(&self, store: &MemoryStore) -> SessionId {
        let candidate = Candidate {
            key: self.worker.clone(),
            max_concurrent_sessions: 100,
            lifetime_cap: None,
        };
        let session = SessionId::random();
        let reserved = store.reserve(session, &[candidate]).await.unwrap();
        assert!(matches!(reserved, Reserved::Seat { .. }), "{reserved:?}");
        session
    }

    /// Waits until the new process counts so many seats as taken.
    async fn counts(&self, expected: u64) {
        while self.new.active_sessions().await.unwrap() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn handing_over(task: JoinHandle<Result<Successor, Failure>>) -> Successor {
    task.await.unwrap().unwrap()
}

async fn store(worker: &WorkerKey) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    let record = WorkerRecord::new(worker.clone(), "ws://127.0.0.1:1/".parse().unwrap(), 0);
    let hour = Duration::from_secs(3600);
    store.register(&record, hour).await.unwrap();
    store
}

/// Listening sockets, entered under addresses of which the new process knows nothing yet.
fn sockets() -> Sockets {
    let bound = || {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        Bound { address, socket }
    };
    Sockets {
        data: bound(),
        admin: bound(),
    }
}

/// A configuration with this data port, and an admin port that the kernel chooses.
fn listening_at(data: SocketAddr) -> Config {
    let mut config = Config::defaults(Role::Proxy);
    config.listen = data;
    config.admin.listen = ([127, 0, 0, 1], 0).into();
    config
}

#[tokio::test]
async fn the_new_process_gets_the_sockets_themselves() {
    let rig = Rig::new().await;
    let upgrade = UpgradeSocket::listen(&rig.socket()).unwrap();
    let mode = std::fs::metadata(rig.socket()).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let old = sockets();
    let data = old.data.address;
    let handing = rig.hand_over(old);
    let (predecessor, mut inherited) = upgrade.offered().await.unwrap();
    assert!(!rig.socket().exists(), "the next one finds no leftovers");
    // It knocks while nobody accepts.
    let client = std::net::TcpStream::connect(data).unwrap();
    let config = listening_at(data);
    let sockets = Sockets::open(&config, &mut inherited).unwrap();
    let accept = || {
        let (_, from) = sockets.data.socket.accept()?;
        assert_eq!(from, client.local_addr()?);
        Ok(())
    };
    predecessor
        .take_over(rig.new.clone(), accept)
        .await
        .unwrap();
    handing_over(handing).await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_with_its_key() {
    let taken = sockets();
    let config = listening_at(taken.data.address);
    let error = Sockets::open(&config, &mut Inherited::default())
        .err()
        .unwrap();
    let said = format!("{error:#}");
    assert!(
        said.contains("cannot listen on") && said.contains("set listen"),
        "{said}"
    );
}

#[tokio::test]
async fn the_old_seats_count_until_their_sessions_end() {
    let rig = Rig::new().await;
    let early = rig.seat(&rig.old).await;
    let (successor, _following) = rig.replaced().await;
    rig.counts(1).await;
    let late = rig.seat(&rig.old).await;
    rig.seat(&rig.new).await;
    rig.counts(3).await;
    rig.old.release(early, false).await.unwrap();
    rig.counts(2).await;
    rig.old.release(late, false).await.unwrap();
    rig.counts(1).await;
    drop(successor);
}

#[tokio::test]
async fn the_seats_of_an_old_process_that_is_gone_are_free() {
    let rig = Rig::new().await;
    rig.seat(&rig.old).await;
    let (successor, mut following) = rig.replaced().await;
    rig.seat(&rig.new).await;
    rig.counts(2).await;
    drop(successor);
    following.ended().await;
    rig.counts(1).await;
}

#[tokio::test]
async fn a_process_that_is_replaced_in_turn_tells_of_those_before_it() {
    let (first, second) = (Rig::new().await, Rig::new().await);
    let oldest = first.seat(&first.old).await;
    let (_to_second, _of_first) = first.replaced().await;
    first.counts(1).await;
    let second = Rig {
        old: first.new.clone(),
        ..second
    };
    let (_to_third, _of_second) = second.replaced().await;
    second.counts(1).await;
    first.old.release(oldest, false).await.unwrap();
    second.counts(0).await;
}

#[tokio::test]
async fn the_old_process_knows_a_death_from_a_good_end() {
    let rig = Rig::new().await;
    let (successor, following) = rig.replaced().await;
    following.leave().await;
    assert_eq!(successor.gone().await, SuccessorEnd::Left);

    let upgrade = UpgradeSocket::listen(&rig.socket()).unwrap();
    let dies = std::thread::spawn(move || {
        // With its runtime the process ends.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (predecessor, _) = upgrade.offered().await.unwrap();
            let store = Arc::new(MemoryStore::new());
            drop(predecessor.take_over(store, || Ok(())).await.unwrap());
        });
    });
    let successor = handing_over(rig.hand_over(sockets())).await;
    dies.join().unwrap();
    assert_eq!(successor.gone().await, SuccessorEnd::Died);
}

#[tokio::test]
async fn whatever_ends_the_connection_before_the_word_changes_nothing() {
    let rig = Rig::new().await;
    rig.seat(&rig.old).await;
    // It dies at once.
    let upgrade = UpgradeSocket::listen(&rig.socket()).unwrap();
    let handing = rig.hand_over(sockets());
    drop(upgrade.offered().await.unwrap());
    let failed = handing.await.unwrap().err().unwrap();
    assert!(matches!(failed, Failure::Gone), "{failed:?}");
    // It cannot listen.
    let upgrade = UpgradeSocket::listen(&rig.socket()).unwrap();
    let handing = rig.hand_over(sockets());
    let (predecessor, _) = upgrade.offered().await.unwrap();
    predecessor.refuse("its port is taken").await;
    let failed = handing.await.unwrap().err().unwrap();
    assert!(failed.to_string().contains("its port is taken"), "{failed}");
    // The old process calls it off: the new one accepts nobody.
    let upgrade = UpgradeSocket::listen(&rig.socket()).unwrap();
    let handing = rig.hand_over(sockets());
    let (predecessor, _) = upgrade.offered().await.unwrap();
    handing.abort();
    assert!(handing.await.is_err());
    let taken = predecessor.take_over(rig.new.clone(), || panic!("it accepts"));
    assert!(taken.await.is_err());
    rig.counts(0).await;
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let rig = Rig::new().await;
    std::fs::write(rig.socket(), "precious").unwrap();
    let error = UpgradeSocket::listen(&rig.socket()).err().unwrap();
    assert!(error.to_string().contains("is no socket"), "{error}");
    assert_eq!(std::fs::read(rig.socket()).unwrap(), b"precious");
}
