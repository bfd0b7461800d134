//! One direction of a session: reads one side, writes to the other, and knows where in the frame
//! stream it stands. Owns what has been read and not yet been taken; owns neither stream nor time.

use super::close::Close;
use super::frame::{self, Frame, Tracker};
use super::link::Link;
use super::splice::{Pipe, Spliced};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Chunks that one direction may move in one go before others have their turn.
const BURST: usize = 8;

/// The rest of a frame that is worth a pipe, bytes.
const WORTH_SPLICING: u64 = 64 * 1024;

/// Bytes that leave a pipe by copying when the receiver blocks: enough to wait for it with.
const COPIED_OUT: usize = 4096;

/// What a direction is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Passes everything on.
    Relay,
    /// Passes on the rest of the frame it is in, then says our Close.
    Finish,
    /// Has nothing more to say: writes what is pending, reads and forgets.
    Drain,
    /// The same, and then tells the receiver that nothing more will come.
    Shut,
}

/// One end of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// Ended in order: no more bytes will come from it, or go to it.
    Ended,
    /// Broke.
    Lost,
}

/// What one turn of [`Flow::pump`] did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    /// Bytes that came from the sender.
    pub bytes: u64,
    /// Messages that ended among them.
    pub messages: u64,
    /// Whether bytes of a message were among them.
    pub in_message: bool,
    /// Bytes that the receiver took.
    pub taken: u64,
    /// Whether a ping of ours was put between two frames.
    pub pinged: bool,
}

impl Moved {
    pub(super) fn any(&self) -> bool {
        self.bytes > 0 || self.taken > 0 || self.pinged
    }

    fn ended(&mut self, frame: Frame) {
        self.in_message |= !frame.is_control();
        self.messages += u64::from(frame.ends_message());
    }
}

pub(super) struct Flow {
    tracker: Tracker,
    /// Read and tracked, not yet taken by the receiver. No capacity while there is none.
    pending: Vec<u8>,
    /// How much of `pending` has been taken.
    sent: usize,
    /// Behind what is pending: the passing part of a large frame. It is empty before anything is
    /// added to `pending`.
    pipe: Option<Pipe>,
    mode: Mode,
    source: End,
    sink: End,
    /// The receiver is a server, so frames of ours have to be masked.
    masked: bool,
    /// Taken by the receiver's stream, which may keep it in a buffer.
    unflushed: bool,
    ping_due: bool,
    close_state: CloseState,
}

/// How far our Close frame has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CloseState {
    Unsaid,
    Pending,
    /// The receiver's connection took it.
    Written,
}

impl Flow {
    pub(super) fn new(masked: bool) -> Flow {
        Flow {
            tracker: Tracker::new(),
            pending: Vec::new(),
            sent: 0,
            pipe: None,
            mode: Mode::Relay,
            source: End::Open,
            sink: End::Open,
            masked,
            unflushed: false,
            ping_due: false,
            close_state: CloseState::Unsaid,
        }
    }

    /// The code of the Close frame that the sender has sent.
    pub(super) fn closed(&self) -> Option<u16> {
        self.tracker.closed()
    }

    /// Whether the sender's Close frame has gone on to the receiver.
    pub(super) fn has_relayed_close(&self) -> bool {
        self.closed().is_some() && !self.is_blocked()
    }

    /// Nothing more will come from the sender.
    pub(super) fn source_ended(&self) -> bool {
        self.source != End::Open
    }

    /// Nothing more will go to the receiver.
    pub(super) fn sink_ended(&self) -> bool {
        self.sink != End::Open
    }

    /// The receiver does not take what there is.
    pub(super) fn is_blocked(&self) -> bool {
        !self.sink_ended() && (!self.pending.is_empty() || self.unflushed || self.piped() > 0)
    }

    fn piped(&self) -> usize {
        self.pipe.as_ref().map_or(0, Pipe::held)
    }

    /// It waits for the end of a frame, to say our Close.
    pub(super) fn is_finishing(&self) -> bool {
        self.mode == Mode::Finish
    }

    /// Our Close frame has yet to be taken by the receiver's connection, and can be.
    pub(super) fn is_sending_close(&self) -> bool {
        !self.sink_ended() && (self.is_finishing() || self.close_state == CloseState::Pending)
    }

    /// The receiver's connection took our Close frame.
    pub(super) fn has_sent_close(&self) -> bool {
        self.close_state == CloseState::Written
    }

    pub(super) fn ping_due(&self) -> bool {
        self.ping_due
    }

    /// Asks for a ping at the next frame boundary.
    pub(super) fn want_ping(&mut self) {
        self.ping_due = self.mode == Mode::Relay && self.tracker.closed().is_none();
    }

    /// Ends this direction with `close` at the next frame boundary. Returns at once.
    pub(super) fn finish(&mut self, close: &Close) {
        if self.mode != Mode::Relay {
            return;
        }
        self.ping_due = false;
        self.mode = Mode::Finish;
        self.speak_if_possible(Some(close), &mut Moved::default());
        if self.mode == Mode::Finish && self.source_ended() {
            // The rest of the frame will never come; a Close inside it would be taken for payload.
            self.mode = Mode::Drain;
        }
    }

    /// Ends this direction after what is pending, with no word of ours. Whether that is news.
    pub(super) fn shut(&mut self) -> bool {
        self.ping_due = false;
        let before = std::mem::replace(&mut self.mode, Mode::Shut);
        before != Mode::Shut
    }

    /// Moves what can be moved without waiting. Afterwards the task is woken when there is more to
    /// do; `close` is what [`Mode::Finish`] says.
    pub(super) fn pump(
        &mut self,
        from: &mut Link,
        to: &mut Link,
        close: Option<&Close>,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Moved {
        let mut moved = Moved::default();
        for _ in 0..BURST {
            if !self.write_out(to, cx, &mut moved) && self.passes_on() {
                return moved;
            }
            if self.source_ended() {
                self.poll_shutdown(to, cx);
                return moved;
            }
            if self.has_to_speak() && self.speak_if_possible(close, &mut moved) {
                continue;
            }
            if self.fill_pipe(from, &mut moved) {
                continue;
            }
            let mut buffer = ReadBuf::new(scratch);
            match Pin::new(&mut *from).poll_read(cx, &mut buffer) {
                Poll::Pending => {
                    self.poll_shutdown(to, cx);
                    return moved;
                }
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let is_full = buffer.remaining() == 0;
                    self.take(buffer.filled(), to, close, cx, &mut moved);
                    if is_full && self.passes_on() && self.pending.is_empty() {
                        self.fetch_pipe(from, to);
                    }
                }
                Poll::Ready(result) => self.end_source(result.is_ok()),
            }
        }
        cx.waker().wake_by_ref();
        moved
    }

    /// Bytes that the sender sent right behind its HTTP head, read before the tunnel began.
    pub(super) fn take_early(&mut self, early: &[u8]) -> Moved {
        let mut moved = Moved::default();
        self.track(early, &mut moved);
        self.pending.extend_from_slice(early);
        moved
    }

    fn passes_on(&self) -> bool {
        matches!(self.mode, Mode::Relay | Mode::Finish)
    }

    fn has_to_speak(&self) -> bool {
        self.ping_due || self.mode == Mode::Finish
    }

    fn end_source(&mut self, in_order: bool) {
        self.source = if in_order { End::Ended } else { End::Lost };
        if self.mode == Mode::Finish {
            self.mode = Mode::Drain;
        }
    }

    /// Bytes the sender sent: tracked, and written at once as far as the receiver takes them.
    fn take(
        &mut self,
        chunk: &[u8],
        to: &mut Link,
        close: Option<&Close>,
        cx: &mut Context<'_>,
        moved: &mut Moved,
    ) {
        if !self.passes_on() || self.sink_ended() {
            return;
        }
        if self.has_to_speak() {
            self.take_and_speak(chunk, close, moved);
            return;
        }
        self.track(chunk, moved);
        let taken = match Pin::new(to).poll_write(cx, chunk) {
            Poll::Ready(Ok(taken)) if taken > 0 => taken,
            Poll::Ready(_) => {
                self.lose_sink();
                return;
            }
            Poll::Pending => 0,
        };
        moved.taken += taken as u64;
        self.unflushed |= taken > 0;
        self.pending.extend_from_slice(&chunk[taken..]);
    }

    /// Follows the frames in `chunk`, which passes as it is.
    fn track(&mut self, chunk: &[u8], moved: &mut Moved) {
        let mut at = 0;
        while at < chunk.len() {
            at += self.step(&chunk[at..], moved);
        }
    }

    /// Goes through `chunk` frame by frame and says what there is to say at the first boundary.
    fn take_and_speak(&mut self, chunk: &[u8], close: Option<&Close>, moved: &mut Moved) {
        let mut at = 0;
        while at < chunk.len() && self.passes_on() {
            let step = self.step(&chunk[at..], moved);
            self.pending.extend_from_slice(&chunk[at..at + step]);
            at += step;
            self.speak_if_possible(close, moved);
        }
    }

    /// One frame, or as much of it as there is.
    fn step(&mut self, bytes: &[u8], moved: &mut Moved) -> usize {
        let (step, frame) = self.tracker.advance(bytes);
        moved.bytes += step as u64;
        match frame {
            Some(frame) => moved.ended(frame),
            None => moved.in_message |= self.tracker.in_message(),
        }
        step
    }

    /// Gets a pipe for the rest of the frame, if there is much of it and one to be had.
    fn fetch_pipe(&mut self, from: &Link, to: &Link) {
        if self.pipe.is_none() && self.tracker.message_left() >= WORTH_SPLICING {
            self.pipe = Pipe::between(from, to);
        }
    }

    /// Takes what the sender has of the current frame into the pipe, whose content is written
    /// next. Whether there was something; if not, the pipe is given back.
    fn fill_pipe(&mut self, from: &Link, moved: &mut Moved) -> bool {
        let left = self.tracker.message_left();
        let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held() == 0) else {
            return false;
        };
        if left == 0 || !matches!(self.mode, Mode::Relay | Mode::Finish) {
            self.pipe = None;
            return false;
        }
        match pipe.fill(from, left) {
            Spliced::Moved(count) if count > 0 => {
                moved.bytes += count as u64;
                moved.in_message = true;
                if let Some(frame) = self.tracker.skip(count as u64) {
                    moved.ended(frame);
                }
                true
            }
            // The read that follows finds out what it is, and waits if it is nothing.
            Spliced::Moved(_) | Spliced::WouldBlock | Spliced::Failed => {
                self.pipe = None;
                false
            }
        }
    }

    /// Adds a frame of ours behind what is pending, if the direction stands between two frames.
    /// Whether it does.
    fn speak_if_possible(&mut self, close: Option<&Close>, moved: &mut Moved) -> bool {
        if !self.tracker.at_boundary() || self.piped() > 0 {
            return false;
        }
        // Nothing may follow a Close frame.
        let may_speak = self.tracker.closed().is_none() && !self.sink_ended();
        if self.mode == Mode::Finish {
            if let Some(close) = close.filter(|_| may_speak) {
                frame::put_close(&mut self.pending, close.code(), close.reason(), self.masked);
                self.close_state = CloseState::Pending;
            }
            self.mode = Mode::Drain;
        } else if self.ping_due {
            self.ping_due = false;
            if may_speak {
                frame::put_ping(&mut self.pending, self.masked);
                moved.pinged = true;
            }
        }
        true
    }

    /// Writes what is pending, and behind it what is in the pipe. Whether nothing is left.
    fn write_out(&mut self, to: &mut Link, cx: &mut Context<'_>, moved: &mut Moved) -> bool {
        while self.write_pending(to, cx, moved) {
            let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held() > 0) else {
                return true;
            };
            match pipe.drain(to) {
                Spliced::Moved(count) if count > 0 => moved.taken += count as u64,
                Spliced::WouldBlock => {
                    self.pending.resize(COPIED_OUT, 0);
                    let Some(count) = pipe.copy_out(&mut self.pending) else {
                        self.lose_sink();
                        return true;
                    };
                    self.pending.truncate(count);
                }
                Spliced::Moved(_) | Spliced::Failed => {
                    self.lose_sink();
                    return true;
                }
            }
        }
        false
    }

    /// Whether nothing is left to write, but what is in the pipe.
    fn write_pending(&mut self, to: &mut Link, cx: &mut Context<'_>, moved: &mut Moved) -> bool {
        if self.sink_ended() {
            return true;
        }
        while self.sent < self.pending.len() {
            match Pin::new(&mut *to).poll_write(cx, &self.pending[self.sent..]) {
                Poll::Ready(Ok(taken)) if taken > 0 => {
                    self.sent += taken;
                    self.unflushed = true;
                    moved.taken += taken as u64;
                }
                Poll::Ready(_) => {
                    self.lose_sink();
                    return true;
                }
                Poll::Pending => return false,
            }
        }
        if self.sent > 0 {
            self.pending = Vec::new();
            self.sent = 0;
        }
        if self.unflushed {
            match Pin::new(to).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => self.lose_sink(),
                Poll::Pending => return false,
            }
        }
        if self.close_state == CloseState::Pending && !self.sink_ended() {
            self.close_state = CloseState::Written;
        }
        true
    }

    fn lose_sink(&mut self) {
        self.sink = End::Lost;
        self.pending = Vec::new();
        self.sent = 0;
        self.pipe = None;
        self.unflushed = false;
        self.ping_due = false;
    }

    /// Tells the receiver the end, when it is time.
    fn poll_shutdown(&mut self, to: &mut Link, cx: &mut Context<'_>) {
        if self.mode != Mode::Shut || self.sink_ended() || self.is_blocked() {
            return;
        }
        match Pin::new(to).poll_shutdown(cx) {
            Poll::Ready(Ok(())) => self.sink = End::Ended,
            Poll::Ready(Err(_)) => self.sink = End::Lost,
            Poll::Pending => {}
        }
    }
}
