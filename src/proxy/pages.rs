//! The data port's answers that are not sessions: where to connect, metrics, health, refusals.

mod accept;

use super::ProxyState;
use super::front_door::Downstream;
use super::refusal::Refusal;
use super::session_request::{self, CDP_SEAT};
use super::unserved::never_served;
use crate::metrics::TEXT_FORMAT;
use crate::metrics::cache::Cache;
use crate::model::DevToolsVersion;
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{ALLOW, HOST};
use http::{HeaderMap, Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use prometheus::IntGaugeVec;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What Playwright's `connect("http://…")` asks `/json` for: a path below the one it asked at.
const ENDPOINT: &str = r#"{"wsEndpointPath":"/"}"#;
/// The methods that pages answer.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// What a browser's own port has at these paths, a grid has not.
const PAGES_OF_BROWSERS: [&str; 3] = ["/json/", "/cdp/json/", "/devtools/"];

/// What `/metrics` of this port costs at most: each of its two forms once a second.
#[derive(Default)]
pub struct MetricsPage {
    sessions: Cache,
    prometheus: Cache,
}

/// What `/json/version` answers.
#[derive(Serialize)]
struct Discovery {
    /// Nothing of it where no worker tells.
    #[serde(flatten)]
    browser: Option<DevToolsVersion>,
    #[serde(rename = "webSocketDebuggerUrl")]
    url: String,
}

/// A page of the data port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Where sessions are opened.
    Root,
    /// Where DevTools connections are opened.
    Cdp,
    /// Where a client of the DevTools protocol asks for the address to connect to.
    Version,
    /// What a browser's own port would tell of its pages, or have done with them.
    Targets,
    Json,
    Metrics,
    Healthz,
    Readyz,
    Favicon,
}

impl Page {
    /// The page at a path, which may be below `base`.
    pub(super) fn at(path: &str, base: Option<&str>) -> Option<Page> {
        match below(path, base) {
            "" | "/" => Some(Page::Root),
            "/cdp" | "/cdp/" => Some(Page::Cdp),
            path if path.starts_with("/devtools/browser/") => Some(Page::Cdp),
            "/json/version" | "/json/version/" => Some(Page::Version),
            // Clients that are given `http://HOST:PORT/cdp` ask below that.
            "/cdp/json/version" | "/cdp/json/version/" => Some(Page::Version),
            "/json" | "/json/" => Some(Page::Json),
            // It leads Playwright's `connect` to where it reads that it is wrong here.
            "/cdp/json" => Some(Page::Json),
            path if PAGES_OF_BROWSERS.iter().any(|it| path.starts_with(it)) => Some(Page::Targets),
            "/metrics" => Some(Page::Metrics),
            "/healthz" => Some(Page::Healthz),
            "/readyz" => Some(Page::Readyz),
            "/favicon.ico" => Some(Page::Favicon),
            _ => None,
        }
    }
}

/// What comes of a path below `base`; all of it, if it is not below.
fn below<'a>(path: &'a str, base: Option<&str>) -> &'a str {
    let below = base.and_then(|base| path.strip_prefix(base));
    let below = below.filter(|below| below.is_empty() || below.starts_with('/'));
    below.unwrap_or(path)
}

/// Answers anything that is not an upgrade where sessions are opened.
pub(super) async fn answer(
    proxy: &Arc<ProxyState>,
    request: &mut Session,
    page: Option<Page>,
    downstream: &Downstream,
) -> pingora::Result<()> {
    let head = request.as_downstream().req_header();
    let Some(page) = page else {
        return refuse(proxy, request, &Refusal::NotFound, downstream).await;
    };
    match (page, &head.method) {
        // Chromium has some of them asked for with PUT.
        (Page::Targets, _) => refuse(proxy, request, &Refusal::NoTargets, downstream).await,
        // How some balancers ask whether a server is well.
        (_, &Method::OPTIONS) => answer_check(proxy, request, StatusCode::NO_CONTENT).await,
        (Page::Root | Page::Cdp, &Method::HEAD) => {
            answer_check(proxy, request, StatusCode::OK).await
        }
        (Page::Root | Page::Cdp, &Method::GET) => {
            let refusal = match (lost_its_upgrade(head), page) {
                (true, _) => Refusal::UpgradeSwallowed,
                (false, Page::Cdp) => Refusal::CdpUpgradeRequired,
                (false, _) => Refusal::UpgradeRequired,
            };
            refuse(proxy, request, &refusal, downstream).await
        }
        (Page::Version, &Method::GET | &Method::HEAD) => {
            show_version(proxy, request, downstream).await
        }
        (_, &Method::GET | &Method::HEAD) => show(proxy, request, page).await,
        _ => refuse(proxy, request, &Refusal::MethodNotAllowed, downstream).await,
    }
}

async fn show(proxy: &Arc<ProxyState>, request: &mut Session, page: Page) -> pingora::Result<()> {
    let ok = StatusCode::OK;
    match page {
        Page::Metrics
            if accept::prefers_prometheus(&request.as_downstream().req_header().headers) =>
        {
            let asked = proxy.clone();
            let text = async move { Bytes::from(asked.prometheus().await) };
            let text = proxy.metrics_page.prometheus.of(0, || text.boxed()).await;
            send(request, ok, TEXT_FORMAT, text).await
        }
        Page::Metrics => {
            let asked = proxy.clone();
            let text = async move {
                let active = asked.active_sessions().await;
                format!(r#"{{"activeConnections":{active}}}"#).into()
            };
            // A session of this proxy that began or ended is worth another question: it cost more.
            let sessions = proxy.registry.len();
            let text = proxy
                .metrics_page
                .sessions
                .of(sessions, || text.boxed())
                .await;
            send(request, ok, "application/json", text).await
        }
        Page::Readyz => match proxy.not_ready() {
            None => send(request, ok, "text/plain", "ready\n".into()).await,
            Some(why) => {
                let body = format!("{why}\n").into();
                send(request, StatusCode::SERVICE_UNAVAILABLE, "text/plain", body).await
            }
        },
        Page::Favicon => send(request, StatusCode::NO_CONTENT, "", Bytes::new()).await,
        Page::Json => send(request, ok, "application/json", ENDPOINT.into()).await,
        Page::Healthz | Page::Root | Page::Cdp | Page::Version | Page::Targets => {
            send(request, ok, "text/plain", "ok\n".into()).await
        }
    }
}

/// What Chromium's own port tells of itself, with an address for one DevTools connection.
async fn show_version(
    proxy: &Arc<ProxyState>,
    request: &mut Session,
    downstream: &Downstream,
) -> pingora::Result<()> {
    match version(proxy, request.as_downstream().req_header(), downstream).await {
        Ok(body) => send(request, StatusCode::OK, "application/json", body).await,
        Err(refusal) => refuse(proxy, request, &refusal, downstream).await,
    }
}

async fn version(
    proxy: &Arc<ProxyState>,
    head: &RequestHeader,
    downstream: &Downstream,
) -> Result<Bytes, Refusal> {
    let host = head.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.filter(|host| !host.is_empty());
    let host = host.ok_or(Refusal::BadRequest("The request has no Host header."))?;
    let by_tls = || downstream.behind_proxy && came_by_tls(&head.headers);
    let scheme = if downstream.tls || by_tls() {
        "wss"
    } else {
        "ws"
    };
    // Below the base path for whoever asked below it.
    let path = head.uri.path();
    let config = proxy.config.load();
    let rest = below(path, config.server.base_path.as_deref());
    let base = path.strip_suffix(rest).unwrap_or_default();
    let (target, browser) = match ticket(proxy, head, downstream).await {
        Ok(ticket) => {
            let target = session_request::ticket_target(&ticket);
            (target, proxy.fleet.devtools_version(&CDP_SEAT))
        }
        // Its `connectOverCDP` tells its user the status of this answer alone, and all of what it reads
        // there (playwright-core, `server/chromium/chromium.ts`). A stranger learns nothing of the browsers.
        Err(_) if session_request::is_playwright(&head.headers) => {
            let target = session_request::cdp_target(downstream.query.as_deref());
            (target, None)
        }
        Err(refusal) => return Err(refusal),
    };
    let discovery = Discovery {
        browser,
        url: format!("{scheme}://{host}{base}{target}"),
    };
    let body = serde_json::to_vec(&discovery);
    Ok(body.expect("texts with names are JSON").into())
}

/// Whether the proxies in front say that a client came by TLS; of several, the first one met it.
fn came_by_tls(headers: &HeaderMap) -> bool {
    let schemes = headers.get("x-forwarded-proto");
    let schemes = schemes.and_then(|schemes| schemes.to_str().ok());
    let scheme = schemes.and_then(|schemes| schemes.split(',').next());
    let scheme = scheme.map(|scheme| scheme.trim().to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("https" | "wss"))
}

/// A ticket for whoever asks, if there can be a session for him.
async fn ticket(
    proxy: &Arc<ProxyState>,
    head: &RequestHeader,
    downstream: &Downstream,
) -> Result<String, Refusal> {
    let query = downstream.query.as_deref();
    let who = proxy.identify(query, &head.headers)?;
    session_request::check_cdp(query)?;
    if let Some(refusal) = never_served(proxy, &CDP_SEAT) {
        return Err(refusal);
    }
    proxy.issue_ticket(&who).await
}

/// Answers a balancer that asks for a status and nothing else: whether sessions are taken.
async fn answer_check(
    proxy: &ProxyState,
    request: &mut Session,
    well: StatusCode,
) -> pingora::Result<()> {
    let status = match proxy.not_ready() {
        None => well,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut header = response(status, "text/plain", 0)?;
    header.insert_header(ALLOW, METHODS)?;
    write(request, header, Bytes::new()).await
}

/// Whether a request was a WebSocket handshake before something in front took its `Upgrade` away,
/// which proxies do that are not told to pass it on.
fn lost_its_upgrade(head: &RequestHeader) -> bool {
    let has = |name| head.headers.contains_key(name);
    let was_handshake = has("sec-websocket-key")
        || has("sec-websocket-version")
        || has(session_request::BROWSER_HEADER);
    was_handshake && !has("upgrade")
}

/// Refuses a request that is still in Pingora's hands.
pub(super) async fn refuse(
    proxy: &ProxyState,
    request: &mut Session,
    refusal: &Refusal,
    downstream: &Downstream,
) -> pingora::Result<()> {
    proxy.refused(refusal, downstream.connection.client());
    let head = request.as_downstream().req_header();
    let (body, content_type) = refusal.body(session_request::is_playwright(&head.headers));
    let mut header = response(refusal.status(), content_type, body.len())?;
    for (name, value) in refusal.headers() {
        header.insert_header(*name, *value)?;
    }
    request.set_keepalive(None);
    write(request, header, body).await
}

async fn send(
    request: &mut Session,
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
) -> pingora::Result<()> {
    let header = response(status, content_type, body.len())?;
    write(request, header, body).await
}

fn response(
    status: StatusCode,
    content_type: &str,
    length: usize,
) -> pingora::Result<ResponseHeader> {
    let mut header = ResponseHeader::build(status, Some(6))?;
    if status != StatusCode::NO_CONTENT {
        header.insert_header(http::header::CONTENT_TYPE, content_type)?;
        header.insert_header(http::header::CONTENT_LENGTH, length)?;
    }
    header.insert_header(http::header::CACHE_CONTROL, "no-store")?;
    Ok(header)
}

async fn write(request: &mut Session, header: ResponseHeader, body: Bytes) -> pingora::Result<()> {
    let bodiless = body.is_empty() || request.as_downstream().req_header().method == Method::HEAD;
    request
        .write_response_header(Box::new(header), bodiless)
        .await?;
    if !bodiless {
        request.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

impl ProxyState {
    /// Open or reserved sessions of the whole grid; of this proxy alone while the store is away.
    pub async fn active_sessions(&self) -> u64 {
        match self.store.active_sessions().await {
            Ok(active) => active,
            Err(_) => self.registry.len() as u64,
        }
    }

    /// Why this proxy should get no new sessions; `None` when it should.
    pub fn not_ready(&self) -> Option<&'static str> {
        if self.is_draining() {
            Some("draining: no new sessions are taken")
        } else if !self.fleet.has_view() {
            Some("no view of the fleet yet: the store has not answered")
        } else if !self.serving.load(Ordering::Relaxed) {
            Some("starting: the ports are not all open yet")
        } else {
            None
        }
    }

    /// All metrics as Prometheus' text, with what mirrors the fleet and the store as of this moment.
    pub async fn prometheus(&self) -> Vec<u8> {
        use crate::metrics::WorkerGauges;
        use crate::model::Browser;
        let workers: Vec<WorkerGauges> = self
            .fleet
            .workers()
            .into_iter()
            .map(|worker| WorkerGauges {
                id: worker.record.key.id.to_string(),
                browser: worker.record.key.browser,
                status: worker.record.status,
                active: worker.counts.active,
                lifetime: worker.counts.lifetime,
                free: worker.free,
            })
            .collect();
        let pools = self.demand().await.pools;
        // While the store is away, what it said last stands.
        let recycles = self.store.recycles().await.ok();
        let oom_kills = self.store.oom_kills().await.ok();
        let open = self.registry.list();
        for session in &open {
            let passed = session.traffic.take_unreported();
            self.metrics.count_relayed(passed);
        }
        self.metrics.text(|metrics| {
            metrics.set_fleet(&workers);
            metrics.set_demand(&pools);
            if let Some(recycles) = &recycles {
                metrics.set_recycles(recycles);
            }
            if let Some(kills) = oom_kills {
                metrics.set_oom_kills(kills);
            }
            for browser in Browser::ALL {
                let active = open.iter().filter(|info| info.browser == browser).count();
                let gauge = |gauges: &IntGaugeVec, value: usize| {
                    let gauge = gauges.with_label_values(&[browser.as_str()]);
                    gauge.set(value as i64);
                };
                gauge(&metrics.sessions_active, active);
                gauge(&metrics.queue_depth, self.queue.depth(browser));
            }
            metrics.store_up.set(i64::from(self.fleet.store_up()));
        })
    }
}
