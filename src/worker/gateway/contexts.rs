//! Which contexts of a browser are one session's, and not another's or a check's: read from what the browser's server says to the
//! session's client. Pure.
//!
//! A server tells a client of its own contexts alone, in messages that begin with the object that they are
//! about (playwright-core, `server/dispatchers/dispatcher.ts`). So what begins with a context is said to
//! the one whose context it is, and neither clients nor pages have a say in how a message begins. A
//! compressed message tells nothing: where contexts are to be known, no compression is agreed on.

use crate::tunnel::protocol::{CONTINUATION, CONTROL, FIN, OPCODE, TEXT};
use std::collections::HashSet;
use tokio::sync::watch;

/// How a message about a context begins, up to its number.
const OF_A_CONTEXT: &[u8] = b"{\"guid\":\"browser-context@";
/// Before the number in what the context is called.
const NAME: &str = "browser-context@";
/// What follows the number when the context has ended.
const DISPOSED: &[u8] = b"\",\"method\":\"__dispose__\"";
/// Longest number; there are 32 digits in it.
const MAX_NUMBER: usize = 64;
/// Contexts of one session that are kept in mind.
const MAX_CONTEXTS: usize = 1000;

/// Names of contexts.
pub type ContextSet = HashSet<String>;

/// Follows what a server says to one client (RFC 6455, section 5.2).
pub struct Contexts {
    known: watch::Sender<ContextSet>,
    /// Of the current frame, as far as it has come.
    header: Vec<u8>,
    /// Bytes of its payload to come.
    left: u64,
    is_control: bool,
    /// How the current message begins, until it is known whether it is about a context.
    beginning: Option<Vec<u8>>,
}

/// What the beginning of a message says.
#[derive(Debug, PartialEq, Eq)]
enum About<'a> {
    /// Too little to say.
    Unknown,
    Context {
        name: &'a str,
        ends: bool,
    },
    SomethingElse,
}

impl Contexts {
    /// Keeps `known` at what has been heard.
    pub fn new(known: watch::Sender<ContextSet>) -> Contexts {
        Contexts {
            known,
            header: Vec::new(),
            left: 0,
            is_control: false,
            beginning: None,
        }
    }

    /// Takes in what comes next, in pieces of any size.
    pub fn hear(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left == 0 {
                self.header.push(*first);
                self.read_header();
                bytes = rest;
                continue;
            }
            let left = usize::try_from(self.left).unwrap_or(usize::MAX);
            let (payload, after) = bytes.split_at(left.min(bytes.len()));
            self.left -= payload.len() as u64;
            if !self.is_control {
                self.read_beginning(payload);
            }
            bytes = after;
        }
    }

    fn read_header(&mut self) {
        let Some(length) = payload_length(&self.header) else {
            return;
        };
        let first = self.header[0];
        self.header.clear();
        self.left = length;
        self.is_control = first & CONTROL != 0;
        if !self.is_control && first & OPCODE != CONTINUATION {
            // Further bits say that it is compressed.
            self.beginning = (first & !FIN == TEXT).then(Vec::new);
        }
    }

    fn read_beginning(&mut self, payload: &[u8]) {
        let Some(beginning) = &mut self.beginning else {
            return;
        };
        const ENOUGH: usize = OF_A_CONTEXT.len() + MAX_NUMBER + DISPOSED.len();
        let wanted = ENOUGH.saturating_sub(beginning.len());
        beginning.extend_from_slice(&payload[..wanted.min(payload.len())]);
        match about(beginning) {
            About::Unknown if beginning.len() < ENOUGH => return,
            About::Context { name, ends: true } => {
                self.known.send_if_modified(|known| known.remove(name));
            }
            About::Context { name, ends: false } => {
                self.known.send_if_modified(|known| {
                    known.len() < MAX_CONTEXTS && known.insert(name.to_owned())
                });
            }
            About::Unknown | About::SomethingElse => {}
        }
        self.beginning = None;
    }
}

/// What a server's frame has behind its header; `None` while that is not whole.
fn payload_length(header: &[u8]) -> Option<u64> {
    let [_, length, extended @ ..] = header else {
        return None;
    };
    match (length & 0x7f, extended) {
        (126, [a, b]) => Some(u16::from_be_bytes([*a, *b]).into()),
        (126, _) => None,
        (127, bytes) => Some(u64::from_be_bytes(bytes.try_into().ok()?)),
        (length, _) => Some(length.into()),
    }
}

fn about(beginning: &[u8]) -> About<'_> {
    let seen = beginning.len().min(OF_A_CONTEXT.len());
    if beginning[..seen] != OF_A_CONTEXT[..seen] {
        return About::SomethingElse;
    }
    let number = &beginning[seen..];
    let Some(length) = number.iter().position(|byte| *byte == b'"') else {
        return About::Unknown;
    };
    let name = &beginning[OF_A_CONTEXT.len() - NAME.len()..seen + length];
    let Ok(name) = std::str::from_utf8(name) else {
        return About::SomethingElse;
    };
    let rest = &number[length..];
    if rest.len() < DISPOSED.len() && DISPOSED.starts_with(rest) {
        return About::Unknown;
    }
    let ends = rest.starts_with(DISPOSED);
    About::Context { name, ends }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLAIN: u8 = FIN | TEXT;

    fn frame(first: u8, payload: &str) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(length as u8),
            length => {
                frame.push(126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload.as_bytes());
        frame
    }

    fn message(context: &str, method: &str) -> String {
        let more = "x".repeat(300);
        format!(r#"{{"guid":"browser-context@{context}","method":"{method}","params":"{more}"}}"#)
    }

    /// What is known after all of this, said in pieces of some size.
    fn known(said: &[Vec<u8>], piece: usize) -> Vec<String> {
        let sender = watch::Sender::default();
        let receiver = sender.subscribe();
        let mut contexts = Contexts::new(sender);
        said.concat().chunks(piece).for_each(|it| contexts.hear(it));
        let mut known: Vec<_> = receiver.borrow().iter().cloned().collect();
        known.sort();
        known
    }

    #[test]
    fn what_begins_with_a_context_is_the_sessions() {
        let said = [
            frame(PLAIN, r#"{"id":1,"result":{"guid":"browser-context@no"}}"#),
            frame(PLAIN, &message("a", "__create__")),
            // In two frames, with a ping in between.
            frame(TEXT, &message("b", "page")[..30]),
            frame(FIN | 0x9, r#"{"guid":"browser-context@no","method":"#),
            frame(FIN, &message("b", "page")[30..]),
            frame(PLAIN, &message("c", "page")),
            frame(PLAIN, &message("a", "__dispose__")),
            frame(PLAIN, ""),
            frame(
                PLAIN,
                r#"{"guid":"page@1","params":{"guid":"browser-context@no"}}"#,
            ),
            // Compressed, and binary.
            frame(PLAIN | 0x40, &message("no", "page")),
            frame(FIN | 0x2, &message("no", "page")),
            frame(PLAIN, &format!(r#"["{}"]"#, message("no", "page"))),
        ];
        for piece in [1, 7, 4096] {
            let expected = ["browser-context@b", "browser-context@c"];
            assert_eq!(known(&said, piece), expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_session_with_any_number_of_contexts_is_kept_in_bounds() {
        let contexts = 0..MAX_CONTEXTS + 100;
        let said: Vec<_> = contexts
            .map(|it| frame(PLAIN, &message(&it.to_string(), "page")))
            .collect();
        assert_eq!(known(&said, 4096).len(), MAX_CONTEXTS);
        let endless = frame(PLAIN, &message(&"0".repeat(5000), "page"));
        assert_eq!(known(&[endless], 4096), [""; 0]);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
            known(&[bytes], piece);
        }

        /// What is said inside of a message, by whomever, is not taken for its beginning.
        #[test]
        fn what_is_inside_a_message_says_nothing(text in "[a-z\"{}:,]{1,40}", piece in 1usize..50) {
            let inside = format!("{text}{}", message("no", "page"));
            prop_assume!(!inside.starts_with("{\"guid\":\"browser-context@"));
            prop_assert_eq!(known(&[frame(PLAIN, &inside)], piece), Vec::<String>::new());
        }
    }
}
