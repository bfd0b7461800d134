//! A session on a browser of its own: takes a seat and a browser, and holds both to its end.
//!
//! A browser that is warm shakes hands itself. Where none is, the gateway says yes in its stead while
//! one starts: that takes longer than a proxy waits for an answer, and the seat is the client's in
//! any case.

use super::Shared;
use super::cdp::{self, Closing};
use super::connection::{
    Answer, EXTENSIONS, HandshakeAnswer, client_gone, overhear, send_answer, shake_hands,
};
use super::contexts::Contexts;
use super::live::ScreenGuard;
use super::request::{header, without_header};
use super::routes::Connections;
use crate::tunnel::protocol::code;
use crate::tunnel::{Close, Ends, Over, Side, Traffic, Transport, frame, pass_on, send_last};
use crate::worker::address::ServerAddress;
use crate::worker::own::pipe::Pipe;
use crate::worker::own::{OwnBrowser, OwnSeat, OwnSeats};
use crate::worker::screencast::ShownBrowser;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// A proxy that tries whether sessions would be taken, and wants none, says so.
pub const TRIAL_HEADER: &str = "x-playhouse-trial";
/// Which protocol a client speaks, where it is not Playwright's.
pub const PROTOCOL_HEADER: &str = "x-playhouse-protocol";
/// That of Chromium's DevTools.
pub const CDP: &str = "cdp";
/// Launch options of the client, as a proxy that allows them passes them on: JSON. A client's own headers
/// of such names do not get as far as here.
pub const LAUNCH_HEADER: &str = "x-playhouse-launch-options";
/// How long a browser that is warm takes at most to be handed over.
const HANDED_OVER: Duration = Duration::from_millis(100);
/// Most launch options that no browser starts with are found out by then. Less than a proxy's time for
/// a dial.
const FOUND_OUT: Duration = Duration::from_millis(500);
/// How long a browser's server may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// How long a client may take to read why its session ended.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

type Asked = oneshot::Receiver<Result<OwnBrowser<ServerAddress>, String>>;

/// A browser that somebody waits for.
struct Waiting {
    asked: Asked,
    /// How long its client goes without an answer.
    patience: Duration,
    /// Whose fault it is likely to be if it does not start: the status before, and the code of the close
    /// behind the answer.
    failure: (StatusCode, u16),
}

/// A browser that has shaken hands.
struct Opened {
    stream: Transport,
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
    let mut seat = match own.take_seat().await {
        Ok(seat) => seat,
        Err(why) => return refuse(client, failed(why)).await,
    };
    // Views are added before the proxy can know of the session, so that who is listed can be looked at.
    match (header(&head, PROTOCOL_HEADER).as_deref(), &own.pipes) {
        (Some(CDP), None) => {
            refuse(client, failed("its browser does not speak CDP".to_owned())).await;
        }
        (Some(CDP), Some(pipes)) => {
            let _screen = shared.live_views.add_unseen(&head);
            let asked = pipes.request(&mut seat).await;
            answered(StatusCode::SWITCHING_PROTOCOLS);
            devtools(client, &head, early, asked, stop, seat).await;
        }
        _ => {
            let screen = shared.live_views.add(&head);
            let head = match screen {
                // What is compressed tells nothing of contexts.
                Some(_) => BytesMut::from(&without_header(&head, EXTENSIONS)[..]),
                None => head,
            };
            match open(own, &mut seat, &mut client, &head, &answered).await {
                Ok(Some(opened)) => {
                    drop(head);
                    let over = relay(client, early, opened, stop, screen).await;
                    drop(seat);
                    over.client_gone().await;
                }
                Ok(None) => {}
                Err(answer) => refuse(client, answer).await,
            }
        }
    }
    drop(guard);
}

/// Serves a session that drives its browser by the DevTools protocol, to its end.
async fn devtools(
    mut client: TcpStream,
    head: &[u8],
    early: Bytes,
    asked: oneshot::Receiver<Result<OwnBrowser<Pipe>, String>>,
    stop: oneshot::Receiver<Close>,
    seat: OwnSeat,
) {
    if say_yes(&mut client, head).await.is_ok() {
        let closing = cdp::session(client, early, asked, stop).await;
        drop(seat);
        if let Some(Closing { client, close }) = closing {
            send_last(client, &close).await;
        }
    }
}

/// Passes on what both sides say, to the end of one. Nothing of the session is left then but a client that
/// may have to be waited for.
async fn relay(
    client: TcpStream,
    early: Bytes,
    opened: Opened,
    stop: oneshot::Receiver<Close>,
    screen: Option<(ScreenGuard, Contexts)>,
) -> Over {
    let Opened {
        stream,
        early: said,
        browser,
    } = opened;
    let (stream, screen) = match screen {
        None => (stream, None),
        Some((screen, contexts)) => {
            let shown = Some(ShownBrowser::new(browser.way.clone()));
            let stream = overhear(&screen, shown, contexts, stream, &said);
            (stream, Some(screen))
        }
    };
    let side = |stream, early| Side { stream, early };
    let ends = Ends {
        client: side(Transport::from(client), early),
        worker: side(stream, said),
    };
    let OwnBrowser { broken, held, .. } = browser;
    let (end, ended) = oneshot::channel();
    let told_to_end = async {
        let close = tokio::select! {
            Ok(close) = stop => close,
            Ok(why) = broken => Close::worker_condemned(None, &why),
            else => return pending().await,
        };
        end.send(close).ok();
        pending().await
    };
    let over = tokio::select! {
        over = pass_on(ends, Arc::new(Traffic::new()), ended) => over,
        () = told_to_end => unreachable!("it never ends"),
    };
    // Whoever watches hears that the session has ended, and not that its browser has.
    drop(screen);
    drop(held);
    over
}

/// Gets a browser, and has the client's handshake answered. `None` when the client has gone.
///
/// # Errors
///
/// The answer that is no session.
async fn open(
    own: &OwnSeats,
    seat: &mut OwnSeat,
    client: &mut TcpStream,
    head: &[u8],
    answered: &impl Fn(StatusCode),
) -> Result<Option<Opened>, Answer> {
    let Waiting {
        mut asked,
        patience,
        failure,
    } = request(own, seat, head).await?;
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
        Ok(Ok(Err(why))) => Err(Answer::text(failure.0, why)),
        Ok(Err(_)) => {
            let why = "the worker is ending";
            Err(Answer::text(StatusCode::SERVICE_UNAVAILABLE, why))
        }
        Err(_) => {
            answered(StatusCode::SWITCHING_PROTOCOLS);
            match say_yes(client, head).await {
                Ok(()) => Ok(wait(client, head, asked, failure.1).await),
                Err(_) => Ok(None),
            }
        }
    }
}

/// Asks for the browser that the client wants.
///
/// # Errors
///
/// The answer to launch options that cannot be had here.
async fn request(own: &OwnSeats, seat: &mut OwnSeat, head: &[u8]) -> Result<Waiting, Answer> {
    let is_sound = own.servers.is_sound();
    let ours = (StatusCode::SERVICE_UNAVAILABLE, code::INTERNAL_ERROR);
    // Where browsers do not start, a proxy had better know before its client has an answer.
    let patience = |usual| if is_sound { usual } else { HANDSHAKE };
    let Some(options) = header(head, LAUNCH_HEADER) else {
        return Ok(Waiting {
            asked: own.servers.request(seat).await,
            patience: patience(HANDED_OVER),
            failure: ours,
        });
    };
    let refused = |why: String| Answer::text(StatusCode::BAD_REQUEST, why);
    // Whoever wrote them, nothing else than these can be asked for.
    let options = serde_json::from_str(&options);
    let options = options.map_err(|_| refused("These are no launch options.".to_owned()))?;
    let asked = own.launches.request(seat, options).await;
    Ok(Waiting {
        asked: asked.map_err(|missing| refused(missing.to_string()))?,
        patience: patience(FOUND_OUT),
        failure: match is_sound {
            true => (StatusCode::BAD_REQUEST, code::POLICY),
            false => ours,
        },
    })
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
async fn wait(client: &mut TcpStream, head: &[u8], asked: Asked, failure: u16) -> Option<Opened> {
    // Nothing was agreed on but the plain protocol.
    let head = without_header(head, EXTENSIONS);
    let opened = async {
        let browser = match asked.await {
            Ok(browser) => browser.map_err(|why| (failure, why))?,
            Err(_) => return Err((code::INTERNAL_ERROR, "the worker is ending".to_owned())),
        };
        let shaken = shake(browser, &head).await;
        let (opened, _) = shaken.map_err(|answer| (code::INTERNAL_ERROR, answer.words()))?;
        Ok(opened)
    };
    let opened = tokio::select! {
        opened = opened => opened,
        () = client_gone(client) => return None,
    };
    match opened {
        Ok(opened) => Some(opened),
        Err((code, why)) => {
            let reason = format!("playhouse: the browser did not start: {why}");
            part(client, code, &reason).await;
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
        part(&mut client, code::NORMAL, "").await;
    }
}

/// Closes in order.
async fn part(client: &mut TcpStream, code: u16, reason: &str) {
    let mut close = Vec::new();
    frame::put_close(&mut close, code, reason, false);
    let closing = async {
        client.write_all(&close).await?;
        client.shutdown().await?;
        let mut rest = [0; 1024];
        while client.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Who does not listen misses it.
    timeout(CLOSE_TIMEOUT, closing).await.ok();
}
