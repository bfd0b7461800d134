//! The ports of a serving process: who accepts on its two sockets, and when that begins and ends.
//!
//! The data port and the admin port have a runtime each, so that neither waits for the other, and
//! each ends by itself: the admin port is the last to close. Accepting can be paused and resumed
//! while the sockets stay: at an upgrade the successor accepts on the same ones.

use super::sockets::{Bound, Sockets};
use super::tls::Certificate;
use crate::admin::{Admin, ConfigView};
use crate::proxy::connections::PortConnections;
use crate::proxy::front_door::{Application, FrontDoor};
use crate::proxy::{DataApplication, ProxyState, listener};
use anyhow::Context;
use pingora::server::ShutdownWatch;
use pingora::server::configuration::ServerConf;
use std::net::TcpListener;
use std::sync::Arc;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

/// Both ports.
pub struct Ports {
    threads: usize,
    /// One for each port, however often accepting begins: they know how many connections are open.
    data_door: Arc<FrontDoor<DataApplication>>,
    admin_door: Arc<FrontDoor<Admin>>,
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
        proxy: Arc<ProxyState>,
        config_view: ConfigView,
        certificate: Option<Arc<Certificate>>,
        sockets: Sockets,
    ) -> anyhow::Result<Ports> {
        let threads = match proxy.config.load().server.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let tls = || certificate.as_ref().map(Certificate::acceptor);
        let conf = Arc::new(ServerConf {
            threads,
            ..ServerConf::default()
        });
        let data_door = FrontDoor::new(
            proxy.clone(),
            sockets.data.address.ip(),
            PortConnections::of_data_port(proxy.metrics.connections.clone()),
            tls(),
            DataApplication::new(proxy.clone(), &conf),
        );
        let admin_door = FrontDoor::new(
            proxy.clone(),
            sockets.admin.address.ip(),
            PortConnections::of_admin_port(),
            tls(),
            Admin::new(proxy, config_view),
        );
        Ok(Ports {
            threads,
            data_door: Arc::new(data_door),
            admin_door: Arc::new(admin_door),
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
        let loops = self.threads;
        accept_on(
            &self.data,
            &sockets.data,
            loops,
            &self.data_door,
            data_closes,
        )?;
        accept_on(
            &self.admin,
            &sockets.admin,
            1,
            &self.admin_door,
            admin_closes,
        )?;
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
}

/// Accepts on a socket, in so many loops.
fn accept_on<A: Application>(
    on: &Threads,
    bound: &Bound,
    loops: usize,
    door: &Arc<FrontDoor<A>>,
    closes: ShutdownWatch,
) -> anyhow::Result<()> {
    let runtime = on.handle();
    let socket = duplicate(&bound.socket)?;
    let _inside = runtime.enter();
    let socket = tokio::net::TcpListener::from_std(socket)?;
    runtime.spawn(listener::run(socket, loops, door.clone(), closes));
    Ok(())
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
