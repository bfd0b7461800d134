//! One session from its arrival to its log line, in a task of its own.
//!
//! Everything it holds is a guard in this task: quota share, place in line, seat, registry entry,
//! connection. However it ends, dropping the task gives all of it back.

use super::dial::{Dialled, dial};
use super::front_door::{Connection, refuse};
use super::refusal::{CLIENT_GONE, NoSeat, Refusal};
use super::{Arrival, Grid};
use crate::admission::queue::Ticket;
use crate::admission::tokens::{Identity, QuotaShare};
use crate::fleet::{NoGrant, Target};
use crate::metrics::ObserveTime;
use crate::model::{SessionId, unix_millis};
use crate::selection::Wanted;
use crate::session::quota;
use crate::session::registry::{Client as InOurHands, Entry, Info};
use crate::session::seat::Seat;
use crate::tunnel::{self, Ended, Ends, Limits, Link, Side, Traffic};
use pingora::protocols::Stream;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

/// Bytes a client may send before it has its session. Clients wait for the 101, so a few frames
/// of an eager one are the most that makes sense.
const MAX_EARLY: usize = 64 * 1024;

/// Between two questions of a client that is first in line. Well within the time for which the
/// store believes that it waits.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The client's connection while it is not relayed yet.
struct Client {
    stream: Stream,
    early: Vec<u8>,
}

/// A seat whose worker has said yes.
struct Seated {
    seat: Seat,
    target: Arc<Target>,
    dialled: Dialled,
    waited: Duration,
    dial_time: Duration,
}

/// Why there is no session.
enum NoSession {
    Refused(Refusal),
    /// The client hung up; nobody is left to be told.
    ClientGone,
}

impl From<Refusal> for NoSession {
    fn from(refusal: Refusal) -> NoSession {
        NoSession::Refused(refusal)
    }
}

/// What stays for the session's whole life.
struct Running {
    entry: Entry,
    seat: Seat,
    _share: QuotaShare,
    _connection: Option<Arc<Connection>>,
    _client: InOurHands,
}

/// Serves one client: a session, or a refusal.
pub(super) fn serve(
    grid: Arc<Grid>,
    arrival: Arrival,
    stream: Stream,
    early: Vec<u8>,
) -> impl Future<Output = ()> + Send {
    // Boxed, so that an open session does not carry the size of what led to it; and outside of the
    // block, which would keep a place for everything it is given.
    let opening = Box::pin(open(grid.clone(), arrival, stream, early));
    async move {
        let Some((running, ends, stop)) = opening.await else {
            return;
        };
        let limits = Limits::from(&grid.config.load().session);
        let id = running.entry.id;
        let traffic = running.entry.traffic.clone();
        let ended = tunnel::run(id, ends, limits, traffic, stop).await;
        finish(&grid, &running, &ended);
    }
}

type Opened = (Running, Ends, tokio::sync::oneshot::Receiver<tunnel::Close>);

/// Queue, reservation, dial, 101. `None` when the client was refused or has gone.
async fn open(grid: Arc<Grid>, arrival: Arrival, stream: Stream, early: Vec<u8>) -> Option<Opened> {
    let mut client = Client { stream, early };
    let arrived = Instant::now();
    let Arrival {
        ask,
        who,
        share,
        connection,
        client: in_our_hands,
    } = arrival;
    let admitted = async {
        quota::within(&*grid.store, &share)
            .await
            .map_err(Refusal::from)?;
        find_seat(&grid, &ask.wanted, &who, &ask.forwarded).await
    };
    let seated = tokio::select! {
        seated = admitted => seated,
        () = client.gone() => Err(NoSession::ClientGone),
    };
    let seated = match seated {
        Ok(seated) => seated,
        Err(NoSession::ClientGone) => {
            let rejections = &grid.metrics.rejections;
            rejections.with_label_values(&[CLIENT_GONE]).inc();
            log::info!(browser:% = ask.wanted.browser, token = &*who.tenant,
                waited_ms = arrived.elapsed().as_millis() as u64;
                "client left before it had a session");
            return None;
        }
        Err(NoSession::Refused(refusal)) => {
            grid.count_refusal(&refusal);
            log::warn!(browser:% = ask.wanted.browser, token = &*who.tenant,
                reason = refusal.code(); "session refused");
            let note = (
                "x-playwright-debug-log",
                format!("playhouse: {}", refusal.code()),
            );
            refuse(client.stream, &refusal.to_http(ask.playwright, &[note])).await;
            return None;
        }
    };
    let Seated {
        mut seat,
        target,
        dialled,
        waited,
        dial_time,
    } = seated;
    let begun = Instant::now();
    let answer = switching_protocols(&seat, &target, &dialled.forwarded, waited);
    let told = async {
        client.stream.write_all(&answer).await?;
        client.stream.flush().await
    };
    if told.await.is_err() {
        // The worker saw a client: its lifetime count stands.
        seat.reached();
        return None;
    }
    seat.reached();
    grid.metrics.phases.upgrade.observe_time(begun.elapsed());
    let version = target.version.map_or("unknown".into(), |v| v.to_string());
    log::info!(session:% = seat.session(), worker:% = target.key.id,
        browser:% = target.key.browser, version:% = version, token = &*who.tenant,
        waited_ms = waited.as_millis() as u64, dial_ms = dial_time.as_millis() as u64;
        "session started");
    let info = Info {
        id: seat.session(),
        worker: target.key.clone(),
        browser: target.key.browser,
        client: connection
            .as_ref()
            .and_then(|connection| connection.address),
        token: who.tenant,
        started_at: unix_millis(),
        since: Instant::now(),
        traffic: Arc::new(Traffic::new()),
    };
    let (entry, stop) = grid.registry.enter(info);
    let running = Running {
        entry,
        seat,
        _share: share,
        _connection: connection,
        _client: in_our_hands,
    };
    let ends = Ends {
        client: Side {
            stream: Link::from(client.stream),
            early: client.early.into(),
        },
        worker: Side {
            stream: dialled.stream,
            early: dialled.early,
        },
    };
    Some((running, ends, stop))
}

/// A seat on a worker that was dialled. Waits in line while there is none, and goes on to the next
/// worker when one cannot be dialled.
async fn find_seat(
    grid: &Arc<Grid>,
    wanted: &Wanted,
    who: &Identity,
    forwarded: &[u8],
) -> Result<Seated, NoSession> {
    let begun = Instant::now();
    let queue = grid.config.load().queue;
    let available = grid.fleet.other_versions(wanted);
    if let (Some(client), false) = (wanted.version, available.is_empty()) {
        let browser = wanted.browser;
        return Err(Refusal::NoSuchVersion {
            browser,
            client,
            available,
        }
        .into());
    }
    let mut tried = 0;
    let mut attempt = async |waited: Duration| {
        loop {
            let mut seat = grid.releaser.seat(SessionId::random());
            let mut granted = grid.fleet.reserve(&mut seat, wanted, waited).await;
            if matches!(granted, Err(NoGrant::StoreAway)) {
                // The store may have heard the question: a session that it never heard of.
                seat = grid.releaser.seat(SessionId::random());
                granted = grid.fleet.reserve_from_share(&mut seat, wanted);
            }
            let target = match granted {
                Ok(target) => target,
                Err(NoGrant::NoneFree) => return Ok(None),
                Err(NoGrant::StoreAway) => return Err(Refusal::StoreAway),
            };
            let dialling = Instant::now();
            let timeout = grid.config.load().selection.dial_timeout;
            match dial(&target, forwarded, timeout).await {
                Ok(dialled) => {
                    let dial_time = dialling.elapsed();
                    grid.metrics.phases.dial.observe_time(dial_time);
                    return Ok(Some(Seated {
                        seat,
                        target,
                        dialled,
                        waited,
                        dial_time,
                    }));
                }
                Err(error) => {
                    tried += 1;
                    grid.fleet.dial_failed(&target, error.into());
                }
            }
        }
    };
    // Whoever comes to an empty line need not stand in it.
    if grid.queue.is_empty(wanted)
        && let Some(seated) = attempt(Duration::ZERO).await?
    {
        return Ok(seated);
    }
    let ticket = grid
        .queue
        .join(*wanted, &who.tenant, who.priority, queue.max_waiting)
        .map_err(|_| Refusal::QueueFull {
            max_waiting: queue.max_waiting,
        })?;
    let mut draining = grid.draining.subscribe();
    let wait = async {
        loop {
            turn(grid, &ticket).await;
            match attempt(begun.elapsed()).await {
                Ok(None) => {}
                done => return done,
            }
        }
    };
    let outcome = tokio::select! {
        outcome = wait => outcome,
        () = tokio::time::sleep(queue.timeout) => Ok(None),
        _ = draining.wait_for(|draining| *draining) => Err(Refusal::Draining),
    };
    let waited = begun.elapsed();
    grid.metrics.phases.queue.observe_time(waited);
    grid.metrics.queue_wait.observe_time(waited);
    match outcome? {
        Some(seated) => {
            ticket.served();
            Ok(seated)
        }
        None => Err(no_seat(grid, wanted, waited, tried).into()),
    }
}

/// Waits for a client's turn to try for a seat. Where proxies share a line, the first of each one's
/// part asks now and then without a rumour of a seat: it counts as waiting for as long as it asks.
async fn turn(grid: &Grid, ticket: &Ticket) {
    if !grid.store.is_shared() {
        return ticket.turn().await;
    }
    loop {
        ticket.first().await;
        let rumour = tokio::time::timeout(ASK_AGAIN, ticket.turn()).await;
        if rumour.is_ok() || ticket.is_first() {
            return;
        }
    }
}

fn no_seat(grid: &Grid, wanted: &Wanted, waited: Duration, tried: usize) -> Refusal {
    let why = grid.fleet.why_no_seat(wanted);
    if tried > 0 && why != NoSeat::AllTaken {
        return Refusal::NotDialled { tried };
    }
    let browser = wanted.browser;
    Refusal::NoSeat {
        browser,
        why,
        waited,
    }
}

/// The 101. Playwright prints the debug-log headers in its own log, if their name is lower-case.
fn switching_protocols(
    seat: &Seat,
    target: &Target,
    from_worker: &[u8],
    waited: Duration,
) -> Vec<u8> {
    use std::io::Write;
    let mut answer = Vec::with_capacity(from_worker.len() + 512);
    let browser = match &target.browser_version {
        Some(version) => format!("{} {version}", target.key.browser),
        None => target.key.browser.to_string(),
    };
    let version = target.version.map_or("unknown".into(), |v| v.to_string());
    // Writing to memory does not fail.
    let _ = write!(
        answer,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         x-playhouse-session: {id}\r\n\
         x-playwright-debug-log: playhouse session {id}\r\n\
         x-playwright-debug-log: playhouse worker {worker}\r\n\
         x-playwright-debug-log: playhouse waited {waited} ms\r\n\
         x-playwright-debug-log: playhouse {browser}, Playwright {version}\r\n",
        id = seat.session(),
        worker = target.key.id,
        waited = waited.as_millis(),
    );
    answer.extend_from_slice(from_worker);
    answer.extend_from_slice(b"\r\n");
    answer
}

fn finish(grid: &Grid, running: &Running, ended: &Ended) {
    let info = &*running.entry;
    let lasted = info.since.elapsed();
    let (bytes_in, bytes_out) = (info.traffic.bytes_in(), info.traffic.bytes_out());
    log::info!(session:% = info.id, worker:% = info.worker.id, browser:% = info.browser,
        duration_ms = lasted.as_millis() as u64, bytes_in = bytes_in, bytes_out = bytes_out,
        ended_by:% = ended.by, why:% = ended.why, code = ended.code.unwrap_or(1006); "session ended");
    let metrics = &grid.metrics;
    let outcome = [info.browser.as_str(), ended.why.as_str()];
    metrics.sessions_total.with_label_values(&outcome).inc();
    metrics.session_duration.observe_time(lasted);
    metrics.bytes_in.inc_by(bytes_in);
    metrics.bytes_out.inc_by(bytes_out);
    debug_assert!(running.seat.worker().is_some());
}

impl Client {
    /// Resolves when the client has hung up, or talks although nobody has answered it. Keeps what
    /// it says until then. Safe to drop and call again.
    async fn gone(&mut self) {
        poll_fn(|cx| {
            loop {
                let mut bytes = [0; 1024];
                let mut buffer = ReadBuf::new(&mut bytes);
                match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(()),
                    Poll::Ready(Ok(())) => self.early.extend_from_slice(buffer.filled()),
                }
                if self.early.len() > MAX_EARLY {
                    return Poll::Ready(());
                }
            }
        })
        .await;
    }
}
