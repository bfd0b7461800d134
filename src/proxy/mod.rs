//! The data port: what is asked for, refusals, and the hand-over to a session of its own.
//!
//! A connection meets [`front_door`] (bounds), then Pingora's HTTP, then
//! [`DataPort`]. A WebSocket upgrade leaves Pingora there: its stream goes to a small task
//! ([`session`]) that queues, dials, answers and relays. Everything else is answered in [`pages`].
//! Why the stream is taken over and not passed through is told in ARCHITECTURE.md.

mod answer;
mod client_address;
pub mod connections;
pub mod demand;
mod first_message;
pub mod front_door;
mod handshake;
mod head;
mod head_reader;
pub mod history;
pub mod listener;
mod pages;
pub mod refusal;
mod seat_choice;
mod session;
pub mod session_request;
mod ticket;
mod unserved;

pub use pages::MetricsPage;

use crate::admission::tokens::{self, Quotas};
use crate::config::LiveConfig;
use crate::events::{EventKind, Events};
use crate::fleet::{Fleet, Queue};
use crate::metrics::Metrics;
use crate::model::{Browser, unix_millis};
use crate::session::registry::{ClientGuard, Registry};
use crate::session::seat::Releaser;
use crate::store::Store;
use async_trait::async_trait;
use connections::Connection;
use demand::PeerDemand;
use front_door::{Application, Downstream, Kept};
use history::History;
use http::{HeaderMap, Method};
use pages::Page;
use pingora::apps::HttpServerApp;
use pingora::modules::http::HttpModules;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType};
use pingora_proxy::{HttpProxy, ProxyHttp, Session, http_proxy};
use refusal::{Refusal, RefusalCode};
use seat_choice::FleetOffer;
use session_request::SessionRequest;
use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;
use ticket::Signer;
use tokio::sync::watch;

/// Everything that a session meets on its way, shared by all of them.
pub struct ProxyState {
    pub config: LiveConfig,
    pub metrics: Arc<Metrics>,
    pub store: Arc<dyn Store>,
    pub fleet: Arc<Fleet>,
    pub queue: Arc<Queue>,
    /// Who waits at other proxies.
    pub peer_demand: PeerDemand,
    pub quotas: Arc<Quotas>,
    pub releaser: Releaser,
    pub registry: Arc<Registry>,
    /// Hash of the token that this process made for its admin port; in force unless one is
    /// configured.
    pub admin_token: Option<[u8; 32]>,
    /// What happened lately.
    pub events: Arc<Events>,
    /// How full it was in the last minutes.
    pub history: History,
    /// True from the moment on that no new session is taken.
    pub draining: watch::Sender<bool>,
    /// True from the moment on that both ports are open: the admin port may be the first.
    pub serving: AtomicBool,
    /// What `/metrics` of the data port told last.
    pub metrics_page: MetricsPage,
    /// What the tickets of DevTools connections are signed with, once it is known.
    pub secret: OnceLock<[u8; 32]>,
}

/// A client that wants a session, with everything it brought.
struct Arrival {
    wanted_session: SessionRequest,
    who: tokens::Identity,
    quota_permit: tokens::QuotaPermit,
    /// When its request had arrived: its time runs from here on.
    came: Instant,
    connection: Arc<Connection>,
    client: ClientGuard,
}

impl ProxyState {
    /// Whether this proxy takes no new sessions, because it is to end.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    fn count_refusal(&self, refusal: &Refusal) {
        let code = refusal.code().as_str();
        self.events.note(EventKind::Refusal, code, None);
        self.metrics.rejections.with_label_values(&[code]).inc();
    }

    /// Counts and logs a client that hung up before it had its 101.
    fn note_client_gone(&self, browser: Browser, tenant: &str, client: &Connection, came: Instant) {
        let reason = RefusalCode::ClientGone.as_str();
        self.metrics.rejections.with_label_values(&[reason]).inc();
        log::info!(browser:%, token = tenant, client:% = client.client(), reason,
            waited_ms = came.elapsed().as_millis() as u64;
            "client left before it had a session");
    }

    /// Counts and logs the refusal of a request.
    fn refused(&self, refusal: &Refusal, client: IpAddr) {
        self.count_refusal(refusal);
        log::warn!(client:% = client, reason = refusal.code().as_str(); "refused");
    }

    /// Reads what is asked for and checks everything that needs no waiting.
    fn admit(
        &self,
        request: &Session,
        query: Option<&str>,
        page: Page,
        holder: Option<tokens::Identity>,
    ) -> Result<(SessionRequest, tokens::Identity), Refusal> {
        let head = request.as_downstream().req_header();
        let config = self.config.load();
        // Strangers learn nothing but that they are strangers.
        let who = match holder {
            Some(holder) => holder,
            None => self.identify(query, &head.headers)?,
        };
        let offer = FleetOffer {
            fleet: &self.fleet,
            usual: who.seat.or(config.selection.default_seat),
        };
        let wanted_session = match page {
            Page::Cdp => session_request::read_cdp(query, &head.headers, &config)?,
            _ => session_request::read(query, &head.headers, &config, &offer)?,
        };
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        Ok((wanted_session, who))
    }

    /// Who shows a token.
    fn identify(
        &self,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<tokens::Identity, Refusal> {
        let config = self.config.load();
        let given = session_request::tokens(query, headers);
        Ok(tokens::identify_any(&config.auth, &given)?)
    }

    /// What tickets are signed with: of all proxies that share the store.
    async fn signer(&self) -> Result<Signer, Refusal> {
        if let Some(secret) = self.secret.get() {
            return Ok(Signer::new(secret));
        }
        let secret = self.store.shared_secret().await;
        let secret = secret.map_err(|_| Refusal::StoreAway)?;
        Ok(Signer::new(self.secret.get_or_init(|| secret)))
    }

    /// A ticket for one DevTools connection of somebody.
    async fn issue_ticket(&self, who: &tokens::Identity) -> Result<String, Refusal> {
        let signer = self.signer().await?;
        Ok(signer.issue(who.credential.as_ref(), unix_millis()))
    }

    /// Whose a ticket is, the first time that it is shown.
    async fn take_ticket(&self, text: &str) -> Result<tokens::Identity, Refusal> {
        let signer = self.signer().await?;
        let ticket = signer.read(text, unix_millis());
        let ticket = ticket.ok_or(Refusal::WrongTicket)?;
        let is_of = |credential: Option<&[u8; 32]>| signer.is_of(&ticket, credential);
        // A token that was taken out of the configuration meanwhile is good for nothing.
        let who = tokens::identify_by(&self.config.load().auth, is_of);
        let who = who.ok_or(Refusal::WrongTicket)?;
        match self.store.use_once(&ticket.name, ticket::LIFETIME).await {
            Ok(true) => Ok(who),
            Ok(false) => Err(Refusal::WrongTicket),
            Err(_) => Err(Refusal::StoreAway),
        }
    }

    async fn open_session(
        self: &Arc<Self>,
        request: &mut Session,
        page: Page,
        downstream: &Downstream,
    ) -> pingora::Result<()> {
        let query = downstream.query.as_deref();
        let holder = match session_request::ticket(query).filter(|_| page == Page::Cdp) {
            Some(ticket) => self.take_ticket(&ticket).await.map(Some),
            None => Ok(None),
        };
        let admitted = holder.and_then(|holder| self.admit(request, query, page, holder));
        let admitted = admitted.and_then(|(wanted_session, who)| {
            let quota_permit = self.quotas.take(&who)?;
            Ok(Arrival {
                wanted_session,
                who,
                quota_permit,
                came: Instant::now(),
                connection: downstream.connection.clone(),
                client: self.registry.client(),
            })
        });
        let arrival = match admitted {
            Ok(arrival) => arrival,
            Err(refusal) => return pages::refuse(self, request, &refusal, downstream).await,
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
    into_stream(take_out(request)).await
}

/// The connection of a request that Pingora is to answer nothing, with what the client sent beyond its
/// head.
pub async fn into_stream(request: ServerSession) -> pingora::Result<Option<(Stream, Vec<u8>)>> {
    let ServerSession::H1(mut taken) = request else {
        return Error::e_explain(ErrorType::InternalError, "both ports speak HTTP/1");
    };
    // `close` stands beside `Upgrade` in what some clients send, and in Pingora's eyes forbids to go
    // on with the connection.
    taken
        .req_header_mut()
        .remove_header(&http::header::CONNECTION);
    // `reuse` hands the stream out only of a session that would go on, and the early bytes only
    // of one that pipelines.
    taken.set_server_keepalive(Some(1));
    taken.set_pipelining_enabled(true);
    let parts = taken.reuse().await?.map(|reusable| reusable.into_parts());
    Ok(parts.map(|(stream, early)| (stream, early.map_or_else(Vec::new, |e| e.to_vec()))))
}

/// The connection of a request that was answered, with what of the next one has come; `None` when
/// none may follow.
async fn keep(request: &mut Session) -> pingora::Result<Option<Kept>> {
    let kept = take_out(request).finish().await?;
    Ok(kept.map(|kept| {
        let (stream, early) = kept.into_parts();
        let early = early.unwrap_or_default();
        Kept { stream, early }
    }))
}

/// Pingora keeps a session over nothing, which it finishes without writing anything.
fn take_out(request: &mut Session) -> ServerSession {
    let nothing: Stream = Box::new(std::io::Cursor::new(Vec::new()));
    let mut dead = ServerSession::new_http1(nothing);
    dead.set_keepalive(None);
    std::mem::replace(request.as_downstream_mut(), dead)
}

/// The data port behind its front door: Pingora's HTTP around [`DataPort`].
pub struct DataApplication(Arc<HttpProxy<DataPort>>);

impl DataApplication {
    /// The data port of a grid, with Pingora configured by `conf`.
    pub fn new(proxy: Arc<ProxyState>, conf: &Arc<ServerConf>) -> DataApplication {
        DataApplication(Arc::new(http_proxy(conf, DataPort(proxy))))
    }
}

#[async_trait]
impl Application for DataApplication {
    const ANSWERS_SLOW_CLIENTS: bool = true;

    async fn answer(
        &self,
        mut request: ServerSession,
        downstream: Downstream,
        shutdown: &ShutdownWatch,
    ) -> Option<Kept> {
        let kept = Arc::default();
        let context = RequestContext {
            downstream,
            kept: Arc::clone(&kept),
        };
        request.set_connection_user_context(Some(Box::new(context)));
        self.0.process_new_http(request, shutdown).await;
        let mut kept = kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        kept.take()
    }
}

/// What a request brings along through Pingora.
pub struct RequestContext {
    downstream: Downstream,
    /// Where its connection goes when another request may follow.
    kept: Arc<Mutex<Option<Kept>>>,
}

/// The data port as Pingora sees it.
pub struct DataPort(pub Arc<ProxyState>);

#[async_trait]
impl ProxyHttp for DataPort {
    type CTX = Option<RequestContext>;

    fn new_ctx(&self) -> Self::CTX {
        None
    }

    /// None: what is answered here is too short to be compressed.
    fn init_downstream_modules(&self, _: &mut HttpModules) {}

    /// Called for the first request too: the front door hands the context in as if it came from
    /// an earlier one.
    fn on_connection_reuse(
        &self,
        _: &mut Session,
        ctx: &mut Self::CTX,
        context: Box<dyn Any + Send + Sync>,
    ) {
        *ctx = context.downcast().ok().map(|context| *context);
    }

    /// Answers every request; an upgrade where sessions are opened leaves Pingora here. An answer
    /// that could not be written is nobody's error: health checks hang up as soon as they know.
    async fn request_filter(
        &self,
        request: &mut Session,
        ctx: &mut Self::CTX,
    ) -> pingora::Result<bool> {
        let Some(RequestContext { downstream, kept }) = ctx.take() else {
            return Error::e_explain(ErrorType::InternalError, "the front door was passed by");
        };
        let head = request.as_downstream().req_header();
        let page = {
            let config = self.0.config.load();
            Page::at(head.uri.path(), config.server.base_path.as_deref())
        };
        let upgrade =
            request.as_downstream().is_upgrade_req() && handshake::is_websocket(&head.headers);
        let opens = page.filter(|page| matches!(page, Page::Root | Page::Cdp));
        let opens = opens.filter(|_| upgrade && head.method == Method::GET);
        let answered = if let Some(page) = opens {
            self.0.open_session(request, page, &downstream).await
        } else {
            let answered = pages::answer(&self.0, request, page, &downstream).await;
            match answered {
                Ok(()) => keep(request).await.map(|connection| {
                    let mut kept = kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    *kept = connection;
                }),
                gone => gone,
            }
        };
        if let Err(error) = answered {
            log::debug!(client:% = downstream.connection.client(), error:% = error;
                "the client has gone");
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
