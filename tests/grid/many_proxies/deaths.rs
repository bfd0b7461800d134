//! A proxy that is killed takes its own sessions along and nothing else: the seats it held come
//! free. That they do within the bound of `docs/redis.md` is held in simulated time
//! (`src/tests/simulation`), where no machine is slow.

use super::{PROXIES, PROXY_TTL, all_live, everybody_counts, grid, original_workers, stay};
use crate::support::{Books, Connected, Grid, RedisServer, eventually, eventually_equal};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const DEATHS: usize = 10;
const SESSIONS: usize = 50;

#[tokio::test]
async fn a_killed_proxy_gives_its_seats_back_ten_times() {
    let redis = RedisServer::start().await;
    let _originals = original_workers(&redis, 3).await;
    let mut grid = grid(&redis, 3).capacity(40).lifetime(0).start().await;
    let mut staying = stay(&grid, 5).await;
    // Those through the last proxy die with it; the test needs the others.
    for doomed in staying.split_off(2 * 5) {
        doomed.close().await;
    }
    let kept = staying.len() as i64;
    everybody_counts(&grid, &redis, kept).await;
    let mut lifetimes = total_lifetime(&redis);

    let mut slowest = Duration::ZERO;
    for death in 1..=DEATHS {
        let mut lost: Vec<Connected> = Vec::new();
        for _ in 0..SESSIONS {
            lost.push(grid.proxy(PROXIES - 1).connect().await);
        }
        everybody_counts(&grid, &redis, kept + SESSIONS as i64).await;

        grid.kill(&format!("proxy {}", PROXIES - 1));
        let died = Instant::now();
        eventually("its seats are free", async || {
            let books = Books::read(&redis);
            books.assert_right();
            assert!(books.active() >= kept, "death {death}: {books:#?}");
            (books.active() == kept).then_some(())
        })
        .await;
        slowest = slowest.max(died.elapsed());
        for session in &mut lost {
            assert!(!session.answers_a_ping().await, "it went through the dead");
        }
        all_live(&mut staying).await;
        lifetimes += SESSIONS as i64;
        assert_eq!(total_lifetime(&redis), lifetimes, "death {death}");
        grid.revive(&format!("proxy {}", PROXIES - 1)).await;
        let reborn = grid.proxy(PROXIES - 1);
        eventually("it is ready", async || {
            let answer = reborn.get("/readyz", &[]).await;
            (answer.status == 200).then_some(())
        })
        .await;
        everybody_counts(&grid, &redis, kept).await;
    }
    println!("seats of a dead proxy were free after {slowest:?} at most; its TTL is {PROXY_TTL:?}");
    for session in staying {
        session.close().await;
    }
    everybody_counts(&grid, &redis, 0).await;
}

/// At the defaults: sixty sessions go with their proxy, and the only other one never lives long.
#[tokio::test]
async fn seats_of_a_dead_proxy_come_free_while_the_other_one_restarts_again_and_again() {
    const SESSIONS: usize = 60;
    let redis = RedisServer::start().await;
    let _originals = original_workers(&redis, 2).await;
    let mut grid = Grid::new()
        .redis(&redis)
        .proxies(2)
        .foreign_workers(2)
        .capacity(40)
        .lifetime(0)
        .start()
        .await;
    let record = redis.monitor().await;
    let mut lost = Vec::new();
    for _ in 0..SESSIONS {
        lost.push(grid.proxy(0).connect().await);
    }
    everybody_counts(&grid, &redis, SESSIONS as i64).await;
    let proxies = redis.cli(&["SMEMBERS", "playhouse:proxies"]);
    let holds = |proxy: &&str| {
        let leases = redis.cli(&["HLEN", &format!("playhouse:leases:{proxy}")]);
        leases == SESSIONS.to_string()
    };
    let victim = proxies.lines().find(holds).expect("one proxy has them all");
    let ttl: u64 = redis
        .cli(&["PTTL", &format!("playhouse:proxy:{victim}")])
        .parse()
        .expect("a number");
    assert!((1..=10_000).contains(&ttl), "{ttl}");
    let signs = &["playhouse:proxy", victim, "PEXPIRE"];
    eventually("its sign of life is on record", async || {
        record.times(signs).last().copied()
    })
    .await;

    grid.kill("proxy 0");
    let mut lives = 0;
    while Books::read(&redis).active() > 0 {
        assert!(lives < 100, "{:#?}", Books::read(&redis));
        lives += 1;
        grid.kill("proxy 1");
        grid.revive("proxy 1").await;
        let life = Instant::now();
        while life.elapsed() < Duration::from_secs(3) && Books::read(&redis).active() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Books::read(&redis).assert_right();
    for session in &mut lost {
        assert!(!session.answers_a_ping().await, "it went through the dead");
    }
    // The record is written a moment later.
    let (heard, freed) = eventually("their release is on record", async || {
        let heard = *record.times(signs).last()?;
        let released = record.times(&["playhouse:leases", victim, "HDEL"]);
        let freed = released.into_iter().find(|at| *at > heard)?;
        Some((heard, freed))
    })
    .await;
    let silent = freed - heard;
    println!(
        "seats of a dead proxy were given back {silent:.3} s after Redis heard it last, by the \
         other one in its life number {lives}"
    );
    assert!(
        silent >= 9.99,
        "{silent} s after Redis heard it last it may be alive"
    );
}

/// A proxy dies, or hangs with its connections open, while clients wait at it who came first: what comes free is for those who
/// wait at the other one. For Redis the proxy is alive all the while, so that nothing else could give its seats back.
async fn seats_go_to_those_who_wait_at_the_living(signal: Signal) {
    const SEATS: usize = 4;
    let redis = RedisServer::start().await;
    let _original = original_workers(&redis, 1).await;
    let mut grid = Grid::new()
        .redis(&redis)
        .proxies(2)
        .foreign_workers(1)
        .capacity(SEATS as u32)
        .lifetime(0)
        .queue_timeout(Duration::from_secs(600))
        .start()
        .await;
    let mut holders = Vec::new();
    for _ in 0..SEATS {
        holders.push(grid.proxy(1).connect().await);
    }
    let mut first = clients_of(&grid, 0, SEATS);
    let name = eventually("all of them are in line", async || {
        let lines = redis.cli(&["KEYS", "playhouse:waiting:*"]);
        let mut names = lines.lines().filter_map(|it| it.rsplit_once(':'));
        names.find_map(|(_, name)| (in_line(&redis, name) == SEATS).then(|| name.to_owned()))
    })
    .await;
    if signal == Signal::SIGKILL {
        grid.kill("proxy 0");
    } else {
        to_proxy_0(&grid, signal);
    }
    for key in ["proxy", "waiting"] {
        redis.cli(&["PERSIST", &format!("playhouse:{key}:{name}")]);
    }
    let mut others = clients_of(&grid, 1, SEATS);
    let proxies = redis.cli(&["SMEMBERS", "playhouse:proxies"]);
    let other = proxies
        .lines()
        .find(|it| **it != name)
        .expect("there is another");
    eventually_equal("others in line", SEATS, async || in_line(&redis, other)).await;
    for holder in holders {
        holder.close().await;
    }
    let mut served = Vec::new();
    while let Some(session) = others.join_next().await {
        served.push(session.unwrap());
    }
    all_live(&mut served).await;

    if signal == Signal::SIGKILL {
        first = JoinSet::new();
    } else {
        to_proxy_0(&grid, Signal::SIGCONT);
        // Told what became of the seats that it was given, it has none of them.
        everybody_counts(&grid, &redis, SEATS as i64).await;
        all_live(&mut served).await;
    }
    for session in served.drain(..) {
        session.close().await;
    }
    while let Some(session) = first.join_next().await {
        served.push(session.unwrap());
    }
    all_live(&mut served).await;
    Books::read(&redis).assert_right();
    for session in served {
        session.close().await;
    }
    eventually_equal("seats taken", 0, async || Books::read(&redis).active()).await;
}

#[tokio::test]
async fn seats_go_to_those_who_wait_at_the_living_when_a_proxy_is_killed() {
    seats_go_to_those_who_wait_at_the_living(Signal::SIGKILL).await;
}

#[tokio::test]
async fn seats_go_to_those_who_wait_at_the_living_when_a_proxy_is_stopped() {
    seats_go_to_those_who_wait_at_the_living(Signal::SIGSTOP).await;
}

fn to_proxy_0(grid: &Grid, signal: Signal) {
    let pid = grid.process("proxy 0").processes[0].pid;
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Clients that come to a proxy.
fn clients_of(grid: &Grid, proxy: usize, clients: usize) -> JoinSet<Connected> {
    let mut coming = JoinSet::new();
    for _ in 0..clients {
        let proxy = grid.proxy(proxy).clone();
        coming.spawn(async move { proxy.connect().await });
    }
    coming
}

/// How many clients of a proxy are in line, as Redis has it.
fn in_line(redis: &RedisServer, proxy: &str) -> usize {
    let clients = redis.cli(&["HKEYS", &format!("playhouse:waiting:{proxy}")]);
    let is_session = |it: &&str| it.len() == 16 && it.bytes().all(|it| it.is_ascii_hexdigit());
    clients.lines().filter(is_session).count()
}

fn total_lifetime(redis: &RedisServer) -> i64 {
    let books = Books::read(redis);
    books.workers.values().map(|it| it.lifetime).sum()
}
