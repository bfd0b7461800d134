//! One session from its arrival to its log line, in a task of its own.
//!
//! Everything it holds is a guard in this task: quota share, place in line, seat, registry entry,
//! connection. However it ends, dropping the task gives all of it back.

use super::answer::switching_protocols;
use super::connections::Connection;
use super::first_message::heard;
use super::refusal::Refusal;
use super::session_request::SessionRequest;
use super::unserved::{never_served, refusal, try_elsewhere};
use super::{Arrival, ProxyState};
use crate::admission::line::{LineTimeouts, Refused, SeatRequest};
use crate::admission::tokens::{QuotaPermit, still_known};
use crate::events::EventKind;
use crate::fleet::{DialFailure, Dialled, Grant, Handshake, PlaceGuard, Target};
use crate::metrics::ObserveTime;
use crate::model::{SessionId, unix_millis};
use crate::session::quota;
use crate::session::registry::{ClientGuard, OpenSession, SessionInfo};
use crate::session::seat::Seat;
use crate::tunnel::protocol::code;
use crate::tunnel::{self, EndReason, Ended, Ends, SessionLimits, Side, Traffic, Transport};
use pingora::protocols::Stream;
use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

/// Bytes a client may send before it has its session. Clients wait for the 101, so a few frames
/// of an eager one are the most that makes sense.
const MAX_EARLY: usize = 64 * 1024;

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
    entry: OpenSession,
    seat: Seat,
    _quota: QuotaPermit,
    client: ConnectedClient,
}

/// What stays for as long as the client is connected.
struct ConnectedClient {
    _connection: Arc<Connection>,
    _client: ClientGuard,
}

impl Running {
    /// Gives back what is a session's.
    fn give_back(self) -> ConnectedClient {
        self.client
    }
}

/// Serves one client: a session, or a refusal.
pub(super) fn serve(
    proxy: Arc<ProxyState>,
    arrival: Arrival,
    stream: Stream,
    early: Vec<u8>,
) -> impl Future<Output = ()> + Send {
    // Boxed, so that an open session does not carry the size of what led to it; and outside of the
    // block, which would keep a place for everything it is given.
    let opening = Box::pin(open(proxy.clone(), arrival, stream, early));
    async move {
        let Some((running, ends, stop)) = opening.await else {
            return;
        };
        let limits = SessionLimits::from(&proxy.config.load().session);
        let id = running.entry.id;
        let traffic = running.entry.traffic.clone();
        let over = tunnel::run(id, ends, limits, traffic, stop).await;
        finish(&proxy, &running, &over.ended);
        let client = running.give_back();
        over.client_gone().await;
        drop(client);
    }
}

type Opened = (Running, Ends, tokio::sync::oneshot::Receiver<tunnel::Close>);

/// Queue, reservation, dial, 101. `None` when the client was refused or has gone.
async fn open(
    proxy: Arc<ProxyState>,
    arrival: Arrival,
    stream: Stream,
    early: Vec<u8>,
) -> Option<Opened> {
    let mut client = Client { stream, early };
    let seated = tokio::select! {
        seated = find_seat(&proxy, &arrival) => seated,
        () = client.gone() => Err(NoSession::ClientGone),
    };
    match seated {
        Ok(seated) => begin(&proxy, arrival, client, seated).await,
        Err(NoSession::ClientGone) => {
            proxy.note_client_gone(
                arrival.wanted_session.wanted.browser,
                &arrival.who.tenant,
                &arrival.connection,
                arrival.came,
            );
            None
        }
        Err(NoSession::Refused(refusal)) => {
            refuse(&proxy, &arrival, client.stream, &refusal).await;
            None
        }
    }
}

async fn refuse(proxy: &ProxyState, arrival: &Arrival, stream: Stream, refusal: &Refusal) {
    let wanted_session = &arrival.wanted_session;
    proxy.count_refusal(refusal);
    log::warn!(browser:% = wanted_session.wanted.browser, token = &*arrival.who.tenant,
        client:% = arrival.connection.client(), reason = refusal.code().as_str(); "session refused");
    let note = (
        "x-playwright-debug-log",
        format!("playhouse: {}", refusal.code()),
    );
    tunnel::send_last(stream, &refusal.to_http(wanted_session.playwright, &[note])).await;
}

/// Answers a client whose worker has said yes. `None` when the client has gone.
async fn begin(
    proxy: &ProxyState,
    arrival: Arrival,
    mut client: Client,
    seated: Seated,
) -> Option<Opened> {
    let Arrival {
        wanted_session,
        connection,
        ..
    } = arrival;
    let Seated {
        mut seat, target, ..
    } = seated;
    // Entered before the client can know of its session: whoever has read the 101 is listed.
    let (entry, stop) = proxy.registry.enter(SessionInfo {
        id: seat.session(),
        worker: target.key.clone(),
        browser: target.key.browser,
        client: Some(connection.client()),
        tenant: arrival.who.tenant,
        started_at: unix_millis(),
        since: Instant::now(),
        traffic: Arc::new(Traffic::new()),
    });
    let begun = Instant::now();
    let (forwarded, notes) = (&seated.dialled.forwarded, &wanted_session.notes);
    let answer = switching_protocols(&seat, &target, forwarded, seated.waited, notes);
    let told = async {
        client.stream.write_all(&answer).await?;
        client.stream.flush().await
    };
    // The worker saw a client: its lifetime count stands, whether that one hears of it or not.
    seat.reached();
    if told.await.is_err() {
        proxy.note_client_gone(target.key.browser, &entry.tenant, &connection, arrival.came);
        return None;
    }
    proxy.metrics.phases.upgrade.observe_time(begun.elapsed());
    let version = target.version.map_or("unknown".into(), |v| v.to_string());
    log::info!(session:% = entry.id, worker:% = target.key.id,
        browser:% = target.key.browser, version:% = version, token = &*entry.tenant,
        client:% = connection.client(), waited_ms = seated.waited.as_millis() as u64, dial_ms = seated.dial_time.as_millis() as u64;
        "session started");
    let ends = ends(proxy, entry.id, &wanted_session, client, seated.dialled);
    let running = Running {
        entry,
        seat,
        _quota: arrival.quota_permit,
        client: ConnectedClient {
            _connection: connection,
            _client: arrival.client,
        },
    };
    Some((running, ends, stop))
}

/// The two connections that the tunnel is to relay.
fn ends(
    proxy: &ProxyState,
    id: SessionId,
    wanted_session: &SessionRequest,
    client: Client,
    worker: Dialled,
) -> Ends {
    let mut client = Side {
        stream: Transport::from(client.stream),
        early: client.early.into(),
    };
    if wanted_session.speaks_anything {
        client = heard(&proxy.registry, id, client);
    }
    let worker = Side {
        stream: worker.stream,
        early: worker.early,
    };
    Ends { client, worker }
}

/// A seat on a worker that was dialled: the client's way through the line, as often as a worker
/// cannot be dialled. The time it may take is that of [`admission::line`](crate::admission::line).
async fn find_seat(proxy: &Arc<ProxyState>, arrival: &Arrival) -> Result<Seated, NoSession> {
    let (wanted_session, came) = (&arrival.wanted_session, arrival.came);
    let config = proxy.config.load_full();
    let request = SeatRequest {
        wanted: wanted_session.wanted,
        tenant: arrival.who.tenant.clone(),
        priority: arrival.who.priority,
    };
    let timeouts = LineTimeouts {
        waiting: config.queue.timeout,
        dial: config.selection.dial_timeout,
    };
    let mut place = proxy.queue.arrive(request, timeouts, came);
    check(proxy, wanted_session, &arrival.quota_permit, &place).await?;
    place.enter();
    let mut tried = 0;
    loop {
        let Grant { seat, target } = wait(proxy, &mut place)
            .await?
            .map_err(|why| refusal(proxy, &wanted_session.wanted, tried, why, came))?;
        still_known(&proxy.config.load().auth, &arrival.who).map_err(Refusal::from)?;
        let waited = came.elapsed();
        let dialling = Instant::now();
        let handshake = handshake(wanted_session, config.admin.live_view, &seat);
        let (version, patience) = (wanted_session.wanted.version, place.dial());
        let dialled = proxy.fleet.dial(&target, &handshake, version, patience);
        match dialled.await {
            Ok(dialled) => {
                let dial_time = dialling.elapsed();
                proxy.metrics.phases.dial.observe_time(dial_time);
                return Ok(Seated {
                    seat,
                    target,
                    dialled,
                    waited,
                    dial_time,
                });
            }
            Err(DialFailure::Worker(_)) => {}
            Err(DialFailure::Client(answer)) => {
                drop(seat);
                try_elsewhere(proxy, &wanted_session.wanted, &target, answer, &mut place)?;
                continue;
            }
            Err(DialFailure::Ours(shortage)) => return Err(Refusal::OutOf(shortage).into()),
        }
        // Given back before the client stands in line again: it may be for somebody else.
        drop(seat);
        tried += 1;
        if place.dial_failed().is_err() {
            return Err(Refusal::NotDialled { tried }.into());
        }
    }
}

/// What its worker is asked with, which has to know a session by name where an operator may watch it.
fn handshake<'a>(of: &'a SessionRequest, may_be_shown: bool, seat: &Seat) -> Cow<'a, Handshake> {
    match may_be_shown {
        true => Cow::Owned(of.handshake.of_session(seat.session())),
        false => Cow::Borrowed(&of.handshake),
    }
}

/// What needs no seat: that there are workers which the client can use, and that its tenant may
/// have one more session. The store may be slow to say so; the client's time runs meanwhile.
async fn check(
    proxy: &ProxyState,
    wanted_session: &SessionRequest,
    quota_permit: &QuotaPermit,
    place: &PlaceGuard,
) -> Result<(), Refusal> {
    if let Some(refusal) = never_served(proxy, &wanted_session.wanted) {
        return Err(refusal);
    }
    let asking = quota::is_within(&*proxy.store, quota_permit);
    let Some(until) = place.waits_until() else {
        return Ok(());
    };
    match tokio::time::timeout_at(until.into(), asking).await {
        Ok(within) => within.map_err(Refusal::from),
        // As with a store that is away: the proxy's own count stands.
        Err(_) => Ok(()),
    }
}

/// Waits for the grant of one who stands in line. A proxy that drains lets nobody wait on; who has
/// a grant by then is served.
async fn wait(
    proxy: &Arc<ProxyState>,
    place: &mut PlaceGuard,
) -> Result<Result<Grant, Refused>, Refusal> {
    proxy.fleet.serve_newcomer(place.browser()).await;
    if let Some(answer) = place.answered() {
        return Ok(answer);
    }
    let _waiting = ObserveWait(proxy, Instant::now());
    let mut draining = proxy.draining.subscribe();
    tokio::select! {
        biased;
        answer = place.granted() => Ok(answer),
        _ = draining.wait_for(|draining| *draining) => Err(Refusal::Draining),
    }
}

/// Observes how long somebody stood in line, however that ended.
struct ObserveWait<'a>(&'a ProxyState, Instant);

impl Drop for ObserveWait<'_> {
    fn drop(&mut self) {
        let ObserveWait(proxy, begun) = self;
        proxy.metrics.phases.queue.observe_time(begun.elapsed());
        proxy.metrics.queue_wait.observe_time(begun.elapsed());
    }
}

fn finish(proxy: &ProxyState, running: &Running, ended: &Ended) {
    let info = &*running.entry;
    let lasted = info.since.elapsed();
    let traffic = &info.traffic;
    let (bytes_in, bytes_out) = (traffic.bytes_in(), traffic.bytes_out());
    log::info!(session:% = info.id, worker:% = info.worker.id, browser:% = info.browser,
        duration_ms = lasted.as_millis() as u64, bytes_in = bytes_in, bytes_out = bytes_out,
        ended_by:% = ended.by, why:% = ended.why, code = ended.code.unwrap_or(code::ABNORMAL); "session ended");
    if !matches!(ended.why, EndReason::Closed | EndReason::ClientGone) {
        let (why, worker) = (ended.why.as_str(), info.worker.id.as_str());
        proxy.events.note(EventKind::Session, why, Some(worker));
    }
    let metrics = &proxy.metrics;
    let outcome = [info.browser.as_str(), ended.why.as_str()];
    metrics.sessions_total.with_label_values(&outcome).inc();
    metrics.session_duration.observe_time(lasted);
    metrics.count_relayed(traffic.take_unreported());
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
