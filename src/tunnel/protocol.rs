//! Numbers of the WebSocket protocol, for all who read or write frames. Pure.

/// First byte of a frame: the last one of its message (RFC 6455, section 5.2).
pub const FIN: u8 = 0x80;
/// Second byte of a frame: its payload is masked, as a client's is.
pub const MASKED: u8 = 0x80;
/// Bits of the first byte that hold the opcode.
pub const OPCODE: u8 = 0x0f;
/// Bit of the opcodes of control frames.
pub const CONTROL: u8 = 0x08;

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;
/// Every opcode; others are reserved.
pub const OPCODES: [u8; 6] = [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG];

/// Payload of a control frame at most, bytes (section 5.5).
pub const MAX_CONTROL: usize = 125;
/// The longest reason a Close frame can hold, bytes: the code takes two of its payload.
pub const MAX_REASON: usize = MAX_CONTROL - 2;

/// Codes of Close frames (section 7.4.1, and IANA's registry for 1012 on).
pub mod code {
    pub const NORMAL: u16 = 1000;
    pub const GOING_AWAY: u16 = 1001;
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// Stands for a Close frame that had none (section 7.1.5).
    pub const NONE: u16 = 1005;
    /// Stands for an end without a Close frame (section 7.1.5).
    pub const ABNORMAL: u16 = 1006;
    pub const POLICY: u16 = 1008;
    pub const TOO_LARGE: u16 = 1009;
    pub const INTERNAL_ERROR: u16 = 1011;
    pub const SERVICE_RESTART: u16 = 1012;
    pub const TRY_AGAIN_LATER: u16 = 1013;
}
