//! The client's end: one session, from connect to close, with everything that can get lost on the
//! way as an error.

use crate::wire::{self, CLOSE, FIN, Header, NO_MASK, PING, PONG};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A session's buffer while its messages are small.
const SMALL: usize = 2048;
/// How long a step may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where sessions are opened: a proxy, or the backend itself.
#[derive(Clone)]
pub struct Door {
    pub name: String,
    pub address: SocketAddr,
    handshake: Arc<[u8]>,
}

impl Door {
    pub fn new(name: String, address: SocketAddr, path: &str) -> Door {
        Door {
            name,
            address,
            handshake: wire::handshake(&address.to_string(), path).into(),
        }
    }
}

/// Why a session, or an echo, was lost.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("answered {0:?} instead of 101")]
    Refused(Option<u16>),
    #[error("broken: {0}")]
    Broken(#[from] io::Error),
    #[error("ended by the other side with code {0:?}")]
    Ended(Option<u16>),
    #[error("nothing happened for {PATIENCE:?}")]
    Timeout,
    #[error("bytes came back changed: {0}")]
    Changed(String),
}

/// An open session.
pub struct Session {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    /// Length of the frame at the start of the buffer that was handed out last.
    used: usize,
}

impl Session {
    /// Opens a session: done when the 101 is there.
    pub async fn open(door: &Door) -> Result<Session, Lost> {
        timeout(PATIENCE, Session::try_open(door))
            .await
            .unwrap_or(Err(Lost::Timeout))
    }

    async fn try_open(door: &Door) -> Result<Session, Lost> {
        let stream = TcpStream::connect(door.address)
            .await
            .map_err(Lost::Connect)?;
        stream.set_nodelay(true)?;
        let mut session = Session {
            stream,
            buffer: vec![0; SMALL],
            filled: 0,
            used: 0,
        };
        session.stream.write_all(&door.handshake).await?;
        let end = loop {
            session.read().await?;
            match wire::head_end(&session.buffer[..session.filled]) {
                Some(end) => break end,
                None if session.filled == SMALL => return Err(Lost::Refused(None)),
                None => {}
            }
        };
        match wire::status(&session.buffer[..end]) {
            Some(101) => {
                session.used = end;
                Ok(session)
            }
            other => Err(Lost::Refused(other)),
        }
    }

    /// Sends a frame that is ready for the wire and waits for the next message. Returns its payload.
    pub async fn exchange(&mut self, frame: &[u8]) -> Result<&[u8], Lost> {
        let exchange = async {
            self.stream.write_all(frame).await?;
            self.receive().await
        };
        let payload = timeout(PATIENCE, exchange)
            .await
            .unwrap_or(Err(Lost::Timeout))?;
        Ok(&self.buffer[payload])
    }

    /// Sends a frame that is ready for the wire.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), Lost> {
        match timeout(PATIENCE, self.stream.write_all(frame)).await {
            Ok(sent) => Ok(sent?),
            Err(_) => Err(Lost::Timeout),
        }
    }

    /// Lets time pass, answering pings meanwhile.
    pub async fn idle(&mut self, time: Duration) -> Result<(), Lost> {
        match timeout(time, self.receive()).await {
            Err(_) => Ok(()),
            Ok(Err(lost)) => Err(lost),
            Ok(Ok(_)) => Err(Lost::Changed("a message out of nowhere".into())),
        }
    }

    /// Closes in order: a Close frame each way, then the connection's end.
    pub async fn close(mut self) -> Result<(), Lost> {
        let farewell = wire::client_frame(FIN | CLOSE, &1000u16.to_be_bytes(), NO_MASK);
        self.send(&farewell).await?;
        match timeout(PATIENCE, self.receive()).await {
            Ok(Err(Lost::Ended(Some(1000)))) => {}
            Ok(Err(other)) => return Err(other),
            Ok(Ok(_)) => return Err(Lost::Changed("a message behind the Close".into())),
            Err(_) => return Err(Lost::Timeout),
        }
        // Who is the server ends the connection: so the ports stay free on this side.
        let mut rest = [0; 16];
        match timeout(PATIENCE, self.stream.read(&mut rest)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Lost::Timeout),
        }
    }

    /// The next message's payload, as a place in the buffer.
    async fn receive(&mut self) -> Result<std::ops::Range<usize>, Lost> {
        self.buffer.copy_within(self.used..self.filled, 0);
        self.filled -= self.used;
        self.used = 0;
        loop {
            let wanted = match Header::parse(&self.buffer[..self.filled]) {
                Some(header) if header.frame() <= self.filled => {
                    let payload = header.length..header.frame();
                    if !header.is_control() {
                        self.used = header.frame();
                        return Ok(payload);
                    }
                    if header.opcode() == CLOSE {
                        let code = self.buffer[payload].first_chunk();
                        return Err(Lost::Ended(code.map(|code| u16::from_be_bytes(*code))));
                    }
                    if header.opcode() == PING {
                        let pong = wire::client_frame(FIN | PONG, &self.buffer[payload], NO_MASK);
                        self.stream.write_all(&pong).await?;
                    }
                    self.buffer.copy_within(header.frame()..self.filled, 0);
                    self.filled -= header.frame();
                    continue;
                }
                Some(header) => header.frame(),
                None => wire::MAX_HEADER,
            };
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), Lost> {
        match self.stream.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(Lost::Ended(None)),
            read => {
                self.filled += read;
                Ok(())
            }
        }
    }
}
