//! A gateway before small servers on Unix sockets.

use super::*;
use crate::worker::address::ServerAddress;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};

/// A server that says its name to whoever comes, and then repeats what it hears.
struct Browser {
    _folder: tempfile::TempDir,
    address: ServerAddress,
    task: tokio::task::JoinHandle<()>,
}

impl Browser {
    fn start(name: &'static str) -> Browser {
        let folder = tempfile::tempdir().unwrap();
        let address = ServerAddress::in_folder(folder.path(), "/inside").unwrap();
        let listener = UnixListener::bind(folder.path().join(ServerAddress::to_bind())).unwrap();
        let task = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                sessions.spawn(async move {
                    let mut asked = String::new();
                    #[expect(clippy::result_large_err, reason = "the library's own type")]
                    let note = |request: &tungstenite::handshake::server::Request, answer| {
                        asked = request.uri().path().to_owned();
                        Ok(answer)
                    };
                    let mut socket = accept_hdr_async(stream, note).await.unwrap();
                    let hello = Message::text(format!("{name} at {asked}"));
                    socket.send(hello).await.unwrap();
                    while let Some(Ok(message)) = socket.next().await {
                        if message.is_text() {
                            socket.send(message).await.ok();
                        }
                    }
                });
            }
        });
        Browser {
            _folder: folder,
            address,
            task,
        }
    }

    fn upstream(&self) -> Upstream {
        Upstream::Server(self.address.clone())
    }
}

fn open() -> Gateway {
    Gateway::open("127.0.0.1", 0, WorkerMetrics::new()).unwrap()
}

async fn ask(gateway: &Gateway, head: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, gateway.port()))
        .await
        .unwrap();
    let request = format!("{head}\r\nHost: worker\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn status(gateway: &Gateway, head: &str) -> u16 {
    let answer = ask(gateway, head).await;
    let status = answer.split(' ').nth(1).unwrap_or_default();
    status.parse().unwrap_or_else(|_| panic!("{answer:?}"))
}

async fn dial(gateway: &Gateway, path: &str) -> Result<WebSocketStream<TcpStream>, u16> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, gateway.port()))
        .await
        .unwrap();
    match client_async(format!("ws://worker{path}"), stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn hear(socket: &mut WebSocketStream<TcpStream>) -> String {
    let message = socket.next().await.unwrap().unwrap();
    message.into_text().unwrap().to_string()
}

async fn until(condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, reached)
        .await
        .expect("it comes true");
}

#[tokio::test]
async fn it_answers_for_the_worker_and_tells_no_path() {
    let gateway = open();
    assert_eq!(status(&gateway, "GET /healthz HTTP/1.1").await, 200);
    assert_eq!(status(&gateway, "GET /readyz HTTP/1.1").await, 503);
    let browser = Browser::start("one");
    let route = gateway.add_route("/secret", browser.upstream());
    assert_eq!(status(&gateway, "GET /readyz HTTP/1.1").await, 200);
    let metrics = ask(&gateway, "GET /metrics HTTP/1.1").await;
    for line in ["playhouse_worker_browsers 1", "playhouse_worker_sessions 0"] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
    for elsewhere in ["/json", "/json/version", "/", "/secret", "/devtools"] {
        let answer = ask(&gateway, &format!("GET {elsewhere} HTTP/1.1")).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{elsewhere}: {answer}");
        assert!(!answer.contains("secret"), "{answer}");
    }
    let knows = |path: &str| format!("GET /json HTTP/1.1\r\n{PATH_HEADER}: {path}");
    assert_eq!(status(&gateway, &knows("/secret")).await, 200);
    assert_eq!(status(&gateway, &knows("/guess")).await, 404);
    drop(route);
    assert_eq!(status(&gateway, &knows("/secret")).await, 404);
    assert_eq!(status(&gateway, "GET /readyz HTTP/1.1").await, 503);
}

#[tokio::test]
async fn a_path_leads_to_its_browser_and_no_other_path_does() {
    let gateway = open();
    let (old, new) = (Browser::start("old"), Browser::start("new"));
    let old_resident = gateway.add_route("/old", old.upstream());
    let new_resident = gateway.add_route("/new", new.upstream());
    let mut on_old = dial(&gateway, "/old").await.unwrap();
    let mut on_new = dial(&gateway, "/new").await.unwrap();
    assert_eq!(hear(&mut on_old).await, "old at /inside");
    assert_eq!(hear(&mut on_new).await, "new at /inside");
    assert_eq!(dial(&gateway, "/guess").await.unwrap_err(), 404);
    assert_eq!(
        (
            old_resident.connections().count(),
            new_resident.connections().count()
        ),
        (1, 1)
    );

    // The path goes first, and the session stays.
    let connections = old_resident.connections().clone();
    drop(old_resident);
    assert_eq!(dial(&gateway, "/old").await.unwrap_err(), 404);
    let long = "x".repeat(300_000);
    on_old.send(Message::text(long.clone())).await.unwrap();
    assert_eq!(hear(&mut on_old).await, long);
    drop(on_old);
    until(|| connections.count() == 0).await;
}

#[tokio::test]
async fn a_browser_that_is_given_up_says_why_to_its_sessions() {
    let gateway = open();
    let (broken, well) = (Browser::start("broken"), Browser::start("well"));
    let route = gateway.add_route("/broken", broken.upstream());
    let _other = gateway.add_route("/well", well.upstream());
    let mut on_broken = dial(&gateway, "/broken").await.unwrap();
    let mut on_well = dial(&gateway, "/well").await.unwrap();
    assert_eq!(hear(&mut on_broken).await, "broken at /inside");
    assert_eq!(hear(&mut on_well).await, "well at /inside");
    let connections = route.connections();
    connections.end();
    on_broken.send(Message::text("not yet")).await.unwrap();
    assert_eq!(hear(&mut on_broken).await, "not yet");
    connections.close(Some("the browser hangs"));
    assert_eq!(dial(&gateway, "/broken").await.unwrap_err(), 503);
    on_broken.send(Message::text("not yet")).await.unwrap();
    assert_eq!(hear(&mut on_broken).await, "not yet");
    connections.end();
    let Some(Ok(Message::Close(Some(close)))) = on_broken.next().await else {
        panic!("no Close");
    };
    assert_eq!(u16::from(close.code), 1011);
    let told = "playhouse: worker lost, the browser hangs";
    assert_eq!(close.reason.as_str(), told);
    on_well.send(Message::text("still there")).await.unwrap();
    assert_eq!(hear(&mut on_well).await, "still there");
}

#[tokio::test]
async fn a_dead_browser_ends_its_sessions_and_nobody_waits_for_it() {
    let gateway = open();
    let browser = Browser::start("mortal");
    let route = gateway.add_route("/path", browser.upstream());
    let mut session = dial(&gateway, "/path").await.unwrap();
    assert_eq!(hear(&mut session).await, "mortal at /inside");
    browser.task.abort();
    let end = session.next().await;
    assert!(
        matches!(end, None | Some(Err(_))),
        "no word of ours: {end:?}"
    );
    drop(session);
    until(|| route.connections().count() == 0).await;
    until(|| browser.task.is_finished()).await;
    assert_eq!(dial(&gateway, "/path").await.unwrap_err(), 503);
}

#[tokio::test]
async fn who_only_holds_connections_locks_nobody_out() {
    let gateway = open();
    let browser = Browser::start("here");
    let _resident = gateway.add_route("/path", browser.upstream());
    let mut idle = Vec::new();
    for _ in 0..MAX_PENDING + 50 {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, gateway.port()))
            .await
            .unwrap();
        stream.write_all(b"GET /path HT").await.unwrap();
        idle.push(stream);
    }
    let mut session = dial(&gateway, "/path").await.unwrap();
    assert_eq!(hear(&mut session).await, "here at /inside");
    // Who has waited longest has gone.
    let first = idle[0].read(&mut [0; 16]).await;
    assert!(matches!(first, Ok(0) | Err(_)), "{first:?}");
    until(|| gateway.shared.pending().waiting.len() <= MAX_PENDING).await;
}

#[tokio::test]
async fn a_head_may_be_long_but_not_endless() {
    let gateway = open();
    let browser = Browser::start("here");
    let _resident = gateway.add_route("/path", browser.upstream());
    let fat = format!(
        "GET /healthz HTTP/1.1\r\nx-fat: {}",
        "x".repeat(MAX_HEAD - 100)
    );
    assert_eq!(status(&gateway, &fat).await, 200);
    let fatter = format!("GET /healthz HTTP/1.1\r\nx-fat: {}", "x".repeat(MAX_HEAD));
    assert_eq!(status(&gateway, &fatter).await, 431);
}

#[tokio::test]
async fn it_is_open_where_the_worker_is_advertised() {
    let both = open();
    for host in ["127.0.0.1", "::1"] {
        let host: IpAddr = host.parse().unwrap();
        let there = TcpStream::connect((host, both.port())).await;
        assert_eq!(there.is_ok(), host.is_ipv4() || has_ipv6(), "{host}");
    }
    let everywhere = Gateway::open("worker-1", 0, WorkerMetrics::new()).unwrap();
    let there = TcpStream::connect((Ipv4Addr::new(127, 0, 0, 3), everywhere.port())).await;
    assert!(there.is_ok());
    let narrow = Gateway::open("127.0.0.2", 0, WorkerMetrics::new()).unwrap();
    let elsewhere = TcpStream::connect((Ipv4Addr::LOCALHOST, narrow.port())).await;
    assert!(elsewhere.is_err());
}

#[tokio::test]
async fn a_taken_port_is_passed_over() {
    let first = open();
    let second = Gateway::open("127.0.0.1", first.port(), WorkerMetrics::new()).unwrap();
    assert_ne!(first.port(), second.port());
    let port = first.port();
    drop(first);
    until(|| {
        Gateway::open("127.0.0.1", port, WorkerMetrics::new())
            .unwrap()
            .port()
            == port
    })
    .await;
}
