//! The serving process: store, fleet, data port and admin port put together.
//!
//! Two halves: the control plane (store, fleet, releases, workers, signals) runs on a small
//! runtime of ours, the ports on runtimes of their own.

use super::ending::Ending;
use super::notify;
use super::ports::Ports;
use super::signals::Signals;
use super::sockets::Sockets;
use super::succession::predecessor::Predecessor;
use super::tls::{Certificate, check_authorities, install_crypto};
use crate::admin::{ConfigView, serve_peers};
use crate::admission::tokens::Quotas;
use crate::config::{LiveConfig, ReloadStatus, TlsVersion};
use crate::events::{EventKind, Events};
use crate::fleet::{self, Fleet, Queue};
use crate::kubernetes;
use crate::metrics::Metrics;
use crate::proxy::demand::PeerDemand;
use crate::proxy::history::{self, History};
use crate::proxy::{MetricsPage, ProxyState};
use crate::session::quota;
use crate::session::registry::Registry;
use crate::session::seat::Releaser;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// The control plane of a serving process.
pub struct ControlPlane {
    pub proxy: Arc<ProxyState>,
    pub metrics: Arc<Metrics>,
    /// Turns true when background work has to end.
    stop: watch::Sender<bool>,
}

impl ControlPlane {
    /// Puts the parts together and starts those that run in the background. Needs a runtime.
    /// `admin_token` is the hash of the token that this process made for its admin port.
    pub fn start(
        config: LiveConfig,
        store: Arc<dyn Store>,
        metrics: Arc<Metrics>,
        admin_token: Option<[u8; 32]>,
    ) -> ControlPlane {
        let (stop, stopped) = watch::channel(false);
        let queue = Queue::new();
        // The store's events wake the queue too, but not while it is away.
        let wake = queue.clone();
        let (releaser, releases) = Releaser::new(store.clone(), move |browser| wake.wake(browser));
        tokio::spawn(releases);
        let registry = Registry::new();
        let quotas = Quotas::new();
        let events = Arc::new(Events::default());
        tokio::spawn(fleet::events::follow(store.clone(), events.clone()));
        if store.is_shared() {
            tokio::spawn(quota::publish_changes(store.clone(), quotas.clone()));
        }
        serve_peers(&*store, registry.clone(), queue.clone());
        let fleet = Fleet::new(
            config.clone(),
            store.clone(),
            queue.clone(),
            registry.clone(),
            releaser.clone(),
            metrics.clone(),
        );
        tokio::spawn(fleet.clone().run(stopped));
        let proxy = Arc::new(ProxyState {
            config,
            metrics: metrics.clone(),
            store,
            fleet,
            queue,
            quotas,
            releaser,
            registry,
            peer_demand: PeerDemand::default(),
            events,
            history: History::default(),
            metrics_page: MetricsPage::default(),
            secret: OnceLock::new(),
            admin_token,
            draining: watch::Sender::new(false),
            serving: AtomicBool::new(false),
        });
        tokio::spawn(history::keep(Arc::downgrade(&proxy)));
        ControlPlane {
            proxy,
            metrics,
            stop,
        }
    }

    /// Accepts on both sockets as a process of this role (`proxy`, `up`), and serves until the process is asked to end and its sessions
    /// have ended.
    ///
    /// # Errors
    /// When the certificate or the authorities cannot be read, or when the process that was to be
    /// replaced stays in service.
    pub async fn serve(
        self,
        role: &'static str,
        sockets: Sockets,
        succession: Succession,
        status: watch::Receiver<ReloadStatus>,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        let config = self.proxy.config.load_full();
        install_crypto(
            config
                .tls
                .files()
                .as_ref()
                .map_or(TlsVersion::V1_2, |tls| tls.min_version),
        );
        check_authorities()?;
        kubernetes::keep_annotations(
            &self.proxy.fleet,
            kubernetes::host_of_environment(),
            &config.server.service_account,
        );
        let certificate = config
            .tls
            .files()
            .as_ref()
            .map(Certificate::load)
            .transpose()?;
        let shown = status.clone();
        let config_view: ConfigView = Arc::new(move || serde_json::json!(*shown.borrow()));
        tokio::spawn(follow(
            status.clone(),
            self.proxy.clone(),
            certificate.clone(),
        ));
        let (data, admin) = (sockets.data.local(), sockets.admin.local());
        let mut ports = Ports::new(self.proxy.clone(), config_view, certificate, sockets)?;
        let predecessor = match succession.predecessor {
            None => {
                ports.accept()?;
                None
            }
            Some(predecessor) => {
                let store = self.proxy.store.clone();
                Some(predecessor.take_over(store, || ports.accept()).await?)
            }
        };
        self.proxy.serving.store(true, Ordering::Relaxed);
        log::info!(listen:% = data, admin:% = admin; "serving");
        notify::ready();
        let mut ending =
            Ending::new(role, self.proxy.clone(), ports, status).succeeding(predecessor);
        if let Some(seats) = succession.seats {
            ending = ending.succeeded(seats);
        }
        ending.run(signals).await;
        self.stop.send_replace(true);
        log::info!("ended");
        Ok(())
    }
}

/// Whom a serving process replaces, and what it passes on when it is replaced.
#[derive(Default)]
pub struct Succession {
    /// The process in whose place it begins.
    pub predecessor: Option<Predecessor>,
    /// Present when a successor may take over; the store whose seats are told then, if they are in
    /// memory.
    pub seats: Option<Option<Arc<MemoryStore>>>,
}

/// Makes a reload reach those who do not read the configuration at each turn.
async fn follow(
    mut status: watch::Receiver<ReloadStatus>,
    proxy: Arc<ProxyState>,
    certificate: Option<Arc<Certificate>>,
) {
    while status.changed().await.is_ok() {
        note_reload(&proxy, &status.borrow_and_update());
        proxy.fleet.reconfigure();
        let tls = proxy.config.load().tls.files();
        let Some((certificate, tls)) = certificate.clone().zip(tls) else {
            continue;
        };
        // A file system may take its time.
        if let Ok(Err(error)) = spawn_blocking(move || certificate.reload(&tls)).await {
            log::error!(error:% = error; "the old certificate stays in force");
        }
    }
}

fn note_reload(proxy: &ProxyState, status: &ReloadStatus) {
    let outcome = status.outcome.as_str();
    if outcome != "unchanged" {
        proxy.events.note(EventKind::Configuration, outcome, None);
    }
}
