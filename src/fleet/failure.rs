//! Whose trouble it is when a session could not be opened at a worker: the client's, ours or the
//! worker's. Pure. Only the worker's own troubles count against it.

use super::{Target, Unreachable};
use crate::model::Version;
use nix::errno::Errno;
use std::io;

/// Longest line of a worker's answer that is passed on, bytes.
const MAX_LINE: usize = 90;
/// Lines of a worker's answer that are passed on.
const MAX_LINES: usize = 2;

/// Why a dial brought no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialFailure {
    /// A worker that works refused this request: the client's to hear, and nobody else's trouble.
    Client(WorkerAnswer),
    /// This process or its machine has none left of something: no worker's trouble.
    Ours(Shortage),
    /// The worker was not reached or does not work: another one may do.
    Worker(Unreachable),
}

impl From<Unreachable> for DialFailure {
    fn from(why: Unreachable) -> DialFailure {
        DialFailure::Worker(why)
    }
}

/// What this process or its machine has none left of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    #[error("file descriptors")]
    Descriptors,
    #[error("local ports")]
    Ports,
    #[error("memory for connections")]
    Memory,
}

impl Shortage {
    /// What an error of the kernel says is missing here; `None` when it speaks of the other side.
    pub fn of(error: &io::Error) -> Option<Shortage> {
        match Errno::from_raw(error.raw_os_error()?) {
            Errno::EMFILE | Errno::ENFILE => Some(Shortage::Descriptors),
            // EAGAIN comes from connect(2) on kernels that have no free port left.
            Errno::EADDRNOTAVAIL | Errno::EADDRINUSE | Errno::EAGAIN => Some(Shortage::Ports),
            // ENOSPC: of epoll_ctl(2), whose number of watches is limited.
            Errno::ENOMEM | Errno::ENOBUFS | Errno::ENOSPC => Some(Shortage::Memory),
            _ => None,
        }
    }

    /// The same for an error that wraps the kernel's somewhere below.
    pub fn within(error: &(dyn std::error::Error + 'static)) -> Option<Shortage> {
        let mut next = Some(error);
        while let Some(error) = next {
            let shortage = error.downcast_ref::<io::Error>().and_then(Shortage::of);
            if shortage.is_some() {
                return shortage;
            }
            next = error.source();
        }
        None
    }
}

/// A worker's answer to a client's handshake that is about the request: a 4xx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerAnswer {
    pub status: u16,
    /// The first words of its body, as short lines of printable ASCII.
    pub words: Vec<String>,
    /// Playwright's version, where the body tells it.
    server: Option<Version>,
}

impl WorkerAnswer {
    /// Status and body as the worker sent them; lines that name its `path` are left out.
    pub fn new(status: u16, body: &str, path: &str) -> WorkerAnswer {
        let secret = path.trim_matches('/');
        let names_path = |line: &&str| !secret.is_empty() && line.contains(secret);
        let words = body.lines().filter(|line| !names_path(line)).map(printable);
        WorkerAnswer {
            status,
            words: words
                .filter(|line| line.chars().any(char::is_alphanumeric))
                .take(MAX_LINES)
                .collect(),
            server: body.lines().find_map(parse_version),
        }
    }

    /// Whether such an answer may be about the client's request: a 4xx, but for those that speak of
    /// what the proxy wrote itself (path, host, method) or of the worker's own state.
    pub fn may_be_about_the_request(&self) -> bool {
        let of_the_worker = matches!(
            self.status,
            401 | 403 | 404 | 405 | 407 | 408 | 409 | 410 | 421 | 423 | 425 | 429
        );
        (400..500).contains(&self.status) && !of_the_worker
    }

    /// Whether the worker serves another Playwright version: the one status that Playwright has
    /// for nothing else.
    pub fn is_version_mismatch(&self) -> bool {
        self.status == 428
    }

    /// Whether it shows the version of a worker that has told none.
    pub fn shows_version(&self, target: &Target) -> bool {
        target.version.is_none() && self.server.is_some()
    }

    /// The Playwright version of the worker, if it told.
    pub fn server_version(&self) -> Option<Version> {
        self.server
    }
}

/// A line without what is not printable, such as the frame that Playwright draws around its text.
fn printable(line: &str) -> String {
    let kept: String = line
        .chars()
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .take(MAX_LINE)
        .collect();
    kept.trim().to_owned()
}

/// The version in `- server version: v1.65`, a line of Playwright's 428.
fn parse_version(line: &str) -> Option<Version> {
    let (_, rest) = line.split_once("server version:")?;
    let word = rest.split_whitespace().next()?;
    word.trim_start_matches('v').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_lack_is_told_apart_from_what_the_other_side_does() {
        for (errno, expected) in [
            (Errno::EMFILE, Some(Shortage::Descriptors)),
            (Errno::ENFILE, Some(Shortage::Descriptors)),
            (Errno::EADDRNOTAVAIL, Some(Shortage::Ports)),
            (Errno::ENOBUFS, Some(Shortage::Memory)),
            (Errno::ENOMEM, Some(Shortage::Memory)),
            (Errno::ECONNREFUSED, None),
            (Errno::ECONNRESET, None),
            (Errno::ETIMEDOUT, None),
            (Errno::EHOSTUNREACH, None),
            (Errno::ENETUNREACH, None),
        ] {
            let error = io::Error::from_raw_os_error(errno as i32);
            assert_eq!(Shortage::of(&error), expected, "{errno}");
            let wrapped = pingora::Error::because(
                pingora::ErrorType::ConnectError,
                "wrapped",
                io::Error::from_raw_os_error(errno as i32),
            );
            assert_eq!(Shortage::within(wrapped.root_cause()), expected, "{errno}");
        }
        assert_eq!(Shortage::of(&io::ErrorKind::TimedOut.into()), None);
    }

    #[test]
    fn a_workers_words_are_short_printable_and_name_no_path() {
        let body = "╔═══╗\n║ Playwright version mismatch:     ║\n║   - server version: v1.65 ║\n\
            ║ - client version: v1.60 ║\nCannot GET /secret-path\n";
        let answer = WorkerAnswer::new(428, body, "/secret-path");
        assert_eq!(
            answer.words,
            ["Playwright version mismatch:", "- server version: v1.65"]
        );
        let version = Version {
            major: 1,
            minor: 65,
        };
        assert_eq!(answer.server_version(), Some(version));
        let rude = format!("/secret-path\n\u{1b}[31m{}\0", "x".repeat(1000));
        let answer = WorkerAnswer::new(400, &rude, "/secret-path");
        assert_eq!(answer.words.len(), 1);
        assert!(answer.words[0].len() <= MAX_LINE && answer.words[0].is_ascii());
        assert!(WorkerAnswer::new(400, "", "/").words.is_empty());
    }
}
