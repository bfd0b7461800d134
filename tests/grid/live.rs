//! The live view of a session: who may look, at what, and that a look costs the session nothing.

use crate::support::{
    Answer, Connected, Driver, FakePlaywright, Grid, GridBuilder, Kind, Language, Proxy,
    RedisServer, SuiteRun, eventually,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TOKEN: &str = "of-the-operator";
const UNKNOWN: &str = "0123456789abcdef";
/// How a JPEG begins.
const JPEG: &[u8] = &[0xff, 0xd8, 0xff];

fn path(session: &str) -> String {
    format!("/v1/sessions/{session}/live")
}

/// An operator's connection, and what came over it.
struct Look {
    stream: TcpStream,
    said: Vec<u8>,
}

impl Look {
    async fn at(proxy: &Proxy, session: &str) -> Look {
        let mut stream = TcpStream::connect(proxy.admin_address()).await.unwrap();
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n",
            path(session)
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let said = Vec::new();
        Look { stream, said }
    }

    /// Waits until this has been said since the last time; leaves what came behind it.
    async fn until(&mut self, what: &[u8]) {
        loop {
            let mut windows = self.said.windows(what.len());
            if let Some(at) = windows.position(|window| window == what) {
                self.said.drain(..at + what.len());
                return;
            }
            let read = self.stream.read_buf(&mut self.said).await.unwrap();
            let said = String::from_utf8_lossy(&self.said);
            assert_ne!(read, 0, "it ended without {what:?}: {said}");
        }
    }

    /// Whether the other side has hung up.
    async fn ends(mut self) {
        while self.stream.read_buf(&mut self.said).await.unwrap() > 0 {
            self.said.clear();
        }
    }
}

fn shown(seat: &str, capacity: u32) -> GridBuilder {
    Grid::new()
        .workers(1)
        .capacity(capacity)
        .env("PLAYHOUSE_WORKER_SEAT", seat)
        .env("PLAYHOUSE_ADMIN_LIVE_VIEW", "true")
        .admin_token(TOKEN)
}

/// The one session that there is.
async fn only_session(proxy: &Proxy) -> String {
    eventually("one session is listed", async || {
        let sessions = proxy.sessions().await;
        (sessions.len() == 1).then(|| sessions[0].id.clone())
    })
    .await
}

/// How many look at this moment, and how often somebody has.
async fn views(grid: &Grid) -> (u32, u32) {
    let page = grid.admin("GET", "/metrics").await.body;
    let value = |name: &str| {
        let mut values = page.lines().filter_map(|line| line.strip_prefix(name));
        values.next().expect("it is told").trim().parse().unwrap()
    };
    (
        value("playhouse_live_views "),
        value("playhouse_live_views_total "),
    )
}

/// Sockets that browsers' servers have opened beside their own.
fn sockets(grid: &Grid) -> usize {
    let mut folders: Vec<PathBuf> = grid.leftovers();
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|it| it == "sock")
                && entry
                    .path()
                    .parent()
                    .is_some_and(|it| it.ends_with("browser"))
            {
                found += 1;
            }
        }
    }
    found
}

#[tokio::test]
async fn operators_see_what_one_session_shows() {
    operators_see_one_session("own").await;
}

#[tokio::test]
async fn operators_see_nothing_of_those_who_share_a_sessions_browser() {
    operators_see_one_session("shared").await;
}

async fn operators_see_one_session(seat: &str) {
    let grid = shown(seat, 5).start().await;
    let output = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("PLAYHOUSE_PICTURES").map(PathBuf::from);
    let folder = kept.unwrap_or_else(|| output.path().to_owned());
    let ran = SuiteRun::of("live", &grid, &folder.join("run")).await;
    assert_eq!((ran.passed, ran.flaky), (2, 0), "{ran}");
    grid.idle().await;
    let logged = |text: &str| {
        let log = grid.log();
        let lines = log.lines().filter(|line| line.contains(text));
        let named = lines.filter(|line| line.contains("operator=admin"));
        let named = named.filter(|line| line.contains("client=127.0.0.1"));
        named.count() as u32
    };
    let looks = eventually("every look is over, counted and logged", async || {
        let (open, looks) = views(&grid).await;
        let begun = logged("an operator looks at the session");
        let ended = logged("an operator has looked at the session");
        (open == 0 && begun == looks && ended == looks).then_some(looks)
    })
    .await;
    assert!(looks >= 5, "{looks}");
    assert!(!grid.log().contains(TOKEN), "{}", grid.log());
}

fn code(answer: &Answer) -> (u16, String) {
    let error: serde_json::Value = answer.json();
    let code = error["error"]["code"].as_str().unwrap_or_default();
    (answer.status, code.to_owned())
}

#[tokio::test]
pub async fn who_may_not_look_reads_why() {
    let fake = FakePlaywright::start().await;
    let refused = async |grid: &Grid, session: &str| {
        let answer = grid.admin("GET", &path(session)).await;
        (code(&answer).0, code(&answer).1, answer.body)
    };

    let grid = Grid::new().fakes(&[&fake]).admin_token(TOKEN).start().await;
    let session = grid.connect().await;
    let (status, code_of_it, why) = refused(&grid, session.session()).await;
    assert_eq!((status, &*code_of_it), (403, "live_view_off"));
    assert!(why.contains("admin.live_view: true"), "{why}");
    session.close().await;
    drop(grid);

    let on = || Grid::new().env("PLAYHOUSE_ADMIN_LIVE_VIEW", "true");
    let grid = on().fakes(&[&fake]).start().await;
    let (status, _, why) = refused(&grid, UNKNOWN).await;
    assert_eq!(status, 403, "nobody has shown a token");
    assert!(why.contains("admin.token_sha256"), "{why}");
    drop(grid);

    let grid = on().fakes(&[&fake]).admin_token(TOKEN).start().await;
    let session = grid.connect().await;
    let there = path(session.session());
    for wrong in [&[][..], &[("Authorization", "Bearer wrong")]] {
        let answer = grid.admin_with("GET", &there, wrong).await;
        assert_eq!(code(&answer), (401, "wrong_token".to_owned()));
    }
    let query = format!("{there}?token={TOKEN}");
    assert_eq!(grid.admin_with("GET", &query, &[]).await.status, 401);
    for (id, expected) in [
        ("nonsense", (400, "bad_request")),
        (UNKNOWN, (404, "no_such_session")),
        // A worker that is not ours shows nothing.
        (session.session(), (503, "worker_away")),
    ] {
        let (status, code, why) = refused(&grid, id).await;
        assert_eq!((status, &*code), expected, "{why}");
    }
    assert_eq!(grid.admin("POST", &there).await.status, 405);
    assert_eq!(views(&grid).await, (0, 0));
    session.close().await;
    grid.idle().await;
    assert!(!grid.log().contains("looks at"), "{}", grid.log());
}

#[tokio::test]
async fn a_look_holds_up_nobody_and_leaves_nothing() {
    let grid = shown("own", 2).start().await;
    let mut driver = Driver::start(Language::Python, &grid.url());
    // A page that never rests.
    let page = "data:text/html,<title>moving</title><script>setInterval(()=>{document.title;\
                document.documentElement.style.background='%23'+Math.random().toString(16).slice(2,8)},5)</script>";
    driver.open_page("a", page).await.unwrap();
    let session = only_session(&grid).await;
    let mut look = Look::at(&grid, &session).await;
    look.until(JPEG).await;
    // Who does not read holds up neither the session nor the others.
    let deaf = Look::at(&grid, &session).await;
    for _ in 0..10 {
        look.until(JPEG).await;
        driver.works("a").await.unwrap();
    }
    assert_eq!(sockets(&grid), 1);
    drop(look);
    drop(deaf);
    eventually("nothing of a look is left", async || {
        (sockets(&grid) == 0).then_some(())
    })
    .await;
    // The language of error texts is the client's.
    let words = driver.misses("a").await;
    assert!(words.contains("get_by_role"), "{words}");

    // Of the DevTools protocol there is no view.
    let cdp = grid.dial().target("/cdp").connect().await;
    let cdp = cdp.expect("a browser of its own");
    let answer = grid.admin("GET", &path(cdp.session())).await;
    assert_eq!(
        code(&answer),
        (409, "not_shown".to_owned()),
        "{}",
        answer.body
    );
    cdp.close().await;

    // A browser that hangs hangs nobody else, and a look at it ends with its session.
    let mut look = Look::at(&grid, &session).await;
    look.until(JPEG).await;
    let tree = grid.tree();
    let hung = tree.of_kind(Kind::Browser);
    hung.iter()
        .for_each(|browser| browser.signal(nix::sys::signal::Signal::SIGSTOP));
    let mut another = Look::at(&grid, &session).await;
    another.until(b"multipart/x-mixed-replace").await;
    assert_eq!(grid.admin("GET", "/v1/workers").await.status, 200);
    let killed = grid
        .admin("DELETE", &format!("/v1/sessions/{session}"))
        .await;
    assert_eq!(killed.status, 200);
    for mut look in [look, another] {
        look.until(b"{\"ended\":\"the session has ended\"}").await;
        look.ends().await;
    }
    driver.quit().await;
    grid.idle().await;
}

#[tokio::test]
async fn any_proxy_shows_a_session_of_another_one() {
    let redis = RedisServer::start().await;
    let own = [
        ("PLAYHOUSE_WORKER_SEAT", "own"),
        ("MAX_CONCURRENT_SESSIONS", "2"),
    ];
    let grid = Grid::new()
        .redis(&redis)
        .proxies(2)
        .worker_process(&own)
        .env("PLAYHOUSE_ADMIN_LIVE_VIEW", "true")
        .admin_token(TOKEN)
        .start()
        .await;
    let mut driver = Driver::start(Language::Python, &grid.url());
    driver.open("a").await.unwrap();
    let session = only_session(&grid).await;
    let there = grid.proxy(1);
    let mut look = Look::at(there, &session).await;
    look.until(JPEG).await;
    eventually("the look is in the log", async || {
        let log = grid.log_of("proxy 1");
        log.contains("an operator looks at the session")
            .then_some(())
    })
    .await;
    driver.close("a").await.unwrap();
    look.until(b"{\"ended\":\"the session has ended\"}").await;
    look.ends().await;
    eventually("no proxy knows it", async || {
        let answer = there.admin("GET", &path(&session)).await;
        (answer.status == 404).then_some(())
    })
    .await;
    driver.quit().await;
    grid.idle().await;
}

/// A client of Playwright's wire format.
struct Wire {
    session: Connected,
    last_id: u64,
    browser: String,
}

impl Wire {
    async fn open(grid: &Grid) -> Wire {
        let mut wire = Wire {
            session: grid.connect().await,
            last_id: 0,
            browser: String::new(),
        };
        let language = json!({"sdkLanguage": "javascript"});
        wire.call("", "initialize", language).await.unwrap();
        wire
    }

    /// Opens a page that shows something.
    async fn show(&mut self) {
        let browser = self.browser.clone();
        let made = self.call(&browser, "newContext", json!({})).await.unwrap();
        let context = made["context"]["guid"].as_str().unwrap();
        self.call(context, "newPage", json!({})).await.unwrap();
    }

    /// Has the browser's server listen on a port; what becomes of that.
    async fn bind(&mut self) -> Result<Value, String> {
        let browser = self.browser.clone();
        let there = json!({"title": "mine", "host": "127.0.0.1", "port": 0});
        self.call(&browser, "startServer", there).await
    }

    async fn call(&mut self, object: &str, method: &str, params: Value) -> Result<Value, String> {
        self.last_id += 1;
        let id = self.last_id;
        let metadata = json!({"wallTime": 0});
        let call = json!({
            "id": id, "guid": object, "method": method, "params": params, "metadata": metadata,
        });
        self.session.send(&call.to_string()).await;
        loop {
            let mut said: Value = serde_json::from_str(&self.session.text().await).unwrap();
            let made = &said["params"];
            if said["method"] == "__create__" && made["type"] == "Browser" {
                self.browser = made["guid"].as_str().unwrap().to_owned();
            }
            if said["id"] == id {
                return match said.get("error") {
                    None => Ok(said["result"].take()),
                    Some(error) => Err(error["error"]["message"].to_string()),
                };
            }
        }
    }
}

/// A browser has one server beside its own, and Playwright counts a try that failed for one.
#[tokio::test]
async fn who_tried_to_open_a_port_blocks_no_view() {
    for seat in ["own", "shared"] {
        let grid = shown(seat, 2).start().await;
        let mut wire = Wire::open(&grid).await;
        wire.show().await;
        let refused = wire.bind().await.unwrap_err();
        assert!(refused.contains("EACCES"), "{refused}");
        let again = wire.bind().await.unwrap_err();
        assert!(again.contains("already started"), "{again}");
        let session = only_session(&grid).await;
        let mut look = Look::at(&grid, &session).await;
        look.until(JPEG).await;
        assert_eq!(sockets(&grid), 1);
        drop(look);
        eventually("nothing of a look is left", async || {
            (sockets(&grid) == 0).then_some(())
        })
        .await;
        // Of its try nothing is left either.
        let refused = wire.bind().await.unwrap_err();
        assert!(refused.contains("EACCES"), "{refused}");
        wire.session.close().await;
        grid.idle().await;
    }
}

/// Where ports can be opened, a session keeps the one that it has.
#[tokio::test]
async fn who_has_opened_a_port_keeps_it_and_operators_read_why_they_see_nothing() {
    let grid = shown("own", 2)
        .env("PLAYHOUSE_WORKER_SEAL", "off")
        .start()
        .await;
    let mut wire = Wire::open(&grid).await;
    wire.show().await;
    let bound = wire.bind().await.unwrap();
    let session = only_session(&grid).await;
    let mut look = Look::at(&grid, &session).await;
    look.until(b"listen on a port").await;
    look.ends().await;
    let address = bound["endpoint"].as_str().unwrap();
    let address = address.strip_prefix("ws://").unwrap();
    let (address, _) = address.split_once('/').unwrap();
    TcpStream::connect(address).await.expect("it listens still");
    wire.session.close().await;
    grid.idle().await;
}
