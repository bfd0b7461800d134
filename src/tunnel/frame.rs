//! Where WebSocket frames begin and end in a stream of bytes (RFC 6455, section 5.2), and the two
//! control frames the tunnel itself says. Pure: no I/O, no clock. It never looks at a payload,
//! except at the two bytes of a Close frame that hold its code, and it judges nothing: what is not
//! valid is measured by the same rules and passes.

use super::protocol::{CLOSE, CONTROL, FIN, MASKED, MAX_REASON, OPCODE, PING, code};

/// Whether a server that ends a connection with this code does so because it, or what it serves, comes to
/// an end: Playwright's says [`code::GOING_AWAY`] when its browser is gone.
pub fn says_lost(code: u16) -> bool {
    matches!(
        code,
        code::GOING_AWAY | code::INTERNAL_ERROR | code::SERVICE_RESTART
    )
}

/// Two bytes, then at most eight of length and four of masking key.
const MAX_HEADER: usize = 14;

/// A frame whose last byte has just passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The low four bits of the first byte.
    pub opcode: u8,
    /// Whether it ends its message.
    pub fin: bool,
}

impl Frame {
    /// Close, ping, pong, or a reserved control frame.
    pub fn is_control(self) -> bool {
        self.opcode & CONTROL != 0
    }

    /// Whether a message of the application ends with it.
    pub fn ends_message(self) -> bool {
        self.fin && !self.is_control()
    }
}

/// Follows one direction of a WebSocket connection, from its first byte after the HTTP head.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    /// The header of the current frame, as far as it has passed.
    header: [u8; MAX_HEADER],
    have: u8,
    /// Whether the header is complete and the payload is passing.
    in_payload: bool,
    /// Bytes of the current payload still to come.
    left: u64,
    /// The first payload bytes of a Close frame.
    code: [u8; 2],
    code_have: u8,
    closed: Option<u16>,
}

impl Tracker {
    /// A tracker that stands before the first frame.
    pub fn new() -> Tracker {
        Tracker::default()
    }

    /// Whether everything seen so far is whole frames: a frame put in here breaks none.
    pub fn at_boundary(&self) -> bool {
        self.have == 0
    }

    /// The code of the Close frame that has passed, if one has; [`code::NONE`] when it had none.
    pub fn closed(&self) -> Option<u16> {
        self.closed
    }

    /// Whether the frame that `next` begins, or goes on with, is a Close frame.
    pub fn is_close(&self, next: &[u8]) -> bool {
        let first = match self.have {
            0 => next.first(),
            _ => self.header.first(),
        };
        first.is_some_and(|first| first & OPCODE == CLOSE)
    }

    /// Whether the bytes that pass belong to a message, not to a control frame.
    pub fn in_message(&self) -> bool {
        self.in_payload && self.header[0] & CONTROL == 0
    }

    /// Bytes of the current message frame's payload still to come. 0 between frames, inside a
    /// header and inside a control frame.
    pub fn message_left(&self) -> u64 {
        if self.in_message() { self.left } else { 0 }
    }

    /// Reads on to the end of the current frame, or to the end of `bytes` if that comes first.
    /// Returns how many bytes that were, and the frame if it ended.
    pub fn advance(&mut self, bytes: &[u8]) -> (usize, Option<Frame>) {
        let mut at = 0;
        if !self.in_payload {
            at = self.read_header(bytes);
            if !self.in_payload {
                return (at, None);
            }
        }
        let rest = &bytes[at..];
        let take = usize::try_from(self.left).map_or(rest.len(), |left| left.min(rest.len()));
        if self.header[0] & OPCODE == CLOSE {
            self.read_code(&rest[..take]);
        }
        self.left -= take as u64;
        at += take;
        (at, self.end_of_frame())
    }

    /// Passes `count` bytes of a message's payload unseen; at most [`Tracker::message_left`].
    pub fn skip(&mut self, count: u64) -> Option<Frame> {
        debug_assert!(count <= self.message_left());
        self.left = self.left.saturating_sub(count);
        self.end_of_frame()
    }

    /// Takes header bytes until the header is complete. Returns how many it took.
    fn read_header(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let need = self.header_len();
            let have = usize::from(self.have);
            if have == need {
                break;
            }
            let take = (need - have).min(bytes.len() - at);
            if take == 0 {
                return at;
            }
            self.header[have..have + take].copy_from_slice(&bytes[at..at + take]);
            self.have += take as u8;
            at += take;
        }
        self.in_payload = true;
        self.left = match self.header[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes([self.header[2], self.header[3]])),
            127 => {
                let mut length = [0; 8];
                length.copy_from_slice(&self.header[2..10]);
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        at
    }

    /// How long the header is, as far as its bytes so far tell.
    fn header_len(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let length = match self.header[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let key = if self.header[1] & MASKED != 0 { 4 } else { 0 };
        2 + length + key
    }

    fn read_code(&mut self, payload: &[u8]) {
        for &byte in payload.iter().take(2 - usize::from(self.code_have)) {
            let at = usize::from(self.code_have);
            let key = if self.header[1] & MASKED != 0 {
                self.header[usize::from(self.have) - 4 + at]
            } else {
                0
            };
            self.code[at] = byte ^ key;
            self.code_have += 1;
        }
    }

    fn end_of_frame(&mut self) -> Option<Frame> {
        if !self.in_payload || self.left != 0 {
            return None;
        }
        let frame = Frame {
            opcode: self.header[0] & OPCODE,
            fin: self.header[0] & FIN != 0,
        };
        if frame.opcode == CLOSE {
            let code = match self.code_have {
                2 => u16::from_be_bytes(self.code),
                _ => code::NONE,
            };
            self.closed.get_or_insert(code);
            self.code_have = 0;
        }
        self.have = 0;
        self.in_payload = false;
        Some(frame)
    }
}

/// Appends an empty Ping. What goes to a server has to be masked, what goes to a client must not.
pub fn put_ping(out: &mut Vec<u8>, masked: bool) {
    put_control(out, PING, &[], masked);
}

/// Appends a Close frame. A reason beyond [`MAX_REASON`] bytes is cut at a character.
pub fn put_close(out: &mut Vec<u8>, code: u16, reason: &str, masked: bool) {
    let reason = &reason[..reason.floor_char_boundary(MAX_REASON)];
    let mut payload = Vec::with_capacity(2 + reason.len());
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(reason.as_bytes());
    put_control(out, CLOSE, &payload, masked);
}

/// Appends a frame as servers send it.
pub fn put_frame(frames: &mut Vec<u8>, opcode: u8, fin: bool, payload: &[u8]) {
    frames.push(opcode | if fin { FIN } else { 0 });
    match payload.len() {
        length @ 0..=125 => frames.push(length as u8),
        length @ 126..=0xffff => {
            frames.push(126);
            frames.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frames.push(127);
            frames.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frames.extend_from_slice(payload);
}

/// The reason in a Close frame as servers send it: not masked, and as short as control frames are.
pub fn close_reason(frame: &[u8]) -> String {
    String::from_utf8_lossy(frame.get(4..).unwrap_or_default()).into_owned()
}

fn put_control(out: &mut Vec<u8>, opcode: u8, payload: &[u8], masked: bool) {
    let length = payload.len() as u8;
    out.push(FIN | opcode);
    if masked {
        let key: [u8; 4] = rand::random();
        out.push(MASKED | length);
        out.extend_from_slice(&key);
        let masked = payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k);
        out.extend(masked);
    } else {
        out.push(length);
        out.extend_from_slice(payload);
    }
}
