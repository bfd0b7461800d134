//! A WebSocket client that can be anybody, and sees exactly what a refusal says.

use super::http::{Answer, read_to_close};
use futures_util::{SinkExt, StreamExt};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role};

/// A connection about to be made.
#[derive(Clone, Debug)]
pub struct Dial {
    address: SocketAddr,
    target: String,
    headers: Vec<(String, String)>,
}

/// An accepted upgrade.
pub struct Connected {
    pub answer: Answer,
    pub socket: WebSocketStream<TcpStream>,
}

/// An upgrade that was answered with something else.
pub type Refusal = Answer;

impl Dial {
    pub fn new(address: SocketAddr) -> Self {
        Dial {
            address,
            target: "/".to_owned(),
            headers: Vec::new(),
        }
    }

    /// Path and query.
    pub fn target(mut self, target: &str) -> Self {
        self.target = target.to_owned();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What Playwright's Python client of this version sends.
    pub fn playwright(self, version: &str) -> Self {
        let agent = format!("Playwright/{version} (x64; debian 12) python/3.11");
        self.header("User-Agent", &agent)
            .header("x-playwright-browser", "chromium")
    }

    /// Asks for the upgrade.
    pub async fn connect(self) -> Result<Connected, Refusal> {
        let mut stream = TcpStream::connect(self.address).await.expect("it listens");
        let mut head = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            self.target, self.address
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream
            .write_all(head.as_bytes())
            .await
            .expect("a request is taken");
        let (mut answer, rest) = read_head(&mut stream).await;
        if answer.status == 101 {
            let socket =
                WebSocketStream::from_partially_read(stream, rest, Role::Client, None).await;
            return Ok(Connected { answer, socket });
        }
        answer.body =
            String::from_utf8_lossy(&rest).into_owned() + &read_to_close(&mut stream).await;
        Err(answer)
    }
}

/// The head of an answer, and the bytes that came after it.
async fn read_head(stream: &mut TcpStream) -> (Answer, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        let mut slots = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut slots);
        if let Ok(httparse::Status::Complete(length)) = response.parse(&bytes) {
            let pairs = response.headers.iter().map(|header| {
                let name: http::HeaderName = header.name.parse().expect("a header name");
                let value = http::HeaderValue::from_bytes(header.value).expect("a header value");
                (name, value)
            });
            let answer = Answer {
                status: response.code.expect("complete"),
                headers: pairs.collect(),
                body: String::new(),
            };
            return (answer, bytes[length..].to_vec());
        }
        let n = stream.read_buf(&mut bytes).await.unwrap_or(0);
        assert!(
            n > 0,
            "closed without an answer after {:?}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

impl Connected {
    /// The session's id, as the grid tells it.
    pub fn session(&self) -> &str {
        let id = self.answer.header("x-playhouse-session");
        id.expect("an accepted upgrade names its session")
    }

    pub async fn send(&mut self, text: &str) {
        let message = Message::text(text);
        self.socket
            .send(message)
            .await
            .expect("the session is open");
    }

    /// The next text; pings and pongs are not seen.
    pub async fn text(&mut self) -> String {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a text was expected, not {other:?}"),
            }
        }
    }

    /// Says something to a server that echoes, and hears it.
    pub async fn echo(&mut self, text: &str) {
        self.send(text).await;
        assert_eq!(self.text().await, text);
    }

    /// Reads until the end, and tells the other side's close frame, if there was one.
    pub async fn closed(&mut self) -> Option<CloseFrame> {
        let mut frame = None;
        while let Some(Ok(message)) = self.socket.next().await {
            if let Message::Close(close) = message {
                frame = close;
            }
        }
        frame
    }

    pub async fn close(mut self) {
        // The other side may have been faster.
        self.socket.close(None).await.ok();
        self.closed().await;
    }
}
