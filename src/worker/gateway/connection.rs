//! One connection at a worker's gateway, from its first byte to its last.

use super::contexts::Contexts;
use super::request::{self, MAX_HEAD, Request, end_of, with_path, without_header};
use super::routes::{Connections, Upstream};
use super::{PendingConnection, Shared, live, own};
use crate::metrics::TEXT_FORMAT;
use crate::tunnel::{Ends, Side, Traffic, Transport, pass_on, send_last};
use crate::worker::address::ServerAddress;
use crate::worker::screencast::ShownBrowser;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// First read of a head: a client's handshake is some 500 bytes.
const HEAD_READ: usize = 2048;
/// How long a whole head may take.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// How long a browser server may take to answer a handshake. Proxies have less patience.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// Longest answer of a browser server to a handshake that is read.
const MAX_ANSWER: usize = 16 * 1024;
const MAX_ANSWER_HEADERS: usize = 48;
/// What a client offers to agree on, such as compression.
pub(super) const EXTENSIONS: &str = "sec-websocket-extensions";

/// An answer that is not a session.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    kind: &'static str,
    body: Vec<u8>,
}

impl Answer {
    pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Answer {
        Answer {
            status,
            kind: "text/plain; charset=utf-8",
            body: (body.into() + "\n").into_bytes(),
        }
    }

    pub(super) fn plain(status: StatusCode) -> Answer {
        Answer::text(status, status.canonical_reason().unwrap_or_default())
    }

    /// What it says.
    pub(super) fn words(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(mut stream: TcpStream, shared: Arc<Shared>, pending: PendingConnection) {
    let mut head = BytesMut::with_capacity(HEAD_READ);
    let read = timeout(HEAD_TIME, read_head(&mut stream, &mut head, MAX_HEAD)).await;
    let answer = match read {
        Ok(Ok(Some(end))) => {
            let early = head.split_off(end).freeze();
            match request::parse(&head) {
                Request::Session { path } => match shared.routes.find(&path) {
                    Some(connections) => {
                        drop(pending);
                        match connections.upstream() {
                            Upstream::Server(server) => {
                                session(&shared, &connections, server, stream, head, early).await;
                            }
                            Upstream::Own(seats) => {
                                own::session(&shared, &connections, seats, stream, head, early)
                                    .await;
                            }
                        }
                        return;
                    }
                    None => Answer::plain(StatusCode::NOT_FOUND),
                },
                Request::Live { path, session } => match begin_viewing(&shared, &path, &session) {
                    Ok(viewer) => {
                        drop(pending);
                        shared.metrics.gateway_answers(StatusCode::OK).inc();
                        return live::serve(stream, viewer).await;
                    }
                    Err(answer) => answer,
                },
                wanted => page(&shared, &wanted),
            }
        }
        Ok(Ok(None)) => Answer::plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        // Who is gone, or has said nothing at all, gets no answer.
        Ok(Err(_)) => return,
        Err(_) if head.is_empty() => return,
        Err(_) => Answer::plain(StatusCode::REQUEST_TIMEOUT),
    };
    shared.metrics.gateway_answers(answer.status).inc();
    send_answer(stream, answer).await;
}

/// Lets in who shows the path of a browser that is there.
fn begin_viewing(shared: &Shared, path: &str, session: &str) -> Result<live::Viewer, Answer> {
    match shared.routes.find(path) {
        Some(_) => shared.live_views.begin(session),
        None => Err(Answer::plain(StatusCode::NOT_FOUND)),
    }
}

/// Reads until a head is whole, and says where it ends; `None` when it is too long.
async fn read_head(
    stream: &mut (impl AsyncReadExt + Unpin),
    head: &mut BytesMut,
    max: usize,
) -> io::Result<Option<usize>> {
    loop {
        let seen = head.len();
        if stream.read_buf(head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match end_of(head, seen) {
            Some(end) if end <= max => return Ok(Some(end)),
            None if head.len() <= max => {}
            _ => return Ok(None),
        }
    }
}

fn page(shared: &Shared, wanted: &Request) -> Answer {
    match wanted {
        Request::Health => Answer::text(StatusCode::OK, "ok"),
        Request::Readiness if shared.routes.any_serves() => Answer::text(StatusCode::OK, "ready"),
        Request::Readiness => {
            let why = "the worker has no browser that serves";
            Answer::text(StatusCode::SERVICE_UNAVAILABLE, why)
        }
        Request::Metrics => {
            let (browsers, sessions) = shared.routes.count();
            Answer {
                status: StatusCode::OK,
                kind: TEXT_FORMAT,
                body: shared.metrics.text(browsers, sessions),
            }
        }
        Request::Answers { path } => match shared.routes.find(path).map(|it| it.closed()) {
            Some(None) => Answer::plain(StatusCode::OK),
            Some(Some(why)) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, why),
            None => Answer::plain(StatusCode::NOT_FOUND),
        },
        Request::Refused(status) => Answer::plain(*status),
        Request::Session { .. } | Request::Live { .. } => Answer::plain(StatusCode::NOT_FOUND),
    }
}

/// Sends an answer that is no session, and hangs up.
pub(super) async fn send_answer(stream: TcpStream, answer: Answer) {
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n",
        answer.status.as_str(),
        answer.status.canonical_reason().unwrap_or_default(),
        answer.kind,
        answer.body.len(),
    );
    send_last(stream, &[head.as_bytes(), &answer.body].concat()).await;
}

/// A session: shakes hands with what stands behind the path, and passes on what both sides say.
async fn session(
    shared: &Shared,
    connections: &Connections,
    server: &ServerAddress,
    mut client: TcpStream,
    head: BytesMut,
    early: Bytes,
) {
    let (guard, stop) = connections.enter();
    let screen = shared.live_views.add(&head);
    let opening = open(connections, server, &head, screen.is_some());
    let answered = timeout(ANSWER_TIME, opening);
    let answered = tokio::select! {
        answered = answered => answered,
        () = client_gone(&client) => return,
    };
    let failed = |why: String| Answer::text(StatusCode::SERVICE_UNAVAILABLE, why);
    let answer = match answered {
        Ok(Ok(HandshakeAnswer::Accepted {
            stream,
            answer,
            early: said,
        })) => {
            shared
                .metrics
                .gateway_answers(StatusCode::SWITCHING_PROTOCOLS)
                .inc();
            if client.write_all(&answer).await.is_err() {
                return;
            }
            let (stream, screen) = match screen {
                None => (stream, None),
                Some((screen, contexts)) => {
                    let browser = connections.shown().cloned();
                    let stream = overhear(&screen, browser, contexts, stream, &said);
                    (stream, Some(screen))
                }
            };
            let side = |stream, early| Side { stream, early };
            let ends = Ends {
                client: side(Transport::from(client), early),
                worker: side(stream, said),
            };
            // Not kept while the session lasts.
            drop((head, answer));
            let over = pass_on(ends, Arc::new(Traffic::new()), stop).await;
            drop(screen);
            over.client_gone().await;
            return drop(guard);
        }
        Ok(Ok(HandshakeAnswer::Refused(status))) => Answer::plain(status),
        Ok(Err(error)) => failed(format!("the browser server does not answer: {error}")),
        Err(_) => failed(format!(
            "the browser server did not answer within {ANSWER_TIME:?}"
        )),
    };
    drop(guard);
    shared.metrics.gateway_answers(answer.status).inc();
    send_answer(client, answer).await;
}

/// Shakes hands with a browser that takes sessions, for one that can be looked at or not.
async fn open(
    connections: &Connections,
    server: &ServerAddress,
    head: &[u8],
    is_shown: bool,
) -> io::Result<HandshakeAnswer> {
    if let Some(why) = connections.closed() {
        return Err(io::Error::other(why));
    }
    if is_shown {
        // What is compressed would not tell whose a context is.
        return shake_hands(server, &without_header(head, EXTENSIONS)).await;
    }
    shake_hands(server, head).await
}

/// Lets a session that has its browser be looked at: notes which contexts are its own.
pub(super) fn overhear(
    screen: &live::ScreenGuard,
    browser: Option<Arc<ShownBrowser>>,
    mut contexts: Contexts,
    server: Transport,
    said: &[u8],
) -> Transport {
    if let Some(browser) = browser {
        screen.has_browser(browser);
    }
    contexts.hear(said);
    server.overheard(move |bytes| {
        contexts.hear(bytes);
        ControlFlow::Continue(())
    })
}

/// What a browser server says to a handshake.
pub(super) enum HandshakeAnswer {
    Accepted {
        stream: Transport,
        answer: BytesMut,
        early: Bytes,
    },
    Refused(StatusCode),
}

pub(super) async fn shake_hands(
    server: &ServerAddress,
    head: &[u8],
) -> io::Result<HandshakeAnswer> {
    let mut stream = Transport::from(server.connect().await?);
    stream.write_all(&with_path(head, server.path())).await?;
    let mut answer = BytesMut::with_capacity(HEAD_READ);
    let garbage = || io::Error::other("its answer is no HTTP");
    let end = read_head(&mut stream, &mut answer, MAX_ANSWER).await?;
    let early = answer.split_off(end.ok_or_else(garbage)?).freeze();
    let mut headers = [httparse::EMPTY_HEADER; MAX_ANSWER_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    parsed.parse(&answer).map_err(|_| garbage())?;
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| garbage())?;
    Ok(match status {
        StatusCode::SWITCHING_PROTOCOLS => HandshakeAnswer::Accepted {
            stream,
            answer,
            early,
        },
        status => HandshakeAnswer::Refused(status),
    })
}

/// Returns when the client has hung up without having said anything more.
pub(super) async fn client_gone(client: &TcpStream) {
    // Who talks before its answer is there is looked after when it has come.
    if !matches!(client.peek(&mut [0]).await, Ok(0) | Err(_)) {
        std::future::pending::<()>().await;
    }
}
