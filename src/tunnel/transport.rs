//! One of a session's two connections: a plain socket of our own, over TCP or to a browser server on
//! this machine, one under TLS, or, to a worker, whatever Pingora made.
//!
//! Pingora's HTTP takes it for a stream of its own, so that a client's connection goes in and comes
//! out again as what it is.

use super::frame;
use super::protocol::code;
use super::tune::{keep_alive, unacknowledged};
use async_trait::async_trait;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

/// A connection to a client or a worker.
#[derive(Debug)]
pub enum Transport {
    /// Costs a session some 450 bytes less than Pingora's stream around it, and can be spliced.
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// To a browser server of this machine. Boxed, so that it does not make the others larger.
    Unix(Box<UnixStream>),
    Overheard(Box<Overheard>),
    Boxed(Stream),
}

/// A transport whose bytes somebody else sees as they come in. They are copied, never spliced, as long as that one
/// listens.
pub struct Overheard {
    transport: Transport,
    listener: Listener,
}

/// What becomes of the bytes that made a listener break off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastHeard {
    Pass,
    /// Whoever reads never sees them, and waits: the listener has seen to the end of the session.
    Withheld,
}

type Listener = Box<dyn FnMut(&[u8]) -> ControlFlow<LastHeard> + Send + Sync>;

impl std::fmt::Debug for Overheard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.transport.fmt(f)
    }
}

impl Transport {
    /// The same transport, with everything that comes in shown to `listener` until that breaks off.
    pub fn overheard(
        self,
        listener: impl FnMut(&[u8]) -> ControlFlow<LastHeard> + Send + Sync + 'static,
    ) -> Transport {
        Transport::Overheard(Box::new(Overheard {
            transport: self,
            listener: Box::new(listener),
        }))
    }

    /// Becomes the transport that was listened to.
    fn hear_no_more(&mut self) {
        if let Transport::Overheard(overheard) = self {
            let nothing: Stream = Box::new(io::Cursor::new(Vec::new()));
            *self = std::mem::replace(&mut overheard.transport, Transport::Boxed(nothing));
        }
    }

    /// Ends it as far as that goes at once; dropping it has to follow. A plain socket says all there
    /// is to say by being closed, but TLS has an end of its own.
    pub(super) fn hang_up(&mut self, cx: &mut Context<'_>) {
        match self {
            Transport::Plain(_) | Transport::Unix(_) => {}
            Transport::Tls(stream) => drop(Pin::new(stream).poll_shutdown(cx)),
            Transport::Boxed(stream) => drop(Pin::new(stream).poll_shutdown(cx)),
            Transport::Overheard(overheard) => overheard.transport.hang_up(cx),
        }
    }

    /// The socket, where bytes go through it as they are.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Transport::Plain(stream) => Some(stream.as_fd()),
            Transport::Unix(stream) => Some(stream.as_fd()),
            Transport::Tls(_) | Transport::Boxed(_) | Transport::Overheard(_) => None,
        }
    }

    /// Bytes that were written and that the other end's kernel has not acknowledged; 0 where nobody knows.
    pub(super) fn unacknowledged(&self) -> u32 {
        match self {
            Transport::Plain(stream) => unacknowledged(stream),
            Transport::Unix(stream) => unacknowledged(stream),
            Transport::Tls(stream) => unacknowledged(stream.get_ref().0),
            Transport::Overheard(overheard) => overheard.transport.unacknowledged(),
            Transport::Boxed(_) => 0,
        }
    }

    /// Makes the kernel find out whether the other end is still there.
    pub(super) fn watch_by_kernel(&self) {
        if let Transport::Plain(stream) = self {
            // A connection that is broken already needs no watching.
            let _ = keep_alive(stream);
        }
    }
}

/// How long the other end may take to part.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Ends a WebSocket of ours to a server in order, so that it keeps nothing of it: a Close frame, its
/// answer, the end.
pub async fn close_websocket(mut transport: Transport) {
    let mut closing = Vec::new();
    frame::put_close(&mut closing, code::NORMAL, "", true);
    let closing = async {
        transport.write_all(&closing).await?;
        transport.flush().await?;
        let mut rest = [0; 1024];
        while transport.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // A server that breaks off has parted too.
    timeout(CLOSE_TIMEOUT, closing).await.ok();
}

/// How long the reader of a last answer has to read it and hang up.
const LINGER: Duration = Duration::from_secs(1);

/// Sends a last answer over a connection without a session, and hangs up in a way that lets it be
/// read: closing with unread bytes in the socket would reset the connection and take the answer along.
pub async fn send_last(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) {
    let sent = async {
        stream.write_all(answer).await?;
        stream.flush().await?;
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Whether it was read is the reader's business.
    timeout(LINGER, sent).await.ok();
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Transport {
        Transport::Plain(stream)
    }
}

impl From<TlsStream<TcpStream>> for Transport {
    fn from(stream: TlsStream<TcpStream>) -> Transport {
        Transport::Tls(Box::new(stream))
    }
}

impl From<UnixStream> for Transport {
    fn from(stream: UnixStream) -> Transport {
        Transport::Unix(Box::new(stream))
    }
}

impl From<Stream> for Transport {
    /// What went to Pingora as a transport is one again.
    fn from(stream: Stream) -> Transport {
        if !stream.as_any().is::<Transport>() {
            return Transport::Boxed(stream);
        }
        let transport = stream.into_any().downcast();
        *transport.expect("it was looked at just now")
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Boxed(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Overheard(overheard) => {
                let before = buffer.filled().len();
                let read = Pin::new(&mut overheard.transport).poll_read(cx, buffer);
                match (overheard.listener)(&buffer.filled()[before..]) {
                    ControlFlow::Continue(()) => read,
                    ControlFlow::Break(LastHeard::Pass) => {
                        this.hear_no_more();
                        read
                    }
                    ControlFlow::Break(LastHeard::Withheld) => {
                        buffer.set_filled(before);
                        Poll::Pending
                    }
                }
            }
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Boxed(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Overheard(overheard) => {
                Pin::new(&mut overheard.transport).poll_write(cx, bytes)
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Boxed(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Overheard(overheard) => Pin::new(&mut overheard.transport).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Boxed(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Overheard(overheard) => Pin::new(&mut overheard.transport).poll_shutdown(cx),
        }
    }
}

#[async_trait]
impl Shutdown for Transport {
    async fn shutdown(&mut self) {
        // Who ends a connection that is broken has what it wants.
        AsyncWriteExt::shutdown(self).await.ok();
    }
}

impl UniqueID for Transport {
    fn id(&self) -> UniqueIDType {
        match self {
            Transport::Plain(stream) => stream.as_raw_fd(),
            Transport::Tls(stream) => stream.get_ref().0.as_raw_fd(),
            Transport::Unix(stream) => stream.as_raw_fd(),
            Transport::Boxed(stream) => stream.id(),
            Transport::Overheard(overheard) => overheard.transport.id(),
        }
    }
}

// Pingora asks for these to tell others of them. Nobody here asks Pingora.
impl Ssl for Transport {}
impl Peek for Transport {}

impl GetTimingDigest for Transport {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Transport {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Transport {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
