//! The commands that talk to a running grid: status, drain, kill. All of them are clients of the
//! admin port and know nothing else of the grid.

use super::printable::{escape, escape_all, escape_json};
use super::runtime;
use crate::admin::views::{Capacity, Peers, Sessions, Workers};
use crate::cli::Operator;
use crate::config::Config;
use anyhow::{Context, bail};
use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use serde::de::DeserializeOwned;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// How long the admin port may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Variable that holds the admin port's token.
const TOKEN_VARIABLE: &str = "PLAYHOUSE_ADMIN_TOKEN";
/// Names a file that holds that token.
const TOKEN_FILE_VARIABLE: &str = "PLAYHOUSE_ADMIN_TOKEN_FILE";

/// A running grid's admin port.
pub struct AdminClient {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
}

impl AdminClient {
    /// The admin port that the flags name, or else the configuration.
    pub fn new(operator: &Operator, config: &Config) -> anyhow::Result<AdminClient> {
        let address = operator
            .admin
            .clone()
            .unwrap_or_else(|| reachable(config.admin.listen).to_string());
        let base = match config.tls.files() {
            _ if address.contains("://") => address,
            None => format!("http://{address}"),
            Some(_) => format!("https://{address}"),
        };
        let token_file = operator.token_file.clone().or_else(|| {
            let file = std::env::var_os(TOKEN_FILE_VARIABLE)?;
            Some(PathBuf::from(file))
        });
        let token = match &token_file {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("cannot read the token file {}", file.display()))?;
                Some(text.trim().to_owned())
            }
            None => std::env::var(TOKEN_VARIABLE)
                .ok()
                .or_else(|| made_here(&base)),
        };
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            // The token is for the grid, not for whom HTTP_PROXY names.
            .proxy(None)
            .tls_config(tls(operator.ca.as_deref(), &base)?)
            .build()
            .new_agent();
        Ok(AdminClient { agent, base, token })
    }

    fn call(&self, method: &str, path: &str) -> anyhow::Result<serde_json::Value> {
        let url = format!("{}{path}", self.base.trim_end_matches('/'));
        let mut request = http::Request::builder().method(method).uri(&url);
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let request = request
            .body(())
            .context("not an address of an admin port")?;
        let mut answer = self.agent.run(request).map_err(|why| {
            let advice = if is_about_tls(&why) {
                "name the authority of its certificate with --ca, and the grid as the \
                 certificate does with --admin https://NAME:PORT"
            } else {
                "name its admin port with --admin"
            };
            anyhow::Error::new(why).context(format!("no grid answers at {} ({advice})", self.base))
        })?;
        let status = answer.status();
        let text = answer.body_mut().read_to_string()?;
        let body: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(body);
        }
        match body["error"]["message"].as_str() {
            Some(message) => bail!("{}", escape(message)),
            None => bail!("{url} answered {status}: {}", escape(text.trim())),
        }
    }

    fn fetch<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        serde_json::from_value(escape_all(self.call("GET", path)?))
            .with_context(|| format!("{path} answered something else than this version expects"))
    }

    /// Everything there is to know, as JSON.
    pub fn status_json(&self) -> anyhow::Result<String> {
        let sessions = self.call("GET", "/v1/sessions")?;
        let all = serde_json::json!({
            "capacity": self.call("GET", "/v1/capacity")?,
            "workers": self.call("GET", "/v1/workers")?["workers"],
            "sessions": sessions["sessions"],
            "others": sessions["others"],
        });
        Ok(escape_json(&serde_json::to_string_pretty(&all)?))
    }

    /// The same for people.
    pub fn status_table(&self) -> anyhow::Result<String> {
        let capacity: Capacity = self.fetch("/v1/capacity")?;
        let workers: Workers = self.fetch("/v1/workers")?;
        let sessions: Sessions = self.fetch("/v1/sessions")?;
        let summary = format!(
            "{} workers, {} seats taken, {} free, {} clients waiting",
            capacity.workers, capacity.slots.used, capacity.slots.free, capacity.queued
        );
        let mut of_workers = table(&[
            "WORKER",
            "BROWSER",
            "PLAYWRIGHT",
            "STATUS",
            "ADDRESS",
            "ACTIVE",
            "LIFETIME",
            "MEMORY",
        ]);
        let mut unreachable = String::new();
        let mut unsealed = String::new();
        for worker in workers.workers {
            if let Some(why) = &worker.unreachable {
                let (id, endpoint) = (&worker.id, &worker.endpoint);
                unreachable += &format!("\n{id} at {endpoint} is not reached: {why}\n");
            }
            if let Some(seal) = worker.seal.as_deref().filter(|seal| *seal != "full") {
                unsealed += &format!("\n{} is not sealed, its seal is {seal}\n", worker.id);
            }
            let status = if worker.healthy {
                worker.status
            } else {
                format!("{}, no answer", worker.status)
            };
            of_workers.add_row(vec![
                worker.id,
                worker.browser.to_string(),
                worker.playwright_version.unwrap_or_else(|| "?".into()),
                status,
                worker.endpoint,
                worker.active_sessions.to_string(),
                worker.lifetime_sessions.to_string(),
                worker
                    .memory
                    .map_or_else(String::new, |b| ByteSize(b).to_string()),
            ]);
        }
        let mut of_sessions = table(&[
            "SESSION", "WORKER", "CLIENT", "TOKEN", "AGE", "IDLE", "IN", "OUT",
        ]);
        for session in &sessions.sessions {
            of_sessions.add_row(vec![
                session.id.clone(),
                session.worker.clone(),
                session.client.clone().unwrap_or_default(),
                session.token.clone().unwrap_or_default(),
                seconds(session.age_seconds),
                seconds(session.idle_seconds),
                ByteSize(session.bytes_in).to_string(),
                ByteSize(session.bytes_out).to_string(),
            ]);
        }
        let missing = missing(&sessions.others);
        Ok(format!(
            "{summary}\n\n{of_workers}\n{unreachable}{unsealed}\n{of_sessions}\n{missing}"
        ))
    }

    /// Asks a worker to finish its sessions and take no new ones.
    pub fn drain(&self, worker: &str) -> anyhow::Result<()> {
        let worker =
            percent_encoding::utf8_percent_encode(worker, percent_encoding::NON_ALPHANUMERIC);
        self.call("POST", &format!("/v1/workers/{worker}/drain"))
            .map(drop)
    }

    /// Ends a session.
    pub fn kill(&self, session: &str) -> anyhow::Result<()> {
        let session =
            percent_encoding::utf8_percent_encode(session, percent_encoding::NON_ALPHANUMERIC);
        self.call("DELETE", &format!("/v1/sessions/{session}"))
            .map(drop)
    }
}

/// The token that a `playhouse up` on this machine made for itself.
fn made_here(base: &str) -> Option<String> {
    let uri: http::Uri = base.parse().ok()?;
    runtime::admin_token(uri.host()?, uri.port_u16()?)
}

/// Whom to believe behind TLS: the given authority, or else those of this machine. A grid on this
/// machine is believed as it is without TLS: nothing leaves the machine, and a certificate does
/// not name the loopback address.
fn tls(ca: Option<&Path>, base: &str) -> anyhow::Result<TlsConfig> {
    // Fails when it has been done already, by a test in this process.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let chosen = TlsConfig::builder();
    let host = base
        .parse::<http::Uri>()
        .ok()
        .and_then(|uri| Some(uri.host()?.trim_matches(['[', ']']).to_owned()));
    let here = host.is_some_and(|host| {
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    });
    let roots: Vec<Certificate<'static>> = match ca {
        Some(file) => {
            let pem = std::fs::read(file)
                .with_context(|| format!("cannot read the authority {}", file.display()))?;
            vec![
                Certificate::from_pem(&pem)
                    .with_context(|| format!("{} holds no certificate", file.display()))?,
            ]
        }
        None if here => return Ok(chosen.disable_verification(true).build()),
        None if !base.starts_with("https://") => Vec::new(),
        None => rustls_native_certs::load_native_certs()
            .certs
            .iter()
            .map(|root| Certificate::from_der(root).to_owned())
            .collect(),
    };
    Ok(chosen.root_certs(RootCerts::new_with_certs(&roots)).build())
}

/// Whether the other side was there and was not believed, or spoke no TLS.
fn is_about_tls(why: &ureq::Error) -> bool {
    match why {
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => true,
        ureq::Error::Io(error) => error
            .get_ref()
            .is_some_and(|inner| inner.is::<rustls::Error>()),
        _ => false,
    }
}

/// An address to connect to for one that was listened on: the wildcard is no destination.
pub(super) fn reachable(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// Why the list of sessions is not whole, in lines of their own; empty when it is.
fn missing(others: &Peers) -> String {
    let mut lines = String::new();
    if let Some(why) = &others.error {
        lines += &format!("\nSessions of this proxy only: {why}.\n");
    }
    if !others.silent.is_empty() {
        let names = others.silent.join(", ");
        lines += &format!("\nWithout the sessions of proxies that did not answer: {names}.\n");
    }
    if others.unlisted > 0 {
        lines += &format!("\nWithout {} sessions of other proxies.\n", others.unlisted);
    }
    lines
}

fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(columns.to_vec());
    for (at, name) in columns.iter().enumerate() {
        let is_number = ["ACTIVE", "LIFETIME", "MEMORY", "AGE", "IDLE", "IN", "OUT"].contains(name);
        if let (true, Some(column)) = (is_number, table.column_mut(at)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn seconds(seconds: f64) -> String {
    humantime::format_duration(Duration::from_secs(seconds.max(0.0) as u64)).to_string()
}
