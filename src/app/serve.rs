//! The serving process: store, fleet, data port and admin port put together.
//!
//! Two halves: the control plane (store, fleet, releases, workers, signals) runs on a small
//! runtime of ours, the ports on Pingora's. Pingora's server has a thread of its own, so that the
//! process ends when its last session does and not when Pingora's grace period is over.

use super::ending::{Signals, ToPingora, run_until_ended};
use super::notify;
use super::operate::reachable;
use super::tls::{Certificate, check_authorities, install_crypto};
use crate::admin::{Admin, ConfigView, answer_others};
use crate::admission::tokens::Quotas;
use crate::config::{Config, LiveConfig, ReloadStatus, TlsVersion};
use crate::fleet::{Fleet, Queue};
use crate::metrics::Metrics;
use crate::proxy::front_door::{Connections, FrontDoor};
use crate::proxy::listener::Listener;
use crate::proxy::{DataPort, Grid};
use crate::session::quota;
use crate::session::registry::Registry;
use crate::session::seat::Releaser;
use crate::store::Store;
use crate::store::handover::HandoverStore;
use crate::tunnel::keepalive;
use anyhow::Context;
use pingora::listeners::{ListenerConfig, TcpSocketOptions};
use pingora::server::configuration::{Opt, ServerConf};
use pingora::server::{RunArgs, Server, ShutdownSignal};
use pingora::services::listening::Service;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::timeout;

/// How long Pingora may take to open a port that is free.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks whether a port that is being opened is open.
const LISTEN_POLL: Duration = Duration::from_millis(10);

/// The control plane of a serving process.
pub struct Plane {
    pub grid: Arc<Grid>,
    pub metrics: Arc<Metrics>,
    /// Turns true when background work has to end.
    stop: watch::Sender<bool>,
    signals: Signals,
}

impl Plane {
    /// Puts the parts together and starts those that run in the background. Needs a runtime.
    pub fn start(
        config: LiveConfig,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Plane> {
        let signals = Signals::new().context("cannot listen to signals")?;
        let (stop, stopped) = watch::channel(false);
        let queue = Queue::new();
        // The store's events wake the queue too, but not while it is away.
        let wake = queue.clone();
        let (releaser, releases) = Releaser::new(store.clone(), move |browser| wake.wake(browser));
        tokio::spawn(releases);
        let registry = Registry::new();
        let quotas = Quotas::new();
        if store.is_shared() {
            tokio::spawn(quota::tell(store.clone(), quotas.clone()));
        }
        answer_others(&*store, registry.clone());
        let fleet = Fleet::new(
            config.clone(),
            store.clone(),
            queue.clone(),
            registry.clone(),
            releaser.clone(),
            metrics.clone(),
        );
        tokio::spawn(fleet.clone().run(stopped));
        let grid = Arc::new(Grid {
            config,
            metrics: metrics.clone(),
            store,
            fleet,
            queue,
            quotas,
            releaser,
            registry,
            connections: Connections::default(),
            draining: watch::Sender::new(false),
            serving: AtomicBool::new(false),
        });
        Ok(Plane {
            grid,
            metrics,
            stop,
            signals,
        })
    }

    /// Opens the ports, or with `upgrade` takes them over, and serves until the process is told to
    /// end and its sessions have ended. `seats` go to the process that takes over in turn.
    pub async fn serve(
        mut self,
        status: watch::Receiver<ReloadStatus>,
        upgrade: bool,
        seats: Option<Arc<HandoverStore>>,
    ) -> anyhow::Result<()> {
        let config = self.grid.config.load_full();
        install_crypto(
            config
                .tls
                .as_ref()
                .map_or(TlsVersion::V1_2, |tls| tls.min_version),
        );
        check_authorities()?;
        let certificate = config.tls.as_ref().map(Certificate::load).transpose()?;
        let shown = status.clone();
        let config_view: ConfigView = Arc::new(move || serde_json::json!(*shown.borrow()));
        tokio::spawn(follow(status, self.grid.clone(), certificate.clone()));
        let server = ports(
            &self.grid,
            config_view,
            &config,
            certificate.as_ref(),
            upgrade,
        )?;
        let (to_pingora, orders) = mpsc::channel::<ShutdownSignal>(1);
        let shutdown_signal = Box::new(ToPingora(Mutex::new(orders)));
        std::thread::Builder::new()
            .name("pingora".into())
            .spawn(move || server.run(RunArgs { shutdown_signal }))
            .context("cannot start a thread")?;
        for port in [config.listen, config.admin.listen] {
            let opened = timeout(LISTEN_TIMEOUT, listens(reachable(port))).await;
            opened.with_context(|| format!("{port} was not opened in time"))?;
        }
        self.grid.serving.store(true, Ordering::Relaxed);
        log::info!(listen:% = config.listen, admin:% = config.admin.listen; "serving");
        notify::ready();
        run_until_ended(&self.grid, &mut self.signals, &to_pingora, seats.as_deref()).await;
        self.stop.send_replace(true);
        log::info!("ended");
        Ok(())
    }
}

/// Makes a reload reach those who do not read the configuration at each turn.
async fn follow(
    mut status: watch::Receiver<ReloadStatus>,
    grid: Arc<Grid>,
    certificate: Option<Arc<Certificate>>,
) {
    while status.changed().await.is_ok() {
        status.borrow_and_update();
        grid.fleet.reconfigure();
        let config = grid.config.load_full();
        if let Some((certificate, tls)) = certificate.as_ref().zip(config.tls.as_ref())
            && let Err(error) = certificate.reload(tls)
        {
            log::error!(error:% = error; "the old certificate stays in force");
        }
    }
}

/// Makes sure that both ports are free. Pingora would end the process with a panic when it cannot
/// listen; this says why instead.
pub fn check_ports(config: &Config) -> anyhow::Result<()> {
    check_free(config.listen, "listen")?;
    check_free(config.admin.listen, "admin.listen")
}

fn check_free(address: SocketAddr, key: &str) -> anyhow::Result<()> {
    TcpListener::bind(address)
        .map(drop)
        .with_context(|| format!("cannot listen on {address} (set {key} to another address)"))
}

/// Pingora's server with both ports.
fn ports(
    grid: &Arc<Grid>,
    config_view: ConfigView,
    config: &Config,
    certificate: Option<&Arc<Certificate>>,
    upgrade: bool,
) -> anyhow::Result<Server> {
    let threads = match config.server.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let conf = ServerConf {
        threads,
        listener_tasks_per_fd: threads,
        upgrade_sock: config.server.upgrade_socket.display().to_string(),
        // Sessions have left Pingora: when the last one ends is decided in `ending`.
        grace_period_seconds: Some(config.session.drain_timeout.as_secs() + 60),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    };
    let opt = Opt {
        upgrade,
        ..Opt::default()
    };
    let mut server = Server::new_with_opt_and_conf(Some(opt), conf);
    server.bootstrap();
    let http = pingora_proxy::http_proxy(&server.configuration, DataPort(grid.clone()));
    let front_door = FrontDoor::new(grid.clone(), http);
    match certificate {
        None => server.add_service(Listener::new(config.listen, threads, front_door)),
        Some(_) => {
            let mut data = Service::new("data".into(), front_door);
            data.threads = Some(threads);
            data.add_listener(listener(config.listen, certificate)?);
            server.add_service(data)
        }
    };
    let mut admin = Service::new("admin".into(), Admin::new(grid.clone(), config_view));
    admin.threads = Some(1);
    admin.add_listener(listener(config.admin.listen, certificate)?);
    server.add_service(admin);
    Ok(server)
}

/// Waits until a port takes connections: Pingora does not tell.
async fn listens(address: SocketAddr) {
    while TcpStream::connect(address).await.is_err() {
        tokio::time::sleep(LISTEN_POLL).await;
    }
}

fn listener(
    address: SocketAddr,
    certificate: Option<&Arc<Certificate>>,
) -> anyhow::Result<ListenerConfig> {
    let mut options = TcpSocketOptions::default();
    options.tcp_keepalive = Some(keepalive());
    let listener = ListenerConfig::tcp(address.to_string()).tcp_socket_options(options);
    Ok(match certificate {
        Some(certificate) => listener.tls(certificate.settings()?),
        None => listener,
    })
}
