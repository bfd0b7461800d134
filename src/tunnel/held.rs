//! A Close frame that is not passed on before somebody has decided about it. Owns its bytes; which they
//! are is the [`flow`](super::flow)'s to say.

use super::frame;
use super::protocol::code;

/// No valid Close frame is longer: a control frame has 125 bytes, a header at most 14.
const LONGEST: usize = 139;

/// Boxed, because most of a session's life there is none, and a session is to be small.
#[derive(Default)]
pub(super) struct HeldClose(Option<Box<Held>>);

#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
}

impl HeldClose {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Holds the next of its bytes, of which there is at least one.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        let held = self.0.get_or_insert_default();
        held.bytes.extend_from_slice(bytes);
    }

    /// Its code and its reason, once it is whole and `closed` with that code, or longer than anybody
    /// understands.
    pub(super) fn whole(&self, closed: Option<u16>) -> Option<(u16, String)> {
        let held = self.0.as_ref()?;
        let too_long = held.bytes.len() > LONGEST;
        let code = closed.or(too_long.then_some(code::NONE))?;
        Some((code, frame::close_reason(&held.bytes)))
    }

    /// Gives its bytes up.
    pub(super) fn release(&mut self) -> Vec<u8> {
        self.0.take().map_or_else(Vec::new, |held| held.bytes)
    }
}
