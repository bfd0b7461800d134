//! The connection between the two processes: one JSON value a line, and descriptors beside it.

use super::Failure;
use bytes::{Buf, BytesMut};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Bytes read at a time.
const READ: usize = 16 * 1024;
/// Most descriptors that come at a time; the two listening sockets are all there are.
const MAX_DESCRIPTORS: usize = 8;

/// One end of the connection.
pub struct Channel {
    stream: UnixStream,
    unread: BytesMut,
    descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// # Errors
    /// [`Failure::OtherUser`] when another user's process is at the other end.
    pub fn new(stream: UnixStream) -> Result<Channel, Failure> {
        if stream.peer_cred()?.uid() != geteuid().as_raw() {
            return Err(Failure::OtherUser);
        }
        Ok(Channel {
            stream,
            unread: BytesMut::new(),
            descriptors: Vec::new(),
        })
    }

    /// Sends a value. Dropping this future leaves half a line behind: the connection is of no use
    /// then.
    pub async fn send(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.send_with(value, &[]).await
    }

    /// Sends a value, and descriptors with it.
    pub async fn send_with(
        &self,
        value: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(value).map_err(io::Error::other)?;
        line.push(b'\n');
        let mut descriptors: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let mut rest = &line[..];
        while !rest.is_empty() {
            let sent = self.stream.async_io(Interest::WRITABLE, || {
                let rights = [ControlMessage::ScmRights(&descriptors)];
                let rights = if descriptors.is_empty() {
                    &[]
                } else {
                    &rights[..]
                };
                let bytes = [IoSlice::new(rest)];
                let flags = MsgFlags::MSG_NOSIGNAL;
                Ok(sendmsg::<()>(
                    self.stream.as_raw_fd(),
                    &bytes,
                    rights,
                    flags,
                    None,
                )?)
            });
            rest = &rest[sent.await?..];
            // They went with the first byte.
            descriptors.clear();
        }
        Ok(())
    }

    /// The next value. Safe to drop and call again.
    ///
    /// # Errors
    /// [`Failure::Gone`] when the other side has closed the connection or died.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(end);
                self.unread.advance(1);
                return serde_json::from_slice(&line)
                    .map_err(|error| Failure::Unexpected(error.to_string()));
            }
            self.fill().await?;
        }
    }

    /// What came with the values received so far.
    pub fn descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        let mut bytes = [0; READ];
        let (stream, descriptors) = (&self.stream, &mut self.descriptors);
        let read = stream.async_io(Interest::READABLE, || {
            let mut space = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
            let mut into = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let received = recvmsg::<()>(stream.as_raw_fd(), &mut into, Some(&mut space), flags)?;
            for message in received.cmsgs()? {
                if let ControlMessageOwned::ScmRights(rights) = message {
                    // SAFETY: the kernel made these descriptors for this process, and
                    // nobody else knows of them.
                    let owned = |raw| unsafe { OwnedFd::from_raw_fd(raw) };
                    descriptors.extend(rights.into_iter().map(owned));
                }
            }
            Ok(received.bytes)
        });
        let read = match read.await {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
                return Err(error.into());
            }
            Err(_) | Ok(0) => return Err(Failure::Gone),
            Ok(read) => read,
        };
        self.unread.extend_from_slice(&bytes[..read]);
        Ok(())
    }
}
