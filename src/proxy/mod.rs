//! The data port: what is asked for, refusals, and the hand-over to a session of its own.
//!
//! A connection meets [`front_door`] (bounds), then Pingora's HTTP, then
//! [`DataPort`]. A WebSocket upgrade leaves Pingora there: its stream goes to a small task
//! ([`session`]) that queues, dials, answers and relays. Everything else is answered in [`pages`].
//! Why the stream is taken over instead of passed through is told in ARCHITECTURE.md.

pub mod ask;
pub mod dial;
pub mod front_door;
pub mod listener;
mod pages;
pub mod refusal;
mod session;

use crate::admission::tokens::{self, Quotas, Unauthorized};
use crate::config::LiveConfig;
use crate::fleet::{Fleet, Queue};
use crate::metrics::Metrics;
use crate::session::registry::{Client, Registry};
use crate::session::seat::Releaser;
use crate::store::Store;
use ask::Ask;
use async_trait::async_trait;
use front_door::{Connection, Connections};
use http::Method;
use pingora::modules::http::HttpModules;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};
use pingora_proxy::{ProxyHttp, Session};
use refusal::Refusal;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tokio::sync::watch;

/// Everything that a session meets on its way, shared by all of them.
pub struct Grid {
    pub config: LiveConfig,
    pub metrics: Arc<Metrics>,
    pub store: Arc<dyn Store>,
    pub fleet: Arc<Fleet>,
    pub queue: Arc<Queue>,
    pub quotas: Arc<Quotas>,
    pub releaser: Releaser,
    pub registry: Arc<Registry>,
    pub connections: Connections,
    /// Hash of the token that this process made for its admin port; in force unless one is
    /// configured.
    pub admin_token: Option<[u8; 32]>,
    /// True from the moment on that no new session is taken.
    pub draining: watch::Sender<bool>,
    /// True from the moment on that both ports are open: the admin port may be the first.
    pub serving: AtomicBool,
}

/// A client that wants a session, with everything it brought.
struct Arrival {
    ask: Ask,
    who: tokens::Identity,
    share: tokens::QuotaShare,
    /// When its request had arrived: its time runs from here on.
    came: Instant,
    connection: Option<Arc<Connection>>,
    client: Client,
}

impl Grid {
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    fn count_refusal(&self, refusal: &Refusal) {
        let code = refusal.code();
        self.metrics.rejections.with_label_values(&[code]).inc();
    }

    /// Reads the wish and checks everything that needs no waiting.
    fn admit(&self, request: &Session) -> Result<(Ask, tokens::Identity), Refusal> {
        let head = request.as_downstream().req_header();
        let config = self.config.load();
        // Strangers learn nothing but that they are strangers.
        let token = ask::token(&head.uri, &head.headers);
        let who = tokens::identify(&config.auth, token.as_deref()).map_err(|why| match why {
            Unauthorized::Missing => Refusal::NoToken,
            Unauthorized::Unknown => Refusal::WrongToken,
        })?;
        let ask = ask::read(&head.uri, &head.headers, &config.selection, &config.auth)?;
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        Ok((ask, who))
    }

    async fn open_session(
        self: &Arc<Self>,
        request: &mut Session,
        connection: Option<Arc<Connection>>,
    ) -> pingora::Result<()> {
        let admitted = self.admit(request).and_then(|(ask, who)| {
            let share = self.quotas.take(&who)?;
            Ok(Arrival {
                ask,
                who,
                share,
                came: Instant::now(),
                connection,
                client: self.registry.client(),
            })
        });
        let arrival = match admitted {
            Ok(arrival) => arrival,
            Err(refusal) => return pages::refuse(self, request, &refusal).await,
        };
        if let Some((stream, early)) = take_over(request).await? {
            // The task owns all the session is; Pingora's own, large future ends here.
            tokio::spawn(session::serve(self.clone(), arrival, stream, early));
        }
        Ok(())
    }
}

/// Takes the connection out of Pingora's hands, with what the client sent beyond its head. Pingora
/// keeps a session over nothing, which it finishes without writing anything.
async fn take_over(request: &mut Session) -> pingora::Result<Option<(Stream, Vec<u8>)>> {
    let nothing: Stream = Box::new(std::io::Cursor::new(Vec::new()));
    let mut dead = ServerSession::new_http1(nothing);
    dead.set_keepalive(None);
    let taken = std::mem::replace(request.as_downstream_mut(), dead);
    let ServerSession::H1(mut taken) = taken else {
        return Error::e_explain(ErrorType::InternalError, "an upgrade is HTTP/1");
    };
    // `reuse` hands the stream out only of a session that would go on, and the early bytes only
    // of one that pipelines.
    taken.set_server_keepalive(Some(1));
    taken.set_pipelining_enabled(true);
    let parts = taken.reuse().await?.map(|reusable| reusable.into_parts());
    Ok(parts.map(|(stream, early)| (stream, early.map_or_else(Vec::new, |e| e.to_vec()))))
}

/// The data port as Pingora sees it.
pub struct DataPort(pub Arc<Grid>);

#[async_trait]
impl ProxyHttp for DataPort {
    /// The connection a request came over, so that a session can hold on to it.
    type CTX = Option<Arc<Connection>>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    /// None: what is answered here is too short to be compressed.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    /// Called for the first request too: the front door hands the connection in as if it came
    /// from an earlier one.
    fn on_connection_reuse(
        &self,
        _: &mut Session,
        ctx: &mut Self::CTX,
        connection: Box<dyn Any + Send + Sync>,
    ) {
        *ctx = connection.downcast().ok().map(|connection| *connection);
    }

    /// Answers every request; an upgrade at `/` leaves Pingora here.
    async fn request_filter(
        &self,
        request: &mut Session,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<bool> {
        let head = request.as_downstream().req_header();
        let at_root = head.uri.path() == "/";
        let upgrade = request.as_downstream().is_upgrade_req() && ask::is_websocket(&head.headers);
        if at_root && upgrade && head.method == Method::GET {
            self.0.open_session(request, ctx.take()).await?;
        } else {
            pages::answer(&self.0, request).await?;
        }
        Ok(true)
    }

    /// Never asked for: no request goes on to an upstream of Pingora's.
    async fn upstream_peer(
        &self,
        _: &mut Session,
        _: &mut Self::CTX,
    ) -> pingora::Result<Box<HttpPeer>> {
        Error::e_explain(
            ErrorType::InternalError,
            "sessions do not pass through Pingora",
        )
    }
}
