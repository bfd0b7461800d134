//! Why a browser server did not start or died, in words that say what to do. Reads what the
//! processes wrote; knows nothing of how they are run.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

/// Lines of a server's output that are kept.
const KEPT_LINES: usize = 40;
/// Longest line kept, in bytes.
const KEPT_BYTES: usize = 500;
/// What Node, told to go on after an error that nobody caught, writes before it; its own name and number stand before that.
const UNCAUGHT: &str = " UnhandledPromiseRejectionWarning: ";
/// Lines shown when nothing better is known.
const SHOWN_LINES: usize = 3;

/// The last lines that a server wrote.
#[derive(Debug, Default)]
pub struct Tail {
    lines: VecDeque<String>,
    /// Its clients can make it write errors that nobody catches.
    serves: bool,
    skipped: Skipped,
}

/// Where in an error of a client the lines are.
#[derive(Debug, Default, PartialEq, Eq)]
enum Skipped {
    #[default]
    Nothing,
    Message,
    Stack,
}

impl Tail {
    /// It has clients from here on: what it wrote before did not keep it from serving, and what they make it
    /// write is not why it ends.
    pub fn serves(&mut self) {
        self.lines.clear();
        self.serves = true;
    }

    /// Takes in a line of the server's output.
    pub fn push(&mut self, line: &str) {
        let line = line.trim();
        let uncaught = line
            .split_once(UNCAUGHT)
            .filter(|(node, _)| node.starts_with("(node:"))
            .map(|(_, error)| error);
        if self.serves && self.is_of_a_client(line, uncaught.is_some()) {
            return;
        }
        let line = uncaught.unwrap_or(line);
        if line.is_empty() {
            return;
        }
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
        }
        let end = line.floor_char_boundary(KEPT_BYTES);
        self.lines.push_back(line[..end].to_owned());
    }

    fn is_of_a_client(&mut self, line: &str, begins: bool) -> bool {
        let in_stack = line.starts_with("at ");
        self.skipped = match self.skipped {
            _ if begins => Skipped::Message,
            Skipped::Message | Skipped::Stack if in_stack => Skipped::Stack,
            Skipped::Message => Skipped::Message,
            Skipped::Nothing | Skipped::Stack => Skipped::Nothing,
        };
        self.skipped != Skipped::Nothing
    }

    /// What these lines say about the end of the server; `fallback` when they say nothing.
    pub fn cause(&self, fallback: &str) -> String {
        self.lines
            .iter()
            .find_map(|line| known_cause(line))
            .unwrap_or_else(|| self.last_words(fallback))
    }

    fn last_words(&self, fallback: &str) -> String {
        // Below the first lines of an error, Playwright prints its call log and a stack.
        let telling: Vec<&str> = self
            .lines
            .iter()
            .map(String::as_str)
            .filter(|line| !line.starts_with("at ") && !line.starts_with('╔'))
            .collect();
        let start = telling.len().saturating_sub(SHOWN_LINES);
        // Node writes the names of its own errors behind it: `SystemError [ERR_SYSTEM_ERROR]: ...`.
        let is_error = |line: &&str| line.contains("Error:") || line.contains("Error [");
        match telling.iter().position(is_error) {
            Some(error) => format!("{fallback}: {}", telling[error]),
            None if telling.is_empty() => fallback.to_owned(),
            None => format!("{fallback}: {}", telling[start..].join(" | ")),
        }
    }
}

/// Why a server's temporary files could not be had in `folder`.
pub fn cause_of_files(folder: &Path, error: &io::Error) -> String {
    let folder = folder.display();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            disk_full(&format!(" ({folder}: {error})"))
        }
        _ => format!("cannot write its temporary files in {folder}: {error}"),
    }
}

fn disk_full(place: &str) -> String {
    format!(
        "the disk with the temporary files is full{place}. Make room, or set TMPDIR to a folder on \
         another one"
    )
}

/// The causes that people meet, by the words that browsers, Node and Playwright use for them.
fn known_cause(line: &str) -> Option<String> {
    let says = |words: &str| line.contains(words);
    if says("error while loading shared libraries") {
        let library = line
            .split("shared libraries: ")
            .nth(1)
            .and_then(|rest| rest.split(':').next())
            .unwrap_or("one");
        // Who misses it stands before; it may be Node.
        let program = line.split(": error while").next().unwrap_or_default();
        let program = program.rsplit(' ').next().filter(|it| !it.is_empty());
        let program = program.unwrap_or("the browser");
        Some(format!(
            "a library that {program} needs is missing or broken: {library}. Install the browser from \
             the distribution's packages, or run `npx playwright install-deps`"
        ))
    } else if says("No usable sandbox") || says("without --no-sandbox is not supported") {
        Some(
            "the browser's sandbox does not work here (it needs user namespaces, and a user other \
             than root). Set worker.sandbox to false, or allow user namespaces"
                .to_owned(),
        )
    } else if says("EADDRNOTAVAIL") {
        Some("the address to listen on is not one of this machine's".to_owned())
    } else if says("ENOSPC") || says("No space left on device") {
        Some(disk_full(""))
    } else if says("EMFILE") || says("Too many open files") {
        Some("too many open files. Raise the limit (ulimit -n)".to_owned())
    } else if says("EAGAIN") || says("Resource temporarily unavailable") {
        Some(
            "no more processes or threads may be started here. Raise the limit (pids_limit of the \
             container, TasksMax of the unit, ulimit -u)"
                .to_owned(),
        )
    } else if says("uv_os_get_passwd") || says("uv_os_homedir") {
        Some(
            "the user that this runs as is not in /etc/passwd. Run it as one that is, or add it"
                .to_owned(),
        )
    } else if says("Executable doesn't exist at") {
        Some("Playwright did not find its browser. Run `npx playwright install`, or set worker.browser_path".to_owned())
    } else if says("Missing X server or $DISPLAY") {
        Some("there is no display. Set worker.headless to true, or DISPLAY".to_owned())
    } else if says("JavaScript heap out of memory") {
        Some(
            "Node's heap is full: a session sent or asked for more at once than Node can hold"
                .to_owned(),
        )
    } else if says("Cannot allocate memory") || says("ENOMEM") || says("std::bad_alloc") {
        Some(
            "out of memory. Give the worker more, or lower limits.max_concurrent_sessions"
                .to_owned(),
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(output: &str) -> String {
        let mut tail = Tail::default();
        output.lines().for_each(|line| tail.push(line));
        tail.cause("exit status 1")
    }

    #[test]
    fn names_what_people_meet() {
        for (output, expected) in [
            (
                "[pid=1][err] /x/chrome: error while loading shared libraries: libnss3.so: cannot open",
                "/x/chrome needs is missing or broken: libnss3.so.",
            ),
            (
                "node: error while loading shared libraries: libz.so.1: cannot open",
                "node needs is missing or broken: libz.so.1.",
            ),
            (
                "FATAL: No usable sandbox! Update your kernel",
                "worker.sandbox",
            ),
            ("ENOSPC: no space left on device, mkdtemp '/tmp/x'", "disk"),
            (
                "Error: spawn /usr/lib/chromium/chromium EAGAIN",
                "pids_limit",
            ),
            (
                "terminate called: pthread_create: Resource temporarily unavailable",
                "pids_limit",
            ),
            (
                "SystemError [ERR_SYSTEM_ERROR]: A system error occurred: uv_os_get_passwd returned ENOENT",
                "/etc/passwd",
            ),
            (
                "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
                "heap",
            ),
        ] {
            assert!(
                cause(output).contains(expected),
                "{output}: {}",
                cause(output)
            );
        }
    }

    #[test]
    fn a_full_disk_is_told_with_its_folder() {
        let told = |kind: io::ErrorKind| cause_of_files(Path::new("/tmp/x"), &kind.into());
        let full = told(io::ErrorKind::StorageFull);
        assert!(
            full.contains("disk") && full.contains("TMPDIR") && full.contains("/tmp/x"),
            "{full}"
        );
        let forbidden = told(io::ErrorKind::PermissionDenied);
        assert!(
            forbidden.contains("/tmp/x") && !forbidden.contains("full"),
            "{forbidden}"
        );
    }

    #[test]
    fn quotes_the_error_when_it_knows_none() {
        let text = cause("node:internal\nError: something new\n    at Object.<anonymous> (x.js:1)");
        assert_eq!(text, "exit status 1: Error: something new");
        let text = cause("SystemError [ERR_OTHER]: a new one\n    at x.js:1");
        assert_eq!(text, "exit status 1: SystemError [ERR_OTHER]: a new one");
        let text = cause(
            "(node:7) UnhandledPromiseRejectionWarning: Error: cannot do that\n    at x.js:1",
        );
        assert_eq!(text, "exit status 1: Error: cannot do that");
        assert_eq!(cause(""), "exit status 1");
    }

    #[test]
    fn what_clients_make_it_write_is_not_why_it_ends() {
        let mut tail = Tail::default();
        tail.push("Error: ENOSPC, and it came up all the same");
        tail.serves();
        for line in [
            "(node:7) UnhandledPromiseRejectionWarning: Error: a client's",
            "and its second line: JavaScript heap out of memory",
            "    at Object.<anonymous> (x.js:1)",
            "    at y.js:2",
            "(Use `node --trace-warnings ...` to show where the warning was created)",
            "(node:7) UnhandledPromiseRejectionWarning: Error: EMFILE",
            "    at y.js:2",
        ] {
            tail.push(line);
        }
        assert!(!tail.cause("it ended").contains("Error"), "{tail:?}");
        tail.push("Error: spawn /x/chromium EAGAIN");
        assert!(tail.cause("it ended").contains("pids_limit"), "{tail:?}");
    }

    #[test]
    fn keeps_a_bounded_number_of_bounded_lines() {
        let mut tail = Tail::default();
        (0..1000).for_each(|_| tail.push(&"ä".repeat(1000)));
        assert_eq!(tail.lines.len(), KEPT_LINES);
        assert!(tail.lines.iter().all(|line| line.len() <= KEPT_BYTES));
    }
}
