//! What a browser says over its pipe, as frames to its client: as it comes, each message in one or several.
//! What it says to a check, or of a check's page, is kept from the client. Pure.

use crate::tunnel::frame::put_frame;
use crate::tunnel::protocol::{CONTINUATION, TEXT};
use crate::worker::own::pipe_prober::FIRST_ID;
use serde_json::Value;
use std::collections::HashSet;
use std::ffi::CStr;

/// How answers to a check begin, and what tells of targets: these messages are looked at as a whole.
const OF_A_CHECK: &[u8] = b"{\"id\":-2";
const OF_TARGETS: [&[u8]; 2] = [b"{\"method\":\"Target.", b"{\"method\":\"Inspector."];
/// Largest message that is looked at, in bytes. None of a check's is as large.
const LONGEST: usize = 64 * 1024;

/// Follows what one browser says.
#[derive(Debug, Default)]
pub(super) struct PipeMessages {
    /// Whether a part of the message that comes has been put into a frame.
    within: bool,
    /// How the message begins that comes, as long as it may be a check's.
    held: Vec<u8>,
    /// The context, the targets and the sessions of the last check.
    names: HashSet<String>,
}

impl PipeMessages {
    /// Puts into `frames` what is the client's of what comes next, in pieces of any size; gives the rest to
    /// `check`.
    pub(super) fn put(
        &mut self,
        mut bytes: &[u8],
        frames: &mut Vec<u8>,
        mut check: impl FnMut(Value),
    ) {
        while !bytes.is_empty() {
            // The library looks for a NUL many bytes at a time.
            let end = CStr::from_bytes_until_nul(bytes).ok();
            let end = end.map(CStr::count_bytes);
            let (piece, ends) = (&bytes[..end.unwrap_or(bytes.len())], end.is_some());
            bytes = end.map_or(&[], |end| &bytes[end + 1..]);
            if self.within {
                put_frame(frames, CONTINUATION, ends, piece);
                self.within = !ends;
                continue;
            }
            if self.held.is_empty() && !self.may_be_of_a_check(piece) {
                put_frame(frames, TEXT, ends, piece);
                self.within = !ends;
                continue;
            }
            self.held.extend_from_slice(piece);
            let may_be = self.held.len() <= LONGEST && self.may_be_of_a_check(&self.held);
            if may_be && !ends {
                continue;
            }
            let held = std::mem::take(&mut self.held);
            match may_be.then(|| self.of_a_check(&held)).flatten() {
                Some(message) => check(message),
                None => {
                    put_frame(frames, TEXT, ends, &held);
                    self.within = !ends;
                }
            }
        }
    }

    fn may_be_of_a_check(&self, beginning: &[u8]) -> bool {
        let begins = |with: &&[u8]| {
            let seen = beginning.len().min(with.len());
            beginning[..seen] == with[..seen]
        };
        begins(&OF_A_CHECK) || !self.names.is_empty() && OF_TARGETS.iter().any(begins)
    }

    /// The message, if it is a check's.
    fn of_a_check(&mut self, message: &[u8]) -> Option<Value> {
        let message: Value = serde_json::from_slice(message).ok()?;
        if let Some(id) = message["id"].as_i64() {
            if id > FIRST_ID {
                return None;
            }
            let result = &message["result"];
            if let Some(context) = result["browserContextId"].as_str() {
                self.names = HashSet::from([context.to_owned()]);
            }
            self.note([&result["targetId"], &result["sessionId"]]);
            return Some(message);
        }
        let params = &message["params"];
        let target = &params["targetInfo"];
        let named = [
            &target["browserContextId"],
            &target["targetId"],
            &params["targetId"],
            &params["sessionId"],
            &message["sessionId"],
        ];
        let is_known = |name: &Value| name.as_str().is_some_and(|it| self.names.contains(it));
        if !named.into_iter().any(is_known) {
            return None;
        }
        // A client may have said that it wants to be attached to every target.
        self.note([&target["targetId"], &params["sessionId"]]);
        Some(message)
    }

    fn note(&mut self, names: [&Value; 2]) {
        let names = names.into_iter().filter_map(Value::as_str);
        self.names.extend(names.map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::frame::Tracker;
    use crate::tunnel::protocol::FIN;
    use crate::worker::own::pipe::END;
    use proptest::prelude::*;
    use serde_json::json;

    /// What a client gets of messages that come in pieces of such a size, and what a check gets.
    fn heard(messages: &[Vec<u8>], cut: usize) -> (Vec<Vec<u8>>, Vec<Value>) {
        let pipe: Vec<u8> = messages
            .iter()
            .flat_map(|it| [&it[..], &[END]].concat())
            .collect();
        let (mut said, mut frames, mut kept) = (PipeMessages::default(), Vec::new(), Vec::new());
        for piece in pipe.chunks(cut) {
            said.put(piece, &mut frames, |message| kept.push(message));
        }
        assert!(!said.within && said.held.is_empty());
        (whole(&frames), kept)
    }

    /// The messages in frames of a server.
    fn whole(mut frames: &[u8]) -> Vec<Vec<u8>> {
        let mut tracker = Tracker::new();
        let (mut check, mut boundary) = (frames, true);
        while !check.is_empty() {
            let (taken, _) = tracker.advance(check);
            check = &check[taken..];
            boundary = tracker.at_boundary();
        }
        assert!(boundary);
        let mut messages = vec![Vec::new()];
        while let [first, length, rest @ ..] = frames {
            let (length, rest) = match length {
                126 => (
                    u64::from(u16::from_be_bytes([rest[0], rest[1]])),
                    &rest[2..],
                ),
                127 => (
                    u64::from_be_bytes(rest[..8].try_into().unwrap()),
                    &rest[8..],
                ),
                length => (u64::from(*length), rest),
            };
            let (payload, after) = rest.split_at(length as usize);
            messages.last_mut().unwrap().extend_from_slice(payload);
            if first & FIN != 0 {
                messages.push(Vec::new());
            }
            frames = after;
        }
        assert_eq!(messages.pop(), Some(Vec::new()));
        messages
    }

    fn bytes(message: &Value) -> Vec<u8> {
        message.to_string().into_bytes()
    }

    /// As the browser writes it: with the method first.
    fn event(method: &str, rest: &str) -> Vec<u8> {
        format!("{{\"method\":\"{method}\",\"params\":{rest}}}").into_bytes()
    }

    fn of_target(context: &str, target: &str) -> String {
        json!({"targetInfo": {"targetId": target, "browserContextId": context}}).to_string()
    }

    proptest! {
        #[test]
        fn what_the_browser_says_is_whole_messages(
            messages in prop::collection::vec(prop::collection::vec(1u8.., 0..70_000), 1..4),
            cut in 1usize..70_000,
        ) {
            prop_assert_eq!(heard(&messages, cut), (messages, vec![]));
        }

        /// However the pipe cuts them.
        #[test]
        fn a_client_hears_nothing_of_a_check(cut in 1usize..300) {
            let answer = |n: i64, result: Value| {
                format!("{{\"id\":{},\"result\":{result}}}", FIRST_ID - n).into_bytes()
            };
            let attached = json!({
                "sessionId": "of a client",
                "targetInfo": {"targetId": "tab", "browserContextId": "C"},
            });
            let of_the_check = [
                answer(0, json!({"browserContextId": "C"})),
                event("Target.targetCreated", &of_target("C", "T")),
                event("Target.attachedToTarget", &attached.to_string()),
                answer(1, json!({"targetId": "T"})),
                answer(2, json!({"sessionId": "S"})),
                event("Target.targetInfoChanged", &of_target("C", "T")),
                answer(3, json!({"result": {"value": 1}})),
                event("Target.detachedFromTarget", &json!({"sessionId": "S"}).to_string()),
                event("Target.targetDestroyed", &json!({"targetId": "tab"}).to_string()),
                answer(4, json!({})),
                event("Target.targetDestroyed", &json!({"targetId": "T"}).to_string()),
            ];
            let of_the_client = [
                event("Target.targetCreated", &of_target("its own", "its")),
                bytes(&json!({"id": 7, "result": {"browserContextId": "C"}})),
                bytes(&json!({"id": -21, "result": {}})),
                event("Inspector.targetCrashed", "{}"),
                event("Target.targetCrashed", &json!({"targetId": "its"}).to_string()),
                event("Target.x", &json!({"text": "C".repeat(2 * LONGEST)}).to_string()),
                event("Page.loadEventFired", &json!({"targetId": "T"}).to_string()),
            ];
            let mut all = Vec::new();
            for (n, message) in of_the_check.iter().enumerate() {
                all.push(message.clone());
                all.push(of_the_client[n % of_the_client.len()].clone());
            }
            let (client, check) = heard(&all, cut);
            let expected: Vec<_> = (0..of_the_check.len())
                .map(|n| of_the_client[n % of_the_client.len()].clone())
                .collect();
            prop_assert_eq!(client, expected);
            let of_the_check = of_the_check.map(|it| serde_json::from_slice::<Value>(&it).unwrap());
            prop_assert_eq!(check, of_the_check);
        }
    }
}
