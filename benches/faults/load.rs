//! Clients that come, stay a moment and leave, at every proxy, and their own account of it: who was
//! served, who was refused, who lost a session that nobody had ended.

use futures_util::StreamExt;
use rand::Rng;
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// A client gives up then. Above what the contract allows an answer to take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A session that ended and that its client had not ended.
#[derive(Clone, Debug)]
pub struct Lost {
    pub proxy: usize,
    pub worker: String,
    session: String,
    after: Duration,
    how: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lost {
            proxy,
            worker,
            session,
            how,
            ..
        } = self;
        let after = self.after.as_secs_f32();
        write!(
            f,
            "{session} at proxy {proxy} on {worker} after {after:.1} s: {how}"
        )
    }
}

/// What the clients of one round saw.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub served: usize,
    /// By status, 0 where no answer came.
    pub refused: BTreeMap<u16, usize>,
    pub lost: Vec<Lost>,
    /// Sessions that are open, by worker.
    pub open: BTreeMap<String, usize>,
    /// The most there ever were on one worker.
    pub most_open: usize,
    /// When somebody was last served, by proxy, and the longest time in which nobody was.
    last_served: BTreeMap<usize, Instant>,
    longest_without: Duration,
}

impl Account {
    fn serve(&mut self, proxy: usize, worker: &str) {
        self.served += 1;
        self.note_time(proxy);
        let open = self.open.entry(worker.to_owned()).or_default();
        *open += 1;
        self.most_open = self.most_open.max(*open);
    }

    fn note_time(&mut self, proxy: usize) {
        let now = Instant::now();
        if let Some(last) = self.last_served.insert(proxy, now) {
            self.longest_without = self.longest_without.max(now - last);
        }
    }

    fn leave(&mut self, worker: &str) {
        if let Some(open) = self.open.get_mut(worker) {
            *open -= 1;
        }
    }

    /// The longest time in which one of the proxies served nobody, until now.
    pub fn longest_without(&self) -> Duration {
        let until_now = self.last_served.values().map(Instant::elapsed);
        until_now.fold(self.longest_without, Duration::max)
    }

    pub fn refused(&self) -> usize {
        self.refused.values().sum()
    }
}

pub struct Load {
    account: Arc<Mutex<Account>>,
    over: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    /// So many clients at each of these proxies, one session after another.
    pub fn start(proxies: &[Ipv4Addr], clients: usize) -> Load {
        let mut load = Load {
            account: Arc::default(),
            over: Arc::default(),
            clients: JoinSet::new(),
        };
        for (proxy, address) in proxies.iter().enumerate() {
            lock(&load.account).note_time(proxy);
            for _ in 0..clients {
                let account = load.account.clone();
                let over = load.over.clone();
                let address = *address;
                load.clients.spawn(async move {
                    while !over.load(Ordering::Relaxed) {
                        client(proxy, address, &account).await;
                    }
                });
            }
        }
        load
    }

    /// Lets everybody finish.
    pub async fn end(self) -> Account {
        self.over.store(true, Ordering::Relaxed);
        // Taken before the proxies are left alone, so that the wait for the last is no gap.
        let longest_without = lock(&self.account).longest_without();
        self.clients.join_all().await;
        let mut account = lock(&self.account).clone();
        account.longest_without = longest_without;
        account.last_served.clear();
        account
    }
}

fn lock(account: &Mutex<Account>) -> MutexGuard<'_, Account> {
    account.lock().expect("nothing panics while it holds this")
}

async fn client(proxy: usize, address: Ipv4Addr, account: &Mutex<Account>) {
    let begun = Instant::now();
    let connecting = tokio::time::timeout(PATIENCE, connect(address));
    let (mut socket, worker, session) = match connecting.await.unwrap_or(Err(0)) {
        Ok(connected) => connected,
        Err(status) => {
            *lock(account).refused.entry(status).or_default() += 1;
            // Not as fast as it can.
            tokio::time::sleep(Duration::from_millis(300)).await;
            return;
        }
    };
    lock(account).serve(proxy, &worker);
    let stay = Duration::from_millis(rand::rng().random_range(50..4_000));
    let left = tokio::time::sleep(stay);
    tokio::pin!(left);
    let lost = loop {
        tokio::select! {
            () = &mut left => break None,
            message = socket.next() => match message {
                Some(Ok(Message::Close(close))) => break Some(format!("{close:?}")),
                Some(Ok(_)) => {}
                other => break Some(format!("{other:?}")),
            }
        }
    };
    {
        let mut account = lock(account);
        account.leave(&worker);
        if let Some(how) = lost {
            account.lost.push(Lost {
                proxy,
                worker,
                session,
                after: begun.elapsed(),
                how,
            });
            return;
        }
    }
    let goodbye = async {
        socket.close(None).await.ok();
        while let Some(Ok(_)) = socket.next().await {}
    };
    // The other side may be cut off.
    tokio::time::timeout(PATIENCE, goodbye).await.ok();
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

/// The session, its worker and its id; or the status of the refusal, 0 where there was no answer.
async fn connect(address: Ipv4Addr) -> Result<(Socket, String, String), u16> {
    let stream = TcpStream::connect((address, 8080))
        .await
        .map_err(|_| 0u16)?;
    let request = format!("ws://{address}:8080/").into_client_request();
    let request = request.expect("an address makes a URL");
    match client_async(request, stream).await {
        Ok((socket, answer)) => {
            let header = |name: &str, mark: &str| {
                let values = answer.headers().get_all(name).iter();
                let mut texts = values.filter_map(|value| value.to_str().ok());
                texts
                    .find_map(|text| {
                        Some(
                            text.split_once(mark)?
                                .1
                                .split_whitespace()
                                .next()?
                                .to_owned(),
                        )
                    })
                    .unwrap_or_default()
            };
            let worker = header("x-playwright-debug-log", "worker ");
            let session = header("x-playhouse-session", "");
            Ok((socket, worker, session))
        }
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(_) => Err(0),
    }
}
