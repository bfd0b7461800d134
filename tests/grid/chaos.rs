//! Clients that hang up at any point of their way, orderly or not, while more of them come than there are
//! seats: afterwards every count is zero. `CHAOS_CLIENTS` says how many come (`make chaos`: thousands).

use super::front_door::handshake;
use crate::support::{
    Behaviour, Books, FakePlaywright, Grid, GridBuilder, OriginalWorker, Proxy, RedisServer,
    eventually_equal,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// As many as take a second or two.
const CLIENTS: usize = 300;
/// At once: some three times as many as there are seats.
const AT_ONCE: usize = 60;
const WORKERS: usize = 4;
const SEATS: u32 = 5;
/// A handshake of a worker takes so long: time to hang up in.
const HANDSHAKE: Duration = Duration::from_millis(20);
/// Nobody stays longer at any point.
const STAY: u64 = 60;

fn clients() -> usize {
    let wanted = std::env::var("CHAOS_CLIENTS");
    wanted.map_or(CLIENTS, |text| text.parse().expect("a number of clients"))
}

/// How far clients came.
#[derive(Debug, Default)]
struct Reached {
    /// Before their head was whole.
    half_head: AtomicUsize,
    /// Before they had an answer: in line, granted, or while their worker was dialled.
    no_answer: AtomicUsize,
    seated: AtomicUsize,
    refused: AtomicUsize,
}

/// Comes, goes on for as long as chance will have it, and is gone.
async fn visit(port: SocketAddr, seed: u64, reached: &Reached) {
    let mut random = StdRng::seed_from_u64(seed);
    let Ok(mut stream) = TcpStream::connect(port).await else {
        return;
    };
    let mut pause = Duration::from_millis(random.random_range(0..STAY));
    let head = handshake("/", "Host: localhost\r\n");
    let whole = random.random_bool(0.9);
    let sent = match whole {
        true => head.len(),
        false => random.random_range(0..head.len()),
    };
    let came = if stream.write_all(&head[..sent]).await.is_err() || !whole {
        sleep(pause).await;
        &reached.half_head
    } else {
        // Some have no patience, the others wait for what comes of it.
        if random.random_bool(0.5) {
            pause = Duration::from_secs(600);
        }
        let mut answer = [0; 1024];
        match timeout(pause, stream.read(&mut answer)).await {
            Ok(Ok(read)) if answer[..read].starts_with(b"HTTP/1.1 101 ") => {
                use_session(&mut stream, &mut random).await;
                &reached.seated
            }
            Ok(_) => &reached.refused,
            Err(_) => &reached.no_answer,
        }
    };
    came.fetch_add(1, Ordering::Relaxed);
    if random.random_bool(0.5) {
        // The next thing that the other side hears is a reset.
        stream.set_zero_linger().ok();
    }
}

/// Says nothing, half a frame, something whole, or goodbye.
async fn use_session(stream: &mut TcpStream, random: &mut StdRng) {
    let says: [&[u8]; 4] = [
        b"",
        b"\x81\xfe\x01\x00\0\0\0\0half",
        b"\x81\x85\0\0\0\0hello",
        b"\x88\x82\0\0\0\0\x03\xe8",
    ];
    let pause = Duration::from_millis(random.random_range(0..STAY));
    stream.write_all(says[random.random_range(0..4)]).await.ok();
    sleep(pause).await;
}

/// Lets them all come, through whichever proxy, and waits until the last has gone.
async fn come_and_go(proxies: &[Proxy]) {
    let reached = Arc::new(Reached::default());
    let ports: Vec<SocketAddr> = proxies.iter().map(Proxy::address).collect();
    let (began, all) = (Instant::now(), clients());
    let next = Arc::new(Mutex::new(0..all));
    let mut tasks = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (reached, ports, next) = (reached.clone(), ports.clone(), next.clone());
        tasks.spawn(async move {
            let one = || next.lock().expect("nothing panics in there").next();
            while let Some(n) = one() {
                visit(ports[n % ports.len()], n as u64, &reached).await;
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("a client does not panic");
    }
    println!("{all} clients in {:.1?}: {reached:?}", began.elapsed());
    for (what, count) in [
        ("half a head", &reached.half_head),
        ("no answer", &reached.no_answer),
        ("a session", &reached.seated),
    ] {
        assert!(count.load(Ordering::Relaxed) > 0, "nobody had {what}");
    }
}

fn grid() -> GridBuilder {
    Grid::new()
        .capacity(SEATS)
        .lifetime(0)
        // Whoever waits for an answer has one.
        .queue_timeout(Duration::from_secs(600))
}

/// All of it is given back, and all seats serve.
async fn nothing_is_left(grid: &Grid, fakes: &[&FakePlaywright]) {
    for proxy in grid.proxies() {
        proxy.idle().await;
        eventually_equal("what a proxy counts", Vec::<String>::new(), async || {
            let metrics = proxy.admin("GET", "/metrics").await.body;
            let counts = ["sessions_active", "queue_depth", "connections "];
            let of_now = |line: &&str| {
                let name = line.strip_prefix("playhouse_").unwrap_or_default();
                counts.iter().any(|count| name.starts_with(count)) && !line.ends_with(" 0")
            };
            metrics.lines().filter(of_now).map(str::to_owned).collect()
        })
        .await;
    }
    for fake in fakes {
        eventually_equal("sessions at a worker", 0, async || fake.open()).await;
        fake.behave(Behaviour::Serve);
    }
    let mut all = Vec::new();
    for _ in 0..WORKERS * SEATS as usize {
        all.push(grid.connect().await);
    }
    for session in all {
        session.close().await;
    }
    grid.idle().await;
}

#[tokio::test]
async fn whoever_hangs_up_at_any_point_leaves_no_count_behind() {
    let mut fakes = Vec::new();
    for _ in 0..WORKERS {
        fakes.push(FakePlaywright::start().await);
    }
    let fakes: Vec<&FakePlaywright> = fakes.iter().collect();
    for fake in &fakes {
        fake.behave(Behaviour::Slow(HANDSHAKE));
    }
    let grid = grid().fakes(&fakes).start().await;
    come_and_go(grid.proxies()).await;
    nothing_is_left(&grid, &fakes).await;
}

#[tokio::test]
async fn whoever_hangs_up_at_any_proxy_leaves_no_count_in_redis() {
    let redis = RedisServer::start().await;
    let mut workers = Vec::new();
    for n in 0..WORKERS {
        let worker = OriginalWorker::start(&redis, &format!("original-{n}")).await;
        worker.fake().behave(Behaviour::Slow(HANDSHAKE));
        workers.push(worker);
    }
    let grid = grid()
        .redis(&redis)
        .proxies(2)
        .foreign_workers(WORKERS)
        .start()
        .await;
    come_and_go(grid.proxies()).await;
    let fakes: Vec<&FakePlaywright> = workers.iter().map(OriginalWorker::fake).collect();
    nothing_is_left(&grid, &fakes).await;
    eventually_equal("seats, leases, waiting", (0, 0, 0), async || {
        let books = Books::read(&redis);
        (books.active(), books.leases, books.waiting)
    })
    .await;
    Books::read(&redis).assert_right();
}
