//! A worker is recycled again and again, and nobody notices: its seats are there all the while,
//! nobody waits for the replacement, and no session is cut, however long.

use crate::support::{Crowd, Driver, Grid, Language, Scrape, WorkerView, eventually};
use std::time::{Duration, Instant, SystemTime};

const SEATS: u32 = 5;
const LIMIT: u32 = 20;
/// The default of `recycle.ceiling`.
const CEILING: u32 = 2;
const SESSIONS: usize = 100;

#[tokio::test]
async fn one_worker_that_recycles_never_lacks_a_seat() {
    let grid = Grid::new()
        .workers(1)
        .capacity(SEATS)
        .lifetime(LIMIT)
        .start()
        .await;
    let crowd = Crowd::start(&vec![grid.url(); SEATS as usize], SESSIONS);
    let samples = crowd.watch(&grid).await;
    let visits = crowd.gone().await;

    assert_eq!(visits.len(), SESSIONS);
    for visit in &visits {
        visit.outcome.as_ref().unwrap();
    }
    assert!(samples.len() > SESSIONS / 2, "too few looks at it");
    let late = grid.was_late();
    for sample in &samples {
        let seats = sample.seats();
        assert!(late || seats >= SEATS, "a seat is missing: {sample:?}");
        assert!(late || sample.serving > 0, "nobody serves: {sample:?}");
    }
    let recycled = recycles(&grid, "lifetime");
    assert!(
        recycled >= SESSIONS / (CEILING * LIMIT) as usize,
        "{recycled}"
    );
    let waits = periods(&grid, "session started", "waited_ms");
    let starts = periods(&grid, "worker ready", "took_ms");
    assert_eq!(waits.len(), SESSIONS);
    let took = |all: &[Period]| all.iter().map(Period::length).max();
    println!(
        "waited at most {:?}; browsers took {:?} at most",
        took(&waits),
        took(&starts)
    );
    for wait in &waits {
        let start = starts.iter().find(|start| wait.contains(start));
        assert_eq!(start, None, "{wait:?}: somebody waited for a whole start");
    }
    grid.idle().await;
}

/// From one moment to another, as the log tells.
#[derive(Debug, PartialEq)]
struct Period {
    from: SystemTime,
    to: SystemTime,
}

impl Period {
    fn length(&self) -> Duration {
        self.to.duration_since(self.from).unwrap_or_default()
    }

    fn contains(&self, other: &Period) -> bool {
        self.from <= other.from && other.to <= self.to
    }
}

/// What the log's lines about something say that it took until then.
fn periods(grid: &Grid, line: &str, key: &str) -> Vec<Period> {
    let log = grid.log();
    let lines = log.lines().filter(|it| it.contains(line));
    let period = |(line, took): (&str, u64)| {
        let moment = line.split(' ').next().expect("it begins with the time");
        let to = humantime::parse_rfc3339(moment).expect("as the log writes it");
        let from = to - Duration::from_millis(took);
        Period { from, to }
    };
    lines.zip(grid.logged(line, key)).map(period).collect()
}

fn recycles(grid: &Grid, reason: &str) -> usize {
    let scrape = Scrape::of(&grid.metrics_url(), &[]);
    let count = scrape.value("worker_recycles_total", &[("reason", reason)]);
    count.unwrap_or_default() as usize
}

/// Waits until a worker drains and another takes the sessions.
async fn replaced(grid: &Grid, old: &WorkerView) -> WorkerView {
    eventually("a replacement", async || {
        let workers = grid.workers().await;
        let drains = |worker: &WorkerView| worker.id == old.id && worker.status == "draining";
        let replaces = |worker: &WorkerView| worker.id != old.id && worker.serves();
        let drains = workers.iter().any(drains);
        workers
            .into_iter()
            .find(|worker| drains && replaces(worker))
    })
    .await
}

async fn gone(grid: &Grid, old: &WorkerView) {
    eventually("the old browser is gone", async || {
        let workers = grid.workers().await;
        workers.iter().all(|it| it.id != old.id).then_some(())
    })
    .await;
}

#[tokio::test]
async fn long_sessions_run_across_a_recycle_untouched() {
    const LONG: Duration = Duration::from_secs(8);
    let grid = Grid::new()
        .workers(1)
        .capacity(SEATS)
        .lifetime(10)
        .start()
        .await;
    let old = grid.workers().await.remove(0);
    let mut staying = Driver::start(Language::Python, &grid.url());
    let names = ["one".to_owned(), "two".to_owned()];
    staying.open_all(&names).await;
    let opened = Instant::now();

    let crowd = Crowd::start(&[grid.url(), grid.url()], usize::MAX);
    replaced(&grid, &old).await;
    let mut used = 0;
    while opened.elapsed() < LONG || used < 20 {
        for name in &names {
            staying.works(name).await.unwrap();
        }
        used += 1;
    }
    let sessions = grid.sessions().await;
    let on_old = sessions.iter().filter(|it| it.worker == old.id).count();
    assert_eq!(
        on_old,
        names.len(),
        "they stayed where they were: {sessions:?}"
    );
    let workers = grid.workers().await;
    let draining = workers.iter().find(|it| it.id == old.id).unwrap();
    assert_eq!(draining.status, "draining");
    for name in &names {
        staying.close(name).await.unwrap();
    }
    staying.quit().await;
    for visit in crowd.leave().await {
        visit.outcome.unwrap();
    }
    gone(&grid, &old).await;
    grid.idle().await;
}

/// Fills its memory with something that cannot be shared or compressed away, and keeps it.
const GLUTTON: &str = "data:text/html,<title>glutton</title><script>\
    const kept=[];\
    for(let n=0;n<500;n++){const a=new Uint8Array(1<<20);a.fill(n+1);kept.push(a)}\
    </script>";

#[tokio::test]
async fn a_browser_whose_page_eats_memory_is_replaced_and_nobody_loses_a_session() {
    let grid = Grid::new()
        .workers(1)
        .capacity(SEATS)
        .lifetime(0)
        .env("HEARTBEAT_INTERVAL", "1")
        .config("recycle: { max_memory: 600MiB }")
        .start()
        .await;
    let old = grid.workers().await.remove(0);
    let mut client = Driver::start(Language::Python, &grid.url());
    client.open("neighbour").await.unwrap();
    assert_eq!(recycles(&grid, "memory"), 0);

    let opened = client.open_page("glutton", GLUTTON).await.unwrap();
    assert_eq!(opened.title, "glutton");
    let new = replaced(&grid, &old).await;
    for name in ["neighbour", "glutton"] {
        client.works(name).await.unwrap();
    }
    client.open("newcomer").await.unwrap();
    let sessions = grid.sessions().await;
    let on = |worker: &WorkerView| sessions.iter().filter(|it| it.worker == worker.id).count();
    assert_eq!((on(&old), on(&new)), (2, 1));

    client.close("glutton").await.unwrap();
    client.works("neighbour").await.unwrap();
    client.close("neighbour").await.unwrap();
    gone(&grid, &old).await;
    client.works("newcomer").await.unwrap();
    client.quit().await;
    assert_eq!(recycles(&grid, "memory"), 1);
    grid.idle().await;
}
