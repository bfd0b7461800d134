//! The 101 that a client gets: what its user reads in Playwright's own log and in test reports.

use crate::fleet::Target;
use crate::session::seat::Seat;
use std::io::Write;
use std::time::Duration;

/// The answer to an accepted upgrade; `from_worker` are headers of the worker's own answer, `notes` what else
/// the client's user is to know, in printable ASCII.
///
/// Playwright prints `x-playwright-debug-log` in its log, if the name is lower-case. Its test runner
/// attaches `x-playwright-attachment: NAME=VALUE` to the report of each test that used the
/// connection.
pub(super) fn switching_protocols(
    seat: &Seat,
    target: &Target,
    from_worker: &[u8],
    waited: Duration,
    notes: &[String],
) -> Vec<u8> {
    let mut answer = Vec::with_capacity(from_worker.len() + 640);
    let browser = match &target.browser_version {
        Some(version) => format!("{} {}", target.key.browser, printable(version)),
        None => target.key.browser.to_string(),
    };
    let worker = printable(target.key.id.as_str());
    let version = target.version.map_or("unknown".into(), |v| v.to_string());
    // Writing to memory does not fail.
    let _ = write!(
        answer,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         x-playhouse-session: {id}\r\n\
         x-playwright-debug-log: playhouse session {id}\r\n\
         x-playwright-debug-log: playhouse worker {worker}\r\n\
         x-playwright-debug-log: playhouse waited {waited} ms\r\n\
         x-playwright-debug-log: playhouse {browser}, Playwright {version}\r\n\
         x-playwright-attachment: playhouse session={id}\r\n\
         x-playwright-attachment: playhouse worker={attached}\r\n",
        id = seat.session(),
        worker = worker,
        attached = attachable(&worker),
        waited = waited.as_millis(),
    );
    for note in notes {
        let _ = write!(answer, "x-playwright-debug-log: playhouse {note}\r\n");
    }
    answer.extend_from_slice(from_worker);
    answer.extend_from_slice(b"\r\n");
    answer
}

/// A text that came from the store, where anybody may have written it, for a header.
fn printable(text: &str) -> String {
    let visible = |c: char| if c.is_ascii_graphic() { c } else { '?' };
    text.chars().map(visible).collect()
}

/// A text as the value of an attachment, which Playwright cuts at the next `=`.
fn attachable(text: &str) -> String {
    text.replace('=', "%3D")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Browser, SessionId, WorkerKey, WorkerRecord};
    use crate::session::seat::Releaser;
    use crate::store::memory::MemoryStore;
    use std::sync::Arc;

    #[test]
    fn the_answer_names_session_and_worker_once_for_each_reader() {
        let (releaser, _work) = Releaser::new(Arc::new(MemoryStore::new()), |_| {});
        let id = SessionId::random();
        let target = Target::new(&WorkerRecord {
            browser_version: Some("150.0".into()),
            ..WorkerRecord::new(
                WorkerKey::new(Browser::Chromium, "rack=7\r\nx: y"),
                "ws://127.0.0.1:1/secret-path".parse().unwrap(),
                0,
            )
        });
        let from_worker = b"Sec-WebSocket-Accept: abc=\r\n";
        let waited = Duration::from_millis(7);
        let notes = ["something is not served".to_owned()];
        let answer = switching_protocols(&releaser.seat(id), &target, from_worker, waited, &notes);
        let answer = String::from_utf8(answer).unwrap();
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut parsed = httparse::Response::new(&mut headers);
        assert!(parsed.parse(answer.as_bytes()).unwrap().is_complete());
        let attachments: Vec<_> = parsed
            .headers
            .iter()
            .filter(|header| header.name == "x-playwright-attachment")
            .map(|header| std::str::from_utf8(header.value).unwrap())
            // As Playwright reads them.
            .map(|value| value.split('=').collect::<Vec<_>>()[..2].join(": "))
            .collect();
        let expected = [
            format!("playhouse session: {id}"),
            "playhouse worker: rack%3D7??x:?y".to_owned(),
        ];
        assert_eq!(attachments, expected);
        for line in [
            "waited 7 ms",
            "chromium 150.0, Playwright unknown",
            "something is not served",
        ] {
            assert!(answer.contains(&format!("x-playwright-debug-log: playhouse {line}\r\n")));
        }
        assert!(!answer.contains("secret-path"));
    }
}
