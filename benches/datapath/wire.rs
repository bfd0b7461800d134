//! WebSocket as far as the load needs it: handshakes and frames made by hand, so that making the
//! load costs less than what is measured. Knows no sockets.

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

/// The bit that ends a message.
pub const FIN: u8 = 0x80;

/// Largest header of a frame.
pub const MAX_HEADER: usize = 14;

/// With this key a masked payload looks like the plain one, which saves both ends the work.
pub const NO_MASK: [u8; 4] = [0; 4];

/// What a client of Playwright 1.65 says to open a session.
pub fn handshake(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Connection: Upgrade\r\n\
         Upgrade: websocket\r\n\
         User-Agent: Playwright/1.65.1 (x64; debian 12) node/24.11\r\n\
         x-playwright-browser: chromium\r\n\
         x-playwright-proxy: \r\n\
         Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\
         Host: {host}\r\n\r\n"
    )
    .into_bytes()
}

/// What a Playwright server answers to a request head: an upgrade, or that it runs.
pub fn answer(head: &[u8]) -> Vec<u8> {
    match header(head, "sec-websocket-key") {
        Some(key) => {
            let accept = derive_accept_key(key);
            format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            )
            .into_bytes()
        }
        None => b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\
            Connection: close\r\n\r\n{\"wsEndpointPath\":\"/\"}\r\n"
            .to_vec(),
    }
}

/// A header's value in a request head.
fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        line[..colon]
            .eq_ignore_ascii_case(name.as_bytes())
            .then(|| line[colon + 1..].trim_ascii())
    })
}

/// Where a head ends, behind its empty line.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(end + 4)
}

/// The status of a response whose head is there.
pub fn status(head: &[u8]) -> Option<u16> {
    let text = head.get(9..12)?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// FIN, reserved bits and opcode.
    pub first: u8,
    pub mask: Option<[u8; 4]>,
    /// Length of this header.
    pub length: usize,
    pub payload: usize,
}

impl Header {
    /// `None` as long as it is not there whole.
    pub fn parse(bytes: &[u8]) -> Option<Header> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let (payload, mut length) = match second & 0x7f {
            126 => {
                let raw = bytes.get(2..4)?.first_chunk()?;
                (usize::from(u16::from_be_bytes(*raw)), 4)
            }
            127 => {
                let raw = bytes.get(2..10)?.first_chunk()?;
                (u64::from_be_bytes(*raw) as usize, 10)
            }
            short => (usize::from(short), 2),
        };
        let mut mask = None;
        if second & 0x80 != 0 {
            mask = Some(*bytes.get(length..length + 4)?.first_chunk()?);
            length += 4;
        }
        Some(Header {
            first,
            mask,
            length,
            payload,
        })
    }

    pub fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    pub fn is_control(&self) -> bool {
        self.first & 0x08 != 0
    }

    /// The whole frame's length.
    pub fn frame(&self) -> usize {
        self.length + self.payload
    }
}

/// A frame's header, and how long it is.
pub fn put_header(first: u8, payload: usize, mask: Option<[u8; 4]>) -> ([u8; MAX_HEADER], usize) {
    let mut header = [0; MAX_HEADER];
    let masked = if mask.is_some() { 0x80 } else { 0 };
    header[0] = first;
    let mut length = if payload < 126 {
        header[1] = masked | payload as u8;
        2
    } else if let Ok(short) = u16::try_from(payload) {
        header[1] = masked | 126;
        header[2..4].copy_from_slice(&short.to_be_bytes());
        4
    } else {
        header[1] = masked | 127;
        header[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
        10
    };
    if let Some(key) = mask {
        header[length..length + 4].copy_from_slice(&key);
        length += 4;
    }
    (header, length)
}

/// A client's frame with this payload.
pub fn client_frame(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let (header, length) = put_header(first, payload.len(), Some(key));
    let mut frame = Vec::with_capacity(length + payload.len());
    frame.extend_from_slice(&header[..length]);
    frame.extend_from_slice(payload);
    mask(&mut frame[length..], key);
    frame
}

/// Masks or unmasks a payload.
pub fn mask(payload: &mut [u8], key: [u8; 4]) {
    if key == NO_MASK {
        return;
    }
    let wide = u64::from_ne_bytes([
        key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3],
    ]);
    let (eights, rest) = payload.as_chunks_mut::<8>();
    for eight in eights {
        *eight = (u64::from_ne_bytes(*eight) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}
