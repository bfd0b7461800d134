//! The receiver's end of one direction: what was read for it and has not been taken yet, and whether
//! it still takes anything. Owns those bytes; which they are is the [`flow`](super::flow)'s to say.

use super::splice::{Pipe, Spliced};
use super::transport::Transport;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// Bytes that leave a pipe by copying when the receiver blocks: enough to wait for it with.
const COPIED_OUT: usize = 4096;

#[derive(Default)]
pub(super) struct Outlet {
    /// Not yet taken by the receiver. No capacity while there is nothing.
    pub(super) pending: Vec<u8>,
    /// How much of `pending` has been taken. A small number in any case, and a session is to be small.
    sent: u32,
    /// Behind what is pending: the passing part of a large frame. It is empty before anything is
    /// added to `pending`.
    pub(super) pipe: Option<Pipe>,
    /// Taken by the receiver's stream, which may keep it in a buffer.
    unflushed: bool,
    /// Nothing more will go to the receiver.
    ended: bool,
}

impl Outlet {
    /// Nothing more will go to the receiver.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// The receiver does not take what there is.
    pub(super) fn is_blocked(&self) -> bool {
        !self.ended && (!self.pending.is_empty() || self.unflushed || self.piped() > 0)
    }

    /// Bytes that are in the pipe.
    pub(super) fn piped(&self) -> usize {
        self.pipe.as_ref().map_or(0, Pipe::held)
    }

    /// Writes at once what the receiver takes of `chunk`, and keeps the rest. Nothing may be pending.
    /// Returns how much it took; a receiver that is lost takes nothing.
    pub(super) fn write(
        &mut self,
        chunk: &[u8],
        to: &mut Transport,
        cx: &mut Context<'_>,
    ) -> usize {
        let taken = match Pin::new(to).poll_write(cx, chunk) {
            Poll::Ready(Ok(taken)) if taken > 0 => taken,
            Poll::Ready(_) => {
                self.lose();
                return 0;
            }
            Poll::Pending => 0,
        };
        self.unflushed |= taken > 0;
        self.pending.extend_from_slice(&chunk[taken..]);
        taken
    }

    /// Writes what is pending, and behind it what is in the pipe; adds to `taken` what the receiver
    /// took. Whether nothing is left.
    pub(super) fn write_out(
        &mut self,
        to: &mut Transport,
        cx: &mut Context<'_>,
        taken: &mut u64,
    ) -> bool {
        while self.write_pending(to, cx, taken) {
            let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held() > 0) else {
                return true;
            };
            match pipe.drain(to) {
                Spliced::Moved(count) if count > 0 => *taken += count as u64,
                Spliced::WouldBlock => {
                    self.pending.resize(COPIED_OUT, 0);
                    let Some(count) = pipe.copy_out(&mut self.pending) else {
                        self.lose();
                        return true;
                    };
                    self.pending.truncate(count);
                }
                Spliced::Moved(_) | Spliced::Failed => {
                    self.lose();
                    return true;
                }
            }
        }
        false
    }

    /// Whether nothing is left to write, but what is in the pipe.
    fn write_pending(&mut self, to: &mut Transport, cx: &mut Context<'_>, taken: &mut u64) -> bool {
        if self.ended {
            return true;
        }
        while let Some(rest) = self.rest() {
            match Pin::new(&mut *to).poll_write(cx, rest) {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.sent += count as u32;
                    self.unflushed = true;
                    *taken += count as u64;
                }
                Poll::Ready(_) => {
                    self.lose();
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
                Poll::Ready(Err(_)) => self.lose(),
                Poll::Pending => return false,
            }
        }
        true
    }

    /// What is pending, if anything is.
    fn rest(&self) -> Option<&[u8]> {
        let rest = self.pending.get(self.sent as usize..)?;
        (!rest.is_empty()).then_some(rest)
    }

    fn lose(&mut self) {
        *self = Outlet {
            ended: true,
            ..Outlet::default()
        };
    }

    /// Tells the receiver the end, once it has taken all there is.
    pub(super) fn poll_shutdown(&mut self, to: &mut Transport, cx: &mut Context<'_>) {
        if self.ended || self.is_blocked() {
            return;
        }
        self.ended = Pin::new(to).poll_shutdown(cx).is_ready();
    }
}
