//! The ports of a serving process: who accepts on its two sockets, and when that begins and ends.
//!
//! The data port and the admin port have a runtime each, so that neither waits for the other, and
//! each ends by itself: the admin port is the last to close. Accepting can be paused and resumed
//! while the sockets stay: at an upgrade the successor accepts on the same ones.

use super::sockets::{Bound, Sockets};
use super::tls::Certificate;
use crate::admin::{Admin, ConfigView};
use crate::proxy::front_door::FrontDoor;
use crate::proxy::{DataPort, Grid, listener};
use crate::tunnel::keepalive;
use anyhow::Context;
use pingora::apps::ServerApp;
use pingora::listeners::{ListenerConfig, TcpSocketOptions};
use pingora::server::configuration::ServerConf;
use pingora::server::{Fds, ListenFds, ShutdownWatch};
use pingora::services::Service as _;
use pingora::services::listening::Service;
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

/// Both ports.
pub struct Ports {
    grid: Arc<Grid>,
    config_view: ConfigView,
    certificate: Option<Arc<Certificate>>,
    threads: usize,
    /// `None` once they are closed for good.
    sockets: Option<Sockets>,
    data: Threads,
    admin: Threads,
    /// Closes the data port.
    close_data: watch::Sender<bool>,
    /// Closes the admin port.
    close_admin: watch::Sender<bool>,
}

/// A runtime that may be dropped anywhere: what still runs on it ends with the process.
struct Threads(Option<Runtime>);

impl Threads {
    fn new(name: &str, threads: usize) -> anyhow::Result<Threads> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name(name)
            .enable_all()
            .build();
        Ok(Threads(Some(runtime.context("cannot start threads")?)))
    }

    fn handle(&self) -> &Handle {
        let runtime = self.0.as_ref();
        runtime.expect("it is there until it is dropped").handle()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Ports {
    /// Ports that nobody accepts on yet.
    pub fn new(
        grid: Arc<Grid>,
        config_view: ConfigView,
        certificate: Option<Arc<Certificate>>,
        sockets: Sockets,
    ) -> anyhow::Result<Ports> {
        let threads = match grid.config.load().server.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        Ok(Ports {
            grid,
            config_view,
            certificate,
            threads,
            sockets: Some(sockets),
            data: Threads::new("data", threads)?,
            admin: Threads::new("admin", 1)?,
            close_data: watch::Sender::new(false),
            close_admin: watch::Sender::new(false),
        })
    }

    /// The sockets, unless they are closed.
    pub fn sockets(&self) -> Option<&Sockets> {
        self.sockets.as_ref()
    }

    /// The runtimes of both ports.
    pub fn handles(&self) -> [Handle; 2] {
        [self.data.handle().clone(), self.admin.handle().clone()]
    }

    /// Begins to accept, for the first time or once more.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn accept(&mut self) -> anyhow::Result<()> {
        let Some(sockets) = &self.sockets else {
            return Ok(());
        };
        let (close_data, data_closes) = watch::channel(false);
        let (close_admin, admin_closes) = watch::channel(false);
        self.accept_data(&sockets.data, data_closes)?;
        self.accept_admin(&sockets.admin, admin_closes)?;
        self.close_data = close_data;
        self.close_admin = close_admin;
        Ok(())
    }

    /// Stops to accept. The sockets stay: what knocks meanwhile waits for whoever accepts next.
    pub fn pause(&self) {
        self.close_data.send_replace(true);
        self.close_admin.send_replace(true);
    }

    /// Closes the data port for good, and with it what waits there; the admin port goes on.
    pub fn close_data(&mut self) {
        self.close_data.send_replace(true);
        self.sockets = None;
    }

    fn accept_data(&self, bound: &Bound, closes: ShutdownWatch) -> anyhow::Result<()> {
        let conf = Arc::new(ServerConf {
            threads: self.threads,
            ..ServerConf::default()
        });
        let http = pingora_proxy::http_proxy(&conf, DataPort(self.grid.clone()));
        let door = FrontDoor::new(self.grid.clone(), http);
        let runtime = self.data.handle();
        if self.certificate.is_some() {
            let loops = self.threads;
            return self.accept_by_pingora(&self.data, "data", door, (bound, loops), closes);
        }
        let socket = duplicate(&bound.socket)?;
        let _inside = runtime.enter();
        let socket = tokio::net::TcpListener::from_std(socket)?;
        runtime.spawn(listener::run(socket, self.threads, Arc::new(door), closes));
        Ok(())
    }

    fn accept_admin(&self, bound: &Bound, closes: ShutdownWatch) -> anyhow::Result<()> {
        let admin = Admin::new(self.grid.clone(), self.config_view.clone());
        self.accept_by_pingora(&self.admin, "admin", admin, (bound, 1), closes)
    }

    /// With a listener of Pingora's: under TLS, and on the admin port.
    fn accept_by_pingora(
        &self,
        on: &Threads,
        name: &str,
        app: impl ServerApp + Send + Sync + 'static,
        (bound, loops): (&Bound, usize),
        closes: ShutdownWatch,
    ) -> anyhow::Result<()> {
        let mut service = Service::new(name.to_owned(), app);
        let mut options = TcpSocketOptions::default();
        options.tcp_keepalive = Some(keepalive());
        let address = bound.address.to_string();
        let endpoint = ListenerConfig::tcp(address.clone()).tcp_socket_options(options);
        service.add_listener(match &self.certificate {
            Some(certificate) => endpoint.tls(certificate.settings()?),
            None => endpoint,
        });
        let mut table = Fds::new();
        table.add(address, duplicate(&bound.socket)?.into_raw_fd());
        let table: ListenFds = Arc::new(table.into());
        on.handle().spawn(async move {
            service.start_service(Some(table), closes, loops).await;
        });
        Ok(())
    }
}

/// Waits until each runtime has done a piece of work: it does, unless something hangs there.
pub async fn beat(runtimes: [Handle; 2]) {
    for runtime in runtimes {
        // It fails when the runtime is gone, which is when the process ends.
        runtime.spawn(async {}).await.ok();
    }
}

/// Another descriptor of the same socket, for the loops that accept and close it when they end.
fn duplicate(socket: &TcpListener) -> anyhow::Result<TcpListener> {
    let duplicate = socket.try_clone().context("cannot duplicate a socket")?;
    duplicate.set_nonblocking(true)?;
    Ok(duplicate)
}
