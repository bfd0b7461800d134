//! The admin API says what `docs/admin-api.md` promises, and the commands show it.

use super::tenants::{token, with_token};
use crate::support::{FakePlaywright, Grid, eventually, eventually_equal};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

/// The names in a JSON value, but not those of browsers.
fn names(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                found.insert(name.clone());
                names(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| names(item, found)),
        _ => {}
    }
}

/// The examples of the page, by heading.
fn documented() -> Vec<(String, BTreeSet<String>)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/admin-api.md");
    let page = std::fs::read_to_string(page).unwrap();
    let sections = page.split("\n## ").skip(1);
    sections
        .map(|section| {
            let (heading, rest) = section.split_once('\n').unwrap();
            let example = rest.split("```json\n").nth(1).unwrap();
            let example = example.split("```").next().unwrap();
            let mut found = BTreeSet::new();
            names(&serde_json::from_str(example).unwrap(), &mut found);
            (heading.to_owned(), found)
        })
        .collect()
}

#[tokio::test]
async fn answers_have_the_fields_that_the_page_promises() {
    let fake = FakePlaywright::start().await;
    let tokens = format!("auth: {{ tokens: [ {} ] }}", token("ci", "sesame", ""));
    let grid = Grid::new().config(&tokens).fakes(&[&fake]).start().await;
    let session = with_token(grid.dial(), "sesame").connect().await.unwrap();
    let documented = documented();
    for (heading, path) in [
        ("Workers", "/v1/workers"),
        ("Sessions", "/v1/sessions"),
        ("Capacity", "/v1/capacity"),
        ("Events", "/v1/events"),
        ("History", "/v1/history"),
        ("Configuration", "/v1/config"),
        ("Errors", "/v1/nothing"),
    ] {
        let (_, promised) = documented.iter().find(|(it, _)| it == heading).unwrap();
        // What has happened is an event a moment later.
        eventually_equal(path, promised.clone(), async || {
            let answer = grid.admin("GET", path).await;
            let mut found = BTreeSet::new();
            names(&answer.json(), &mut found);
            found
        })
        .await;
    }
    let sessions: Value = grid.admin("GET", "/v1/sessions").await.json();
    assert_eq!(sessions["sessions"][0]["token"], "ci");
    assert_eq!(sessions["sessions"][0]["client"], "127.0.0.1");

    let path = format!("/v1/sessions/{}", session.session());
    let killed: Value = grid.admin("DELETE", &path).await.json();
    assert_eq!(killed["killed"], true);
    let mut session = session;
    let close = session.closed().await.expect("a reason");
    assert!(close.reason.contains("operator"), "{close:?}");
    grid.idle().await;
}

/// Who looks at the process list, the log, the metrics or an error text learns no token.
#[tokio::test]
async fn no_secret_is_shown_anywhere() {
    const SECRETS: [&str; 2] = ["sesame-of-a-client", "sesame-of-an-operator"];
    let fake = FakePlaywright::start().await;
    let tokens = format!("auth: {{ tokens: [ {} ] }}", token("ci", SECRETS[0], ""));
    let grid = Grid::new()
        .config(&tokens)
        .config("log: { level: trace }")
        .fakes(&[&fake])
        .admin_token(SECRETS[1])
        .start()
        .await;
    let in_query = |secret: &str| grid.dial().target(&format!("/?token={secret}"));
    let mut session = in_query(SECRETS[0]).connect().await.unwrap();
    session.echo("a secret page").await;
    let wrong = in_query("sesame-that-is-wrong").connect().await;
    let mut said = wrong.err().unwrap().body;
    said += &grid.get("/nothing?token=sesame-in-a-path", &[]).await.body;
    for path in [
        "/metrics",
        "/v1/config",
        "/v1/sessions",
        "/v1/workers",
        "/v1/capacity",
    ] {
        said += &grid.admin("GET", path).await.body;
    }
    said += &grid.admin_with("GET", "/v1/workers", &[]).await.body;
    let check = grid.command(&["check"]).await;
    said += &String::from_utf8_lossy(&check.stdout);
    let pid = grid.process("proxy 0").processes[0].pid;
    let ps = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    said += &String::from_utf8_lossy(&ps);
    session.close().await;
    grid.idle().await;
    said += &grid.log();
    for secret in ["sesame", "a secret page", fake.path()] {
        let line = said.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is shown");
    }
}

/// A proxy that dies leaves no file with what was in its memory, even where others would.
#[tokio::test]
async fn no_core_file_is_left() {
    let fake = FakePlaywright::start().await;
    let (soft, hard) = getrlimit(Resource::RLIMIT_CORE).unwrap();
    setrlimit(Resource::RLIMIT_CORE, hard, hard).unwrap();
    let mut grid = Grid::new().fakes(&[&fake]).start().await;
    setrlimit(Resource::RLIMIT_CORE, soft, hard).unwrap();
    let pid = grid.process("proxy 0").processes[0].pid;
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits
        .lines()
        .find(|it| it.starts_with("Max core file size"));
    let soft = core.unwrap().split_whitespace().nth(4);
    assert_eq!(soft, Some("0"), "{limits}");
    grid.signal(Signal::SIGABRT);
    let status = grid.died("proxy 0").await;
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
}

#[tokio::test]
async fn status_shows_the_grid_and_looks_again() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    let first = grid.connect().await;
    let mut watching = grid
        .program("status")
        .arg("--watch")
        .arg("--admin")
        .arg(grid.admin_address().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = watching.stdout.take().unwrap();
    let (sender, mut shown) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = output.read(&mut buffer) {
            sender
                .send(String::from_utf8_lossy(&buffer[..n]).into_owned())
                .ok();
        }
    });
    let mut screen = String::new();
    let mut shows = async |id: &str| {
        eventually("the session is shown", async || {
            while let Ok(more) = shown.try_recv() {
                screen += &more;
            }
            screen.contains(id).then_some(())
        })
        .await;
    };
    shows(first.session()).await;
    let second = grid.connect().await;
    shows(second.session()).await;
    watching.kill().unwrap();
    watching.wait().unwrap();
    let page = grid.admin("GET", "/").await;
    assert!(page.body.contains("<html") && page.body.contains("/v1/sessions"));
    first.close().await;
    second.close().await;
    grid.idle().await;
}
