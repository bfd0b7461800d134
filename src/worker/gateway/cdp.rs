//! A session of the DevTools protocol: messages of a WebSocket on one side, of the browser's pipe on the
//! other. Nothing is held but the piece that is on its way, however large a message is.
//!
//! [`Reader`] takes the client's frames apart. What the browser says goes out in frames as it comes
//! ([`PipeMessages`]). The commands of its checks go between the client's.

use super::client_frames::{FramePart, Reader};
use super::downloads::Downloads;
use super::pipe_messages::PipeMessages;
use crate::tunnel::Close;
use crate::tunnel::frame::{put_close, put_frame};
use crate::tunnel::protocol::{PONG, code};
use crate::worker::own::OwnBrowser;
use crate::worker::own::pipe::{END, Pipe};
use crate::worker::own::pipe_prober::{CheckCommand, Checked, HeldUp};
use bytes::Bytes;
use serde_json::Value;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::unix::{OwnedReadHalf as FromBrowser, OwnedWriteHalf as ToBrowser};
use tokio::sync::{mpsc, oneshot};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// What one read takes.
const PIECE: usize = 64 * 1024;
/// How long a browser may take nothing of what a client says.
const STALL: Duration = Duration::from_secs(60);
/// Control frames that wait to be sent.
const CONTROLS: usize = 8;

/// How a session came to its end.
enum End {
    /// The client has gone.
    Gone,
    /// Somebody has to be told: a code and the reason.
    Told(u16, String),
}

/// A client whose session is over, and what it has yet to be sent: the rest of a frame and the Close frame.
pub(super) struct Closing {
    pub(super) client: TcpStream,
    pub(super) close: Vec<u8>,
}

/// Frames on their way to the client. They outlive the future that sends them: a Close frame is readable
/// behind a whole one only.
#[derive(Default)]
struct Outgoing {
    frames: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// Sends what there is; what has been sent is known however early the future is dropped.
    async fn send(&mut self, client: &mut WriteHalf<'_>) -> io::Result<()> {
        while self.sent < self.frames.len() {
            match client.write(&self.frames[self.sent..]).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                sent => self.sent += sent,
            }
        }
        self.frames.clear();
        self.sent = 0;
        Ok(())
    }

    fn rest(&self) -> &[u8] {
        &self.frames[self.sent..]
    }
}

/// Serves a client that has its 101. Its browser has had its time when this returns, whatever the client
/// still has to be told.
pub(super) async fn session(
    mut client: TcpStream,
    early: Bytes,
    asked: oneshot::Receiver<Result<OwnBrowser<Pipe>, String>>,
    stop: oneshot::Receiver<Close>,
) -> Option<Closing> {
    let closing = |client, rest: &[u8], code, reason: &str| {
        let mut close = rest.to_vec();
        put_close(&mut close, code, reason, false);
        Some(Closing { client, close })
    };
    let started = tokio::select! {
        started = asked => started.unwrap_or_else(|_| Err("the worker is ending".to_owned())),
        () = super::connection::client_gone(&client) => return None,
    };
    let OwnBrowser { way, broken, held } = match started {
        Ok(browser) => browser,
        Err(why) => {
            let reason = format!("playhouse: the browser did not start: {why}");
            return closing(client, &[], code::INTERNAL_ERROR, &reason);
        }
    };
    let (commands, _) = split(way.commands);
    let (_, answers) = split(way.answers);
    let (from_client, to_client) = client.split();
    let (controls, waiting) = mpsc::channel(CONTROLS);
    let Checked {
        commands: of_checks,
        answers: to_checks,
        held_up,
    } = way.checked;
    let mut outgoing = Outgoing::default();
    let end = {
        let up = pass_up(from_client, early, commands, controls, of_checks);
        let down = Down {
            browser: answers,
            client: to_client,
            controls: waiting,
            to_checks,
            held_up,
        };
        tokio::select! {
            end = up => end,
            end = down.pass(&mut outgoing) => end,
            Ok(close) = stop => End::Told(code::INTERNAL_ERROR, close.reason().to_owned()),
            Ok(why) = broken => {
                let close = Close::worker_condemned(None, &why);
                End::Told(code::INTERNAL_ERROR, close.reason().to_owned())
            }
        }
    };
    drop(held);
    match end {
        End::Gone => None,
        End::Told(code, reason) => closing(client, outgoing.rest(), code, &reason),
    }
}

fn split(stream: tokio::net::UnixStream) -> (ToBrowser, FromBrowser) {
    let (read, write) = stream.into_split();
    (write, read)
}

/// From the client to the browser, and the commands of `checks` between the client's.
async fn pass_up(
    mut client: ReadHalf<'_>,
    early: Bytes,
    mut browser: ToBrowser,
    controls: mpsc::Sender<Vec<u8>>,
    mut checks: mpsc::Receiver<CheckCommand>,
) -> End {
    let (mut reader, mut downloads) = (Reader::default(), Downloads::default());
    let mut bytes = early.to_vec();
    // Whether the browser has only a part of the client's last message.
    let mut within = false;
    loop {
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let (taken, part) = reader.advance(rest);
            let (piece, after) = rest.split_at_mut(taken);
            let done = match part {
                FramePart::Nothing => Ok(()),
                FramePart::Payload { from, ends } => {
                    let piece = downloads.pass(&piece[from..], ends);
                    within = !ends && (within || !piece.is_empty());
                    match pass_piece(&mut browser, &piece, ends).await {
                        Ok(passed) => passed,
                        Err(_) => return does_not_listen(),
                    }
                }
                FramePart::Ping(payload) => {
                    // A client that pings faster than it reads misses some pongs.
                    controls.try_send(control(PONG, &payload)).ok();
                    Ok(())
                }
                FramePart::Close(code) => {
                    return End::Told(code.unwrap_or(code::NORMAL), String::new());
                }
                FramePart::Wrong(code, why) => return End::Told(code, format!("playhouse: {why}")),
            };
            if done.is_err() {
                // Its end says why.
                return std::future::pending().await;
            }
            rest = after;
        }
        bytes.resize(PIECE, 0);
        let read = loop {
            let command = tokio::select! {
                read = client.read(&mut bytes) => break read,
                Some(command) = checks.recv(), if !within => command,
            };
            match pass_check(&mut browser, command).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => return does_not_listen(),
            }
        };
        match read {
            Ok(0) | Err(_) => return End::Gone,
            Ok(read) => bytes.truncate(read),
        }
    }
}

/// A command whose answer nobody waits for is not passed.
async fn pass_check(
    browser: &mut ToBrowser,
    command: CheckCommand,
) -> Result<io::Result<()>, Elapsed> {
    match command.written.send(()) {
        Ok(()) => pass_piece(browser, &command.message, false).await,
        Err(()) => Ok(Ok(())),
    }
}

fn does_not_listen() -> End {
    let reason = "playhouse: the browser does not listen".to_owned();
    End::Told(code::INTERNAL_ERROR, reason)
}

/// The inner error is that of the pipe, the outer one that the browser has taken nothing for long: a
/// client that leaves meanwhile would not be noticed.
async fn pass_piece(
    browser: &mut ToBrowser,
    piece: &[u8],
    ends: bool,
) -> Result<io::Result<()>, Elapsed> {
    let passing = async {
        browser.write_all(piece).await?;
        if ends {
            browser.write_all(&[END]).await?;
        }
        Ok(())
    };
    timeout(STALL, passing).await
}

/// From the browser to the client.
struct Down<'a> {
    browser: FromBrowser,
    client: WriteHalf<'a>,
    controls: mpsc::Receiver<Vec<u8>>,
    to_checks: mpsc::Sender<Value>,
    held_up: HeldUp,
}

impl Down<'_> {
    async fn pass(mut self, outgoing: &mut Outgoing) -> End {
        let mut bytes = vec![0; PIECE];
        outgoing.frames.reserve(PIECE + 64);
        let mut messages = PipeMessages::default();
        loop {
            let frames = &mut outgoing.frames;
            tokio::select! {
                read = self.browser.read(&mut bytes) => match read {
                    Ok(0) | Err(_) => {
                        let reason = "playhouse: the browser has ended".to_owned();
                        return End::Told(code::INTERNAL_ERROR, reason);
                    }
                    // More than a check has use for is nothing that it waits for.
                    Ok(read) => messages.put(&bytes[..read], frames, |message| {
                        self.to_checks.try_send(message).ok();
                    }),
                },
                Some(control) = self.controls.recv() => frames.extend_from_slice(&control),
            }
            let waiting = self.held_up.begin();
            if outgoing.send(&mut self.client).await.is_err() {
                return End::Gone;
            }
            drop(waiting);
        }
    }
}

fn control(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(2 + payload.len());
    put_frame(&mut frame, opcode, true, payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::super::client_frames::tests::masked;
    use super::*;
    use crate::tunnel::protocol::{CONTINUATION, TEXT};
    use crate::tunnel::send_last;
    use crate::worker::own::pipe_prober::{FIRST_ID, PipeProber};
    use crate::worker::probe::Probe;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncBufReadExt, BufReader};

    /// Its client may leave meanwhile, and nobody would know: such a browser is not waited for.
    #[tokio::test(start_paused = true)]
    async fn a_browser_that_takes_nothing_ends_its_session() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mut client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let mut accepted = accepted.unwrap().0;
        let (from_client, _to_client) = accepted.split();
        let talking = tokio::spawn(async move {
            let message = masked(TEXT, true, &vec![b'x'; 8 << 20]);
            client.as_mut().unwrap().write_all(&message).await.ok();
            client
        });
        // As a process that is stopped: it is there, and does not read.
        let (ours, _stopped) = tokio::net::UnixStream::pair().unwrap();
        let (commands, _) = split(ours);
        let (controls, _waiting) = mpsc::channel(CONTROLS);
        let (_checks, commands_of_checks) = mpsc::channel(1);
        let end = pass_up(
            from_client,
            Bytes::new(),
            commands,
            controls,
            commands_of_checks,
        )
        .await;
        talking.abort();
        let End::Told(code, reason) = end else {
            panic!("it has no reason");
        };
        assert_eq!(code, code::INTERNAL_ERROR);
        assert!(reason.contains("does not listen"), "{reason}");
    }

    /// A browser that is not there, but for its pipe; a client whose session it is.
    struct Rig {
        client: TcpStream,
        commands: tokio::net::UnixStream,
        answers: tokio::net::UnixStream,
        prober: PipeProber,
        broken: oneshot::Sender<String>,
        session: tokio::task::JoinHandle<Option<Closing>>,
        _stop: oneshot::Sender<Close>,
    }

    async fn rig() -> Rig {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (ours, commands) = tokio::net::UnixStream::pair().unwrap();
        let (ours_too, answers) = tokio::net::UnixStream::pair().unwrap();
        let (prober, checked) = PipeProber::new();
        let way = Pipe {
            commands: ours,
            answers: ours_too,
            checked,
        };
        let (tell, broken) = oneshot::channel();
        let (held, _) = oneshot::channel();
        let (reply, asked) = oneshot::channel();
        reply.send(Ok(OwnBrowser { way, broken, held })).ok();
        let (stop, stopped) = oneshot::channel();
        let accepted = accepted.unwrap().0;
        Rig {
            client: client.unwrap(),
            commands,
            answers,
            prober,
            broken: tell,
            session: tokio::spawn(session(accepted, Bytes::new(), asked, stopped)),
            _stop: stop,
        }
    }

    /// What a browser reads next.
    async fn command(commands: &mut BufReader<tokio::net::UnixStream>) -> Vec<u8> {
        let mut message = Vec::new();
        commands.read_until(END, &mut message).await.unwrap();
        assert_eq!(message.pop(), Some(END));
        message
    }

    #[tokio::test]
    async fn a_check_waits_for_the_end_of_the_clients_message() {
        let mut rig = rig().await;
        let mut commands = BufReader::new(rig.commands);
        let check = tokio::spawn(async move { rig.prober.check(STALL).await });
        let first = command(&mut commands).await;
        assert!(String::from_utf8_lossy(&first).contains("Target.createBrowserContext"));
        // Too long to be held until it is whole.
        let half = vec![b'x'; 5000];
        let begun = masked(TEXT, false, &half);
        rig.client.write_all(&begun).await.unwrap();
        let mut read = vec![0; half.len()];
        commands.read_exact(&mut read).await.unwrap();
        let answer = format!("{{\"id\":{FIRST_ID},\"result\":{{\"browserContextId\":\"C\"}}}}\0");
        rig.answers.write_all(answer.as_bytes()).await.unwrap();
        // What a client is said in between comes through.
        rig.answers.write_all(b"{}\0").await.unwrap();
        let mut heard = [0; 4];
        rig.client.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard[2..], *b"{}");
        let rest = masked(CONTINUATION, true, b"the rest");
        rig.client.write_all(&rest).await.unwrap();
        assert_eq!(command(&mut commands).await, b"the rest");
        let second = command(&mut commands).await;
        assert!(String::from_utf8_lossy(&second).contains("Target.createTarget"));
        check.abort();
    }

    /// However much of a frame has been sent by then.
    #[tokio::test]
    async fn a_client_that_was_sent_half_a_frame_reads_why_its_session_ended() {
        let mut rig = rig().await;
        let written = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&written);
        let talking = tokio::spawn(async move {
            let message = [&vec![b'x'; 300_000][..], &[END]].concat();
            while rig.answers.write_all(&message).await.is_ok() {
                counted.fetch_add(message.len(), Ordering::Relaxed);
            }
        });
        // Until nobody takes anything.
        let mut before = usize::MAX;
        while before != written.load(Ordering::Relaxed) {
            before = written.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        rig.broken.send("the browser hangs".to_owned()).unwrap();
        let Closing { client, close } = rig.session.await.unwrap().expect("it is told");
        talking.abort();
        let closing = tokio::spawn(async move { send_last(client, &close).await });
        let (mut tracker, mut bytes) = (crate::tunnel::frame::Tracker::new(), Vec::new());
        rig.client.read_to_end(&mut bytes).await.unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (taken, _) = tracker.advance(rest);
            rest = &rest[taken..];
        }
        let mut last = Vec::new();
        let why = Close::worker_condemned(None, "the browser hangs");
        put_close(&mut last, code::INTERNAL_ERROR, why.reason(), false);
        assert!(bytes.ends_with(&last));
        let mut before = crate::tunnel::frame::Tracker::new();
        let mut rest = &bytes[..bytes.len() - last.len()];
        while !rest.is_empty() {
            let (taken, _) = before.advance(rest);
            rest = &rest[taken..];
        }
        assert!(before.at_boundary(), "the Close frame is within another");
        drop(rig.client);
        closing.await.unwrap();
    }
}
