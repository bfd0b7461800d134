//! A Playwright server without a browser, in the test's own process. It says what the real one
//! says up to the upgrade, echoes afterwards, and misbehaves when told to.

use super::machine::free_port;
use futures_util::{SinkExt, StreamExt};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};

/// How it treats those who connect. What is open already goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Echoes. The text `flood` makes it send without end, `hush` never say anything again, also
    /// to pings; `bye CODE REASON` makes it close.
    Serve,
    /// The same, and takes so long to answer an upgrade.
    Slow(Duration),
    /// Takes connections and never says a word.
    Hang,
    /// Never answers an upgrade; plain requests are served.
    HangAtUpgrades,
    /// Answers everything with 404, as another server would.
    NotFound,
    /// Answers upgrades with this status; plain requests are served.
    Refuse(u16),
    /// Closes the connection of an upgrade without an answer; plain requests are served.
    HangUp,
    /// Answers an upgrade with 103, a moment before it serves it.
    Announce,
    /// Serves, but a Playwright client of another version gets 428.
    Only(&'static str),
}

pub struct FakePlaywright {
    address: SocketAddr,
    state: Arc<State>,
    server: Option<JoinHandle<()>>,
}

struct State {
    behaviour: Mutex<Behaviour>,
    upgrades: AtomicUsize,
    probes: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    heads: Mutex<Vec<String>>,
}

/// Counts a session as open while it lives.
struct Open(Arc<State>);

const PATH: &str = "/fake-path-nobody-guesses";

impl FakePlaywright {
    pub async fn start() -> Self {
        FakePlaywright::start_at(([127, 0, 0, 1], free_port()).into()).await
    }

    /// On a port of [`free_port`], at another address.
    pub async fn start_at(address: SocketAddr) -> Self {
        let mut fake = FakePlaywright {
            address,
            state: Arc::new(State {
                behaviour: Mutex::new(Behaviour::Serve),
                upgrades: AtomicUsize::new(0),
                probes: AtomicUsize::new(0),
                open: AtomicUsize::new(0),
                most_open: AtomicUsize::new(0),
                heads: Mutex::new(Vec::new()),
            }),
            server: None,
        };
        fake.restart().await;
        fake
    }

    pub fn endpoint(&self) -> String {
        FakePlaywright::endpoint_at(&self.address.to_string())
    }

    /// What the endpoint is for those who know it by this name.
    pub fn endpoint_at(authority: &str) -> String {
        format!("ws://{authority}{PATH}")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn path(&self) -> &'static str {
        PATH
    }

    /// From here on.
    pub fn behave(&self, behaviour: Behaviour) {
        *lock(&self.state.behaviour) = behaviour;
    }

    /// Sessions that are open.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// The most sessions that were ever open at once.
    pub fn most_open(&self) -> usize {
        self.state.most_open.load(Ordering::SeqCst)
    }

    /// Upgrades that ever reached it, served or not.
    pub fn upgrades(&self) -> usize {
        self.state.upgrades.load(Ordering::SeqCst)
    }

    /// Plain requests that ever reached it: whether it answers.
    pub fn probes(&self) -> usize {
        self.state.probes.load(Ordering::SeqCst)
    }

    /// The request heads of those upgrades, as they came.
    pub fn heads(&self) -> Vec<String> {
        lock(&self.state.heads).clone()
    }

    /// Stops listening and cuts every session, as a process that dies does.
    pub async fn crash(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            // It ends by being cancelled, which is an error to `await` and what is wanted here.
            server.await.ok();
        }
    }

    /// Listens again after [`FakePlaywright::crash`], at the same address.
    pub async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address)
            .await
            .expect("the port is still ours");
        self.server = Some(tokio::spawn(serve(listener, Arc::clone(&self.state))));
    }
}

impl Drop for FakePlaywright {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

impl Open {
    fn new(state: Arc<State>) -> Open {
        let open = state.open.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_open.fetch_max(open, Ordering::SeqCst);
        Open(state)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this")
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    // Dropped with this task, and everything in it with it.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(stream, Arc::clone(&state)));
    }
}

async fn connection(mut stream: TcpStream, state: Arc<State>) {
    let Some(head) = read_head(&mut stream).await else {
        return;
    };
    let key = header(&head, "sec-websocket-key");
    let upgrade = header(&head, "upgrade").is_some();
    if upgrade {
        state.upgrades.fetch_add(1, Ordering::SeqCst);
        lock(&state.heads).push(head.clone());
    } else {
        state.probes.fetch_add(1, Ordering::SeqCst);
    }
    let behaviour = *lock(&state.behaviour);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let answer = match (behaviour, upgrade, key) {
        (Behaviour::Hang, ..) => return std::future::pending().await,
        (Behaviour::HangAtUpgrades, true, _) => return std::future::pending().await,
        (Behaviour::HangUp, true, _) => return,
        (Behaviour::NotFound, ..) => plain(404, "not found"),
        (Behaviour::Refuse(status), true, _) => plain(status, "refused"),
        (Behaviour::Only(version), true, _) if speaks_another(&head, version) => format!(
            "HTTP/1.1 428 Precondition Required\r\n\r\n\
             ║ Playwright version mismatch:   ║\n║   - server version: v{version}   ║\n"
        ),
        (_, true, Some(key)) if path == PATH => {
            if behaviour == Behaviour::Announce {
                let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </>; rel=preload\r\n\r\n";
                if stream.write_all(hints).await.is_err() {
                    return;
                }
            }
            let accept = derive_accept_key(key.as_bytes());
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            if let Behaviour::Slow(handshake) = behaviour {
                tokio::time::sleep(handshake).await;
            }
            // Counted before anybody can know of it.
            let open = Open::new(state);
            if stream.write_all(answer.as_bytes()).await.is_ok() {
                echo(stream, open).await;
            }
            return;
        }
        (_, true, _) => "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned(),
        (_, false, _) if path == "/json" => {
            plain(200, &format!(r#"{{"wsEndpointPath":"{PATH}"}}"#))
        }
        (_, false, _) => plain(200, "Running"),
    };
    // Whoever asked may be gone.
    stream.write_all(answer.as_bytes()).await.ok();
}

async fn echo(stream: TcpStream, open: Open) {
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    // Dropped before the stream: whoever sees that closed can rely on the count.
    let _open = open;
    while let Some(Ok(message)) = socket.next().await {
        let told = match &message {
            Message::Text(text) => text.as_str(),
            Message::Binary(_) => "",
            _ => continue,
        };
        if told == "flood" {
            let block = vec![b'x'; 64 * 1024];
            while socket.send(Message::binary(block.clone())).await.is_ok() {}
            return;
        }
        if told == "hush" {
            return std::future::pending().await;
        }
        let reply = match told
            .strip_prefix("bye ")
            .and_then(|rest| rest.split_once(' '))
        {
            Some((code, reason)) => Message::Close(Some(CloseFrame {
                code: code.parse::<u16>().expect("a close code").into(),
                reason: reason.into(),
            })),
            None => message,
        };
        if socket.send(reply).await.is_err() {
            return;
        }
    }
}

/// A request's head as text; `None` when the other side left before it was whole.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        // One at a time: what follows the head is the WebSocket's.
        bytes.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Whether the client is Playwright of another version than this one.
fn speaks_another(head: &str, version: &str) -> bool {
    header(head, "user-agent")
        .and_then(|agent| agent.strip_prefix("Playwright/"))
        .is_some_and(|release| !release.starts_with(version))
}

fn plain(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} As Told\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
