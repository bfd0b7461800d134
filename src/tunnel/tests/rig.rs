//! A tunnel between a client and a worker that the test plays itself.

use super::buffering::Buffering;
use crate::model::SessionId;
use crate::tunnel::frame::Tracker;
use crate::tunnel::{Close, Ended, Ends, Over, SessionLimits, Side, Traffic, Transport, run};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use pingora::protocols::Stream;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// No limit but a generous one for writes.
pub const NO_LIMITS: SessionLimits = SessionLimits {
    idle_timeout: None,
    max_duration: None,
    ping_interval: None,
    ping_timeout: Duration::from_secs(60),
    write_timeout: Duration::from_secs(600),
};

/// A running tunnel, and its two far ends.
pub struct Rig<S> {
    pub id: SessionId,
    pub client: S,
    pub worker: S,
    pub traffic: Arc<Traffic>,
    pub stop: Option<oneshot::Sender<Close>>,
    pub task: JoinHandle<Ended>,
    /// Of the tunnel's future, bytes.
    pub size: usize,
}

impl Rig<TcpStream> {
    pub async fn tcp(limits: SessionLimits) -> Rig<TcpStream> {
        Rig::tcp_early(limits, Bytes::new(), Bytes::new()).await
    }

    /// The client and the worker have sent these bytes behind their HTTP heads.
    pub async fn tcp_early(limits: SessionLimits, client: Bytes, worker: Bytes) -> Rig<TcpStream> {
        Rig::over(limits, tcp_pair(None).await, client, worker).await
    }

    /// The client's kernel takes little at once.
    pub async fn tcp_small(limits: SessionLimits) -> Rig<TcpStream> {
        let client = tcp_pair(Some(8 * 1024)).await;
        Rig::over(limits, client, Bytes::new(), Bytes::new()).await
    }

    async fn over(
        limits: SessionLimits,
        (far_client, near_client): (TcpStream, TcpStream),
        client: Bytes,
        worker: Bytes,
    ) -> Rig<TcpStream> {
        let (far_worker, near_worker) = tcp_pair(None).await;
        let near = |stream, early| Side {
            stream: Transport::from(stream),
            early,
        };
        let ends = Ends {
            client: near(near_client, client),
            worker: near(near_worker, worker),
        };
        Rig::start(far_client, far_worker, ends, limits)
    }
}

impl Rig<DuplexStream> {
    /// In memory, for paused time; each direction holds `buffer` bytes.
    pub fn memory(limits: SessionLimits, buffer: usize) -> Rig<DuplexStream> {
        Rig::in_memory(limits, buffer, |stream| Box::new(stream))
    }

    /// The tunnel's streams keep what is written to them until they are flushed.
    pub fn buffering(limits: SessionLimits) -> Rig<DuplexStream> {
        Rig::in_memory(limits, 4096, |stream| Box::new(Buffering::new(stream)))
    }

    fn in_memory(
        limits: SessionLimits,
        buffer: usize,
        boxed: impl Fn(DuplexStream) -> Stream,
    ) -> Rig<DuplexStream> {
        let (far_client, near_client) = tokio::io::duplex(buffer);
        let (far_worker, near_worker) = tokio::io::duplex(buffer);
        let near = |stream| Side {
            stream: boxed(stream).into(),
            early: Bytes::new(),
        };
        let ends = Ends {
            client: near(near_client),
            worker: near(near_worker),
        };
        Rig::start(far_client, far_worker, ends, limits)
    }
}

impl<S> Rig<S> {
    fn start(client: S, worker: S, ends: Ends, limits: SessionLimits) -> Rig<S> {
        let id = SessionId::random();
        let traffic = Arc::new(Traffic::new());
        let (stop, stopped) = oneshot::channel();
        let tunnel = run(id, ends, limits, traffic.clone(), stopped);
        let size = size_of_val(&tunnel);
        let task = tokio::spawn(async move {
            let Over {
                ended,
                closed_client,
            } = tunnel.await;
            closed_client.map(|closed_client| tokio::spawn(closed_client.wait()));
            ended
        });
        Rig {
            id,
            client,
            worker,
            traffic,
            stop: Some(stop),
            task,
            size,
        }
    }

    pub fn stop(&mut self, close: Close) {
        let stop = self.stop.take().expect("a rig is stopped once");
        stop.send(close).expect("the tunnel runs");
    }

    /// Lets go of both sides and hears how it ended.
    pub async fn ended(self) -> Ended {
        drop((self.client, self.worker));
        self.task.await.expect("the tunnel does not panic")
    }
}

/// The two ends of one connection; the far one may have a small buffer for what it receives.
pub async fn tcp_pair(receive_buffer: Option<u32>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let far = TcpSocket::new_v4().unwrap();
    if let Some(size) = receive_buffer {
        far.set_recv_buffer_size(size).unwrap();
    }
    let far = far.connect(listener.local_addr().unwrap());
    let (far, near) = tokio::join!(far, listener.accept());
    let (far, near) = (far.unwrap(), near.unwrap().0);
    far.set_nodelay(true).unwrap();
    near.set_nodelay(true).unwrap();
    (far, near)
}

/// A frame as the wire has it.
pub fn frame(opcode: u8, fin: bool, masked: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![opcode | if fin { 0x80 } else { 0 }];
    let mask = if masked { 0x80 } else { 0 };
    match payload.len() {
        short @ 0..126 => out.push(mask | short as u8),
        medium @ 126..65536 => {
            out.push(mask | 126);
            out.extend((medium as u16).to_be_bytes());
        }
        long => {
            out.push(mask | 127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    if masked {
        let key = [1, 2, 3, 4];
        out.extend(key);
        out.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
    } else {
        out.extend(payload);
    }
    out
}

/// A binary message.
pub fn message(masked: bool, payload: &[u8]) -> Vec<u8> {
    frame(2, true, masked, payload)
}

/// A frame that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Read {
    pub opcode: u8,
    pub masked: bool,
    pub payload: Vec<u8>,
}

impl Read {
    /// Code and reason of a Close frame.
    pub fn close(&self) -> (u16, String) {
        assert_eq!(self.opcode, 8, "{self:?}");
        let code = u16::from_be_bytes([self.payload[0], self.payload[1]]);
        let reason = String::from_utf8(self.payload[2..].to_vec()).unwrap();
        (code, reason)
    }
}

/// Reads one frame; `None` at the end of the stream between two frames.
pub async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Option<Read> {
    let first = from.read_u8().await.ok()?;
    let second = from.read_u8().await.unwrap();
    let length = match second & 0x7f {
        126 => u64::from(from.read_u16().await.unwrap()),
        127 => from.read_u64().await.unwrap(),
        short => u64::from(short),
    };
    let masked = second & 0x80 != 0;
    let mut key = [0; 4];
    if masked {
        from.read_exact(&mut key).await.unwrap();
    }
    let mut payload = vec![0; length as usize];
    from.read_exact(&mut payload).await.unwrap();
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
    Some(Read {
        opcode: first & 0x0f,
        masked,
        payload,
    })
}

/// Reads so many bytes.
pub async fn read_exactly(from: &mut (impl AsyncRead + Unpin), count: usize) -> Vec<u8> {
    let mut read = vec![0; count];
    from.read_exact(&mut read).await.unwrap();
    read
}

/// Reads to the end, which a reset is too.
pub async fn read_to_end(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let _ = from.read_to_end(&mut all).await;
    all
}

/// Whether `bytes` are whole frames.
pub fn are_whole_frames(bytes: &[u8]) -> bool {
    let mut tracker = Tracker::new();
    let mut at = 0;
    while at < bytes.len() {
        at += tracker.advance(&bytes[at..]).0;
    }
    tracker.at_boundary()
}

/// Writes `bytes` in pieces of the sizes that `sizes` gives, over and over.
pub fn write_pieces<'a>(
    to: &'a mut (impl tokio::io::AsyncWrite + Unpin + Send),
    bytes: &'a [u8],
    sizes: &'a [usize],
) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        let mut rest = bytes;
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at((*size).clamp(1, rest.len()));
            to.write_all(piece).await.unwrap();
            rest = more;
        }
    })
}
