//! The data port without TLS: its socket, and the loops that accept on it. What comes after is
//! [`FrontDoor`]'s.
//!
//! Pingora's own listener wraps what it accepts in a stream that never gives its socket away again.
//! A session needs the bare one, to splice and to be small, so that it would have to duplicate the
//! descriptor and register it a second time. This service takes Pingora's part in everything else:
//! the socket goes to the process that takes over, and its closing is part of the shutdown.

use super::front_door::FrontDoor;
use crate::tunnel::{Link, tune};
use async_trait::async_trait;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

/// Connections that may wait to be accepted: as many as with Pingora's own listeners. The kernel
/// has a limit of its own (`net.core.somaxconn`).
const BACKLOG: u32 = 65_535;
/// Pause when the kernel cannot give a connection, most likely for want of descriptors: it would
/// say so again at once.
const BREATH: Duration = Duration::from_millis(200);

/// The service that owns the data port.
pub struct Listener {
    address: SocketAddr,
    threads: usize,
    door: Arc<FrontDoor>,
}

impl Listener {
    pub fn new(address: SocketAddr, threads: usize, door: FrontDoor) -> Listener {
        let door = Arc::new(door);
        Listener {
            address,
            threads,
            door,
        }
    }

    /// The socket of the process that is replaced, or one of our own for the next to inherit.
    fn listen(&self, handed_over: Option<&ListenFds>) -> io::Result<TcpListener> {
        let address = self.address.to_string();
        let mut table = handed_over.map(|table| table.lock());
        let inherited = table
            .as_ref()
            .and_then(|table| table.get(&address).copied());
        if let Some(descriptor) = inherited {
            // SAFETY: Pingora received this descriptor for this address, and nobody else takes it:
            // the table only names it to the next process.
            let socket = unsafe { std::net::TcpListener::from_raw_fd(descriptor) };
            socket.set_nonblocking(true)?;
            tune(&socket)?;
            return TcpListener::from_std(socket);
        }
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        tune(&socket)?;
        socket.bind(self.address)?;
        let listener = socket.listen(BACKLOG)?;
        if let Some(table) = &mut table {
            table.add(address, listener.as_raw_fd());
        }
        Ok(listener)
    }
}

#[async_trait]
impl Service for Listener {
    async fn start_service(
        &mut self,
        handed_over: Option<ListenFds>,
        shutdown: ShutdownWatch,
        loops: usize,
    ) {
        let listener = match self.listen(handed_over.as_ref()) {
            Ok(listener) => Arc::new(listener),
            Err(error) => {
                log::error!(listen:% = self.address, error:% = error; "cannot listen");
                return;
            }
        };
        let mut accepting = JoinSet::new();
        for _ in 0..loops {
            let accept = accept(listener.clone(), self.door.clone(), shutdown.clone());
            let mut shutdown = shutdown.clone();
            accepting.spawn(async move {
                tokio::select! {
                    () = accept => {}
                    _ = shutdown.wait_for(|begun| *begun) => {}
                }
            });
        }
        accepting.join_all().await;
        self.door.close().await;
    }

    fn name(&self) -> &str {
        "data"
    }

    fn threads(&self) -> Option<usize> {
        Some(self.threads)
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        Some(vec![self.address.to_string()])
    }
}

/// Accepts for ever. Dropping it loses no connection: one that was accepted is on its way.
async fn accept(listener: Arc<TcpListener>, door: Arc<FrontDoor>, shutdown: ShutdownWatch) {
    loop {
        match listener.accept().await {
            Ok((socket, from)) => {
                let (door, shutdown) = (door.clone(), shutdown.clone());
                tokio::spawn(async move {
                    let stream = Box::new(Link::from(socket));
                    door.serve(stream, Some(from.ip()), &shutdown).await;
                });
            }
            Err(error) => {
                log::error!(error:% = error; "cannot accept");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}
