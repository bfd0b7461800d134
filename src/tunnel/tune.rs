//! Socket options of a session's connections.
//!
//! A client's connection has them all, from its listening socket. A worker's lives only as long as
//! the tunnel, whose pings and write timeout notice more and sooner; it gets those that make the
//! kernel watch it only when there are no pings.

use nix::sys::socket::{setsockopt, sockopt};
use pingora::protocols::TcpKeepalive;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Silence before the kernel probes the other end, seconds. The tunnel's pings come sooner; this
/// is for connections that wait for a seat, for sessions in the middle of a frame, and for those
/// without pings.
const KEEPALIVE_IDLE: u32 = 30;

/// Time between two such probes, seconds.
const KEEPALIVE_INTERVAL: u32 = 10;

/// How long sent bytes and probes may stay without an answer from the other kernel. Not from the
/// other program: one that does not read is the write timeout's business.
const USER_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes the connections that a listening socket will accept send at once, and notice a peer that
/// has gone without a word. Linux hands these options down, so that they cost nothing there.
pub fn tune(socket: impl AsFd) -> io::Result<()> {
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    keep_alive(socket)
}

/// Makes a TCP connection notice a peer that has gone without a word.
pub(super) fn keep_alive(socket: impl AsFd) -> io::Result<()> {
    setsockopt(&socket, sockopt::KeepAlive, &true)?;
    #[cfg(target_os = "linux")]
    {
        setsockopt(&socket, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
        setsockopt(&socket, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
        let timeout = USER_TIMEOUT.as_millis() as u32;
        setsockopt(&socket, sockopt::TcpUserTimeout, &timeout)?;
    }
    Ok(())
}

/// Bytes in a connection's send buffer that the other end's kernel has not acknowledged (on Linux SIOCOUTQ,
/// see tcp(7) and unix(7)); 0 if the kernel does not say.
pub(super) fn unacknowledged(socket: impl AsFd) -> u32 {
    let mut bytes: libc::c_int = 0;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for as long as it is borrowed, and this request writes one int.
    let asked = unsafe { libc::ioctl(descriptor, libc::TIOCOUTQ, &mut bytes) };
    if asked == 0 {
        bytes.try_into().unwrap_or(0)
    } else {
        0
    }
}

/// What [`tune`] does, for a connection that Pingora makes or accepts. It sends at once by itself.
pub fn keepalive() -> TcpKeepalive {
    TcpKeepalive {
        idle: Duration::from_secs(KEEPALIVE_IDLE.into()),
        interval: Duration::from_secs(KEEPALIVE_INTERVAL.into()),
        count: (USER_TIMEOUT.as_secs() / u64::from(KEEPALIVE_INTERVAL)) as usize,
        #[cfg(target_os = "linux")]
        user_timeout: USER_TIMEOUT,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_has_the_options_of_its_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        tune(&listener).unwrap();
        let _far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        assert!(getsockopt(&near, sockopt::TcpNoDelay).unwrap());
        assert!(getsockopt(&near, sockopt::KeepAlive).unwrap());
        let idle = getsockopt(&near, sockopt::TcpKeepIdle).unwrap();
        let interval = getsockopt(&near, sockopt::TcpKeepInterval).unwrap();
        assert_eq!((idle, interval), (KEEPALIVE_IDLE, KEEPALIVE_INTERVAL));
        let timeout = getsockopt(&near, sockopt::TcpUserTimeout).unwrap();
        assert_eq!(u128::from(timeout), USER_TIMEOUT.as_millis());
    }
}
