//! The two listening sockets of a serving process: bound by it, or taken over from the process that
//! it replaces. Who accepts on them is `app::ports`' business.

use crate::config::Config;
use crate::tunnel::tune;
use anyhow::Context;
use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Connections that may wait to be accepted. The kernel has a limit of its own
/// (`net.core.somaxconn`).
const BACKLOG: i32 = 65_535;

/// Both sockets, each with the address that the configuration has for it.
pub struct Sockets {
    pub data: Bound,
    pub admin: Bound,
}

/// One listening socket.
pub struct Bound {
    /// As it is configured: with a port of 0 the socket's own is another.
    pub address: SocketAddr,
    pub socket: TcpListener,
}

impl Bound {
    /// Where it listens.
    pub fn local(&self) -> SocketAddr {
        self.socket.local_addr().unwrap_or(self.address)
    }
}

/// Sockets of the process that is replaced, by the address it had configured for each.
#[derive(Default)]
pub struct Inherited(Vec<(SocketAddr, TcpListener)>);

impl Sockets {
    /// Takes over what is inherited, and binds the rest.
    ///
    /// # Errors
    /// When an address cannot be listened on; says which key to change.
    pub fn open(config: &Config, inherited: &mut Inherited) -> anyhow::Result<Sockets> {
        let mut bound = |address: SocketAddr, key: &str| {
            let socket = match inherited.take(address) {
                Some(socket) => Ok(socket),
                None => listen(address),
            };
            let socket = socket.with_context(|| {
                format!("cannot listen on {address} (set {key} to another address)")
            })?;
            anyhow::Ok(Bound { address, socket })
        };
        Ok(Sockets {
            data: bound(config.listen, "listen")?,
            admin: bound(config.admin.listen, "admin.listen")?,
        })
    }

    /// What a successor is handed, in the order of [`Sockets::addresses`].
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.data.socket.as_fd(), self.admin.socket.as_fd()]
    }

    /// Where the data port and the admin port listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        vec![self.data.address, self.admin.address]
    }
}

impl Inherited {
    /// Pairs descriptors with their addresses.
    ///
    /// # Errors
    /// When their numbers differ, or one of them is no listening socket.
    pub fn new(addresses: Vec<SocketAddr>, descriptors: Vec<OwnedFd>) -> io::Result<Inherited> {
        if addresses.len() != descriptors.len() {
            return Err(io::Error::other("a socket for each address is expected"));
        }
        for descriptor in &descriptors {
            if !getsockopt(descriptor, sockopt::AcceptConn)? {
                return Err(io::Error::other("a socket does not listen"));
            }
        }
        let sockets = descriptors.into_iter().map(TcpListener::from);
        Ok(Inherited(addresses.into_iter().zip(sockets).collect()))
    }

    fn take(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let position = self.0.iter().position(|(known, _)| *known == address)?;
        Some(self.0.swap_remove(position).1)
    }
}

/// A socket that listens: from here on the kernel takes connections.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    tune(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
