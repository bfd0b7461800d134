//! A proxy that is killed takes its own sessions along and nothing else: the seats it held come
//! free. That they do within the bound of `docs/redis.md` is held in simulated time
//! (`src/tests/simulation`), where no machine is slow.

use super::{PROXIES, PROXY_TTL, all_live, everybody_counts, grid, original_workers, stay};
use crate::support::{Books, Connected, RedisServer, eventually};
use std::time::{Duration, Instant};

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

fn total_lifetime(redis: &RedisServer) -> i64 {
    let books = Books::read(redis);
    books.workers.values().map(|it| it.lifetime).sum()
}
