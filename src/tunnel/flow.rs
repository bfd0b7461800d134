//! One direction of a session: reads one side, writes to the other through the [`outlet`](super::outlet),
//! and knows where in the frame stream it stands. Owns neither stream nor time.

use super::close::Close;
use super::frame::{self, Tracker};
use super::held::HeldClose;
use super::outlet::Outlet;
use super::protocol::TEXT;
use super::splice::{Pipe, Spliced};
use super::traffic::Moved;
use super::transport::Transport;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};

/// Chunks that one direction may move in one go before others have their turn.
const BURST: usize = 8;

/// The rest of a frame that is worth a pipe, bytes.
const WORTH_SPLICING: u64 = 64 * 1024;

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

pub(super) struct Flow {
    tracker: Tracker,
    /// Holds what was read and tracked.
    outlet: Outlet,
    /// Somebody decides whether the sender's Close frame passes.
    holds_close: bool,
    /// That frame, while it waits.
    held: HeldClose,
    mode: Mode,
    /// Nothing more will come from the sender.
    source_ended: bool,
    /// The receiver is a server, so frames of ours have to be masked.
    masked: bool,
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
    pub(super) fn new(masked: bool, holds_close: bool) -> Flow {
        Flow {
            tracker: Tracker::new(),
            outlet: Outlet::default(),
            holds_close,
            held: HeldClose::default(),
            mode: Mode::Relay,
            source_ended: false,
            masked,
            ping_due: false,
            close_state: CloseState::Unsaid,
        }
    }

    /// The code and the reason of the sender's Close frame, while that waits for [`Flow::pass_close`] or
    /// [`Flow::finish`].
    pub(super) fn held_close(&self) -> Option<(u16, String)> {
        self.held.whole(self.closed())
    }

    pub(super) fn pass_close(&mut self) {
        let mut frame = self.release_close();
        self.outlet.pending.append(&mut frame);
    }

    /// Gives the held Close frame up, and holds no other.
    fn release_close(&mut self) -> Vec<u8> {
        self.holds_close = false;
        self.held.release()
    }

    /// The code of the Close frame that the sender has sent.
    pub(super) fn closed(&self) -> Option<u16> {
        self.tracker.closed()
    }

    /// Whether the sender's Close frame has gone on to the receiver.
    pub(super) fn has_relayed_close(&self) -> bool {
        self.closed().is_some() && self.held.is_empty() && !self.is_blocked()
    }

    /// Nothing more will come from the sender.
    pub(super) fn source_ended(&self) -> bool {
        self.source_ended
    }

    /// Nothing more will go to the receiver.
    pub(super) fn sink_ended(&self) -> bool {
        self.outlet.ended()
    }

    /// The receiver does not take what there is.
    pub(super) fn is_blocked(&self) -> bool {
        self.outlet.is_blocked()
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

    /// A Close frame, ours or the sender's, is on its way to the receiver, or its connection took it.
    pub(super) fn owes_close(&self) -> bool {
        let begun = self.is_sending_close() || self.has_sent_close() || self.closed().is_some();
        begun && !self.sink_ended()
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
        if !self.held.is_empty() {
            // The receiver has got nothing of it, and stands between two frames.
            self.release_close();
            self.tracker = Tracker::new();
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
        from: &mut Transport,
        to: &mut Transport,
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
            if self.passes_on() && self.held_close().is_some() {
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
                    if is_full && self.passes_on() && self.outlet.pending.is_empty() {
                        self.fetch_pipe(from, to);
                    }
                }
                Poll::Ready(_) => self.end_source(),
            }
        }
        cx.waker().wake_by_ref();
        moved
    }

    /// Bytes that the sender sent right behind its HTTP head, read before the tunnel began.
    pub(super) fn take_early(&mut self, early: &[u8]) -> Moved {
        let mut moved = Moved::default();
        let passing = self.track(early, &mut moved);
        self.outlet.pending.extend_from_slice(&early[..passing]);
        moved
    }

    fn passes_on(&self) -> bool {
        matches!(self.mode, Mode::Relay | Mode::Finish)
    }

    fn has_to_speak(&self) -> bool {
        self.ping_due || self.mode == Mode::Finish
    }

    /// The sender ended, in order or not.
    fn end_source(&mut self) {
        self.source_ended = true;
        if self.mode == Mode::Finish {
            self.mode = Mode::Drain;
        }
    }

    /// Bytes the sender sent: tracked, and written at once as far as the receiver takes them.
    fn take(
        &mut self,
        chunk: &[u8],
        to: &mut Transport,
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
        let passing = self.track(chunk, moved);
        if passing > 0 {
            moved.taken += self.outlet.write(&chunk[..passing], to, cx) as u64;
        }
    }

    /// Follows the frames in `chunk`. Returns how much of it passes as it is: all, but a Close frame that
    /// is held.
    fn track(&mut self, chunk: &[u8], moved: &mut Moved) -> usize {
        let mut at = 0;
        while at < chunk.len() && !self.hold_close(&chunk[at..], moved) {
            at += self.step(&chunk[at..], moved);
        }
        at
    }

    /// Holds what `bytes` have of the Close frame that they begin or go on with, if that is wanted.
    /// Nothing may follow it, and nothing behind it is looked at. Whether it did.
    fn hold_close(&mut self, bytes: &[u8], moved: &mut Moved) -> bool {
        let holds = self.holds_close && self.tracker.is_close(bytes);
        if holds {
            let step = self.step(bytes, moved);
            self.held.hold(&bytes[..step]);
        }
        holds
    }

    /// Goes through `chunk` frame by frame and says what there is to say at the first boundary.
    fn take_and_speak(&mut self, chunk: &[u8], close: Option<&Close>, moved: &mut Moved) {
        let mut at = 0;
        while at < chunk.len() && self.passes_on() && !self.hold_close(&chunk[at..], moved) {
            let step = self.step(&chunk[at..], moved);
            self.outlet.pending.extend_from_slice(&chunk[at..at + step]);
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
    fn fetch_pipe(&mut self, from: &Transport, to: &Transport) {
        if self.outlet.pipe.is_none() && self.tracker.message_left() >= WORTH_SPLICING {
            self.outlet.pipe = Pipe::between(from, to);
        }
    }

    /// Takes what the sender has of the current frame into the pipe, whose content is written
    /// next. Whether there was something; if not, the pipe is given back.
    fn fill_pipe(&mut self, from: &Transport, moved: &mut Moved) -> bool {
        let left = self.tracker.message_left();
        let Some(pipe) = self.outlet.pipe.as_mut().filter(|pipe| pipe.held() == 0) else {
            return false;
        };
        if left == 0 || !matches!(self.mode, Mode::Relay | Mode::Finish) {
            self.outlet.pipe = None;
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
                self.outlet.pipe = None;
                false
            }
        }
    }

    /// Adds a frame of ours behind what is pending, if the direction stands between two frames.
    /// Whether it does.
    fn speak_if_possible(&mut self, close: Option<&Close>, moved: &mut Moved) -> bool {
        if !self.tracker.at_boundary() || self.outlet.piped() > 0 {
            return false;
        }
        // Nothing may follow a Close frame.
        let may_speak = self.tracker.closed().is_none() && !self.sink_ended();
        if self.mode == Mode::Finish {
            if let Some(close) = close.filter(|_| may_speak) {
                if let Some(message) = close.message().filter(|_| !self.masked) {
                    frame::put_frame(&mut self.outlet.pending, TEXT, true, message.as_bytes());
                }
                frame::put_close(
                    &mut self.outlet.pending,
                    close.code(),
                    close.reason(),
                    self.masked,
                );
                self.close_state = CloseState::Pending;
            }
            self.mode = Mode::Drain;
        } else if self.ping_due {
            self.ping_due = false;
            if may_speak {
                frame::put_ping(&mut self.outlet.pending, self.masked);
                moved.pinged = true;
            }
        }
        true
    }

    /// Writes what there is. Whether nothing is left.
    fn write_out(&mut self, to: &mut Transport, cx: &mut Context<'_>, moved: &mut Moved) -> bool {
        let is_out = self.outlet.write_out(to, cx, &mut moved.taken);
        if self.sink_ended() {
            self.ping_due = false;
        } else if is_out && self.close_state == CloseState::Pending {
            self.close_state = CloseState::Written;
        }
        is_out
    }

    /// Tells the receiver the end, when it is time.
    fn poll_shutdown(&mut self, to: &mut Transport, cx: &mut Context<'_>) {
        if self.mode == Mode::Shut {
            self.outlet.poll_shutdown(to, cx);
        }
    }
}
