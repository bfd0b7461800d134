//! What there is of processes, descriptors, ports, folders and keys, to find what many sessions or recycles
//! leave behind.

use super::eventually::eventually_equal;
use super::process::{Kind, Tree};
use super::{Grid, RedisServer};
use procfs::net::TcpState;
use procfs::process::{FDTarget, Process};
use std::collections::HashSet;
use std::time::Duration;

/// How often, and how far apart, the stock is taken at the start.
const SAMPLES: u32 = 30;
const APART: Duration = Duration::from_millis(100);

/// What there is of everything in a grid of one proxy and one worker, when nothing goes on.
#[derive(Debug)]
pub struct Stock {
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
    /// At this moment.
    pub fn take(grid: &Grid, redis: &RedisServer) -> Stock {
        let worker = grid.process("worker 0");
        let all = grid.tree();
        let count = |kind| worker.of_kind(kind).len();
        let proxy = grid.process("proxy 0");
        let descriptors = |tree: &Tree| {
            let process = Process::new(tree.processes[0].pid).expect("it runs");
            let open = process.fd().expect("it is ours").flatten();
            // Each thread keeps some pipes for the next large messages.
            open.filter(|it| !matches!(it.target, FDTarget::Pipe(_)))
                .count()
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

    /// The most of everything that is seen for a while when nothing goes on but the signs of life, once
    /// there are so many servers and browsers: who asks a browser has a descriptor for that. What each
    /// of many leaves would be ten times as much.
    pub async fn at_rest(
        grid: &Grid,
        redis: &RedisServer,
        servers: usize,
        browsers: usize,
    ) -> Stock {
        let expected = (servers, browsers, 0);
        eventually_equal("servers, browsers, zombies", expected, async || {
            let [server, browser, _, _, zombies] = Stock::take(grid, redis).processes;
            (server, browser, zombies)
        })
        .await;
        let mut most = Stock::take(grid, redis);
        for _ in 0..SAMPLES {
            tokio::time::sleep(APART).await;
            most.raise_to(Stock::take(grid, redis));
        }
        most
    }

    /// Waits until there is no more of anything than at the start.
    pub async fn returns(grid: &Grid, redis: &RedisServer, start: &Stock) {
        eventually_equal("what is more than at the start", Vec::new(), async || {
            Stock::take(grid, redis).beyond(start)
        })
        .await;
    }
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
    pub fn beyond(&self, start: &Stock) -> Vec<String> {
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
    let entries = procfs::net::tcp().expect("it is there").into_iter();
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
