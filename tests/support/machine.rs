//! What the tests of one machine share: its cores, its ports, and the tools `make setup` installs.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Everything the repository pins, once, for scripts and tests alike.
const VERSIONS: &str = include_str!("../../scripts/versions.env");

/// How much of the machine a grid takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Browsers: one such grid at a time, alone.
    Whole,
    /// Only processes of ours.
    Part,
}

const PARTS: u32 = 4;
static MACHINE: Semaphore = Semaphore::const_new(PARTS as usize);

/// What a test has of the machine while it has a grid.
pub struct Room(#[expect(dead_code, reason = "held")] SemaphorePermit<'static>);

thread_local! {
    /// What the test of this thread has. Its second grid shares it: would it wait for more, another
    /// test that waits for the whole machine could be before it, and wait for the first grid.
    static ROOM: RefCell<Weak<Room>> = RefCell::default();
}

/// Waits until the machine has room for the first grid of a test.
pub async fn room(share: Share) -> Arc<Room> {
    if let Some(room) = ROOM.with_borrow(Weak::upgrade) {
        return room;
    }
    let parts = match share {
        Share::Whole => PARTS,
        Share::Part => 1,
    };
    let permit = MACHINE.acquire_many(parts).await;
    let room = Arc::new(Room(permit.expect("the semaphore is never closed")));
    ROOM.set(Arc::downgrade(&room));
    room
}

/// Ports of this test run alone, taken from below the range from which the kernel takes the ports
/// of outgoing connections. The first of them is listened on to say so: two runs at once that try
/// the same port would both find it free.
struct Block {
    first: u16,
    _claim: TcpListener,
}

static BLOCK: LazyLock<Block> = LazyLock::new(|| {
    let blocks = (15_000..32_000).step_by(usize::from(PORTS));
    blocks
        .filter_map(|first| {
            let claim = TcpListener::bind(("127.0.0.1", first)).ok()?;
            Some(Block {
                first,
                _claim: claim,
            })
        })
        .next()
        .expect("fewer than seventeen test runs at once")
});

/// Of one run.
const PORTS: u16 = 1_000;

/// A port nobody listens on. Bound to be tried, never listened on: a child that another test forks
/// at that moment has a copy of the socket until its `exec`, and a copy that listens keeps the port.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 1..PORTS {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS - 1);
        let port = BLOCK.first + 1 + step;
        let socket = TcpSocket::new_v4().expect("there is a descriptor left");
        socket
            .set_reuseaddr(true)
            .expect("every TCP socket takes SO_REUSEADDR");
        if socket
            .bind(SocketAddr::from(([127, 0, 0, 1], port)))
            .is_ok()
        {
            return port;
        }
    }
    panic!("no free port");
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A C file of `tests/support`, to be preloaded, compiled into a folder.
pub fn compiled(name: &str, folder: &Path) -> PathBuf {
    let library = folder.join(name).with_extension("so");
    let source = repository().join("tests/support").join(name);
    let compiled = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source.with_extension("c")])
        .arg("-ldl")
        .status();
    assert!(compiled.expect("the build needs cc too").success());
    library
}

/// The value of a name in `scripts/versions.env`.
pub fn version(name: &str) -> &'static str {
    VERSIONS
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .unwrap_or_else(|| panic!("scripts/versions.env has no {name}"))
}

/// A file that `make setup` installed.
pub fn tools(path: &str) -> PathBuf {
    let path = repository().join(".tools").join(path);
    assert!(
        path.exists(),
        "{} is missing: run `make setup`",
        path.display()
    );
    path
}

/// A program that `make setup` installed, or found on this machine already.
pub fn program(name: &str) -> PathBuf {
    let ours = repository().join(".tools/bin").join(name);
    if ours.exists() { ours } else { name.into() }
}

/// A file of `examples/`.
pub fn examples(path: &str) -> PathBuf {
    repository().join("examples").join(path)
}

/// A file of `tests/clients/`.
pub fn script(path: &str) -> PathBuf {
    repository().join("tests/clients").join(path)
}
