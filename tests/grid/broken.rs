//! Browsers that work no more while their servers go on: nobody new comes to them, their sessions read
//! why, a fresh one takes their place, and nobody on another browser notices.

use crate::support::{
    Connected, ControlGroup, Driver, Grid, Kind, Language, Process, RedisServer, Tree, eventually,
    eventually_equal,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::process::Command;
use std::time::Duration;

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
    /// No process and no thread may be started from here on.
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

/// Sessions with browsers of their own, and no other browsers.
async fn own_browsers() -> Grid {
    let builder = Grid::new().workers(1).capacity(2);
    let builder = builder
        .env(HEARTBEAT.0, HEARTBEAT.1)
        .env("LOG_LEVEL", "debug");
    let own = "worker: { seat: own, spares: 0 }";
    builder.config(own).start().await
}

/// The one browser of a grid that is none of these, with all that belongs to it.
async fn another_browser(grid: &Grid, known: &[i32]) -> Tree {
    eventually("its browser is there", async || {
        let tree = grid.process("up");
        let mut browsers = tree.of_kind(Kind::Browser);
        browsers.retain(|it| !known.contains(&it.pid));
        (browsers.len() == 1).then(|| Tree::below(&[browsers[0].pid as u32]))
    })
    .await
}

/// Until the other future is ready, nothing that ends makes room.
async fn while_held<T>(mut held: Option<NoProcesses>, other: impl Future<Output = T>) -> T {
    let holding = async {
        loop {
            if let Some(held) = &mut held {
                held.hold();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        outcome = other => outcome,
        () = holding => unreachable!(),
    }
}

#[tokio::test]
async fn a_session_whose_own_browser_is_broken_reads_why_and_no_other_notices() {
    let grid = own_browsers().await;
    let mut lucky = Driver::start(Language::Node, &grid.url());
    lucky.open("beside").await.unwrap();
    let beside = another_browser(&grid, &[]).await.processes[0].pid;
    let mut unlucky = Driver::start(Language::Python, &grid.url());
    for fault in FAULTS {
        let name = format!("on-{fault:?}");
        unlucky.open(&name).await.unwrap();
        let browser = another_browser(&grid, &[beside]).await;
        let held = hurt(&browser, fault);
        let error = while_held(held, reads(&mut unlucky, &name)).await;
        let expected = "playhouse: worker lost, the browser ";
        assert!(error.contains(expected), "{fault:?}: {error:?}");
        browser.gone().await;
        lucky.works("beside").await.unwrap();
    }
    unlucky.open("after").await.unwrap();
    unlucky.works("after").await.unwrap();
    unlucky.quit().await;
    lucky.quit().await;
    grid.idle().await;
}

#[tokio::test]
async fn a_client_of_cdp_whose_browser_is_broken_reads_why_and_no_other_notices() {
    let grid = own_browsers().await;
    let connect = async || grid.dial().target("/cdp").connect().await.ok().unwrap();
    let version = json!({"id": 7, "method": "Browser.getVersion"}).to_string();
    let mut lucky = connect().await;
    lucky.send(&version).await;
    lucky.text().await;
    // One behind a server was started first, to see whether that goes; nobody keeps it.
    let piped = async |known: &[i32]| {
        eventually("its browser is there", async || {
            let tree = grid.process("up");
            let mut browsers = tree.of_kind(Kind::Browser);
            browsers.retain(|it| it.command.contains("/profile") && !known.contains(&it.pid));
            (browsers.len() == 1).then(|| Tree::below(&[browsers[0].pid as u32]))
        })
        .await
    };
    let mut known = vec![piped(&[]).await.processes[0].pid];
    for fault in FAULTS {
        let mut unlucky = connect().await;
        unlucky.send(&version).await;
        unlucky.text().await;
        let browser = piped(&known).await;
        known.push(browser.processes[0].pid);
        let held = hurt(&browser, fault);
        let close = while_held(held, unlucky.closed()).await;
        let close = close.expect("a reason is given");
        assert_eq!(u16::from(close.code), 1011, "{fault:?}: {close:?}");
        // One that can start no renderers may give up by itself.
        let is_told = ["worker lost, the browser ", "the browser has ended"];
        let is_told = is_told.iter().any(|it| close.reason.contains(it));
        assert!(is_told, "{fault:?}: {close:?}");
        browser.gone().await;
        lucky.send(&version).await;
        let answer: Value = serde_json::from_str(&lucky.text().await).unwrap();
        assert_eq!(answer["id"], 7, "{answer}");
    }
    lucky.close().await;
    connect().await.close().await;
    grid.idle().await;
}

/// Pages that were opened in the browsers of sessions, to see whether they work.
fn checks(grid: &Grid) -> usize {
    let log = grid.log();
    log.matches("the browser of a session opened a page")
        .count()
}

/// Asks a browser over the DevTools protocol, and notes all that it says up to the answer.
async fn asked(
    session: &mut Connected,
    id: u64,
    method: &str,
    params: Value,
    said: &mut Vec<Value>,
) -> Value {
    let command = json!({"id": id, "method": method, "params": params});
    session.send(&command.to_string()).await;
    loop {
        let message: Value = serde_json::from_str(&session.text().await).unwrap();
        said.push(message.clone());
        if message["id"] == id {
            return message["result"].clone();
        }
    }
}

/// Its page is busy for good, and it has asked to be told of everything.
#[tokio::test]
async fn a_client_of_cdp_hears_nothing_of_checks_and_may_be_busy() {
    let grid = own_browsers().await;
    let mut session = grid.dial().target("/cdp").connect().await.ok().unwrap();
    let mut said = Vec::new();
    let all = json!([{}]);
    let discover = json!({"discover": true, "filter": all});
    let attach = json!({"autoAttach": true, "waitForDebuggerOnStart": true, "flatten": true});
    asked(
        &mut session,
        1,
        "Target.setDiscoverTargets",
        discover,
        &mut said,
    )
    .await;
    asked(&mut session, 2, "Target.setAutoAttach", attach, &mut said).await;
    let told = asked(&mut session, 3, "Target.getTargets", json!({}), &mut said).await;
    let mut targets = told["targetInfos"].as_array().unwrap().iter();
    let page = targets.find(|it| it["type"] == "page").unwrap();
    let target = json!({"targetId": page["targetId"], "flatten": true});
    let told = asked(&mut session, 4, "Target.attachToTarget", target, &mut said).await;
    let busy = json!({
        "id": 5, "method": "Runtime.evaluate", "params": {"expression": "for (;;) {}"},
        "sessionId": told["sessionId"],
    });
    session.send(&busy.to_string()).await;
    let before = checks(&grid);
    eventually("it has been looked at", async || {
        (checks(&grid) >= before + 3).then_some(())
    })
    .await;
    asked(&mut session, 6, "Browser.getVersion", json!({}), &mut said).await;
    let mut known = HashSet::new();
    for message in &said {
        let params = &message["params"];
        let told = &params["targetInfo"];
        let is_own = told["browserContextId"] == page["browserContextId"];
        if told.is_object() && (is_own || told["type"] == "browser") {
            known.insert(told["targetId"].to_string());
            known.insert(params["sessionId"].to_string());
        }
        for name in [&told["targetId"], &params["targetId"], &params["sessionId"]] {
            assert!(
                name.is_null() || known.contains(&name.to_string()),
                "{message}"
            );
        }
        let is_answer = message["id"]
            .as_i64()
            .is_none_or(|id| (1..=6).contains(&id));
        assert!(is_answer, "{message}");
    }
    session.close().await;
    grid.idle().await;
}

/// The same as with the options of the worker.
#[tokio::test]
async fn a_browser_with_its_clients_options_ends_its_session_when_it_hangs() {
    let builder = Grid::new().workers(1).capacity(2);
    let builder = builder
        .env(HEARTBEAT.0, HEARTBEAT.1)
        .env("LOG_LEVEL", "debug");
    let allowed = "session: { launch_options: [ args ] }\nworker: { seat: own, spares: 0 }";
    let grid = builder.config(allowed).start().await;
    let options = "%7B%22args%22%3A%5B%22--lang%3Dde%22%5D%7D";
    let target = format!("/?launch-options={options}");
    let mut session = grid.dial().target(&target).connect().await.ok().unwrap();
    let browser = eventually("its browser is there", async || {
        let tree = grid.process("up");
        let mut browsers = tree.of_kind(Kind::Browser);
        browsers.retain(|it| it.command.contains("--lang=de"));
        browsers.first().map(|it| (*it).clone())
    })
    .await;
    eventually("it has been looked at", async || {
        (checks(&grid) > 0).then_some(())
    })
    .await;
    browser.signal(Signal::SIGSTOP);
    let close = session.closed().await.expect("a reason is given");
    assert_eq!(u16::from(close.code), 1011, "{close:?}");
    let expected = "playhouse: worker lost, the browser does not answer";
    assert!(close.reason.contains(expected), "{close:?}");
    grid.idle().await;
    eventually("it is gone", async || (!browser.exists()).then_some(())).await;
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
