//! A session on a browser of its own: takes a seat and a browser, and holds both to its end.
//!
//! A browser that is warm shakes hands itself. Where none is, the gateway says yes in its stead while
//! one starts: that takes longer than a proxy waits for an answer, and the seat is the client's in
//! any case.

use super::connection::{Answer, HandshakeAnswer, client_gone, send_answer, shake_hands};
use super::request::{header, without_header};
use super::routes::Connections;
use super::{Shared, cdp};
use crate::tunnel::{Ends, Link, Side, Traffic, frame, pass_on};
use crate::worker::address::ServerAddress;
use crate::worker::own::{OwnBrowser, OwnSeats};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A proxy that tries whether sessions would be taken, and wants none, says so.
pub const TRIAL_HEADER: &str = "x-playhouse-trial";
/// Which protocol a client speaks, where it is not Playwright's.
pub const PROTOCOL_HEADER: &str = "x-playhouse-protocol";
/// That of Chromium's DevTools.
pub const CDP: &str = "cdp";
/// How long a browser that is warm takes at most to be handed over.
const HANDED_OVER: Duration = Duration::from_millis(100);
/// How long a browser's server may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// How long somebody may take to read a last word.
pub(super) const PARTING: Duration = Duration::from_secs(2);
/// Code of an end that is the worker's fault (RFC 6455, section 7.4.1).
pub(super) const BROKEN: u16 = 1011;
pub(super) const NORMAL: u16 = 1000;

/// A browser that has shaken hands.
struct Opened {
    stream: Link,
    early: Bytes,
    browser: OwnBrowser<ServerAddress>,
}

/// Serves a session to its end.
pub(super) async fn session(
    shared: &Shared,
    connections: &Connections,
    own: &OwnSeats,
    mut client: TcpStream,
    head: BytesMut,
    early: Bytes,
) {
    let answered = |status: StatusCode| shared.metrics.gateway_answers(status).inc();
    let refuse = async |client: TcpStream, answer: Answer| {
        answered(answer.status);
        send_answer(client, answer).await;
    };
    let failed = |why: String| Answer::text(StatusCode::SERVICE_UNAVAILABLE, why);
    if let Some(why) = connections.closed() {
        return refuse(client, failed(why)).await;
    }
    if header(&head, TRIAL_HEADER).is_some() {
        return match own.servers.is_sound() {
            true => say_yes_and_part(client, &head).await,
            false => refuse(client, failed("its browsers do not start".to_owned())).await,
        };
    }
    let (guard, stop) = connections.enter();
    let seat = match own.take_seat().await {
        Ok(seat) => seat,
        Err(why) => return refuse(client, failed(why)).await,
    };
    if header(&head, PROTOCOL_HEADER).as_deref() == Some(CDP) {
        let Some(pipes) = &own.pipes else {
            return refuse(client, failed("its browser does not speak CDP".to_owned())).await;
        };
        let asked = pipes.request().await;
        answered(StatusCode::SWITCHING_PROTOCOLS);
        if say_yes(&mut client, &head).await.is_ok() {
            cdp::session(client, early, asked, stop).await;
        }
        return drop((seat, guard));
    }
    let opened = match open(own, &mut client, &head, &answered).await {
        Ok(opened) => opened,
        Err(answer) => return refuse(client, answer).await,
    };
    drop(head);
    if let Some(Opened {
        stream,
        early: said,
        browser,
    }) = opened
    {
        let side = |stream, early| Side { stream, early };
        let ends = Ends {
            client: side(Link::from(client), early),
            worker: side(stream, said),
        };
        pass_on(ends, Arc::new(Traffic::new()), stop).await;
        drop(browser);
    }
    drop((seat, guard));
}

/// Gets a browser, and has the client's handshake answered. `None` when the client has gone.
///
/// # Errors
///
/// The answer that is no session.
async fn open(
    own: &OwnSeats,
    client: &mut TcpStream,
    head: &[u8],
    answered: &impl Fn(StatusCode),
) -> Result<Option<Opened>, Answer> {
    let failed = |why: String| Answer::text(StatusCode::SERVICE_UNAVAILABLE, why);
    let mut asked = own.servers.request().await;
    // Where browsers do not start, a proxy had better know before its client has an answer.
    let patience = match own.servers.is_sound() {
        true => HANDED_OVER,
        false => HANDSHAKE,
    };
    let warm = tokio::select! {
        warm = timeout(patience, &mut asked) => warm,
        () = client_gone(client) => return Ok(None),
    };
    match warm {
        Ok(Ok(Ok(browser))) => {
            let (opened, answer) = shake(browser, head).await?;
            answered(StatusCode::SWITCHING_PROTOCOLS);
            Ok(client.write_all(&answer).await.map(|()| opened).ok())
        }
        Ok(Ok(Err(why))) => Err(failed(why)),
        Ok(Err(_)) => Err(failed("the worker is ending".to_owned())),
        Err(_) => {
            answered(StatusCode::SWITCHING_PROTOCOLS);
            match say_yes(client, head).await {
                Ok(()) => Ok(wait(client, head, asked).await),
                Err(_) => Ok(None),
            }
        }
    }
}

/// Sends the client's handshake on to its browser.
async fn shake(
    browser: OwnBrowser<ServerAddress>,
    head: &[u8],
) -> Result<(Opened, BytesMut), Answer> {
    let shaken = timeout(HANDSHAKE, shake_hands(&browser.way, head)).await;
    let failed = |why: String| Answer::text(StatusCode::SERVICE_UNAVAILABLE, why);
    match shaken {
        Ok(Ok(HandshakeAnswer::Accepted {
            stream,
            answer,
            early,
        })) => {
            let opened = Opened {
                stream,
                early,
                browser,
            };
            Ok((opened, answer))
        }
        Ok(Ok(HandshakeAnswer::Refused(status))) => Err(Answer::plain(status)),
        Ok(Err(error)) => Err(failed(format!(
            "the browser server does not answer: {error}"
        ))),
        Err(_) => Err(failed(format!(
            "the browser server did not answer within {HANDSHAKE:?}"
        ))),
    }
}

/// Waits for the browser of a client that has its answer. Without one the client is told why.
async fn wait(
    client: &mut TcpStream,
    head: &[u8],
    asked: tokio::sync::oneshot::Receiver<Result<OwnBrowser<ServerAddress>, String>>,
) -> Option<Opened> {
    // Nothing was agreed on but the plain protocol.
    let head = without_header(head, "sec-websocket-extensions");
    let opened = async {
        let browser = match asked.await {
            Ok(browser) => browser?,
            Err(_) => return Err("the worker is ending".to_owned()),
        };
        let shaken = shake(browser, &head).await;
        let (opened, _) = shaken.map_err(|answer| answer.words())?;
        Ok(opened)
    };
    let opened = tokio::select! {
        opened = opened => opened,
        () = client_gone(client) => return None,
    };
    match opened {
        Ok(opened) => Some(opened),
        Err(why) => {
            let reason = format!("playhouse: the browser did not start: {why}");
            part(client, BROKEN, &reason).await;
            None
        }
    }
}

/// Accepts a handshake in the browser's stead.
async fn say_yes(client: &mut TcpStream, head: &[u8]) -> io::Result<()> {
    let key = header(head, "sec-websocket-key").unwrap_or_default();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    client.write_all(answer.as_bytes()).await
}

async fn say_yes_and_part(mut client: TcpStream, head: &[u8]) {
    if say_yes(&mut client, head).await.is_ok() {
        part(&mut client, NORMAL, "").await;
    }
}

/// Closes in order.
pub(super) async fn part(client: &mut TcpStream, code: u16, reason: &str) {
    let mut close = Vec::new();
    frame::put_close(&mut close, code, reason, false);
    let parting = async {
        client.write_all(&close).await?;
        client.shutdown().await?;
        let mut rest = [0; 1024];
        while client.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Who does not listen misses it.
    timeout(PARTING, parting).await.ok();
}
