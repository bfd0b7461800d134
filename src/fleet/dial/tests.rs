use super::*;
use crate::model::{Browser, WorkerKey, WorkerRecord};
use std::future::Future;
use tokio::net::TcpListener;

const KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn handshake() -> Handshake {
    Handshake::new(
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n".to_vec(),
        KEY,
    )
}

fn switching(extra: &str) -> String {
    format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n{extra}\r\n")
}

fn target(address: SocketAddr) -> Target {
    Target::new(&WorkerRecord::new(
        WorkerKey::new(Browser::Chromium, "a"),
        format!("ws://{address}/secret-path").parse().unwrap(),
        0,
    ))
}

/// Dials a worker that reads the head and then does what it is told to.
async fn dialled<F: Future<Output = ()>>(
    worker: impl FnOnce(TcpStream) -> F,
) -> Result<Dialled, DialError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = target(listener.local_addr().unwrap());
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        worker(stream).await;
    };
    let handshake = handshake();
    let dialling = dial(&target, &handshake, Duration::from_secs(30));
    tokio::join!(dialling, serving).0
}

async fn answered(answer: &str) -> Result<Dialled, DialError> {
    dialled(async |mut stream| stream.write_all(answer.as_bytes()).await.unwrap()).await
}

#[test]
fn a_head_is_read_at_any_split() {
    let answer = switching("Sec-WebSocket-Accept: abc=\r\nServer: x\r\n");
    for split in 0..answer.len() {
        assert_eq!(Head::parse(&answer.as_bytes()[..split]).unwrap(), None);
    }
    let with_early = format!("{answer}early");
    let head = Head::parse(with_early.as_bytes()).unwrap().unwrap();
    assert_eq!(head.length, answer.len());
    assert_eq!(head.forwarded, b"Sec-WebSocket-Accept: abc=\r\n");
}

#[tokio::test]
async fn announcements_before_the_answer_are_read_over() {
    let good = switching(&format!("Sec-WebSocket-Accept: {ACCEPT}\r\n"));
    for before in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n",
    ] {
        let dialled = answered(&format!("{before}{good}early")).await.unwrap();
        assert_eq!(&dialled.early[..], b"early");
        let forwarded = String::from_utf8(dialled.forwarded).unwrap();
        assert_eq!(forwarded, format!("Sec-WebSocket-Accept: {ACCEPT}\r\n"));
    }
}

#[tokio::test]
async fn announcements_without_end_are_not() {
    let endless = dialled(async |mut stream| {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        while stream.write_all(hints.as_bytes()).await.is_ok() {}
    });
    assert!(matches!(endless.await, Err(DialError::Garbage)));
}

#[tokio::test]
async fn a_wrong_accept_is_the_workers_trouble() {
    let accept = format!("Sec-WebSocket-Accept: {ACCEPT}\r\n");
    for wrong in ["", "Sec-WebSocket-Accept: abc=\r\n", &accept.repeat(2)] {
        let error = answered(&switching(wrong)).await.err().unwrap();
        assert!(matches!(error, DialError::WrongAccept), "{error:?}");
        assert!(matches!(error.classify(), DialFailure::Worker(_)));
    }
}

#[tokio::test]
async fn what_is_about_the_request_is_the_clients_with_the_workers_words() {
    for (length, body) in [("", "Bad key"), ("Content-Length: 7\r\n", "Bad keyrest")] {
        let answer = format!("HTTP/1.1 400 Bad Request\r\n{length}\r\n{body}");
        let failure = answered(&answer).await.err().unwrap().classify();
        let expected = WorkerAnswer::new(400, "Bad key", "");
        assert_eq!(failure, DialFailure::Client(expected));
    }
}

#[tokio::test]
async fn a_refusal_without_an_end_is_told_without_waiting_for_it() {
    let kept_open = dialled(async |mut stream| {
        let head = b"HTTP/1.1 428 Precondition Required\r\n\r\nwords";
        stream.write_all(head).await.unwrap();
        // Until the dial has heard enough.
        stream.read_u8().await.ok();
    });
    let DialFailure::Client(answer) = kept_open.await.err().unwrap().classify() else {
        panic!("it is the client's");
    };
    assert_eq!(
        (answer.status, &answer.words[..]),
        (428, &["words".to_owned()][..])
    );
}

#[tokio::test]
async fn the_workers_troubles_are_the_workers() {
    for answer in [
        "",
        "\0\u{1}\u{2}\r\n\r\n",
        "HTTP/1.1 500 Oops\r\n\r\n",
        "HTTP/1.1 503 Full\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nRunning",
        "HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n",
    ] {
        let failure = answered(answer).await.err().unwrap().classify();
        assert!(matches!(failure, DialFailure::Worker(_)), "{answer:?}");
    }
}

#[test]
fn a_shortage_here_is_ours_and_no_worker_pays() {
    let here: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let of = io::Error::from_raw_os_error;
    for (error, expected) in [
        (DialError::Begin(of(libc::EMFILE)), Shortage::Descriptors),
        (
            DialError::Connect {
                address: here,
                error: of(libc::EADDRNOTAVAIL),
            },
            Shortage::Ports,
        ),
        (DialError::Broken(of(libc::ENOBUFS)), Shortage::Memory),
    ] {
        assert_eq!(error.classify(), DialFailure::Ours(expected));
    }
}

#[test]
fn this_machine_has_an_address_for_itself() {
    assert!(has_local_address("127.0.0.1:1".parse().unwrap()));
}
