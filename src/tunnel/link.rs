//! One of a session's two connections: a plain socket of our own wherever there is one, else
//! whatever Pingora made (TLS).

use pingora::protocols::Stream;
use pingora::protocols::l4::stream::Stream as PlainStream;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection to a client or a worker.
#[derive(Debug)]
pub enum Link {
    /// Costs a session some 450 bytes less than Pingora's stream around it, and can be spliced.
    Plain(TcpStream),
    Boxed(Stream),
}

impl Link {
    /// Takes the socket out of a plain connection that Pingora has accepted; anything else stays
    /// as it is.
    ///
    /// What the stream has in buffers of its own would be lost, so it has to be one of a listener
    /// without any, with nothing read ahead. Has to be called on the runtime that relays: the
    /// socket is registered there, wherever it was before.
    pub fn unbuffered(stream: Stream) -> Link {
        let plain: Option<&PlainStream> = stream.as_any().downcast_ref();
        match plain.and_then(|plain| socket_of(plain).ok()) {
            Some(socket) => Link::Plain(socket),
            None => Link::Boxed(stream),
        }
    }
}

/// A second descriptor of the stream's socket. Pingora's stream owns its first and keeps it.
fn socket_of(stream: &PlainStream) -> io::Result<TcpStream> {
    let descriptor = stream.as_raw_fd();
    if descriptor < 0 {
        // Pingora's virtual sockets have none.
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: the descriptor is the stream's own, open as long as the stream is borrowed.
    let socket = unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned()?;
    TcpStream::from_std(socket.into())
}

impl From<TcpStream> for Link {
    fn from(stream: TcpStream) -> Link {
        Link::Plain(stream)
    }
}

impl From<Stream> for Link {
    fn from(stream: Stream) -> Link {
        Link::Boxed(stream)
    }
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Link::Boxed(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Link::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Link::Boxed(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Link::Boxed(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Link::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Link::Boxed(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
