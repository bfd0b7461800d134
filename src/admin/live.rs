//! The live view of a session, from its worker to an operator, whichever proxy has the session.
//!
//! The answer leaves Pingora and the front door's time limits, as a session does. It holds a place among
//! the few that there are, and one buffer; what an operator does not read stays where it is, and the worker
//! leaves pictures out.

use super::answer::{Answer, NoSession, error};
use super::peers;
use crate::events::EventKind;
use crate::fleet::{LiveView, NoLiveView};
use crate::metrics::Metrics;
use crate::model::{SessionId, WorkerKey};
use crate::proxy::ProxyState;
use crate::proxy::connections::Connection;
use crate::tunnel::hung_up;
use http::StatusCode;
use pingora::protocols::Stream;
use pingora::server::ShutdownWatch;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// Operators that watch through one proxy at a time.
const MAX_VIEWERS: usize = 32;
/// How long an operator may take no bytes.
const STALL: Duration = Duration::from_secs(30);
/// How long a worker may say nothing: it repeats itself more often.
const SILENCE: Duration = Duration::from_secs(30);
/// What is passed on at once, in bytes.
const PIECE: usize = 64 * 1024;

/// The operators who watch through this proxy.
pub(super) struct Viewers(Arc<Semaphore>);

/// An operator who watches; counted out when this is dropped.
#[must_use]
pub(super) struct Viewing {
    session: SessionId,
    worker: WorkerKey,
    view: LiveView,
    _place: OwnedSemaphorePermit,
}

impl Default for Viewers {
    fn default() -> Viewers {
        Viewers(Arc::new(Semaphore::new(MAX_VIEWERS)))
    }
}

impl Viewers {
    /// Begins the live view of a session. The operator has shown the token.
    ///
    /// # Errors
    /// The answer that is no live view.
    pub(super) async fn begin(&self, proxy: &ProxyState, id: &str) -> Result<Viewing, Answer> {
        let config = proxy.config.load();
        if !config.admin.live_view {
            let message = "The live view is off: admin.live_view: true turns it on.";
            return Err(error(StatusCode::FORBIDDEN, "live_view_off", message));
        }
        if config.admin.token_sha256.or(proxy.admin_token).is_none() {
            let message = "The live view is for operators with a token: set admin.token_sha256.";
            return Err(error(StatusCode::FORBIDDEN, "live_view_off", message));
        }
        let Ok(session) = id.parse() else {
            return Err(NoSession::Malformed.answer());
        };
        let Ok(place) = Arc::clone(&self.0).try_acquire_owned() else {
            let message = format!("{MAX_VIEWERS} operators look through this proxy already.");
            let status = StatusCode::TOO_MANY_REQUESTS;
            return Err(error(status, "too_many_live_views", &message));
        };
        let worker = peers::worker_of_session(proxy, session).await;
        let worker = worker.map_err(|why| why.answer())?;
        let view = proxy.fleet.live_view(&worker, session).await;
        Ok(Viewing {
            session,
            worker,
            view: view.map_err(refused)?,
            _place: place,
        })
    }
}

impl Viewing {
    pub(super) fn content_type(&self) -> &str {
        &self.view.content_type
    }
}

fn refused(why: NoLiveView) -> Answer {
    let (status, code) = match &why {
        NoLiveView::Refused { status: 409, .. } => (StatusCode::CONFLICT, "not_shown"),
        NoLiveView::Refused { status: 404, .. } => (StatusCode::NOT_FOUND, "no_such_session"),
        NoLiveView::Refused { status: 429, .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "too_many_live_views")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "worker_away"),
    };
    let message = match why {
        NoLiveView::Refused { why, .. } => why,
        why => format!("No live view: {why}."),
    };
    error(status, code, &message)
}

/// Counts an operator who watches.
struct Counted(Arc<Metrics>);

impl Counted {
    fn new(metrics: &Arc<Metrics>) -> Counted {
        metrics.live_views.inc();
        metrics.live_views_total.inc();
        Counted(Arc::clone(metrics))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.live_views.dec();
    }
}

/// Shows an operator what the session shows, until one side ends it. `head` is the answer's.
pub(super) async fn show(
    proxy: Arc<ProxyState>,
    viewing: Viewing,
    head: String,
    operator: Stream,
    connection: Arc<Connection>,
    mut shutdown: ShutdownWatch,
) {
    let Viewing {
        session,
        worker,
        view,
        _place,
    } = viewing;
    let _counted = Counted::new(&proxy.metrics);
    log::info!(session:% = session, worker:% = worker.id, client:% = connection.client(), operator = "admin";
        "an operator looks at the session");
    let id = session.to_string();
    proxy
        .events
        .note(EventKind::Operator, "session looked at", Some(&id));
    let begun = Instant::now();
    let mut shown = 0;
    let (mut from_operator, mut to_operator) = tokio::io::split(operator);
    let showing = pass_on(view, head, &mut to_operator, &mut shown);
    tokio::select! {
        passed = showing => if let Err(error) = passed {
            log::debug!(session:% = session, error:% = error; "the live view was cut");
        },
        () = hung_up(&mut from_operator) => {}
        _ = shutdown.wait_for(|begun| *begun) => {}
    }
    log::info!(session:% = session, worker:% = worker.id, client:% = connection.client(), operator = "admin",
        duration_ms = begun.elapsed().as_millis() as u64, bytes = shown;
        "an operator has looked at the session");
}

/// To the end of what the worker says.
async fn pass_on(
    mut view: LiveView,
    head: String,
    operator: &mut (impl AsyncWriteExt + Unpin),
    shown: &mut u64,
) -> io::Result<()> {
    let mut bytes = [head.as_bytes(), &view.early].concat();
    loop {
        let writing = async {
            operator.write_all(&bytes).await?;
            operator.flush().await
        };
        timeout(STALL, writing).await??;
        *shown += bytes.len() as u64;
        bytes.resize(PIECE, 0);
        match timeout(SILENCE, view.stream.read(&mut bytes)).await?? {
            0 => return operator.shutdown().await,
            read => bytes.truncate(read),
        }
    }
}
