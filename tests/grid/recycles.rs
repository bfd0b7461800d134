//! Recycles in a row leave nothing behind: no process, file descriptor, port, temporary folder or
//! key in Redis more than at the start. `RECYCLES` says how many (`make recycles`: 100).

use crate::support::{Grid, Kind, RedisServer, Tree, eventually, eventually_equal};
use procfs::net::TcpState;
use procfs::process::{FDTarget, Process};
use std::collections::HashSet;
use std::time::{Duration, Instant};

const WORKER: &str = "worker 0";
/// How often, and how far apart, the stock is taken at the start.
const SAMPLES: u32 = 30;
const APART: Duration = Duration::from_millis(100);

/// What there is of everything, when nothing goes on.
#[derive(Debug)]
struct Stock {
    /// Node, browsers, their children, others, zombies.
    processes: [usize; 5],
    /// Of the worker's process, and of the proxy's.
    descriptors: [usize; 2],
    listening_ports: usize,
    folders: usize,
    /// With `*` in the place of each id.
    keys: Vec<String>,
}

impl Stock {
    /// Makes this the larger of the two, number by number.
    fn raise_to(&mut self, other: Stock) {
        let raise = |number: &mut usize, other: usize| *number = (*number).max(other);
        for (number, other) in self.processes.iter_mut().zip(other.processes) {
            raise(number, other);
        }
        for (number, other) in self.descriptors.iter_mut().zip(other.descriptors) {
            raise(number, other);
        }
        raise(&mut self.listening_ports, other.listening_ports);
        raise(&mut self.folders, other.folders);
        if other.keys.len() > self.keys.len() {
            self.keys = other.keys;
        }
    }

    /// Everything that there is more of than in `start`, in words.
    fn beyond(&self, start: &Stock) -> Vec<String> {
        let counts = |stock: &Stock| {
            let [node, browser, child, other, zombie] = stock.processes;
            let [worker, proxy] = stock.descriptors;
            [
                ("Node processes", node),
                ("browsers", browser),
                ("children of browsers", child),
                ("other processes", other),
                ("zombies", zombie),
                ("descriptors of the worker", worker),
                ("descriptors of the proxy", proxy),
                ("listening ports", stock.listening_ports),
                ("folders", stock.folders),
            ]
        };
        let more = std::iter::zip(counts(self), counts(start))
            .filter(|((_, now), (_, then))| now > then)
            .map(|((what, now), (_, then))| format!("{now} {what}, {then} at the start"));
        let mut known = start.keys.clone();
        let keys = self.keys.iter().filter(|key| {
            let place = known.iter().position(|it| it == *key);
            place.map(|place| known.swap_remove(place)).is_none()
        });
        more.chain(keys.map(|key| format!("the key {key}")))
            .collect()
    }
}

#[tokio::test]
async fn recycles_in_a_row_leave_nothing_behind() {
    let recycles = std::env::var("RECYCLES").map_or(10, |text| text.parse().unwrap());
    let redis = RedisServer::start().await;
    let grid = Grid::new()
        .redis(&redis)
        .worker_process(&[])
        .env("HEARTBEAT_INTERVAL", "1")
        .start()
        .await;
    // The first ones open what stays open.
    for _ in 0..2 {
        recycle(&grid).await;
    }
    let start = at_rest(&grid, &redis).await;
    println!("at the start: {start:#?}");
    let began = Instant::now();
    for _ in 0..recycles {
        recycle(&grid).await;
    }
    let took = began.elapsed();
    eventually_equal("what is more than at the start", Vec::new(), async || {
        stock(&grid, &redis).beyond(&start)
    })
    .await;
    println!("nothing more after {recycles} recycles in {took:.1?}");
}

/// One recycle with a session on the old browser, until that is gone.
async fn recycle(grid: &Grid) {
    let session = grid.connect().await;
    let old = grid.workers().await.remove(0).id;
    let path = format!("/v1/workers/{old}/drain");
    assert_eq!(grid.admin("POST", &path).await.status, 202);
    eventually("both are there", async || {
        let workers = grid.workers().await;
        let drains = |id: &str, status: &str| id == old && status == "draining";
        let drains = workers.iter().any(|it| drains(&it.id, &it.status));
        (drains && workers.iter().any(|it| it.serves())).then_some(())
    })
    .await;
    session.close().await;
    eventually("only the new one is there", async || {
        let workers = grid.workers().await;
        let done = workers.len() == 1 && workers[0].id != old;
        let tree = grid.process(WORKER);
        (done && tree.of_kind(Kind::Node).len() == 1).then_some(())
    })
    .await;
}

/// The most of everything that is seen for a while when nothing goes on but the signs of life: who
/// asks a browser has a descriptor for that. What a recycle left each time would be ten times as much.
async fn at_rest(grid: &Grid, redis: &RedisServer) -> Stock {
    eventually_equal("servers, browsers, zombies", (1, 1, 0), async || {
        let [server, browser, _, _, zombies] = stock(grid, redis).processes;
        (server, browser, zombies)
    })
    .await;
    let mut most = stock(grid, redis);
    for _ in 0..SAMPLES {
        tokio::time::sleep(APART).await;
        most.raise_to(stock(grid, redis));
    }
    most
}

fn stock(grid: &Grid, redis: &RedisServer) -> Stock {
    let worker = grid.process(WORKER);
    let all = grid.tree();
    let count = |kind| worker.of_kind(kind).len();
    let proxy = grid.process("proxy 0");
    let descriptors = |tree: &Tree| {
        let process = Process::new(tree.processes[0].pid).unwrap();
        process.fd_count().unwrap()
    };
    Stock {
        processes: [
            count(Kind::Node),
            count(Kind::Browser),
            count(Kind::BrowserChild),
            count(Kind::Other),
            all.zombies(),
        ],
        descriptors: [descriptors(&worker), descriptors(&proxy)],
        listening_ports: listening(&all),
        folders: folders(grid),
        keys: keys(redis),
    }
}

fn listening(tree: &Tree) -> usize {
    let sockets: HashSet<u64> = tree
        .processes
        .iter()
        .filter_map(|process| Process::new(process.pid).ok()?.fd().ok())
        .flat_map(|descriptors| descriptors.flatten())
        .filter_map(|descriptor| match descriptor.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect();
    let entries = procfs::net::tcp().unwrap().into_iter();
    entries
        .chain(procfs::net::tcp6().unwrap_or_default())
        .filter(|entry| entry.state == TcpState::Listen && sockets.contains(&entry.inode))
        .count()
}

/// Everything below the `TMPDIR` of the grid's processes, two levels deep.
fn folders(grid: &Grid) -> usize {
    let own = grid.leftovers();
    let inside = own
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok());
    own.len()
        + inside
            .map(|entries| entries.flatten().count())
            .sum::<usize>()
}

/// All but the turn to look for workers of the original, a key that lives for a moment and comes
/// again.
fn keys(redis: &RedisServer) -> Vec<String> {
    let keys = redis.cli(&["keys", "*"]);
    let lasting = keys.lines().filter(|key| *key != "playhouse:scan");
    let mut keys: Vec<String> = lasting.map(nameless).collect();
    keys.sort();
    keys
}

fn nameless(key: &str) -> String {
    let id = |part: &str| part.len() == 16 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = key
        .split(':')
        .map(|part| if id(part) { "*" } else { part })
        .collect();
    parts.join(":")
}
