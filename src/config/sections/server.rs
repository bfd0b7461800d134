//! The process itself: its log, its threads, its end.

use super::{DAY, seconds};
use crate::config::Role;
use crate::model::words;
use crate::settings::forms::{choice, duration, list, number, optional, path, scalar, yaml_text};
use crate::settings::{Form, section};
use ipnet::IpNet;
use log::LevelFilter;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

section! {
    /// What is logged, and how.
    #[derive(Copy, Eq)]
    pub struct Log: hot "log" (_role: Role)

    /// How much is logged.
    level: LevelFilter = LevelFilter::Info, choice(LEVELS), .env(&["LOG_LEVEL"]);

    /// auto = text on a terminal, json elsewhere.
    format: LogFormat = LogFormat::Auto, choice(LogFormat::WORDS), .env(&["LOG_FORMAT"]);
}

words! {
    /// How lines of the log are written.
    pub enum LogFormat ("format") {
        /// Text on a terminal, JSON elsewhere.
        Auto = "auto",
        Json = "json",
        Text = "text",
    }
}

const LEVELS: &[(&str, LevelFilter)] = &[
    ("off", LevelFilter::Off),
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];
/// Where Kubernetes puts it.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

section! {
    /// Threads, and how the process ends and is replaced.
    #[derive(Eq)]
    pub struct Server: "server" (_role: Role)

    /// Threads of the data port; 0 = one per core.
    threads: usize = 0, number(0..=1024);

    /// How long the listener stays open, answering 503, after SIGTERM. Some seconds in Kubernetes.
    // Long enough for whoever asks /readyz each second to see the 503.
    shutdown_grace: Duration = seconds(1), duration(Duration::ZERO..=DAY);

    /// Folder of the service account with which a proxy keeps annotations of workers' pods, if it is
    /// there.
    service_account: PathBuf = SERVICE_ACCOUNT.into(), path("the path of a folder");

    /// Balancers and proxies in front, whose PROXY protocol (v1, v2) and X-Forwarded-For tell a
    /// client's address. Whoever can write from one of these addresses can take any address for its
    /// own.
    ///     trusted_proxies: [ 10.0.0.0/8, "fd00::/8" ]
    trusted_proxies: Vec<IpNet> = Vec::new(), networks();

    /// Everything the data port has is below this path as well, for a proxy in front that does not
    /// rewrite paths.
    base_path: Option<String> = None, optional("none", base_path());

    /// Socket over which `proxy --upgrade` takes the listeners over.
    // Writable without preparation; the systemd unit uses /run/playhouse.
    upgrade_socket: PathBuf = "/tmp/playhouse-upgrade.sock".into(), path("the path of a socket");
}

fn networks() -> Form<Vec<IpNet>> {
    list(
        "networks",
        scalar(
            "a network such as 10.0.0.0/8, or an address",
            |text, _| {
                let address = || text.parse::<IpAddr>().map(IpNet::from);
                text.parse().or_else(|_| address()).ok()
            },
            |network: &IpNet, _| yaml_text(&network.to_string()),
        ),
    )
}

/// A path, kept without the slash at its end.
fn base_path() -> Form<String> {
    scalar(
        "a path such as /grid",
        |text, _| {
            let text = text.strip_suffix('/').unwrap_or(text);
            let mut parts = text.strip_prefix('/')?.split('/');
            let plain = |part: &str| {
                let known = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
                !part.is_empty() && part.chars().all(known) && part != "." && part != ".."
            };
            parts.all(plain).then(|| text.to_owned())
        },
        |path, _| yaml_text(path),
    )
}
