//! Where a client of the DevTools protocol has its browser put downloads. A browser may write below its
//! own folder alone, and clients name folders of their own machine: Playwright's does so in every session.
//! Such a folder becomes one below the browser's, so that the download itself succeeds. Pure.

use crate::worker::own::pipe::OWN_FOLDER;
use serde_json::Value;
use std::borrow::Cow;

/// The folder below the browser's own.
const FOLDER: &str = "downloads";
/// Longest message that is looked at, in bytes. Others are large, and about something else.
const LONGEST: usize = 4096;
/// `Browser.setDownloadBehavior`, and the older `Page.setDownloadBehavior`.
const COMMAND: &[u8] = b".setDownloadBehavior\"";

/// Reads a client's messages as they pass. A short one is held until it is whole, which delays nothing: a
/// browser reads whole messages.
#[derive(Debug, Default)]
pub(super) struct Downloads {
    held: Vec<u8>,
    /// Whether the current message is too long to be looked at.
    passes: bool,
}

impl Downloads {
    /// Takes the next piece of a message, its last one if it `ends`; gives what the browser gets of it for
    /// the moment.
    pub fn pass<'a>(&mut self, piece: &'a [u8], ends: bool) -> Cow<'a, [u8]> {
        if self.passes {
            self.passes = !ends;
            return Cow::Borrowed(piece);
        }
        let is_long = self.held.len() + piece.len() > LONGEST;
        if self.held.is_empty() && (ends || is_long) {
            self.passes = !ends;
            let changed = (!is_long).then(|| redirected(piece)).flatten();
            return changed.map_or(Cow::Borrowed(piece), Cow::Owned);
        }
        self.held.extend_from_slice(piece);
        if !ends && !is_long {
            return Cow::Borrowed(&[]);
        }
        self.passes = !ends;
        let message = std::mem::take(&mut self.held);
        let changed = (!is_long).then(|| redirected(&message)).flatten();
        Cow::Owned(changed.unwrap_or(message))
    }
}

/// The message with a folder of the browser's, if it names one that is somewhere else.
fn redirected(message: &[u8]) -> Option<Vec<u8>> {
    if !message.windows(COMMAND.len()).any(|part| part == COMMAND) {
        return None;
    }
    let mut message: Value = serde_json::from_slice(message).ok()?;
    let folder = message.get_mut("params")?.get_mut("downloadPath")?;
    let named = folder.as_str()?;
    // A client on Windows names one with backslashes.
    let elsewhere = named.starts_with('/') && !named.starts_with(OWN_FOLDER);
    if !elsewhere && !named.contains('\\') {
        return None;
    }
    *folder = FOLDER.into();
    Some(message.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn passed(message: &[u8], cut: usize) -> Vec<u8> {
        let mut downloads = Downloads::default();
        let count = message.chunks(cut).count();
        let pieces = message.chunks(cut).enumerate();
        pieces
            .flat_map(|(n, piece)| downloads.pass(piece, n + 1 == count).into_owned())
            .collect()
    }

    fn told(folder: &str) -> Vec<u8> {
        let params = json!({"behavior": "allowAndName", "downloadPath": folder});
        let message = json!({"id": 3, "method": "Browser.setDownloadBehavior", "params": params});
        message.to_string().into_bytes()
    }

    proptest! {
        #[test]
        fn other_messages_pass_as_they_are(
            length in prop_oneof![0..200usize, LONGEST - 50..LONGEST + 50, 9_000..20_000usize],
            cut in 1usize..9_000,
        ) {
            let text = "x".repeat(length);
            let message = json!({"id": 1, "method": "Runtime.evaluate", "params": text}).to_string();
            prop_assert_eq!(passed(message.as_bytes(), cut), message.into_bytes());
        }

        #[test]
        fn a_folder_of_the_clients_machine_becomes_one_of_the_browser(cut in 1usize..200) {
            for folder in ["/tmp/playwright-artifacts-x", "C:\\Users\\me\\Temp", "/"] {
                let passed: Value = serde_json::from_slice(&passed(&told(folder), cut)).unwrap();
                prop_assert_eq!(&passed["params"]["downloadPath"], FOLDER);
                prop_assert_eq!(&passed["params"]["behavior"], "allowAndName");
                prop_assert_eq!(&passed["id"], 3);
            }
        }
    }

    #[test]
    fn what_lies_in_the_browsers_folder_stays_as_it_is() {
        for folder in ["downloads/mine", "/proc/self/cwd/mine"] {
            assert_eq!(passed(&told(folder), 7), told(folder));
        }
    }

    #[test]
    fn each_message_is_looked_at_by_itself() {
        let mut downloads = Downloads::default();
        let long = "x".repeat(2 * LONGEST);
        for _ in 0..2 {
            assert_eq!(downloads.pass(long.as_bytes(), false), long.as_bytes());
            assert_eq!(downloads.pass(b"x", true), &b"x"[..]);
            assert_ne!(downloads.pass(&told("/tmp"), true), told("/tmp"));
            assert_eq!(downloads.pass(b"", true), &b""[..]);
        }
    }

    #[test]
    fn what_is_no_command_at_all_passes() {
        for strange in [
            &b"{\".setDownloadBehavior\""[..],
            b"[\".setDownloadBehavior\"]",
        ] {
            assert_eq!(passed(strange, 5), strange);
        }
    }
}
