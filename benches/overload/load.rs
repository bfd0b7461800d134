//! Clients: at a rate, all at once, in closed loops, and malformed; and what became of them.

use crate::support::Dial;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What became of a client.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// When it came, since the load began.
    pub at: Duration,
    pub took: Duration,
    pub served: bool,
}

async fn client(dial: Dial, begun: Instant, session: Duration) -> Outcome {
    let came = Instant::now();
    let connected = dial.connect().await;
    let outcome = Outcome {
        at: came.duration_since(begun),
        took: came.elapsed(),
        served: connected.is_ok(),
    };
    if let Ok(connected) = connected {
        tokio::time::sleep(session).await;
        connected.close().await;
    }
    outcome
}

/// So many clients a second, whatever becomes of those before them.
pub async fn open_loop(dial: Dial, rate: f64, length: Duration, session: Duration) -> Vec<Outcome> {
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    let mut next = begun;
    while begun.elapsed() < length {
        clients.spawn(client(dial.clone(), begun, session));
        next += Duration::from_secs_f64(1.0 / rate);
        tokio::time::sleep_until(next.into()).await;
    }
    clients.join_all().await
}

/// So many at once.
pub async fn burst(dial: Dial, clients: usize, session: Duration) -> Vec<Outcome> {
    let begun = Instant::now();
    let clients = (0..clients).map(|_| client(dial.clone(), begun, session));
    clients.collect::<JoinSet<_>>().join_all().await
}

/// So many who come again as soon as their session has ended.
pub async fn closed_loop(
    dial: Dial,
    clients: usize,
    length: Duration,
    session: Duration,
) -> Vec<Outcome> {
    let begun = Instant::now();
    let again = |dial: Dial| async move {
        let mut outcomes = Vec::new();
        while begun.elapsed() < length {
            outcomes.push(client(dial.clone(), begun, session).await);
        }
        outcomes
    };
    let clients = (0..clients).map(|_| again(dial.clone()));
    let outcomes = clients.collect::<JoinSet<_>>().join_all().await;
    outcomes.into_iter().flatten().collect()
}

/// Handshakes that no worker would take, so many a second: how often each status was the answer, 0 for none.
pub async fn malformed(address: SocketAddr, rate: f64, length: Duration) -> BTreeMap<u16, usize> {
    const KEYS: [&str; 4] = [
        "short",
        "",
        "dGhlIHNhbXBsZSBub25jZQ",
        "not base64 at all, no",
    ];
    let begun = Instant::now();
    let mut statuses = BTreeMap::new();
    let mut next = begun;
    let mut n = 0;
    while begun.elapsed() < length {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n",
            KEYS[n % KEYS.len()]
        );
        n += 1;
        let status = status(address, request.as_bytes()).await;
        *statuses.entry(status.unwrap_or(0)).or_default() += 1;
        next += Duration::from_secs_f64(1.0 / rate);
        tokio::time::sleep_until(next.into()).await;
    }
    statuses
}

/// The status of the answer, whether the connection is closed then or not.
async fn status(address: SocketAddr, request: &[u8]) -> Option<u16> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(request).await.ok()?;
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).await.ok()?;
    std::str::from_utf8(&begin[9..]).ok()?.parse().ok()
}

/// How many of those who came within these seconds were served, in percent.
pub fn served_share(all: &[Outcome], from: u64, to: u64) -> String {
    let seconds = from..to;
    let came = all.iter().filter(|it| seconds.contains(&it.at.as_secs()));
    let served = came.clone().filter(|it| it.served).count();
    let share = 100.0 * served as f64 / came.count().max(1) as f64;
    format!("{share:.0} %")
}

/// In milliseconds, of those who were served.
pub fn percentile(all: &[Outcome], part: f64) -> f64 {
    let served = all.iter().filter(|it| it.served);
    let mut times: Vec<f64> = served.map(|it| it.took.as_secs_f64() * 1000.0).collect();
    times.sort_by(f64::total_cmp);
    let last = times.len().saturating_sub(1);
    times
        .get((last as f64 * part).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}
