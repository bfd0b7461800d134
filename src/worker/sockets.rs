//! Who is connected to a port of this machine, as the kernel knows it: the truth about a server's
//! sessions when the store cannot tell.

use procfs::net::{TcpNetEntry, TcpState};

/// Connections to `port` that are open, half-open ones included; `None` when the kernel does not
/// tell.
pub fn connected_to(port: u16) -> Option<usize> {
    let v4 = procfs::net::tcp().ok()?;
    // Without IPv6 there is no such table.
    let v6 = procfs::net::tcp6().unwrap_or_default();
    let open = |entry: &TcpNetEntry| {
        entry.local_address.port() == port
            && matches!(
                entry.state,
                TcpState::Established | TcpState::CloseWait | TcpState::SynRecv
            )
    };
    Some(v4.iter().chain(&v6).filter(|entry| open(entry)).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    #[test]
    fn counts_those_who_are_connected() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(connected_to(address.port()), Some(0));
        let _client = TcpStream::connect(address).unwrap();
        let _server = listener.accept().unwrap();
        assert_eq!(connected_to(address.port()), Some(1));
    }
}
