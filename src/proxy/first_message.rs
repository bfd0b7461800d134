//! What a client says first, where its handshake does not tell which protocol it speaks: a client of the
//! DevTools protocol that comes to Playwright's path would be answered with errors that have no words.
//! Reading it is pure; [`heard`] does it while the message passes.

use crate::model::SessionId;
use crate::session::registry::Registry;
use crate::tunnel::protocol::{CONTROL, FIN, MASKED, TEXT};
use crate::tunnel::{Close, LastHeard, Side};
use flate2::{Decompress, FlushDecompress};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Longest message that is looked at, in bytes: the first ones of both protocols are short.
const LONGEST: usize = 4096;
/// Longest header of a client's frame that is this short.
const HEADER: usize = 2 + 2 + 4;
/// Says that a message is compressed (RFC 7692, section 6).
const COMPRESSED: u8 = 0x40;
/// What a sender of compressed messages leaves out at their end (RFC 7692, section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// A client that may speak another protocol than is spoken here: it is told so if it does, and its worker
/// hears nothing of it.
pub fn heard(registry: &Arc<Registry>, session: SessionId, mut client: Side) -> Side {
    let mut first = FirstMessage::default();
    let registry = Arc::clone(registry);
    let mut hear = move |bytes: &[u8]| {
        first.hear(bytes).map_break(|speaks| match speaks {
            Speaks::SomethingElse => LastHeard::Pass,
            Speaks::DevTools(command) => {
                registry.end(session, Close::wrong_protocol(session, command));
                LastHeard::Withheld
            }
        })
    };
    match hear(&client.early) {
        ControlFlow::Continue(()) => client.stream = client.stream.overheard(hear),
        ControlFlow::Break(LastHeard::Pass) => {}
        ControlFlow::Break(LastHeard::Withheld) => client.early.clear(),
    }
    client
}

/// Reads on until it is known what the first message is.
#[derive(Debug, Default)]
struct FirstMessage {
    bytes: Vec<u8>,
}

/// What was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    /// With the number of the command.
    DevTools(u64),
    SomethingElse,
}

impl FirstMessage {
    /// Takes in what comes next; breaks off when it is known.
    fn hear(&mut self, bytes: &[u8]) -> ControlFlow<Speaks> {
        let room = (HEADER + LONGEST).saturating_sub(self.bytes.len());
        self.bytes
            .extend_from_slice(&bytes[..room.min(bytes.len())]);
        loop {
            let Some(frame) = Frame::first_of(&self.bytes) else {
                return ControlFlow::Continue(());
            };
            if frame.length > LONGEST {
                return ControlFlow::Break(Speaks::SomethingElse);
            }
            let Some(payload) = frame.payload(&self.bytes) else {
                return ControlFlow::Continue(());
            };
            if frame.first & CONTROL == 0 {
                return ControlFlow::Break(speaks(frame.first, payload));
            }
            // A ping before it says nothing.
            self.bytes.drain(..frame.header + frame.length);
        }
    }
}

/// A client's frame, as far as its header tells.
struct Frame {
    first: u8,
    header: usize,
    length: usize,
}

impl Frame {
    /// `None` while the header is not whole.
    fn first_of(bytes: &[u8]) -> Option<Frame> {
        let [first, second, rest @ ..] = bytes else {
            return None;
        };
        let (extended, length) = match second & !MASKED {
            // A client masks its frames.
            _ if second & MASKED == 0 => (0, usize::MAX),
            126 => (2, u16::from_be_bytes(*rest.first_chunk()?).into()),
            127 => (8, usize::MAX),
            length => (0, length.into()),
        };
        Some(Frame {
            first: *first,
            header: 2 + extended + 4,
            length,
        })
    }

    /// `None` while it is not whole.
    fn payload(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let payload = bytes.get(self.header..self.header + self.length)?;
        let key = &bytes[self.header - 4..self.header];
        let unmasked = payload.iter().zip(key.iter().cycle());
        Some(unmasked.map(|(byte, key)| byte ^ key).collect())
    }
}

fn speaks(first: u8, payload: Vec<u8>) -> Speaks {
    if first & !COMPRESSED != FIN | TEXT {
        return Speaks::SomethingElse;
    }
    let message = match first & COMPRESSED {
        0 => Some(payload),
        _ => inflate(payload),
    };
    let command = message.and_then(|message| command(&message));
    command.map_or(Speaks::SomethingElse, Speaks::DevTools)
}

/// Of what is longer, the beginning is no JSON.
fn inflate(mut payload: Vec<u8>) -> Option<Vec<u8>> {
    payload.extend_from_slice(&TAIL);
    let mut message = Vec::with_capacity(2 * LONGEST);
    let mut inflated = Decompress::new(false);
    let flush = FlushDecompress::Sync;
    inflated
        .decompress_vec(&payload, &mut message, flush)
        .ok()?;
    Some(message)
}

/// The number of a command of the DevTools protocol, if the message is one: it names a domain and a method
/// of it. Playwright's messages name an object (playwright-core, `server/dispatchers/dispatcher.ts`).
fn command(message: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Message {
        id: u64,
        method: String,
        guid: Option<IgnoredAny>,
    }
    let message: Message = serde_json::from_slice(message).ok()?;
    let (domain, method) = message.method.split_once('.')?;
    let are_letters = [domain, method]
        .iter()
        .all(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic()));
    (message.guid.is_none() && are_letters).then_some(message.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::protocol::PING;
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    const COMMAND: &str = r#"{"id":1,"method":"Target.setAutoAttach","params":{"flatten":true}}"#;
    const INITIALIZE: &str =
        r#"{"id":1,"guid":"","method":"initialize","params":{},"metadata":{}}"#;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(MASKED | length as u8),
            length @ 126..=0xffff => {
                frame.push(MASKED | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(MASKED | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        let key = [9, 8, 7, 6];
        frame.extend_from_slice(&key);
        frame.extend(payload.iter().zip(key.iter().cycle()).map(|(b, k)| b ^ k));
        frame
    }

    fn compressed(text: &str) -> Vec<u8> {
        let mut compress = Compress::new(Compression::default(), false);
        let mut out = Vec::with_capacity(1024);
        compress
            .compress_vec(text.as_bytes(), &mut out, FlushCompress::Sync)
            .unwrap();
        out.truncate(out.len() - TAIL.len());
        out
    }

    /// What is known of bytes that come in pieces; `None` while nothing is.
    fn known(bytes: &[u8], piece: usize) -> Option<Speaks> {
        let mut first = FirstMessage::default();
        let mut pieces = bytes.chunks(piece);
        pieces.find_map(|piece| first.hear(piece).break_value())
    }

    #[test]
    fn commands_are_told_from_everything_else() {
        let text = |payload: &str| frame(FIN | TEXT, payload.as_bytes());
        let ping = frame(FIN | PING, b"there?");
        let after_a_ping = [ping.clone(), text(COMMAND)].concat();
        let deflated = frame(FIN | TEXT | COMPRESSED, &compressed(COMMAND));
        let initialize = frame(FIN | TEXT | COMPRESSED, &compressed(INITIALIZE));
        let long = format!(
            r#"{{"id":1,"method":"Page.navigate","params":"{}"}}"#,
            "x".repeat(LONGEST)
        );
        for (bytes, expected) in [
            (text(COMMAND), Some(Speaks::DevTools(1))),
            (after_a_ping, Some(Speaks::DevTools(1))),
            (deflated, Some(Speaks::DevTools(1))),
            (initialize, Some(Speaks::SomethingElse)),
            (text(INITIALIZE), Some(Speaks::SomethingElse)),
            (text("flood"), Some(Speaks::SomethingElse)),
            (
                text(r#"{"id":1,"method":"a b.c"}"#),
                Some(Speaks::SomethingElse),
            ),
            (
                text(r#"{"method":"Page.enable"}"#),
                Some(Speaks::SomethingElse),
            ),
            (text(&long), Some(Speaks::SomethingElse)),
            (frame(TEXT, COMMAND.as_bytes()), Some(Speaks::SomethingElse)),
            (text(COMMAND)[..20].to_vec(), None),
            (ping, None),
        ] {
            for piece in [1, 7, 4096] {
                assert_eq!(known(&bytes, piece), expected, "{bytes:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
            known(&bytes, piece);
        }

        #[test]
        fn what_is_kept_is_bounded(length in 0usize..20_000, piece in 1usize..9_000) {
            let mut first = FirstMessage::default();
            for piece in frame(FIN | TEXT, &vec![b'x'; length]).chunks(piece) {
                let is_known = first.hear(piece).is_break();
                prop_assert!(first.bytes.len() <= HEADER + LONGEST);
                if is_known { break; }
            }
        }
    }
}
