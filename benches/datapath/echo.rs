//! The worker's end: answers handshakes and health checks, and sends every message back. On a
//! thread of its own, so that it shares no loop with the clients.

use crate::wire::{self, CLOSE, FIN, Header, PING, PONG};
use anyhow::Context;
use std::io;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// A session's buffer while its messages are small.
const SMALL: usize = 4096;
/// A buffer beyond this is given back after its message.
const KEEP: usize = 2 * 1024 * 1024;
/// Largest message.
const MAX_MESSAGE: usize = 128 * 1024 * 1024;
/// Pause of the accept loop when descriptors have run out.
const BREATH: Duration = Duration::from_millis(20);

/// The running backend; it ends when this is dropped.
pub struct Echo {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub fn start(port: u16) -> anyhow::Result<Echo> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            // Those it accepts have it from their listener.
            socket.set_nodelay(true)?;
            socket.bind(address).context("the echo backend's port")?;
            socket.listen(4096)?
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("echo".into())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = accept(listener) => {}
                        _ = stopped => {}
                    }
                });
                runtime.shutdown_background();
            })?;
        Ok(Echo {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn accept(listener: TcpListener) {
    loop {
        match listener.accept().await {
            // How a connection ends is the client's to judge.
            Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
            Err(_) => tokio::time::sleep(BREATH).await,
        }
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; SMALL];
    let mut filled = 0;
    let end = loop {
        filled += read(&mut stream, &mut buffer[filled..]).await?;
        match wire::head_end(&buffer[..filled]) {
            Some(end) => break end,
            None if filled == buffer.len() => return Ok(()),
            None => {}
        }
    };
    stream.write_all(&wire::answer(&buffer[..end])).await?;
    buffer.copy_within(end..filled, 0);
    filled -= end;
    loop {
        let wanted = match Header::parse(&buffer[..filled]) {
            Some(header) if header.frame() <= filled => {
                let over = answer(&mut stream, &header, &mut buffer).await?;
                if over {
                    return stream.shutdown().await;
                }
                buffer.copy_within(header.frame()..filled, 0);
                filled -= header.frame();
                if buffer.len() > KEEP && filled < SMALL {
                    buffer = Vec::from(&buffer[..SMALL]);
                }
                continue;
            }
            Some(header) => header.frame(),
            None => wire::MAX_HEADER,
        };
        if wanted > MAX_MESSAGE {
            return Ok(());
        }
        if buffer.len() < wanted {
            buffer.resize(wanted, 0);
        }
        filled += read(&mut stream, &mut buffer[filled..]).await?;
    }
}

/// PeerAnswers the frame at the start of the buffer. Whether it was the last.
async fn answer(stream: &mut TcpStream, header: &Header, buffer: &mut [u8]) -> io::Result<bool> {
    let start = header.length;
    let payload = start..header.frame();
    wire::mask(
        &mut buffer[payload.clone()],
        header.mask.unwrap_or(wire::NO_MASK),
    );
    let first = match header.opcode() {
        PONG => return Ok(false),
        PING => FIN | PONG,
        _ => header.first,
    };
    // A client's header is four bytes longer than ours: there is room before the payload.
    let (bytes, length) = wire::put_header(first, header.payload, None);
    let Some(from) = start.checked_sub(length) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    buffer[from..start].copy_from_slice(&bytes[..length]);
    stream.write_all(&buffer[from..payload.end]).await?;
    Ok(header.opcode() == CLOSE)
}

async fn read(stream: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
    match stream.read(into).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => Ok(read),
    }
}
