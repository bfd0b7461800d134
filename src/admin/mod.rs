//! The admin port: what an operator sees and stops, as JSON, and a dashboard for people.
//!
//! Reads and acts through the grid; keeps nothing of its own. Paths and shapes are promised in
//! docs/admin-api.md: they grow by adding, never by renaming.

mod answer;
mod live;
mod peers;
mod routes;
pub mod views;

pub use peers::serve_peers;

use crate::admission::tokens;
use crate::events::EventKind;
use crate::metrics::TEXT_FORMAT;
use crate::model::unix_millis;
use crate::proxy::ProxyState;
use crate::proxy::front_door::{Application, Downstream, Kept};
use crate::proxy::into_stream;
use answer::{Answer, HTML, NoSession, content_security_policy, error, json};
use async_trait::async_trait;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST,
    ORIGIN, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, StatusCode};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use routes::Route;
use std::sync::Arc;

/// The dashboard: one page without a build step, fed by the API beside it.
const DASHBOARD: &str = include_str!("dashboard.html");

/// What `/v1/config` shows; made by whoever loaded the configuration, secrets masked.
pub type ConfigView = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// The admin port's application.
pub struct Admin {
    proxy: Arc<ProxyState>,
    config_view: ConfigView,
    live_views: live::Viewers,
}

/// What a request comes to.
enum Reply {
    Page(Answer),
    LiveView(Box<live::Viewing>),
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Reply {
        Reply::Page(answer)
    }
}

impl Admin {
    /// The port's application over a grid's state.
    pub fn new(proxy: Arc<ProxyState>, config_view: ConfigView) -> Admin {
        Admin {
            proxy,
            config_view,
            live_views: live::Viewers::default(),
        }
    }

    async fn reply(&self, request: &ServerSession, query: Option<&str>, nonce: &str) -> Reply {
        let head = request.req_header();
        let route = match routes::route(&head.method, head.uri.path()) {
            Ok(route) => route,
            Err(miss) => return error(miss.status(), miss.code(), miss.message()).into(),
        };
        if route.acts() && from_foreign_page(&head.headers) {
            let message = "A web page of another origin may not operate this grid.";
            return error(StatusCode::FORBIDDEN, "foreign_origin", message).into();
        }
        if route.needs_token() && !self.authorized(request) {
            let message = "The admin port asks for its token: Authorization: Bearer TOKEN.";
            return error(StatusCode::UNAUTHORIZED, "wrong_token", message).into();
        }
        let answer = match route {
            Route::Dashboard => {
                let page = DASHBOARD.replace("{nonce}", nonce);
                (StatusCode::OK, HTML, page.into_bytes())
            }
            Route::Metrics => (StatusCode::OK, TEXT_FORMAT, self.proxy.prometheus().await),
            Route::Healthz => (StatusCode::OK, "text/plain", b"ok\n".to_vec()),
            Route::Readyz => match self.proxy.not_ready() {
                None => (StatusCode::OK, "text/plain", b"ready\n".to_vec()),
                Some(why) => {
                    let why = format!("{why}\n").into_bytes();
                    (StatusCode::SERVICE_UNAVAILABLE, "text/plain", why)
                }
            },
            Route::Workers => {
                self.proxy.fleet.freshen().await;
                json(&views::workers(&self.proxy))
            }
            Route::Sessions => json(&peers::all_sessions(&self.proxy).await),
            Route::Capacity => self.capacity(query).await,
            Route::Events => json(&serde_json::json!({ "events": self.proxy.events.list() })),
            Route::History => json(&serde_json::json!({
                "now": unix_millis(),
                "samples": self.proxy.history.list(),
            })),
            Route::Config => json(&(self.config_view)()),
            Route::DrainWorker(id) => self.drain(&id).await,
            Route::KillSession(id) => self.kill(&id).await,
            Route::LiveView(id) => match self.live_views.begin(&self.proxy, &id).await {
                Ok(viewing) => return Reply::LiveView(Box::new(viewing)),
                Err(answer) => answer,
            },
        };
        answer.into()
    }

    fn authorized(&self, request: &ServerSession) -> bool {
        let config = self.proxy.config.load();
        let configured = config.admin.token_sha256.as_ref();
        let Some(sha256) = configured.or(self.proxy.admin_token.as_ref()) else {
            return true;
        };
        request
            .get_header(AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .is_some_and(|token| tokens::matches(token.trim(), sha256))
    }

    /// The whole grid, or with `?pool=` a part of it.
    async fn capacity(&self, query: Option<&str>) -> Answer {
        let Ok(filter) = routes::pool(query) else {
            let message = "A pool is chromium, chromium/1.65 or chromium/1.65/shared.";
            return error(StatusCode::BAD_REQUEST, "bad_request", message);
        };
        json(&views::capacity(&self.proxy, filter).await)
    }

    async fn drain(&self, id: &str) -> Answer {
        let workers = self.proxy.fleet.workers();
        let found = workers.iter().find(|worker| {
            let key = &worker.record.key;
            key.id.as_str() == id || key.to_string() == id
        });
        let Some(worker) = found else {
            let message = "No worker of this id; GET /v1/workers lists them.";
            return error(StatusCode::NOT_FOUND, "no_such_worker", message);
        };
        let key = &worker.record.key;
        if worker.record.fixed {
            let message = "This worker stands in a configuration and has no agent that drains it: take it out of workers.";
            return error(StatusCode::CONFLICT, "not_drained", message);
        }
        let ttl = self.proxy.config.load().recycle.command_ttl;
        match self.proxy.store.order_recycle(key, ttl).await {
            Ok(()) => {
                log::info!(worker:% = key; "an operator asked the worker to drain and recycle");
                let events = &self.proxy.events;
                events.note(
                    EventKind::Operator,
                    "drain asked for",
                    Some(key.id.as_str()),
                );
                let body = serde_json::json!({ "worker": key.id.as_str(), "draining": true });
                (
                    StatusCode::ACCEPTED,
                    "application/json",
                    body.to_string().into(),
                )
            }
            Err(why) => {
                let message = format!("The worker could not be told: {why}.");
                error(StatusCode::SERVICE_UNAVAILABLE, "store_away", &message)
            }
        }
    }

    async fn kill(&self, id: &str) -> Answer {
        let Ok(session) = id.parse() else {
            return NoSession::Malformed.answer();
        };
        match peers::kill(&self.proxy, session).await {
            Ok(()) => {
                self.proxy
                    .events
                    .note(EventKind::Operator, "session killed", Some(id));
                json(&serde_json::json!({ "session": id, "killed": true }))
            }
            Err(why) => why.answer(),
        }
    }
}

/// A browser on the operator's machine reaches the loopback address for any page; it names the
/// page's origin with every request that may change something.
fn from_foreign_page(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return false;
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|it| it.split_once("://"));
    match (origin, host) {
        (Some((_, authority)), Some(host)) => !authority.eq_ignore_ascii_case(host),
        _ => true,
    }
}

/// The head of an answer that ends with its connection.
fn head_of_live_view(content_type: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Content-Security-Policy: {}\r\nConnection: close\r\n\r\n",
        content_security_policy(content_type, "")
    )
}

impl Admin {
    async fn write(
        &self,
        request: &mut ServerSession,
        downstream: &Downstream,
        (status, content_type, body): Answer,
        nonce: &str,
    ) -> Written {
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            log::warn!(client:% = downstream.connection.client(), status = status.as_u16();
                "refused at the admin port");
        }
        let mut header = ResponseHeader::build(status, Some(6))?;
        header.insert_header(CONTENT_TYPE, content_type)?;
        header.insert_header(CONTENT_LENGTH, body.len())?;
        header.insert_header(CACHE_CONTROL, "no-store")?;
        header.insert_header("X-Content-Type-Options", "nosniff")?;
        header.insert_header("Referrer-Policy", "no-referrer")?;
        header.insert_header(
            CONTENT_SECURITY_POLICY,
            content_security_policy(content_type, nonce),
        )?;
        if status == StatusCode::UNAUTHORIZED {
            header.insert_header(WWW_AUTHENTICATE, "Bearer")?;
        }
        let bodiless = body.is_empty() || request.req_header().method == Method::HEAD;
        request.write_response_header(Box::new(header)).await?;
        if !bodiless {
            request.write_response_body(body.into(), true).await?;
        }
        Ok(())
    }
}

type Written = pingora::Result<()>;

#[async_trait]
impl Application for Admin {
    const ANSWERS_SLOW_CLIENTS: bool = false;

    async fn answer(
        &self,
        mut request: ServerSession,
        downstream: Downstream,
        shutdown: &ShutdownWatch,
    ) -> Option<Kept> {
        if !request.read_request().await.ok()? {
            return None;
        }
        if *shutdown.borrow() {
            request.set_keepalive(None);
        }
        let nonce = format!("{:032x}", rand::random::<u128>());
        let query = downstream.query.as_deref();
        let answer = match self.reply(&request, query, &nonce).await {
            Reply::Page(answer) => answer,
            Reply::LiveView(viewing) => {
                let head = head_of_live_view(viewing.content_type());
                let (operator, _) = into_stream(request).await.ok()??;
                let (proxy, connection) = (self.proxy.clone(), downstream.connection);
                let showing = live::show(
                    proxy,
                    *viewing,
                    head,
                    operator,
                    connection,
                    shutdown.clone(),
                );
                tokio::spawn(showing);
                return None;
            }
        };
        // Whoever hangs up early, as health checks do, needs no answer.
        let written = self.write(&mut request, &downstream, answer, &nonce);
        written.await.ok()?;
        let (stream, early) = request.finish().await.ok()??.into_parts();
        let early = early.unwrap_or_default();
        Some(Kept { stream, early })
    }
}
