//! Clients of the DevTools protocol: discovery with its tickets, a browser of their own over a pipe, and
//! nothing of it left.

use crate::support::{
    Answer, Authority, Connected, Dial, FakePlaywright, Grid, Kind, Language, RedisServer, Stock,
    eventually, eventually_equal, get, run_client, script, version,
};
use playhouse::config::{Config, Role};
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Instant;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;

async fn grid(more: &str) -> Grid {
    Grid::new()
        .workers(1)
        .capacity(3)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .config(more)
        .start()
        .await
}

/// Browsers that are driven over a pipe.
fn piped(grid: &Grid) -> usize {
    let tree = grid.tree();
    let browsers = tree.of_kind(Kind::Browser).into_iter();
    let piped = browsers.filter(|it| it.command.contains("--remote-debugging-pipe"));
    // Those behind Playwright servers are driven over one too.
    let piped = piped.filter(|it| it.command.contains("/profile"));
    piped.count()
}

fn sha256(token: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(token.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn http(grid: &Grid) -> String {
    grid.url().replace("ws://", "http://")
}

async fn page(grid: &Grid, path: &str) -> Answer {
    get(&format!("{}{path}", http(grid))).await
}

/// What discovery answers.
async fn discover(grid: &Grid, path: &str) -> Value {
    let answer = page(grid, path).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

fn target(told: &Value) -> String {
    let address = told["webSocketDebuggerUrl"].as_str().unwrap();
    let rest = address.strip_prefix("ws://").unwrap();
    rest[rest.find('/').unwrap()..].to_owned()
}

/// A program of `tests/clients`, and how it comes to the grid.
struct Client {
    language: Language,
    program: &'static str,
    arguments: Vec<String>,
    sees: Value,
}

impl Client {
    /// Playwright in both languages and Puppeteer, by discovery and without.
    fn all(grid: &Grid) -> Vec<Client> {
        let direct = format!("{}/cdp", grid.url());
        let mut all = Vec::new();
        for language in Language::BOTH {
            for address in [http(grid), direct.clone()] {
                all.push(Client {
                    language,
                    program: "cdp",
                    arguments: vec![address],
                    sees: json!({
                        "titles": ["Playhouse", "Second"], "picture": true, "pdf": "%PDF",
                        "back": 8 << 20, "downloaded": ["note.bin", [0, 1, 2, 255]],
                    }),
                });
            }
        }
        for (how, address) in [("browserURL", http(grid)), ("browserWSEndpoint", direct)] {
            all.push(Client {
                language: Language::Node,
                program: "puppeteer",
                arguments: vec![how.to_owned(), address],
                sees: json!({
                    "titles": ["Playhouse", "Second"], "picture": true, "pdf": "%PDF",
                    "downloaded": ["from there", "from there"],
                }),
            });
        }
        all
    }

    async fn visit(&self, grid: &Grid) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let said = run_client(self.language, self.program, &arguments).await;
        let seen: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(seen, self.sees, "{:?} {arguments:?}", self.language);
        grid.idle().await;
    }

    /// A session of Puppeteer's that is there until its process ends.
    async fn stay(grid: &Grid) -> Child {
        let mut client = Language::Node
            .command(version("PLAYWRIGHT_VERSION"))
            .arg(script("node/puppeteer.js"))
            .args(["browserURL", &http(grid), "stay"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(client.stdout.take().unwrap());
        assert_eq!(said.lines().next_line().await.unwrap().unwrap(), "stays");
        client
    }
}

/// `CDP_SESSIONS` says how many there are (`make own`: 100).
#[tokio::test]
async fn clients_of_all_kinds_use_what_there_is_and_leave_nothing() {
    let sessions = std::env::var("CDP_SESSIONS").map_or(6, |text| text.parse().unwrap());
    let redis = RedisServer::start().await;
    let grid = Grid::new()
        .redis(&redis)
        .capacity(3)
        .worker_process(&[("PLAYHOUSE_WORKER_SEAT", "own")])
        .start()
        .await;
    let clients = Client::all(&grid);
    // The first ones open what stays open.
    for client in &clients {
        client.visit(&grid).await;
    }
    // A spare behind a Playwright server, and one that is driven over a pipe.
    let start = Stock::at_rest(&grid, &redis, 1, 2).await;
    let began = Instant::now();
    for client in clients.iter().cycle().take(sessions) {
        client.visit(&grid).await;
    }
    let took = began.elapsed();
    Stock::returns(&grid, &redis, &start).await;
    println!("nothing more after {sessions} sessions in {took:.1?}");

    let mut client = Client::stay(&grid).await;
    eventually_equal("its browser, and a spare", 2, async || piped(&grid)).await;
    client.kill().await.unwrap();
    let killed = Instant::now();
    eventually_equal("its browser has gone", 1, async || piped(&grid)).await;
    println!(
        "its browser has gone {:.1?} after its client",
        killed.elapsed()
    );
    Stock::returns(&grid, &redis, &start).await;
}

#[tokio::test]
async fn a_ticket_is_for_one_connection_and_carries_the_token() {
    let token = format!(
        "auth: {{ tokens: [ {{ name: ci, sha256: \"{}\" }} ] }}",
        sha256("secret")
    );
    let grid = grid(&token).await;
    for path in ["/json/version", "/json/version/"] {
        let stranger = page(&grid, path).await;
        assert_eq!(stranger.status, 401, "{}", stranger.body);
        let told = discover(&grid, &format!("{path}?token=secret")).await;
        assert!(
            told["Browser"].as_str().unwrap().contains("Chrome/"),
            "{told}"
        );
        let target = target(&told);
        let mut session = grid.dial().target(&target).connect().await.ok().unwrap();
        let version = json!({"id": 7, "method": "Browser.getVersion"}).to_string();
        session.send(&version).await;
        let answer: Value = serde_json::from_str(&session.text().await).unwrap();
        assert_eq!(answer["id"], 7, "{answer}");
        assert!(session.answers_a_ping().await);
        let again = grid.dial().target(&target).refused().await;
        assert_eq!(again.status, 401, "{}", again.body);
        session.close().await;
        grid.idle().await;
    }
    for target in [
        "/cdp",
        "/devtools/browser/own?ticket=x",
        "/devtools/browser/x",
    ] {
        let refused = grid.dial().target(target).refused().await;
        assert_eq!(refused.status, 401, "{target}");
    }
    let session = grid.dial().target("/cdp?token=secret").connect().await;
    session.ok().unwrap().close().await;
    assert!(!grid.log().contains("ticket="), "{}", grid.log());
    grid.idle().await;
}

#[tokio::test]
async fn who_comes_to_the_wrong_door_is_told_the_right_one() {
    let grid = grid("").await;
    let refused = async |dial: Dial| dial.refused().await;
    // Playwright's `connect` asks below an address of `http://` where to connect, below that again.
    let asked: Value = page(&grid, "/cdp/json").await.json();
    let led = format!("/cdp{}", asked["wsEndpointPath"].as_str().unwrap());
    for path in ["/cdp", &led] {
        let playwright = refused(grid.dial().target(path).playwright("1.65.1")).await;
        assert_eq!(playwright.status, 400, "{path}");
        let told = playwright.body;
        assert!(told.contains("connectOverCDP"), "{told}");
    }
    for agent in [
        "Puppeteer 24.1.0",
        "Playwright/1.65.1 (x64; debian 12) node/20",
    ] {
        let deflate = ("Sec-WebSocket-Extensions", "permessage-deflate");
        let dial = grid.dial().header("User-Agent", agent);
        let cdp = refused(dial.header(deflate.0, deflate.1)).await;
        assert_eq!(cdp.status, 400);
        assert!(cdp.body.contains("/cdp"), "{}", cdp.body);
    }
    for (wish, told) in [
        ("browser=firefox", "Chromium only"),
        ("browser=netscape", "Unknown browser"),
        ("seat=shared", "of its own"),
        ("seat=any", "Unknown kind of seat"),
        ("seat=own&browser=webkit", "Chromium only"),
    ] {
        let connected = refused(grid.dial().target(&format!("/cdp?{wish}"))).await;
        let discovered = page(&grid, &format!("/json/version?{wish}")).await;
        for (status, body) in [
            (connected.status, connected.body),
            (discovered.status, discovered.body),
        ] {
            assert_eq!(status, 400, "{wish}");
            assert!(body.contains(told), "{wish}: {body}");
        }
    }
    let all_is_true = "/cdp?browser=chromium&seat=own";
    let session = grid.dial().target(all_is_true).connect().await;
    session.ok().unwrap().close().await;
    for path in ["/cdp", "/devtools/browser/own"] {
        let asked = page(&grid, path).await;
        assert_eq!(asked.status, 426, "{path}");
        assert!(asked.body.contains("connectOverCDP"), "{}", asked.body);
    }
}

#[tokio::test]
async fn a_browser_ends_with_its_client_and_a_client_hears_of_its_browsers_end() {
    let grid = grid("").await;
    let open = async || grid.dial().target("/cdp").connect().await.ok().unwrap();
    let version = json!({"id": 1, "method": "Browser.getVersion"}).to_string();
    let mut gone = open().await;
    gone.send(&version).await;
    gone.text().await;
    assert!(piped(&grid) >= 1);
    // No close frame: its process was killed.
    drop(gone);
    grid.idle().await;
    eventually("its browser is gone, and a spare is there", async || {
        (piped(&grid) == 1).then_some(())
    })
    .await;

    let mut session = open().await;
    session
        .send(&json!({"id": 2, "method": "Browser.close"}).to_string())
        .await;
    let close = session.closed().await.expect("a reason is given");
    assert!(close.reason.contains("browser has ended"), "{close:?}");

    let mut talker = open().await;
    talker.send(&version).await;
    talker.text().await;
    let killed = grid.command(&["kill", talker.session()]).await;
    assert!(killed.status.success(), "{killed:?}");
    let close = talker.closed().await.expect("a reason is given");
    assert_eq!(u16::from(close.code), 1008, "{close:?}");
    grid.idle().await;
    eventually_equal("one spare is left", 1, async || piped(&grid)).await;
}

/// What a client and its browser say to each other may be large, and of many pages, and a client may die within a
/// message of its own or of its browser's. `CDP_MIB` says how large (`make own`: 100, as much as a browser takes).
#[tokio::test]
async fn large_messages_are_whole_and_no_browser_waits_for_the_rest_of_one() {
    let grid = grid("").await;
    let mut client = DevTools::connect(&grid).await;
    let page = client.open_page().await;
    let size = std::env::var("CDP_MIB").map_or(8, |text| text.parse().unwrap()) << 20;
    let large = format!("'x'.repeat({size})");
    let answer = client.evaluate(&page, &large).await;
    let (_, value) = answer.split_once(r#""value":""#).unwrap();
    let (value, _) = value.split_once('"').unwrap();
    assert!(value == "x".repeat(size), "{} bytes", value.len());
    let command = client.command(&page, "'@'.length");
    // With the NUL that it ends in.
    let length = size - command.len();
    let answer = client.ask(&command.replace('@', &"x".repeat(length))).await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["result"]["result"]["value"], length);

    let mut pages = Vec::new();
    for _ in 0..PAGES {
        pages.push(client.open_page().await);
    }
    for (n, page) in pages.iter().enumerate() {
        client.evaluate(page, &format!("window.number = {n}")).await;
    }
    for (n, page) in pages.iter().enumerate() {
        let answer = client.evaluate(page, "window.number").await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(answer["result"]["result"]["value"], n);
    }

    // Its first byte more is refused before the others have come.
    client.begin_message(LARGEST + 1).await;
    let close = client.session.closed().await.expect("a reason is given");
    assert_eq!(u16::from(close.code), 1009, "{close:?}");
    assert!(close.reason.contains("100 MiB"), "{}", close.reason);
    grid.idle().await;

    let mut speaks = DevTools::connect(&grid).await;
    speaks.begin_message(LARGEST).await;
    speaks.write(&[b'x'; 1 << 20]).await;
    let mut hears = DevTools::connect(&grid).await;
    let page = hears.open_page().await;
    let asked = hears.command(&page, "'x'.repeat(100 << 20)");
    hears.session.send(&asked).await;
    hears.hears_something().await;
    eventually("each has a browser", async || {
        (piped(&grid) >= 2).then_some(())
    })
    .await;
    drop((speaks, hears));
    let died = Instant::now();
    grid.idle().await;
    eventually_equal("theirs have gone, and a spare is there", 1, async || {
        piped(&grid)
    })
    .await;
    println!("both browsers are gone {:.1?} after", died.elapsed());
}

/// Bytes of the largest message that a browser takes.
const LARGEST: usize = (100 << 20) - 1;
/// Pages of a session that has many.
const PAGES: usize = 20;

/// A client that says what it likes.
struct DevTools {
    session: Connected,
    /// Of the command to come.
    id: u64,
}

impl DevTools {
    async fn connect(grid: &Grid) -> DevTools {
        let session = grid.dial().target("/cdp").connect().await;
        DevTools {
            session: session.ok().unwrap(),
            id: 1,
        }
    }

    /// What the browser answers; what else it says is not heard.
    async fn ask(&mut self, command: &str) -> String {
        self.session.send(command).await;
        let begins = format!("{{\"id\":{},", self.id);
        self.id += 1;
        loop {
            let said = self.session.text().await;
            if said.starts_with(&begins) {
                return said;
            }
        }
    }

    /// Opens a page, and gives the name under which it is spoken to.
    async fn open_page(&mut self) -> String {
        let params = json!({"url": "about:blank"});
        let opened = json!({"id": self.id, "method": "Target.createTarget", "params": params});
        let opened: Value = serde_json::from_str(&self.ask(&opened.to_string()).await).unwrap();
        let params = json!({"targetId": opened["result"]["targetId"], "flatten": true});
        let attached = json!({"id": self.id, "method": "Target.attachToTarget", "params": params});
        let attached: Value = serde_json::from_str(&self.ask(&attached.to_string()).await).unwrap();
        let name = attached["result"]["sessionId"].as_str().unwrap();
        name.to_owned()
    }

    /// The command that has a page evaluate something.
    fn command(&self, page: &str, expression: &str) -> String {
        let params = json!({"expression": expression, "returnByValue": true});
        let command = json!({
            "id": self.id, "method": "Runtime.evaluate", "sessionId": page, "params": params,
        });
        command.to_string()
    }

    async fn evaluate(&mut self, page: &str, expression: &str) -> String {
        let command = self.command(page, expression);
        self.ask(&command).await
    }

    async fn write(&mut self, bytes: &[u8]) {
        let stream = self.session.socket.get_mut();
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
    }

    /// The header of a message of so many bytes.
    async fn begin_message(&mut self, length: usize) {
        let header = [&[0x81, 0xff][..], &(length as u64).to_be_bytes(), &[0; 4]];
        self.write(&header.concat()).await;
    }

    /// Waits for the first bytes of whatever comes.
    async fn hears_something(&mut self) {
        let mut some = [0; 1024];
        let stream = self.session.socket.get_mut();
        stream.read_exact(&mut some).await.unwrap();
    }
}

/// What a client of Playwright's meets at the grid, and at a browser that has a port of its own.
#[tokio::test]
async fn connect_over_cdp_does_what_it_does_at_a_browsers_own_port() {
    let worker = Config::defaults(Role::Worker).worker;
    let browser = playhouse::worker::locate(&worker).unwrap().executable;
    let run = async |arguments: [&str; 2]| -> Value {
        let said = run_client(Language::Node, "over_cdp", &arguments).await;
        serde_json::from_str(&said).unwrap()
    };
    let plain = run(["plain", browser.unwrap().to_str().unwrap()]).await;
    let grid = grid("").await;
    let mut here = run(["grid", &http(&grid)]).await;
    grid.idle().await;
    // Its file is on the machine of the browser.
    let saved = std::mem::replace(&mut here["pages"]["saved"], "it went well".into());
    assert!(saved.as_str().unwrap().contains("ENOENT"), "{saved}");
    assert_eq!(plain["contexts"]["proxied"], "By the proxy", "{plain:#}");
    for scenario in ["addresses", "contexts", "pages", "recordings", "ends"] {
        assert_eq!(here[scenario], plain[scenario], "{scenario}");
    }
}

#[tokio::test]
async fn users_of_python_read_why_there_is_no_browser_and_why_it_has_ended() {
    let hash = sha256("secret");
    let grid = grid(&format!(
        "auth: {{ tokens: [ {{ name: ci, sha256: \"{hash}\" }} ] }}"
    ))
    .await;
    let mut client = Language::Python
        .command(version("PLAYWRIGHT_VERSION"))
        .arg(script("python/over_cdp.py"))
        .args([&http(&grid), "secret"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(said.next_line().await.unwrap().unwrap(), "waits");
    let session = eventually("the one session", async || {
        let sessions = grid.sessions().await;
        (sessions.len() == 1).then(|| sessions[0].id.clone())
    })
    .await;
    assert!(grid.command(&["kill", &session]).await.status.success());
    let seen = said.next_line().await.unwrap().expect("it goes on");
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert!(client.wait().await.unwrap().success());
    let text = |name: &str| seen[name].as_str().unwrap().to_owned();
    assert_eq!(seen["contexts"], json!([1, 1, 1, 1]));
    for (name, words) in [
        ("again", "was used before"),
        ("stranger", "none was given"),
        ("stranger_by_ws", "none was given"),
        ("unknown", "does not know the given token"),
        ("ended", "playhouse: session killed by an operator"),
    ] {
        assert!(text(name).contains(words), "{name}: {}", text(name));
    }
    assert_eq!(seen["of_the_second"], json!([""]));
    assert_eq!(seen["first_goes_on"], "of the first");
    assert_eq!(seen["connected"], false);
    // A Playwright of no token is told where it will read that, and nothing of the browsers.
    for (path, known) in [
        ("/json/version", false),
        ("/json/version?token=secret", true),
    ] {
        let headers = [("user-agent", "Playwright/1.65.1 (x64; debian 12) node/22")];
        let answer = grid.request("GET", path, &headers).await;
        let told: Value = answer.json();
        assert!(told["webSocketDebuggerUrl"].is_string(), "{told}");
        assert_eq!(told["User-Agent"].is_string(), known, "{told}");
    }
    grid.idle().await;
}

#[tokio::test]
async fn who_asks_for_what_only_a_browsers_own_port_has_reads_what_to_do() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).start().await;
    for path in [
        "/json/list",
        "/json/list/",
        "/json/protocol",
        "/json/new?about:blank",
        "/json/activate/1",
        "/json/close/1",
        "/cdp/json/list",
        "/devtools/page/1",
        "/devtools/inspector.html",
    ] {
        let answer = page(&grid, path).await;
        assert_eq!(answer.status, 404, "{path}");
        let told = answer.json::<Value>()["message"].to_string();
        assert!(
            told.contains("/json/version") && told.contains("/cdp"),
            "{told}"
        );
    }
}

/// Whatever stands in front of the grid.
#[tokio::test]
async fn an_address_is_for_the_way_on_which_it_was_asked_for() {
    let told = async |grid: &Grid, path: &str, headers: &[(&str, &str)]| {
        let answer = grid.request("GET", path, headers).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let url = answer.json::<Value>()["webSocketDebuggerUrl"].to_string();
        let (way, ticket) = url.trim_matches('"').split_once("?ticket=").unwrap();
        (way.to_owned(), format!("?ticket={ticket}"))
    };
    let proxied = grid("server: { base_path: /grid, trusted_proxies: [127.0.0.1] }").await;
    let host = proxied.address().to_string();
    for (path, scheme, expected) in [
        ("/json/version", "http", format!("ws://{host}/devtools")),
        ("/json/version/", "https", format!("wss://{host}/devtools")),
        (
            "/grid/json/version/",
            "https",
            format!("wss://{host}/grid/devtools"),
        ),
        // By the address that clients without discovery have.
        (
            "/cdp/json/version/",
            "http",
            format!("ws://{host}/devtools"),
        ),
        (
            "/grid/cdp/json/version",
            // As a chain of proxies says it.
            "HTTPS, http",
            format!("wss://{host}/grid/devtools"),
        ),
    ] {
        let headers = [("x-forwarded-proto", scheme)];
        let (way, ticket) = told(&proxied, path, &headers).await;
        assert_eq!(way, format!("{expected}/browser/own"), "{path}");
        let (_, target) = way.split_once(&host).unwrap();
        let dial = proxied.dial().target(&format!("{target}{ticket}"));
        dial.connect().await.ok().unwrap().close().await;
    }
    proxied.idle().await;
    drop(proxied);

    let authority = Authority::new();
    let certificate = authority.issue("served", 30);
    let encrypted = Grid::new()
        .workers(1)
        .env("PLAYHOUSE_WORKER_SEAT", "own")
        .tls(&authority, &certificate)
        .start()
        .await;
    // Nobody is trusted to say another scheme.
    let headers = [("x-forwarded-proto", "http")];
    let (way, ticket) = told(&encrypted, "/json/version", &headers).await;
    assert!(way.starts_with("wss://"), "{way}");
    let target = format!("/devtools/browser/own{ticket}");
    let session = encrypted.dial().target(&target).connect().await;
    session.ok().unwrap().close().await;
    encrypted.idle().await;
}

/// Who names no protocol is not known before it speaks.
#[tokio::test]
async fn who_speaks_cdp_where_playwrights_own_protocol_is_spoken_is_told_so() {
    let fake = FakePlaywright::start().await;
    let grid = Grid::new().fakes(&[&fake]).capacity(1).start().await;
    let command = json!({"id": 1, "method": "Target.setDiscoverTargets"}).to_string();
    let agent = ("User-Agent", "Python/3.13 websockets/15.0");
    for dial in [grid.dial(), grid.dial().header(agent.0, agent.1)] {
        let mut lost = dial.connect().await.ok().unwrap();
        lost.send(&command).await;
        let answer: Value = serde_json::from_str(&lost.text().await).unwrap();
        let words = answer["error"]["message"].as_str().unwrap();
        assert!(words.contains("ws://HOST:PORT/cdp"), "{answer}");
        assert_eq!(answer["id"], 1, "{answer}");
        let close = lost.closed().await.expect("a reason is given");
        assert_eq!(u16::from(close.code), 1008, "{close:?}");
        assert!(
            close.reason.contains("ws://HOST:PORT/cdp"),
            "{}",
            close.reason
        );
        grid.idle().await;
    }
    // Whoever says something else first, or who he is, may say what he likes.
    let mut other = grid.connect().await;
    other.echo("hello").await;
    other.echo(&command).await;
    other.close().await;
    grid.idle().await;
    let dial = grid.dial().playwright("1.65.1").connect().await;
    let mut known = dial.ok().unwrap();
    known.echo(&command).await;
    known.close().await;
    grid.idle().await;
    let metrics = grid.admin("GET", "/metrics").await.body;
    let counted = r#"playhouse_sessions_total{browser="chromium",outcome="wrong_protocol"} 2"#;
    assert!(metrics.lines().any(|line| line == counted), "{metrics}");
}
