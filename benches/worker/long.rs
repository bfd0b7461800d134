//! A long session on each browser, and short ones in a loop: how many browsers there are, what they use,
//! and whether anybody is cut off.

use crate::support::{Crowd, Driver, Grid, Kind, Language, Tree};
use anyhow::{Result, ensure};
use procfs::process::Process;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

const SEATS: u32 = 6;
/// Sessions until a browser is replaced.
const LIFETIME: u32 = 10;
/// Users of short sessions.
const SHORT: usize = 2;
/// How long a long session lasts.
const LONG: Duration = Duration::from_secs(45);
/// The default of `recycle.max_draining`.
const MAX_DRAINING: usize = 2;
/// One that serves, one that is to replace it, those that drain, and one that is being ended.
const MAX_BROWSERS: usize = MAX_DRAINING + 3;
const LOOK: Duration = Duration::from_millis(500);
/// Memory of the second half may be so much more than that of the first.
const GROWTH: f64 = 1.25;

/// What was seen at most.
#[derive(Debug, Default)]
struct Most {
    browsers: usize,
    draining: usize,
    /// Of each half, in bytes.
    memory: [u64; 2],
}

/// Long sessions, one after the other as browsers come to serve.
struct Staying {
    driver: Driver,
    met: HashSet<String>,
    opening: Vec<String>,
    open: HashMap<String, Instant>,
    ended: usize,
    cut: Vec<String>,
}

impl Staying {
    /// Opens a session where a browser is new, and closes those that have been long enough.
    async fn go_on(&mut self, serving: Option<String>, opens: bool) {
        if opens && let Some(worker) = serving.filter(|it| !self.met.contains(it)) {
            let name = format!("long-{}", self.met.len());
            self.met.insert(worker);
            self.driver.start_open(&name).await;
            self.opening.push(name);
        }
        for name in std::mem::take(&mut self.opening) {
            if !self.driver.is_opened(&name) {
                self.opening.push(name);
                continue;
            }
            match self.driver.opened(&name).await {
                Ok(_) => drop(self.open.insert(name, Instant::now())),
                Err(error) => self.cut.push(error),
            }
        }
        let over = self
            .open
            .iter()
            .filter(|(_, since)| since.elapsed() >= LONG);
        let over: Vec<String> = over.map(|(name, _)| name.clone()).collect();
        for name in over {
            self.open.remove(&name);
            match self.driver.works(&name).await {
                Ok(()) => self.ended += 1,
                Err(error) => self.cut.push(error),
            }
            self.driver.close(&name).await.ok();
        }
    }
}

/// Runs it for so long; what to tell, and whether it was as it has to be.
pub async fn run(length: Duration) -> (String, Result<()>) {
    let builder = Grid::new().workers(1).capacity(SEATS).lifetime(LIFETIME);
    let grid = builder.config("queue: { timeout: 5m }").start().await;
    let crowd = Crowd::start(&vec![grid.url(); SHORT], usize::MAX);
    let mut staying = Staying {
        driver: Driver::start(Language::Node, &grid.url()),
        met: HashSet::new(),
        opening: Vec::new(),
        open: HashMap::new(),
        ended: 0,
        cut: Vec::new(),
    };
    let mut most = Most::default();
    let began = Instant::now();
    while began.elapsed() < length || !(staying.open.is_empty() && staying.opening.is_empty()) {
        let half = usize::from(began.elapsed() > length / 2);
        let workers = grid.workers().await;
        let tree = grid.process("up");
        let drain = workers
            .iter()
            .filter(|it| it.status == "draining" && it.active_sessions > 0);
        most.draining = most.draining.max(drain.count());
        most.browsers = most.browsers.max(tree.of_kind(Kind::Browser).len());
        most.memory[half] = most.memory[half].max(memory(&tree));
        let serving = workers.iter().find(|it| it.serves());
        let serving = serving.map(|it| it.id.clone());
        staying.go_on(serving, began.elapsed() < length).await;
        tokio::time::sleep(LOOK).await;
    }
    let visits = crowd.leave().await;
    staying.driver.quit().await;
    let failed = visits.iter().filter(|it| it.outcome.is_err()).count();
    let browsers = grid.logged("worker ready", "took_ms").len();
    let [first, second] = most.memory.map(|bytes| bytes >> 20);
    let report = format!(
        "A long session ({} s) on each browser that comes to serve, {SHORT} users of short ones in a loop, {} s. One worker,\n\
         {SEATS} seats, a fresh browser every {LIFETIME} sessions, recycle.max_draining {MAX_DRAINING}.\n\n\
         browsers in all {browsers}; at most at a time {} (bound {MAX_BROWSERS}), draining with sessions {} (bound {MAX_DRAINING})\n\
         memory of the worker and its browsers, at most: {first} MiB in the first half, {second} MiB in the second\n\
         long sessions that ended as they wanted {}, cut {}; short ones {}, failed {failed}\n",
        LONG.as_secs(),
        length.as_secs(),
        most.browsers,
        most.draining,
        staying.ended,
        staying.cut.len(),
        visits.len(),
    );
    let outcome = (|| {
        ensure!(staying.cut.is_empty(), "cut: {:?}", staying.cut);
        ensure!(failed == 0, "short sessions failed");
        ensure!(
            most.browsers <= MAX_BROWSERS && most.draining <= MAX_DRAINING,
            "too many browsers"
        );
        ensure!((second as f64) < first as f64 * GROWTH, "memory grows");
        Ok(())
    })();
    (report, outcome)
}

/// Proportional memory in bytes.
fn memory(tree: &Tree) -> u64 {
    let of = |pid: i32| {
        let rollup = Process::new(pid).ok()?.smaps_rollup().ok()?;
        let map = rollup.memory_map_rollup.into_iter().next()?;
        map.extension.map.get("Pss").copied()
    };
    tree.processes.iter().filter_map(|it| of(it.pid)).sum()
}
