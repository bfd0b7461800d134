//! Takes the frames of a client's WebSocket apart (RFC 6455, section 5). Pure.

use crate::tunnel::protocol::{
    CLOSE, CONTINUATION, FIN, MASKED, MAX_CONTROL, OPCODE, OPCODES, PING, code,
};

/// Largest message of a client, in bytes. A browser ends itself over one that does not fit, with the NUL at
/// its end, into 100 MiB (`kReceiveBufferSizeForDevTools` of its `devtools_pipe_handler.cc`).
const MAX_MESSAGE: u64 = (100 << 20) - 1;

/// What a piece of a client's bytes came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FramePart {
    Nothing,
    /// The taken bytes from here on are payload of a message, unmasked; its last ones if it `ends`.
    Payload {
        from: usize,
        ends: bool,
    },
    Ping(Vec<u8>),
    Close(Option<u16>),
    /// No proper frame: code and reason.
    Wrong(u16, &'static str),
}

/// Takes apart what a client says, in pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Reader {
    header: Vec<u8>,
    /// Of the current frame; none while its header is not whole.
    frame: Option<Incoming>,
    /// Whether the current message goes on with the next frame.
    within: bool,
    /// Bytes of the current message so far.
    message: u64,
}

#[derive(Debug)]
struct Incoming {
    opcode: u8,
    fin: bool,
    key: [u8; 4],
    /// Bytes that have passed, and those to come.
    passed: usize,
    left: u64,
    /// The payload of a control frame.
    control: Vec<u8>,
}

/// Unmasks payload of which so many bytes have passed (RFC 6455, section 5.3), eight at a time: a
/// message may have 100 MiB.
fn unmask(payload: &mut [u8], mut key: [u8; 4], passed: usize) {
    key.rotate_left(passed % 4);
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

impl Reader {
    /// Takes some bytes, at least one; unmasks what is payload.
    pub(super) fn advance(&mut self, bytes: &mut [u8]) -> (usize, FramePart) {
        let mut from = 0;
        if self.frame.is_none() {
            from = match self.read_header(bytes) {
                Ok(taken) => taken,
                Err((code, why)) => return (bytes.len(), FramePart::Wrong(code, why)),
            };
        }
        let Some(frame) = &mut self.frame else {
            return (from, FramePart::Nothing);
        };
        let rest = &mut bytes[from..];
        let take = usize::try_from(frame.left).map_or(rest.len(), |left| left.min(rest.len()));
        unmask(&mut rest[..take], frame.key, frame.passed);
        frame.passed = (frame.passed + take) % 4;
        frame.left -= take as u64;
        let is_control = frame.opcode & 0x8 != 0;
        if is_control {
            frame.control.extend_from_slice(&rest[..take]);
        }
        let whole = frame.left == 0;
        let part = match (is_control, whole) {
            (false, _) => FramePart::Payload {
                from,
                ends: whole && frame.fin,
            },
            (true, false) => FramePart::Nothing,
            (true, true) => match (frame.opcode, &frame.control[..]) {
                (CLOSE, [a, b, ..]) => FramePart::Close(Some(u16::from_be_bytes([*a, *b]))),
                (CLOSE, _) => FramePart::Close(None),
                (PING, payload) => FramePart::Ping(payload.to_vec()),
                _ => FramePart::Nothing,
            },
        };
        if let FramePart::Payload { ends, .. } = part {
            self.message = if ends { 0 } else { self.message + take as u64 };
        }
        if whole {
            self.frame = None;
            self.header.clear();
        }
        (from + take, part)
    }

    /// Takes header bytes until the header is whole; how many.
    fn read_header(&mut self, bytes: &[u8]) -> Result<usize, (u16, &'static str)> {
        for (n, byte) in bytes.iter().enumerate() {
            self.header.push(*byte);
            let header = &self.header;
            if header.len() < 2 {
                continue;
            }
            let length = match header[1] & 0x7f {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            if header.len() < 2 + length + 4 {
                continue;
            }
            if header[1] & MASKED == 0 {
                return Err((code::PROTOCOL_ERROR, "a client masks its frames"));
            }
            if header[0] & 0x70 != 0 {
                return Err((code::PROTOCOL_ERROR, "no extension was agreed on"));
            }
            let (opcode, fin) = (header[0] & OPCODE, header[0] & FIN != 0);
            if !OPCODES.contains(&opcode) {
                return Err((code::PROTOCOL_ERROR, "there is no such kind of frame"));
            }
            let left = match &header[2..2 + length] {
                [] => u64::from(header[1] & 0x7f),
                bytes => bytes
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            };
            let mut key = [0; 4];
            key.copy_from_slice(&header[2 + length..2 + length + 4]);
            self.check(opcode, fin, left)?;
            self.frame = Some(Incoming {
                opcode,
                fin,
                key,
                passed: 0,
                left,
                control: Vec::new(),
            });
            return Ok(n + 1);
        }
        Ok(bytes.len())
    }

    /// Whether a frame may come where it does.
    fn check(&mut self, opcode: u8, fin: bool, left: u64) -> Result<(), (u16, &'static str)> {
        if opcode & 0x8 != 0 {
            return match left <= MAX_CONTROL as u64 && fin {
                true => Ok(()),
                false => Err((code::PROTOCOL_ERROR, "a control frame is short and whole")),
            };
        }
        if (opcode == CONTINUATION) != self.within {
            return Err((
                code::PROTOCOL_ERROR,
                "a message begins once, and goes on to its end",
            ));
        }
        if self.message.saturating_add(left) > MAX_MESSAGE {
            return Err((code::TOO_LARGE, "a message has less than 100 MiB"));
        }
        self.within = !fin;
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::tunnel::frame::put_frame;
    use crate::tunnel::protocol::{BINARY, TEXT};
    use crate::worker::own::pipe::END;
    use proptest::prelude::*;

    /// A frame as a client sends it.
    pub fn masked(opcode: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        put_frame(&mut frame, opcode, fin, payload);
        let at = frame.len() - payload.len();
        frame[1] |= MASKED;
        let key = [1, 2, 3, 4];
        let payload: Vec<u8> = payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(b, k)| b ^ k)
            .collect();
        [&frame[..at], &key, &payload].concat()
    }

    /// What a browser would read, and what else happened.
    fn read(pieces: impl IntoIterator<Item = Vec<u8>>) -> (Vec<u8>, Vec<FramePart>) {
        let (mut reader, mut pipe, mut others) = (Reader::default(), Vec::new(), Vec::new());
        for mut piece in pieces {
            let mut rest = &mut piece[..];
            while !rest.is_empty() {
                let (taken, part) = reader.advance(rest);
                let (now, after) = rest.split_at_mut(taken);
                match part {
                    FramePart::Nothing => {}
                    FramePart::Payload { from, ends } => {
                        pipe.extend_from_slice(&now[from..]);
                        pipe.extend(ends.then_some(END));
                    }
                    other => others.push(other),
                }
                rest = after;
            }
        }
        (pipe, others)
    }

    proptest! {
        /// However the bytes are cut, and whatever comes between the frames of a message.
        #[test]
        fn messages_reach_the_pipe_as_they_are(
            messages in prop::collection::vec(prop::collection::vec(1u8.., 0..300), 1..6),
            frames in 1usize..4,
            cut in 1usize..50,
        ) {
            let mut wire = Vec::new();
            let mut expected = Vec::new();
            for message in &messages {
                let length = message.len().div_ceil(frames).max(1);
                let parts: Vec<&[u8]> = message.chunks(length).collect();
                let parts = if parts.is_empty() { vec![&[][..]] } else { parts };
                for (n, part) in parts.iter().enumerate() {
                    let opcode = if n == 0 { TEXT } else { CONTINUATION };
                    wire.extend(masked(opcode, n + 1 == parts.len(), part));
                    wire.extend(masked(PING, true, b"?"));
                }
                expected.extend_from_slice(message);
                expected.push(END);
            }
            let pieces = wire.chunks(cut).map(<[u8]>::to_vec);
            let (pipe, others) = read(pieces);
            prop_assert_eq!(pipe, expected);
            prop_assert!(others.iter().all(|it| *it == FramePart::Ping(b"?".to_vec())));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in any::<Vec<u8>>(), cut in 1usize..9) {
            read(bytes.chunks(cut).map(<[u8]>::to_vec));
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_code() {
        let wrong = |bytes: Vec<u8>| match read([bytes]).1.remove(0) {
            FramePart::Wrong(code, _) => code,
            other => panic!("{other:?}"),
        };
        let mut unmasked = Vec::new();
        put_frame(&mut unmasked, TEXT, true, b"hello");
        assert_eq!(wrong(unmasked), code::PROTOCOL_ERROR);
        let mut deflated = masked(TEXT, true, b"hello");
        deflated[0] |= 0x40;
        assert_eq!(wrong(deflated), code::PROTOCOL_ERROR);
        let large = [
            &[TEXT | FIN, 127 | MASKED][..],
            &(MAX_MESSAGE + 1).to_be_bytes(),
            &[0; 4],
        ];
        assert_eq!(wrong(large.concat()), code::TOO_LARGE);
        assert_eq!(wrong(masked(PING, true, &[0; 126])), code::PROTOCOL_ERROR);
        for reserved in [0x3, 0x7, 0xb, 0xf] {
            assert_eq!(
                wrong(masked(reserved, true, b"hello")),
                code::PROTOCOL_ERROR
            );
        }
        assert_eq!(
            wrong(masked(CONTINUATION, true, b"hello")),
            code::PROTOCOL_ERROR
        );
        let twice = [masked(TEXT, false, b"a"), masked(TEXT, true, b"b")];
        assert_eq!(wrong(twice.concat()), code::PROTOCOL_ERROR);
        assert_eq!(read([masked(BINARY, true, b"hello")]).1, []);
        let closed = read([masked(CLOSE, true, &[0x03, 0xe9, b'x'])]).1;
        assert_eq!(closed, [FramePart::Close(Some(1001))]);
    }
}
