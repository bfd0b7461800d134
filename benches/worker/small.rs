//! A worker in a container of 720 MiB: recycles under load, and then a page that takes all of it.

use crate::support::{ControlGroup, Crowd, Driver, Grid, Kind, Language, RedisServer, eventually};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

const LIMIT: u64 = 720 << 20;
const SEATS: u32 = 3;
const LIFETIME: u32 = 6;
const LOOK: Duration = Duration::from_millis(500);
/// Takes 32 MiB ten times a second.
const HUNGRY: &str = "data:text/html,<title>Playhouse</title><script>const taken=[];\
    setInterval(()=>taken.push(new Uint8Array(1<<25).fill(7)),100)</script>";
const CAUSE: &str = "the container's limit of 720 MiB is too small";

/// Runs it for so long; what to tell, and whether it was as it has to be.
pub async fn run(length: Duration) -> (String, Result<()>) {
    let group = ControlGroup::of("memory");
    group.limit_memory(LIMIT);
    let redis = RedisServer::start().await;
    let grid = Grid::new()
        .redis(&redis)
        .worker_process(&[("HEARTBEAT_INTERVAL", "1")])
        .workers_in(&group)
        .capacity(SEATS)
        .lifetime(LIFETIME)
        .config("queue: { timeout: 5m }")
        .start()
        .await;
    let crowd = Crowd::start(&vec![grid.url(); SEATS as usize], usize::MAX);
    let began = Instant::now();
    let mut most = 0;
    while began.elapsed() < length {
        let browsers = grid.process("worker 0").of_kind(Kind::Browser).len();
        most = most.max(browsers);
        tokio::time::sleep(LOOK).await;
    }
    let visits = crowd.leave().await;
    let failed: Vec<_> = visits
        .iter()
        .filter_map(|it| it.outcome.as_ref().err())
        .collect();
    let (kills, used) = (group.oom_kills(), group.most_memory() >> 20);
    let browsers = grid.logged("worker ready", "took_ms").len();
    let mut report = format!(
        "A worker in a control group of 720 MiB, {SEATS} seats, a fresh browser every {LIFETIME} sessions, {SEATS} users in a loop,\n\
         {} s.\n\n\
         sessions {}, failed {}; browsers in all {browsers}, at most {most} at a time\n\
         memory at most {used} MiB, files that are kept in memory included; pages and browsers that the kernel ended {kills}\n",
        length.as_secs(),
        visits.len(),
        failed.len(),
    );
    let fitted = (|| {
        ensure!(failed.is_empty(), "sessions failed: {failed:?}");
        ensure!(kills == 0, "the kernel ended some");
        ensure!(browsers > 10, "only {browsers} browsers");
        Ok(())
    })();

    let mut hungry = Driver::start(Language::Node, &grid.url());
    hungry.open_page("hungry", HUNGRY).await.ok();
    eventually("the kernel ends it", async || {
        (group.oom_kills() > 0).then_some(())
    })
    .await;
    grid.logs(CAUSE).await;
    let counted = eventually("it is counted", async || {
        let metrics = grid.admin("GET", "/metrics").await.body;
        let mut lines = metrics.lines();
        let line = lines.find(|it| it.starts_with("playhouse_worker_oom_kills_total "))?;
        (!line.ends_with(" 0")).then(|| line.to_owned())
    })
    .await;
    let log = grid.log_of("worker 0");
    let line = log.lines().find(|it| it.contains(CAUSE));
    let mut next = Driver::start(Language::Python, &grid.url());
    let served = next.open("next").await;
    report += &format!(
        "\nA page takes 320 MiB a second there. The log: {}\n\
         {counted}; the next session {}\n",
        line.unwrap_or_default(),
        served
            .as_ref()
            .map_or_else(String::clone, |_| "is served".to_owned()),
    );
    next.quit().await;
    drop(hungry);
    let outcome = fitted.and_then(|()| {
        ensure!(served.is_ok(), "nobody is served after it");
        Ok(())
    });
    (report, outcome)
}
