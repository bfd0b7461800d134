//! Zero-copy on Linux: the rest of a large frame goes from one socket to the other through a pipe,
//! by reference. Owns the pipes, of which there are few: a session has one only while a large frame
//! passes, and copies when there is none to be had.
//!
//! Readiness stays with the streams. A splice that would block is followed by an ordinary read or
//! write on the stream, which then registers the task's waker; so no descriptor has to be
//! duplicated, and nothing is registered twice.

#[cfg(target_os = "linux")]
pub(super) use linux::Pipe;
#[cfg(not(target_os = "linux"))]
pub(super) use other::Pipe;

/// What a pipe did.
pub(super) enum Spliced {
    /// So many bytes moved; from a socket, 0 is its end.
    Moved(usize),
    /// None at this moment.
    WouldBlock,
    /// The socket broke.
    Failed,
}

#[cfg(target_os = "linux")]
mod linux {
    use super::Spliced;
    use crate::tunnel::Transport;
    use nix::errno::Errno;
    use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
    use nix::unistd::{pipe2, read};
    use std::cell::RefCell;
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// What a pipe is asked to hold, bytes. One page slot holds one segment, however short, so a
    /// network with small segments needs many slots.
    const CAPACITY: usize = 512 * 1024;

    /// Pipes of the whole process, in use or not. Each may hold its capacity for a receiver that
    /// does not read, and all count against the user's 64 MiB (`pipe-user-pages-soft`), beyond
    /// which the kernel gives only tiny ones.
    const MAX_PIPES: usize = 64;

    /// Empty pipes that a thread keeps for the next large frame.
    const SPARE: usize = 8;

    static PIPES: AtomicUsize = AtomicUsize::new(0);

    thread_local! {
        static POOL: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    }

    #[derive(Debug)]
    struct Ends {
        read: OwnedFd,
        write: OwnedFd,
    }

    impl Ends {
        fn open() -> Option<Ends> {
            if PIPES.fetch_add(1, Relaxed) >= MAX_PIPES {
                PIPES.fetch_sub(1, Relaxed);
                return None;
            }
            let Ok((read, write)) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC) else {
                PIPES.fetch_sub(1, Relaxed);
                return None;
            };
            // From here on the drop counts it out again.
            let ends = Ends { read, write };
            fcntl(&ends.write, FcntlArg::F_SETPIPE_SZ(CAPACITY as i32)).ok()?;
            Some(ends)
        }
    }

    impl Drop for Ends {
        fn drop(&mut self) {
            PIPES.fetch_sub(1, Relaxed);
        }
    }

    /// A pipe on loan from its thread's pool. Goes back when it is dropped empty.
    #[derive(Debug)]
    pub(in crate::tunnel) struct Pipe {
        /// `None` only while it is dropped.
        ends: Option<Ends>,
        held: usize,
    }

    impl Pipe {
        /// A pipe between two streams; `None` when they cannot be spliced or no pipe is left.
        pub(in crate::tunnel) fn between(from: &Transport, to: &Transport) -> Option<Pipe> {
            from.socket().and(to.socket())?;
            let spare = POOL.with_borrow_mut(Vec::pop);
            let ends = spare.or_else(Ends::open)?;
            Some(Pipe {
                ends: Some(ends),
                held: 0,
            })
        }

        /// Bytes that came and have not gone.
        pub(in crate::tunnel) fn held(&self) -> usize {
            self.held
        }

        /// Takes at most `count` bytes from the socket into the empty pipe.
        pub(in crate::tunnel) fn fill(&mut self, from: &Transport, count: u64) -> Spliced {
            debug_assert_eq!(self.held, 0, "else a full pipe looks like an empty socket");
            let count = usize::try_from(count).map_or(CAPACITY, |count| count.min(CAPACITY));
            let (Some(from), Some(ends)) = (from.socket(), &self.ends) else {
                return Spliced::Failed;
            };
            let spliced = result(splice(from, None, &ends.write, None, count, flags()));
            if let Spliced::Moved(count) = spliced {
                self.held = count;
            }
            spliced
        }

        /// Gives what it holds to the socket, as far as that takes it.
        pub(in crate::tunnel) fn drain(&mut self, to: &Transport) -> Spliced {
            let (Some(to), Some(ends)) = (to.socket(), &self.ends) else {
                return Spliced::Failed;
            };
            let spliced = result(splice(&ends.read, None, to, None, self.held, flags()));
            if let Spliced::Moved(count) = spliced {
                self.held -= count;
            }
            spliced
        }

        /// Takes some bytes out by copying. `None` when the pipe broke.
        pub(in crate::tunnel) fn copy_out(&mut self, buffer: &mut [u8]) -> Option<usize> {
            let ends = self.ends.as_ref()?;
            let count = read(&ends.read, buffer).ok().filter(|&count| count > 0)?;
            self.held -= count;
            Some(count)
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            // What is left in it belongs to a session that is over: such a pipe is closed.
            if self.held == 0
                && let Some(ends) = self.ends.take()
            {
                // Without a pool, in a thread that ends, it is closed too.
                let _ = POOL.try_with(|pool| {
                    let mut pool = pool.borrow_mut();
                    if pool.len() < SPARE {
                        pool.push(ends);
                    }
                });
            }
        }
    }

    fn flags() -> SpliceFFlags {
        SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
    }

    fn result(result: nix::Result<usize>) -> Spliced {
        match result {
            Ok(count) => Spliced::Moved(count),
            Err(Errno::EAGAIN | Errno::EINTR) => Spliced::WouldBlock,
            Err(_) => Spliced::Failed,
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{Pipe, Spliced};
    use crate::tunnel::Transport;
    use std::io;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    /// A connection: its far end, and the tunnel's.
    async fn connection() -> io::Result<(TcpStream, Transport)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let far = TcpStream::connect(listener.local_addr()?);
        let (far, near) = tokio::join!(far, listener.accept());
        Ok((far?, Transport::Plain(near?.0)))
    }

    #[tokio::test]
    async fn only_plain_connections_get_a_pipe() {
        let (_far, plain) = connection().await.unwrap();
        let boxed = Transport::Boxed(Box::new(tokio::io::duplex(64).0));
        assert!(Pipe::between(&plain, &boxed).is_none());
        assert!(Pipe::between(&boxed, &plain).is_none());
    }

    #[tokio::test]
    async fn pipes_are_few_and_come_back_but_not_with_something_in_them() {
        let (mut far_one, one) = connection().await.unwrap();
        let (mut far_other, other) = connection().await.unwrap();
        let pipes: Vec<_> = (0..1000)
            .map_while(|_| Pipe::between(&one, &other))
            .collect();
        assert!(pipes.len() <= 64, "{} pipes", pipes.len());
        // From here on this thread has pipes of its own, whatever other tests do.
        drop(pipes);
        far_one.write_all(b"in the pipe, behind it").await.unwrap();
        let Transport::Plain(socket) = &one else {
            unreachable!("it was made plain");
        };
        socket.readable().await.unwrap();
        let mut pipe = Pipe::between(&one, &other).expect("a pipe is left");
        assert!(matches!(pipe.fill(&one, 11), Spliced::Moved(11)));
        let mut first = [0; 3];
        assert_eq!(pipe.copy_out(&mut first), Some(3));
        assert!(matches!(pipe.drain(&other), Spliced::Moved(8)));
        let mut rest = [0; 8];
        far_other.read_exact(&mut rest).await.unwrap();
        assert_eq!((&first, &rest), (b"in ", b"the pipe"));
        assert!(matches!(pipe.fill(&one, 2), Spliced::Moved(2)));
        drop(pipe);
        let mut fresh = Pipe::between(&one, &other).expect("a pipe is left");
        assert_eq!(fresh.held(), 0);
        assert!(matches!(fresh.fill(&one, 100), Spliced::Moved(9)));
        let mut rest = [0; 9];
        assert_eq!(fresh.copy_out(&mut rest), Some(9));
        assert_eq!(&rest, b"behind it");
        assert!(matches!(fresh.fill(&one, 100), Spliced::WouldBlock));
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use super::Spliced;
    use crate::tunnel::Transport;

    /// There is none.
    #[derive(Debug)]
    pub(in crate::tunnel) enum Pipe {}

    impl Pipe {
        pub(in crate::tunnel) fn between(_: &Transport, _: &Transport) -> Option<Pipe> {
            None
        }

        pub(in crate::tunnel) fn held(&self) -> usize {
            match *self {}
        }

        pub(in crate::tunnel) fn fill(&mut self, _: &Transport, _: u64) -> Spliced {
            match *self {}
        }

        pub(in crate::tunnel) fn drain(&mut self, _: &Transport) -> Spliced {
            match *self {}
        }

        pub(in crate::tunnel) fn copy_out(&mut self, _: &mut [u8]) -> Option<usize> {
            match *self {}
        }
    }
}
