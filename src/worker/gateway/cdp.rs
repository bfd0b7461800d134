//! A session of the DevTools protocol: messages of a WebSocket on one side, of the browser's pipe on the
//! other. Nothing is held but the piece that is on its way, however large a message is.
//!
//! [`Reader`] takes the client's frames apart (RFC 6455, section 5); it is pure. What the browser says
//! goes out in frames as it comes, each message in one or several.

use super::downloads::Downloads;
use crate::tunnel::Close;
use crate::tunnel::frame::{put_close, put_frame};
use crate::tunnel::protocol::{
    CLOSE, CONTINUATION, FIN, MASKED, MAX_CONTROL, OPCODE, OPCODES, PING, PONG, TEXT, code,
};
use crate::worker::own::OwnBrowser;
use crate::worker::own::pipe::{END, Pipe};
use bytes::Bytes;
use std::ffi::CStr;
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
/// Largest message of a client, in bytes. A browser ends itself over one that does not fit, with the NUL at
/// its end, into 100 MiB (`kReceiveBufferSizeForDevTools` of its `devtools_pipe_handler.cc`).
const MAX_MESSAGE: u64 = (100 << 20) - 1;
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

/// A client whose session is over, and the Close frame that it has yet to be sent.
pub(super) struct Closing {
    pub(super) client: TcpStream,
    pub(super) close: Vec<u8>,
}

/// Serves a client that has its 101. Its browser has had its time when this returns, whatever the client
/// still has to be told.
pub(super) async fn session(
    mut client: TcpStream,
    early: Bytes,
    asked: oneshot::Receiver<Result<OwnBrowser<Pipe>, String>>,
    stop: oneshot::Receiver<Close>,
) -> Option<Closing> {
    let closing = |client, code, reason: &str| {
        let mut close = Vec::new();
        put_close(&mut close, code, reason, false);
        Some(Closing { client, close })
    };
    let started = tokio::select! {
        started = asked => started.unwrap_or_else(|_| Err("the worker is ending".to_owned())),
        () = super::connection::client_gone(&client) => return None,
    };
    let OwnBrowser { way, held } = match started {
        Ok(browser) => browser,
        Err(why) => {
            let reason = format!("playhouse: the browser did not start: {why}");
            return closing(client, code::INTERNAL_ERROR, &reason);
        }
    };
    let (commands, _) = split(way.commands);
    let (_, answers) = split(way.answers);
    let (from_client, to_client) = client.split();
    let (controls, waiting) = mpsc::channel(CONTROLS);
    let end = {
        let up = pass_up(from_client, early, commands, controls);
        let down = pass_down(answers, to_client, waiting);
        tokio::select! {
            end = up => end,
            end = down => end,
            Ok(close) = stop => End::Told(code::INTERNAL_ERROR, close.reason().to_owned()),
        }
    };
    drop(held);
    match end {
        End::Gone => None,
        End::Told(code, reason) => closing(client, code, &reason),
    }
}

fn split(stream: tokio::net::UnixStream) -> (ToBrowser, FromBrowser) {
    let (read, write) = stream.into_split();
    (write, read)
}

/// From the client to the browser.
async fn pass_up(
    mut client: ReadHalf<'_>,
    early: Bytes,
    mut browser: ToBrowser,
    controls: mpsc::Sender<Vec<u8>>,
) -> End {
    let mut reader = Reader::default();
    let mut downloads = Downloads::default();
    let mut bytes = early.to_vec();
    loop {
        let mut rest = &mut bytes[..];
        while !rest.is_empty() {
            let (taken, event) = reader.advance(rest);
            let (piece, after) = rest.split_at_mut(taken);
            let done = match event {
                Event::Nothing => Ok(()),
                Event::Payload { from, ends } => {
                    let piece = downloads.pass(&piece[from..], ends);
                    match pass_piece(&mut browser, &piece, ends).await {
                        Ok(passed) => passed,
                        Err(_) => {
                            let reason = "playhouse: the browser does not listen".to_owned();
                            return End::Told(code::INTERNAL_ERROR, reason);
                        }
                    }
                }
                Event::Ping(payload) => {
                    // A client that pings faster than it reads misses some pongs.
                    controls.try_send(control(PONG, &payload)).ok();
                    Ok(())
                }
                Event::Close(code) => {
                    return End::Told(code.unwrap_or(code::NORMAL), String::new());
                }
                Event::Wrong(code, why) => return End::Told(code, format!("playhouse: {why}")),
            };
            if done.is_err() {
                // Its end says why.
                return std::future::pending().await;
            }
            rest = after;
        }
        bytes.resize(PIECE, 0);
        match client.read(&mut bytes).await {
            Ok(0) | Err(_) => return End::Gone,
            Ok(read) => bytes.truncate(read),
        }
    }
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
async fn pass_down(
    mut browser: FromBrowser,
    mut client: WriteHalf<'_>,
    mut controls: mpsc::Receiver<Vec<u8>>,
) -> End {
    let mut bytes = vec![0; PIECE];
    let mut frames = Vec::with_capacity(PIECE + 64);
    // Whether the message that comes has begun.
    let mut within = false;
    loop {
        frames.clear();
        tokio::select! {
            read = browser.read(&mut bytes) => match read {
                Ok(0) | Err(_) => {
                    let reason = "playhouse: the browser has ended".to_owned();
                    return End::Told(code::INTERNAL_ERROR, reason);
                }
                Ok(read) => put_messages(&bytes[..read], &mut within, &mut frames),
            },
            Some(control) = controls.recv() => frames.extend_from_slice(&control),
        }
        if client.write_all(&frames).await.is_err() {
            return End::Gone;
        }
    }
}

/// Puts what came of messages that end in NUL into frames.
fn put_messages(mut bytes: &[u8], within: &mut bool, frames: &mut Vec<u8>) {
    while !bytes.is_empty() {
        // The library looks for a NUL many bytes at a time.
        let end = CStr::from_bytes_until_nul(bytes).ok();
        let end = end.map(CStr::count_bytes);
        let piece = &bytes[..end.unwrap_or(bytes.len())];
        let opcode = if *within { CONTINUATION } else { TEXT };
        put_frame(frames, opcode, end.is_some(), piece);
        *within = end.is_none();
        bytes = end.map_or(&[], |end| &bytes[end + 1..]);
    }
}

fn control(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(2 + payload.len());
    put_frame(&mut frame, opcode, true, payload);
    frame
}

/// What a piece of a client's bytes came to.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Nothing,
    /// The taken bytes from here on are payload of a message, unmasked; its last ones if it `ends`.
    Payload {
        from: usize,
        ends: bool,
    },
    Ping(Vec<u8>),
    Close(Option<u16>),
    /// No proper frame: code and reason.
    Wrong(u16, &'static str),
}

/// Takes apart what a client says, in pieces of any size.
#[derive(Debug, Default)]
struct Reader {
    header: Vec<u8>,
    /// Of the current frame; none while its header is not whole.
    frame: Option<Incoming>,
    /// Whether the current message goes on with the next frame.
    within: bool,
    /// Bytes of the current message so far.
    message: u64,
}

#[derive(Debug)]
struct Incoming {
    opcode: u8,
    fin: bool,
    key: [u8; 4],
    /// Bytes that have passed, and those to come.
    passed: usize,
    left: u64,
    /// The payload of a control frame.
    control: Vec<u8>,
}

/// Unmasks payload of which so many bytes have passed (RFC 6455, section 5.3), eight at a time: a
/// message may have 100 MiB.
fn unmask(payload: &mut [u8], mut key: [u8; 4], passed: usize) {
    key.rotate_left(passed % 4);
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

impl Reader {
    /// Takes some bytes, at least one; unmasks what is payload.
    fn advance(&mut self, bytes: &mut [u8]) -> (usize, Event) {
        let mut from = 0;
        if self.frame.is_none() {
            from = match self.read_header(bytes) {
                Ok(taken) => taken,
                Err((code, why)) => return (bytes.len(), Event::Wrong(code, why)),
            };
        }
        let Some(frame) = &mut self.frame else {
            return (from, Event::Nothing);
        };
        let rest = &mut bytes[from..];
        let take = usize::try_from(frame.left).map_or(rest.len(), |left| left.min(rest.len()));
        unmask(&mut rest[..take], frame.key, frame.passed);
        frame.passed = (frame.passed + take) % 4;
        frame.left -= take as u64;
        let is_control = frame.opcode & 0x8 != 0;
        if is_control {
            frame.control.extend_from_slice(&rest[..take]);
        }
        let whole = frame.left == 0;
        let event = match (is_control, whole) {
            (false, _) => Event::Payload {
                from,
                ends: whole && frame.fin,
            },
            (true, false) => Event::Nothing,
            (true, true) => match (frame.opcode, &frame.control[..]) {
                (CLOSE, [a, b, ..]) => Event::Close(Some(u16::from_be_bytes([*a, *b]))),
                (CLOSE, _) => Event::Close(None),
                (PING, payload) => Event::Ping(payload.to_vec()),
                _ => Event::Nothing,
            },
        };
        if let Event::Payload { ends, .. } = event {
            self.message = if ends { 0 } else { self.message + take as u64 };
        }
        if whole {
            self.frame = None;
            self.header.clear();
        }
        (from + take, event)
    }

    /// Takes header bytes until the header is whole; how many.
    fn read_header(&mut self, bytes: &[u8]) -> Result<usize, (u16, &'static str)> {
        for (n, byte) in bytes.iter().enumerate() {
            self.header.push(*byte);
            let header = &self.header;
            if header.len() < 2 {
                continue;
            }
            let length = match header[1] & 0x7f {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            if header.len() < 2 + length + 4 {
                continue;
            }
            if header[1] & MASKED == 0 {
                return Err((code::PROTOCOL_ERROR, "a client masks its frames"));
            }
            if header[0] & 0x70 != 0 {
                return Err((code::PROTOCOL_ERROR, "no extension was agreed on"));
            }
            let (opcode, fin) = (header[0] & OPCODE, header[0] & FIN != 0);
            if !OPCODES.contains(&opcode) {
                return Err((code::PROTOCOL_ERROR, "there is no such kind of frame"));
            }
            let left = match &header[2..2 + length] {
                [] => u64::from(header[1] & 0x7f),
                bytes => bytes
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
            };
            let mut key = [0; 4];
            key.copy_from_slice(&header[2 + length..2 + length + 4]);
            self.check(opcode, fin, left)?;
            self.frame = Some(Incoming {
                opcode,
                fin,
                key,
                passed: 0,
                left,
                control: Vec::new(),
            });
            return Ok(n + 1);
        }
        Ok(bytes.len())
    }

    /// Whether a frame may come where it does.
    fn check(&mut self, opcode: u8, fin: bool, left: u64) -> Result<(), (u16, &'static str)> {
        if opcode & 0x8 != 0 {
            return match left <= MAX_CONTROL as u64 && fin {
                true => Ok(()),
                false => Err((code::PROTOCOL_ERROR, "a control frame is short and whole")),
            };
        }
        if (opcode == CONTINUATION) != self.within {
            return Err((
                code::PROTOCOL_ERROR,
                "a message begins once, and goes on to its end",
            ));
        }
        if self.message.saturating_add(left) > MAX_MESSAGE {
            return Err((code::TOO_LARGE, "a message has less than 100 MiB"));
        }
        self.within = !fin;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::protocol::BINARY;
    use proptest::prelude::*;

    fn masked(opcode: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        put_frame(&mut frame, opcode, fin, payload);
        let at = frame.len() - payload.len();
        frame[1] |= MASKED;
        let key = [1, 2, 3, 4];
        let payload: Vec<u8> = payload
            .iter()
            .zip(key.iter().cycle())
            .map(|(b, k)| b ^ k)
            .collect();
        [&frame[..at], &key, &payload].concat()
    }

    /// What a browser would read, and what else happened.
    fn read(pieces: impl IntoIterator<Item = Vec<u8>>) -> (Vec<u8>, Vec<Event>) {
        let (mut reader, mut pipe, mut others) = (Reader::default(), Vec::new(), Vec::new());
        for mut piece in pieces {
            let mut rest = &mut piece[..];
            while !rest.is_empty() {
                let (taken, event) = reader.advance(rest);
                let (now, after) = rest.split_at_mut(taken);
                match event {
                    Event::Nothing => {}
                    Event::Payload { from, ends } => {
                        pipe.extend_from_slice(&now[from..]);
                        pipe.extend(ends.then_some(END));
                    }
                    other => others.push(other),
                }
                rest = after;
            }
        }
        (pipe, others)
    }

    proptest! {
        /// However the bytes are cut, and whatever comes between the frames of a message.
        #[test]
        fn messages_reach_the_pipe_as_they_are(
            messages in prop::collection::vec(prop::collection::vec(1u8.., 0..300), 1..6),
            frames in 1usize..4,
            cut in 1usize..50,
        ) {
            let mut wire = Vec::new();
            let mut expected = Vec::new();
            for message in &messages {
                let length = message.len().div_ceil(frames).max(1);
                let parts: Vec<&[u8]> = message.chunks(length).collect();
                let parts = if parts.is_empty() { vec![&[][..]] } else { parts };
                for (n, part) in parts.iter().enumerate() {
                    let opcode = if n == 0 { TEXT } else { CONTINUATION };
                    wire.extend(masked(opcode, n + 1 == parts.len(), part));
                    wire.extend(masked(PING, true, b"?"));
                }
                expected.extend_from_slice(message);
                expected.push(END);
            }
            let pieces = wire.chunks(cut).map(<[u8]>::to_vec);
            let (pipe, others) = read(pieces);
            prop_assert_eq!(pipe, expected);
            prop_assert!(others.iter().all(|it| *it == Event::Ping(b"?".to_vec())));
        }

        #[test]
        fn what_the_browser_says_is_whole_messages(
            messages in prop::collection::vec(prop::collection::vec(1u8.., 0..70_000), 1..4),
            cut in 1usize..70_000,
        ) {
            let pipe: Vec<u8> = messages.iter().flat_map(|it| [&it[..], &[END]].concat()).collect();
            let (mut within, mut frames) = (false, Vec::new());
            for piece in pipe.chunks(cut) {
                put_messages(piece, &mut within, &mut frames);
            }
            let mut tracker = crate::tunnel::frame::Tracker::new();
            let (mut rest, mut ended) = (&frames[..], 0);
            while !rest.is_empty() {
                let (taken, frame) = tracker.advance(rest);
                ended += usize::from(frame.is_some_and(|frame| frame.ends_message()));
                rest = &rest[taken..];
            }
            prop_assert!(tracker.at_boundary() && !within);
            prop_assert_eq!(ended, messages.len());
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in any::<Vec<u8>>(), cut in 1usize..9) {
            read(bytes.chunks(cut).map(<[u8]>::to_vec));
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_code() {
        let wrong = |bytes: Vec<u8>| match read([bytes]).1.remove(0) {
            Event::Wrong(code, _) => code,
            other => panic!("{other:?}"),
        };
        let mut unmasked = Vec::new();
        put_frame(&mut unmasked, TEXT, true, b"hello");
        assert_eq!(wrong(unmasked), code::PROTOCOL_ERROR);
        let mut deflated = masked(TEXT, true, b"hello");
        deflated[0] |= 0x40;
        assert_eq!(wrong(deflated), code::PROTOCOL_ERROR);
        let large = [
            &[TEXT | FIN, 127 | MASKED][..],
            &(MAX_MESSAGE + 1).to_be_bytes(),
            &[0; 4],
        ];
        assert_eq!(wrong(large.concat()), code::TOO_LARGE);
        assert_eq!(wrong(masked(PING, true, &[0; 126])), code::PROTOCOL_ERROR);
        for reserved in [0x3, 0x7, 0xb, 0xf] {
            assert_eq!(
                wrong(masked(reserved, true, b"hello")),
                code::PROTOCOL_ERROR
            );
        }
        assert_eq!(
            wrong(masked(CONTINUATION, true, b"hello")),
            code::PROTOCOL_ERROR
        );
        let twice = [masked(TEXT, false, b"a"), masked(TEXT, true, b"b")];
        assert_eq!(wrong(twice.concat()), code::PROTOCOL_ERROR);
        assert_eq!(read([masked(BINARY, true, b"hello")]).1, []);
        let closed = read([masked(CLOSE, true, &[0x03, 0xe9, b'x'])]).1;
        assert_eq!(closed, [Event::Close(Some(1001))]);
    }

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
        let end = pass_up(from_client, Bytes::new(), commands, controls).await;
        talking.abort();
        let End::Told(code, reason) = end else {
            panic!("it has no reason");
        };
        assert_eq!(code, code::INTERNAL_ERROR);
        assert!(reason.contains("does not listen"), "{reason}");
    }
}
