//! Browsers that work no more while their servers go on: nobody new comes to them, their sessions read
//! why, a fresh one takes their place, and nobody on another browser notices.

use crate::support::{
    ControlGroup, Driver, Grid, Kind, Language, Process, RedisServer, Tree, eventually,
    eventually_equal,
};
use nix::sys::signal::Signal;
use std::process::Command;

/// Checks come this often, or a little slower.
const HEARTBEAT: (&str, &str) = ("HEARTBEAT_INTERVAL", "1");

/// What befalls a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is stopped, with all that it was about to do.
    Stopped,
    /// Its renderers die as soon as they are started.
    RenderersFail,
    /// Those that it starts renderers with are dead.
    ZygotesDie,
    /// No process and no thread may be started any more.
    NoProcesses,
}

const FAULTS: [Fault; 4] = [
    Fault::Stopped,
    Fault::RenderersFail,
    Fault::ZygotesDie,
    Fault::NoProcesses,
];

/// Keeps a browser from starting anything.
enum NoProcesses {
    /// For root, whom only this keeps: with as many as there are, and fewer once some have ended.
    Group(ControlGroup, u64),
    /// Set once for each of its processes.
    Limits,
}

impl NoProcesses {
    fn of(browser: &Tree) -> NoProcesses {
        if !nix::unistd::geteuid().is_root() {
            for process in &browser.processes {
                limit(process, "--nproc=1");
            }
            return NoProcesses::Limits;
        }
        let group = ControlGroup::of("pids");
        group.take_in(browser);
        NoProcesses::Group(group, u64::MAX)
    }

    /// What has ended makes no room.
    fn hold(&mut self) {
        if let NoProcesses::Group(group, most) = self {
            *most = group.tasks().min(*most);
            group.limit_tasks(*most);
        }
    }
}

/// Limits a process, and what it starts.
fn limit(process: &Process, how: &str) {
    let pid = process.pid.to_string();
    let set = Command::new("prlimit").args(["--pid", &pid, how]).status();
    assert!(set.expect("every Linux has it").success() || !process.exists());
}

/// Does it to the browser of a worker; what is returned is to be held on to.
fn hurt(worker: &Tree, fault: Fault) -> Option<NoProcesses> {
    let zygotes = || {
        let children = worker.of_kind(Kind::BrowserChild).into_iter();
        children.filter(|it| it.command.contains("--type=zygote"))
    };
    match fault {
        Fault::Stopped => worker.of_kind(Kind::Browser)[0].signal(Signal::SIGSTOP),
        // They can have no memory.
        Fault::RenderersFail => zygotes().for_each(|zygote| limit(zygote, "--as=4096")),
        Fault::ZygotesDie => zygotes().for_each(Process::kill),
        Fault::NoProcesses => {
            let kinds = [Kind::Browser, Kind::BrowserChild];
            let mut browser = worker.clone();
            browser.processes.retain(|it| kinds.contains(&it.kind));
            return Some(NoProcesses::of(&browser));
        }
    }
    None
}

/// The worker of the one session that is on none of the `others`.
async fn worker_of(grid: &Grid, others: &[String]) -> String {
    eventually("the session is listed", async || {
        let mut sessions = grid.sessions().await;
        sessions.retain(|it| !others.contains(&it.id));
        (sessions.len() == 1).then(|| sessions[0].worker.clone())
    })
    .await
}

/// The process that a worker is.
fn process_of(grid: &Grid, worker: &str) -> Tree {
    let both = ["worker 0", "worker 1"];
    let name = both.into_iter().find(|it| grid.log_of(it).contains(worker));
    grid.process(name.expect("one of them says that it is ready"))
}

async fn two_workers(redis: &RedisServer) -> Grid {
    let builder = Grid::new().redis(redis);
    builder
        .worker_process(&[HEARTBEAT])
        .worker_process(&[HEARTBEAT])
        .config("selection: { strategy: least_active }")
        .start()
        .await
}

/// What a user reads whose session has been ended.
async fn reads(user: &mut Driver, name: &str) -> String {
    eventually("the session is lost", async || {
        user.lost(name).then_some(())
    })
    .await;
    user.works(name).await.unwrap_err()
}

#[tokio::test]
async fn whoever_is_on_a_broken_browser_reads_why_and_nobody_else_notices() {
    let redis = RedisServer::start().await;
    let grid = two_workers(&redis).await;
    let mut unlucky = Driver::start(Language::Python, &grid.url());
    let mut lucky = Driver::start(Language::Node, &grid.url());
    for fault in FAULTS {
        let (on_it, beside, after) = (
            format!("on-{fault:?}"),
            format!("beside-{fault:?}"),
            format!("after-{fault:?}"),
        );
        unlucky.open(&on_it).await.unwrap();
        let worker = worker_of(&grid, &[]).await;
        let known: Vec<String> = grid.sessions().await.into_iter().map(|it| it.id).collect();
        lucky.open(&beside).await.unwrap();
        assert_ne!(worker_of(&grid, &known).await, worker);

        let mut held = hurt(&process_of(&grid, &worker), fault);
        eventually("nobody new is sent there", async || {
            if let Some(held) = &mut held {
                held.hold();
            }
            let workers = grid.workers().await;
            let takes = workers.iter().any(|it| it.id == worker && it.serves());
            (!takes).then_some(())
        })
        .await;
        lucky.open(&after).await.unwrap();
        lucky.works(&after).await.unwrap();

        let error = reads(&mut unlucky, &on_it).await;
        let expected = "playhouse: worker lost, the browser ";
        assert!(error.contains(expected), "{fault:?}: {error:?}");
        eventually_equal("workers that serve", 2, async || {
            let workers = grid.workers().await;
            workers
                .iter()
                .filter(|it| it.serves() && it.id != worker)
                .count()
        })
        .await;
        for name in [&beside, &after] {
            lucky.works(name).await.unwrap();
            lucky.close(name).await.unwrap();
        }
        grid.idle().await;
    }
    unlucky.quit().await;
    lucky.quit().await;
}

#[tokio::test]
async fn a_worker_says_why_itself_when_no_proxy_can_hear_it() {
    let mut redis = RedisServer::start().await;
    let builder = Grid::new().redis(&redis);
    let grid = builder.worker_process(&[HEARTBEAT]).start().await;
    let mut user = Driver::start(Language::Node, &grid.url());
    user.open("cut-off").await.unwrap();
    redis.kill();
    let worker = grid.process("worker 0");
    worker.of_kind(Kind::Browser)[0].signal(Signal::SIGSTOP);
    let error = reads(&mut user, "cut-off").await;
    let expected = "playhouse: worker lost, the browser does not answer";
    assert!(error.contains(expected), "{error:?}");
    user.quit().await;
}

#[tokio::test]
async fn a_spare_that_hangs_is_ended_and_given_to_nobody() {
    let builder = Grid::new().workers(1).capacity(2);
    let grid = builder.config("worker: { seat: own }").start().await;
    let spare = eventually("a browser that nobody has", async || {
        let tree = grid.process("up");
        tree.of_kind(Kind::Browser).first().map(|it| (*it).clone())
    })
    .await;
    spare.signal(Signal::SIGSTOP);
    eventually("it is gone", async || (!spare.exists()).then_some(())).await;
    let mut user = Driver::start(Language::Node, &grid.url());
    user.open("own").await.unwrap();
    user.works("own").await.unwrap();
    user.quit().await;
}
