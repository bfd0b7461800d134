//! The data port's answers that are not sessions: where to connect, metrics, health, refusals.

use super::Grid;
use super::ask;
use super::refusal::Refusal;
use crate::metrics::TEXT_FORMAT;
use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, Method, StatusCode};
use pingora::http::ResponseHeader;
use pingora_proxy::Session;
use prometheus::IntGaugeVec;
use std::sync::atomic::Ordering;

/// What Playwright's `connect("http://…")` asks `/json` for.
const ENDPOINT: &str = r#"{"wsEndpointPath":"/"}"#;

/// Answers anything that is not an upgrade at `/`.
pub(super) async fn answer(grid: &Grid, request: &mut Session) -> pingora::Result<()> {
    let head = request.as_downstream().req_header();
    let path = head.uri.path();
    if !matches!(
        path,
        "/" | "/json" | "/json/" | "/metrics" | "/healthz" | "/readyz" | "/favicon.ico"
    ) {
        return refuse(grid, request, &Refusal::NotFound).await;
    }
    if head.method != Method::GET && head.method != Method::HEAD {
        return refuse(grid, request, &Refusal::MethodNotAllowed).await;
    }
    match path {
        "/" => refuse(grid, request, &Refusal::UpgradeRequired).await,
        "/metrics" if wants_prometheus(&head.headers) => {
            let text = grid.prometheus().await;
            send(request, StatusCode::OK, TEXT_FORMAT, text.into()).await
        }
        "/metrics" => {
            let body = format!(
                r#"{{"activeConnections":{}}}"#,
                grid.active_sessions().await
            );
            send(request, StatusCode::OK, "application/json", body.into()).await
        }
        "/healthz" => send(request, StatusCode::OK, "text/plain", "ok\n".into()).await,
        "/readyz" => match grid.not_ready() {
            None => send(request, StatusCode::OK, "text/plain", "ready\n".into()).await,
            Some(why) => {
                let body = format!("{why}\n").into();
                send(request, StatusCode::SERVICE_UNAVAILABLE, "text/plain", body).await
            }
        },
        "/favicon.ico" => send(request, StatusCode::NO_CONTENT, "", Bytes::new()).await,
        _ => send(request, StatusCode::OK, "application/json", ENDPOINT.into()).await,
    }
}

/// A scraper asks for Prometheus' text or OpenMetrics; everybody else gets the JSON.
fn wants_prometheus(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(ACCEPT).iter();
    accepts
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("text/plain") || value.contains("application/openmetrics-text"))
}

/// Refuses a request that is still in Pingora's hands.
pub(super) async fn refuse(
    grid: &Grid,
    request: &mut Session,
    refusal: &Refusal,
) -> pingora::Result<()> {
    grid.count_refusal(refusal);
    let head = request.as_downstream().req_header();
    let (body, content_type) = refusal.body(ask::is_playwright(&head.headers));
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

impl Grid {
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

    /// All metrics as Prometheus' text, with what mirrors the fleet and the store as of now.
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
        // While the store is away, what it said last stands.
        let recycles = self.store.recycles().await.ok();
        let oom_kills = self.store.oom_kills().await.ok();
        let open = self.registry.list();
        self.metrics.text(|metrics| {
            metrics.set_fleet(&workers);
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
