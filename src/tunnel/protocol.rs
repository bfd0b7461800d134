//! Numbers of the WebSocket protocol, for all who read or write frames. Pure.

/// First byte of a frame: the last one of its message (RFC 6455, section 5.2).
pub const FIN: u8 = 0x80;
/// Second byte of a frame: its payload is masked, as a client's is.
pub const MASKED: u8 = 0x80;
/// Bits of the first byte that hold the opcode.
pub const OPCODE: u8 = 0x0f;
/// Bit of the opcodes of control frames.
pub const CONTROL: u8 = 0x08;

/// Opcode (section 5.2): goes on with the message of the frame before.
pub const CONTINUATION: u8 = 0x0;
/// Opcode: begins a message of UTF-8.
pub const TEXT: u8 = 0x1;
/// Opcode: begins a message of any bytes.
pub const BINARY: u8 = 0x2;
/// Opcode (section 5.5.1): the last frame of a side, with a code and a reason.
pub const CLOSE: u8 = 0x8;
/// Opcode (section 5.5.2): to be answered by a pong with the same payload.
pub const PING: u8 = 0x9;
/// Opcode (section 5.5.3): answers a ping, or comes unasked.
pub const PONG: u8 = 0xa;
/// Every opcode; others are reserved.
pub const OPCODES: [u8; 6] = [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG];

/// Payload of a control frame at most, bytes (section 5.5).
pub const MAX_CONTROL: usize = 125;
/// The longest reason a Close frame can hold, bytes: the code takes two of its payload.
pub const MAX_REASON: usize = MAX_CONTROL - 2;

/// Codes of Close frames (section 7.4.1, and IANA's registry for 1012 on).
pub mod code {
    /// The session did what it was for.
    pub const NORMAL: u16 = 1000;
    /// The one who says it is about to be gone: a shutdown, a drain.
    pub const GOING_AWAY: u16 = 1001;
    /// The other side does not speak WebSocket properly.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// Stands for a Close frame that had none (section 7.1.5).
    pub const NONE: u16 = 1005;
    /// Stands for an end without a Close frame (section 7.1.5).
    pub const ABNORMAL: u16 = 1006;
    /// The other side did what it may not, or for longer than it may.
    pub const POLICY: u16 = 1008;
    /// A message is larger than the one who says it takes.
    pub const TOO_LARGE: u16 = 1009;
    /// Something failed that the other side cannot help: a worker was lost.
    pub const INTERNAL_ERROR: u16 = 1011;
    /// The one who says it starts over.
    pub const SERVICE_RESTART: u16 = 1012;
    /// The one who says it has too much to do, or the other side is too slow.
    pub const TRY_AGAIN_LATER: u16 = 1013;
}
