//! Lines on their way out of the process: a queue with an end, and one thread that writes.
//!
//! Nobody may read the other end of standard error: a terminal that was stopped, a pager, a shipper
//! that hangs. The thread that writes then waits for ever, and everybody else goes on: what does
//! not fit into the queue is dropped and counted.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, Once};
use std::time::{Duration, Instant};

/// Bytes that wait at most: some thousand lines, more than any burst that a reader keeps up with.
const MAX_WAITING: usize = 1024 * 1024;

/// One of the process's outputs.
pub struct Sink {
    descriptor: RawFd,
    state: Mutex<State>,
    /// Told when there is something to write.
    filled: Condvar,
    /// Told when everything is written.
    emptied: Condvar,
    started: Once,
    /// Makes the line that says how many were dropped, once somebody reads again.
    format_dropped: fn(u64) -> String,
}

struct State {
    waiting: VecDeque<String>,
    bytes: usize,
    writing: bool,
    /// Lines dropped since the process started, and those of them that were told of.
    dropped: u64,
    reported: u64,
}

impl Sink {
    /// Writes to a descriptor; `format_dropped` makes the line that tells how many were dropped.
    pub const fn new(descriptor: RawFd, format_dropped: fn(u64) -> String) -> Sink {
        Sink {
            descriptor,
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                bytes: 0,
                writing: false,
                dropped: 0,
                reported: 0,
            }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            started: Once::new(),
            format_dropped,
        }
    }

    /// Sends a text on its way, or drops and counts it. Never waits for whoever reads.
    pub fn send(&'static self, text: String) {
        self.started.call_once(|| {
            let thread = std::thread::Builder::new().name("log".into());
            // Without a thread everything is dropped, and counted, once the queue is full.
            thread.spawn(|| self.write()).ok();
        });
        let mut state = self.state();
        if state.bytes + text.len() > MAX_WAITING {
            state.dropped += 1;
            return;
        }
        state.bytes += text.len();
        state.waiting.push_back(text);
        drop(state);
        self.filled.notify_one();
    }

    /// Lines dropped since the process started.
    pub fn dropped(&self) -> u64 {
        self.state().dropped
    }

    /// Waits until everything is written, but at most for this time.
    pub fn flush(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut state = self.state();
        while state.writing || !state.waiting.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.emptied.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The thread's whole life.
    fn write(&self) {
        // SAFETY: the process never closes its standard outputs, and neither does this.
        let mut out = ManuallyDrop::new(unsafe { File::from_raw_fd(self.descriptor) });
        loop {
            let (batch, lines) = self.next_batch();
            let lost = write_all(&mut out, &batch).is_err();
            let mut state = self.state();
            if lost {
                // Whoever read has gone.
                state.dropped += lines;
            }
            state.writing = false;
            if state.waiting.is_empty() {
                self.emptied.notify_all();
            }
        }
    }

    /// Waits for something to write; its lines at once, and how many they are.
    fn next_batch(&self) -> (String, u64) {
        let mut state = self.state();
        while state.waiting.is_empty() {
            let waited = self.filled.wait(state);
            state = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        state.writing = true;
        state.bytes = 0;
        let waiting = std::mem::take(&mut state.waiting);
        let lines = waiting.len() as u64;
        let mut batch = String::from_iter(waiting);
        // What was dropped came after these.
        let unreported = state.dropped - state.reported;
        if unreported > 0 {
            state.reported = state.dropped;
            batch.push_str(&(self.format_dropped)(unreported));
        }
        (batch, lines)
    }
}

/// Like [`Write::write_all`], also where a program that shares the terminal made it non-blocking.
fn write_all(out: &mut File, text: &str) -> io::Result<()> {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut ready = libc::pollfd {
                    fd: out.as_raw_fd(),
                    events: libc::POLLOUT,
                    revents: 0,
                };
                // SAFETY: one valid structure, as the count says.
                unsafe { libc::poll(&mut ready, 1, -1) };
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::IntoRawFd;

    fn sink() -> (&'static Sink, File) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let sink = Sink::new(writer.into_raw_fd(), |lines| format!("dropped {lines}\n"));
        (Box::leak(Box::new(sink)), File::from(reader))
    }

    #[test]
    fn lines_come_out_as_they_went_in() {
        let (sink, mut reader) = sink();
        for n in 0..100 {
            sink.send(format!("{n}\n"));
        }
        sink.flush(Duration::from_secs(60));
        let mut read = vec![0; 1024];
        let length = reader.read(&mut read).unwrap();
        let expected: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&read[..length]), expected);
        assert_eq!(sink.dropped(), 0);
    }

    #[test]
    fn without_a_reader_lines_are_dropped_and_told_of_later() {
        let (sink, mut reader) = sink();
        let line = "x".repeat(1000) + "\n";
        // More than fits into the pipe, the batch under way and the queue.
        let sent = 4 * MAX_WAITING / line.len();
        for _ in 0..sent {
            sink.send(line.clone());
        }
        let dropped = sink.dropped();
        assert!(dropped > 0 && dropped < sent as u64);
        sink.flush(Duration::from_millis(1));
        let last = "the last one\n";
        let mut read = String::new();
        let mut buffer = [0; 65536];
        let mut sent_last = false;
        while !read.ends_with(last) {
            let length = reader.read(&mut buffer).unwrap();
            read.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
            if !sent_last && read.contains("dropped") {
                sent_last = true;
                sink.send(last.into());
            }
        }
        let whole = read.lines().filter(|it| it.len() == 1000).count() as u64;
        assert_eq!(whole + sink.dropped(), sent as u64);
        let told: u64 = read
            .lines()
            .filter_map(|it| it.strip_prefix("dropped ")?.parse::<u64>().ok())
            .sum();
        assert_eq!(told, sink.dropped());
    }

    #[test]
    fn who_no_longer_reads_is_no_failure() {
        let (sink, reader) = sink();
        drop(reader);
        sink.send("nobody hears this\n".into());
        sink.flush(Duration::from_secs(60));
        assert_eq!(sink.dropped(), 1);
    }
}
